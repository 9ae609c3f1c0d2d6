"""The one-time password within a text."""

import re
from bisect import bisect, bisect_left
from collections.abc import Iterator
from typing import Final

# Groups of digits with one space or hyphen between them, outside of amounts, decimals and numbers to call.
# The expression never backtracks and no match begins within another: the time is linear in the text's length.
_NUMBERS: Final = re.compile(r"(?<![\d.,+])(?<!\d[ -])\d++(?:[ -]\d++)*+(?![.,]\d)")
_GROUP: Final = re.compile(r"\d+")
_WORD: Final = re.compile(r"\b(?:code|kode|otp|pin|password|sandi|passcode|verif\w*)\b", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|\n")


def find_code(text: str) -> str | None:
    """Return the digits of the code in a text, or `None`.

    A code has four to eight digits, or two halves of three or four. Of several numbers the nearest to a word like
    «kode» is taken, in the same sentence if there is one. Of two that are equally near, the one after the word is.
    """
    words = [word.span() for word in _WORD.finditer(text)]
    ends = [end.start() for end in _SENTENCE_END.finditer(text)]

    def measure(found: tuple[int, int, str]) -> tuple[int, int, bool]:
        start, end, _ = found
        after = bisect(words, (start, 0))  # words from here on stand behind the number
        gaps = [(word[1], start, False) for word in words[max(0, after - 1) : after]]
        gaps += [(end, word[0], True) for word in words[after : after + 1]]
        return min(
            ((bisect_left(ends, b) - bisect_left(ends, a), b - a, behind) for a, b, behind in gaps),
            default=(0, 0, False),
        )

    code = min(_find_candidates(text), key=measure, default=None)
    return None if code is None else code[2]


def _find_candidates(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and digits of each number that may be a code."""
    for numbers in _NUMBERS.finditer(text):
        groups = _GROUP.findall(numbers[0])
        if len(groups) == 2 and all(3 <= len(group) <= 4 for group in groups):
            yield *numbers.span(), "".join(groups)
            continue
        # A duration may stand beside a code, «482913 5 menit». More groups are a date or a number to call.
        large = [group for group in _GROUP.finditer(text, *numbers.span()) if len(group[0]) > 2]
        if len(large) == 1 and 4 <= len(large[0][0]) <= 8 and (len(groups) == 1 or "-" not in numbers[0]):
            yield *large[0].span(), large[0][0]
