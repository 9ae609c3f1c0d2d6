"""The table of faults: each thing that can go wrong with a request, and how the client ends it.

`python tests/faults.py` writes it into `docs/faults.md`; `tests/test_faults.py` holds the client to it.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial
from itertools import groupby
from typing import Final

import misbehaviours as does
from attrs import frozen
from documents import DOCS, read
from raw_gateway import Behaviour, Connection, http
from troubles import (
    AnotherHost,
    Deafness,
    ExpiredCertificate,
    FullBacklog,
    Greeting,
    HandshakeWithoutEnd,
    Misbehaviour,
    NamelessHost,
    Refusal,
    SilentNameServer,
    Trouble,
    UnknownAuthority,
)

from oca_sms_async import (
    ApiError,
    ConnectionFailedError,
    DeliveryUnknownError,
    InternalError,
    OcaSmsError,
    RateLimitedError,
    UnexpectedResponseError,
)

PAGE: Final = DOCS / "faults.md"
BEGIN: Final = "<!-- faults: written by tests/faults.py -->"
END: Final = "<!-- end of faults -->"
HEADINGS: Final = ("while", "what happens", "error", "may have been sent", "requests on the wire")


class Link(Enum):
    """The connection before the fault: a new one, or one that has served a request."""

    NEW = "new"
    KEPT = "kept"


class End(Enum):
    """The end of a call. Unless it is an answer, `doubt` tells whether a message may have been sent."""

    UNSENT = (ConnectionFailedError, False)
    UNKNOWN = (DeliveryUnknownError, True)
    UNEXPECTED = (UnexpectedResponseError, True)
    INTERNAL = (InternalError, True)
    OUTAGE = (ApiError, True)
    REFUSED = (RateLimitedError, False)
    ANSWERED = (None, False)

    def __init__(self, error: type[OcaSmsError] | None, doubt: bool) -> None:
        self.error = error
        self.doubt = doubt


@frozen
class Fault:
    """One row: if `what` happens at the moment of `during`, the call ends in `end`, and the gateway read `requests`.

    `trouble` makes it happen, to the connections of `links`. `timed_out` is True if only the time-out ends the attempt,
    `floods` if the answer is too large to be held in memory. `on_aiohttp` is the end on that transport, if it differs.
    """

    during: str
    what: str
    trouble: Callable[[], Trouble]
    end: End = End.UNKNOWN
    requests: int = 1
    links: tuple[Link, ...] = (Link.NEW, Link.KEPT)
    timed_out: bool = False
    floods: bool = False
    on_aiohttp: End | None = None

    def end_on(self, transport: str) -> End:
        """Return how the call ends on this transport."""
        return self.on_aiohttp if self.on_aiohttp and transport == "aiohttp" else self.end


def _fault_connecting(what: str, trouble: Callable[[], Trouble], *links: Link, timed_out: bool = False) -> Fault:
    """Return a row in which no connection comes about, so that nothing is sent."""
    return Fault("connecting", what, trouble, End.UNSENT, requests=0, links=links or (Link.NEW,), timed_out=timed_out)


def _fault_reusing(what: str, before: Behaviour, end: End, *, requests: int) -> Fault:
    """Return a row in which `before` closes the connection between one request and the next."""
    trouble = partial(Misbehaviour, does.answer, before=before)
    return Fault("using a connection again", what, trouble, end, requests=requests, links=(Link.KEPT,))


def _fault_writing(what: str, trouble: Callable[[], Trouble], *, timed_out: bool = False) -> Fault:
    """Return a row in which the gateway reads no request."""
    return Fault("writing the request", what, trouble, requests=0, links=(Link.NEW,), timed_out=timed_out)


def _fault_waiting(what: str, behaviour: Behaviour, *, timed_out: bool = False) -> Fault:
    """Return a row in which the gateway has the request and sends no complete head of an answer."""
    return Fault("waiting for the answer", what, partial(Misbehaviour, behaviour), timed_out=timed_out)


def _fault_reading(
    what: str,
    behaviour: Behaviour,
    end: End = End.UNKNOWN,
    *,
    timed_out: bool = False,
    floods: bool = False,
    on_aiohttp: End | None = None,
) -> Fault:
    """Return a row in which the head of an answer has come."""
    trouble = partial(Misbehaviour, behaviour)
    return Fault("reading the answer", what, trouble, end, timed_out=timed_out, floods=floods, on_aiohttp=on_aiohttp)


def _fault_answered(what: str, answer: bytes, end: End, *, requests: int = 1) -> Fault:
    """Return a row in which the gateway, or a proxy before it, refuses each request."""

    async def refuse(connection: Connection) -> None:
        await connection.write(answer)

    return Fault("being answered", what, partial(Misbehaviour, refuse), end, requests=requests)


_INTERNAL = http({"errors": [{"code": 13, "message": "Internal Error"}]}, "500 Internal Server Error")
_TOO_MANY = http({"errors": [{"code": 9, "message": "Too Many Request"}]}, "429 Too Many Requests")
_HTML = http(b"<html>Bad Gateway</html>", "502 Bad Gateway", "content-type: text/html\r\n")
_BAD_CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"

FAULTS: Final = (
    _fault_connecting("refused", Refusal),
    _fault_connecting("unknown host", NamelessHost),
    _fault_connecting("certificate of another host", AnotherHost),
    _fault_connecting("expired certificate", ExpiredCertificate),
    _fault_connecting("unknown authority", UnknownAuthority),
    _fault_connecting("time-out of the name server", SilentNameServer, timed_out=True),
    _fault_connecting("time-out of the connection", FullBacklog, timed_out=True),
    _fault_connecting("time-out of the TLS handshake", HandshakeWithoutEnd, Link.NEW, Link.KEPT, timed_out=True),
    _fault_reusing("FIN before it", does.answer_and_hang_up, End.ANSWERED, requests=1),
    _fault_reusing("reset before it", does.answer_and_reset, End.ANSWERED, requests=1),
    _fault_reusing("FIN at that very moment", does.answer_and_leave_at_the_next, End.UNKNOWN, requests=0),
    _fault_writing("reset", partial(Greeting, does.reset)),
    _fault_writing("time-out, nobody reads", Deafness, timed_out=True),
    _fault_waiting("FIN", does.hang_up),
    _fault_waiting("reset", does.reset),
    _fault_waiting("time-out", does.say_nothing, timed_out=True),
    _fault_waiting("a byte a second", does.drip_head, timed_out=True),
    _fault_waiting("half a status line", does.says(b"HTTP/1.1 20")),
    _fault_waiting("no HTTP", does.says(b"\x00\x01\x02 garbage\r\n\r\n")),
    _fault_waiting("a header of 1 MB", does.answer_with_a_long_header),
    _fault_waiting("1 MB of headers", does.answer_with_many_headers),
    _fault_reading("reset", does.reset_in_the_body),
    _fault_reading("time-out", does.stall_in_the_body, timed_out=True),
    _fault_reading("a byte a second", does.drip_body, timed_out=True),
    _fault_reading("shorter than its Content-Length", does.promise_too_much),
    _fault_reading("bad chunks", does.says(_BAD_CHUNKS)),
    _fault_reading("200 MB", does.answer_at_length, End.UNEXPECTED, floods=True),
    _fault_reading("gzip bomb of 1 GB", does.answer_with_a_bomb, End.UNEXPECTED, floods=True),
    _fault_reading("broken gzip", does.answer_broken_gzip, End.UNEXPECTED),
    _fault_reading("longer than its Content-Length", does.promise_too_little, End.UNEXPECTED, on_aiohttp=End.UNKNOWN),
    _fault_reading("gzip", does.answer_compressed, End.ANSWERED),
    _fault_reading("100 Continue before it", does.answer_after_informing, End.ANSWERED),
    _fault_reading("a second answer with it", does.answer_twice, End.ANSWERED),
    _fault_reading("a second answer after it", does.answer_twice_in_two_pieces, End.ANSWERED),
    _fault_answered("HTTP 500 with code 13, each time", _INTERNAL, End.INTERNAL, requests=4),
    _fault_answered("HTTP 502 of a proxy, in HTML", _HTML, End.OUTAGE),
    _fault_answered("HTTP 429", _TOO_MANY, End.REFUSED),
)


def table() -> str:
    """Return the rows in Markdown, with those of the same end in one line."""

    def alike(fault: Fault) -> tuple[str, ...]:
        end = f"`{fault.end.error.__name__}`" if fault.end.error else "none: the answer is taken"
        if fault.on_aiohttp and fault.on_aiohttp.error:
            end += f"; on aiohttp `{fault.on_aiohttp.error.__name__}`"
        sent = "—" if fault.end is End.ANSWERED else "**yes**" if fault.end.doubt else "no"
        return fault.during, end, sent, str(fault.requests)

    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    for (during, *end), faults in groupby(FAULTS, key=alike):
        lines.append((during, "; ".join(fault.what for fault in faults), *end))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def replace_table(text: str) -> str:
    """Return the page with this table in the place of its own."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(replace_table(read(PAGE)), encoding="utf-8")
