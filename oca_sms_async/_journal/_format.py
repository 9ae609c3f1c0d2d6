"""The bytes of a journal's file, without any access to it: a head, and a line for each commit."""

from typing import Final, Self
from zlib import crc32

from attrs import frozen

VERSION: Final = 3
_FORMAT: Final = b"oca-sms-journal"


class ForeignError(ValueError):
    """Another program's bytes are in the place of the head."""


class VersionError(ValueError):
    """The head is of another version of the format; `args` hold it."""


@frozen
class Head:
    """The first line of a file. The lines from `start` up to `end` are known to be on the disk and count.

    `salt` is for digests. The head fits into one sector, which a disk writes whole, so it can be written in place.
    """

    salt: bytes
    start: int
    end: int

    def encode(self) -> bytes:
        """Return the line, which has the same length for all values."""
        line = b"%s %d %s %020d %020d" % (_FORMAT, VERSION, self.salt.hex().encode(), self.start, self.end)
        return b"%s %08x\n" % (line, crc32(line))

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Return the head of a line.

        `ForeignError` for another program's bytes, `VersionError`, and another `ValueError` for damage.
        """
        words = line.split()
        if not line.startswith(_FORMAT):
            raise (ForeignError if line.strip(b"\0") else ValueError)
        if len(words) > 1 and words[1] != b"%d" % VERSION and words[1].isdigit():
            raise VersionError(words[1].decode())
        try:
            head = cls(bytes.fromhex(words[2].decode("ascii")), int(words[3]), int(words[4]))
        except IndexError:
            raise ValueError from None
        if line != head.encode():
            raise ValueError
        return head


HEAD_SIZE: Final = len(Head(bytes(16), 0, 0).encode())


def encode_line(content: bytes) -> bytes:
    """Return the line of a commit: a checksum and the content."""
    return b"%08x %s\n" % (crc32(content), content)


def decode_line(line: bytes) -> bytes | None:
    """Return the content of a line, or None for a torn or damaged line."""
    content = line[9:-1]
    return content if line == encode_line(content) else None
