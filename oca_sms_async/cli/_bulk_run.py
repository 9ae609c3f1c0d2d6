"""The run of `oca-sms bulk`: it sends the rows, sums up, and says how to go on."""

import sys
import time
from typing import TextIO

from oca_sms_async import AsyncOcaSms, Outcome
from oca_sms_async.cli._bulk_options import WITHOUT_JOURNAL, Options, Session
from oca_sms_async.cli._campaign import Campaign, Ending
from oca_sms_async.cli._console import complain, quote, show_pairs
from oca_sms_async.cli._endings import CommandError, ExitStatus, end_by_signal, explain
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._progress import Tally, show_progress
from oca_sms_async.cli._rows import BadRow
from oca_sms_async.cli._survey import Survey


async def send_rows(campaign: Campaign, client: AsyncOcaSms, survey: Survey, session: Session) -> None:
    """Send the rows and show the summary. `CommandError` unless all rows are sent."""
    started, options, out = time.monotonic(), session.options, session.out
    if options.journal is None:
        complain(f"warning: {WITHOUT_JOURNAL}")
    tally = Tally(survey.standings.total(), survey.to_send, survey.passed)

    def note_bad(row: BadRow) -> None:
        out.write(row, "failed", error=row.reason)

    with show_progress(tally, session.screen) as refresh:

        def note(outcome: Outcome) -> None:
            out.note(outcome)
            refresh(outcome)
            if out.error is not None:
                session.stop.requested.set()

        try:
            ending = await campaign.run(
                client,
                note,
                # At most one worker for each message: as many failed connections in a row as workers are an outage.
                concurrency=min(options.concurrency, max(survey.to_send, 1)),
                resend_unknown=options.resend_unknown,
                duplicates=survey.duplicates,
                stop=session.stop,
                bad=note_bad,
            )
        except InputError as error:
            line = f"{error}; {tally.sent} rows were sent, and others may have been; {_advise(options)}"
            raise CommandError(line, ExitStatus.FAILED) from error
    out.close()
    _summarise(tally, survey, session.screen, resent=ending.resent, seconds=time.monotonic() - started)
    for line in out.unwritten:
        complain(f"not in {options.out}: {line.rstrip()}")
    _conclude(ending, tally, survey, session, has_history=client.has_history)


def _summarise(tally: Tally, survey: Survey, screen: TextIO, *, resent: int, seconds: float) -> None:
    show_pairs(
        [
            ("sent", tally.sent),
            ("sent earlier", tally.earlier),
            ("failed", tally.failed),
            *(("", f"{count} × {reason}") for reason, count in tally.reasons.most_common()),
            ("unknown", f"{tally.unknown} (failed, but may have been sent)"),
            ("skipped", tally.skipped),
            ("invalid", survey.bad),
            ("retried", f"{tally.retried} (sent after an internal error, or again: perhaps more than once)"),
            ("resent", f"{resent} (in doubt since an earlier run)"),
            ("time", f"{seconds:.1f} s"),
        ],
        file=screen,
    )


def _conclude(ending: Ending, tally: Tally, survey: Survey, session: Session, *, has_history: bool) -> None:
    """Say in one line which rows are left, and how to go on with them."""
    options, lost = session.options, session.out.error
    unsent = f"{tally.unsent} of {tally.total} rows not sent"
    if tally.unknown:
        unsent += f", {tally.unknown} may have been sent"
    if ending.signal is not None:
        raise end_by_signal(ending.signal, after=f", with {unsent}; {_advise(options)}")
    if ending.stopped_by is not None:
        raise CommandError(f"stopped: {explain(ending.stopped_by)}; {unsent}; {_advise(options)}", ExitStatus.STOPPED)
    if lost is not None:
        reason = f"--out {options.out} could not be written: {lost.strerror}"
        raise CommandError(f"stopped: {reason}; {unsent}; {_advise(options)}", ExitStatus.FAILED)
    if tally.failed or survey.bad:
        advice = _advise_on_doubt(options, has_history=has_history)
        unknown = f", {tally.unknown} may have been sent: {advice}" if tally.unknown else ""
        raise CommandError(f"{tally.failed + survey.bad} of {survey.rows} rows failed{unknown}", ExitStatus.FAILED)


def _advise_on_doubt(options: Options, *, has_history: bool) -> str:
    """Return how to settle the messages that may have been sent."""
    if not has_history:
        again = "" if options.journal is None else ", or send them again with --resend-unknown"
        return f"this API has no history, so ask the vendor{again}"
    if options.journal is None:
        return "`oca-sms history` shows them"
    if options.reconcile:
        return "look again with --reconcile in an hour, ask the vendor, or send them again with --resend-unknown"
    return "--reconcile looks them up"


def _advise(options: Options) -> str:
    """Return how to go on with the rows that a run has not sent."""
    if options.journal is None:
        return WITHOUT_JOURNAL
    # The operator decided about the doubt of earlier runs, not about the doubt of this one.
    again = [argument for argument in sys.argv[1:] if not argument.startswith("--resend-unknown")]
    return f"go on with: {' '.join(map(quote, ['oca-sms', *again]))}"
