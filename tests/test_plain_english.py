"""Plain English: docstrings, comments and documents have short sentences and few clause heads.

Many readers are not native speakers, and some read at night. A clause that begins with `what` or `whoever` hides the
subject of its sentence.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from documents import DOCS, PAGES, ROOT, name_of, read

import oca_sms_async

HEADS = frozenset(
    "who whoever whom whose what whatever whichever such none nobody anybody everybody".split()  # noqa: SIM905 - shorter
)
MOST_HEADS = 8  # per 1,000 words
MOST_WORDS = 12  # a sentence
ENGLISH = [page for page in PAGES if DOCS / "id" not in page.parents]
DOCUMENTS = [*ENGLISH, *(ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


class Measure(NamedTuple):
    """The counts of some texts."""

    heads: int
    words: int
    sentences: int

    @property
    def heads_per_thousand(self) -> float:
        """Clause heads per 1,000 words."""
        return 1000 * self.heads / max(self.words, 1)

    @property
    def words_per_sentence(self) -> float:
        """The average length of a sentence."""
        return self.words / max(self.sentences, 1)


def split_sentences(text: str) -> list[list[str]]:
    """Return the words of each sentence, in lower case. A code span is one word; a table row is none."""
    prose = re.sub(r"(?m)^\s*\|.*$", ".", re.sub(r"`[^`]*`", "code", text))
    sentences = (re.findall(r"[a-z']+", part.lower()) for part in re.split(r"(?<=[.:;?!])\s+", prose))
    return [words for words in sentences if words]


def measure(texts: Iterable[str]) -> Measure:
    """Count the clause heads, the words and the sentences of some texts."""
    sentences = [words for text in texts for words in split_sentences(text)]
    words = [word for sentence in sentences for word in sentence]
    return Measure(sum(word in HEADS for word in words), len(words), len(sentences))


def python_texts(source: str) -> Iterator[str]:
    """Yield the docstrings and the comments of a module. Directives to tools are no comments."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield docstring
    comments: list[str] = []
    below = 0  # the line on which the last comment could go on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"#\s*(noqa|type:|!|pragma)", token.string):
            continue
        alone = token.line.lstrip().startswith("#")
        words = token.string.lstrip("# ")
        if alone and token.start[0] == below:
            comments[-1] += " " + words
        else:
            comments.append(words)
        below = token.start[0] + 1 if alone else 0
    yield from comments


def markdown_texts(source: str) -> Iterator[str]:
    """Yield the paragraphs and the list items of a document, without its headings and its code."""
    prose = re.sub(r"(?m)^(#|    ).*$", "", re.sub(r"(?ms)^ *```.*?^ *```", "", source))
    yield from re.split(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. )", prose)


def folder_texts(folder: str) -> Iterator[str]:
    """Yield every docstring and comment below a folder."""
    place = Path(oca_sms_async.__file__).parent if folder == "oca_sms_async" else ROOT / folder  # it may be installed
    for path in sorted(place.rglob("*.py")):
        yield from python_texts(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Measure(0, 0, 0)),
        ("A send. It ends; it fails: why? Now!", Measure(0, 8, 5)),
        ("Whoever waits for what WHOM such", Measure(4, 6, 1)),
        ("whosoever is no head", Measure(0, 4, 1)),
        ("`what` and `who. whom` are code", Measure(0, 5, 1)),
        ("A sentence of\ntwo lines.", Measure(0, 5, 1)),
        ("Version 1.5 of a.b is one sentence", Measure(0, 7, 1)),
        ("Before\n\n| what | who |\n| --- | --- |\n\nAfter the table.", Measure(0, 4, 2)),
        ("The gateway's word", Measure(0, 3, 1)),
    ],
)
def test_counts(text: str, expected: Measure) -> None:
    """Heads, words and sentences are counted without code and tables."""
    assert measure([text]) == expected


def test_rates() -> None:
    """The rates are heads per 1,000 words, and words a sentence."""
    found = measure(["Nobody knows whose turn it is. The limiter knows."])
    assert (found.heads_per_thousand, found.words_per_sentence) == (1000 * 2 / 9, 4.5)
    assert (measure([]).heads_per_thousand, measure([]).words_per_sentence) == (0, 0)


def test_docstrings_and_comments_are_found() -> None:
    """Docstrings of modules, classes and functions are read, and comments; strings and directives are not."""
    source = '''"""Module."""
# One comment
# of two lines.
class A:
    """Class."""

    b = "string"  # noqa: S105 - not read
    c = 1  # Beside.
    d = 2  # Beside too.
    # Below.

    async def d(self) -> None:
        """Function."""
        # Last.
'''
    assert sorted(python_texts(source)) == [
        "Below.",
        "Beside too.",
        "Beside.",
        "Class.",
        "Function.",
        "Last.",
        "Module.",
        "One comment of two lines.",
    ]


def test_paragraphs_of_a_document_are_found() -> None:
    """Paragraphs and list items are separate texts, without headings and code."""
    source = "# Head\n\nFirst\nline.\n\n    indented code\n\n- item one\n- item two\n\n```python\nwho = 1\n```\n"
    assert [text.strip() for text in markdown_texts(source) if text.strip()] == [
        "First\nline.",
        "- item one",
        "- item two",
    ]


@pytest.mark.parametrize("folder", ["oca_sms_async", "tests", "benchmarks"])
def test_the_code_is_plain_english(folder: str) -> None:
    """Docstrings and comments of package, tests and benchmarks keep to both limits."""
    found = measure(folder_texts(folder))
    assert found.words > 1000
    assert found.heads_per_thousand <= MOST_HEADS
    assert found.words_per_sentence <= MOST_WORDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_documents_are_plain_english(document: Path) -> None:
    """Each document keeps to both limits. The pages in Indonesian have no such measure."""
    found = measure(markdown_texts(read(document)))
    assert found.words > 0
    assert found.heads_per_thousand <= MOST_HEADS
    assert found.words_per_sentence <= MOST_WORDS
