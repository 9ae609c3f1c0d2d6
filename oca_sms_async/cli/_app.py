"""The command line itself: its commands, the errors in their arguments, and the ends of commands."""

import logging
import re
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
from oca_sms_async.cli._commands import COMMANDS
from oca_sms_async.cli._console import complain
from oca_sms_async.cli._endings import CommandError, ExitStatus, end_by_signal
from oca_sms_async.cli._main import describe_missing
from oca_sms_async.cli._signals import find_signal, raise_signals

_HELP: Final = """Send SMS through OCA, Telkom Indonesia's gateway. Each error says if the message may have been sent.

The account comes from `OCA_SMS_USERNAME` and `OCA_SMS_PASSWORD` in the environment. For the vendor's other APIs,
`OCA_SMS_API` is `regular-v2`, `premium-v1` or `premium-v2`; V2 needs `OCA_SMS_TOKEN` in place of the two, and Premium
`OCA_SMS_SENDER_ID` beside them. On a terminal, the command asks.

| exit status | meaning |
| --- | --- |
| 0 | done |
| 1 | a message failed or may have been sent; or a question had no answer |
| 2 | wrong usage, input or configuration, or no credentials; nothing was sent |
| 3 | the gateway refused the account, or it (or a limiter) is out of reach; nothing was sent, or a bulk stopped |
| 129 | ended by SIGHUP: the terminal is gone |
| 130 | interrupted by Ctrl-C |
| 143 | terminated by SIGTERM |
"""
_OPTION: Final = re.compile(r"--[a-z]+(-[a-z]+)*")
_HYPHEN: Final = "a text that begins with a hyphen needs a -- before it"
_COMPLAINTS: Final[dict[type[CycloptsError], str]] = {
    MissingArgumentError: "{name} is missing",
    CoercionError: "{name} cannot be read",
    ValidationError: "{name} {limits}",
    RepeatArgumentError: "{name} is given more than once",
    UnusedCliTokensError: "too many arguments; a text with spaces needs quotes around it",
}
_SILENCE: Final = logging.NullHandler()

_app: Final = App(name="oca-sms", help=_HELP, help_format="markdown", version=__version__)
for _name, (_place, _words) in COMMANDS.items():
    _app.command(_place, name=_name, help=_words)  # cyclopts imports the place when the command is called


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; an error is one line on standard error."""
    # That line says all that the library logs, and Python would write the log to standard error too.
    logging.getLogger("oca_sms_async").addHandler(_SILENCE)
    try:
        with raise_signals():
            _parse(arguments)()
    except CommandError as error:
        complain(str(error))
        return error.status
    except KeyboardInterrupt as interruption:
        ended = end_by_signal(find_signal(interruption))
        complain(str(ended))
        return ended.status
    except OSError as error:  # a full disk, or a reader that has gone
        complain(f"the output could not be written: {error.strerror}")
        return ExitStatus.FAILED
    return ExitStatus.DONE


def _parse(arguments: Sequence[str]) -> Callable[[], Any]:
    """Return the command with its arguments, ready to be called."""
    try:
        command, bound, _ = _app.parse_args(arguments, print_error=False, exit_on_error=False)
    except ImportError as error:  # out of the room of the command
        raise CommandError(describe_missing(error), ExitStatus.USAGE) from error
    except CycloptsError as error:
        command_line = " ".join([*_app.name, *(error.command_chain or ())])
        unsent = "not sent: " if "send" in (error.command_chain or ()) else ""
        raise CommandError(f"{unsent}{_describe(error)}; see {command_line} --help", ExitStatus.USAGE) from error
    return partial(command, *bound.args, **bound.kwargs)


def _describe(error: CycloptsError) -> str:
    """Describe the fault of the arguments, and quote no argument: it may be a number or a text.

    For that reason cyclopts' own sentences are not used.
    """
    if isinstance(error, UnknownOptionError):
        # Only a word that looks like an option is shown.
        name = (error.token.keyword or error.token.value or "").partition("=")[0]
        return f"unknown option {name}" if _OPTION.fullmatch(name) else f"unknown option; {_HYPHEN}"
    if not error.command_chain:
        return "unknown command or option"
    sentence = next((sentence for kind, sentence in _COMPLAINTS.items() if isinstance(error, kind)), "bad usage")
    limits = error.exception_message.rstrip(".").lower() if isinstance(error, ValidationError) else ""
    return sentence.format(name=error.argument.name if error.argument else "an argument", limits=limits)
