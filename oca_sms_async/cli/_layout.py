"""The layout of a file of messages: its encoding, its delimiter, and the columns with numbers and texts."""

import io
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Final

from attrs import field, frozen
from cyclopts import Parameter

from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._template import list_columns

DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_INVISIBLE: Final = " \t\u00a0\ufeff\u200b\u2060"  # copied round a column's name
_LIKE_A_MESSAGE: Final = re.compile(r"\d{4}|.{40}", re.DOTALL)
_MOST_NAMES: Final = 20
_NEEDED: Final = ("phone", "message")


@Parameter(name="*")
@frozen(kw_only=True, slots=False)
class Layout:
    """How to read a file. Without the names of columns: phone, message, key and expires_at, in any case."""

    template: Annotated[
        str | None, Parameter(help='The text with its columns in braces: "Kode OTP {brand}: {code}".')
    ] = None
    phone_column: Annotated[str | None, Parameter(help="The name of the column of numbers.")] = None
    message_column: Annotated[str | None, Parameter(help="The name of the column of texts.")] = None
    key_column: Annotated[str | None, Parameter(help="The name of the column of keys.")] = None
    expires_at_column: Annotated[str | None, Parameter(help="The name of the column of expiry times.")] = None
    delimiter: Annotated[
        str | None, Parameter(help="Between the columns of a CSV: a character, or its name, as in `--delimiter tab`.")
    ] = None
    encoding: Annotated[
        str | None, Parameter(help="The encoding of the file, in Python's words, such as cp1252. Without it: UTF-8.")
    ] = None
    sheet: Annotated[str | None, Parameter(help="The sheet of a workbook. Without it: the first one.")] = None

    def check(self) -> None:
        """Raise `InputError` for values that fit no file."""
        self.find_delimiter()
        _ = self.template_columns
        if self.encoding is not None:
            try:
                io.TextIOWrapper(io.BytesIO(), self.encoding)
            except (LookupError, ValueError):
                raise InputError("--encoding must name a text encoding of Python's, such as cp1252") from None

    def find_delimiter(self) -> str | None:
        """Return the delimiter that was asked for."""
        if self.delimiter is None:
            return None
        names = {"\\t": "\t"} | {name: char for char, name in DELIMITERS.items()}
        char = names.get(self.delimiter.lower(), self.delimiter)
        if len(char) != 1 or char.isalnum() or char in ' "\r\n':
            raise InputError(f"--delimiter must be one character, or one of {', '.join(DELIMITERS.values())}")
        return char

    @cached_property
    def template_columns(self) -> list[str]:
        """The columns that the template needs."""
        return [] if self.template is None else list_columns(self.template)

    def find_columns(self, names: Sequence[str]) -> "Columns":
        """Find the columns among the names of a file."""
        needed = {"phone": self.phone_column or "phone"}
        optional = {"key": self.key_column or "key", "expires_at": self.expires_at_column or "expires_at"}
        if self.template is None:
            needed["message"] = self.message_column or "message"
        asked = {self.key_column, self.expires_at_column}
        places = {role: _find(names, name) for role, name in {**needed, **optional}.items()}
        template = {name: _find(names, name) for name in self.template_columns}
        wanted = {name: places[role] for role, name in {**needed, **optional}.items()} | template
        missing = [
            name for name, found in wanted.items() if not found and (name not in optional.values() or name in asked)
        ]
        return Columns(
            roles={role: found[0] for role, found in places.items() if found},
            template={name: found[0] for name, found in template.items() if found},
            names=[*names],
            missing=[*dict.fromkeys(missing)],
            doubled=[name for name, found in wanted.items() if len(found) > 1],
        )


@frozen
class Columns:
    """The places of the columns in a file: by their role, and by their name in the template."""

    roles: dict[str, int]
    template: dict[str, int]
    names: list[str]
    missing: list[str] = field(factory=list)
    doubled: list[str] = field(factory=list)

    def check(self) -> None:
        """Raise `InputError` if a needed column is missing, or there twice."""
        if self.missing:
            wanted = ", ".join(f"'{name}'" for name in self.missing)
            raise InputError(f"the first line must name the columns and does not name {wanted}; {self._describe()}")
        if self.doubled:
            names = ", ".join(f"'{name}'" for name in self.doubled)
            raise InputError(f"the first line names a column more than once: leave one of each: {names}")

    def name(self, role: str) -> str:
        """Return a column's role, with its name in the file if that is another."""
        found = self.names[self.roles[role]] if role in self.roles else role
        return role if found.casefold() == role else f"{role} (column '{found}')"

    def _describe(self) -> str:
        """Return the names that are there. In a file without a header they are a message, and not shown."""
        names = [it for it in self.names if it]
        if any(_LIKE_A_MESSAGE.search(it) for it in names):
            return "it looks like a message: write a line with the names above it"
        more = ", …" if len(names) > _MOST_NAMES else ""
        options = " and ".join(f"--{role}-column" for role in _NEEDED if role in self.missing)
        advice = f"; name yours with {options}" if options else ""
        return "it names " + ", ".join(f"'{it}'" for it in names[:_MOST_NAMES]) + more + advice


def clean_names(names: Sequence[object]) -> list[str]:
    """Return the names of columns without spaces and invisible characters round them."""
    return ["" if name is None else str(name).strip(_INVISIBLE) for name in names]


def _find(names: Sequence[str], wanted: str) -> list[int]:
    """Return the places of a name, in its own case if it is there so, else in any case."""
    wanted = wanted.strip(_INVISIBLE)
    exact = [place for place, name in enumerate(names) if name == wanted]
    return exact or [place for place, name in enumerate(names) if name.casefold() == wanted.casefold()]
