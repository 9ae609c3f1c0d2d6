"""The sandbox as users meet it: a gateway that can be served on a socket or called in process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import attrs

from oca_sms_async.sandbox._gateway import Gateway

try:
    from starlette.applications import Starlette

    from oca_sms_async.sandbox._routes import PREFIX, application
    from oca_sms_async.sandbox._serving import listening
except ModuleNotFoundError as missing:
    raise ImportError('The sandbox needs its extra: pip install "oca-sms-async[sandbox]"') from missing


@attrs.define(kw_only=True, eq=False)
class Sandbox(Gateway):
    """An SMS gateway with one account: `username`, `password`, and the `inbox` of what it accepted.

    Its knobs are plain attributes that may be set at construction or at any time afterwards; `ValueError` names one
    with a bad value.

    - The account: `quota` (segments left; None: no limit), `rate_limit` (requests in any second; None: no limit),
      `expired`, `unknown_user`, `template` (a regular expression that the whole text must match), `refused_numbers`
      (any spelling).
    - Faults of sends: `faults` (a probability for each kind), `failing_attempts` (the first so many attempts of each
      message are answered 500 with code 13), `lateness` (seconds, of a late reply), and `when(phone=…).respond(…)`,
      which goes before both until `when(phone=…).forget()`. With a `seed`, what is drawn for a message's nth POST is
      the same in every run.
    - Time: `latency` (seconds before each answer; a message is delivered before they begin), `submitted_for` and
      `sent_for` (seconds of a message's life as `submited`, as the vendor spells it, and as `sent`), `failed_share`
      (of the messages; the others are `delivered` in the end).

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
        """Where the sandbox is served, such as `http://127.0.0.1:43210/api/v1`; `RuntimeError` while it is not."""
        if self._base_url is None:
            raise RuntimeError("The sandbox has a base_url only while it is served: async with sandbox.serve(): ...")
        return self._base_url

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Self]:
        """Serve on a socket for the length of an `async with` block; port 0 is any free one.

        The server runs in the caller's event loop. `RuntimeError` when it is served already, `OSError` when the
        address cannot be had, `ValueError` for a host that cannot be one. The inbox outlives the block.
        """
        if self._base_url is not None:
            raise RuntimeError(f"The sandbox is served already, at {self._base_url}: a second one is Sandbox() again")
        async with listening(self.asgi(), host, port) as origin:
            self._base_url = origin + PREFIX
            try:
                yield self
            finally:
                self._base_url = None

    def asgi(self) -> Starlette:
        """Return the gateway as an ASGI application, for `httpx.ASGITransport`; its paths begin with `/api/v1`.

        A fault that would end the connection is an `httpx.ReadError` there.
        """
        return application(self)
