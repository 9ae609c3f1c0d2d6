"""The command that sends a file of messages, and goes on where an earlier run of it ended."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TextIO, cast

from cyclopts import Parameter

from oca_sms_async import AsyncOcaSms, Journal, JournalError, RetryPolicy, TokenBucket
from oca_sms_async.cli._account import client_of_account
from oca_sms_async.cli._bulk_input import open_input, stamp
from oca_sms_async.cli._bulk_options import Options, Session, check_options
from oca_sms_async.cli._bulk_plan import show_plan, survey_rows
from oca_sms_async.cli._bulk_run import send_rows
from oca_sms_async.cli._campaign import Campaign
from oca_sms_async.cli._console import ForgivingStream, complain, show
from oca_sms_async.cli._endings import CommandError, ExitStatus, explain, while_asking
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._journals import take_journal
from oca_sms_async.cli._out import OutcomesFile
from oca_sms_async.cli._stop import run_in_loop

_DEFAULTS: Final = Options()


def bulk(
    file: Annotated[
        Path,
        Parameter(
            allow_leading_hyphen=True, help="CSV with a header, JSON lines, or a workbook; `-` is standard input."
        ),
    ],
    /,
    *,
    options: Options = _DEFAULTS,
) -> None:
    """Run `oca-sms bulk`; its help stands in `_commands`."""
    options, journal = take_journal(options)
    check_options(file, options)
    client = None if options.dry_run else _make_client(options)
    screen = ForgivingStream(_choose_screen(options.out))
    with open_input(file) as stream:
        try:
            with _open_out(options) as out:
                session = partial(Session, options, cast("TextIO", screen), out)
                run_in_loop(lambda stop: _bulk(stream, client, session(stop), journal))
        except InputError as error:
            raise CommandError(f"{file}: {error}", ExitStatus.USAGE) from error
        except JournalError as error:  # while it is closed; an earlier failure has a sentence of its own
            raise CommandError(explain(error), ExitStatus.FAILED) from error
    if screen.lost is not None:
        line = f"all was done, but some output could not be written: {screen.lost.strerror}"
        raise CommandError(line, ExitStatus.FAILED)


def _make_client(options: Options) -> AsyncOcaSms:
    limiter, retry = TokenBucket(rate=options.rate), RetryPolicy(retry_unsent=options.retry_unsent)
    return client_of_account(limiter=limiter, retry=retry)


async def _bulk(
    stream: BinaryIO, client: AsyncOcaSms | None, session: Session, opening: AbstractAsyncContextManager[Journal]
) -> None:
    before, options = stamp(stream), session.options
    async with opening as journal, client or contextlib.nullcontext():
        if client is not None and options.reconcile and not client.has_history:
            with while_asking():
                await client.reconcile(journal, ())  # refused, before any row is looked at
        campaign = Campaign(stream, options.layout, journal)
        with while_asking():
            survey = await survey_rows(campaign, session)
        if survey.unsendable and not options.skip_invalid:
            line = f"nothing was sent: {survey.unsendable} of {survey.rows} rows cannot be sent"
            raise CommandError(f"{line}; --skip-invalid goes on without them", ExitStatus.USAGE)
        if client is None:
            show_plan(survey, session)
            return
        if options.reconcile:
            with while_asking():
                report = await client.reconcile(journal, campaign.messages())
            line = f"{len(report.found)} found in the gateway's history, {len(report.doubtful)} still in doubt"
            show(line, file=session.screen)
        if stamp(stream) != before:
            raise CommandError("the file changed while it was checked: nothing was sent", ExitStatus.USAGE)
        _keep(session)
        try:
            await send_rows(campaign, client, survey, session)
        finally:
            if stamp(stream) != before:
                complain("the file changed while it was sent: the same command again looks at every row")


@contextlib.contextmanager
def _open_out(options: Options) -> Iterator[OutcomesFile]:
    path = None if options.dry_run else options.out
    try:
        out = OutcomesFile(path, show_numbers=options.show_numbers)
    except OSError as error:
        raise CommandError(f"--out {path} cannot be written: {error.strerror}", ExitStatus.USAGE) from error
    with contextlib.closing(out):
        yield out


def _keep(session: Session) -> None:
    """Let the new file of outcomes take the place of the old one, before anything is sent."""
    try:
        session.out.keep()
        error = session.out.error
    except OSError as failure:
        error = failure
    if error is not None:
        line = f"nothing was sent: --out {session.options.out} cannot be written: {error.strerror}"
        raise CommandError(line, ExitStatus.USAGE)


def _choose_screen(out: Path | None) -> TextIO:
    """Return standard output, or standard error if the outcomes go to standard output."""
    with contextlib.suppress(OSError, ValueError):
        if out is not None and os.path.samestat(out.stat(), os.fstat(sys.stdout.fileno())):
            return sys.stderr
    return sys.stdout
