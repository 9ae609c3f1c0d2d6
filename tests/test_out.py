"""`--out` of `oca-sms bulk`: one line a row in the order of the rows, and no file of others is lost."""

import csv
import errno
import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from campaign_files import KEYS, make_row, read_outcomes, read_words, spell_e164, write_campaign, write_csv
from command import MAIN, PATIENCE, Bulk, account, environment

from oca_sms_async import DeliveryUnknownError, Failed, SendReceipt, Sent, Skipped
from oca_sms_async.cli import _line_starts, _sinks
from oca_sms_async.cli._line_starts import LineStarts
from oca_sms_async.cli._out import OutcomesFile
from oca_sms_async.cli._rows import BadRow, RowSms
from oca_sms_async.sandbox import Sandbox

FOREIGN = "phone,note\n0812,precious\n"


def make_sms(row: int) -> RowSms:
    """Return a row of a file."""
    return RowSms(spell_e164(row), "Halo", row=row)


def write_out_of_order(out: OutcomesFile) -> None:
    """Write outcomes of five rows as they may come."""
    out.write_known(BadRow(4, "reason"), "failed", error="reason")
    out.keep()
    out.note(Sent(make_sms(3), SendReceipt("c", "sent")))
    out.note(Failed(make_sms(1), DeliveryUnknownError("no answer", attempts=1)))
    out.write(BadRow(4, "reason"), "failed", error="reason")
    out.note(Skipped(make_sms(5), None))
    out.note(Skipped(make_sms(2), None, SendReceipt("b", "sent", 2)))
    out.note(Skipped(make_sms(2), None))
    out.close()


IN_ORDER = [(1, "unknown"), (2, "sent"), (3, "sent"), (4, "failed"), (5, "skipped")]


def test_lines_of_a_file_end_in_the_order_of_the_rows(tmp_path: Path) -> None:
    """Outcomes that come in any order, or twice, are one line a row in the order of the rows."""
    path = tmp_path / "out"
    write_out_of_order(OutcomesFile(path, show_numbers=False))
    assert [(it["row"], it["outcome"]) for it in read_outcomes(path)] == IN_ORDER


def test_lines_of_a_pipe_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    """A pipe, which cannot be sorted, gets each line when its turn comes."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE, text=True)
    write_out_of_order(OutcomesFile(path, show_numbers=False))
    output, _ = reader.communicate(timeout=PATIENCE)
    assert [(it["row"], it["outcome"]) for it in map(json.loads, output.splitlines())] == IN_ORDER


def test_each_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    """A line is in the file when its outcome was noted, so that a kill loses none."""
    path = tmp_path / "out"
    out = OutcomesFile(path, show_numbers=False)
    out.keep()
    for row in (2, 1):
        out.note(Sent(make_sms(row), SendReceipt("a", "sent")))
        assert f'"row": {row},' in path.read_text().splitlines()[-1]
    out.close()


class FullTable(LineStarts):
    """The places of lines, in a folder for temporary files that is full from the third row on."""

    def add(self, row: int, start: int) -> None:
        """Note the line of a row, or fail."""
        if row > 2:
            raise OSError(errno.ENOSPC, "no room")
        super().add(row, start)


def test_lines_that_cannot_be_sorted_stay_as_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the places of lines cannot be kept, that is the file's error, and each line stays, one for each row."""
    monkeypatch.setattr(_sinks, "LineStarts", FullTable)
    path = tmp_path / "out"
    out = OutcomesFile(path, show_numbers=False)
    out.keep()
    for row in (2, 4, 1, 4):
        out.note(Sent(make_sms(row), SendReceipt("a", "sent")))
    assert out.error is not None
    assert out.error.strerror == "no room"
    out.close()
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == [2, 4, 1]
    assert out.unwritten == []


def add_lines(starts: LineStarts) -> None:
    """Add more lines than two pages have room for."""
    for row in range(1, 1000):
        starts.add(row, row)


def test_a_full_folder_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of places that has no room says so as a disk does."""

    def open_small_database() -> sqlite3.Connection:
        database = sqlite3.connect("", isolation_level=None)
        database.execute("PRAGMA max_page_count = 2")
        return database

    monkeypatch.setattr(_line_starts, "open_database", open_small_database)
    with closing(LineStarts()) as starts, pytest.raises(OSError, match="is there room in the folder") as caught:
        add_lines(starts)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("show_numbers", [False, True])
def test_a_name_that_ends_in_csv_is_a_csv(bulk: Bulk, tmp_path: Path, *, show_numbers: bool) -> None:
    """The outcomes are a CSV with a header if the name of `--out` ends so."""
    out = tmp_path / "OUT.CSV"
    file = write_csv(tmp_path / "rows.csv", make_row(1, "one"), "x,y,two")
    options = ["--show-numbers"] if show_numbers else []
    assert bulk(file, "--out", out, "--skip-invalid", *options).status == 1
    with out.open(newline="", encoding="utf-8") as lines:
        sent, bad = csv.DictReader(lines)
    assert list(sent) == KEYS + ["phone"] * show_numbers
    assert (sent["row"], sent["key"], sent["outcome"], sent["error"]) == ("1", "one", "sent", "")
    assert (bad["row"], bad["outcome"], bad["msg_uid"]) == ("2", "failed", "")
    assert sent.get("phone") == (spell_e164(1) if show_numbers else None)
    assert bulk(write_campaign(file, 1), "--out", out).status == 0  # it is known as a file of outcomes


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_foreign_file_is_not_overwritten(bulk: Bulk, served: Sandbox, tmp_path: Path, dry: tuple[str, ...]) -> None:
    """A mistyped `--out` does not cost a file, and nothing is sent; `--force` overwrites it."""
    out, file = tmp_path / "customers.csv", write_campaign(tmp_path / "rows.csv", 1)
    out.write_text(FOREIGN)
    line = f"oca-sms: --out {out} is no file of outcomes: --force overwrites it\n"
    assert bulk(file, "--out", out, *dry) == (2, "", line)
    assert (out.read_text(), len(served.inbox)) == (FOREIGN, 0)
    assert bulk(file, "--out", out, "--force").status == 0
    assert FOREIGN not in out.read_text()


def test_an_empty_file_may_be_overwritten(bulk: Bulk, tmp_path: Path) -> None:
    """A file that was made for the outcomes, as for a mount, needs no `--force`."""
    out = tmp_path / "out"
    out.touch()
    assert bulk(write_campaign(tmp_path / "rows.csv", 1), "--out", out).status == 0
    assert read_words(out) == ["sent"]


def test_outcomes_are_private_or_keep_their_mode(bulk: Bulk, tmp_path: Path) -> None:
    """A new file is for its owner alone, also with `--show-numbers`; an older one keeps its permissions."""
    out, file = tmp_path / "out", write_campaign(tmp_path / "rows.csv", 1)
    for mode in (0o600, 0o640):
        if out.exists():
            out.chmod(mode)
        assert bulk(file, "--out", out, "--show-numbers").status == 0
        assert stat.S_IMODE(out.stat().st_mode) == mode


def test_a_planted_link_is_not_followed(bulk: Bulk, tmp_path: Path) -> None:
    """A link with the name of the new file does not lead the outcomes into another file."""
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text(FOREIGN)
    (tmp_path / ".out.oca-sms").symlink_to(victim)
    assert bulk(write_campaign(tmp_path / "rows.csv", 1), "--out", out).status == 0
    assert (victim.read_text(), read_words(out)) == (FOREIGN, ["sent"])
    assert sorted(it.name for it in tmp_path.iterdir()) == ["out", "rows.csv", "victim"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of another user")
def test_a_link_of_another_user_is_refused(bulk: Bulk, tmp_path: Path) -> None:
    """A link that another user planted in the place of `--out` is refused."""
    out = tmp_path / "out"
    out.symlink_to("elsewhere")
    os.lchown(out, 12345, 12345)
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--out", out)
    assert (ended.status, out.exists()) == (2, False)
    assert "is a symbolic link of another user" in ended.err


def test_a_link_of_ones_own_is_followed(bulk: Bulk, tmp_path: Path) -> None:
    """A link to the file of outcomes stays a link."""
    out, target = tmp_path / "out", tmp_path / "target"
    out.symlink_to(target)
    assert bulk(write_campaign(tmp_path / "rows.csv", 1), "--out", out).status == 0
    assert (out.is_symlink(), read_words(target)) == (True, ["sent"])


@pytest.mark.parametrize("name", ["loop", "n" * 300])
def test_an_impossible_path_is_one_line(bulk: Bulk, served: Sandbox, tmp_path: Path, name: str) -> None:
    """A loop of links and a name that is too long are found before anything is sent."""
    (tmp_path / "loop").symlink_to("other")
    (tmp_path / "other").symlink_to("loop")
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--out", tmp_path / name)
    assert (ended.status, ended.out, len(served.inbox)) == (2, "", 0)
    assert len(ended.err.splitlines()) == 1
    assert " cannot be written: " in ended.err


def test_a_mounted_file_is_written_in_place(bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file cannot be renamed, as a mounted one, the outcomes go into the file itself."""

    def be_busy(path: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    out, file = tmp_path / "out", write_campaign(tmp_path / "rows.csv", 40)
    out.write_text('{"row": 1}\n' * 1000)
    number = out.stat().st_ino
    monkeypatch.setattr(Path, "replace", be_busy)
    assert bulk(file, "--out", out).status == 0
    assert (read_words(out), out.stat().st_ino) == (["sent"] * 40, number)
    assert sorted(it.name for it in tmp_path.iterdir()) == ["out", "rows.csv"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_takes_no_new_file(bulk: Bulk, tmp_path: Path, *, exists: bool) -> None:
    """Where no second file can be made, here for its long name, the outcomes go into the file itself."""
    out = tmp_path / ("n" * 250)
    if exists:
        out.write_text('{"row": 1}\n' * 1000)
    assert bulk(write_campaign(tmp_path / "rows.csv", 40), "--out", out).status == 0
    assert read_words(out) == ["sent"] * 40
    assert sorted(it.name for it in tmp_path.iterdir()) == [out.name, "rows.csv"]


def test_a_refused_input_leaves_no_file(bulk: Bulk, tmp_path: Path) -> None:
    """Where nothing is sent, no `--out` comes into being, in whatever way it would be written."""
    file = write_csv(tmp_path / "rows.csv", make_row(1), "x,y,z")
    for name in ("out", "n" * 250):
        assert bulk(file, "--out", tmp_path / name).status == 2
        assert [it.name for it in tmp_path.iterdir()] == ["rows.csv"]


def run_shell(served: Sandbox, folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in which `oca_sms` is the command."""
    command = f'oca_sms() {{ {sys.executable} -c {MAIN!r} "$@"; }}\n{script}'
    env = environment(**account(served), PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.run(
        ["bash", "-c", command], env=env, cwd=folder, capture_output=True, check=True, text=True, timeout=PATIENCE
    )


@pytest.mark.parametrize(
    "script",
    [
        "oca_sms bulk rows.csv --rate 1000 --out /dev/stdout | cat > result",
        "oca_sms bulk rows.csv --rate 1000 --out /dev/stdout > result",
        "oca_sms bulk rows.csv --rate 1000 --out /dev/fd/3 3> result",
        "oca_sms bulk rows.csv --rate 1000 --out >(cat > part; mv part result); wait $!",
    ],
)
def test_out_may_be_an_open_stream(served: Sandbox, tmp_path: Path, script: str) -> None:
    """Standard output, a descriptor of the shell and a process substitution get the outcomes, and nothing else."""
    write_campaign(tmp_path / "rows.csv", 60)
    ended = run_shell(served, tmp_path, script)
    assert read_words(tmp_path / "result") == ["sent"] * 60
    summary = ended.stdout if "/dev/stdout" not in script else ended.stderr
    assert "60/60: 60 sent" in summary


def test_out_that_fails_stops_the_run_and_names_the_sent_rows(served: Sandbox, tmp_path: Path) -> None:
    """If outcomes cannot be written, the run stops, and standard error has the lines of all rows that were sent."""
    write_campaign(tmp_path / "rows.csv", 200)
    options = "--concurrency 4 --rate 1000 --out /dev/full"
    ended = run_shell(served, tmp_path, f"oca_sms bulk rows.csv {options} || test $? = 1")
    *lost, last = [line for line in ended.stderr.splitlines() if "journal" not in line or "stopped" in line]
    lines = [json.loads(line.partition("not in /dev/full: ")[2]) for line in lost]
    assert 0 < len(served.inbox) < 200
    assert {it["msg_uid"] for it in lines} == {it.msg_uid for it in served.inbox}
    reason = "--out /dev/full could not be written: No space left on device"
    assert last.startswith(f"oca-sms: stopped: {reason}; {200 - len(served.inbox)} of 200 rows not sent; ")
