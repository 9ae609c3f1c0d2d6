"""The events of the logger `oca_sms_async`: few, with stable names, and without secrets in their fields.

| event | level | fields | when |
| --- | --- | --- | --- |
| `send.retry` | INFO | phone, attempt, wait, error, status, code | an attempt failed; after the wait comes the next |
| `send.cancelled` | WARNING | phone, attempt | a send was cancelled whose message may have been sent |
| `lookup.retry` | INFO | attempt, wait, error, status, code | as `send.retry`, of `status` or `history` |
| `history.broken` | WARNING | broken, rows | rows of the history cannot be read, and were skipped |
| `limiter.paused` | WARNING | wait, error, status, code | the gateway's rate limit: no request starts meanwhile |
| `limiter.failed` | WARNING | reason | a limiter raised an exception when it was told to pause |
| `limiter.fallback` | WARNING | limiter | the server of a shared limit is away, and the fallback decides |
| `limiter.restored` | INFO | limiter | the server is back, and decides again |
| `bulk.stopped` | WARNING | pulled, error, status, code | a bulk stopped by itself; `stopped_by` has the error |
| `observer.failed` | WARNING | reason | the observer of a client raised an exception |
| `journal.doubtful` | WARNING | journal, doubtful | a journal was opened in which an earlier run left doubt |
| `journal.unprotected` | WARNING | journal | other users can read a journal, and its folder refuses to change that |
| `queue.paused` | WARNING | queue, wait, error, status, code | a worker pauses: the trouble is no message's |
| `queue.interrupted` | WARNING | queue, reason | a worker lost its database, and begins anew when it is back |
| `queue.recovered` | WARNING | queue, messages | messages of dead workers went back to the queue |
| `transport.guard_lost` | WARNING | guard | a check relies on a private name of httpx or aiohttp that is gone |

Each field is an attribute of the record; `record.event` is the name. The record's message is the name, the fields and a
sentence. `phone` shows three digits. `attempt` is the number of the next request, or of the last one. `wait` is in
seconds. `error` is the name of a class; `status` (HTTP) and `code` follow it if the gateway refused. `limiter` and
`queue` are names, and `journal` is a path. `reason` is the name of a class. `pulled`, `doubtful` and `messages` count
messages. `broken` and `rows` count rows.
"""

import contextlib
import logging
import traceback
from typing import Final

from oca_sms_async._errors import ApiError, OcaSmsError, safe_code
from oca_sms_async._phone import mask_phone

EVENTS: Final = {
    "send.retry": (logging.INFO, "tried again after the wait"),
    "send.cancelled": (logging.WARNING, "the message may have been sent"),
    "lookup.retry": (logging.INFO, "tried again after the wait"),
    "history.broken": (logging.WARNING, "the other rows are used"),
    "limiter.paused": (logging.WARNING, "the gateway asks to wait"),
    "limiter.failed": (logging.WARNING, "the limiter does not pause"),
    "limiter.fallback": (logging.WARNING, "the fallback decides until the server is back"),
    "limiter.restored": (logging.INFO, "the server is back"),
    "bulk.stopped": (logging.WARNING, "nothing more is pulled"),
    "observer.failed": (logging.WARNING, "the observer is told of the next send again"),
    "journal.doubtful": (logging.WARNING, "an earlier run left messages in doubt"),
    "journal.unprotected": (logging.WARNING, "other users can read it"),
    "queue.paused": (logging.WARNING, "no message is sent meanwhile"),
    "queue.interrupted": (logging.WARNING, "the worker begins anew"),
    "queue.recovered": (logging.WARNING, "their workers gave no sign of life"),
    "transport.guard_lost": (logging.WARNING, "a private name has moved: the safe way is taken instead"),
}

_logger: Final = logging.getLogger("oca_sms_async")


def log(event: str, *, phone: str | None = None, error: OcaSmsError | None = None, **fields: object) -> None:
    """Log an event with its fields. A number is masked, and an error is named without its words."""
    level, sentence = EVENTS[event]
    if not _logger.isEnabledFor(level):
        return
    shown: dict[str, object] = {} if phone is None else {"phone": mask_phone(phone)}
    shown |= fields
    if error is not None:
        shown["error"] = type(error).__name__
    if isinstance(error, ApiError):
        shown |= {"status": error.status_code, "code": safe_code(error.code)}
    # The template of an event is always the same, so that log services can group records by it.
    template = f"{event} {' '.join(f'{name}=%s' for name in shown)}: {sentence}"
    try:
        _logger.log(level, template, *shown.values(), extra={"event": event, **shown}, stacklevel=2)
    except Exception:  # noqa: BLE001 - a handler that raises must not change the end of a send
        if logging.raiseExceptions:  # as logging itself tells of a handler that fails
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed
                traceback.print_exc()
