"""Recipients' numbers in all their spellings; the only room that imports phonenumbers.

A number is digits in groups. One space, `-` or `.` parts two groups, and may stand beside a parenthesis. A `+` stands
only before the first digit. Parentheses enclose one group: the first, or the second behind a country code. A group has
at least two digits, except a country code behind its `+`. Any other text is refused: a lone digit may be a decimal, a
footnote or the number of a list, and the message would reach a stranger.
"""

import contextlib
import re
import unicodedata
from typing import Final

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType, ValidationResult

# ASCII only. phonenumbers alone reads letters as digits: «0812 ABCD EFGH» is a real number. It also drops an extension
# in silence. Both ways the message reaches a stranger.
_SPELLING: Final = re.compile(
    r"(?:\+?(?P<bare>[0-9]+)(?P<second>[ .-]?\([0-9]{2,}\))?|(?:\(\+?|\+\()(?P<enclosed>[0-9]+)\))"
    r"(?:(?:(?<=\))[ .-]?|[ .-])[0-9]{2,})*"
)
# Spaces, no-break spaces, zero-width characters and direction marks. Spreadsheets and chats copy them round a number.
_MARGIN: Final = (
    " \u00a0\u2007\u202f\u200b\u200c\u200d\u2060\ufeff"
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_MOBILE: Final = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)
_CALLING_CODES: Final = frozenset(map(str, phonenumbers.COUNTRY_CODE_TO_REGION_CODE))
_DECIMAL: Final = "has a decimal point: was this column a number in a spreadsheet?"
# The faults of a spelling. The first that is found is told.
_FAULTS: Final = [
    (re.compile(pattern), words)
    for pattern, words in (
        (r"\A\Z", "is empty"),
        (r"\A[0-9.,]+[eE][+-]?[0-9]+\Z", "has an exponent: was this column a number in a spreadsheet?"),
        (r"\A\+?[0-9]+\.[0-9]\Z", _DECIMAL),
        (
            r"[^0-9+ .()-]",
            "has {char} {place}: it may hold digits, a leading '+', spaces and '-', '.', '(', ')', nothing else",
        ),
        (r"\A[^0-9]*\Z", "has no digit"),
        (r"(?!\A)(?<!\A\()\+|\+(?!\(?[0-9])", "has a '+' that is not before its first digit"),
        (
            r"(?<![0-9])(?<!\A\+)(?<!\A\(\+)(?<!\A\+\()[0-9](?![0-9])\)?",
            "has a single digit {place}, apart from the others",
        ),
        (r"[ .-]{2}|\A[ .-]|[ .-]\Z", "has a space, '-' or '.' too many {place}"),
        (r"", "has parentheses that do not enclose one group, the first or the one behind the country code"),
    )
]
_INDONESIA: Final = 62
REGIONS: Final = phonenumbers.SUPPORTED_REGIONS


def read_phone(phone: str, region: str) -> str:
    """Return a number in any spelling as E.164. `ValueError` gives the reason and never shows the number."""
    written = phone.strip(_MARGIN)
    if oddity := _find_oddity(written, region):
        raise ValueError(f"phone {oddity}")
    number = _read(re.sub(r"[^0-9+]", "", written), region)
    if number is None:
        raise ValueError("phone is not a possible number: give the country code and the whole number")
    if not _is_possible(number):
        raise ValueError("phone is not a possible mobile number of its country: count its digits")
    if number.country_code == _INDONESIA and not str(number.national_number).startswith("8"):
        raise ValueError(
            "phone is not a possible mobile number of Indonesia: it begins with 8 behind one country code, 62"
        )
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def _find_oddity(written: str, region: str) -> str | None:
    """Return a description of the first fault in a spelling, or `None`. It never shows a digit or a letter."""
    spelling = _SPELLING.fullmatch(written)
    if spelling is None:
        return _describe_fault(written)
    has_plus = "+" in written
    code = spelling["bare"] or spelling["enclosed"]
    is_code = code in _CALLING_CODES if has_plus else code == str(phonenumbers.country_code_for_region(region))
    if len(code) == 1 and not (has_plus and is_code):
        return "has a single digit at the front, apart from the others"
    if spelling["second"] and not is_code:
        return "has parentheses round its second group, and the first is no country code"
    return _DECIMAL if _is_decimal(written, region) else None


def _describe_fault(written: str) -> str:
    """Describe the first fault of a text that is no spelling of a number."""
    found, words = next((found, words) for pattern, words in _FAULTS if (found := pattern.search(written)))
    place = "at the front" if found.start() == 0 else "at the end" if found.end() == len(written) else "in the middle"
    return words.format(char=_name(found[0]) if "{char}" in words else "", place=place)


def _name(char: str) -> str:
    """Name a character that does not belong in a number, without showing a letter or a digit."""
    match unicodedata.category(char)[0]:
        case "L" | "M":
            return "a letter"
        case "N":
            return "a digit of another script"
        case "C" | "Z":
            return f"a character that cannot be seen, U+{ord(char):04X},"
        case _:
            return f"the character {char!r}" if char.isascii() else f"the character U+{ord(char):04X}"


def _is_decimal(written: str, region: str) -> bool:
    """Tell whether a whole number is followed by a point and zeros, as a spreadsheet writes «811234567.00»."""
    whole, point, decimals = written.partition(".")
    if not point or decimals.strip("0") or re.search("[^0-9+]", whole):
        return False
    number = _read(whole, region)
    return number is not None and _is_possible(number)


def _read(digits: str, region: str) -> phonenumbers.PhoneNumber | None:
    """Return the number that these digits mean, with or without a plus in front, or `None`."""
    number = _parse(digits, region)
    if number is None or "+" in digits or not str(number.national_number).startswith(str(number.country_code)):
        return number
    # «62 811 234 567» begins with the country code, and yet is short enough for a number without it. It is read with
    # the code, unless it is a mobile number without it.
    with_code = _parse("+" + digits, None)
    if with_code is not None and _is_possible(with_code) and phonenumbers.number_type(number) not in _MOBILE:
        return with_code
    return number


def _parse(digits: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    with contextlib.suppress(phonenumbers.NumberParseException):
        return phonenumbers.parse(digits, region)
    return None


def _is_possible(number: phonenumbers.PhoneNumber) -> bool:
    reason = phonenumbers.is_possible_number_for_type_with_reason(number, PhoneNumberType.MOBILE)
    return reason == ValidationResult.IS_POSSIBLE and not _keeps_trunk_zero(number)


def _keeps_trunk_zero(number: phonenumbers.PhoneNumber) -> bool:
    """Tell whether a dialling zero was read as part of the number, as in «0062 812 …». Indonesia does not dial 00."""
    region = phonenumbers.region_code_for_country_code(number.country_code or 0)
    country = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    return bool(number.italian_leading_zero) and country is not None and country.national_prefix == "0"
