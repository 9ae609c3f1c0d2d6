"""The vendor's four APIs, for tests that go over the wire with each of them."""

from collections.abc import Collection
from typing import Any, Final

import pytest

from oca_sms_async import AsyncOcaSms, RetryPolicy, Unlimited
from oca_sms_async.sandbox import Sandbox

REGULAR: Final = ("regular-v1", "regular-v2")  # these have a history
PREMIUM: Final = ("premium-v1", "premium-v2")  # these have a sender
V2: Final = ("regular-v2", "premium-v2")  # these have a token, and codes of their own


def over(apis: Collection[str]) -> pytest.MarkDecorator:
    """Return a mark for a test: the fixture `api`, and with it each client, is each of these in turn."""
    return pytest.mark.parametrize("api", apis, indirect=True)


each_api: Final = over([*REGULAR, *PREMIUM])
each_api_with_history: Final = over(REGULAR)


def connect(sandbox: Sandbox, api: str, **options: Any) -> AsyncOcaSms:
    """Return a client of a sandbox by one API, without a limit and without back-off unless told otherwise."""
    defaults: dict[str, Any] = {"limiter": Unlimited(), "retry": RetryPolicy(initial_wait=0, max_wait=0)}
    return AsyncOcaSms.from_env(sandbox.environment(api), **(defaults | options))
