"""A lock on an open file, against other processes and against a second opening in this process.

POSIX record locks are too weak, SQLite's among them: closing any descriptor of the file drops them, so a copy of the
file unlocks it. `flock` belongs to one opening of the file. A lock file beside the journal is too weak as well: two
containers that mount the same file do not share its folder.
"""

import os
import sys
from typing import Final

if sys.platform == "win32":
    import msvcrt

    _FAR: Final = 1 << 62  # Windows refuses to read a locked byte, so lock one behind the end of any file

    def lock(descriptor: int) -> None:
        """Lock an open file until it is closed; an `OSError` if it is locked already."""
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, at, os.SEEK_SET)

else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Lock an open file until it is closed; an `OSError` if it is locked already."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
