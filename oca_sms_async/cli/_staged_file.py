"""New content for a file: it takes the place of the old one by a rename, or in place where a rename does not work."""

import io
import os
import shutil
from pathlib import Path
from typing import BinaryIO, Final

_PRIVATE: Final = 0o600


def name_new_file(path: Path) -> Path:
    """Return the path of the new content until it takes the place of the old one."""
    return path.with_name(f".{path.name}.oca-sms")


class StagedFile:
    """The new content of a file at `path`, in `stream`. `OSError` if the file cannot be written.

    The content is in a file of its own until `commit`, so the old content is there until then. The new file has the
    mode of the old one, or is private. In a folder that takes no new file, the content is in memory until `commit`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: Path | None = name_new_file(path)
        self._created = False
        self.stream: BinaryIO = self._create()

    def commit(self) -> None:
        """Put the new content in the place of the old one. `stream` then is the file at `path`, at its end."""
        if self._new is not None:
            os.fsync(self.stream.fileno())
            try:
                self._new.replace(self._path)
            except OSError:  # a file that is mounted, as containers have it, is busy
                self._copy()
                self._new.unlink()
        else:
            self._copy()
        self._new, self._created = None, False

    def close(self) -> None:
        """Close the file, and delete new content that was not committed."""
        self.stream.close()
        for path in [self._new] if self._new is not None else [self._path] if self._created else []:
            path.unlink(missing_ok=True)
        self._new, self._created = None, False

    def _create(self) -> BinaryIO:
        new = self._new or self._path
        try:
            # A link of this name may have been planted there. It is removed, and never followed.
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PRIVATE)
        except OSError:
            self._new, self._created = None, not self._path.exists()
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, _PRIVATE))
            return io.BytesIO()
        if self._path.exists():
            shutil.copymode(self._path, new)
        return os.fdopen(descriptor, "w+b", buffering=0)

    def _copy(self) -> None:
        file = self._path.open("r+b", buffering=0)
        self.stream.seek(0)
        shutil.copyfileobj(self.stream, file)
        file.truncate()
        os.fsync(file.fileno())
        self.stream.close()
        self.stream = file
