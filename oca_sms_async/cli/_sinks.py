"""Where the lines of outcomes go: into a file, or into a stream such as a pipe. Both end in the order of the rows."""

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from oca_sms_async.cli._line_starts import LineStarts
from oca_sms_async.cli._staged_file import StagedFile

# The system's names for a stream that is open already. To open it once more would empty a file behind it.
_OPEN_STREAM: Final = re.compile(r"/dev/(?:std(?:in|out|err)|fd/([0-9]+))|/proc/self/fd/([0-9]+)")
_STANDARD: Final = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


class Sink(Protocol):
    """Takes one line for each row.

    `error` is the first failure to write. `unwritten` are the lines that are not written; `close` tries them again.
    """

    error: OSError | None
    unwritten: dict[int, bytes]
    knows_early: bool  # True if it takes lines of rows that are far ahead, before the run begins

    def has(self, row: int) -> bool:
        """Tell whether this row's line was given."""
        ...

    def write(self, row: int, line: bytes) -> None:
        """Take a row's line, in any order of the rows. The operating system has it before this returns."""
        ...

    def keep(self) -> None:
        """Let the lines so far take the place of older ones. `OSError` if that fails."""
        ...

    def close(self) -> None:
        """Bring all lines in the order of the rows."""
        ...


def open_sink(path: Path, head: bytes) -> Sink:
    """Return the sink of a path. `head` comes before all lines."""
    descriptor = find_open_stream(path)
    if descriptor is not None:
        return StreamSink(os.dup(descriptor), head)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        return StreamSink(os.open(target, os.O_WRONLY), head)
    return FileSink(target, head)


def find_open_stream(path: Path) -> int | None:
    """Return the descriptor behind a name like /dev/stdout. For any other path it is `None`."""
    found = _OPEN_STREAM.fullmatch(str(path))
    return None if found is None else _STANDARD.get(found[0], int(found[1] or found[2] or 0))


class StreamSink:
    """A pipe, a terminal or a device. A line that is ahead of its turn waits in `unwritten`."""

    knows_early = False

    def __init__(self, descriptor: int, head: bytes) -> None:
        self.error: OSError | None = None
        self.unwritten: dict[int, bytes] = {}
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._next = 1
        self._head = head

    def has(self, row: int) -> bool:
        """Tell whether this row's line was given."""
        return row < self._next or row in self.unwritten

    def write(self, row: int, line: bytes) -> None:
        """Take a row's line, and write all lines whose turn has come."""
        self.unwritten[row] = line
        while self._next in self.unwritten and self._put(self._next):
            self._next += 1

    def keep(self) -> None:
        """Do nothing: a stream has no older lines."""

    def close(self) -> None:
        """Write the lines that still wait; the rows between them have no outcome."""
        with self._file:
            for row in sorted(self.unwritten):
                self._put(row)

    def _put(self, row: int) -> bool:
        try:
            _write(self._file, self._head + self.unwritten[row])
        except OSError as error:
            self.error = self.error or error
            return False
        self._head = b""
        del self.unwritten[row]
        return True


class FileSink:
    """A file. Lines are written as they come, so that a kill loses no line. They are sorted at the end."""

    knows_early = True

    def __init__(self, path: Path, head: bytes) -> None:
        self.error: OSError | None = None
        self.unwritten: dict[int, bytes] = {}
        self._path = path
        self._head = head
        self._kept = False
        self._has = bytearray()  # 1 at the place of each row with a line
        self._end = len(head)
        self._last = 0
        self._is_sorted = True
        self._can_be_sorted = True
        with contextlib.ExitStack() as undo:
            self._starts = undo.enter_context(contextlib.closing(LineStarts()))
            self._staged = undo.enter_context(contextlib.closing(StagedFile(path)))
            _write(self._staged.stream, head)
            undo.pop_all()

    def has(self, row: int) -> bool:
        """Tell whether this row's line was given."""
        return row in self.unwritten or (row <= len(self._has) and self._has[row - 1] == 1)

    def write(self, row: int, line: bytes) -> None:
        """Write a row's line behind the others."""
        stream = self._staged.stream
        try:
            _write(stream, line)
        except OSError as error:
            self.error = self.error or error
            self.unwritten[row] = line
            with contextlib.suppress(OSError):  # a part of the line may be there, and no other may follow it
                stream.truncate(self._end)
                stream.seek(self._end)
            return
        self.unwritten.pop(row, None)
        self._has.extend(bytes(max(0, row - len(self._has))))
        self._has[row - 1] = 1
        try:
            self._starts.add(row, self._end)
        except OSError as error:
            self.error, self._can_be_sorted = self.error or error, False
        self._end += len(line)
        self._is_sorted = self._is_sorted and row > self._last
        self._last = row

    def keep(self) -> None:
        """Put the new file in the place of the old one; later lines go to it as well."""
        self._staged.commit()
        self._kept = True

    def close(self) -> None:
        """Sort the lines by row; delete a new file that was not kept."""
        for row, line in [*self.unwritten.items()]:
            self.write(row, line)
        # On a full disk the lines stay in the order in which they came.
        with contextlib.closing(self._starts), contextlib.closing(self._staged), contextlib.suppress(OSError):
            if self._kept and self._can_be_sorted and not self._is_sorted:
                self._sort()

    def _sort(self) -> None:
        with contextlib.closing(StagedFile(self._path)) as staged, self._path.open("rb") as lines:
            _write(staged.stream, self._head)
            for start in self._starts:
                lines.seek(start)
                _write(staged.stream, lines.readline())
            staged.commit()


def _write(stream: BinaryIO, data: bytes) -> None:
    """Write all of the data: a pipe or a disk that is nearly full may take a part at a time."""
    rest = memoryview(data)
    while rest:
        count = stream.write(rest)
        if count is None:  # a stream that does not block, and is full
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        rest = rest[count:]
