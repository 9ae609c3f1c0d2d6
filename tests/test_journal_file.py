"""`SqliteJournal` alone: its file, its lock, damage, and the ends of loops and processes."""

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import signal
import sqlite3
import stat
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest
from journal_disk import Disk, FullDisk, statuses_on_disk

from oca_sms_async import AsyncOcaSms, JournalError, SendReceipt, Sms, SqliteJournal, Unlimited
from oca_sms_async._journal import Answer, Journal, JournalEntry, Lookup, Status

PATIENCE: Final = 20  # seconds, after which something hangs
NUMBER, TEXT = "+6281234500000", "Acme: your parcel is here"
RECEIPT = SendReceipt("uid", "sent", 1)
SENT = JournalEntry(Status.SENT, RECEIPT, 1)
DOUBTFUL = JournalEntry(Status.DOUBTFUL, attempts=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal's path."""
    return tmp_path / "run.journal"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of a test."""
    with Disk(monkeypatch) as slow:
        yield slow


@contextlib.asynccontextmanager
async def run_over(journal: Journal) -> AsyncIterator[Journal]:
    """Begin a run, and end it with the block."""
    await journal.begin_run()
    try:
        yield journal
    finally:
        await journal.end_run()


async def note(journal: Journal, *ends: JournalEntry | None, start: int = 0) -> list[Lookup]:
    """Have a run intend one message for each end and settle it. The end None leaves it in doubt."""
    async with run_over(journal):
        found = [await journal.lookup_next(f"key {it}", NUMBER, TEXT) for it, _ in enumerate(ends, start)]
        for lookup, end in zip(found, ends, strict=True):
            assert await journal.intend(lookup, seconds=10)
            if end is not None:
                await journal.settle(lookup, end)
        return found


async def entries(journal: Journal, count: int) -> list[JournalEntry]:
    """Return a run's entries of the first messages."""
    async with run_over(journal):
        return [(await journal.lookup_next(f"key {it}", NUMBER, TEXT)).entry for it in range(count)]


def make(path: Path, *ends: JournalEntry | None, start: int = 0) -> None:
    """Make a closed journal with these messages, or add them to one."""

    async def main() -> None:
        async with SqliteJournal(path) as journal:
            await note(journal, *ends, start=start)

    asyncio.run(main())


def read(path: Path, count: int) -> list[JournalEntry]:
    """Return the entries of a closed journal."""

    async def main() -> list[JournalEntry]:
        async with SqliteJournal(path) as journal:
            return await entries(journal, count)

    return asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has happened in another task or thread."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def mode(path: Path) -> int | None:
    """Return a file's permissions; None where there is no file."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


def content_of(path: Path) -> bytes:
    """Return the bytes of the journal, and of all that lies beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


def files_beside(path: Path) -> list[str]:
    """Return the names in the journal's folder."""
    return sorted(file.name for file in path.parent.iterdir())


@contextlib.asynccontextmanager
async def child(script: str, *arguments: str) -> AsyncIterator[Process]:
    """Run a script in a process of its own, which ends with the block."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *arguments, stdin=PIPE, stdout=PIPE)
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate(b"")


# --- the object -----------------------------------------------------------------------------------------------------


async def test_the_file_is_made_when_it_is_needed_and_only_its_owner_may_read_it(path: Path) -> None:
    """The first use makes the file, private whatever the umask is, and no other file beside it."""
    umask = os.umask(0)
    try:
        async with SqliteJournal(path) as journal:
            assert mode(path) is None
            await note(journal, SENT)
            assert mode(path) == 0o600
            assert files_beside(path) == [path.name]
    finally:
        os.umask(umask)
    assert files_beside(path) == [path.name]


def test_a_file_that_others_may_read_is_tightened(path: Path) -> None:
    """After its use a journal is its owner's alone, even if it was copied about or made beforehand."""
    path.touch()
    for _ in range(2):
        path.chmod(0o666)
        read(path, 1)
        assert mode(path) == 0o600


def test_a_folder_that_refuses_chmod_can_be_used_with_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a shared volume the file may belong to another user: the journal works, and a warning names it."""
    make(path, SENT)
    path.chmod(0o660)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    assert read(path, 1) == [SENT]
    assert [(record.event, record.journal) for record in cast(list[Any], caplog.records)] == [
        ("journal.unprotected", str(path))
    ]
    assert mode(path) == 0o660


@pytest.mark.parametrize("empty", ["", cast(Any, type("Empty", (), {"__fspath__": lambda _: ""})())])
def test_a_path_must_not_be_empty(empty: str) -> None:
    """An empty path is refused where it is given."""
    with pytest.raises(ValueError, match=r"^path\b"):
        SqliteJournal(empty)


async def test_a_relative_path_is_of_the_folder_in_which_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of the working directory does not move the journal."""
    monkeypatch.chdir(tmp_path)
    journal = SqliteJournal("run.journal")
    monkeypatch.chdir("/")
    async with journal:
        await note(journal, SENT)
    assert (tmp_path / "run.journal").exists()


async def test_a_closed_journal_stays_closed(path: Path) -> None:
    """A second closing does nothing, and each use afterwards is an error of both kinds."""
    journal = SqliteJournal(path)
    (lookup,) = await note(journal, SENT)
    await journal.aclose()
    await journal.aclose()
    uses: list[Any] = [
        journal.begin_run,
        lambda: journal.lookup_next("key", NUMBER, TEXT),
        lambda: journal.intend(lookup, seconds=10),
        lambda: journal.settle(lookup, SENT),
        lambda: journal.find(lookup, RECEIPT),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="closed") as caught:
            await use()
        assert isinstance(caught.value, JournalError)
    await journal.end_run()


async def test_a_journal_that_was_never_used_closes_without_a_trace(path: Path) -> None:
    """A journal without a run makes no file and starts no thread."""
    before = threading.active_count()
    async with SqliteJournal(path):
        assert threading.active_count() == before
    assert mode(path) is None


async def test_a_repr_says_where_and_whether_it_is_open(path: Path) -> None:
    """A repr names the file, and shows none of its content."""
    journal = SqliteJournal(path)
    await note(journal, SENT)
    assert repr(journal) == f"<SqliteJournal {path} open>"
    await journal.aclose()
    assert repr(journal) == f"<SqliteJournal {path} closed>"


def test_one_journal_serves_one_event_loop_after_another(path: Path) -> None:
    """A journal may be made without a running loop, and goes on in the next one."""
    journal = SqliteJournal(path)
    asyncio.run(note(journal, SENT, None))
    assert asyncio.run(entries(journal, 2)) == [SENT, DOUBTFUL]
    asyncio.run(journal.aclose())


async def test_the_file_holds_no_message_and_no_credentials(path: Path) -> None:
    """The bytes show no number in any spelling, no text, no key and no credential, in use and closed."""
    markers = ["81345678901", "0813-4567-8901", "45678901", "marker-text", "marker-key", "marker-user", "marker-word"]

    def answer(request: httpx.Request) -> httpx.Response:
        if b"text 3" in request.content:
            raise httpx.ReadError("")
        return httpx.Response(200, json={"status": "sent", "msg_uid": f"its-id-{len(request.content)}"})

    client = AsyncOcaSms(
        "marker-user@example.com",
        "marker-word",
        http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
        limiter=Unlimited(),
    )
    messages = [
        Sms("+6281345678901", "marker-text 1", key="marker-key"),
        Sms("0813-4567-8901", "marker-text 2"),
        Sms("081345678901", "marker-text 3"),
    ]
    async with SqliteJournal(path) as journal:
        await client.send_many(messages, journal=journal)
        used = content_of(path)
    for content in (used, content_of(path)):
        assert b"its-id-" in content
        assert [
            marker for marker in markers if marker.encode() in content or marker.encode().hex().encode() in content
        ] == []


# --- one message ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        SENT,
        JournalEntry(Status.SENT, SendReceipt("\ud83d", "two\nlines\tand \0", 3), 3),
        JournalEntry(Status.SENT, SendReceipt("", "", 1), 1),
        JournalEntry(Status.DOUBTFUL, attempts=4, error="InternalError", code=13),
        JournalEntry(Status.UNSENT, error="InvalidRequestError", code=39),
        JournalEntry(Status.UNSENT),
    ],
)
def test_an_entry_is_kept_as_it_is(path: Path, entry: JournalEntry) -> None:
    """A later process reads each field of an entry as it was stored, beside others in the same file."""
    make(path, entry, SENT)
    assert read(path, 1) == [entry]


async def test_a_run_gets_each_message_once(path: Path) -> None:
    """An intent is refused for a message that was sent, and for one that a later run has looked up."""
    async with SqliteJournal(path) as journal:
        async with run_over(journal):
            sent, other = [await journal.lookup_next(key, NUMBER, TEXT) for key in ("sent", "other")]
            assert await journal.intend(sent, seconds=10)
            await journal.settle(sent, SENT)
            assert not await journal.intend(sent, seconds=10)
        async with run_over(journal):
            again = await journal.lookup_next("other", NUMBER, TEXT)
            assert (again, await journal.intend(again, seconds=10)) == (other, True)
        async with run_over(journal):
            assert not await journal.intend(again, seconds=10)
            assert (await journal.lookup_next("sent", NUMBER, TEXT)).entry == SENT


async def test_an_intent_needs_a_lookup(path: Path) -> None:
    """A message that the journal does not know is refused, so it is not sent unrecorded."""
    async with SqliteJournal(path) as journal, run_over(journal):
        with pytest.raises(JournalError, match="begin a new run"):
            await journal.intend(Lookup(bytes(16), JournalEntry(Status.UNSENT)), seconds=10)


async def test_a_refused_call_does_not_disturb_the_others_of_its_commit(path: Path, disk: Disk) -> None:
    """Calls of several messages share a commit, and the mistake of one is its own."""
    async with SqliteJournal(path) as journal, run_over(journal):
        known = [await journal.lookup_next(key, NUMBER, TEXT) for key in "abc"]
        disk.hold()
        first = journal.intend(known[0], seconds=10)
        await until(lambda: disk.held)
        unknown = journal.intend(Lookup(bytes(16), JournalEntry(Status.UNSENT)), seconds=10)
        others = [journal.intend(lookup, seconds=10) for lookup in known[1:]]
        disk.release()
        with pytest.raises(JournalError, match="begin a new run"):
            await unknown
        assert await asyncio.gather(first, *others) == [True, True, True]


async def test_the_time_of_a_doubt_begins_with_its_first_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is proven unsent leaves no doubt, so the doubt of a later one begins later."""
    clock = itertools.count(1000)
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    async with SqliteJournal(path) as journal:
        times = list[tuple[float, float]]()
        for end in (JournalEntry(Status.UNSENT), DOUBTFUL, DOUBTFUL, None):
            (lookup,) = await note(journal, end)
            times.append((lookup.began, lookup.ended))
        assert times == [(0.0, 0.0), (0.0, 1001.0), (1002.0, 1003.0), (1002.0, 1005.0)]


async def test_a_found_id_belongs_to_one_message(path: Path) -> None:
    """A second message is not stored as sent under the same id, in this run or a later one."""
    async with SqliteJournal(path) as journal:
        first, second = await note(journal, DOUBTFUL, DOUBTFUL)
        assert await journal.find(first, RECEIPT)
        assert not await journal.find(second, RECEIPT)
    assert [entry.status for entry in await _reopened(path, 2)] == [Status.SENT, Status.DOUBTFUL]
    async with SqliteJournal(path) as journal:
        (second,) = await note(journal, DOUBTFUL, start=1)
        assert not await journal.find(second, RECEIPT)


async def _reopened(path: Path, count: int) -> list[JournalEntry]:
    async with SqliteJournal(path) as journal:
        return await entries(journal, count)


async def test_answers_about_a_run_are_not_stored(path: Path) -> None:
    """A repeated key and a conflict are told within their run, with the entry of the key's own message."""
    async with SqliteJournal(path) as journal:
        await note(journal, SENT)
        for _ in range(2):
            async with run_over(journal):
                found = [await journal.lookup_next("key 0", NUMBER, text) for text in (TEXT + "!", TEXT, TEXT)]
            assert [lookup.answer for lookup in found] == [Answer.KEY_CONFLICT, Answer.STORED, Answer.REPEATED]
            assert [lookup.entry for lookup in found] == [SENT] * 3


# --- one user at a time ---------------------------------------------------------------------------------------------


async def test_a_second_run_in_this_process_is_refused_until_the_first_has_closed(path: Path) -> None:
    """Neither another object nor the same one can be used while a run is on; afterwards both can."""
    journal, other = SqliteJournal(path), SqliteJournal(path)
    async with run_over(journal):
        for one in (journal, other):
            with pytest.raises(JournalError, match="another run uses it: wait"):
                await one.begin_run()
    async with run_over(journal):
        pass
    with pytest.raises(JournalError, match="another run uses it: wait"):
        await other.begin_run()
    await journal.aclose()
    async with run_over(other):
        pass
    await other.aclose()


HOLDER = """
import asyncio, sys
from oca_sms_async import SqliteJournal

async def main():
    async with SqliteJournal(sys.argv[1]) as journal:
        await journal.begin_run()
        print("open", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_a_run_of_another_process_is_refused_until_the_first_has_ended(path: Path, end: str) -> None:
    """The lock holds between processes, and ends with its process, however that one ends."""
    async with child(HOLDER, str(path)) as holder, SqliteJournal(path) as journal:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match="another run uses it: wait") as caught:
            await journal.begin_run()
        assert str(path) in str(caught.value)
        assert not caught.value.may_have_been_sent
        if end == "killed":
            holder.kill()
        await holder.communicate(b"" if end == "killed" else b"end\n")
        assert holder.returncode == (-signal.SIGKILL if end == "killed" else 0)
        async with run_over(journal):
            pass


async def test_a_copy_of_the_file_in_this_process_does_not_unlock_it(path: Path) -> None:
    """Another process is still refused after the file was opened and closed here, as a backup does."""
    async with SqliteJournal(path) as journal, run_over(journal):
        shutil.copy(path, path.with_name("backup"))
        async with child(HOLDER, str(path)) as second:
            output, _ = await second.communicate()
            assert (output, second.returncode) == (b"", 1)


@pytest.mark.parametrize("link", [os.symlink, os.link])
async def test_another_name_of_the_file_is_the_same_journal(
    path: Path, link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """The lock is the file's, not its name's: a link to it, or a mount of it, is locked as well."""
    async with SqliteJournal(path) as journal, SqliteJournal(tmp_path / "link") as other, run_over(journal):
        link(path, tmp_path / "link")
        with pytest.raises(JournalError, match="another run uses it"):
            await other.begin_run()


FORKED = """
import asyncio, os, signal, sys
from oca_sms_async import SqliteJournal

path = sys.argv[1]
journal, unused = SqliteJournal(path), SqliteJournal(path)

async def use(journal):
    await journal.begin_run()
    await journal.end_run()

async def closed(journal):
    await journal.aclose()

asyncio.run(use(journal))
begun, go_on = os.pipe()
child = os.fork()
signal.alarm(60)  # neither process outlives the test for long
if child == 0:
    for one in (journal, unused):
        try:
            asyncio.run(use(one))
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    asyncio.run(closed(journal))
    os.write(go_on, b"x")
    sys.stdin.readline()
    os._exit(0)
os.read(begun, 1)
asyncio.run(use(journal))
asyncio.run(closed(journal))
asyncio.run(use(unused))
print("free", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_has_neither_the_journal_nor_its_lock(path: Path) -> None:
    """In the child each use is a clear error, closing does nothing, and the parent's lock is not held any longer."""
    async with child(FORKED, str(path)) as process:
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode() for _ in range(3)]
        process.stdin.write(b"end\n")  # type: ignore[union-attr] # it is a pipe
    assert lines[0] == f"JournalClosedError the journal {path} is of the parent process: make one after the fork\n"
    assert "another run uses it" in lines[1]
    assert lines[2] == "free\n"


# --- a file that is not in its place --------------------------------------------------------------------------------


def rename(path: Path) -> None:
    """Rename the file, as a rotation of logs does."""
    path.rename(path.with_name("renamed"))


def delete(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def replace(path: Path) -> None:
    """Put a copy into its place, as an editor does."""
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


@pytest.mark.parametrize("meddle", [rename, delete, replace])
async def test_a_file_that_is_moved_stops_the_run(path: Path, meddle: Callable[[Path], None]) -> None:
    """No intent and no outcome is told that a later run would not find, even if the file comes back in mid-run."""
    async with SqliteJournal(path) as journal:
        async with run_over(journal):
            found = [await journal.lookup_next(key, NUMBER, TEXT) for key in "abc"]
            assert await journal.intend(found[0], seconds=10)
            meddle(path)
            for use in (journal.settle(found[0], SENT), journal.intend(found[1], seconds=10)):
                with pytest.raises(JournalError, match=r"moved, deleted or replaced.*: put it back"):
                    await use
            if meddle is rename:
                path.with_name("renamed").rename(path)
            with pytest.raises(JournalError, match="begin a new run"):
                await journal.intend(found[2], seconds=10)
        if meddle is not delete:
            assert statuses_on_disk(path) == [Status.DOUBTFUL]
        assert await entries(journal, 1) == [JournalEntry(Status.UNSENT)]


async def test_a_file_that_is_moved_during_a_write_fails_the_write(path: Path, disk: Disk) -> None:
    """The place is looked at again after the write, for a slow disk leaves time to move the file."""
    async with SqliteJournal(path) as journal, run_over(journal):
        lookup = await journal.lookup_next("key", NUMBER, TEXT)
        disk.hold()
        intent = journal.intend(lookup, seconds=10)
        await until(lambda: disk.held)
        rename(path)
        disk.release()
        with pytest.raises(JournalError, match="moved, deleted or replaced"):
            await intent


# --- a file that cannot be used -------------------------------------------------------------------------------------


def text_file(path: Path) -> None:
    """Make a file of another kind."""
    path.write_text("not a journal\n" * 100)


def short_text_file(path: Path) -> None:
    """Make one that is shorter than a journal's head."""
    path.write_text("x\n")


def database(path: Path) -> None:
    """Make another program's database."""
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.executescript("CREATE TABLE message (identity, content);")


def directory(path: Path) -> None:
    """Make a directory."""
    path.mkdir()


def pipe(path: Path) -> None:
    """Make a named pipe."""
    os.mkfifo(path)


def in_no_directory(path: Path) -> None:
    """Let the folder be missing."""
    path.parent.rmdir()


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Make a journal, closed, and change its bytes."""

    def spoil(path: Path) -> None:
        make(path, *[SENT, DOUBTFUL] * 100)
        path.write_bytes(change(path.read_bytes()))

    return spoil


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (text_file, "it is no journal: name another file"),
    "short text": (short_text_file, "it is no journal: name another file"),
    "database": (database, "it is no journal: name another file"),
    "directory": (directory, "it is a folder: name a file"),
    "pipe": (pipe, "it is no regular file: name another one"),
    "no directory": (in_no_directory, "its folder does not exist: make the folder first"),
    "later version": (changed(lambda content: content.replace(b" 3 ", b" 4 ", 1)), "its version is 4, .* 3: use"),
    "cut": (changed(lambda content: content[:-8000]), "damaged: restore a copy"),
    "cut by a line": (changed(lambda content: content[: content.rindex(b"\n", 0, -1) + 1]), "damaged"),
    "cut to the head": (changed(lambda content: content[: content.index(b"\n") + 1]), "damaged"),
    "cut in the head": (changed(lambda content: content[:40]), "damaged"),
    "zeros at the start": (changed(lambda content: bytes(4096) + content[4096:]), "damaged"),
    "zeros in the middle": (changed(lambda content: content[:4096] + bytes(4096) + content[8192:]), "damaged"),
    "zeros at the end": (changed(lambda content: content[:-4096] + bytes(4096)), "damaged"),
}


@pytest.mark.parametrize(("spoil", "sentence"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_is(
    spoil: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    """The error names the file, its fault and a remedy. The file keeps its bytes, and another program's file its
    permissions.
    """
    path = tmp_path / "folder" / "run.journal"
    path.parent.mkdir()
    spoil(path)
    if path.exists():
        path.chmod(0o755)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(JournalError, match=sentence) as caught:
        read(path, 1)
    assert str(path) in str(caught.value)
    assert not caught.value.may_have_been_sent
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert "damaged" in sentence or mode(path) == (0o755 if path.exists() else None)


def test_each_changed_byte_is_noticed(path: Path) -> None:
    """No bit flip in a closed journal passes for another history."""
    make(path, SENT, DOUBTFUL)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(JournalError, match=r"damaged|no journal|version"):
            read(path, 1)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EACCES, "access is denied: let this user"),
        (errno.EROFS, "read-only: choose another place"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_an_error_of_the_system_has_a_sentence(
    number: int, sentence: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that has a remedy names it, and another one keeps the system's words."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        with pytest.raises(JournalError, match=sentence):
            read(path, 1)


def test_a_file_system_without_locks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock two runs could send everything twice, so the journal does not work there."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(JournalError, match="no locks: keep the journal on a local disk"):
        read(path, 1)


async def test_a_refused_journal_can_be_used_once_its_trouble_is_over(path: Path) -> None:
    """The same object opens the file that it could not open before."""
    async with SqliteJournal(path) as journal:
        text_file(path)
        with pytest.raises(JournalError, match="no journal"):
            await journal.begin_run()
        os.truncate(path, 0)
        await note(journal, SENT)
        assert await entries(journal, 1) == [SENT]


# --- a crash --------------------------------------------------------------------------------------------------------


async def third_commit(path: Path) -> tuple[bytes, bytes]:
    """Return the bytes of a journal before and after its third commit, which puts a message in doubt."""
    async with SqliteJournal(path) as journal:
        await note(journal, SENT)
        before = content_of(path)
        await note(journal, None, start=1)
        return before, content_of(path)


def test_a_torn_line_does_not_count(path: Path) -> None:
    """Cut at any byte of its last line, or filled up with zeros there, the journal is that of the commit before."""
    before, after = asyncio.run(third_commit(path))
    for end in range(len(before), len(after) + 1):
        for rest in (b"", bytes(len(after) - end), b"\xff\n" * 5):
            path.write_bytes(after[:end] + rest)
            whole = end == len(after)
            assert read(path, 2) == [SENT, DOUBTFUL if whole else JournalEntry(Status.UNSENT)]
            assert len(path.read_bytes()) == len(after if whole else before)


def test_a_journal_goes_on_after_a_torn_line(path: Path) -> None:
    """The next commit stands in the place of the torn one, and a later process finds both."""
    _, after = asyncio.run(third_commit(path))
    path.write_bytes(after[:-1])
    make(path, SENT, DOUBTFUL, start=1)
    assert read(path, 3) == [SENT, SENT, DOUBTFUL]


def test_the_head_and_the_name_of_a_new_file_are_on_the_disk_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run begins after that. It also begins after the lines of a killed run are on the disk, for it tells of them."""
    synced, sync = list[str](), os.fsync

    def noting(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    async def begin() -> list[str]:
        synced.clear()
        async with SqliteJournal(path) as journal, run_over(journal):
            return [*synced]

    monkeypatch.setattr(os, "fsync", noting)
    assert asyncio.run(begin()) == ["file", "folder", "file"]
    assert asyncio.run(begin()) == ["file"]


def test_a_file_of_zeros_is_a_new_journal(path: Path) -> None:
    """Without the head on the disk no run has begun: a power cut may leave zeros where it was to be."""
    make(path.with_name("whole"))
    path.write_bytes(bytes(path.with_name("whole").stat().st_size))
    make(path, SENT)
    assert read(path, 1) == [SENT]


# --- a disk, a thread or an index that fails ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no room", "no sync"])
async def test_a_failed_write_is_undone(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each caller of the failed commit gets an error of its own, and a later process does not see their changes."""
    full = FullDisk(monkeypatch, how)
    async with SqliteJournal(path) as journal:
        async with run_over(journal):
            found = [await journal.lookup_next(f"key {it}", NUMBER, TEXT) for it in range(3)]
            assert await journal.intend(found[0], seconds=10)
            full.fails = True
            failures = await asyncio.gather(
                *(journal.intend(it, seconds=10) for it in found[1:]), return_exceptions=True
            )
            full.fails = False
        assert all(isinstance(failure, JournalError) and full.sentence in str(failure) for failure in failures)
        assert failures[0] is not failures[1]
        unsent = JournalEntry(Status.UNSENT)
        assert await entries(journal, 3) == [DOUBTFUL, unsent, unsent]
    assert await _reopened(path, 3) == [DOUBTFUL, unsent, unsent]


async def test_a_failed_write_changes_no_claim(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose claim was not written is nobody's, and an outcome that was not written can be written later."""
    full = FullDisk(monkeypatch, "no room")
    async with SqliteJournal(path) as journal:
        claimed, other = [await journal.lookup_key(key, NUMBER, TEXT) for key in ("claimed", "other")]
        assert await journal.intend(claimed, seconds=100)
        full.fails = True
        with pytest.raises(JournalError, match=full.sentence):
            await journal.intend(other, seconds=100)
        with pytest.raises(JournalError, match=full.sentence):
            await journal.settle(claimed, SENT)
        full.fails = False
        assert (await journal.lookup_key("other", NUMBER, TEXT)).busy_for == 0
        assert (await journal.lookup_key("claimed", NUMBER, TEXT)).busy_for > 0
        await journal.settle(claimed, SENT)
        assert await journal.lookup("claimed") == SENT


async def test_a_failed_sync_refuses_the_rest_of_its_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second sync may report success without a write, so the file must be opened anew; the error keeps the reason."""
    full = FullDisk(monkeypatch, "no sync")
    async with SqliteJournal(path) as journal, run_over(journal):
        lookup = await journal.lookup_next("key", NUMBER, TEXT)
        full.fails = True
        with pytest.raises(JournalError, match=full.sentence):
            await journal.intend(lookup, seconds=10)
        full.fails = False
        with pytest.raises(JournalError, match=f"{full.sentence}; begin a new run"):
            await journal.intend(lookup, seconds=10)


async def test_a_journal_that_cannot_be_closed_cleanly_gives_up_its_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails at the end is an error of each closing, and still the next run can begin."""
    full, journal = FullDisk(monkeypatch, "no sync"), SqliteJournal(path)
    await note(journal, SENT)
    full.fails = True
    for _ in range(2):
        with pytest.raises(JournalError, match=full.sentence):
            await journal.aclose()
    full.fails = False
    assert await _reopened(path, 1) == [SENT]


async def test_a_thread_that_cannot_start_is_an_error_of_the_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no thread left, the run does not begin; later it does."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with SqliteJournal(path) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fail)
            with pytest.raises(JournalError, match="no thread can be started"):
                await journal.begin_run()
        await note(journal, SENT)
        assert await entries(journal, 1) == [SENT]


def test_without_a_folder_for_temporary_files_the_index_is_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only root the journal works, for its own folder is all that it needs."""
    opened, connect = list[str](), sqlite3.connect

    def note_name(name: str, **options: Any) -> sqlite3.Connection:
        opened.append(name)
        return cast(sqlite3.Connection, connect(name, **options))

    monkeypatch.setattr(sqlite3, "connect", note_name)
    make(path, SENT)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert read(path, 1) == [SENT]
    assert opened == ["", ":memory:"]


class FailingIndex:
    """A connection to the index that fails at the next commit."""

    fails = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        """Do it, or fail."""
        if self.fails and statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_an_index_that_fails_stops_the_run_and_the_file_decides(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder for temporary files may be full: the run stops, and the next one reads the file again."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: FailingIndex(connect(*args, **options)))
    async with SqliteJournal(path) as journal:
        async with run_over(journal):
            found = [await journal.lookup_next(f"key {it}", NUMBER, TEXT) for it in range(2)]
            monkeypatch.setattr(FailingIndex, "fails", True)
            with pytest.raises(JournalError, match="is there room in the folder for temporary files"):
                await journal.intend(found[0], seconds=10)
            monkeypatch.setattr(FailingIndex, "fails", False)
            with pytest.raises(JournalError, match="begin a new run"):
                await journal.intend(found[1], seconds=10)
        assert await entries(journal, 2) == [DOUBTFUL, JournalEntry(Status.UNSENT)]


# --- the ends of tasks and loops ------------------------------------------------------------------------------------


async def test_closing_that_was_cancelled_gives_up_the_lock(path: Path, disk: Disk) -> None:
    """A cancellation during a slow closing leaves no file locked, and loses no write."""
    journal = SqliteJournal(path)
    (lookup,) = await note(journal, None)
    disk.hold()
    written = journal.settle(lookup, SENT)
    closing = asyncio.create_task(journal.aclose())
    await until(lambda: disk.held)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    disk.release()
    await written
    await journal.aclose()
    assert await _reopened(path, 1) == [SENT]


@pytest.mark.parametrize("closes", [False, True])
async def test_a_run_ends_after_its_writes(path: Path, disk: Disk, *, closes: bool) -> None:
    """The end of a run waits until each write is on the disk, even if the journal is closed meanwhile."""
    async with SqliteJournal(path) as journal:
        await journal.begin_run()
        lookup = await journal.lookup_next("key", NUMBER, TEXT)
        disk.hold()
        intent = journal.intend(lookup, seconds=10)
        closing = asyncio.create_task(journal.aclose() if closes else asyncio.sleep(0))
        await until(lambda: disk.held)
        ending = asyncio.create_task(journal.end_run())
        for _ in range(200):
            await asyncio.sleep(0)
        assert not ending.done()
        disk.release()
        await ending
        assert intent.done()
        await closing


HANGING = """
import asyncio, sys
from oca_sms_async import AsyncOcaSms, Sms, SqliteJournal

async def job():
    async with AsyncOcaSms("u", "p", base_url="http://127.0.0.1:9/") as client, SqliteJournal(sys.argv[1]) as journal:
        await client.send_many([Sms("081234567890", "text")], journal=journal)

async def main(steps):
    task = asyncio.create_task(job())
    for _ in range(steps):
        await asyncio.sleep(0)
    raise ValueError

for steps in range(1, 30):
    try:
        asyncio.run(main(steps))
    except ValueError:
        print("ended", flush=True)
"""


async def test_a_loop_that_ends_at_any_step_of_a_run_does_not_hang(path: Path) -> None:
    """`asyncio.run` cancels all tasks when its own fails, whatever they have begun, and returns."""
    async with child(HANGING, str(path)) as process:
        output, _ = await process.communicate()
    assert output == b"ended\n" * 29


async def leave_a_write(journal: SqliteJournal, disk: Disk) -> None:
    """Have a loop end while a write of its own is held."""
    (lookup,) = await note(journal, None)
    disk.hold()
    journal.settle(lookup, SENT)
    await until(lambda: disk.held)


def test_a_second_loop_can_use_a_journal_whose_first_loop_has_ended(path: Path, disk: Disk) -> None:
    """A write that is on when its loop ends is finished, and the next loop finds it."""
    journal = SqliteJournal(path)
    asyncio.run(leave_a_write(journal, disk))

    async def go_on() -> None:
        disk.release()
        assert await asyncio.wait_for(entries(journal, 1), PATIENCE) == [SENT]
        await journal.aclose()

    asyncio.run(go_on())


def test_a_second_loop_can_close_a_journal_whose_first_loop_has_ended(
    path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """The closing waits for the writes of the first loop, even if that one had begun to close."""
    journal = SqliteJournal(path)

    async def leave() -> None:
        await leave_a_write(journal, disk)
        closing = asyncio.create_task(journal.aclose())
        await asyncio.sleep(0)
        assert not closing.done()

    async def close() -> None:
        closing = asyncio.create_task(journal.aclose())
        await asyncio.sleep(0)
        disk.release()
        await asyncio.wait_for(closing, PATIENCE)

    asyncio.run(leave())
    asyncio.run(close())
    assert read(path, 1) == [SENT]
    assert caplog.records == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager from 3.12 on")
def test_eager_tasks_can_use_a_journal(path: Path) -> None:
    """A loop with eager tasks runs a journal as any other."""

    async def main() -> list[JournalEntry]:
        asyncio.get_running_loop().set_task_factory(cast(Any, asyncio).eager_task_factory)
        async with SqliteJournal(path) as journal:
            await asyncio.create_task(note(journal, SENT))
            return await asyncio.create_task(entries(journal, 1))

    assert asyncio.run(main()) == [SENT]
