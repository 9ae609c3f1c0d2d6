"""The template of `oca-sms bulk`: a text with columns in braces, filled for each row."""

import re
from typing import Any, Final

from oca_sms_async import InvalidMessageError
from oca_sms_async._messages import is_blank
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._workbook import Unreadable

# Two braces for one, a plain field, or a single brace. A name of digits alone would be a position.
_BRACES: Final = re.compile(r"\{\{|\}\}|\{(?!\s*\d*\s*\})([^{}!:.\[\]]+)\}|[{}]")
_SPREADSHEET_ERROR: Final = re.compile(r"#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!)")


def list_columns(template: str) -> list[str]:
    """Return the columns that a template needs, in its order, each once. `InputError` for any other brace."""
    found = list(_BRACES.finditer(template))
    if any(it[0] in {"{", "}"} for it in found):
        raise InputError("the template may hold {column}, with nothing else in the braces, and {{ or }} for a brace")
    return list(dict.fromkeys(it[1] for it in found if it[1]))


def fill(template: str, values: dict[str, Any]) -> str:
    """Return the text of one row. Braces in a value stay as they are.

    `InvalidMessageError` if a column is empty: a text without its code must not go out.
    """
    faults = []
    for name in list_columns(template):
        value = values.get(name)
        if value is None or (isinstance(value, str) and is_blank(value)):
            faults.append(f"the template needs column '{name}', which is empty")
        elif isinstance(value, str) and _SPREADSHEET_ERROR.fullmatch(value):
            faults.append(f"the template needs column '{name}', which has an error of a spreadsheet")
        elif isinstance(value, Unreadable):
            faults.append(value.fault)
        elif not is_plain(value):
            faults.append(f"column '{name}' must be a text in quotes, or a whole number")
    if faults:
        raise InvalidMessageError("; ".join(faults))
    return _BRACES.sub(lambda it: str(values[it[1]]) if it[1] else it[0][0], template)


def is_plain(value: object) -> bool:
    """Tell whether a value is a text or a whole number."""
    return isinstance(value, str | int) and not isinstance(value, bool)
