"""`oca-sms bulk`: its checks, its messages, the outcome of each row, and the next run with the same journal."""

import asyncio
import codecs
import itertools
import json
import os
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from campaign_files import (
    KEYS,
    PASSWORD,
    SUBSCRIBERS,
    USERNAME,
    assert_no_secret,
    count_posts,
    list_recipients,
    make_row,
    read_next_command,
    read_outcomes,
    read_words,
    spell_e164,
    spell_phone,
    write_campaign,
    write_csv,
    write_text,
)
from command import (
    FAST,
    HEEDS_CTRL_C,
    MAIN,
    NO_JOURNAL,
    Bulk,
    Command,
    account,
    end_of,
    environment,
    read_pairs,
    run_on_terminal,
    start,
)

from oca_sms_async import AsyncOcaSms, RetryPolicy, SendReceipt, Sent, Sms, SqliteJournal
from oca_sms_async.cli import _out, _rows
from oca_sms_async.cli._app import run
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._progress import Tally, show_progress
from oca_sms_async.sandbox import Sandbox

OUTCOMES = """{"row": 1, "key": null}\n"""  # of an earlier run

CSV = f'phone,message\n{spell_phone(1)},"Acme: é, ""482913"" marker"\n{spell_phone(2)},second marker\n'.encode()
JSON = (
    json.dumps({"phone": spell_phone(1), "message": 'Acme: é, "482913" marker'}) + "\n"
    f'{{"phone": "{spell_phone(2)}", "message": "second marker"}}\n'
).encode()


@pytest.mark.parametrize("source", ["file", "-", "fifo"])
@pytest.mark.parametrize("content", [CSV, codecs.BOM_UTF8 + CSV, JSON, codecs.BOM_UTF8 + JSON])
def test_every_kind_of_file_is_sent(bulk: Bulk, served: Sandbox, tmp_path: Path, content: bytes, source: str) -> None:
    """CSV and JSON lines, with a BOM or without, from a file or a pipe, are sent: each recipient gets his text."""
    path = tmp_path / "rows"
    if source == "-":
        ended = bulk("-", stdin=content)
    elif source == "fifo":
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=[content])
        writer.start()
        ended = bulk(path)
        writer.join()
    else:
        path.write_bytes(content)
        ended = bulk(path)
    assert (ended.status, ended.err) == (0, "")
    assert {it.phone: it.text for it in served.inbox} == {
        spell_e164(1): 'Acme: é, "482913" marker',
        spell_e164(2): "second marker",
    }
    assert read_pairs(ended.out)["sent"] == "2"


def test_template_is_filled_from_the_columns(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """With `--template` the text is made from the columns of the row, and no `message` is needed."""
    file = write_csv(tmp_path / "rows.csv", f"{spell_phone(1)},1234,Acme", header="phone,code,brand")
    assert bulk(file, "--template", "Kode {brand}: {code} {{marker}}").status == 0
    assert [(it.phone, it.text) for it in served.inbox] == [(spell_e164(1), "Kode Acme: 1234 {marker}")]


BAD_ROWS = [
    make_row(1),
    f"{spell_phone(2)}x,marker,",
    f"{spell_phone(3)}, ,blank",
    f"{spell_phone(4)},Acme, marker, you,",
    make_row(5),
]
REASONS = {
    2: "phone has a letter at the end: it may hold digits, a leading '+', spaces and '-', '.', '(', ')', nothing else",
    3: "message must be a str that is not blank",
    4: "the row has 5 fields, the first line 3: put a text with a comma in quotes",
}


@pytest.mark.parametrize("earlier", [None, OUTCOMES])
def test_whole_file_is_checked_before_anything_is_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, earlier: str | None
) -> None:
    """Each bad row is named with its reason. Then nothing is sent, and `--out` does not change."""
    out = tmp_path / "out"
    if earlier is not None:
        out.write_text(earlier)
    ended = bulk(write_csv(tmp_path / "rows.csv", *BAD_ROWS), "--out", out)
    assert ended.status == 2
    assert ended.err.splitlines() == [
        *(f"oca-sms: line {number + 1} (row {number}): {reason}" for number, reason in REASONS.items()),
        "oca-sms: nothing was sent: 3 of 5 rows cannot be sent; --skip-invalid goes on without them",
    ]
    assert count_posts(served) == 0
    assert (out.read_text() if out.exists() else None) == earlier
    assert sorted(it.name for it in tmp_path.iterdir()) == ["out", "rows.csv"][earlier is None :]


def test_skip_invalid_goes_on_without_the_bad_rows(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """With `--skip-invalid` the good rows are sent; the bad rows have failed, and so has the command."""
    out = tmp_path / "out"
    ended = bulk(write_csv(tmp_path / "rows.csv", *BAD_ROWS), "--out", out, "--skip-invalid")
    assert (ended.status, list_recipients(served)) == (1, [spell_e164(1), spell_e164(5)])
    assert ended.err.splitlines()[-1] == "oca-sms: 3 of 5 rows failed"
    assert read_pairs(ended.out)["invalid"] == "3"
    lines = read_outcomes(out)
    assert [it["outcome"] for it in lines] == ["sent", "failed", "failed", "failed", "sent"]
    assert {it["row"]: it["error"] for it in lines if it["error"] is not None} == REASONS
    assert [lines[2][name] for name in ("key", "msg_uid", "attempts", "code")] == ["blank", None, 0, None]


KEY_CONFLICT = "key names a message of another number or text already"


@pytest.mark.parametrize("other", [f"{spell_phone(1)},other marker,one", f"{spell_phone(2)},{write_text(1)},one"])
def test_key_of_two_messages_is_found_before_anything_is_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, other: str
) -> None:
    """A later row with the same key and another number or text is a bad row."""
    file, out = write_csv(tmp_path / "rows.csv", make_row(1, "one"), make_row(3, "three"), other), tmp_path / "out"
    ended = bulk(file, "--out", out)
    assert ended.status == 2
    assert ended.err.splitlines()[0] == f"oca-sms: line 4 (row 3): {KEY_CONFLICT}"
    assert count_posts(served) == 0
    assert bulk(file, "--out", out, "--skip-invalid").status == 1
    assert list_recipients(served) == [spell_e164(1), spell_e164(3)]
    assert [(it["outcome"], it["error"]) for it in read_outcomes(out)] == [
        ("sent", None),
        ("sent", None),
        ("failed", KEY_CONFLICT),
    ]


def test_key_of_an_earlier_run_is_found_before_anything_is_sent(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A row with the key of another message in the journal is a bad row."""
    journal = tmp_path / "journal"
    assert bulk(write_csv(tmp_path / "old.csv", make_row(1, "one")), "--journal", journal).status == 0
    ended = bulk(write_csv(tmp_path / "new.csv", make_row(2, "two"), make_row(3, "one")), "--journal", journal)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: line 3 (row 2): {KEY_CONFLICT}\n")
    assert count_posts(served) == 1


def test_dry_run_shows_the_plan(bulk: Bulk, tmp_path: Path, in_doubt: tuple[Path, Path], served: Sandbox) -> None:
    """A dry run shows the rows by their outcome, recipients, segments, time and advice; and sends nothing."""
    _, journal = in_doubt
    assert bulk(write_csv(tmp_path / "sent.csv", make_row(3)), "--journal", journal).status == 0
    served.inbox.clear()
    rows = [
        make_row(1),
        make_row(2),
        make_row(3),
        make_row(4, "a"),
        make_row(4, "a"),
        f"{spell_e164(4)},{'x' * 161},",
        f"{spell_phone(5)},,",
    ]
    file, out = write_csv(tmp_path / "rows.csv", *rows), tmp_path / "out"
    out.write_text(OUTCOMES)
    plan = bulk(file, "--dry-run", "--journal", journal, "--out", out, "--rate", "0.5", "--brand", "acme")
    assert plan.status == 2  # as the run itself
    file = write_csv(tmp_path / "rows.csv", *rows[:-1])
    plan = bulk(file, "--dry-run", "--journal", journal, "--out", out, "--rate", "0.5", "--brand", "acme")
    assert (plan.status, count_posts(served), out.read_text()) == (0, 0, OUTCOMES)
    shown = read_pairs(plan.out)
    assert shown.pop("advice").startswith("1 rows: ")
    assert shown == {
        "rows": "6",
        "cannot be sent": "0",
        "sent earlier": "1",
        "in doubt": "2",
        "repeated": "1",
        "duplicates": "0 with the same text, 1 with another",
        "to send": "2",
        "recipients": "4",
        "segments": "3 for 2 messages",
        "time": "4 s at 0.5/s",
        "text": "x" * 161,
    }
    assert re.findall(r"^advice +1 rows: (\S+):", plan.out, re.MULTILINE) == ["several-segments", "brand-missing"]
    resent = bulk(file, "--dry-run", "--journal", journal, "--resend-unknown")
    assert read_pairs(resent.out)["to send"] == "4"


def test_dry_run_counts_the_rows_that_cannot_be_sent(bulk: Bulk, tmp_path: Path) -> None:
    """With `--skip-invalid` a dry run shows the plan in spite of bad rows."""
    plan = bulk(write_csv(tmp_path / "rows.csv", *BAD_ROWS), "--dry-run", "--skip-invalid")
    shown = read_pairs(plan.out)
    assert [shown[name] for name in ("rows", "cannot be sent", "to send", "advice")] == ["5", "3", "2", "none"]


def test_dry_run_needs_no_account_and_leaves_nothing_behind(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run makes neither a journal nor an `--out`, and needs no credentials."""
    for name in account(served):
        monkeypatch.delenv(name)
    file = write_campaign(tmp_path / "rows.csv", 3)
    plan = bulk(file, "--dry-run", "--journal", tmp_path / "journal", "--out", tmp_path / "out")
    assert (plan.status, read_pairs(plan.out)["to send"]) == (0, "3")
    assert (count_posts(served), [*tmp_path.iterdir()]) == (0, [file])


def test_blank_brand_is_bad_usage(bulk: Bulk, tmp_path: Path) -> None:
    """A blank brand is in every text, so it is a mistake in a script."""
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--dry-run", "--brand", " ")
    assert ended == (2, "", "oca-sms: brand must not be blank\n")


def test_out_has_the_gateways_answers(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """In `--out` a sent row has the gateway's id, a refused row the error and its code, and both the attempts."""
    served.refused_numbers = [spell_phone(2)]
    out = tmp_path / "out"
    ended = bulk(write_csv(tmp_path / "rows.csv", make_row(1, "k-1"), make_row(2)), "--out", out)
    assert ended.status == 1
    assert ended.err == "oca-sms: 1 of 2 rows failed\n"
    error = "the gateway refused a parameter: number, text or template (HTTP 406, code 39)"
    uid = served.inbox[0].msg_uid
    common = {"attempts": 1}
    assert read_outcomes(out) == [
        {"row": 1, "key": "k-1", "outcome": "sent", "msg_uid": uid, "error": None, "code": None} | common,
        {"row": 2, "key": None, "outcome": "failed", "msg_uid": None, "error": error, "code": 39} | common,
    ]
    assert f"1 × {error}" in ended.out


def test_rows_are_data_rows(bulk: Bulk, tmp_path: Path) -> None:
    """Headers, blank lines and lines within quotes do not count as rows."""
    out = tmp_path / "out"
    file = write_csv(tmp_path / "rows.csv", f'{spell_phone(1)},"Acme\nmarker",a', "", make_row(2, "b"))
    assert bulk(file, "--out", out).status == 0
    assert [(it["row"], it["key"]) for it in read_outcomes(out)] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("key", "masked"),
    [
        (spell_phone(1), "*********001"),
        (f"otp-{SUBSCRIBERS[:3]}-{SUBSCRIBERS[3:]}-0001/07", "*****************/07"),
        (f"{SUBSCRIBERS[4:]}0001", "*******"),
        ("order-7", "order-7"),
    ],
)
def test_key_with_the_number_is_masked(bulk: Bulk, tmp_path: Path, key: str, masked: str) -> None:
    """A key with the recipient's number, or its last seven digits, shows three of them."""
    out = tmp_path / "out"
    assert bulk(write_csv(tmp_path / "rows.csv", make_row(1, key)), "--out", out).status == 0
    [line] = read_outcomes(out)
    assert line["key"] == masked


def test_key_of_a_bad_row_is_masked(bulk: Bulk, tmp_path: Path) -> None:
    """The number in the key of a bad row is masked too."""
    out = tmp_path / "out"
    file = write_csv(
        tmp_path / "rows.csv",
        make_row(1),
        f"{spell_phone(2)}, ,{spell_phone(2)}",
        f"{spell_phone(3)}x,marker,{spell_phone(3)}",
    )
    assert bulk(file, "--out", out, "--skip-invalid").status == 1
    assert all(SUBSCRIBERS not in str(it["key"]) for it in read_outcomes(out))


def test_show_numbers_shows_numbers_and_keys(bulk: Bulk, tmp_path: Path) -> None:
    """With `--show-numbers` each line has the number as E.164, and the key unmasked; never the text."""
    out = tmp_path / "out"
    assert (
        bulk(write_csv(tmp_path / "rows.csv", make_row(1, spell_phone(1))), "--out", out, "--show-numbers").status == 0
    )
    [line] = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert list(line) == [*KEYS, "phone"]
    assert (line["phone"], line["key"]) == (spell_e164(1), spell_phone(1))
    assert "marker" not in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("state", ["whole", "lost", "truncated", "garbage"])
def test_out_is_rebuilt_on_resume(bulk: Bulk, served: Sandbox, tmp_path: Path, state: str) -> None:
    """The new `--out` has one line a row, with the earlier ids, also if the old `--out` is lost or damaged."""
    file, journal, out = write_campaign(tmp_path / "rows.csv", 4), tmp_path / "journal", tmp_path / "out"
    command = (file, "--journal", journal, "--out", out)
    served.refused_numbers = [spell_phone(3)]
    assert bulk(*command).status == 1
    before = read_outcomes(out)
    match state:
        case "lost":
            out.unlink()
        case "truncated":
            out.write_bytes(out.read_bytes()[:150])
        case "garbage":
            out.write_bytes(b"\xff\0 no outcome")
    (tmp_path / ".out.oca-sms").write_text("left over")
    served.refused_numbers = []
    assert bulk(*command, "--force").status == 0
    lines = read_outcomes(out)
    assert [it["outcome"] for it in lines] == ["sent"] * 4
    assert {it["msg_uid"] for it in lines} == {it.msg_uid for it in served.inbox}
    assert [before[at] for at in (0, 1, 3)] == [lines[at] for at in (0, 1, 3)]
    assert sorted(it.name for it in tmp_path.iterdir()) == ["journal", "out", "rows.csv"]


def test_same_command_again_sends_nothing_twice(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """The same command again sends nothing, and ends with 0."""
    file, journal = write_campaign(tmp_path / "rows.csv", 5), tmp_path / "journal"
    assert bulk(file, "--journal", journal).status == 0
    again = bulk(file, "--journal", journal)
    assert (again.status, again.err, count_posts(served)) == (0, "", 5)
    counts = read_pairs(again.out)
    assert (counts["sent"], counts["sent earlier"]) == ("0", "5")
    assert "5/5: 0 sent, 5 sent earlier, " in again.out


def test_unsent_rows_are_sent_by_the_next_run(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """The next run sends the row that the gateway refused, and no other."""
    file, journal = write_campaign(tmp_path / "rows.csv", 3), tmp_path / "journal"
    served.refused_numbers = [spell_phone(2)]
    assert bulk(file, "--journal", journal).status == 1
    served.refused_numbers = []
    assert bulk(file, "--journal", journal).status == 0
    assert list_recipients(served) == [spell_e164(1), spell_e164(2), spell_e164(3)]


def test_same_message_twice_is_sent_twice(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Without a key, equal rows are two messages, also in a later run."""
    file, journal = write_csv(tmp_path / "rows.csv", make_row(1), make_row(1)), tmp_path / "journal"
    for _ in range(2):
        assert bulk(file, "--journal", journal).status == 0
        assert list_recipients(served) == [spell_e164(1), spell_e164(1)]


def test_same_key_twice_is_sent_once(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A row that repeats a key and its content is skipped, and this is no failure."""
    file, out = write_csv(tmp_path / "rows.csv", make_row(1, "a"), make_row(1, "a")), tmp_path / "out"
    ended = bulk(file, "--out", out)
    assert (ended.status, list_recipients(served), read_words(out)) == (0, [spell_e164(1)], ["sent", "skipped"])
    assert read_pairs(ended.out)["skipped"] == "1"


def test_without_a_journal_everything_is_sent_again(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Without `--journal` a second run sends everything again, and no file is kept."""
    file = write_campaign(tmp_path / "rows.csv", 2)
    assert bulk(file).status == bulk(file).status == 0
    assert (count_posts(served), [*tmp_path.iterdir()]) == (4, [file])


def test_doubtful_rows_are_named_and_not_sent_again(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Rows in doubt stay unknown in the next run, and it names the option that looks them up."""
    file, journal = in_doubt
    write_csv(file, make_row(1), make_row(2), make_row(3))
    out = tmp_path / "out"
    again = bulk(file, "--journal", journal, "--out", out)
    assert (again.status, read_words(out)) == (1, ["unknown", "unknown", "sent"])
    assert list_recipients(served) == [spell_e164(1), spell_e164(2), spell_e164(3)]
    assert again.err == "oca-sms: 2 of 3 rows failed, 2 may have been sent: --reconcile looks them up\n"
    assert "resend_unknown" not in again.out + out.read_text()
    # Only the last line knows if the API has a history, so only that line names options.
    assert read_outcomes(out)[0]["error"].endswith(
        "whether this message was sent: look it up, or decide to send it again"
    )
    assert read_pairs(again.out)["unknown"].startswith("2 ")


def test_lost_answer_leaves_a_row_unknown(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """The run that loses an answer counts its row as unknown."""
    served.faults = {"accept-then-drop": 1.0}
    out = tmp_path / "out"
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--out", out)
    [line] = read_outcomes(out)
    assert (ended.status, line["outcome"], line["attempts"], line["code"]) == (1, "unknown", 1, None)


def test_no_advice_that_sends_everything_again(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Without a journal nothing proposes `--reconcile`, which needs one."""
    served.faults = {"accept-then-drop": 1.0}
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1))
    assert ended.status == 1
    assert "1 may have been sent" in ended.err
    assert "--reconcile" not in ended.err


def test_reconcile_finds_what_was_sent(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Doubtful rows in the gateway's history are sent, with the id from there."""
    file, journal = in_doubt
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--reconcile")
    assert (ended.status, count_posts(served)) == (0, 2)
    assert "2 found in the gateway's history, 0 still in doubt" in ended.out
    ids = {it.phone: it.msg_uid for it in served.inbox}
    assert [(it["outcome"], it["msg_uid"]) for it in read_outcomes(out)] == [
        ("sent", ids[spell_e164(1)]),
        ("sent", ids[spell_e164(2)]),
    ]


def test_reconcile_that_finds_nothing_proves_nothing(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Rows that are not in the history stay in doubt, and are not sent again."""
    file, journal = in_doubt
    served.inbox.clear()
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--reconcile")
    assert (ended.status, count_posts(served), read_words(out)) == (1, 0, ["unknown", "unknown"])
    assert "0 found in the gateway's history, 2 still in doubt" in ended.out
    advice = "look again with --reconcile in an hour, ask the vendor, or send them again with --resend-unknown"
    assert ended.err == f"oca-sms: 2 of 2 rows failed, 2 may have been sent: {advice}\n"


def test_reconcile_without_an_answer_sends_nothing(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """If the gateway refuses the history, the command ends before it sends."""
    file, journal = in_doubt
    served.expired = True
    ended = bulk(file, "--journal", journal, "--out", tmp_path / "out", "--reconcile")
    assert ended == (3, "", "oca-sms: the account has expired (HTTP 401, code 51)\n")
    assert not (tmp_path / "out").exists()


def test_resend_unknown_sends_again(bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path) -> None:
    """With `--resend-unknown` doubtful rows are sent again and counted, with two attempts."""
    file, journal = in_doubt
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--resend-unknown")
    assert (ended.status, count_posts(served)) == (0, 4)
    counts = read_pairs(ended.out)
    assert [counts[name].split()[0] for name in ("sent", "resent", "retried")] == ["2", "2", "2"]
    assert [(it["outcome"], it["attempts"]) for it in read_outcomes(out)] == [("sent", 2), ("sent", 2)]


def test_resent_rows_are_counted_when_the_run_stops(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """A stopped run counts the doubtful rows that it sent again."""
    file, journal = in_doubt
    served.quota = 1
    ended = bulk(file, "--journal", journal, "--resend-unknown", "--concurrency", "1")
    assert (ended.status, count_posts(served)) == (3, 4)
    assert read_pairs(ended.out)["resent"].split()[0] == "2"


@pytest.mark.parametrize("option", ["--reconcile", "--resend-unknown"])
def test_options_about_an_earlier_run_need_its_journal(
    bulk: Bulk, served: Sandbox, tmp_path: Path, option: str
) -> None:
    """`--reconcile` and `--resend-unknown` without `--journal` are bad usage."""
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), option)
    line = "oca-sms: --reconcile and --resend-unknown need the --journal of the earlier run\n"
    assert (ended, count_posts(served)) == ((2, "", line), 0)


def test_journal_in_use_is_one_line(bulk: Bulk, served: Sandbox, portal: BlockingPortal, tmp_path: Path) -> None:
    """A journal that another run uses is one line, and nothing is sent."""
    journal = tmp_path / "journal"
    with portal.wrap_async_context_manager(SqliteJournal(journal)) as used:
        portal.call(used.begin_run)
        ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--journal", journal)
    assert (ended.status, ended.out, count_posts(served)) == (2, "", 0)
    # A second journal for the same file would send every message twice, so no line proposes one.
    reason = "another run uses it: wait for the end of that run"
    assert ended.err == f"oca-sms: the journal {journal} cannot be used: {reason}\n"


def damage(journal: Path) -> None:
    """Overwrite the end of a journal."""
    content = bytearray(journal.read_bytes())
    content[200:] = b"\xa5" * len(content[200:])
    journal.write_bytes(content)


def replace_by_a_text(journal: Path) -> None:
    """Put a text in the place of a journal."""
    journal.write_text("the notes of another program " * 50, encoding="utf-8")


def replace_by_a_directory(journal: Path) -> None:
    """Put a directory in the place of a journal."""
    journal.unlink()
    journal.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage, "it is damaged"),
        (replace_by_a_text, "it is no journal"),
        (replace_by_a_directory, "it is a folder"),
    ],
)
def test_journal_that_cannot_be_used_is_one_line(
    bulk: Bulk, served: Sandbox, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """A file that is no journal, or a damaged one, ends the command before it sends or writes."""
    file, journal, out = write_campaign(tmp_path / "rows.csv", 1), tmp_path / "journal", tmp_path / "out"
    assert bulk(file, "--journal", journal).status == 0
    spoil(journal)
    ended = bulk(file, "--journal", journal, "--out", out)
    assert (ended.status, ended.out, count_posts(served), out.exists()) == (2, "", 1, False)
    assert ended.err.startswith(f"oca-sms: the journal {journal} cannot be used: {reason}")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("spoil", [replace_by_a_text, replace_by_a_directory])
def test_a_file_that_is_no_journal_keeps_its_mode(bulk: Bulk, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """A mistyped `--journal` does not change the permissions of a file or a directory."""
    journal = tmp_path / "journal"
    journal.touch()
    spoil(journal)
    journal.chmod(0o755)
    assert bulk(write_campaign(tmp_path / "rows.csv", 1), "--journal", journal).status == 2
    assert journal.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("rows.csv", ("--journal", "rows.csv")),
        ("rows.csv", ("--out", "./rows.csv")),
        ("rows.csv", ("--journal", "same", "--out", "same")),
        ("rows.csv", ("--out", "sub/../rows.csv")),
        ("link.csv", ("--out", "rows.csv")),
        ("rows.csv", ("--journal", "link.csv")),
    ],
)
def test_files_must_differ(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, arguments: tuple[str, ...]
) -> None:
    """FILE, `--journal` and `--out` must be three files, by any path; FILE does not change."""
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("link.csv").symlink_to("rows.csv")
    content = write_campaign(Path("rows.csv"), 1).read_bytes()
    ended = bulk(file, *arguments)
    assert Path("rows.csv").read_bytes() == content
    assert ended == (2, "", "oca-sms: FILE, --journal and --out must be different files\n")
    assert count_posts(served) == 0


def test_out_does_not_take_a_file_of_the_users(bulk: Bulk, tmp_path: Path) -> None:
    """FILE survives the command, even if it has the name of the new `--out`."""
    file = write_campaign(tmp_path / ".out.oca-sms", 1)
    content = file.read_bytes()
    bulk(file, "--out", tmp_path / "out")
    assert file.exists()
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--rate", "1000"), (1000.0, False, 32)),
        (("--rate", "500", "--concurrency", "7", "--retry-unsent"), (500.0, True, 7)),
    ],
)
def test_options_reach_the_client(
    bulk: Bulk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: tuple[float, bool, int],
) -> None:
    """Rate, retries and concurrency reach the client that sends."""
    seen: dict[str, Any] = {}

    def spy_on(name: str) -> None:
        original = getattr(AsyncOcaSms, name)

        def spy(self: AsyncOcaSms, *given: Any, **options: Any) -> Any:
            seen.update(options)
            return original(self, *given, **options)

        monkeypatch.setattr(AsyncOcaSms, name, spy)

    spy_on("__init__")
    spy_on("bulk")
    assert bulk(write_campaign(tmp_path / "rows.csv", 40), *arguments).status == 0
    rate, retry_unsent, concurrency = expected
    assert (seen["limiter"].rate, seen["concurrency"]) == (rate, concurrency)
    assert seen["retry"] == RetryPolicy(retry_unsent=retry_unsent)


def test_rate_is_22_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default rate is below the limit of the gateway."""
    assert run(["bulk", str(write_campaign(tmp_path / "rows.csv", 44)), "--dry-run"]) == 0
    assert read_pairs(capsys.readouterr().out)["time"] == "2 s at 22/s"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--rate", "0"), "--rate must be > 0"),
        (("--rate", "-1"), "--rate must be > 0"),
        (("--rate", "nan"), "--rate must be <= 1000000.0"),
        (("--rate", "many"), "--rate cannot be read"),
        (("--concurrency", "0"), "--concurrency must be >= 1"),
        (("--concurrency", "few"), "--concurrency cannot be read"),
        (("--rate", "5", "--journal"), "--journal is missing"),
        (("--no-skip-invalid",), "unknown option --no-skip-invalid"),
        (("--dedup=yes",), "unknown option --dedup"),
        (("--Marker",), "unknown option; a text that begins with a hyphen needs a -- before it"),
    ],
)
def test_bad_values_are_bad_usage(
    bulk: Bulk, served: Sandbox, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    """Impossible options are a 2 before anything is sent."""
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), *arguments)
    assert (ended.status, ended.out, count_posts(served)) == (2, "", 0)
    assert ended.err == f"oca-sms: {reason}; see oca-sms bulk --help\n"


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_rate_without_an_end_is_bad_usage(bulk: Bulk, served: Sandbox, tmp_path: Path, dry: tuple[str, ...]) -> None:
    """An infinite rate is bad usage."""
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--rate", "inf", *dry)
    assert (ended.status, count_posts(served)) == (2, 0)
    assert "rate" in ended.err


def test_progress_without_a_terminal_is_plain_lines(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Without a terminal there is a line for every 50 outcomes and a last one, each with all counts."""
    served.refused_numbers = [spell_phone(7)]
    ended = bulk(write_campaign(tmp_path / "rows.csv", 120), "--rate", "5000")
    found = re.findall(
        r"^(\d+)/120: (\d+) sent, (\d) failed, 0 unknown, 0 retried, [0-9.]+/s$", ended.out, re.MULTILINE
    )
    assert [int(done) for done, _, _ in found] == [50, 100, 120]
    assert found[-1] == ("120", "119", "1")
    assert all(line.isprintable() for line in ended.out.split("\n"))


def test_progress_of_a_long_file_is_about_a_hundred_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """The progress of a long file is about a hundred lines, and the last line has all counts."""
    sms = Sms(spell_e164(1), write_text(1))
    with show_progress(Tally(total=12_345, to_send=12_345)) as note:
        for _ in range(12_345):
            note(Sent(sms, SendReceipt("uid", "sent")))
    lines = capsys.readouterr().out.splitlines()
    assert 90 <= len(lines) <= 102
    assert lines[-1].startswith("12345/12345: 12345 sent, ")


def test_progress_on_a_terminal_is_a_bar(served: Sandbox, tmp_path: Path) -> None:
    """On a terminal there is a bar with counts, rate and time left, and then the summary."""
    served.refused_numbers = [spell_phone(7)]
    file = write_campaign(tmp_path / "rows.csv", 60)
    ended = run_on_terminal(["bulk", str(file), "--rate", "100"], environment(COLUMNS="140", **account(served)))
    assert_no_secret(ended.out)
    assert ended.status == 1
    assert "━" in ended.out
    assert len(set(re.findall(r"(\d+)/60", ended.out))) > 1
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ended.out)
    assert re.search(r"60/60 59 sent, 1 failed, [0-9.]+/s +0:00:00", plain)
    assert read_pairs(plain)["sent"] == "59"
    assert plain.splitlines()[-1] == "oca-sms: 1 of 60 rows failed"


def test_progress_on_a_dumb_terminal_is_plain_lines(served: Sandbox, tmp_path: Path) -> None:
    """A terminal that cannot move its cursor gets plain lines."""
    env = environment(**account(served)) | {"TERM": "dumb"}
    ended = run_on_terminal(["bulk", str(write_campaign(tmp_path / "rows.csv", 1))], env)
    assert ended.status == 0
    assert "━" not in ended.out
    assert re.search(r"^1/1: 1 sent, 0 failed, 0 unknown, 0 retried, [0-9.]+/s\r$", ended.out, re.MULTILINE)


DUPLICATES = [
    make_row(1, "a"),
    make_row(2, "b"),
    f"{spell_e164(1)},{write_text(1)},c",
    f"62{spell_phone(2)[1:]},another marker,d",
    make_row(3, "e"),
    f" {spell_phone(1)[:4]}-{spell_phone(1)[4:]},another marker,f",
]


def test_duplicates_are_counted_before_sending(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Rows with the recipient of an earlier row, in any spelling, are one line; and they are sent."""
    ended = bulk(write_csv(tmp_path / "rows.csv", *DUPLICATES))
    words = "1 with the same text and 2 with another text: line 4 (row 3) first; --dedupe skips them"
    assert ended.err == f"oca-sms: 3 rows have the recipient of an earlier row, {words}\n"
    assert (ended.status, count_posts(served)) == (0, 6)


def test_dedupe_sends_to_each_recipient_once(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """With `--dedupe` the first row of a recipient is sent, and his other rows are skipped."""
    file, out = write_csv(tmp_path / "rows.csv", *DUPLICATES), tmp_path / "out"
    plan = read_pairs(bulk(file, "--dry-run", "--dedupe").out)
    assert (plan["to send"], plan["duplicates"]) == ("3", "1 with the same text, 2 with another, skipped")
    ended = bulk(file, "--dedupe", "--out", out)
    assert (ended.status, list_recipients(served)) == (0, [spell_e164(it) for it in (1, 2, 3)])
    assert read_words(out) == ["sent", "sent", "skipped", "skipped", "sent", "skipped"]
    assert ended.err.endswith("; skipped\n")
    assert "6/6: 3 sent" in ended.out


def test_dedupe_with_the_journal_of_a_run_without_it(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Equal rows keep their own outcomes: duplicates that an earlier run sent are told as sent."""
    file, journal, out = tmp_path / "rows.csv", tmp_path / "journal", tmp_path / "out"
    write_csv(file, *[make_row(1)] * 3, make_row(2))
    served.refused_numbers = [spell_phone(1)]
    assert bulk(file, "--journal", journal, "--concurrency", "1").status == 1
    served.refused_numbers = []
    write_csv(file, *[make_row(1)] * 4, make_row(2), make_row(3))
    assert bulk(file, "--journal", journal, "--dedupe", "--out", out).status == 0
    assert read_words(out) == ["sent", "skipped", "skipped", "skipped", "sent", "sent"]
    assert bulk(file, "--journal", journal).status == 0
    assert bulk(file, "--journal", journal, "--dedupe", "--out", out).status == 0
    assert read_words(out) == ["sent"] * 6
    assert list_recipients(served) == [spell_e164(it) for it in (1, 1, 1, 1, 2, 3)]


@pytest.mark.parametrize("steps", [*range(30), 100])
def test_a_duplicate_at_the_end_has_its_line(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The run waits until the journal's answer about its last row is noted, also if that row is a duplicate."""
    original = SqliteJournal.lookup_next

    async def answer_late(answer: Awaitable[Any]) -> Any:
        for _ in range(steps):
            await asyncio.sleep(0)
        return await answer

    def look_up_late(self: SqliteJournal, *given: Any) -> Any:
        return asyncio.ensure_future(answer_late(original(self, *given)))

    monkeypatch.setattr(SqliteJournal, "lookup_next", look_up_late)
    file, out = write_csv(tmp_path / "rows.csv", make_row(1), make_row(1)), tmp_path / "out"
    assert bulk(file, "--dedupe", "--journal", tmp_path / "journal", "--out", out).status == 0
    assert read_words(out) == ["sent", "skipped"]


def test_many_bad_rows_are_named_and_counted(bulk: Bulk, tmp_path: Path) -> None:
    """Twenty rows of a kind are named in the order of the file, and the others are a count."""
    rows = [f"{spell_phone(at)},{'' if at % 2 else write_text(1)},{'one' if at % 2 == 0 else ''}" for at in range(60)]
    ended = bulk(write_csv(tmp_path / "rows.csv", *rows), "--dry-run")
    *named, blank, conflicts, _ = ended.err.splitlines()
    places = [int(row) for row in re.findall(r"\(row (\d+)\)", "\n".join(named))]
    assert (ended.status, len(places), places) == (2, 40, sorted(places))
    assert blank == "oca-sms: 10 more rows: message must be a str that is not blank"
    assert conflicts == f"oca-sms: 9 more rows: {KEY_CONFLICT}"


def test_rows_are_named_as_a_spreadsheet_counts_them(bulk: Bulk, tmp_path: Path) -> None:
    """Blank rows and the header count as lines; a text of several lines is one row of a sheet."""
    rows = ["", f'{spell_phone(1)},"marker\nmarker",', ",,", f"{spell_phone(2)},,"]
    ended = bulk(write_csv(tmp_path / "rows.csv", *rows))
    assert ended.err.startswith("oca-sms: line 5 (row 2): message must be ")


@pytest.mark.parametrize(
    ("arguments", "text"), [((), "Acme: * * **********"), (("--show-texts",), "Acme: 1 2 4829-marker")]
)
def test_dry_run_shows_three_texts(bulk: Bulk, tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    """A dry run shows the first three texts, with every word with a digit starred unless `--show-texts`."""
    rows = [f"{spell_phone(at)},{at}" for at in range(1, 5)]
    file = write_csv(tmp_path / "rows.csv", *rows, header="phone,code")
    ended = bulk(file, "--dry-run", "--template", "Acme: {code} 2 4829marker", *arguments)
    texts = re.findall(r"^text +(.*)$", ended.out, re.MULTILINE)
    expected = text.replace("4829-marker", "4829marker")
    assert texts == [expected.replace("1", str(at), 1) for at in (1, 2, 3)]


@pytest.mark.parametrize(
    ("rate", "time"),
    [("100", "1 s"), ("1", "100 s"), ("0.5", "3 min"), ("0.01", "2 h 47 min"), ("0.001", "1 d 3 h")],
)
def test_dry_run_shows_the_time(bulk: Bulk, tmp_path: Path, rate: str, time: str) -> None:
    """The time of a run is shown in its two largest units."""
    plan = bulk(write_campaign(tmp_path / "rows.csv", 100), "--dry-run", "--rate", rate)
    assert read_pairs(plan.out)["time"] == f"{time} at {float(rate):g}/s"


def test_a_run_without_a_journal_makes_no_temporary_file(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `--journal` no temporary file is made: a read-only system has no place for one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path / "nowhere"))
    assert bulk(write_campaign(tmp_path / "rows.csv", 3)).status == 0
    assert bulk(tmp_path / "rows.csv", "--dry-run").status == 0


def test_help_tells_the_exit_statuses(bulk: Bulk) -> None:
    """The help of `bulk` has each of its exit statuses."""
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", bulk("--help").out).split())
    statuses = (
        "0 all sent, 1 some failed or unknown, or output was lost, 2 bad usage or input, 3 stopped by the account"
    )
    assert f"Exit status: {statuses} or an outage, 129, 130 and 143 ended by a signal." in text


def test_a_run_without_a_journal_says_so_first(command: Command, tmp_path: Path) -> None:
    """The first line of a run without `--journal` says that the same command would send everything again."""
    file = write_campaign(tmp_path / "rows.csv", 1)
    assert command("bulk", file, *FAST).err == NO_JOURNAL
    assert command("bulk", file, "--journal", tmp_path / "journal", *FAST).err == ""
    assert command("bulk", file, "--dry-run").err == ""


def test_an_incomplete_address_is_told(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a 404 without a code, the sentence asks for the path of the address."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", served.base_url.removesuffix("/api/v1"))
    out = tmp_path / "out"
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--out", out)
    hint = "the gateway refused the request (HTTP 404); is base_url complete? It comes from OCA_SMS_BASE_URL"
    assert (ended.status, [it["error"] for it in read_outcomes(out)]) == (1, [hint])
    assert f"1 × {hint}" in ended.out


@pytest.mark.parametrize("file", ["-", "rows.csv", "nowhere"])
def test_missing_credentials_are_bad_usage(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Missing credentials are one line that names them, before FILE is read, and no file is made."""
    monkeypatch.chdir(tmp_path)
    write_campaign(Path("rows.csv"), 1)
    monkeypatch.delenv("OCA_SMS_PASSWORD")
    line = "oca-sms: no terminal to ask on, and not set in the environment: OCA_SMS_PASSWORD\n"
    assert bulk(file, "--journal", "journal", "--out", "out", stdin=CSV) == (2, "", line)
    assert [it.name for it in Path().iterdir()] == ["rows.csv"]
    assert count_posts(served) == 0


async def test_closed_standard_input_is_bad_usage() -> None:
    """A closed standard input is one line, and a 2."""
    code = "import sys; sys.stdin = None\n" + HEEDS_CTRL_C + MAIN
    async with start("bulk", "-", "--dry-run", env=environment(), code=code) as process:
        ended = await end_of(process)
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty: write one message a row, below a line that names the columns"),
        ("\ufeff\n", "the file is empty: write one message a row, below a line that names the columns"),
        (
            f"{spell_phone(1)},{write_text(1)}\n",
            "the first line must name the columns and does not name 'phone', 'message'; it looks like a message",
        ),
        (
            f"telp;message\n{spell_phone(1)};{write_text(1)}\n",
            "the first line must name the columns and does not name 'phone'",
        ),
    ],
)
def test_file_that_cannot_be_used(bulk: Bulk, served: Sandbox, tmp_path: Path, content: str, reason: str) -> None:
    """A file without a usable beginning is one line, with the remedy."""
    file, out = tmp_path / "rows.csv", tmp_path / "out"
    file.write_text(content, encoding="utf-8")
    ended = bulk(file, "--out", out)
    assert (ended.status, ended.out, count_posts(served), out.exists()) == (2, "", 0, False)
    assert ended.err.startswith(f"oca-sms: {file}: {reason}")
    assert len(ended.err.splitlines()) == 1


def test_header_without_rows_is_done(bulk: Bulk, tmp_path: Path) -> None:
    """A header without rows sends nothing, and `--out` has no line."""
    out = tmp_path / "out"
    ended = bulk(write_csv(tmp_path / "rows.csv"), "--out", out)
    assert (ended.status, ended.err, out.read_text(), read_pairs(ended.out)["sent"]) == (0, "", "", "0")


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "No such file or directory"), (".", "Is a directory")])
def test_file_that_cannot_be_read(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    """A FILE that does not exist, or is a directory, is one line."""
    monkeypatch.chdir(tmp_path)
    assert bulk(name, "--journal", "journal") == (2, "", f"oca-sms: {name} cannot be read: {reason}\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("out", "reason"),
    [("nowhere/out", "No such file or directory"), ("rows.csv/out", "Not a directory")],
)
def test_out_that_cannot_be_written(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, reason: str
) -> None:
    """An `--out` that cannot be written is one line before anything is sent."""
    monkeypatch.chdir(tmp_path)
    ended = bulk(write_campaign(Path("rows.csv"), 1), "--out", out)
    assert (ended, count_posts(served)) == ((2, "", f"oca-sms: --out {out} cannot be written: {reason}\n"), 0)


@pytest.mark.parametrize("out", ["", ".", "sub"])
def test_out_that_is_no_file(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """An `--out` that is a directory or empty is bad usage, and leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    ended = bulk(write_campaign(Path("rows.csv"), 1), "--out", out)
    assert (ended.status, len(ended.err.splitlines()), count_posts(served)) == (2, 1, 0)
    assert sorted(it.name for it in Path().iterdir()) == ["rows.csv", "sub"]


def test_out_on_a_disk_that_fills_up(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an outcome cannot be written, the run stops in one line, and the next run sends no message again."""
    original = _out.OutcomesFile.write

    def full(self: _out.OutcomesFile, line: _rows.RowSms | _rows.BadRow, *given: Any, **more: Any) -> None:
        if line.row > 2:
            raise OSError(28, "No space left on device")
        original(self, line, *given, **more)

    file, journal, out = write_campaign(tmp_path / "rows.csv", 50), tmp_path / "journal", tmp_path / "out"
    command = (file, "--journal", journal, "--out", out, "--concurrency", "1")
    with monkeypatch.context() as patch:
        patch.setattr(_out.OutcomesFile, "write", full)
        ended = bulk(*command)
    assert ended.status == 1
    assert ended.err == "oca-sms: the output could not be written: No space left on device\n"
    assert len(served.inbox) < 50
    assert bulk(*command).status == 0
    assert list_recipients(served) == [spell_e164(number) for number in range(1, 51)]


def test_file_that_shrinks_between_the_passes(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that disappear before their turn are not sent and have no line, and the run says that the file changed."""
    file, out = write_campaign(tmp_path / "rows.csv", 4), tmp_path / "out"
    original = AsyncOcaSms.bulk

    def shorten_and_run(self: AsyncOcaSms, *given: Any, **options: Any) -> Any:
        write_campaign(file, 2)
        return original(self, *given, **options)

    monkeypatch.setattr(AsyncOcaSms, "bulk", shorten_and_run)
    ended = bulk(file, "--out", out)
    assert (ended.status, list_recipients(served), read_words(out)) == (
        0,
        [spell_e164(1), spell_e164(2)],
        ["sent", "sent"],
    )
    assert "the file changed while it was sent" in ended.err


def test_file_that_changes_before_anything_is_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes after its check is not sent."""
    file, original = write_campaign(tmp_path / "rows.csv", 4), AsyncOcaSms.reconcile

    async def shorten_and_reconcile(self: AsyncOcaSms, *given: Any) -> Any:
        write_campaign(file, 2)
        return await original(self, *given)

    monkeypatch.setattr(AsyncOcaSms, "reconcile", shorten_and_reconcile)
    ended = bulk(file, "--journal", tmp_path / "journal", "--reconcile")
    assert (ended.status, count_posts(served)) == (2, 0)
    assert "changed" in ended.err


def test_file_that_breaks_off_after_something_was_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read error after the first message is no 2, which would mean «nothing was sent»; it names the next command."""
    original = AsyncOcaSms.bulk

    def break_off(messages: Iterator[Sms]) -> Iterator[Sms]:
        yield from itertools.islice(messages, 4)
        raise InputError("the file cannot be read: Input/output error")

    def break_off_and_run(self: AsyncOcaSms, messages: Iterator[Sms], **options: Any) -> Any:
        return original(self, break_off(messages), **options)

    monkeypatch.setattr(AsyncOcaSms, "bulk", break_off_and_run)
    ended = bulk(write_campaign(tmp_path / "rows.csv", 9), "--journal", tmp_path / "journal", "--concurrency", 1)
    assert (ended.status, len(served.inbox)) == (1, 4)
    assert "cannot be read" in ended.err
    assert "4 rows were sent" in ended.err
    assert read_next_command(ended.err)


def test_journal_is_given_back(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """After a command its journal is one private file, without numbers and texts, and the next run can use it."""
    journal = tmp_path / "journal"
    assert bulk(write_csv(tmp_path / "rows.csv", make_row(1, spell_phone(1))), "--journal", journal).status == 0
    content = journal.read_bytes()
    assert not any(it.encode() in content for it in (SUBSCRIBERS, "marker", PASSWORD, USERNAME))
    assert journal.stat().st_mode & 0o777 == 0o600
    assert sorted(it.name for it in tmp_path.iterdir()) == ["journal", "rows.csv"]
    assert bulk(tmp_path / "rows.csv", "--journal", journal).status == 0
    assert len(served.inbox) == 1
