"""A file that one journal uses: its opening, its lock, its place, and each trouble with it in plain words."""

import contextlib
import errno
import io
import os
import stat
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oca_sms_async._errors import JournalError
from oca_sms_async._journal._lock import lock
from oca_sms_async._log import log

if sys.platform == "darwin":
    import fcntl

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


class LockedFile:
    """An open and locked file. A new one is private to its owner.

    The lock ends with `close` or with the process, and a forked child does not have it. A `broken` file may differ from
    the disk, so it must be opened anew. Each trouble inside of `explain_errors` is a `JournalError` that names the file
    and a remedy.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.broken = False
        with self.explain_errors():
            self._file = _open(path)
            try:
                self._lock()
                self.check_place()
            except BaseException:
                self._file.close()
                raise
        _open_files.add(self)

    @property
    def descriptor(self) -> int:
        """The descriptor of the open file."""
        return self._file.fileno()

    @property
    def size(self) -> int:
        """The number of bytes in the file."""
        return os.fstat(self._file.fileno()).st_size

    def read(self, at: int, count: int) -> bytes:
        """Return at most so many bytes from this place on."""
        self._file.seek(at)
        return self._file.read(count)

    def write(self, at: int, data: bytes) -> None:
        """Write all of the data at this place."""
        self._file.seek(at)
        while data:
            data = data[self._file.write(data) :]

    def truncate(self, size: int) -> None:
        """Cut the file."""
        self._file.truncate(size)

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        self.broken = True  # after a failed fsync the disk's content is unknown, and a second fsync does not tell
        os.fsync(self._file.fileno())
        if sys.platform == "darwin":  # there fsync leaves the data in the disk's cache; not every disk can do more
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._file.fileno(), fcntl.F_FULLFSYNC)
        self.broken = False

    def sync_name(self) -> None:
        """Put the file's name on the disk, if the system can. Windows cannot open a folder."""
        with contextlib.suppress(OSError):
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def protect(self) -> None:
        """Take the permissions of a known journal away from all but its owner."""
        if stat.S_IMODE(os.fstat(self._file.fileno()).st_mode) & 0o077:
            try:
                self._path.chmod(0o600)
            except OSError:  # on a shared volume the file may belong to another user, or have a fixed mode
                log("journal.unprotected", journal=str(self._path))

    def check_place(self) -> None:
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

    def close(self) -> None:
        """Close the file and unlock it. A forked child closes only its own descriptor, else it would hold the lock."""
        self._file.close()

    def error(self, reason: str) -> JournalError:
        """Return an error that names the file."""
        return JournalError(f"the journal {self._path} cannot be used: {reason}")

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Turn an `OSError` into a `JournalError`."""
        try:
            yield
        except OSError as error:
            reason = _REASONS.get(error.errno or 0) or error.strerror or type(error).__name__
            raise self.error(reason) from error

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise self.error("it is no regular file: name another one")
        try:
            lock(self._file.fileno())
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EAGAIN, errno.EDEADLK}:
                raise self.error("another run uses it: wait for the end of that run") from error
            raise


def _open(path: Path) -> io.FileIO:
    def opener(name: str, _: int) -> int:
        return os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)

    return io.FileIO(path, "r+", opener=opener)


def _close_in_child() -> None:
    for file in _open_files:
        file.close()


_open_files: Final = weakref.WeakSet[LockedFile]()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
