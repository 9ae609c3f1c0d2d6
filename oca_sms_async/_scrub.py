"""Exceptions and texts without the message: for chained causes, and for the gateway's words."""

import re
from collections.abc import Iterator
from typing import Final

# h11 quotes the bytes that it could not read. A gateway may have echoed a message in them.
_QUOTED_BYTES: Final = re.compile(r"b['\"].*", re.DOTALL)
_DIGIT_RUNS: Final = re.compile(r"\d{4,}")


def mask_digits(text: str) -> str:
    """Return a text in which each run of four or more digits is starred: it may be a number or a one-time password."""
    return _DIGIT_RUNS.sub("****", text)


def chain(cause: BaseException, outer: BaseException | None = None) -> Iterator[BaseException]:
    """Yield an exception and all that it came from, those in groups included, each once; `outer` is not looked at."""
    waiting, seen = [cause], {id(outer)}
    while waiting:
        link = waiting.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [e for e in (link.__cause__, link.__context__) if e is not None]
            waiting += link.exceptions if isinstance(link, BaseExceptionGroup) else ()


def scrub(cause: BaseException, outer: BaseException | None = None) -> BaseException:
    """Return an exception, to be chained as a cause, freed of all that it and its own causes hold of the message.

    httpx's hold the request (body and credentials) or the response, json's the whole document, a traceback's frames
    all of it, and the text of a protocol error the bytes that could not be read. `outer` is what our caller was
    handling when it called, `sys.exception()` of then: the causes lead there in the end, and it stays as it is.
    """
    for link in chain(cause, outer):
        link.__traceback__ = None
        for name in ("_request", "response", "doc"):
            if name in vars(link):
                setattr(link, name, None)
        if not isinstance(link, OSError):  # these say only what the system said, and keep it elsewhere than in args
            link.args = tuple(mask_digits(_QUOTED_BYTES.sub("…", a)) if isinstance(a, str) else a for a in link.args)
    return cause
