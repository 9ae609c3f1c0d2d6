"""The command that sends a file of messages, and goes on where an earlier run of it ended."""

import asyncio
import contextlib
import io
import itertools
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from attrs import frozen
from cyclopts import Parameter, validators

from oca_sms_async import (
    AsyncOcaSms,
    Failed,
    InvalidMessageError,
    JournalError,
    Outcome,
    RetryPolicy,
    SqliteJournal,
    TokenBucket,
)
from oca_sms_async._journal import Answer, Status, earlier_outcome
from oca_sms_async._limiter import DEFAULT_RATE
from oca_sms_async.cli._account import client_of_account
from oca_sms_async.cli._campaign import Campaign, Ending
from oca_sms_async.cli._console import complain, quoted, show, show_pairs
from oca_sms_async.cli._endings import CommandError, ExitStatus, while_asking
from oca_sms_async.cli._messages import ShowNumbers
from oca_sms_async.cli._out import OutcomesFile, beside
from oca_sms_async.cli._progress import Tally, shown
from oca_sms_async.cli._rows import BadRow, InputError
from oca_sms_async.cli._survey import Survey

_RESPELT_SHOWN: Final = 10  # rows
_STDIN: Final = Path("-")


def _switch(help_: str) -> Parameter:
    return Parameter(negative=(), help=help_)


@Parameter(name="*")
@frozen(kw_only=True)
class Options:
    """What a run is asked for."""

    template: Annotated[
        str | None, Parameter(help='The text with its columns in braces: "Kode OTP {brand}: {code}".')
    ] = None
    journal: Annotated[
        Path | None, Parameter(help="What was sent and what is in doubt: the same file again goes on from there.")
    ] = None
    out: Annotated[Path | None, Parameter(help="What became of each row, one JSON object a line.")] = None
    rate: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1e6), help="Requests per second.")] = (
        DEFAULT_RATE
    )
    concurrency: Annotated[int, Parameter(validator=validators.Number(gte=1), help="Messages under way at once.")] = 32
    retry_unsent: Annotated[bool, _switch("Repeat what certainly was not sent: no connection, or rate limit.")] = False
    skip_invalid: Annotated[bool, _switch("Go on without the rows that cannot be sent.")] = False
    reconcile: Annotated[bool, _switch("First look doubtful messages up in the gateway's history.")] = False
    resend_unknown: Annotated[bool, _switch("Send again what an earlier run left in doubt; it may come twice.")] = False
    dry_run: Annotated[bool, _switch("Say what would be sent, and send nothing; no account is needed.")] = False
    brand: Annotated[str | None, Parameter(help="For the advice of --dry-run: the name an OTP has to show.")] = None
    show_numbers: ShowNumbers = False


def bulk(
    file: Annotated[
        Path, Parameter(allow_leading_hyphen=True, help="CSV with a header, or JSON lines; `-` is standard input.")
    ],
    /,
    *,
    options: Options = Options(),
) -> None:
    """Send a file of messages: columns phone, message, and if you like key and expires_at (ISO 8601).

    The whole file is checked first. With --journal an interrupted run, even one that was killed, is taken up by the
    same command: nobody gets a message twice, and what may have been sent is named. The first Ctrl-C lets what is on
    the wire end, the second does not. Exit status: 0 all sent, 1 some failed or unknown, 2 bad usage or input, 3
    stopped by the account or an outage, 130 interrupted.
    """
    _check(file, options)
    with _opened(file) as stream, tempfile.TemporaryDirectory(prefix="oca-sms-") as temporary:
        path = options.journal
        if path is None or (options.dry_run and not path.exists()):
            path = Path(temporary) / "journal"  # its digests go with the run
        client = None
        if not options.dry_run:
            limiter, retry = TokenBucket(rate=options.rate), RetryPolicy(retry_unsent=options.retry_unsent)
            client = client_of_account(limiter=limiter, retry=retry)
        try:
            asyncio.run(_bulk(stream, path, client, options))
        except InputError as error:
            raise CommandError(f"{file}: {error}", ExitStatus.USAGE) from error
        except JournalError as error:  # as it was closed; before it is used, there is a sentence of its own
            raise CommandError(str(error), ExitStatus.FAILED) from error


def _check(file: Path, options: Options) -> None:
    if options.journal is None and (options.reconcile or options.resend_unknown):
        raise CommandError("--reconcile and --resend-unknown need the --journal of the earlier run", ExitStatus.USAGE)
    if options.out is not None and (not options.out.name or options.out.is_dir()):
        raise CommandError("--out must be a file", ExitStatus.USAGE)
    out = [options.out, beside(options.out)] if options.out else []
    files = [it for it in (file, options.journal, *out) if it is not None]
    if any(_same(one, other) for one, other in itertools.combinations(files, 2)):
        raise CommandError("FILE, --journal and --out must be different files", ExitStatus.USAGE)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Open what can be read more than once; what cannot is kept in memory, for texts belong into no other file."""
    if file == _STDIN:
        if sys.stdin is None:
            raise CommandError("standard input is closed", ExitStatus.USAGE)
        yield io.BytesIO(sys.stdin.buffer.read())
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", ExitStatus.USAGE) from error
    with stream:
        yield stream if stat.S_ISREG(file.stat().st_mode) else io.BytesIO(stream.read())


def _stamp(stream: BinaryIO) -> tuple[int, int] | None:
    """Return what shows that a file was written to; what is in memory has none."""
    if isinstance(stream, io.BytesIO):
        return None
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


async def _bulk(stream: BinaryIO, path: Path, client: AsyncOcaSms | None, options: Options) -> None:
    before = _stamp(stream)
    async with SqliteJournal(path) as journal, client or contextlib.nullcontext():
        campaign = Campaign(stream, options.template, journal)
        with while_asking():
            survey = await _surveyed(campaign, options)
        if survey.unsendable and not options.skip_invalid:
            line = (
                f"nothing was sent: {survey.unsendable} of {survey.rows} rows cannot be; --skip-invalid goes on without"
            )
            raise CommandError(line, ExitStatus.USAGE)
        if client is None:
            _tell_plan(survey, options)
            return
        if options.reconcile:
            with while_asking():
                report = await client.reconcile(journal, campaign.messages())
            show(f"{len(report.found)} found in the gateway's history, {len(report.doubtful)} still in doubt")
        if _stamp(stream) != before:
            raise CommandError("the file changed while it was checked: nothing was sent", ExitStatus.USAGE)
        try:
            await _send(campaign, client, survey, options)
        finally:
            if _stamp(stream) != before:
                complain("the file changed while it was sent: the same command again looks at every row")


async def _surveyed(campaign: Campaign, options: Options) -> Survey:
    """Look at every row, and say which cannot be sent and which name a recipient in another spelling."""
    with Survey(brand=options.brand, resend_unknown=options.resend_unknown) as survey:

        def bad(row: BadRow) -> None:
            survey.bad += 1
            complain(f"row {row.row}: {row.reason}")

        async for sms, entry in campaign.entries(bad):
            earlier = survey.note(sms, entry)
            match earlier_outcome(sms, entry):
                case Failed(error=InvalidMessageError() as error):
                    complain(f"row {sms.row}: {error}")
            if earlier is not None and survey.respelt <= _RESPELT_SHOWN:
                complain(f"row {sms.row}: the same recipient as in row {earlier}, in another spelling")
        if survey.respelt > _RESPELT_SHOWN:
            complain(f"{survey.respelt} rows name a recipient of an earlier row in another spelling")
    return survey


def _tell_plan(survey: Survey, options: Options) -> None:
    show_pairs(
        [
            ("rows", survey.rows),
            ("cannot be sent", survey.unsendable),
            ("sent earlier", survey.standings[Status.SENT]),
            ("in doubt", survey.standings[Status.DOUBTFUL]),
            ("repeated", survey.standings[Answer.REPEATED]),
            ("to send", survey.to_send),
            ("recipients", survey.recipients),
            ("segments", survey.segments),
            ("time", f"{survey.to_send / options.rate:.0f} s at {options.rate:g}/s"),
            *([("advice", f"{rows} rows: {advice}") for advice, rows in survey.advice.items()] or [("advice", "none")]),
        ]
    )


async def _send(campaign: Campaign, client: AsyncOcaSms, survey: Survey, options: Options) -> None:
    started = time.monotonic()
    try:
        out = OutcomesFile(options.out and options.out.resolve(), show_numbers=options.show_numbers)
    except OSError as error:
        raise CommandError(f"{options.out} cannot be written: {error.strerror}", ExitStatus.USAGE) from error
    with contextlib.closing(out):
        with while_asking():
            await campaign.rebuild(out)
        tally = Tally(total=survey.standings.total())
        with shown(tally) as refresh:

            def note(outcome: Outcome) -> None:
                out.note(outcome)
                refresh(outcome)

            # No more at once than there are: that many connections that fail in a row are an outage.
            concurrency = min(options.concurrency, max(survey.to_send, 1))
            resend = options.resend_unknown
            try:
                ending = await campaign.run(client, note, concurrency=concurrency, resend_unknown=resend)
            except InputError as error:
                line = f"{error}; {tally.sent} rows were sent, and others may have been; {_resume(options)}"
                raise CommandError(line, ExitStatus.FAILED) from error
    _summarise(tally, survey, resent=ending.resent, seconds=time.monotonic() - started)
    _conclude(ending, tally, survey, options)


def _summarise(tally: Tally, survey: Survey, *, resent: int, seconds: float) -> None:
    show_pairs(
        [
            ("sent", tally.sent),
            ("sent earlier", tally.earlier),
            ("failed", tally.failed),
            *(("", f"{count} × {reason}") for reason, count in tally.reasons.most_common()),
            ("unknown", f"{tally.unknown} (failed, but may have been sent)"),
            ("skipped", tally.skipped),
            ("invalid", survey.bad),
            ("retried", f"{tally.retried} (sent after an internal error, or again, so perhaps more than once)"),
            ("resent", f"{resent} (in doubt since an earlier run)"),
            ("time", f"{seconds:.1f} s"),
        ]
    )


def _conclude(ending: Ending, tally: Tally, survey: Survey, options: Options) -> None:
    """Say in one line what is left to do, where something is."""
    unsent = f"{tally.total - tally.sent - tally.earlier - tally.failed} of {tally.total} rows not sent"
    if ending.interrupted:
        raise CommandError(f"interrupted, with {unsent}; {_resume(options)}", ExitStatus.INTERRUPTED)
    if ending.stopped_by is not None:
        raise CommandError(f"stopped: {ending.stopped_by}; {unsent}; {_resume(options)}", ExitStatus.STOPPED)
    if tally.failed or survey.bad:
        look_up = "--reconcile looks them up" if options.journal else "`oca-sms history` shows them"
        unknown = f", {tally.unknown} may have been sent: {look_up}" if tally.unknown else ""
        raise CommandError(f"{tally.failed + survey.bad} of {survey.rows} rows failed{unknown}", ExitStatus.FAILED)


def _resume(options: Options) -> str:
    """Return how to go on with what a run has not sent."""
    if options.journal is None:
        return "without --journal, the same command would send everything again"
    # What this run left in doubt is not what the operator decided about.
    again = [argument for argument in sys.argv[1:] if not argument.startswith("--resend-unknown")]
    return f"go on with: {' '.join(map(quoted, ['oca-sms', *again]))}"
