"""The disk below a test's journal: it holds up writes, it fails, and it shows the bytes that are on it."""

import errno
import io
import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg
import pytest
from postgres_server import execute

from oca_sms_async._journal import Status

_PATIENCE: Final = 20  # seconds, after which something hangs


class Disk:
    """Holds up the next sync when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = False
        self._free = threading.Event()
        self._free.set()
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._slow_sync)

    def hold(self) -> None:
        """Let no sync end for now."""
        self._free.clear()

    def release(self) -> None:
        """Go on."""
        self._free.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _slow_sync(self, descriptor: int) -> None:
        self.held = not self._free.is_set()
        released = self._free.wait(_PATIENCE)
        self._free.set()  # a test that fails here does so once
        assert released, "the disk was not released: was that the event loop's own thread?"
        self.held = False
        self._sync(descriptor)


class TableLock:
    """Holds up the next write to the journal's table in PostgreSQL when it is told to."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._holder: psycopg.Connection | None = None

    @property
    def held(self) -> bool:
        """Whether a write waits."""
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(execute(self._place, waiting))

    def hold(self) -> None:
        """Let no write end for now; reads go on."""
        self._holder = psycopg.connect(self._place)
        self._holder.execute("LOCK TABLE oca_sms_message IN EXCLUSIVE MODE")

    def release(self) -> None:
        """Go on."""
        if self._holder is not None:
            self._holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class FullDisk:
    """A disk that fails while `fails` is True: it has no room for half of a line, or cannot sync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        self.fails = False
        self.sentence = {"no room": "the disk is full", "no sync": os.strerror(errno.EIO)}[how]
        sync, disk = os.fsync, self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                if disk.fails and how == "no room" and self.tell() == os.fstat(self.fileno()).st_size:
                    super().write(data[: len(data) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        def failing_sync(descriptor: int) -> None:
            if self.fails and how == "no sync":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)

        monkeypatch.setattr(io, "FileIO", File)
        monkeypatch.setattr(os, "fsync", failing_sync)


def commits_on_disk(path: Path) -> list[dict[str, Status]]:
    """Return the messages and their statuses of each commit in the file, as a crash at this moment would leave them."""
    lines = [line[9:].split(b"\t") for line in path.read_bytes().splitlines()[1:]]
    return [{fields[0]: Status(fields[2]) for fields in map(json.loads, line)} for line in lines]


def statuses_on_disk(path: Path) -> list[Status]:
    """Return the status of each message in the file."""
    latest = dict[str, Status]()
    for commit in commits_on_disk(path):
        latest |= commit
    return sorted(latest.values())


def commits_of(path: Path, status: Status) -> list[int]:
    """Return how many messages each commit in the file brings into this status."""
    return [[*commit.values()].count(status) for commit in commits_on_disk(path)]
