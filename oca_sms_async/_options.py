"""The options of a client: their types, for its constructor and for `from_env`, and their variables."""

from collections.abc import Mapping
from typing import Any, TypedDict

import httpx

from oca_sms_async._journal import Journal
from oca_sms_async._limiter import RateLimiter
from oca_sms_async._observing import Observer
from oca_sms_async._retry import RetryPolicy
from oca_sms_async._settings import Environment, read_switch
from oca_sms_async._wire import Api


class ClientOptions(TypedDict, total=False):
    """The options of `AsyncOcaSms` beside its account."""

    base_url: str | None
    limiter: RateLimiter | None
    retry: RetryPolicy
    timeout: float
    http_client: httpx.AsyncClient | None
    allow_http: bool
    region: str
    journal: Journal | None
    observer: Observer | None


class EnvironmentOptions(ClientOptions, total=False):
    """The options of `AsyncOcaSms.from_env`: an account, or a part of one, can be given too."""

    api: Api
    username: str
    password: str
    token: str
    sender_id: str


def options_from(environ: Environment, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's options out of the environment and those given, which win; `ValueError` names a variable."""
    known = {"api", *ClientOptions.__annotations__}
    found = {name: value for name, value in options.items() if name in known}
    if "api" not in options:
        from oca_sms_async._wire._environment import api_from_env  # noqa: PLC0415 - it imports the rooms of all APIs

        found["api"] = api_from_env(environ, {name: options[name] for name in options.keys() - known})
    if "base_url" not in options:
        found["base_url"] = environ.get("OCA_SMS_BASE_URL")
    if "allow_http" not in options and (word := environ.get("OCA_SMS_ALLOW_HTTP")):
        found["allow_http"] = read_switch("OCA_SMS_ALLOW_HTTP", word)
    return found
