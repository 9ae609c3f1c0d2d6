"""The journal's file: lines of text that are appended and never changed, one line for each commit.

The file alone must be enough. SQLite needs a second file beside it to keep a commit whole, and a mount or a copy of the
journal alone loses that file. Here a commit is one line with a checksum. A crash in the middle of a line leaves a line
that does not count. No caller heard of it, because a commit returns after fsync.

The head tells which lines are known to be on the disk. They must be right, else the file is damaged. Only lines behind
them may be torn.

The file stays the same file even when it gets shorter. A new file in its place could not be seen through the mount of a
single file: a run there would go on with the old one, and send again.
"""

import contextlib
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from attrs import evolve

from oca_sms_async._journal._format import (
    HEAD_SIZE,
    VERSION,
    ForeignError,
    Head,
    VersionError,
    decode_line,
    encode_line,
)
from oca_sms_async._journal._locked_file import LockedFile

_BUFFER: Final = 1 << 20
_DAMAGED: Final = "it is damaged: restore a copy of it, for a new journal would send every message again"


class JournalFile:
    """The commits of a journal. Each trouble with the file is a `JournalError` that names it and a remedy.

    A `broken` file may differ from the disk, so it must be opened anew.
    """

    def __init__(self, path: Path) -> None:
        self._file = LockedFile(path)
        self.error = self._file.error
        self.explain_errors = self._file.explain_errors
        self.is_in_place = self._file.is_in_place
        with contextlib.ExitStack() as undo, self.explain_errors():
            undo.callback(self._file.close)
            self._head = self._read_head()
            self._end = self._head.end  # of the lines that count
            self._file.protect()
            undo.pop_all()

    @property
    def salt(self) -> bytes:
        """The salt of the digests in this file."""
        return self._head.salt

    @property
    def size(self) -> int:
        """The number of bytes in all lines, also in those that do not count any more."""
        return self._end - HEAD_SIZE

    @property
    def broken(self) -> bool:
        """Whether the file may differ from the disk."""
        return self._file.broken

    def commits(self) -> Iterator[bytes]:
        """Yield the content of each commit, from the first on; then be ready for the next one."""
        with self.explain_errors():
            self._file.sync()  # a killed run may have left lines that never reached the disk
            at, size = self._head.start, self._file.size
            with open(self._file.descriptor, "rb", buffering=_BUFFER, closefd=False) as lines:
                lines.seek(at)
                for line in lines:
                    content = decode_line(line)
                    if content is None:
                        break
                    at += len(line)
                    yield content
            if at < self._head.end:
                raise self.error(_DAMAGED)
            if at < size:
                self._file.truncate(at)
            self._end = at
            self._move_to_front()  # a killed process may have stopped in between

    def append(self, content: bytes) -> None:
        """Make a commit. When this returns, the content is on the disk, in the file that the path names."""
        with self.explain_errors():
            self._file.check_place()
            line = encode_line(content)
            with self._undo_on_error():
                self._write_head(evolve(self._head, end=self._end))
                self._file.write(self._end, line)
                self._file.sync()
            self._end += len(line)
            self._file.check_place()

    def replace(self, contents: Iterable[bytes]) -> None:
        """Put these commits in the place of all others, and cut the file. A crash leaves the old ones or the new ones.

        The new lines are written behind the old ones. The head then tells that only they count. At last they are moved
        to the front. They must be shorter than the old lines.
        """
        with self.explain_errors():
            self._file.check_place()
            at = self._end
            with self._undo_on_error():
                for content in contents:
                    line = encode_line(content)
                    self._file.write(at, line)
                    at += len(line)
                self._file.sync()
            start, self._end = self._end, at
            self._sync_head(evolve(self._head, start=start, end=at))
            self._move_to_front()
            self._file.check_place()

    def close(self) -> None:
        """Note in the head that all lines are on the disk; then close and unlock the file."""
        with self.explain_errors(), contextlib.closing(self._file):
            if not self.broken and self._end != self._head.end:
                self._sync_head(evolve(self._head, end=self._end))

    def _read_head(self) -> Head:
        line = self._file.read(0, HEAD_SIZE)
        if self._file.size <= HEAD_SIZE and not line.strip(b"\0"):  # new, or the power failed before the head was kept
            self._sync_head(head := Head(secrets.token_bytes(16), HEAD_SIZE, HEAD_SIZE))
            self._file.sync_name()
            return head
        try:
            return Head.decode(line)
        except ForeignError as error:
            raise self.error("it is no journal: name another file") from error
        except VersionError as error:
            reason = f"its version is {error}, and this library's is {VERSION}: use the library that made it"
            raise self.error(reason) from error
        except ValueError as error:
            raise self.error(_DAMAGED) from error

    def _move_to_front(self) -> None:
        """Move the lines over lines before them that do not count any more. A second move begins from the start."""
        start, length = self._head.start, self._end - self._head.start
        if start - HEAD_SIZE <= length:  # they are at the front, or would be written over themselves
            return
        moved = 0
        while chunk := self._file.read(start + moved, min(_BUFFER, length - moved)):
            self._file.write(HEAD_SIZE + moved, chunk)
            moved += len(chunk)
        self._file.sync()
        self._end = HEAD_SIZE + moved
        self._sync_head(evolve(self._head, start=HEAD_SIZE, end=self._end))
        self._file.truncate(self._end)

    def _sync_head(self, head: Head) -> None:
        self._file.broken = True  # half of a head may be written
        self._write_head(head)
        self._file.sync()

    def _write_head(self, head: Head) -> None:
        self._file.write(0, head.encode())
        self._head = head

    @contextlib.contextmanager
    def _undo_on_error(self) -> Iterator[None]:
        """Remove the lines of a failed commit, because the next commit must not follow half a line."""
        try:
            yield
        except OSError:
            synced, self._file.broken = not self._file.broken, True
            self._file.truncate(self._end)
            self._file.broken = not synced
            raise
