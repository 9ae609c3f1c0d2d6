"""The plan of `oca-sms bulk`: each row is checked before the first message is sent."""

import contextlib
import re
from collections import Counter, deque
from typing import Final, cast

from oca_sms_async import Failed
from oca_sms_async._journal import Answer, Status, earlier_outcome
from oca_sms_async.cli._bulk_options import Session
from oca_sms_async.cli._campaign import Campaign, find_receipt
from oca_sms_async.cli._console import complain, show_pairs
from oca_sms_async.cli._progress import show_check
from oca_sms_async.cli._rows import BadRow, RowSms, name_place
from oca_sms_async.cli._survey import Survey

_MOST_OF_A_KIND: Final = 20  # rows that are named
_MOST_KINDS: Final = 100
_CODE: Final = re.compile(r"\w*\d\w*")
_DAY, _HOUR, _MINUTE = 86_400, 3_600, 60  # seconds


class _Complaints:
    """Names the first rows of each kind of fault, and counts the others."""

    def __init__(self) -> None:
        self._kinds = Counter[str]()

    def add(self, row: BadRow | RowSms, reason: str) -> None:
        """Name or count a row."""
        kind = reason if reason in self._kinds or len(self._kinds) < _MOST_KINDS else "other faults"
        self._kinds[kind] += 1
        if self._kinds[kind] <= _MOST_OF_A_KIND:
            complain(f"{name_place(row)}: {reason}")

    def close(self) -> None:
        """Tell how many more rows there are of each kind."""
        for reason, count in self._kinds.items():
            if count > _MOST_OF_A_KIND:
                complain(f"{count - _MOST_OF_A_KIND} more rows: {reason}")


async def survey_rows(campaign: Campaign, session: Session) -> Survey:
    """Look at each row, and name those that cannot be sent. Known outcomes already go into the file of outcomes."""
    options, out = session.options, session.out
    survey = Survey(
        brand=options.brand,
        resend_unknown=options.resend_unknown,
        dedupe=options.dedupe,
        in_detail=options.dry_run,
    )
    complaints, waiting = _Complaints(), deque[BadRow]()

    def tell_bad_rows(before: float = float("inf")) -> None:
        # A bad row comes when it is read, the others after the journal's answer: wait for the order of the file.
        while waiting and waiting[0].row < before:
            row = waiting.popleft()
            survey.bad += 1
            complaints.add(row, row.reason)
            out.write_known(row, "failed", error=row.reason)

    with contextlib.closing(survey), show_check(campaign.stream, session.screen) as refresh:
        async for sms, lookup in campaign.entries(waiting.append):
            tell_bad_rows(sms.row)
            survey.note(sms, lookup)
            if lookup.answer is Answer.KEY_CONFLICT:
                complaints.add(sms, str(cast(Failed, earlier_outcome(sms, lookup)).error))
            if (receipt := find_receipt(lookup)) is not None:
                out.write_known(sms, "sent", msg_uid=receipt.msg_uid, attempts=receipt.attempts)
            refresh()
        tell_bad_rows()
        complaints.close()
        _tell_duplicates(survey, skipped=options.dedupe)
    return survey


def _tell_duplicates(survey: Survey, *, skipped: bool) -> None:
    if survey.first_duplicate is None:
        return
    advice = "skipped" if skipped else "--dedupe skips them"
    counts = [(survey.same, "the same text"), (survey.others, "another text")]
    words = " and ".join(f"{count} with {text}" for count, text in counts if count)
    place = name_place(survey.first_duplicate)
    complain(
        f"{survey.same + survey.others} rows have the recipient of an earlier row, {words}: {place} first; {advice}"
    )


def show_plan(survey: Survey, session: Session) -> None:
    """Show the counts, the time, the first texts and the advice of a run that is not made."""
    options = session.options
    duplicates = f"{survey.same} with the same text, {survey.others} with another"
    show_pairs(
        [
            ("rows", survey.rows),
            ("cannot be sent", survey.unsendable),
            ("sent earlier", survey.standings[Status.SENT]),
            ("in doubt", survey.standings[Status.DOUBTFUL]),
            ("repeated", survey.standings[Answer.REPEATED]),
            ("duplicates", f"{duplicates}{', skipped' if options.dedupe else ''}"),
            ("to send", survey.to_send),
            ("recipients", survey.recipients),
            ("segments", f"{survey.segments} for {survey.to_send} messages"),
            ("time", f"{format_duration(survey.to_send / options.rate)} at {options.rate:g}/s"),
            *(("text", text if options.show_texts else _CODE.sub(_star, text)) for text in survey.samples),
            *([("advice", f"{rows} rows: {advice}") for advice, rows in survey.advice.items()] or [("advice", "none")]),
        ],
        file=session.screen,
    )


def format_duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    whole = round(seconds)
    if whole < 2 * _MINUTE:
        return f"{whole} s"
    minutes = round(seconds / _MINUTE)
    if minutes < _HOUR // _MINUTE:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, _HOUR // _MINUTE)
    if hours < _DAY // _HOUR:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, _DAY // _HOUR)
    return f"{days} d {hours} h"


def _star(word: re.Match[str]) -> str:
    return "*" * len(word[0])
