"""The end of a command: its exit status, and for each error one line that says if the message may have been sent."""

import contextlib
from collections.abc import Iterator
from enum import IntEnum
from signal import Signals
from typing import Final

from oca_sms_async import (
    AccountError,
    ApiError,
    ConnectionFailedError,
    InvalidMessageError,
    InvalidRequestError,
    JournalError,
    LimiterUnavailableError,
    NotFoundError,
    OcaSmsError,
    UnsupportedError,
)
from oca_sms_async.cli._signals import describe_signal, find_signal

_LOOK_IT_UP: Final = "look it up with `oca-sms history` before you send it again"
_ASK_THE_VENDOR: Final = "this API has no history, so ask the vendor before you send it again"
_NAME_LENGTH: Final = 40
# The library proposes arguments of its own. And a second journal for the same file would send every message twice.
_COMMAND_WORDS: Final = {
    "reconcile, or resend_unknown=True sends it again": "--reconcile looks it up, --resend-unknown sends it again",
    "await setup() makes them": "`oca-sms queue setup` makes them",
    ": wait for its end, or give this one a journal of its own": ": wait for its end",
}


class ExitStatus(IntEnum):
    """The exit statuses for scripts.

    `USAGE` proves that nothing was sent. `STOPPED` proves it for a single message; a bulk may have sent some before.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class CommandError(Exception):
    """The command ends here, with this line and this exit status."""

    def __init__(self, line: str, status: ExitStatus) -> None:
        super().__init__(line)
        self.status = status


@contextlib.contextmanager
def before_sending() -> Iterator[None]:
    """Add «not sent» to each error of this block."""
    try:
        yield
    except CommandError as error:
        raise CommandError(f"not sent: {error}", error.status) from error
    except KeyboardInterrupt as interruption:
        raise end_by_signal(find_signal(interruption), before="not sent: ") from None


@contextlib.contextmanager
def while_sending(*, has_history: bool = True) -> Iterator[None]:
    """Add to each error of this block whether the message may have been sent, and how to find out."""
    advice = _LOOK_IT_UP if has_history else _ASK_THE_VENDOR
    try:
        yield
    except OcaSmsError as error:
        raise _describe(error, advice) from error
    except KeyboardInterrupt as interruption:
        # A cancelled send gives no answer, so no more exact sentence is possible.
        line = f": if a request was under way, the message may have been sent; {advice}"
        raise end_by_signal(find_signal(interruption), after=line) from None


@contextlib.contextmanager
def while_asking(*, for_message: bool = False) -> Iterator[None]:
    """Turn each error of this block into a line; the block sends nothing.

    With `for_message` it asks for one message, which the gateway may not know.
    """
    try:
        yield
    except NotFoundError as error:
        raise CommandError(str(error) if for_message else explain(error), _find_status(error)) from error
    except OcaSmsError as error:
        raise CommandError(explain(error), _find_status(error)) from error
    except ValueError as error:  # an argument that the library refused before any request
        raise CommandError(str(error), ExitStatus.USAGE) from error


def end_by_signal(number: Signals, *, before: str = "", after: str = "") -> CommandError:
    """Return the end of a command by a signal, with words before and after those about the signal."""
    return CommandError(f"{before}{describe_signal(number)}{after}", ExitStatus(128 + number))


def explain(error: Exception) -> str:
    """Return an error's sentence in the words of the command, with a hint where the address may be wrong."""
    sentence = str(error)
    for words, command_words in _COMMAND_WORDS.items():
        sentence = sentence.replace(words, command_words)
    # The gateway answers with a code of its own. Without a code, another server's page was not found.
    is_elsewhere = isinstance(error, ApiError) and error.status_code == 404 and error.code is None
    return f"{sentence}; is base_url complete? It comes from OCA_SMS_BASE_URL" if is_elsewhere else sentence


def _describe(error: OcaSmsError, advice: str) -> CommandError:
    reason = (
        f"{explain(error)}{_name_fields(error)}{f', after {error.attempts} attempts' if error.attempts > 1 else ''}"
    )
    if error.may_have_been_sent:
        return CommandError(f"may have been sent: {reason}; {advice}", ExitStatus.FAILED)
    return CommandError(f"not sent: {reason}", _find_status(error))


def _find_status(error: OcaSmsError) -> ExitStatus:
    match error:
        case InvalidMessageError() | JournalError() | UnsupportedError():
            return ExitStatus.USAGE
        case AccountError() | ConnectionFailedError() | LimiterUnavailableError():
            return ExitStatus.STOPPED
        case _:
            return ExitStatus.FAILED


def _name_fields(error: OcaSmsError) -> str:
    """Return the names of the fields that the gateway refused; its words about them may echo the message."""
    fields = error.fields if isinstance(error, InvalidRequestError) else ()
    names = [field.param for field in fields if field.param.isidentifier() and len(field.param) <= _NAME_LENGTH]
    return f": {', '.join(names)}" if names else ""
