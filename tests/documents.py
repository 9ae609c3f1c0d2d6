"""The documents for readers: the README and each page below `docs/`, with their blocks of code.

A new page is found by itself. Its Python blocks run (`tests/test_documents.py`) and its English is measured
(`tests/test_plain_english.py`).
"""

import re
import textwrap
from pathlib import Path
from typing import Final

from attrs import frozen

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
PAGES: Final = [README, *sorted(DOCS.rglob("*.md"))]
_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@frozen
class Block:
    """A fenced block of a page: its language, its code, and its first line in the page."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def name(self) -> str:
        """The page and the line, as in `docs/start.md:12`."""
        return f"{name_of(self.page)}:{self.line}"

    @property
    def is_test(self) -> bool:
        """Whether pytest runs it."""
        return "def test_" in self.code


def name_of(page: Path) -> str:
    """Return a page's path in the project."""
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = read(page)
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"].strip(), textwrap.dedent(found["code"]))
        for found in _FENCE.finditer(text)
    ]


def leave_out_code(text: str) -> str:
    """Return a text without its fenced and indented blocks."""
    return re.sub(r"(?m)^    .*$", "", _FENCE.sub("", text))


def prose_of(text: str) -> str:
    """Return a text without its code, its tables, its comments and its pictures."""
    return re.sub(r"(?s)<!--.*?-->", "", re.sub(r"(?m)^(\||!\[).*$", "", leave_out_code(text)))


BLOCKS: Final = [block for page in PAGES for block in blocks_of(page)]
SCRIPTS: Final = [block for block in BLOCKS if block.language == "python" and not block.is_test]
TESTS: Final = [block for block in BLOCKS if block.language == "python" and block.is_test]
