"""How many SMS segments a text takes, and how Indonesian networks may treat it (alphabet: 3GPP TS 23.038)."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final, Literal

from attrs import frozen

# 3GPP TS 23.038, 6.2.1, in the order of the codes. 0x1B is no character: it is the escape to the extension table.
_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# 3GPP TS 23.038, 6.2.1.1. Each is sent as the escape and one more septet.
_EXTENSION: Final = frozenset("\f^{}\\[~]|€")
_GSM7: Final = _BASIC | _EXTENSION
# One search tells most texts apart. It is as fast as one look at each set above, and a long list has many texts.
_NOT_BASIC: Final = re.compile(f"[^{re.escape(''.join(sorted(_BASIC)))}]")

_NAMED_AT_MOST: Final = 3


@frozen
class Segments:
    """The size of a text on the air.

    `encoding` is the alphabet that the whole text needs. `units` is its length: septets for GSM-7, UTF-16 code units
    for UCS-2. `count` is the number of SMS segments, 0 for an empty text.
    """

    encoding: Literal["GSM-7", "UCS-2"]
    units: int
    count: int


@frozen
class Advice:
    """One reason why a text may arrive late, damaged or not at all.

    `code` is stable: `not-gsm7`, `extension-characters`, `several-segments` or `brand-missing`. `text` is a sentence
    for people. It is safe to log: it names at most three characters of a kind, and never a digit of the message.
    """

    code: str
    text: str


def segments(text: str) -> Segments:
    """Count the segments of a text. It is GSM-7 if that alphabet has all its characters, and UCS-2 otherwise.

    One segment holds 160 septets or 70 UTF-16 code units. Each of several holds 153 or 67, since a header takes the
    rest. Neither an escape pair nor a surrogate pair is split over two segments. A lone surrogate counts one unit. The
    national language tables are not used. Raises `TypeError` if `text` is no `str`.
    Source: 3GPP TS 23.038, and TS 23.040, 9.2.3.24, for the header.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    if _NOT_BASIC.search(text) is None:
        return Segments("GSM-7", len(text), _count(len(text), (1 for _ in text), 160, 153))
    if _GSM7.issuperset(text):
        units = len(text) + sum(map(text.count, _EXTENSION))
        return Segments("GSM-7", units, _count(units, (1 + (char in _EXTENSION) for char in text), 160, 153))
    # Two halves side by side become one character on the wire, so they count as one here.
    encoded = text.encode("utf-16-le", "surrogatepass")
    joined = encoded.decode("utf-16-le", "surrogatepass")
    units = len(encoded) // 2
    return Segments("UCS-2", units, _count(units, (1 + (char > "\uffff") for char in joined), 70, 67))


def _count(units: int, widths: Iterable[int], alone: int, concatenated: int) -> int:
    """Pack characters of these widths. A single segment holds `alone` units, each of several `concatenated` units."""
    if units <= alone:
        return min(units, 1)
    # Not a plain division: a pair must stay whole, so it may leave the last unit of a segment empty.
    count = room = 0
    for width in widths:
        if width > room:
            count += 1
            room = concatenated
        room -= width
    return count


def check_message(text: str, *, brand: str | None = None) -> list[Advice]:
    """Advise on how Indonesian networks may treat a text. The list is empty if there is no advice.

    The order is that of the codes in `Advice`. `brand` is the name that an OTP must show, in any case: since April 2024
    Telkomsel blocks an OTP without it. `None` skips this check. Raises `TypeError` if `text` or `brand` is no `str`,
    and `ValueError` if `brand` is blank.
    Source: Vonage's and Twilio's notes on sending to Indonesia. The networks promise nothing.
    """
    size = segments(text)
    if brand is not None and not isinstance(brand, str):
        raise TypeError(f"brand must be a str or None, not {type(brand).__name__}")
    if brand is not None and not brand.strip():
        raise ValueError("brand must not be blank")
    return advise(text, size, brand)


def advise(text: str, size: Segments, brand: str | None) -> list[Advice]:
    """Return the advice of `check_message` about a text of this size."""
    # Our sentences contain no digits, so digits in a log never come from here.
    advice = []
    characters = frozenset(text if _NOT_BASIC.search(text) else "")
    if foreign := characters - _GSM7:
        sentence = f"Indonesian networks do not officially support more than the GSM alphabet: {_names(foreign)}."
        advice.append(Advice("not-gsm7", sentence))
    if extension := _EXTENSION & characters:
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
    """Name up to three of the characters, by Unicode name or else by code point."""
    # Sorted: the order of appearance would spell a code out. Without numerals of any script: they may be part of one.
    names = [unicodedata.name(char, f"U+{ord(char):04X}") for char in sorted(chars) if not char.isnumeric()]
    shown = names[:_NAMED_AT_MOST]
    if len(names) < len(chars):
        shown.append("numerals of another script")
    if len(names) > _NAMED_AT_MOST:
        shown.append("and more")
    return ", ".join(shown)
