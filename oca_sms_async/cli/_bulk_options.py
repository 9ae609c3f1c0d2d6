"""The options of `oca-sms bulk`, and the checks that they fit together."""

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

from attrs import field, frozen
from cyclopts import Parameter, Token, validators

from oca_sms_async._limiter import DEFAULT_RATE
from oca_sms_async._messages import is_blank
from oca_sms_async.cli._endings import CommandError, ExitStatus
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import Layout
from oca_sms_async.cli._messages import ShowNumbers, ShowTexts
from oca_sms_async.cli._out import OutcomesFile, is_outcomes_file
from oca_sms_async.cli._sinks import find_open_stream
from oca_sms_async.cli._staged_file import name_new_file
from oca_sms_async.cli._stop import Stop

WITHOUT_JOURNAL: Final = "without --journal, the same command would send everything again"
_FOREIGN: Final = "is no file of outcomes: --force overwrites it"


def _read_journal(_: Any, tokens: Sequence[Token]) -> Path | str:
    """Return a PostgreSQL URL as a `str`, and all else as the path of a file."""
    place = tokens[0].value
    return place if place.startswith(("postgresql://", "postgres://")) else Path(place)


def _make_switch(help_: str) -> Parameter:
    return Parameter(negative=(), help=help_)


@Parameter(name="*")
@frozen(kw_only=True)
class Options:
    """The options of a run."""

    layout: Layout = field(factory=Layout)
    journal: Annotated[
        Path | str | None,
        Parameter(
            converter=_read_journal,
            help="Keeps which messages were sent or are in doubt: the same command goes on there. A file, or for many "
            "machines the URL of a PostgreSQL without a password, such as postgresql://host/database.",
        ),
    ] = None
    journal_name: Annotated[
        str | None,
        Parameter(
            help="The campaign's name in PostgreSQL. Without --journal, the database is that of `OCA_SMS_DATABASE`."
        ),
    ] = None
    out: Annotated[
        Path | None, Parameter(help="The outcome of each row: a JSON object a line, or CSV if the name ends in .csv.")
    ] = None
    force: Annotated[bool, _make_switch("Let --out overwrite a file that is no file of outcomes.")] = False
    rate: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1e6), help="Requests per second.")] = (
        DEFAULT_RATE
    )
    concurrency: Annotated[int, Parameter(validator=validators.Number(gte=1), help="Messages under way at once.")] = 32
    retry_unsent: Annotated[
        bool, _make_switch("Repeat requests that certainly sent nothing: no connection, or rate limit.")
    ] = False
    skip_invalid: Annotated[bool, _make_switch("Go on without the rows that cannot be sent.")] = False
    dedupe: Annotated[
        bool, _make_switch("Skip each row with the recipient of an earlier row, in any spelling and with any text.")
    ] = False
    reconcile: Annotated[bool, _make_switch("First look doubtful messages up in the gateway's history.")] = False
    resend_unknown: Annotated[
        bool, _make_switch("Send again the messages that an earlier run left in doubt. They may arrive twice.")
    ] = False
    dry_run: Annotated[bool, _make_switch("Show the plan and send nothing. No account is needed.")] = False
    brand: Annotated[str | None, Parameter(help="For the advice of --dry-run: the name that an OTP has to show.")] = (
        None
    )
    show_numbers: ShowNumbers = False
    show_texts: ShowTexts = False


@frozen
class Session:
    """One run of the command: its options, its output, the outcomes, and the request to stop it."""

    options: Options
    screen: TextIO
    out: OutcomesFile
    stop: Stop


def check_options(file: Path, options: Options) -> None:
    """Refuse options that do not fit together, before any file is touched."""
    try:
        options.layout.check()
    except InputError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error
    if options.brand is not None and is_blank(options.brand):
        raise CommandError("brand must not be blank", ExitStatus.USAGE)
    if options.journal is None and (options.reconcile or options.resend_unknown):
        raise CommandError("--reconcile and --resend-unknown need the --journal of the earlier run", ExitStatus.USAGE)
    out = [options.out, name_new_file(options.out)] if options.out and options.out.name else []
    files = [it for it in (file, options.journal, *out) if isinstance(it, Path)]
    if any(_is_same(one, other) for one, other in itertools.combinations(files, 2)):
        raise CommandError("FILE, --journal and --out must be different files", ExitStatus.USAGE)
    if options.out is not None:
        try:
            reason = _find_obstacle(options.out)
        except OSError as error:
            reason = f"cannot be written: {error.strerror}"
        if reason and not (options.force and reason == _FOREIGN):
            raise CommandError(f"--out {options.out} {reason}", ExitStatus.USAGE)


def _find_obstacle(out: Path) -> str | None:
    """Return the reason why these outcomes must not go into this file, or `None`."""
    if not out.name or out.is_dir():
        return "must be a file"
    if find_open_stream(out) is not None:
        return None
    if out.is_symlink() and hasattr(os, "geteuid") and out.lstat().st_uid not in {0, os.geteuid()}:
        return "is a symbolic link of another user: name the file itself"
    with contextlib.suppress(FileNotFoundError):
        out.stat()  # a loop of links, or a name that is too long
    if out.is_file() and not is_outcomes_file(out):
        return _FOREIGN
    return None


def _is_same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False
