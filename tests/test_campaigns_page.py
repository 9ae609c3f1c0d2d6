"""The page for those that send a list names all that `oca-sms bulk` has, and nothing else."""

import re
from pathlib import Path
from typing import Final, get_args

import attrs
import pytest

from oca_sms_async.cli._bulk_options import Options
from oca_sms_async.cli._endings import ExitStatus
from oca_sms_async.cli._layout import Layout
from oca_sms_async.cli._out import Word

PAGE: Final = (Path(__file__).parent.parent / "docs" / "campaigns.md").read_text(encoding="utf-8")
OPTIONS: Final = {
    "--" + field.name.replace("_", "-")
    for field in (*attrs.fields(Options), *attrs.fields(Layout))
    if field.name != "layout"
}
DOCKERS: Final = {"--rm", "--stop-timeout", "--init"}
KILLED: Final = 128 + 9  # of a shell, for a command that SIGKILL ended


def test_the_page_names_all_options() -> None:
    """Each option of the command is on the page, and each option on the page is one of the command or of Docker."""
    assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", PAGE)) == OPTIONS | DOCKERS


def test_the_page_lists_all_exit_statuses() -> None:
    """The table of the ends has each exit status once, and the one of a kill."""
    assert sorted(map(int, re.findall(r"^\| ([0-9]+) \|", PAGE, re.MULTILINE))) == sorted([*ExitStatus, KILLED])


@pytest.mark.parametrize("word", get_args(Word))
def test_the_page_explains_each_outcome(word: str) -> None:
    """Each word of a file of outcomes has a row."""
    assert f"\n| `{word}` | " in PAGE
