"""The private parts of httpx, httpcore, h11 and anyio that this library reads; no other room reads one.

Each function below says what is lost when a name moves. It then does the safe thing, and logs `transport.guard_lost`
once in a process. `httpx` and `httpcore` are capped in pyproject.toml for the sake of these names.
"""

import asyncio
import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, TypeVar

import httpx

from oca_sms_async._log import log

BOUND: Final = "oca_sms_async.bound"  # an extension of a request: the `asyncio.Timeout` around it

_T = TypeVar("_T")

_HOME: Final = httpx.AsyncClient.aclose.__code__.co_filename


@functools.cache
def report_lost(guard: str) -> None:
    """Log that a guard cannot look any more, once for each guard."""
    log("transport.guard_lost", guard=guard)


def transport_of(client: httpx.AsyncClient, url: httpx.URL) -> httpx.AsyncBaseTransport | None:
    """Return the transport with which a client requests this URL.

    It is asked after a failure only: httpx's own transport proves with `httpx.PoolTimeout` that nothing left.
    When its name moves, a full pool leaves the message in doubt.
    """
    try:
        return client._transport_for_url(url)  # noqa: SLF001 - a client has no public name for it
    except AttributeError:
        report_lost("transport of a request")
        return None


def fill(request: httpx.Request, body: bytes) -> None:
    """Let the body of a request be looked at, as `request.read()` does in 4 µs.

    When the name moves, the request is read.
    """
    request._content = body  # noqa: SLF001 - it has no public name
    try:
        _ = request.content
    except httpx.RequestNotRead:
        request.read()


def is_patched() -> bool:
    """Tell whether a tool like Sentry or respx has replaced a method that each request of a client passes.

    When a name moves, the answer is yes, and each request of `aiohttp_client()` goes the whole way through httpx.
    """
    try:
        methods = (
            httpx.AsyncClient.send,
            httpx.AsyncClient._transport_for_url,  # noqa: SLF001 - respx replaces it
            httpx.AsyncClient._send_single_request,  # noqa: SLF001 - some tracing tools replace it
        )
    except AttributeError:
        report_lost("patches of httpx")
        return True
    return not _are_httpx_own(*methods)


@functools.lru_cache(maxsize=4)
def _are_httpx_own(*methods: object) -> bool:
    return all(isinstance(it, FunctionType) and it.__code__.co_filename == _HOME for it in methods)


def is_silent(transport: httpx.AsyncHTTPTransport) -> bool:
    """Tell whether the one idle connection of a transport still stands and has received nothing after its last answer.

    Later bytes do not answer a request of ours. httpcore looks for them in the socket alone. If they were read together
    with the last answer, it would take them for the next one: the receipt of another message.
    When a name moves, no connection is used twice.
    """
    try:
        links = transport._pool.connections  # noqa: SLF001 - no layer tells in public, here and below
        if len(links) != 1 or links[0].has_expired():
            return False
        return not _has_unread(links[0])
    except AttributeError:
        report_lost("unread bytes")
        return False


def connect_by(transport: httpx.AsyncHTTPTransport, network: Any) -> None:
    """Let a transport connect by this network of httpcore. When the name moves, it keeps its own, and is slow."""
    pool: Any = getattr(transport, "_pool", None)
    if hasattr(pool, "_network_backend"):
        pool._network_backend = network  # noqa: SLF001 - httpx has no option for it
    else:
        report_lost("quick connections")


def replace_stream(connection: Any, make: Callable[[Any, bytes, Any], _T]) -> _T | None:
    """Replace anyio's stream in a connection of httpcore, and return the new one.

    `make` gets the event loop's transport, the bytes that came already, and the attributes of the socket. When a name
    moves, the connection keeps its own, and is slow: then the answer is `None`.
    """
    try:
        stream = connection._stream  # noqa: SLF001 - httpcore has no public way to it, here and below
        transport, early = stream._transport, stream._protocol.read_queue  # noqa: SLF001 - nor has anyio
    except AttributeError:
        report_lost("quick connections")
        return None
    connection._stream = made = make(transport, b"".join(early), stream.extra_attributes)  # noqa: SLF001 - as above
    return made


def stream_within(connection: Any) -> Any:
    """Return the stream of a connection on which `replace_stream` has found it."""
    return connection._stream  # noqa: SLF001 - as above


def end_in_time(transport: httpx.AsyncHTTPTransport) -> None:
    """Let a late request of this transport end by a `TimeoutError`, beneath the tools that trace httpx.

    asyncio's time-out cancels the request, and for OpenTelemetry a cancelled request is no failed one. The request's
    extension `BOUND` tells the two apart. When a name moves, a time-out is no error in traces.
    """
    try:
        pool: Any = transport._pool  # noqa: SLF001 - the transport's own method is the one that tools replace
        _ = type(pool).handle_async_request
    except AttributeError:
        report_lost("time-outs in traces")
        return

    async def handle_in_time(request: Any) -> Any:
        before = _count_cancellations()
        try:
            return await type(pool).handle_async_request(pool, request)  # looked up anew: respx replaces it too
        except asyncio.CancelledError as cancelled:
            bound = request.extensions.get(BOUND)
            if bound is not None and is_late(bound, before):
                raise TimeoutError from cancelled
            raise

    pool.handle_async_request = handle_in_time


def is_late(bound: asyncio.Timeout, before: int) -> bool:
    """Tell whether the bound alone has cancelled a request, since the task was asked to end so many times `before`."""
    return bound.expired() and _count_cancellations() == before + 1


def _count_cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _has_unread(link: Any) -> bool:
    """Tell whether bytes wait in the parser, in TLS, in the loop's own buffer, or in the socket of a stream of ours."""
    while not hasattr(link, "_h11_state"):  # the connection to a proxy wraps the one that speaks HTTP
        link = link._connection  # noqa: SLF001 - as above
    count = len(link._h11_state.trailing_data[0])  # noqa: SLF001 - as above
    stream = link._network_stream._stream  # noqa: SLF001 - as above
    while hasattr(stream, "transport_stream"):  # TLS, and perhaps TLS to a proxy below it
        count += stream._read_bio.pending + stream._ssl_object.pending()  # noqa: SLF001 - as above
        stream = stream.transport_stream
    own = getattr(stream, "has_unread", None)  # `has_expired` has asked the socket of anyio's stream
    return bool(count or (own() if own else stream._protocol.read_queue))  # noqa: SLF001 - as above
