"""The plan of `oca-sms bulk`: each row is checked before the first message is sent."""

from typing import Final

from oca_sms_async import Failed, InvalidMessageError
from oca_sms_async._journal import Answer, Status, earlier_outcome
from oca_sms_async.cli._bulk_options import Session
from oca_sms_async.cli._campaign import Campaign, find_receipt
from oca_sms_async.cli._console import complain, show_pairs
from oca_sms_async.cli._rows import BadRow
from oca_sms_async.cli._survey import Survey

_MOST_RESPELT: Final = 10  # rows that are named


async def survey_rows(campaign: Campaign, session: Session) -> Survey:
    """Look at each row. Name the rows that cannot be sent, and those with an earlier recipient in another spelling.

    The outcomes that are known already go into the file of outcomes.
    """
    options, out = session.options, session.out
    with Survey(brand=options.brand, resend_unknown=options.resend_unknown) as survey:

        def complain_of(row: BadRow) -> None:
            survey.bad += 1
            complain(f"row {row.row}: {row.reason}")
            out.write_known(row, "failed", error=row.reason)

        async for sms, entry in campaign.entries(complain_of):
            earlier = survey.note(sms, entry)
            if (receipt := find_receipt(entry)) is not None:
                out.write_known(sms, "sent", msg_uid=receipt.msg_uid, attempts=receipt.attempts)
            match earlier_outcome(sms, entry):
                case Failed(error=InvalidMessageError() as error):
                    complain(f"row {sms.row}: {error}")
            if earlier is not None and survey.respelt <= _MOST_RESPELT:
                complain(f"row {sms.row}: the same recipient as in row {earlier}, in another spelling")
        if survey.respelt > _MOST_RESPELT:
            complain(f"{survey.respelt} rows name a recipient of an earlier row in another spelling")
    return survey


def show_plan(survey: Survey, session: Session) -> None:
    """Show the counts, the time and the advice of a run that is not made."""
    rate = session.options.rate
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
            ("time", f"{survey.to_send / rate:.0f} s at {rate:g}/s"),
            *([("advice", f"{rows} rows: {advice}") for advice, rows in survey.advice.items()] or [("advice", "none")]),
        ],
        file=session.screen,
    )
