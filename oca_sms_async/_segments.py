"""How many SMS segments a text takes, and what the networks of Indonesia do to it (alphabet: 3GPP TS 23.038)."""

import unicodedata
from collections.abc import Iterable
from typing import Final, Literal

from attrs import frozen

# 3GPP TS 23.038, 6.2.1, in the order of the codes; 0x1B, the escape to the extension table, is no character.
_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# 3GPP TS 23.038, 6.2.1.1: each is sent as the escape and one septet more.
_EXTENSION: Final = frozenset("\f^{}\\[~]|€")
_GSM7: Final = _BASIC | _EXTENSION

_NAMED_AT_MOST: Final = 3


@frozen
class Segments:
    """The size of a text on the air.

    `encoding` is the alphabet that the whole text needs; `units` its length, in septets for GSM-7 and in UTF-16 code
    units for UCS-2; `count` the number of SMS segments it takes, 0 for an empty text.
    """

    encoding: Literal["GSM-7", "UCS-2"]
    units: int
    count: int


@frozen
class Advice:
    """One thing that the networks may do to a text.

    `code` is stable: `not-gsm7`, `extension-characters`, `several-segments` or `brand-missing`. `text` is a sentence
    for people that is safe to log: it names at most three characters of a kind, and never a digit of the message.
    """

    code: str
    text: str


def segments(text: str) -> Segments:
    """Count the segments of a text, which is GSM-7 if every character of it is in that alphabet and UCS-2 otherwise.

    One segment holds 160 septets or 70 UTF-16 code units; each of several holds 153 or 67, since a header takes the
    rest. Neither an escape pair nor a surrogate pair is split over two segments. A lone surrogate counts one unit. The
    national language tables are not used. Raises `TypeError` if `text` is no `str`.
    Source: 3GPP TS 23.038, and TS 23.040, 9.2.3.24, for the header.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    if _GSM7.issuperset(text):
        units = len(text) + sum(map(text.count, _EXTENSION))
        return Segments("GSM-7", units, _count(units, (1 + (char in _EXTENSION) for char in text), 160, 153))
    # Two halves that stand side by side become one character on the wire, so they are one here as well.
    encoded = text.encode("utf-16-le", "surrogatepass")
    joined = encoded.decode("utf-16-le", "surrogatepass")
    units = len(encoded) // 2
    return Segments("UCS-2", units, _count(units, (1 + (char > "\uffff") for char in joined), 70, 67))


def _count(units: int, widths: Iterable[int], alone: int, concatenated: int) -> int:
    """Pack characters of these widths: `alone` units fit in a single segment, `concatenated` in each of several."""
    if units <= alone:
        return min(units, 1)
    # A plain division would be short by one where a pair that must stay whole leaves the end of a segment empty.
    count = room = 0
    for width in widths:
        if width > room:
            count += 1
            room = concatenated
        room -= width
    return count


def check_message(text: str, *, brand: str | None = None) -> list[Advice]:
    """Say what the networks of Indonesia may do to a text; the list is empty if there is nothing to say.

    The order is that of the list at `Advice`. `brand` is the name that an OTP has to show, in whatever case: it is
    Telkomsel's policy since April 2024 to block an OTP without it. None leaves that out. Raises `TypeError` if `text`
    or `brand` is no `str`, `ValueError` if `brand` is blank.
    Source: Vonage's and Twilio's notes on sending to Indonesia; nothing of it is promised by the networks.
    """
    size = segments(text)
    if brand is not None and not isinstance(brand, str):
        raise TypeError(f"brand must be a str or None, not {type(brand).__name__}")
    if brand is not None and not brand.strip():
        raise ValueError("brand must not be blank")
    # No sentence brings a number of its own: whoever finds digits in a log should not have to ask if they are an OTP.
    advice = []
    if foreign := set(text) - _GSM7:
        sentence = f"Indonesian networks do not officially support more than the GSM alphabet: {_names(foreign)}."
        advice.append(Advice("not-gsm7", sentence))
    if extension := _EXTENSION.intersection(text):
        sentence = f"Characters of the GSM extension table are often problematic in Indonesia: {_names(extension)}."
        advice.append(Advice("extension-characters", sentence))
    if size.count > 1:
        sentence = "The text takes more than one segment, and not every network delivers a concatenated message."
        advice.append(Advice("several-segments", sentence))
    if brand is not None and brand.strip().casefold() not in text.casefold():
        sentence = "The text does not contain the brand's name, and Telkomsel may block an OTP without it."
        advice.append(Advice("brand-missing", sentence))
    return advice


def _names(chars: set[str] | frozenset[str]) -> str:
    """Name a few of the characters, by Unicode name or else by code point."""
    # Sorted, for the order of appearance would spell a code out; and a numeral of any script may be a part of one.
    names = [unicodedata.name(char, f"U+{ord(char):04X}") for char in sorted(chars) if not char.isnumeric()]
    shown = names[:_NAMED_AT_MOST]
    if len(names) < len(chars):
        shown.append("numerals of another script")
    if len(names) > _NAMED_AT_MOST:
        shown.append("and more")
    return ", ".join(shown)
