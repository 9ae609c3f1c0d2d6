"""The input of `oca-sms bulk`: a file, a pipe or standard input, which several passes can read."""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from oca_sms_async.cli._endings import CommandError, ExitStatus

_STDIN: Final = Path("-")


@contextlib.contextmanager
def open_input(file: Path) -> Iterator[BinaryIO]:
    """Open a file that can be read more than once. A pipe is kept in memory: its texts belong in no other file."""
    if file == _STDIN:
        if sys.stdin is None:
            raise CommandError("standard input is closed", ExitStatus.USAGE)
        yield io.BytesIO(sys.stdin.buffer.read())
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", ExitStatus.USAGE) from error
    with stream:
        yield stream if stat.S_ISREG(file.stat().st_mode) else io.BytesIO(stream.read())


def stamp(stream: BinaryIO) -> tuple[int, int] | None:
    """Return size and time of a file, which change when it is written to. Input in memory has no stamp: `None`."""
    if isinstance(stream, io.BytesIO):
        return None
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns
