"""`forget` shortens the file of a `SqliteJournal`, and a crash at any step harms no message."""

import asyncio
import contextlib
import errno
import io
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen
from journal_disk import FullDisk

from oca_sms_async import JournalError, SendReceipt, SqliteJournal
from oca_sms_async._journal import JournalEntry, Status
from oca_sms_async._journal._file import JournalFile
from oca_sms_async._journal._format import HEAD_SIZE, Head
from oca_sms_async._journal._store import Operation, Store

# These tests are not of the loop, so they may look at files in it.
# ruff: noqa: ASYNC240

NUMBER, TEXT = "+6281234500000", "Acme: your parcel is here"
SENT = JournalEntry(Status.SENT, SendReceipt("uid", "sent", 1), 1)
DOUBTFUL = JournalEntry(Status.DOUBTFUL, attempts=1)
FUTURE: Final = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal's path."""
    return tmp_path / "run.journal"


async def note(journal: SqliteJournal, key: str, end: JournalEntry | None) -> None:
    """Put a message in doubt, and settle it unless its end is None."""
    lookup = await journal.lookup_key(key, NUMBER, TEXT)
    assert await journal.intend(lookup, seconds=0)
    if end is not None:
        await journal.settle(lookup, end)


async def read(path: Path, *keys: str) -> list[JournalEntry | None]:
    """Return the entries of these keys, out of the file as it is."""
    async with SqliteJournal(path) as journal:
        return [await journal.lookup(key) for key in keys]


async def test_forgetting_shortens_the_file(path: Path) -> None:
    """The old lines are gone, and all that was not forgotten is there; the journal goes on behind it."""
    async with SqliteJournal(path) as journal:
        await note(journal, "before", None)
        long, number = path.stat().st_size, path.stat().st_ino
        for at in range(50):
            await note(journal, f"key {at}", SENT)
        assert await journal.forget(FUTURE) == 50
        assert path.stat().st_size <= long
        assert path.stat().st_ino == number
        await note(journal, "behind", SENT)
        assert await journal.lookup("before") == DOUBTFUL
    assert await read(path, "before", "key 0", "key 49", "behind") == [DOUBTFUL, None, None, SENT]


async def test_a_journal_that_forgets_all_is_as_short_as_a_new_one(path: Path) -> None:
    """No line is left behind the head."""
    async with SqliteJournal(path) as journal:
        await journal.begin_run()
        await journal.lookup_next("looked up and not sent", NUMBER, TEXT)
        await journal.end_run()
        short = path.stat().st_size
        await note(journal, "key", SENT)
        assert await journal.forget(FUTURE) == 1
        assert path.stat().st_size == short
    assert await read(path, "key") == [None]


async def test_a_file_whose_larger_half_counts_is_not_written_anew(path: Path) -> None:
    """The work is done when it is worth it: not at each call that forgets little."""
    async with SqliteJournal(path) as journal:
        for at in range(20):
            await note(journal, f"key {at}", None)
        before = path.read_bytes()
        assert await journal.forget(FUTURE) == 0
        assert path.read_bytes() == before


async def test_others_may_use_the_journal_while_it_gets_shorter(path: Path) -> None:
    """The new file has the messages that were written meanwhile, and its lock holds."""
    async with SqliteJournal(path) as journal:
        for at in range(20):
            await note(journal, f"key {at}", SENT)
        found = [await journal.lookup_key(f"other {at}", NUMBER, TEXT) for at in range(5)]
        forgetting = asyncio.create_task(journal.forget(FUTURE))
        for lookup in found:
            await asyncio.sleep(0)
            assert await journal.intend(lookup, seconds=10)
        assert await forgetting == 20
        async with SqliteJournal(path) as second:
            with pytest.raises(JournalError, match="another run uses it"):
                await second.lookup("key 0")
        for lookup in found:
            await journal.settle(lookup, SENT)
    assert await read(path, "other 0", "other 4", "key 0") == [SENT, SENT, None]


@pytest.mark.parametrize("how", ["no room", "no sync"])
async def test_a_file_that_cannot_be_written_anew_keeps_all(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets the disk's trouble, the journal goes on afterwards, and a later call shortens the file."""
    full = FullDisk(monkeypatch, how)
    async with SqliteJournal(path) as journal:
        for at in range(20):
            await note(journal, f"key {at}", SENT if at else None)
        long = path.stat().st_size
        full.fails = True
        with pytest.raises(JournalError, match=full.sentence):
            await journal.forget(datetime(2000, 1, 1, tzinfo=UTC))  # nothing is that old
        full.fails = False
        assert await journal.lookup("key 0") == DOUBTFUL
        assert path.stat().st_size == long
        await note(journal, "behind", SENT)
        await journal.forget(FUTURE)
        assert path.stat().st_size < long / 10
    assert await read(path, "key 0", "key 1", "behind") == [DOUBTFUL, None, None]


# --- crashes --------------------------------------------------------------------------------------------------------


@frozen
class Change:
    """One change of a file: data at a place, or with None the file's end. `syncs` is how many syncs came before."""

    at: int
    data: bytes | None
    syncs: int


class Recorder:
    """Keeps each change of the files that are opened meanwhile, in order. Step number `fails_at` fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changes: list[Change] = []
        self.syncs = 0
        self.fails_at = -1
        self.steps = 0
        sync, recorder = os.fsync, self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                recorder.changes.append(Change(self.tell(), bytes(data), recorder.syncs))
                if recorder.fails():
                    super().write(data[: len(data) // 2])
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return super().write(data)

            def truncate(self, size: int | None = None) -> int:
                recorder.changes.append(Change(size or 0, None, recorder.syncs))
                if recorder.fails():
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return super().truncate(size)

        def counting_sync(descriptor: int) -> None:
            if self.fails():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)
            self.syncs += 1

        monkeypatch.setattr(io, "FileIO", File)
        monkeypatch.setattr(os, "fsync", counting_sync)

    def begin(self, *, fails_at: int = -1) -> None:
        """Keep the changes from now on."""
        self.changes.clear()
        self.steps, self.fails_at = 0, fails_at

    def fails(self) -> bool:
        """Count a step, and tell whether it fails."""
        self.steps += 1
        return self.steps == self.fails_at


def apply(content: bytes, changes: list[Change]) -> bytes:
    """Return a file's bytes after these changes."""
    for change in changes:
        if change.data is None:
            content = content[: change.at].ljust(change.at, b"\0")
        else:
            content = content.ljust(change.at, b"\0")
            content = content[: change.at] + change.data + content[change.at + len(change.data) :]
    return content


def crashes(before: bytes, changes: list[Change]) -> Iterator[bytes]:
    """Yield the file after a power cut at each step: any one of the changes since the last sync may be lost or torn."""
    for count in range(len(changes) + 1):
        done = changes[:count]
        yield apply(before, done)
        for at, change in enumerate(done):
            if change.syncs < done[-1].syncs:
                continue
            yield apply(before, done[:at] + done[at + 1 :])
            if change.data is not None and change.at:  # the head is in one sector, and is whole or not there
                half = Change(change.at, change.data[: len(change.data) // 2], change.syncs)
                yield apply(before, [*done[:at], half, *done[at + 1 :]])


@pytest.mark.parametrize("kept", [0, 1, 3])
async def test_a_crash_at_any_step_leaves_a_whole_journal(
    path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is as it was before, and the next opening finishes the work; later lines come behind."""
    monkeypatch.setattr("oca_sms_async._journal._file._BUFFER", 100)  # the lines are moved in several parts
    monkeypatch.setattr(time, "time", lambda: 2e9)  # all lines of one kind are of one length
    keys = [*(f"doubtful {at}" for at in range(kept)), *(f"sent {at}" for at in range(6))]
    async with SqliteJournal(path) as journal:
        for key in keys:
            await note(journal, key, None if key.startswith("doubtful") else SENT)
        for key in keys[:kept]:
            await note(journal, key, JournalEntry(Status.UNSENT))
            await note(journal, key, None)
    expected, before = await read(path, *keys), path.read_bytes()
    with monkeypatch.context() as patched:
        recorder = Recorder(patched)
        async with SqliteJournal(path) as journal:
            await journal.forget(datetime(2000, 1, 1, tzinfo=UTC))  # nothing is that old, but the file gets shorter
    shrunk = path.read_bytes()
    assert len(shrunk) < len(before)
    for at, content in enumerate(crashes(before, recorder.changes)):
        crashed = path.with_name(f"{at}")
        crashed.write_bytes(content)
        assert await read(crashed, *keys) == expected, at
        if Head.decode(content[:HEAD_SIZE]).start > HEAD_SIZE:
            assert crashed.read_bytes()[HEAD_SIZE:] == shrunk[HEAD_SIZE:], at
        async with SqliteJournal(crashed) as journal:
            await note(journal, "behind", SENT)
            assert await journal.forget(FUTURE) == 7, at
        assert await read(crashed, *keys, "behind") == [*expected[:kept], *[None] * 7], at


def test_a_disk_that_fails_at_any_step_leaves_the_store_right_or_broken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is not broken says the same as the file, and so do the operations that ended well."""
    recorder, keys = Recorder(monkeypatch), ["one", "two", "three"]

    def intend(key: str) -> Operation:
        return lambda store: store.intend(store.lookup_key(key, NUMBER, TEXT), 0)

    def lookup(store: Store) -> list[JournalEntry | None]:
        return [store.lookup(key) for key in keys]

    for fails_at in range(1, 100):
        path.unlink(missing_ok=True)
        recorder.begin()
        store = Store(path)
        for _ in range(8):
            store.perform([intend("one")])
        recorder.begin(fails_at=fails_at)
        results = list[Any]()
        with contextlib.suppress(JournalError):
            results = store.perform([intend("two"), Store.shrink, intend("three")])
        ended = recorder.steps < fails_at
        recorder.begin()
        told = None
        if not store.broken:
            store.perform([intend("one")])
            (told,) = store.perform([lookup])
        store.close()
        store = Store(path)
        found = lookup(store)
        store.close()
        assert told in (None, found), fails_at
        assert not results or None not in found, fails_at
        assert found[0] is not None, fails_at
        if ended:
            break
    else:
        pytest.fail("the work has no end")
    assert fails_at > 10


def test_lines_that_are_longer_than_the_old_ones_stay_where_they_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move to the front would write them over themselves; they count all the same, and so do later ones."""
    monkeypatch.setattr("oca_sms_async._journal._file._BUFFER", 16)
    file = JournalFile(path)
    file.append(b"old")
    file.replace([b"new", b"new too"])
    file.append(b"behind")
    file.close()
    file = JournalFile(path)
    assert [*file.commits()] == [b"new", b"new too", b"behind"]
    assert Head.decode(path.read_bytes()[:HEAD_SIZE]).start > HEAD_SIZE
    file.close()


@pytest.mark.parametrize("late", [False, True])
async def test_a_file_that_is_moved_is_not_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    """The caller hears of it, also where the file was moved meanwhile."""
    async with SqliteJournal(path) as journal:
        for at in range(5):
            await note(journal, f"key {at}", SENT)
        before, truncate = path.read_bytes(), io.FileIO.truncate

        class File(io.FileIO):
            def truncate(self, size: int | None = None) -> int:
                path.rename(path.with_name("moved"))
                return truncate(self, size)

        if late:
            await journal.aclose()
            monkeypatch.setattr(io, "FileIO", File)
            journal = SqliteJournal(path)  # noqa: PLW2901 - the same file
            await journal.lookup("key 0")
        else:
            path.rename(path.with_name("moved"))
        with pytest.raises(JournalError, match="moved, deleted or replaced"):
            await journal.forget(datetime(2000, 1, 1, tzinfo=UTC))
        assert late or path.with_name("moved").read_bytes() == before
        await journal.aclose()
