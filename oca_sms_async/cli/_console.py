"""The output of commands: for people on a terminal, and in plain lines elsewhere."""

import contextlib
import io
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHORT: Final = 15  # characters; a number


def on_terminal(stream: TextIO | None) -> bool:
    """Tell whether this stream is a terminal. A stream that the shell closed is `None`."""
    return stream is not None and stream.isatty()


def escape(text: str) -> str:
    """Return a text as one line. A character that could steer a terminal, or that hides itself, is escaped.

    The words of the gateway and the messages of the account come from other people.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quote(argument: str) -> str:
    """Return an argument as a shell reads it, in characters that `escape` leaves alone."""
    if argument.isprintable():
        return shlex.quote(argument)
    escaped = (
        c if c.isprintable() and c not in "\\'" else "".join(f"\\x{it:02x}" for it in c.encode()) for c in argument
    )
    return f"$'{''.join(escaped)}'"


class ForgivingStream(io.TextIOBase):
    """A stream for the output of a long command: the command goes on in silence if the stream fails.

    A reader leaves (`| head -1`), a disk fills up, a terminal is closed: messages on the wire must not suffer from
    that. `lost` is the first error.
    """

    def __init__(self, stream: TextIO) -> None:
        self.lost: OSError | None = None
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property here, as in every text stream
        """The encoding of the stream below."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Tell whether this is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream below."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write a text, unless the stream has failed."""
        with self._forgive():
            if self.lost is None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless it has failed. The end of this object flushes too, and the stream may be closed."""
        with self._forgive():
            if self.lost is None and not self._stream.closed:
                self._stream.flush()

    @contextlib.contextmanager
    def _forgive(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error


def show(*lines: str, file: TextIO | None = None) -> None:
    """Write lines at once: news about a sent message must not be lost in a buffer."""
    print(*lines, sep="\n", flush=True, file=file)


def show_pairs(pairs: Iterable[tuple[str, object]], *, file: TextIO | None = None) -> None:
    """Write names and values, a line each; an absent value is a dash."""
    texts = [(name, "-" if value is None else escape(str(value))) for name, value in pairs]
    width = max(len(name) for name, _ in texts)
    show(*(f"{name:{width}}  {value}" for name, value in texts), file=file)


def show_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str) -> None:
    """Write a table on a terminal, else lines with a tab between values; an absent value is a dash."""
    texts = [["-" if value is None else escape(str(value)) for value in row] for row in rows]
    if not on_terminal(sys.stdout):
        show(*("\t".join(row) for row in [header, *texts]))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    for name, *column in zip(header, *texts, strict=True):
        # An id without its end is worth nothing, so long values are folded. Short values stay on one line.
        table.add_column(name, overflow="fold", no_wrap=max(map(len, column), default=0) <= _SHORT)
    for row in texts:
        table.add_row(*map(Text, row))  # a plain str would be read as markup
    Console().print(table)


def complain(line: str) -> None:
    """Write one line to standard error. If the stream is gone, as on a closed terminal, the command goes on."""
    with contextlib.suppress(OSError):
        print(f"oca-sms: {escape(line)}", file=sys.stderr, flush=True)
