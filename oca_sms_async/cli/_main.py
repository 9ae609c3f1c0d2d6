"""The process around the command line: imports, streams, exit status."""

import io
import os
import sys


def main() -> None:
    """Run `oca-sms` with the arguments of this process, and end it with the command's exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without UTF-8 shows an escape for other characters. A failure would lose a sent message's receipt.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(sys.argv[1:])
    except KeyboardInterrupt:  # during the imports; a command has a sentence of its own
        status = 130
    _drop_unread_output()
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    try:
        # Imported here, so that a missing extra ends in a sentence.
        from oca_sms_async.cli._app import run  # noqa: PLC0415 - see above
    except ImportError as error:
        print(f"oca-sms: {describe_missing(error)}", file=sys.stderr)
        return 2
    return run(arguments)


def describe_missing(error: ImportError) -> str:
    """Describe a module that is not there, and name the extra that brings it."""
    while error.name is None and isinstance(error.__cause__, ImportError):
        error = error.__cause__
    package = (error.name or "?").partition(".")[0]
    return f'its extra is missing (no module {package}): pip install "oca-sms-async[cli]"'


def _drop_unread_output() -> None:
    """Drop output that a stream did not take: Python would try again at its end, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            print(end="", flush=True, file=stream)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
