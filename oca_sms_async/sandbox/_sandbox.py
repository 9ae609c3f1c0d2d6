"""The sandbox as users meet it: a gateway that can be served on a socket or called in process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, Self

import attrs

from oca_sms_async.sandbox._answers import Answer
from oca_sms_async.sandbox._api import Api
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._premium_v1 import PREMIUM_V1
from oca_sms_async.sandbox._premium_v2 import PREMIUM_V2
from oca_sms_async.sandbox._regular_v1 import REGULAR_V1
from oca_sms_async.sandbox._regular_v2 import REGULAR_V2
from oca_sms_async.sandbox._service import Service

try:
    from starlette.applications import Starlette

    from oca_sms_async.sandbox._routes import build_application
    from oca_sms_async.sandbox._serving import listen
except ModuleNotFoundError as missing:
    raise ImportError('The sandbox needs its extra: pip install "oca-sms-async[sandbox]"') from missing

_APIS: Final[Mapping[str, Api]] = {api.name: api for api in (REGULAR_V1, REGULAR_V2, PREMIUM_V1, PREMIUM_V2)}


@attrs.define(kw_only=True, eq=False)
class Sandbox(Gateway):
    """An SMS gateway with one account: `username`, `password`, and the `inbox` of accepted messages.

    It serves all four of the vendor's APIs at once: `regular-v1`, `regular-v2`, `premium-v1` and `premium-v2`. The V2
    APIs take a `token`, the Premium APIs send as `sender_id`. Inbox, quota, limit and faults are the same for all.

    Its knobs are plain attributes, to be set at construction or at any time afterwards. `ValueError` names one with a
    bad value.

    - The account: `quota` (segments left; `None`: no limit), `rate_limit` (requests in any second; `None`: no limit),
      `expired`, `unknown_user`, `template` (a regular expression that the whole text must match), `refused_numbers`
      (any spelling).
    - Faults of sends: `faults` (a probability for each kind), `failing_attempts` (so many attempts of each message, the
      first, are answered 500 with code 13), `lateness` (seconds, of a late reply), and `when(phone=…).respond(…)`,
      which goes before both until `when(phone=…).forget()`. With a `seed`, the draw for a message's nth POST is the
      same in every run.
    - Time: `latency` (seconds before each answer; a message is delivered before they begin), `submitted_for` and
      `sent_for` (seconds of a message's life as `submited`, as the vendor spells it, and as `sent`), `failed_share`
      (of the messages; the others are `delivered` in the end).
    - The network: `allowed_hosts` (names that a request's `Host` may have beside addresses, localhost and the name of
      the served sandbox).

    The kinds, all in `FAULTS`. Refused as the gateway documents: `internal-error` (500 with code 13),
    `invalid-credentials` (17), `missing-authorization` (19), `invalid-request` (39), `unknown-user` (41),
    `account-expired` (51), `quota-exhausted` (55), `rate-limited` (429 with V2's headers). Refused otherwise:
    `success-with-errors` (200 with an error in it), `html` (a proxy's 502), `reset` (of the connection, before an
    answer). Accepted, and then: `accept-then-drop` (the connection ends), `truncated-body` (half of the receipt, then
    its end), `late-reply`, `slow-drip` (the receipt at a byte a second).
    """

    _base_url: str | None = attrs.field(init=False, default=None)

    @property
    def base_url(self) -> str:
        """The base URL, like `http://127.0.0.1:43210/api/v1`; `RuntimeError` while the sandbox is not served."""
        if self._base_url is None:
            raise RuntimeError("The sandbox has a base_url only while it is served: async with sandbox.serve(): ...")
        return self._base_url

    def url_of(self, api: str) -> str:
        """Return the base URL of one API, like `premium-v2`; `ValueError` for an unknown API.

        `RuntimeError` while the sandbox is not served.
        """
        return self.base_url.removesuffix(REGULAR_V1.prefix) + _find_api(api).prefix

    def environment(self, api: str = REGULAR_V1.name) -> dict[str, str]:
        """Return the variables that `AsyncOcaSms.from_env` needs to use one API of the served sandbox."""
        return _find_api(api).variables(self) | {"OCA_SMS_BASE_URL": self.url_of(api)}

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Self]:
        """Serve on a socket for the length of an `async with` block; port 0 is any free one.

        The server runs in the caller's event loop. `RuntimeError` if it is served already, `OSError` if the address
        cannot be had, `ValueError` for an impossible host. The inbox outlives the block.
        """
        if self._base_url is not None:
            raise RuntimeError(f"The sandbox is served already, at {self._base_url}: a second one is Sandbox() again")
        async with listen(self.asgi(), host, port) as origin:
            self._base_url = origin + REGULAR_V1.prefix
            try:
                yield self
            finally:
                self._base_url = None

    def asgi(self) -> Starlette:
        """Return the gateway as an ASGI application, for `httpx.ASGITransport`. V1's paths begin with `/api/v1`.

        A fault that would end the connection is an `httpx.ReadError` there.
        """
        return build_application(self, [self._service(api) for api in _APIS.values()])

    def send(self, authorization: str | None, content_type: str | None, body: bytes) -> Answer:
        """Answer `POST /sms` without HTTP."""
        return self._service(REGULAR_V1).send(authorization, content_type, body)

    def history(self, authorization: str | None) -> Answer:
        """Answer `GET /sms` without HTTP."""
        return self._service(REGULAR_V1).history(authorization)

    def detail(self, authorization: str | None, msg_uid: str) -> Answer:
        """Answer `GET /sms/status/{msg_uid}` without HTTP."""
        return self._service(REGULAR_V1).status(authorization, msg_uid)

    def _service(self, api: Api) -> Service:
        return Service(api, self, self._scripts)


def _find_api(name: str) -> Api:
    if name not in _APIS:
        raise ValueError(f"there is no such API: it must be one of {', '.join(_APIS)}")
    return _APIS[name]
