"""A table of numbers or keys that were seen, in 16 bytes a place: a file of any length must not fill the memory."""

from array import array
from typing import Final

_FIRST_BITS: Final = 10  # of a place: the size is a power of two
_MIX: Final = 0x9E3779B97F4A7C15  # spreads neighbours, such as the numbers of one prefix, over the table
_WORD: Final = (1 << 64) - 1


class SeenTable:
    """Remembers for each number the content that it came with first. Its `len` is the count of numbers.

    Both are integers of 64 bits, and the number is not 0.
    """

    def __init__(self) -> None:
        self._count = 0
        self._make(_FIRST_BITS)

    def __len__(self) -> int:
        return self._count

    def see(self, number: int, content: int) -> int | None:
        """Return the content that a number came with first, or None if it comes for the first time."""
        numbers = self._numbers
        place = (number * _MIX & _WORD) >> self._shift
        while found := numbers[place]:
            if found == number:
                return self._contents[place]
            place = place + 1 & self._last
        numbers[place], self._contents[place] = number, content
        self._count += 1
        if self._count > self._room:
            self._grow()
        return None

    def _make(self, bits: int) -> None:
        self._shift, self._last, self._room = 64 - bits, (1 << bits) - 1, (2 << bits) // 3
        self._numbers, self._contents = array("q", bytes(8 << bits)), array("q", bytes(8 << bits))

    def _grow(self) -> None:
        numbers, contents = self._numbers, self._contents
        self._count = 0
        self._make(65 - self._shift)
        for number, content in zip(numbers, contents, strict=True):
            if number:
                self.see(number, content)
