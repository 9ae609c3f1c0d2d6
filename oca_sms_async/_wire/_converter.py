"""Values to JSON and back: a cattrs converter, made from an API's table of fields."""

import contextlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

import attrs
from attrs import define, field, frozen

from oca_sms_async._log import log
from oca_sms_async._models import SmsRecord
from oca_sms_async._phone import mask_phone
from oca_sms_async._wire._json import whole_number

_T = TypeVar("_T")
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(.*)", re.DOTALL)


@define(eq=False)  # not frozen, for the reason that `Request` gives
class Submission:
    """A message as it goes to the gateway: an E.164 number, a text, and a sender where the API has one."""

    phone: str = field(repr=mask_phone)
    message: str = field(repr=False)
    sender_id: str | None = field(default=None, repr=False)


@frozen
class Field:
    """The wire's names for one field of ours, and a hook for a value that is not simply of the field's type.

    All names are written. The first name that has a value is read; null counts as no value.
    """

    names: tuple[str, ...]
    read: Callable[[Any, Any], Any] | None = None


@frozen
class Shape:
    """The row of an API's table for one model. A field of the model that has no entry is not on the wire.

    `inside` is the key of an envelope that may be round the document.
    """

    model: type[attrs.AttrsInstance]
    fields: Mapping[str, Field]
    inside: str = ""


class Converter(Protocol):
    """The part of `cattrs.Converter` that is used after it was made."""

    def structure(self, obj: Any, cl: type[_T], /) -> _T:
        """Make a model from JSON; a `ValueError`, `KeyError`, `TypeError` or `AttributeError` if it does not fit."""

    def unstructure(self, obj: Any, /) -> Any:
        """Make JSON from a model."""


def spell(*names: str, read: Callable[[Any, Any], Any] | None = None) -> Field:
    """Return the entry of a table for a field that the wire spells so, or in one of several ways."""
    return Field(names, read)


def make_converter(shapes: tuple[Shape, ...]) -> Converter:
    """Return the converter for these shapes. It ignores fields that no table names."""
    # Imported with the first client and not with the package: it would make up a fifth of the package's import time.
    import cattrs  # noqa: PLC0415 - see above
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override  # noqa: PLC0415 - as above

    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook(str, read_text)
    converter.register_structure_hook_func(lambda kind: kind == str | None, _read_optional_text)
    converter.register_structure_hook_func(lambda kind: kind == int | None, lambda value, _: whole_number(value))
    converter.register_structure_hook_func(lambda kind: kind == datetime | None, _read_date)
    converter.register_structure_hook_func(lambda kind: kind == list[SmsRecord], _reader_of_rows(converter))
    for shape in shapes:
        overrides: dict[str, Any] = {
            name: override(rename=entry.names[0], struct_hook=entry.read) for name, entry in shape.fields.items()
        }
        ours = {it.name for it in attrs.fields(shape.model)} - overrides.keys()
        overrides.update((name, override(omit=True)) for name in ours)
        read = make_dict_structure_fn(shape.model, converter, **overrides)
        write = make_dict_unstructure_fn(shape.model, converter, **overrides)
        converter.register_structure_hook(shape.model, _reader(shape, read))
        converter.register_unstructure_hook(shape.model, _writer(shape, write))
    return converter


def _reader(shape: Shape, read: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return `read` behind a step that opens the envelope and brings each value under the first of its names."""
    absent = {entry.names[0]: None for entry in shape.fields.values()}
    several = [entry.names for entry in shape.fields.values() if len(entry.names) > 1]

    def structure(document: Any, kind: Any) -> Any:
        if shape.inside and isinstance(document.get(shape.inside), dict):
            document = document[shape.inside]
        found = {**absent, **document}
        for first, *others in several:
            if found[first] is None:
                found[first] = next((found[name] for name in others if found.get(name) is not None), None)
        return read(found, kind)

    return structure


def _reader_of_rows(converter: Converter) -> Callable[[Any, Any], list[SmsRecord]]:
    """Return the hook for a history. Of itself, cattrs would take any iterable, a str among them.

    One broken row must not hide all others, which may settle a doubt: it is skipped, and the log has the count. A
    history of nothing but broken rows is no history.
    """

    def structure(rows: Any, _: Any) -> list[SmsRecord]:
        if not isinstance(rows, list):
            raise TypeError("not an array")
        records = []
        for row in rows:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                records.append(converter.structure(row, SmsRecord))
        if broken := len(rows) - len(records):
            if not records:
                raise ValueError("no row is a record")
            log("history.broken", broken=broken, rows=len(rows))
        return records

    return structure


def _writer(shape: Shape, write: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Return `write` with a step behind it that repeats a value under the rest of its names."""
    copies = [(name, entry.names[0]) for entry in shape.fields.values() for name in entry.names[1:]]
    if not copies:
        return write

    def unstructure(model: Any) -> dict[str, Any]:
        document = write(model)
        return {**document, **{name: document[first] for name, first in copies}}

    return unstructure


def read_text(value: Any, _: Any = None) -> str:
    """Return a text as it is: `str()` would make «None» of null, and a list's repr of a list."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def read_text_or_nothing(value: Any, _: Any = None) -> str:
    """Return a text, or an empty one where the API gives none."""
    return "" if value is None else read_text(value)


def read_msg_uid(value: Any, _: Any = None) -> str:
    """Return an id that can be looked up."""
    if not read_text(value).strip():
        raise ValueError("msg_uid is blank")
    return read_text(value)


def read_receipt_status(value: Any, _: Any = None) -> str:
    """Return the word of a receipt. It is empty for null and true, which say only that the message was taken."""
    return "" if value is None or value is True else read_text(value)


def _read_optional_text(value: Any, _: Any = None) -> str | None:
    return value if isinstance(value, str) else None


def _read_date(value: Any, _: Any = None) -> datetime | None:
    """Return an aware date, or `None` if it cannot be read.

    Day and month come with or without their zeros. A date without a zone is UTC.
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
