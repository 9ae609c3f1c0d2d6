"""The options of `oca-sms bulk`, and the checks that they fit together."""

import itertools
from pathlib import Path
from typing import Annotated, TextIO

from attrs import frozen
from cyclopts import Parameter, validators

from oca_sms_async._limiter import DEFAULT_RATE
from oca_sms_async.cli._endings import CommandError, ExitStatus
from oca_sms_async.cli._messages import ShowNumbers
from oca_sms_async.cli._out import name_new_file
from oca_sms_async.cli._signals import Stop


def _make_switch(help_: str) -> Parameter:
    return Parameter(negative=(), help=help_)


@Parameter(name="*")
@frozen(kw_only=True)
class Options:
    """The options of a run."""

    template: Annotated[
        str | None, Parameter(help='The text with its columns in braces: "Kode OTP {brand}: {code}".')
    ] = None
    journal: Annotated[
        Path | None, Parameter(help="Keeps which messages were sent or are in doubt: the same command goes on there.")
    ] = None
    out: Annotated[Path | None, Parameter(help="The outcome of each row, one JSON object a line.")] = None
    rate: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1e6), help="Requests per second.")] = (
        DEFAULT_RATE
    )
    concurrency: Annotated[int, Parameter(validator=validators.Number(gte=1), help="Messages under way at once.")] = 32
    retry_unsent: Annotated[
        bool, _make_switch("Repeat requests that certainly sent nothing: no connection, or rate limit.")
    ] = False
    skip_invalid: Annotated[bool, _make_switch("Go on without the rows that cannot be sent.")] = False
    reconcile: Annotated[bool, _make_switch("First look doubtful messages up in the gateway's history.")] = False
    resend_unknown: Annotated[
        bool, _make_switch("Send again the messages that an earlier run left in doubt. They may arrive twice.")
    ] = False
    dry_run: Annotated[bool, _make_switch("Show the plan and send nothing. No account is needed.")] = False
    brand: Annotated[str | None, Parameter(help="For the advice of --dry-run: the name that an OTP has to show.")] = (
        None
    )
    show_numbers: ShowNumbers = False


@frozen
class Session:
    """One run of the command: its options, its output, and the request to stop it."""

    options: Options
    screen: TextIO
    stop: Stop


def check_options(file: Path, options: Options) -> None:
    """Refuse options that do not fit together, before any file is touched."""
    if options.journal is None and (options.reconcile or options.resend_unknown):
        raise CommandError("--reconcile and --resend-unknown need the --journal of the earlier run", ExitStatus.USAGE)
    if options.out is not None and (not options.out.name or options.out.is_dir()):
        raise CommandError("--out must be a file", ExitStatus.USAGE)
    out = [options.out, name_new_file(options.out)] if options.out else []
    files = [it for it in (file, options.journal, *out) if it is not None]
    if any(_is_same(one, other) for one, other in itertools.combinations(files, 2)):
        raise CommandError("FILE, --journal and --out must be different files", ExitStatus.USAGE)


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
