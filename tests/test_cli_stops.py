"""The end of `oca-sms bulk` before its time: Ctrl-C, and errors that stop the run."""

import asyncio
import fcntl
import itertools
import os
import pty
import re
import signal
import termios
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from signal import Signals
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal
from campaign_files import (
    PASSWORD,
    USERNAME,
    assert_no_secret,
    list_recipients,
    make_row,
    read_next_command,
    read_outcomes,
    read_words,
    spell_e164,
    spell_phone,
    write_campaign,
    write_csv,
)
from command import (
    CTRL_C,
    FAST,
    HAS_TERMINAL,
    MAIN,
    NO_JOURNAL,
    PATIENCE,
    Bulk,
    Ended,
    account,
    end_of,
    environment,
    is_waiting,
    leave_out_warning,
    read_pairs,
    read_up_to,
    run_on_terminal,
    start,
    until,
)
from raw_gateway import Connection, RawGateway, http, receipt

from oca_sms_async import JournalError, SqliteJournal
from oca_sms_async.sandbox import Sandbox

HEEDS_NO_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"


def test_ctrl_c_on_a_terminal_stops_and_gives_the_cursor_back(served: Sandbox, tmp_path: Path) -> None:
    """Also on a terminal, Ctrl-C ends in the summary and the next command, below the bar."""
    file, journal, out = write_campaign(tmp_path / "rows.csv", 400), tmp_path / "journal", tmp_path / "out"
    command = ["bulk", str(file), "--journal", str(journal), "--out", str(out), "--rate", "100"]
    ended = run_on_terminal(command, environment(COLUMNS="140", **account(served)), {r"[1-9]\d?/400": CTRL_C})
    assert_no_secret(ended.out)
    assert ended.status == 130
    counted = Counter(read_words(out))
    assert counted == {"sent": len(served.inbox), "skipped": 400 - len(served.inbox)}
    assert read_next_command(ended.out.replace("\r", "")) == command
    assert "\x1b[?25h" in ended.out
    assert "Traceback" not in ended.out


class HeldGateway:
    """A proxy of a sandbox: it delivers each message at once, and holds the answer until `released` is set."""

    def __init__(self, sandbox: Sandbox) -> None:
        sandbox.username, sandbox.password = USERNAME, PASSWORD
        self.sandbox = sandbox
        self.released = asyncio.Event()
        self.delivered = asyncio.Semaphore(0)
        self.gateway = RawGateway(self.answer)

    async def answer(self, connection: Connection) -> None:
        """Deliver the message, and answer after the release."""
        head, _, body = connection.request.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        path = head.split()[1].decode().removeprefix("/api/v1")
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(self.sandbox.base_url + path, content=body, headers=headers)
        self.delivered.release()
        await self.released.wait()
        await connection.write(http(answer.content, f"{answer.status_code} Answer"))

    async def has_delivered(self, count: int) -> None:
        """Wait until so many more messages are delivered."""
        async with asyncio.timeout(PATIENCE):
            for _ in range(count):
                await self.delivered.acquire()

    def environment(self) -> dict[str, str]:
        """Return the environment of a command that sends through this proxy."""
        return environment(**account(self.sandbox) | {"OCA_SMS_BASE_URL": self.gateway.base_url})


async def interrupt(
    held: HeldGateway, command: Collection[str], *more: Signals, first: Signals = Signals.SIGINT
) -> Ended:
    """Start a command, send it a signal when three messages are on the wire, and more signals; return its end.

    The answers come after the signals, unless a Ctrl-C is among the later ones.
    """
    async with held.gateway.serve(), start(*command, env=held.environment()) as process:
        await held.has_delivered(3)
        process.send_signal(first)
        notice = await read_up_to(process, "stopping")
        for number in more:
            process.send_signal(number)
        if Signals.SIGINT not in more:
            held.released.set()
        ended = await end_of(process)
    assert_no_secret(notice + ended.out + ended.err)
    assert (
        notice.removeprefix(NO_JOURNAL)
        == "oca-sms: stopping: requests on the wire may finish; press Ctrl-C again to cut them short\n"
    )
    assert len(ended.err.splitlines()) == 1
    return ended


async def test_first_ctrl_c_lets_what_is_on_the_wire_end(sandbox: Sandbox, tmp_path: Path) -> None:
    """After Ctrl-C requests on the wire finish and the rest is skipped; the printed command sends the rest."""
    held, out = HeldGateway(sandbox), tmp_path / "my out"
    file = write_campaign(tmp_path / "it's rows.csv", 12)
    command = ["bulk", str(file), "--journal", str(tmp_path / "journal"), "--out", str(out), "--concurrency", "3"]
    command += FAST
    ended = await interrupt(held, command)
    assert ended.status == 130
    assert read_words(out) == ["sent"] * 3 + ["skipped"] * 9
    assert len(sandbox.inbox) == 3
    counts = read_pairs(ended.out)
    assert [counts[name].split()[0] for name in ("sent", "failed", "unknown", "skipped")] == ["3", "0", "0", "9"]
    assert ended.err.startswith("oca-sms: interrupted, with 9 of 12 rows not sent; go on with: oca-sms bulk ")
    assert read_next_command(ended.err) == command
    async with start(*read_next_command(ended.err), env=environment(**account(sandbox))) as process:
        again = await end_of(process)
    assert (again.status, again.err, read_words(out)) == (0, "", ["sent"] * 12)
    assert list_recipients(sandbox) == [spell_e164(number) for number in range(1, 13)]


@pytest.mark.parametrize(("number", "status"), [(Signals.SIGTERM, 143), (Signals.SIGHUP, 129)])
async def test_a_signal_stops_as_the_first_ctrl_c_does(
    sandbox: Sandbox, tmp_path: Path, number: Signals, status: int
) -> None:
    """SIGTERM and SIGHUP, once or twice, let requests on the wire finish; `--out` and the journal have them."""
    held, out = HeldGateway(sandbox), tmp_path / "out"
    file = write_campaign(tmp_path / "rows.csv", 12)
    command = ["bulk", str(file), "--journal", str(tmp_path / "journal"), "--out", str(out), "--concurrency", "3"]
    ended = await interrupt(held, [*command, *FAST], number, first=number)
    assert ended.status == status
    assert read_words(out) == ["sent"] * 3 + ["skipped"] * 9
    words = {143: "terminated", 129: "hung up"}[status]
    assert ended.err.startswith(f"oca-sms: {words}, with 9 of 12 rows not sent; go on with: oca-sms bulk ")
    async with start(*read_next_command(ended.err), env=environment(**account(sandbox))) as process:
        assert (await end_of(process)).status == 0
    assert list_recipients(sandbox) == [spell_e164(number) for number in range(1, 13)]


async def test_ctrl_c_after_sigterm_cuts_short(sandbox: Sandbox, tmp_path: Path) -> None:
    """Ctrl-C after SIGTERM does not wait for the wire; the exit status is that of SIGTERM."""
    held, out = HeldGateway(sandbox), tmp_path / "out"
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 12)), "--out", str(out), "--concurrency", "3", *FAST]
    ended = await interrupt(held, command, Signals.SIGINT, first=Signals.SIGTERM)
    assert (ended.status, read_words(out)) == (143, ["unknown"] * 3 + ["skipped"] * 9)


async def test_ignored_signals_stay_ignored(sandbox: Sandbox, tmp_path: Path) -> None:
    """Under nohup, which ignores SIGHUP, the run goes on to its end."""
    held = HeldGateway(sandbox)
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 5)), "--concurrency", "3", *FAST]
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + MAIN
    async with held.gateway.serve(), start(*command, env=held.environment(), code=code) as process:
        await held.has_delivered(3)
        process.send_signal(signal.SIGHUP)
        held.released.set()
        assert (await end_of(process)).status == 0
    assert len(sandbox.inbox) == 5


def find_child(pid: int) -> int:
    """Return the only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


async def test_the_first_process_of_a_container_heeds_sigterm(sandbox: Sandbox, tmp_path: Path) -> None:
    """As PID 1, to which the kernel gives no default actions, the command ends at SIGTERM too."""
    isolated = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    tried = await asyncio.create_subprocess_exec(*isolated, "true", stderr=asyncio.subprocess.DEVNULL)
    if await tried.wait():
        pytest.skip("unshare makes no name space here")
    held, out = HeldGateway(sandbox), tmp_path / "out"
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 12)), "--out", str(out), "--concurrency", "3", *FAST]
    async with held.gateway.serve(), start(*command, env=held.environment(), launcher=isolated) as process:
        await held.has_delivered(3)
        os.kill(find_child(process.pid), signal.SIGTERM)
        await read_up_to(process, "stopping")
        held.released.set()
        ended = await end_of(process)
    assert (ended.status, read_words(out)) == (143, ["sent"] * 3 + ["skipped"] * 9)


async def test_a_terminal_that_is_closed_ends_the_run_with_all_outcomes(sandbox: Sandbox, tmp_path: Path) -> None:
    """When its terminal is gone, a run stops as at the first Ctrl-C, though it can write to nobody."""
    held, out = HeldGateway(sandbox), tmp_path / "out"
    master, slave = pty.openpty()
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 12)), "--out", str(out), "--concurrency", "3", *FAST]
    code = HAS_TERMINAL + MAIN
    async with (
        held.gateway.serve(),
        start(*command, env=held.environment(), code=code, terminal=slave) as process,
    ):
        os.close(slave)
        await held.has_delivered(3)
        os.close(master)
        held.released.set()
        status = await asyncio.wait_for(process.wait(), PATIENCE)
    sent = len(sandbox.inbox)
    assert (status, Counter(read_words(out))) == (129, {"sent": sent, "skipped": 12 - sent})


@pytest.mark.parametrize("reader", ["leaves", "full disk"])
async def test_lost_output_does_not_end_the_run(sandbox: Sandbox, tmp_path: Path, reader: str) -> None:
    """A reader that leaves, or a full disk behind standard output, changes only the exit status."""
    sandbox.username, sandbox.password = USERNAME, PASSWORD
    out = tmp_path / "out"
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 60)), "--out", str(out), *FAST]
    read, write = os.pipe()
    output = write if reader == "leaves" else os.open("/dev/full", os.O_WRONLY)
    os.close(read)
    async with start(*command, env=environment(**account(sandbox)), stdout=output) as process:
        ended = leave_out_warning(await end_of(process))
    os.close(write)
    assert (ended.status, read_words(out)) == (1, ["sent"] * 60)
    reason = "Broken pipe" if reader == "leaves" else "No space left on device"
    assert ended.err == f"oca-sms: all was done, but some output could not be written: {reason}\n"


async def test_lost_output_does_not_hide_the_end_of_a_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """A run whose output was lost and whose rows failed has the status and the line of the rows."""
    sandbox.username, sandbox.password, sandbox.quota = USERNAME, PASSWORD, 0
    full = os.open("/dev/full", os.O_WRONLY)
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 3)), *FAST]
    async with start(*command, env=environment(**account(sandbox)), stdout=full) as process:
        ended = leave_out_warning(await end_of(process))
    os.close(full)
    assert ended.status == 3
    assert ended.err.startswith("oca-sms: stopped: the account's quota is used up")


async def test_second_ctrl_c_does_not_wait(sandbox: Sandbox, tmp_path: Path) -> None:
    """A second Ctrl-C leaves requests on the wire in doubt. Each row has its line, and `--reconcile` finishes."""
    held, out = HeldGateway(sandbox), tmp_path / "out"
    file = write_campaign(tmp_path / "rows.csv", 12)
    command = ["bulk", str(file), "--journal", str(tmp_path / "journal"), "--out", str(out), "--concurrency", "3"]
    command += FAST
    ended = await interrupt(held, command, Signals.SIGINT)
    assert (ended.status, read_words(out)) == (130, ["unknown"] * 3 + ["skipped"] * 9)
    assert "interrupted, with 9 of 12 rows not sent, 3 may have been sent; go on with: " in ended.err
    for arguments, status, outcome in ((command, 1, "unknown"), ([*command, "--reconcile"], 0, "sent")):
        async with start(*arguments, env=environment(**account(sandbox))) as process:
            assert (await end_of(process)).status == status
        assert read_words(out) == [outcome] * 3 + ["sent"] * 9
        assert list_recipients(sandbox) == [spell_e164(number) for number in range(1, 13)]


async def test_rows_of_earlier_runs_have_their_line_after_ctrl_c(sandbox: Sandbox, tmp_path: Path) -> None:
    """In an interrupted run, rows that were sent earlier, that are bad or that repeat a key have one line each."""
    held, out = HeldGateway(sandbox), tmp_path / "out"
    journal = ("--journal", str(tmp_path / "journal"))
    rows = [make_row(number) for number in range(1, 7)] + [make_row(7, "seven")] * 2
    before = write_csv(tmp_path / "before.csv", *rows[1::4])
    async with start("bulk", str(before), *journal, *FAST, env=environment(**account(sandbox))) as process:
        assert (await end_of(process)).status == 0
    file = write_csv(tmp_path / "rows.csv", *rows[:2], f"{spell_phone(8)},,", *rows[2:])
    command = ["bulk", str(file), *journal, "--out", str(out), "--concurrency", "3", "--skip-invalid"]
    async with held.gateway.serve(), start(*command, env=held.environment()) as process:
        await held.has_delivered(3)
        process.send_signal(signal.SIGINT)
        await read_up_to(process, "stopping")
        held.released.set()
        ended = await end_of(process)
    assert ended.status == 130
    assert read_words(out) == ["sent", "sent", "failed", "sent", "sent", "skipped", "sent", "skipped", "skipped"]


async def test_ctrl_c_without_a_journal_is_no_resume(sandbox: Sandbox, tmp_path: Path) -> None:
    """Without a journal, an interrupted run warns of the same command."""
    ended = await interrupt(
        HeldGateway(sandbox), ["bulk", str(write_campaign(tmp_path / "rows.csv", 9)), "--concurrency", "3", *FAST]
    )
    line = "interrupted, with 6 of 9 rows not sent; without --journal, the same command would send everything again"
    assert (ended.status, ended.err) == (130, f"oca-sms: {line}\n")


async def test_ctrl_c_means_others_where_it_is_ignored(sandbox: Sandbox, tmp_path: Path) -> None:
    """In the background of a shell Ctrl-C is for another program, and the run goes on to its end."""
    held = HeldGateway(sandbox)
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 5)), "--concurrency", "3", *FAST]
    code = HEEDS_NO_CTRL_C + MAIN
    async with held.gateway.serve(), start(*command, env=held.environment(), code=code) as process:
        await held.has_delivered(3)
        process.send_signal(signal.SIGINT)
        held.released.set()
        ended = leave_out_warning(await end_of(process))
    assert (ended.status, ended.err, len(sandbox.inbox)) == (0, "", 5)


def is_waiting_for_more(pid: int, pipe: int) -> bool:
    """Tell whether a process has read everything in a pipe, and waits."""
    unread = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return unread == bytes(4) and is_waiting(pid)


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(Signals.SIGINT, 130, "interrupted"), (Signals.SIGTERM, 143, "terminated"), (Signals.SIGHUP, 129, "hung up")],
)
async def test_a_signal_before_anything_is_sent(
    sandbox: Sandbox, tmp_path: Path, number: Signals, status: int, words: str
) -> None:
    """A signal while the file is read ends the command in one line."""
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)
    async with start("bulk", str(fifo), env=environment(**account(sandbox))) as process:
        with await asyncio.to_thread(fifo.open, "wb", buffering=0) as writer:
            await asyncio.to_thread(writer.write, b"\n")
            await until(lambda: is_waiting_for_more(process.pid, writer.fileno()))
            process.send_signal(number)
            assert await end_of(process) == (status, "", f"oca-sms: {words}\n")


def test_ctrl_c_while_the_rest_is_noted_is_no_traceback(
    bulk: Bulk, portal: BlockingPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C after the last answer, while the rest is noted, ends with 130 and no traceback."""
    presses = list[str]()
    begin_run, runs = SqliteJournal.begin_run, itertools.count(1)

    def press(moment: str) -> None:
        presses.append(moment)
        os.kill(os.getpid(), signal.SIGINT)

    async def press_before_the_answer(connection: Connection) -> None:
        press("on the wire")
        await receipt(connection)

    async def press_in_the_last_pass(journal: SqliteJournal) -> None:
        await begin_run(journal)
        if next(runs) == 3:  # after the survey and the run itself
            press("noting the rest")
            await asyncio.sleep(0)

    monkeypatch.setattr(SqliteJournal, "begin_run", press_in_the_last_pass)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with portal.wrap_async_context_manager(RawGateway(press_before_the_answer).serve()) as gateway:
            monkeypatch.setenv("OCA_SMS_BASE_URL", gateway.base_url)
            file = write_campaign(tmp_path / "rows.csv", 400)
            ended = bulk(file, "--journal", tmp_path / "journal", "--concurrency", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert presses == ["on the wire", "noting the rest"]
    assert ended.status == 130


async def test_printed_command_keeps_a_template_of_several_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    """The printed command has the texts as they were typed, or each message would be a new one."""
    held = HeldGateway(sandbox)
    file = write_csv(
        tmp_path / "rows.csv", *(f"{spell_phone(number)},{number}" for number in range(1, 7)), header="phone,code"
    )
    journal = str(tmp_path / "journal")
    command = ["bulk", str(file), "--template", "Acme\u00a0👩\u200d💻:\n{code}", "--journal", journal]
    command += ["--concurrency", "3", *FAST]
    ended = await interrupt(held, command)
    [line] = re.findall(r"; go on with: oca-sms (.*)$", ended.err, re.MULTILINE | re.DOTALL)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", f'printf "%s\\0" {line}', stdout=asyncio.subprocess.PIPE, env=environment(LC_ALL="C.UTF-8")
    )
    said, _ = await shell.communicate()
    assert said.decode().split("\0")[:-1] == command


def test_stop_by_the_quota(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A used-up quota ends the run with a 3 that names it. The rest is skipped, and sent once there is quota again."""
    served.quota = 2
    file, out = write_campaign(tmp_path / "rows.csv", 6), tmp_path / "out"
    command = (file, "--journal", tmp_path / "journal", "--out", out, "--concurrency", "1")
    ended = bulk(*command)
    assert (ended.status, read_words(out)) == (3, ["sent"] * 2 + ["failed"] + ["skipped"] * 3)
    assert [it["code"] for it in read_outcomes(out)] == [None, None, 55, 55, 55, 55]
    reason = "stopped: the account's quota is used up (HTTP 401, code 55); 4 of 6 rows not sent"
    assert ended.err.startswith(f"oca-sms: {reason}; go on with: oca-sms bulk ")
    assert read_next_command(ended.err) == ["bulk", *map(str, command), *FAST]
    served.quota = None
    assert bulk(*command).status == 0
    assert (read_words(out), list_recipients(served)) == (["sent"] * 6, [spell_e164(number) for number in range(1, 7)])


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"expired": True}, "the account has expired (HTTP 401, code 51)"),
        ({"password": "another"}, "the gateway refused the credentials (HTTP 401, code 17)"),
    ],
)
def test_stop_by_the_account(
    bulk: Bulk, served: Sandbox, tmp_path: Path, knobs: dict[str, object], reason: str
) -> None:
    """A refused account stops the run at its first message."""
    for name, value in knobs.items():
        setattr(served, name, value)
    out = tmp_path / "out"
    ended = bulk(write_campaign(tmp_path / "rows.csv", 600), "--out", out, "--concurrency", "1")
    assert (ended.status, read_words(out)) == (3, ["failed"] + ["skipped"] * 599)
    rest = "600 of 600 rows not sent; without --journal, the same command would send everything again"
    assert ended.err == f"oca-sms: stopped: {reason}; {rest}\n"


def test_stop_by_an_outage(bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """A gateway that does not listen stops the run with a 3, and each row has its line."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", f"http://127.0.0.1:{unused_tcp_port}/api/v1")
    out = tmp_path / "out"
    ended = bulk(write_campaign(tmp_path / "rows.csv", 8), "--out", out, "--concurrency", "2")
    words = Counter(read_words(out))
    # Two failures in a row stop the run. The other worker may be connecting by then, and fails too.
    assert (ended.status, set(words), words.total()) == (3, {"failed", "skipped"}, 8)
    assert words["failed"] in {2, 3}
    assert ended.err.startswith("oca-sms: stopped: no connection to the gateway came about: Connection refused; 8 of 8")


def test_an_outage_of_fewer_rows_than_go_at_once_is_one_too(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """An outage is a 3 also with fewer rows than `--concurrency`."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", f"http://127.0.0.1:{unused_tcp_port}/api/v1")
    ended = bulk(write_campaign(tmp_path / "rows.csv", 3))
    assert (ended.status, "stopped: no connection to the gateway" in ended.err) == (3, True)


def test_stop_keeps_what_earlier_runs_know(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Rows after the one that stopped the run have the journal's outcome, each once."""
    file, journal = in_doubt
    assert bulk(write_csv(tmp_path / "sent.csv", make_row(5)), "--journal", journal).status == 0
    write_csv(file, make_row(3), make_row(1), make_row(5), make_row(4), make_row(2), "x,y,z")
    served.quota = 0
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--concurrency", "1", "--skip-invalid")
    assert ended.status == 3
    assert read_words(out) == ["failed", "unknown", "sent", "skipped", "unknown", "failed"]


def test_stop_by_the_journal_is_a_stop(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that fails during the run ends it with a 3 that names it, and nothing more is sent."""
    intend, journal = SqliteJournal.intend, tmp_path / "journal"

    async def fail_later(self: SqliteJournal, message: Any, **options: Any) -> bool:
        if served.inbox:
            raise JournalError("the disk of the journal is full")
        return await intend(self, message, **options)

    monkeypatch.setattr(SqliteJournal, "intend", fail_later)
    ended = bulk(write_campaign(tmp_path / "rows.csv", 4), "--journal", journal, "--concurrency", "1")
    assert (ended.status, len(served.inbox)) == (3, 1)
    assert ended.err.startswith("oca-sms: stopped: the disk of the journal is full; ")
    assert "; 3 of 4 rows not sent; " in ended.err
