"""A request's way, always the same: slot, token, transport, parse; and round again where the retry policy says so."""

import asyncio
import os
import sys
from collections.abc import Awaitable
from typing import Final, TypeVar

import httpx

from oca_sms_async._call import CallOptions, CallState
from oca_sms_async._connections import ExactConnectErrors, own_client
from oca_sms_async._endable import EndableWaits, WaitEndedError
from oca_sms_async._errors import (
    ApiError,
    ClientClosedError,
    ExpiredError,
    OcaSmsError,
)
from oca_sms_async._guarded_limiter import GuardedLimiter
from oca_sms_async._httpx_internals import transport_of
from oca_sms_async._limiter import RateLimiter
from oca_sms_async._requests import HttpRequests
from oca_sms_async._retry import RetryPolicy, load_tenacity, retry
from oca_sms_async._scrub import scrub
from oca_sms_async._statistics import Counts
from oca_sms_async._transport import UnderWay, exchange
from oca_sms_async._waiting import PrioritySemaphore
from oca_sms_async._wire import Api, Request

MAX_IN_FLIGHT: Final = 256
# One slot in so many is kept for interactive sends, or a bulk would hold all of them while it waits for tokens. The
# kept ones are 64: enough for the whole default rate as long as an answer takes less than three seconds.
_KEPT: Final = 4
_LARGE: Final = 2**20

_T = TypeVar("_T")


class Dispatcher:
    """Takes requests to the gateway, at most `MAX_IN_FLIGHT` at once and no more than the limiter lets through."""

    def __init__(
        self,
        api: Api,
        base_url: str,
        *,
        limiter: RateLimiter,
        policy: RetryPolicy,
        lent: httpx.AsyncClient | None,
    ) -> None:
        if not isinstance(lent, httpx.AsyncClient | None):  # an httpx.Client would send, and only then fail
            raise TypeError("http_client must be an httpx.AsyncClient")
        if not isinstance(policy, RetryPolicy):  # as above
            raise TypeError("retry must be a RetryPolicy")
        load_tenacity()
        self._base_url = base_url
        self._limiter = GuardedLimiter(limiter)
        self._policy = policy
        kept = MAX_IN_FLIGHT // _KEPT
        self._slots = PrioritySemaphore(MAX_IN_FLIGHT, kept=kept)
        self.bulk_slots: Final = MAX_IN_FLIGHT - kept
        self.counts = Counts()
        self._owned = lent is None
        self._client = own_client(httpx.URL(base_url)) if lent is None else lent
        self._requests = HttpRequests(api, base_url, lent=lent)
        self._pid: int | None = None  # of the process that first sent
        self._under_way = UnderWay()
        self._waits = EndableWaits()
        self._closed = False

    def __repr__(self) -> str:
        return f"{self._base_url} {'closed' if self._closed else 'open'}"

    def check_open(self) -> None:
        """Raise `ClientClosedError` once there is nothing left to send with."""
        if self._closed:
            raise ClientClosedError("this client is closed")
        if self._client.is_closed:
            raise ClientClosedError("the http_client that was lent to this client is closed")
        if self._is_of_parent():
            raise ClientClosedError(
                "the http_client that was lent to this client was used before a fork: lend each process its own"
            )

    async def aclose(self) -> None:
        """Close the connections, those under a request too, unless they were lent."""
        self._closed = True
        self._waits.end()  # they must not stand before another client's at a limiter that both use
        if self._owned:
            now = asyncio.get_running_loop()
            for bound, loop in self._under_way.items():
                # A request that still connects has nothing yet that could be closed. A request whose time is up ends
                # by itself.
                if loop is now and not bound.expired():
                    bound.reschedule(now.time())
            await self._client.aclose()

    def request(self, request: Request[_T], options: CallOptions, call: CallState) -> Awaitable[_T]:
        """Return the gateway's answer, or raise the one error of the whole call."""
        if options.deadline is not None and options.deadline.has_passed():
            raise ExpiredError("the message has expired already: expires_in or expires_at has passed")
        return retry(self, self._policy, request, options, call)

    async def attempt(self, request: Request[_T], options: CallOptions, call: CallState) -> _T:
        """Make one attempt.

        The slot comes before the token. A request that waited for a connection after its token would start late, and
        a stall of the gateway would end in a burst above the limit.
        """
        outer, loop = sys.exception(), asyncio.get_running_loop()
        self.counts.under_way += 1
        since = loop.time()
        try:
            with await self._slots.acquire(options.priority, options.until):
                try:
                    await self._token(options)
                finally:
                    call.waited += loop.time() - since
                http = await self._prepare(request, options, call)
                self.counts.in_flight += 1
                call.started()
                try:
                    reply = await exchange(
                        self._client,
                        http,
                        options,
                        max_body=request.max_body,
                        under_way=self._under_way,
                        gate=self._start if self._limiter.has_start else None,
                    )
                finally:
                    call.left_wire()
                    self.counts.in_flight -= 1
        except TimeoutError as refusal:  # of a slot or a limiter; exchange raises errors of ours alone
            if isinstance(refusal, OcaSmsError):
                raise
            raise ExpiredError("the message would expire before its turn to be sent") from scrub(refusal, outer)
        finally:
            self.counts.under_way -= 1
        try:
            if reply.body is not None and len(reply.body) > _LARGE:  # a history; nothing else should wait for it
                return await asyncio.to_thread(request.parse, *reply)
            return request.parse(*reply)
        except ApiError as refusal:
            self._limiter.pause_after(refusal)
            raise

    async def _token(self, options: CallOptions) -> None:
        self.check_open()  # it may have been closed while this waited for its slot
        if self._limiter.take_now(options.priority, options.until):
            return
        clock = asyncio.get_running_loop().time
        since = clock()
        try:
            with self._waits.endable():
                await self._limiter.acquire(options.priority, options.until)
        except WaitEndedError:
            self.check_open()
            raise
        finally:
            self.counts.limiter_wait += clock() - since

    async def back_off(self, seconds: float) -> None:
        """Wait between two attempts, unless the client is closed meanwhile."""
        try:
            with self._waits.endable():
                await asyncio.sleep(seconds)
        except WaitEndedError:
            self.check_open()
            raise

    async def _prepare(self, request: Request[_T], options: CallOptions, call: CallState) -> httpx.Request:
        """Return the request that has a token, unless something has changed while it waited."""
        try:
            if call.attempts:
                _check_not_cut(call)
            else:
                await call.before_first_send()
            if self._limiter.has_start:
                await self._start(options)
            self._check_start(options)
            self._pid = self._pid or os.getpid()
            return self._requests.make(request)
        except BaseException:
            self._limiter.give_back()
            raise

    async def _start(self, options: CallOptions) -> None:
        """Return when a request with a token may start; one that a stall has made too late takes another token."""
        while not await self._limiter.start():
            await self._token(options)

    def _check_start(self, options: CallOptions) -> None:
        """Raise the error of a request that must not start any more."""
        self.check_open()
        if options.deadline is not None and options.deadline.has_passed():
            raise ExpiredError("the message expired before its request was started")

    def _is_of_parent(self) -> bool:
        """Tell whether the transport has sent before a fork, and makes no new connections in the child.

        httpx's own would send on a connection of the parent, which could take the answer for one of its own.
        """
        if self._pid is None or self._pid == os.getpid():
            return False
        return not isinstance(transport_of(self._client, self._requests.url("")), ExactConnectErrors)


def _check_not_cut(call: CallState) -> None:
    if call.is_cut and call.last_error is not None:
        raise call.last_error  # cut while it waited in a limiter that does not let itself be cancelled
