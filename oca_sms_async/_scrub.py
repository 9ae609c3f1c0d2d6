"""Removing the message from chained causes, and digits from the gateway's words."""

import re
from collections.abc import Iterator
from typing import Final

from oca_sms_async._errors import OcaSmsError

# h11 quotes the bytes that it could not read. The gateway may have echoed a message in them.
_QUOTED_BYTES: Final = re.compile(r"b['\"].*", re.DOTALL)
_DIGIT_RUNS: Final = re.compile(r"\d{4,}")


def mask_digits(text: str) -> str:
    """Star each run of four or more digits: it may be a number or a one-time password."""
    return _DIGIT_RUNS.sub("****", text)


def chain(cause: BaseException, outer: BaseException | None = None) -> Iterator[BaseException]:
    """Yield an exception, its causes, its contexts and the members of groups, each once. `outer` is left out."""
    waiting, seen = [cause], {id(outer)}
    while waiting:
        link = waiting.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [e for e in (link.__cause__, link.__context__) if e is not None]
            waiting += link.exceptions if isinstance(link, BaseExceptionGroup) else ()


def scrub(cause: BaseException, outer: BaseException | None = None) -> BaseException:
    """Remove the message from an exception and its causes, and return it. It is then chained as a cause.

    httpx's exceptions hold the request (body and credentials) or the response. json's hold the whole document. The
    frames of a traceback hold all of these. The text of a protocol error quotes the bytes that could not be read.
    `outer` is the exception that our caller was handling, `sys.exception()` at that time. The chain of causes ends
    there; it belongs to the caller and stays unchanged.
    """
    for link in chain(cause, outer):
        link.__traceback__ = None
        for name in ("_request", "response", "doc"):
            if name in vars(link):
                setattr(link, name, None)
        # OSError's words are the system's, and not only in args. Ours hold no word of the message.
        if not isinstance(link, OSError | OcaSmsError):
            link.args = tuple(mask_digits(_QUOTED_BYTES.sub("…", a)) if isinstance(a, str) else a for a in link.args)
    return cause
