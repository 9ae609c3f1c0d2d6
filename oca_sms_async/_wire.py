"""SMS Regular V1 without I/O: a request's parts out of a model, a model or an error out of an answer.

With `_refusals` the only room that knows a path, a field's name or a code of the gateway, and the only one that knows
cattrs. The vendor's documentation disagrees with itself in places (a field's name, the shape of the detail, the type of
a code, a day without its zero); each form of it is taken.
"""

import base64
import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import quote

from attrs import frozen

from oca_sms_async._errors import UnexpectedResponseError
from oca_sms_async._models import SendReceipt, SmsRecord
from oca_sms_async._refusals import code_of, refusal
from oca_sms_async._scrub import scrub

BASE_URL: Final = "https://sms.ocatelkom.co.id/api/v1"
_MAX_UID: Final = 1000
_MAX_HISTORY: Final = 64 * 2**20

_T = TypeVar("_T")
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(.*)", re.DOTALL)


@frozen
class Request(Generic[_T]):
    """One request to the gateway: `path` below the base URL, `body` in JSON or none, and how its answer is read.

    `parse(status_code, headers, body)` returns the model or raises the gateway's refusal; `body` is None if it was
    longer than `max_body` bytes or could not be decompressed.
    """

    method: str
    path: str
    parse: Callable[[int, Mapping[str, str], bytes | None], _T]
    body: bytes | None = None
    max_body: int = 2**20


def authorization(username: str, password: str) -> str:
    """Return the value of the Authorization header: HTTP Basic, UTF-8."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def send_request(phone: str, message: str) -> Request[SendReceipt]:
    """Return the request that sends `message` to `phone`, an E.164 number."""
    return Request("POST", "/sms", parse_receipt, json.dumps({"phone": phone, "message": message}).encode())


def history_request() -> Request[list[SmsRecord]]:
    """Return the request for the history: all of it, there is no paging."""
    return Request("GET", "/sms", parse_history, max_body=_MAX_HISTORY)


def status_request(msg_uid: str) -> Request[SmsRecord]:
    """Return the request for one message's record; `ValueError` for what cannot be an id."""
    if not isinstance(msg_uid, str) or not msg_uid.strip() or len(msg_uid) > _MAX_UID:
        raise ValueError(f"msg_uid must be a str, not blank, of at most {_MAX_UID} characters, as a receipt gave it")
    quoted = quote(msg_uid, safe="", errors="surrogatepass")
    # «.» and «..» would be taken for steps through the path.
    return Request(
        "GET", "/sms/status/" + (quoted.replace(".", "%2E") if set(quoted) == {"."} else quoted), parse_record
    )


def parse_receipt(status_code: int, headers: Mapping[str, str], body: bytes | None) -> SendReceipt:
    """Return the receipt of a send, or raise the gateway's refusal."""
    return _parse(status_code, headers, body, SendReceipt, about_sending=True)


def parse_history(status_code: int, headers: Mapping[str, str], body: bytes | None) -> list[SmsRecord]:
    """Return the records of the history, or raise the gateway's refusal."""
    return _parse(status_code, headers, body, list[SmsRecord], about_sending=False)


def parse_record(status_code: int, headers: Mapping[str, str], body: bytes | None) -> SmsRecord:
    """Return one message's record, or raise the gateway's refusal."""
    return _parse(status_code, headers, body, SmsRecord, about_sending=False)


def _parse(
    status_code: int, headers: Mapping[str, str], body: bytes | None, shape: type[_T], *, about_sending: bool
) -> _T:
    document, cause = _json(body)
    errors = document.get("errors") if isinstance(document, dict) else None
    if errors or not 200 <= status_code < 300:
        raise refusal(status_code, headers, body, errors, about_sending=about_sending)
    if cause is None:
        try:
            return cast(_T, _structure()(document, shape))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            cause = error
    raise UnexpectedResponseError(
        f"the gateway's answer (HTTP {status_code}) is not what it documents for this request"
    ) from scrub(cause, sys.exception())


def _json(body: bytes | None) -> tuple[Any, BaseException | None]:
    """Return the document, or None and why there is none."""
    if body is None:
        return None, ValueError("the body is too long, or cannot be decompressed")
    try:
        # A stray byte in some text is no reason to lose a receipt; a byte order mark is none either.
        return json.loads(body.decode("utf-8-sig", errors="replace")), None
    except (ValueError, RecursionError) as error:
        return None, error


def _text(value: Any, _: Any = None) -> str:
    """Return a text as it is: str() would make «None» of null, and a list's repr of a list."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _msg_uid(value: Any, _: Any = None) -> str:
    if not _text(value).strip():
        raise ValueError("msg_uid is blank")
    return _text(value)


def _receipt_status(value: Any, _: Any = None) -> str:
    """Return the word of a receipt; none for null and true, which say no more than that the message was taken."""
    return "" if value is None or value is True else _text(value)


def _optional_text(value: Any, _: Any = None) -> str | None:
    return value if isinstance(value, str) else None


def _date(value: Any, _: Any = None) -> datetime | None:
    """Return a date, day and month with or without their zeros, UTC where it names no zone; None if it cannot be
    read.
    """
    matched = _DAY.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        return None
    year, month, day, rest = matched.groups()
    try:
        date = datetime.fromisoformat(f"{year}-{month:0>2}-{day:0>2}{rest}")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _structuring() -> Callable[[Any, Any], Any]:
    """Return what makes a model of the gateway's JSON: unknown fields are ignored, loose ones have their hooks."""
    # With the first answer: a fifth of what importing this library would cost otherwise.
    import cattrs  # noqa: PLC0415 - see above
    from cattrs.gen import make_dict_structure_fn, override  # noqa: PLC0415 - as above

    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook_func(lambda kind: kind == str | None, _optional_text)
    converter.register_structure_hook_func(lambda kind: kind == int | None, lambda value, _: code_of(value))
    converter.register_structure_hook_func(lambda kind: kind == datetime | None, _date)
    uid = override(struct_hook=_msg_uid)
    word = override(struct_hook=_receipt_status)
    ours = override(omit=True)  # the gateway does not know of attempts
    to_receipt = make_dict_structure_fn(SendReceipt, converter, msg_uid=uid, status=word, attempts=ours)
    to_record = make_dict_structure_fn(SmsRecord, converter, msg_uid=uid)

    def receipt(value: Any, kind: Any) -> SendReceipt:
        """Take the word from `status`, as in the sample, or from `success`, as in the table."""
        word = value.get("status")
        return to_receipt({**value, "status": value.get("success") if word is None else word}, kind)

    def record(value: Any, kind: Any) -> SmsRecord:
        """Take a record wrapped in `data`, as in the sample, or flat, as in the table."""
        value = value["data"] if isinstance(value.get("data"), dict) else value
        return to_record({"created_at": None, "total_sms": None, **value}, kind)

    def records(value: Any, _: Any) -> list[SmsRecord]:
        if not isinstance(value, list):
            raise TypeError("not an array")
        return [record(row, SmsRecord) for row in value]

    converter.register_structure_hook(SendReceipt, receipt)
    converter.register_structure_hook(SmsRecord, record)
    converter.register_structure_hook_func(lambda kind: kind == list[SmsRecord], records)
    return converter.structure


_structure: Final = functools.cache(_structuring)
