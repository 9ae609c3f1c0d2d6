"""The lines of a text file, decoded strictly: what cannot be decoded is refused, and never replaced."""

import codecs
import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO, Final

from oca_sms_async.cli._input_errors import InputError

_MARK: Final = "\ufeff"
_MARKS: Final = {  # those of UTF-32 first: they begin as those of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(stream: BinaryIO, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a stream from its start, with their ends. It stays open.

    The encoding is UTF-8, unless the file begins with the mark of another one. `InputError` names the first line that
    cannot be decoded.
    """
    named = encoding
    if encoding is None:
        encoding = _find_encoding(stream)
    stream.seek(0)
    # Lines end only as in CSV. A str would be split at other characters too, which a text may hold.
    text = io.TextIOWrapper(stream, encoding, newline="")
    try:
        first = True
        for line in text:
            # Files that were joined, or saved twice, begin with several marks.
            yield line.lstrip(_MARK) if first else line
            first = False
    except UnicodeError:
        raise _complain(stream, encoding, named) from None
    finally:
        with contextlib.suppress(ValueError):  # the stream may have been closed meanwhile
            text.detach()


def _find_encoding(stream: BinaryIO) -> str:
    stream.seek(0)
    start = stream.read(4)
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    if start[1:2] == b"\0" or start[:1] == b"\0":
        name = "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
        raise InputError(f"the file seems to be UTF-16 without its mark: save it as UTF-8, or try --encoding {name}")
    return "utf-8"


def _complain(stream: BinaryIO, encoding: str, named: str | None) -> InputError:
    line = _find_line(stream, encoding)
    place = "the file" if line is None else f"line {line}"
    if named is None and encoding == "utf-8":
        return InputError(f"{place} is not UTF-8: save the file as UTF-8, or name its --encoding, such as cp1252")
    return InputError(f"{place} cannot be read as {encoding}: name the file's own --encoding")


def _find_line(stream: BinaryIO, encoding: str) -> int | None:
    """Return the number of the first line that cannot be decoded, where lines end as in ASCII."""
    if "\n".encode(encoding) != b"\n":
        return None
    stream.seek(0)
    for number, line in enumerate(stream, 1):
        try:
            line.decode(encoding)
        except UnicodeError:
            return number
    return None
