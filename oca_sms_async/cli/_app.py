"""The command line itself: which commands there are, and how their arguments and their ends are told."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from oca_sms_async import __version__
from oca_sms_async.cli._bulk import bulk
from oca_sms_async.cli._console import complain
from oca_sms_async.cli._demo import demo
from oca_sms_async.cli._endings import CommandError, ExitStatus
from oca_sms_async.cli._messages import check, history, send, status
from oca_sms_async.cli._serve import sandbox

_HELP: Final = """Send SMS through OCA, Telkom Indonesia's gateway; an error tells whether a message may have been sent.

The account is that of `OCA_SMS_USERNAME` and `OCA_SMS_PASSWORD` in the environment, or is asked for on a terminal.

| exit status | meaning |
| --- | --- |
| 0 | done |
| 1 | a message failed, or its fate is unknown; or a question was not answered |
| 2 | bad usage, input or configuration, no credentials; nothing was sent |
| 3 | the account is refused, or the gateway (or a limiter) cannot be reached; nothing was sent, or a bulk stopped |
| 130 | interrupted |
| 143 | `sandbox` was told to end, by SIGTERM |
"""
_COMPLAINTS: Final[dict[type[CycloptsError], str]] = {
    MissingArgumentError: "{name} is missing",
    CoercionError: "{name} cannot be read",
    ValidationError: "{name} {limits}",
    RepeatArgumentError: "{name} is given more than once",
    UnknownOptionError: "unknown option; a text that begins with a hyphen needs a -- before it",
    UnusedCliTokensError: "too many arguments; a text with spaces needs quotes around it",
}
_SILENCE: Final = logging.NullHandler()

_app: Final = App(name="oca-sms", help=_HELP, help_format="markdown", version=__version__)
for _command in (demo, send, bulk, status, history, check, sandbox):
    _app.command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; what went wrong is one line on standard error."""
    # What the library logs is said in that line too, and Python would write it to standard error once more.
    logging.getLogger("oca_sms_async").addHandler(_SILENCE)
    try:
        _parsed(arguments)()
    except CommandError as error:
        complain(str(error))
        return error.status
    except KeyboardInterrupt:
        complain("interrupted")
        return ExitStatus.INTERRUPTED
    except OSError as error:  # a full disk, or a reader that has gone
        complain(f"the output could not be written: {error.strerror}")
        return ExitStatus.FAILED
    return ExitStatus.DONE


def _parsed(arguments: Sequence[str]) -> Callable[[], Any]:
    """Return what the arguments ask for, ready to be called."""
    try:
        command, bound, _ = _app.parse_args(arguments, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        command_line = " ".join([*_app.name, *(error.command_chain or ())])
        unsent = "not sent: " if "send" in (error.command_chain or ()) else ""
        raise CommandError(f"{unsent}{_complaint(error)}; see {command_line} --help", ExitStatus.USAGE) from error
    return partial(command, *bound.args, **bound.kwargs)


def _complaint(error: CycloptsError) -> str:
    """Say what is wrong with the arguments without quoting one: it may be a number or a text.

    That is why cyclopts' own sentences are not used.
    """
    if not error.command_chain:
        return "unknown command or option"
    sentence = next((sentence for kind, sentence in _COMPLAINTS.items() if isinstance(error, kind)), "bad usage")
    limits = error.exception_message.rstrip(".").lower() if isinstance(error, ValidationError) else ""
    return sentence.format(name=error.argument.name if error.argument else "an argument", limits=limits)
