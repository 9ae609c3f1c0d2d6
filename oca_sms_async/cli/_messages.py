"""The commands about single messages: send one, look some up, check a text."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from cyclopts import Parameter, validators

from oca_sms_async import AsyncOcaSms, SendReceipt, SmsRecord, check_message, segments
from oca_sms_async._phone import mask_phone
from oca_sms_async.cli._account import client_of_account
from oca_sms_async.cli._console import show_pairs, show_table
from oca_sms_async.cli._endings import CommandError, ExitStatus, before_sending, while_asking, while_sending
from oca_sms_async.cli._stop import run_in_loop

_T = TypeVar("_T")

ShowNumbers = Annotated[bool, Parameter(negative=(), help="Show whole numbers, not only their last three digits.")]
ShowTexts = Annotated[bool, Parameter(negative=(), help="Show the texts, which may hold one-time passwords.")]


def send(
    phone: Annotated[str, Parameter(help="The recipient's number, in any usual spelling.")],
    message: Annotated[str, Parameter(help="The text. Put `--` before a text that begins with a hyphen.")],
    /,
    *,
    expires_in: Annotated[
        float | None,
        Parameter(validator=validators.Number(gt=0), help="Seconds in which the message may be sent."),
    ] = None,
) -> None:
    """Run `oca-sms send`; its help stands in `_commands`."""
    with before_sending():
        client = client_of_account()
    with while_sending(has_history=client.has_history):
        receipt = run_in_loop(lambda _: _ask(client, lambda: client.send(phone, message, expires_in=expires_in)))
    _show_receipt(receipt)


def status(
    msg_uid: Annotated[str, Parameter(help="The id of the message, from its receipt.")],
    /,
    *,
    show_numbers: ShowNumbers = False,
    show_texts: ShowTexts = False,
) -> None:
    """Run `oca-sms status`; its help stands in `_commands`."""
    client = client_of_account()
    with while_asking(for_message=True):
        record = run_in_loop(lambda _: _ask(client, lambda: client.status(msg_uid)))
    names, values = (
        _name_columns(show_texts=show_texts),
        _format_record(record, show_numbers=show_numbers, show_texts=show_texts),
    )
    show_pairs([*zip(names, values, strict=True), ("application", record.application)])


def history(
    *,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1), help="The number of messages.")] = 20,
    show_numbers: ShowNumbers = False,
    show_texts: ShowTexts = False,
) -> None:
    """Run `oca-sms history`; its help stands in `_commands`."""
    client = client_of_account()
    with while_asking():
        records = run_in_loop(lambda _: _ask(client, client.history))
    # The gateway's order is not documented. A message without a date may be new: it must not fall out of the limit.
    records.sort(key=lambda it: (it.created_at is None, it.created_at or datetime.min.replace(tzinfo=UTC)))
    rows = [_format_record(record, show_numbers=show_numbers, show_texts=show_texts) for record in records[-limit:]]
    show_table(_name_columns(show_texts=show_texts), rows, caption=f"{len(rows)} of {len(records)} messages")


def check(
    text: Annotated[str, Parameter(help="The text. Put `--` before a text that begins with a hyphen.")],
    /,
    *,
    brand: Annotated[str | None, Parameter(help="The brand that the text of an OTP has to name.")] = None,
) -> None:
    """Run `oca-sms check`; its help stands in `_commands`."""
    with while_asking():
        advice = check_message(text, brand=brand)
    size = segments(text)
    unit = "septets" if size.encoding == "GSM-7" else "UTF-16 units"
    show_pairs(
        [
            ("encoding", size.encoding),
            ("length", f"{size.units} {unit}"),
            ("segments", size.count),
            *([(it.code, it.text) for it in advice] or [("advice", "none")]),
        ]
    )


def _show_receipt(receipt: SendReceipt) -> None:
    doubled = " (the message may have been delivered more than once)" if receipt.attempts > 1 else ""
    try:
        show_pairs(
            [
                ("msg_uid", receipt.msg_uid),
                ("status", receipt.status or None),
                ("attempts", f"{receipt.attempts}{doubled}"),
            ]
        )
    except OSError as error:  # a script that saw a failure would send the message again
        line = f"sent, with msg_uid {receipt.msg_uid}, but the output could not be written: {error.strerror}"
        raise CommandError(line, ExitStatus.DONE) from error


async def _ask(client: AsyncOcaSms, call: Callable[[], Awaitable[_T]]) -> _T:
    async with client:
        return await call()


def _name_columns(*, show_texts: bool) -> list[str]:
    return ["msg_uid", "created_at", "status", "phone_number", "total_sms", *(["message_body"] if show_texts else [])]


def _format_record(record: SmsRecord, *, show_numbers: bool, show_texts: bool) -> list[object]:
    """Return the values of a record in the order of `_name_columns`; number and text only if they were asked for."""
    return [
        record.msg_uid,
        record.created_at and record.created_at.isoformat(" ", "seconds").replace("+00:00", "Z"),
        record.status,
        record.phone_number if show_numbers else mask_phone(record.phone_number),
        record.total_sms,
        *([record.message_body] if show_texts else []),
    ]
