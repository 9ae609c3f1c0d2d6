"""The journal's file: lines of text that are appended and never changed, one line for each commit.

The file alone must be enough. SQLite needs a second file beside it to keep a commit whole, and a mount or a copy of the
journal alone loses that file. Here a commit is one line with a checksum. A crash in the middle of a line leaves a line
that does not count. No caller heard of it, because a commit returns after fsync.

The first line is the head: format, version, salt, and the length of the file that is known to be on the disk. Lines
within that length must be right, else the file is damaged. Only lines after it may be torn. The head is written in
place. It fits into one sector, which a disk writes whole.
"""

import contextlib
import errno
import io
import os
import secrets
import stat
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

from oca_sms_async._errors import JournalError
from oca_sms_async._journal._lock import lock
from oca_sms_async._log import log

if sys.platform == "darwin":
    import fcntl

_FORMAT: Final = b"oca-sms-journal"
_VERSION: Final = 2
_BUFFER: Final = 1 << 20
_DAMAGED: Final = "it is damaged: restore a copy of it, for a new journal would send every message again"
_MOVED: Final = (
    "its file was moved, deleted or replaced meanwhile: put it back in its place, or the next run sends again"
)
_REASONS: Final = {
    errno.ENOENT: "its folder does not exist: make the folder first",
    errno.ENOTDIR: "its folder does not exist: make the folder first",
    errno.EISDIR: "it is a folder: name a file",
    errno.EACCES: "access is denied: let this user read and write it",
    errno.EPERM: "access is denied: let this user read and write it",
    errno.EROFS: "its file system is read-only: choose another place",
    errno.ENOSPC: "the disk is full: make room, and start the same run again",
    errno.EDQUOT: "the disk quota is used up: make room, and start the same run again",
    errno.ENOLCK: "its file system has no locks: keep the journal on a local disk",
    errno.ENOSYS: "its file system has no locks: keep the journal on a local disk",
    errno.EOPNOTSUPP: "its file system has no locks: keep the journal on a local disk",
}


class JournalFile:
    """The open and locked file. Each trouble with it is a `JournalError` that names the file and a remedy.

    The lock ends with `close` or with the process, and a forked child does not have it. `salt` is for digests. A
    `broken` file may differ from the disk, so it must be opened anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.broken = False
        with self.explained():
            self._file = _open(path)
            try:
                self._begin()
            except BaseException:
                self._file.close()
                raise
        _open_files.add(self)

    def _begin(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise self.error("it is no regular file: name another one")
        self._lock()
        self._check_place()
        head, size = self._file.read(_HEAD), os.fstat(self._file.fileno()).st_size
        if size <= _HEAD and not head.strip(b"\0"):  # new, or the power failed before the head was on the disk
            self.salt = secrets.token_bytes(16)
            self._end = _HEAD
            self._note_length()
            self._sync()
            _sync_folder(self._path)
        else:
            self.salt, self._end = self._parse_head(head)
            self._noted = self._end
        if stat.S_IMODE(os.fstat(self._file.fileno()).st_mode) & 0o077:
            try:
                self._path.chmod(0o600)
            except OSError:  # on a shared volume the file may belong to another user, or have a fixed mode
                log("journal.unprotected", journal=str(self._path))

    def _lock(self) -> None:
        try:
            lock(self._file.fileno())
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EAGAIN, errno.EDEADLK}:
                raise self.error("another run uses it: wait for the end of that run") from error
            raise

    def _parse_head(self, head: bytes) -> tuple[bytes, int]:
        """Return the salt, and the length that is known to be on the disk."""
        words = head.split()
        if not head.startswith(_FORMAT):
            raise self.error("it is no journal: name another file" if head.strip(b"\0") else _DAMAGED)
        if len(words) > 1 and words[1] != b"%d" % _VERSION and words[1].isdigit():
            version = words[1].decode()
            raise self.error(
                f"its version is {version}, and this library's is {_VERSION}: use the library that made it"
            )
        with contextlib.suppress(ValueError, IndexError):
            salt, length = bytes.fromhex(words[2].decode("ascii")), int(words[3])
            if head == _head(salt, length):
                return salt, length
        raise self.error(_DAMAGED)

    def commits(self) -> Iterator[bytes]:
        """Yield the content of each commit, from the first on; then be ready for the next one."""
        with self.explained():
            os.fsync(self._file.fileno())  # a killed run may have left lines that never reached the disk
            known, at, size = self._end, _HEAD, os.fstat(self._file.fileno()).st_size
            with open(self._file.fileno(), "rb", buffering=_BUFFER, closefd=False) as lines:
                lines.seek(at)
                for line in lines:
                    content = _content(line)
                    if content is None:
                        break
                    at += len(line)
                    yield content
            if at < known:
                raise self.error(_DAMAGED)
            if at < size:
                self._file.truncate(at)
            self._end = at

    def append(self, content: bytes) -> None:
        """Make a commit. When this returns, the content is on the disk, in the file that the path names."""
        with self.explained():
            self._check_place()
            line = _line(content)
            try:
                self._note_length()
                self._write(self._end, line)
                self._sync()
            except OSError:
                self._undo()
                raise
            self._end += len(line)
            self._check_place()

    def close(self) -> None:
        """Note in the head that all lines are on the disk; then close and unlock the file."""
        with self.explained(), self._file:
            if not self.broken and self._end != self._noted:
                self._note_length()
                self._sync()

    def forget(self) -> None:
        """Close the descriptor that a forked child has inherited, else the child would hold the parent's lock."""
        self._file.close()

    def error(self, reason: str) -> JournalError:
        """Return an error that names the file."""
        return JournalError(f"the journal {self._path} cannot be used: {reason}")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an `OSError` into a `JournalError`."""
        try:
            yield
        except OSError as error:
            reason = _REASONS.get(error.errno or 0) or error.strerror or type(error).__name__
            raise self.error(reason) from error

    def _note_length(self) -> None:
        """Write into the head how much of the file is on the disk."""
        self._write(0, _head(self.salt, self._end))
        self._noted = self._end

    def _write(self, at: int, data: bytes) -> None:
        self._file.seek(at)
        while data:
            data = data[self._file.write(data) :]

    def _undo(self) -> None:
        """Remove the line of a failed commit, because the next commit must not follow half a line."""
        synced, self.broken = not self.broken, True
        self._file.truncate(self._end)
        self.broken = not synced

    def _sync(self) -> None:
        self.broken = True  # after a failed fsync the disk's content is unknown, and a second fsync does not tell
        os.fsync(self._file.fileno())
        if sys.platform == "darwin":  # there fsync leaves the data in the disk's cache; not every disk can do more
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._file.fileno(), fcntl.F_FULLFSYNC)
        self.broken = False

    def _check_place(self) -> None:
        """Refuse to go on if a later run would not find this file."""
        if not self.is_in_place():
            self.broken = True
            raise self.error(_MOVED)

    def is_in_place(self) -> bool:
        """Tell whether the path still names this file."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False


def _open(path: Path) -> io.FileIO:
    """Open the file for reading and writing. A new one is private to its owner."""

    def opener(name: str, _: int) -> int:
        return os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)

    return io.FileIO(path, "r+", opener=opener)


def _head(salt: bytes, length: int) -> bytes:
    head = b"%s %d %s %020d" % (_FORMAT, _VERSION, salt.hex().encode(), length)
    return b"%s %08x\n" % (head, crc32(head))


def _line(content: bytes) -> bytes:
    return b"%08x %s\n" % (crc32(content), content)


def _content(line: bytes) -> bytes | None:
    """Return the content of a line, or None for a torn or damaged line."""
    content = line[9:-1]
    return content if line == _line(content) else None


def _sync_folder(path: Path) -> None:
    """Put the file's name on the disk, if the system can. Windows cannot open a folder."""
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _forget_open_files() -> None:
    for file in _open_files:
        file.forget()


_HEAD: Final = len(_head(bytes(16), 0))
_open_files: Final = weakref.WeakSet[JournalFile]()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_open_files)
