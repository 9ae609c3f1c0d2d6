"""The one-time password within a text."""

import re
from typing import Final

# Four to eight digits that stand alone; two halves of three or four may have a space or a hyphen between them.
_CODE: Final = re.compile(r"(?<![\d.,+])(?<!\d[ -])(\d{4,8}|\d{3,4}[ -]\d{3,4})(?![ -]?\d|[.,]\d)")
_WORD: Final = re.compile(r"\b(?:code|kode|otp|pin|password|sandi|passcode|verif\w*)\b", re.IGNORECASE)


_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|\n")


def code_in(text: str) -> str | None:
    """Return the digits of the code in a text, or None.

    Of several numbers it is the one nearest to a word such as «kode», in the same sentence if there is one.
    """
    words = [word.span() for word in _WORD.finditer(text)]

    def distance(found: re.Match[str]) -> tuple[int, int]:
        gaps = [sorted([found.span(), word]) for word in words]
        between = [(first[1], second[0]) for first, second in gaps]
        return min(((len(_SENTENCE_END.findall(text[a:b])), b - a) for a, b in between), default=(0, 0))

    found = min(_CODE.finditer(text), key=distance, default=None)
    return None if found is None else re.sub(r"\D", "", found[0])
