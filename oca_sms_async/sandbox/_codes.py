"""The one-time password within a text."""

import re
from bisect import bisect, bisect_left
from collections.abc import Iterator
from typing import Final

# Groups of digits with one space or hyphen between them that are no part of an amount, a decimal or a number to call.
# Nothing is given back, and nothing begins within another: it takes no longer than the text is long.
_NUMBERS: Final = re.compile(r"(?<![\d.,+])(?<!\d[ -])\d++(?:[ -]\d++)*+(?![.,]\d)")
_GROUP: Final = re.compile(r"\d+")
_WORD: Final = re.compile(r"\b(?:code|kode|otp|pin|password|sandi|passcode|verif\w*)\b", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|\n")


def code_in(text: str) -> str | None:
    """Return the digits of the code in a text, or None.

    It has four to eight digits, or two halves of three or four. Of several numbers it is the one nearest to a word such
    as «kode», in the same sentence if there is one, and of two that are equally near the one after the word.
    """
    words = [word.span() for word in _WORD.finditer(text)]
    ends = [end.start() for end in _SENTENCE_END.finditer(text)]

    def distance(found: tuple[int, int, str]) -> tuple[int, int, bool]:
        start, end, _ = found
        after = bisect(words, (start, 0))  # the words from here on stand behind the number, those before it in front
        gaps = [(word[1], start, False) for word in words[max(0, after - 1) : after]]
        gaps += [(end, word[0], True) for word in words[after : after + 1]]
        return min(
            ((bisect_left(ends, b) - bisect_left(ends, a), b - a, behind) for a, b, behind in gaps),
            default=(0, 0, False),
        )

    code = min(_candidates(text), key=distance, default=None)
    return None if code is None else code[2]


def _candidates(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield where each number begins and ends that may be a code, and its digits."""
    for numbers in _NUMBERS.finditer(text):
        groups = _GROUP.findall(numbers[0])
        if len(groups) == 2 and all(3 <= len(group) <= 4 for group in groups):
            yield *numbers.span(), "".join(groups)
            continue
        # Beside a code there may be a duration, «482913 5 menit»; more than that is a date or a number to call.
        large = [group for group in _GROUP.finditer(text, *numbers.span()) if len(group[0]) > 2]
        if len(large) == 1 and 4 <= len(large[0][0]) <= 8 and (len(groups) == 1 or "-" not in numbers[0]):
            yield *large[0].span(), large[0][0]
