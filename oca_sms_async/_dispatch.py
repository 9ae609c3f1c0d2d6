"""A request's way, always the same: slot, limiter, transport, parse; and round again where the retry policy says so."""

import asyncio
import functools
import sys
from collections.abc import Awaitable
from typing import Final, TypeVar

import httpx

from oca_sms_async._connections import own_client
from oca_sms_async._errors import ApiError, ExpiredError, RateLimitedError
from oca_sms_async._lanes import Slots
from oca_sms_async._limiter import RateLimiter
from oca_sms_async._log import log
from oca_sms_async._retry import Call, RetryPolicy, repeated
from oca_sms_async._scrub import scrub
from oca_sms_async._statistics import Counts
from oca_sms_async._transport import UnderWay, exchange
from oca_sms_async._version import __version__
from oca_sms_async._wire import Request

MAX_IN_FLIGHT: Final = 256
_LARGE: Final = 2**20
_PAUSE: Final = 1.0  # seconds, where the gateway refuses by its rate limit and does not say for how long

_T = TypeVar("_T")


class Dispatcher:
    """Takes requests to the gateway, at most `MAX_IN_FLIGHT` at once and no more than the limiter lets through."""

    def __init__(
        self,
        base_url: str,
        *,
        authorization: str,
        limiter: RateLimiter,
        retry: RetryPolicy,
        lent: httpx.AsyncClient | None,
    ) -> None:
        if not isinstance(lent, httpx.AsyncClient | None):  # an httpx.Client would send, and only then fail
            raise TypeError("http_client must be an httpx.AsyncClient")
        if not isinstance(retry, RetryPolicy):  # as above
            raise TypeError("retry must be a RetryPolicy")
        self._base_url = base_url
        self._limiter = limiter
        self._retry = retry
        self._slots = Slots(MAX_IN_FLIGHT)
        self.counts = Counts()
        self._owned = lent is None
        self._client = own_client(httpx.URL(base_url)) if lent is None else lent
        # What a lent client always sends goes with ours.
        ours = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "Authorization": authorization,
            "User-Agent": f"oca-sms-async/{__version__}",
        }
        ours["Host"] = httpx.URL(base_url).netloc.decode("ascii")
        self._headers = httpx.Headers({**(lent.headers if lent else {}), **httpx.Headers(ours)}).raw
        self._url = functools.lru_cache(maxsize=8)(lambda path: httpx.URL(base_url + path))
        self._under_way = UnderWay()
        self._closed = False

    def __repr__(self) -> str:
        return f"{self._base_url} {'closed' if self._closed else 'open'}"

    def check_open(self) -> None:
        """Raise `RuntimeError` once there is nothing left to send with."""
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._client.is_closed:
            raise RuntimeError("the http_client that was lent to this client is closed")

    async def aclose(self) -> None:
        """Close the connections, those under a request too, unless they were lent."""
        self._closed = True
        if not self._owned:
            return
        now = asyncio.get_running_loop()
        for bound, loop in self._under_way.items():
            # One that still connects has nothing yet that could be closed; one whose time is up ends by itself.
            if loop is now and not bound.expired():
                bound.reschedule(now.time())
        await self._client.aclose()

    async def request(self, request: Request[_T], call: Call, *, seconds: float) -> _T:
        """Return what the gateway answers, each attempt within `seconds`; or raise the one error of the whole call."""
        return await repeated(lambda: self._attempt(request, call, seconds), policy=self._retry, call=call)

    async def _attempt(self, request: Request[_T], call: Call, seconds: float) -> _T:
        await self._turn(call)
        try:
            if not call.attempts:
                await call.admit()
            elif call.last_attempt and call.last is not None:
                raise call.last  # stopped while it waited, by a limiter that did not let itself be cancelled
            self.check_open()
            if call.deadline is not None and asyncio.get_running_loop().time() >= call.deadline:
                raise ExpiredError("the message expired before its request was started")
            call.attempts += 1
            call.on_wire = True
            self.counts.in_flight += 1
            reply = await exchange(
                self._client,
                self._http(request),
                seconds=seconds,
                deadline=call.deadline,
                max_body=request.max_body,
                under_way=self._under_way,
            )
        except asyncio.CancelledError:
            call.doubt = call.doubt or call.on_wire
            raise
        finally:
            self.counts.in_flight -= call.on_wire
            call.on_wire = False
            self._slots.release()
        try:
            if reply.body is not None and len(reply.body) > _LARGE:  # a history; nobody else should wait for it
                return await asyncio.to_thread(request.parse, *reply)
            return request.parse(*reply)
        except ApiError as refusal:
            if refusal.status_code == 429 or isinstance(refusal, RateLimitedError):
                pause = refusal.retry_after or _PAUSE
                log("limiter.paused", wait=pause, error=refusal)
                self._limiter.pause(pause)
            raise

    async def _turn(self, call: Call) -> None:
        """Return with a slot, to be given back, and a token.

        The slot comes first: nothing may wait for a connection once it has its token, or a stall of the gateway would
        end in a burst above the limit.
        """
        clock = asyncio.get_running_loop().time
        self.counts.waiting += 1
        try:
            await _in_time(self._slots.acquire(call.priority, call.deadline))
            since = clock()
            try:
                await _in_time(self._limiter.acquire(priority=call.priority, deadline=call.deadline))
            except BaseException:
                self._slots.release()
                raise
            finally:
                self.counts.limiter_wait += clock() - since
        finally:
            self.counts.waiting -= 1

    def _http(self, request: Request[_T]) -> httpx.Request:
        """Return a request whose headers are complete already; httpx would put them together anew each time."""
        headers = list(self._headers)
        if request.body is not None:
            headers += [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(request.body))]
        http = httpx.Request(
            request.method, self._url(request.path), headers=headers, stream=httpx.ByteStream(request.body or b"")
        )
        http.read()  # else its content could not be looked at
        return http


async def _in_time(turn: Awaitable[None]) -> None:
    """Wait for a turn; the `TimeoutError` with which slots and limiters refuse becomes the library's own."""
    outer = sys.exception()
    try:
        await turn
    except TimeoutError as refusal:
        raise ExpiredError("the message would expire before its turn to be sent") from scrub(refusal, outer)
