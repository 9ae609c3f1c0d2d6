"""Files of messages: each row is a message, or a reason that quotes nothing of the row."""

import codecs
import contextlib
import csv
import gc
import io
import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from unicodedata import category

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oca_sms_async import Sms, normalize_phone
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import Layout
from oca_sms_async.cli._rows import BadRow, RowSms, read_rows

PHONE = "0812-3456-7890"
NUMBER = "+6281234567890"
JAKARTA = timezone(timedelta(hours=7))
BOM = codecs.BOM_UTF8
unhurried = settings(deadline=None)  # a busy machine must not fail a test

# A csv.reader keeps the ends of lines within quotes, so the code that splits a file into lines must keep them too.
texts = st.text(
    st.one_of(st.sampled_from("a,;\"'\n\r{}\x85\u2028😀é"), st.characters(codec="utf-8", exclude_characters="\0")),
    min_size=1,
).filter(lambda text: not all(category(char)[0] in "CZ" for char in text))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
messages = st.builds(
    Sms,
    st.sampled_from([PHONE, "+6281234567890", " 62 812 3456 7890", "(0812) 3456.7890"]),
    texts,
    st.none() | st.text(st.characters(codec="utf-8"), min_size=1),
    st.none() | st.datetimes(timezones=zones),
)


def read_all(
    content: str | bytes, template: str | None = None, *, layout: Layout | None = None
) -> list[RowSms | BadRow]:
    """Read a file with this content to its end."""
    stream = io.BytesIO(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return list(read_rows(stream, layout or Layout(template=template)))


def write_json(*values: object) -> str:
    """Write JSON lines."""
    return "".join(json.dumps(value) + "\n" for value in values)


def read_one(content: str | bytes, template: str | None = None) -> RowSms:
    """Read a file whose only row is a message."""
    [row] = read_all(content, template)
    assert isinstance(row, RowSms)
    return row


def find_reason(content: str | bytes, template: str | None = None) -> str:
    """Read a file whose only row is bad."""
    [row] = read_all(content, template)
    assert isinstance(row, BadRow)
    return row.reason


def read_texts(content: str | bytes, template: str | None = None, *, layout: Layout | None = None) -> list[str | None]:
    """Return the texts of the rows, None for a bad row. The numbers of the rows must have no gap."""
    found = read_all(content, template, layout=layout)
    assert [row.row for row in found] == list(range(1, len(found) + 1))
    return [row.message if isinstance(row, RowSms) else None for row in found]


def test_csv_row_has_all_columns() -> None:
    """A CSV row is a message with key, expiry and row number, and the phone as the row spells it."""
    found = read_one(f"key,expires_at,note,message,phone\nA-1,2030-12-31T23:59+07:00,x,Halo,{PHONE}\n")
    assert found == RowSms(NUMBER, "Halo", "A-1", datetime(2030, 12, 31, 23, 59, tzinfo=JAKARTA), row=1)


def test_json_line_has_all_columns() -> None:
    """A JSON line is a message too, and other values in it do not matter."""
    line = {"key": "A-1", "expires_at": "2030-12-31T16:59:00Z", "note": [1.5], "message": "Halo", "phone": PHONE}
    found = read_one(write_json(line))
    assert found == RowSms(NUMBER, "Halo", "A-1", datetime(2030, 12, 31, 16, 59, tzinfo=UTC), row=1)


def test_row_is_an_sms_whose_repr_hides_it() -> None:
    """A row is an `Sms`, is frozen, and its repr shows no text, no key and no whole number."""
    sms = RowSms("081234567890", "Kode 482913", "A-1", row=3)
    assert isinstance(sms, Sms)
    assert repr(sms) == "RowSms(phone='*********890', expires_at=None, row=3, line=0)"
    assert repr(BadRow(3, "reason", "A-1")) == "BadRow(row=3, reason='reason', line=0)"
    for value in (sms, BadRow(3, "reason")):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.row = 4  # type: ignore[misc]  # the mistake is the test


@pytest.mark.parametrize("content", ["", " \n\t\r\n", BOM, BOM + b"\n"])
def test_empty_file_is_refused(content: str | bytes) -> None:
    """A file without a line is refused."""
    with pytest.raises(InputError, match=r"^the file is empty"):
        read_all(content)


@pytest.mark.parametrize("content", ["phone,message", "phone,message\n\n"])
def test_header_alone_is_no_rows(content: str) -> None:
    """A file with a header and no row is no error."""
    assert read_all(content) == []


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"])
def test_encoding_is_known_by_its_mark(encoding: str) -> None:
    """A file that begins with the mark of UTF-16 or UTF-32 is read as such."""
    assert read_texts(f"\ufeffphone,message\n{PHONE},Halo é\n".encode(encoding)) == ["Halo é"]


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
def test_encoding_without_its_mark_is_refused(encoding: str) -> None:
    """UTF-16 without its mark is one sentence that names the option, and with the option it is read."""
    content = f"phone,message\n{PHONE},Halo\n".encode(encoding)
    with pytest.raises(InputError, match=f"--encoding {encoding}$"):
        read_all(content)
    assert read_texts(content, layout=Layout(encoding=encoding)) == ["Halo"]


@pytest.mark.parametrize("start", [b"", BOM, BOM + BOM, b"\n \n", BOM + b"\r\n"])
@pytest.mark.parametrize("content", [f"phone,message\n{PHONE},Halo\n", write_json({"phone": PHONE, "message": "Halo"})])
def test_byte_order_mark_and_blank_lines_may_come_first(start: bytes, content: str) -> None:
    """A byte order mark and blank lines may come before the first line."""
    assert read_one(start + content.encode()).message == "Halo"


def test_json_is_known_by_its_brace() -> None:
    """JSON lines may begin with white space."""
    assert read_one("\t " + write_json({"phone": PHONE, "message": "Halo"})).phone == NUMBER


@pytest.mark.parametrize("start", [b"phone,message\n", b'{"phone": "081234567890", "message": "Halo"}\n'])
@pytest.mark.parametrize("rows", [1, 5000])
def test_a_file_that_is_not_utf8_is_one_sentence(start: bytes, rows: int) -> None:
    """A byte that is not UTF-8 ends the reading in one sentence, with its line and the option."""
    content = start + b"081234567890,Halo\n" * rows + "081234567890,é\n".encode("cp1252")
    words = f"line {rows + 2} is not UTF-8: save the file as UTF-8, or name its --encoding, such as cp1252"
    with pytest.raises(InputError, match=f"^{words}$"):
        read_all(content)


def test_a_named_encoding_is_strict_too() -> None:
    """With `--encoding` a file is read in it, and a byte that it does not have is refused."""
    layout = Layout(encoding="cp1252")
    assert read_texts(f"phone,message\n{PHONE},Café\n".encode("cp1252"), layout=layout) == ["Café"]
    with pytest.raises(InputError, match=r"^line 3 cannot be read as cp1252: name the file's own --encoding$"):
        read_all(f"phone,message\n{PHONE},a\n{PHONE},\x81\n".encode("latin-1"), layout=layout)


@pytest.mark.parametrize("encoding", ["utf8x", "hex", "rot13", "", "utf-8\0"])
def test_an_encoding_that_does_not_exist_is_refused(encoding: str) -> None:
    """A name that is no text encoding of Python's is refused before the file is read."""
    with pytest.raises(InputError, match=r"^--encoding must name a text encoding of Python's, such as cp1252$"):
        Layout(encoding=encoding).check()


def test_column_names_are_stripped() -> None:
    """White space and invisible characters around the name of a column do not matter."""
    assert read_one(f' phone ,"\tmessage "\n{PHONE},Halo\n').message == "Halo"
    assert read_one(f"\u2060phone\u200b,message\u00a0\n{PHONE},Halo\n").message == "Halo"
    [row] = read_all(f"No HP,message\n{PHONE},Halo\n", layout=Layout(phone_column=" no hp\u00a0"))
    assert isinstance(row, RowSms)


def test_a_column_in_its_own_case_is_preferred() -> None:
    """Of two names that differ in their case alone, the one that is written as asked for is taken."""
    assert read_one(f"Phone,Message,phone,message\n1,no,{PHONE},Halo\n").message == "Halo"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_ends_of_lines(end: str) -> None:
    """Lines may end as on any system, and a text in quotes keeps its line ends."""
    assert read_texts(end.join(["phone,message", f'{PHONE},"a{end}b"', f"{PHONE},c"])) == [f"a{end}b", "c"]


def test_other_separators_of_lines_are_text() -> None:
    """A line end of Unicode's that is not one of CSV's does not end a row."""
    assert read_texts(f"phone,message\n{PHONE},a\x85b\u2028c\x0bd\n") == ["a\x85b\u2028c\x0bd"]


@pytest.mark.parametrize(
    ("header", "template", "words"),
    [
        ("nomor,message", None, "does not name 'phone'; it names 'nomor', 'message'; name yours with --phone-column$"),
        ("Phone,text", None, "does not name 'message'; it names 'Phone', 'text'; name yours with --message-column$"),
        ("0812,Kode 482913", None, "does not name 'phone', 'message'; it looks like a message"),
        (f"telp,{'x' * 50}", None, "it looks like a message: write a line with the names above it$"),
        ("phone,message,code", "{brand}: {code} {brand}", "does not name 'brand'; it names"),
        ("a;b,phone", None, "does not name 'message'; it names 'a;b', 'phone'; name yours with --message-column$"),
        ("a;b;phone", None, "does not name 'message'; it names 'a', 'b', 'phone'; name yours with --message-column$"),
        ("number", "{phone}", "does not name 'phone'; it names 'number'; name yours with --phone-column$"),
        ("phone,message,phone", None, "more than once: leave one of each: 'phone'$"),
        ("phone,message,key, key", None, ": 'key'$"),
        ("PHONE,message,Phone", None, ": 'phone'$"),
        ("phone,message,expires_at,expires_at,message", None, ": 'message', 'expires_at'$"),
        ("phone,code,code", "{code}", ": 'code'$"),
        ('"phone"x,message', None, "^the first line is not CSV"),
        ('phone,"message', None, "^the first line is not CSV"),
        (
            ",".join(f"c{number}" for number in range(30)),
            None,
            "'c19', …; name yours with --phone-column and --message-column$",
        ),
    ],
)
def test_header_must_name_the_columns_once(header: str, template: str | None, words: str) -> None:
    """A header without a needed column, or with two of it, is refused, and a message in its place is not quoted."""
    with pytest.raises(InputError, match=words) as caught:
        next(read_rows(io.BytesIO(f"{header}\n{PHONE},Halo\n".encode()), Layout(template=template)))
    assert "482913" not in str(caught.value)


def test_other_columns_may_be_doubled_or_have_no_name() -> None:
    """Columns that are not needed may have any name, or a name twice."""
    assert read_one(f"phone,note,note,,,message\n{PHONE},1,2,3,4,Halo\n").message == "Halo"
    assert read_one(f"phone,message,message,code\n{PHONE},1,2,3\n", "{code}").message == "3"


def test_blank_lines_do_not_count() -> None:
    """Blank lines have no row number, in both formats."""
    assert read_texts(f"phone,message\n\n{PHONE},a\n  \t\n\r\n{PHONE},b\n\n") == ["a", "b"]
    line = write_json({"phone": PHONE, "message": "a"})
    assert read_texts(f"{line}\n  \t\n\r\n{line}\n") == ["a", "a"]


@pytest.mark.parametrize("line", [PHONE, f"{PHONE},Kode, dan lain", f",,{PHONE}"])
def test_a_row_has_as_many_fields_as_the_header(line: str) -> None:
    """A row with too few or too many fields is bad, and its key is left out, because the columns may have moved."""
    bad, good = read_all(f"key,phone\n{line}\nA,{PHONE}\n", "Halo")
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith(f"the row has {line.count(',') + 1} fields, the first line 2: ")
    assert bad.key is None
    assert good == RowSms(NUMBER, "Halo", "A", row=2)


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        (f'{PHONE},"Kode" 1', 1),
        (f'{PHONE},"Kode 1\n{PHONE},Kode 2\n{PHONE},"Kode 3"', 3),
        (f"{PHONE},{'x' * (csv.field_size_limit() + 1)}", 1),
    ],
)
def test_row_that_is_not_csv_is_bad_and_the_rest_goes_on(line: str, lost: int) -> None:
    """A stray quote or a huge field makes its row bad, with the number of lost lines, and the next row is read."""
    _, bad, good = read_all(f"phone,message\n{PHONE},Halo\n{line}\n{PHONE},Halo\n")
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith("the row is not CSV")
    assert bad.reason.endswith(f"lines lost: {lost}")
    assert good == RowSms(NUMBER, "Halo", row=3)


def test_unclosed_quote_ends_with_the_file() -> None:
    """A quote that is never closed makes the last row bad, and the rest of the file is no text."""
    assert read_texts(f'phone,message\n{PHONE},a\n{PHONE},"b\n') == ["a", None]


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        "{",
        "{} {}",
        "[]",
        '"phone"',
        "null",
        '{"phone": 081234567890, "message": "Halo"}',
        pytest.param('{"phone": ' * 100_000, id="deep"),
        pytest.param('{"phone": ' + "1" * 5000 + "}", id="long number"),
    ],
)
def test_line_that_is_no_json_object_is_bad_and_the_rest_goes_on(line: str) -> None:
    """A line that is not one JSON object is bad, and the next line is read."""
    good = write_json({"phone": PHONE, "message": "Halo"})
    assert read_texts(f"{good}{line}\n{good}") == ["Halo", None, "Halo"]
    assert read_all(f"{good}{line}\n")[1] == BadRow(2, "the row is not a JSON object on one line")


@pytest.mark.parametrize("phone", [81234567890, True, None, [PHONE]])
def test_json_phone_must_be_in_quotes(phone: object) -> None:
    """A phone that is no str, or is missing, is refused with the reason."""
    words = "phone must be there and in quotes: a number loses its leading zero"
    assert find_reason(write_json({"phone": phone, "message": "Halo"})) == words
    assert find_reason(write_json({"message": "Halo"})) == words


@pytest.mark.parametrize("line", [{"phone": PHONE, "message": it} for it in (482913, None, ["Halo"], " ")])
def test_json_message_must_be_a_text(line: object) -> None:
    """A message that is no str, blank or missing is refused with the library's reason."""
    assert (
        find_reason(write_json(line))
        == find_reason(write_json({"phone": PHONE}))
        == "message must be a str that is not blank"
    )


@pytest.mark.parametrize(("key", "expected"), [("A", "A"), (" ", " "), ("", None), (None, None), (7, "7"), (0, "0")])
def test_json_key_may_be_a_whole_number(key: object, expected: str | None) -> None:
    """A key is a str or an int, and an empty key or null is no key, in good rows and in bad rows."""
    assert read_one(write_json({"phone": PHONE, "message": "Halo", "key": key})).key == expected
    [bad] = read_all(write_json({"phone": "", "message": "Halo", "key": key}))
    assert bad.key == expected


@pytest.mark.parametrize("key", [True, False, 1.5, [], {}])
def test_json_key_of_another_type_is_refused(key: object) -> None:
    """A key of any other type makes its row bad."""
    [bad] = read_all(write_json({"phone": PHONE, "message": "Halo", "key": key}))
    assert bad == BadRow(1, "key must be a str that is not empty, or None")


def test_half_of_a_surrogate_pair_is_refused() -> None:
    """A key or a text with half of a surrogate pair is refused, because no file and no gateway can take it."""
    line = {"phone": PHONE, "message": "a\ud83d", "key": "\ude00"}
    [bad] = read_all(write_json(line))
    assert isinstance(bad, BadRow)
    key, message = bad.reason.split("; ")
    assert key.startswith("key holds half of a surrogate pair")
    assert message.startswith("message holds half of a surrogate pair")
    assert bad.key is None


@pytest.mark.parametrize("key", ["", '""'])
@pytest.mark.parametrize("expires_at", ["", '""', "  ", '"\t"'])
def test_empty_csv_fields_are_absent(key: str, expires_at: str) -> None:
    """An empty key or expiry in a CSV row is no key and no expiry."""
    found = read_one(f"phone,message,key,expires_at\n{PHONE},Halo,{key},{expires_at}\n")
    assert (found.key, found.expires_at) == (None, None)


@pytest.mark.parametrize("expires_at", [None, "", " "])
def test_empty_json_expiry_is_absent(expires_at: str | None) -> None:
    """A null or empty expiry in a JSON line is no expiry."""
    assert read_one(write_json({"phone": PHONE, "message": "Halo", "expires_at": expires_at})).expires_at is None


@pytest.mark.parametrize("written", ["2030-01-02T03:04:05Z", " 2030-01-02 10:04:05+07:00 ", "20300102T030405+0000"])
def test_expiry_is_iso_8601(written: str) -> None:
    """An expiry may have any spelling of ISO 8601, with white space around it."""
    expected = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert read_one(f"phone,message,expires_at\n{PHONE},Halo,{written}\n").expires_at == expected
    assert read_one(write_json({"phone": PHONE, "message": "Halo", "expires_at": written})).expires_at == expected


@pytest.mark.parametrize("written", ["tomorrow", "2030-02-30T00:00Z", "31/12/2030", 1893456000, True, 0, []])
def test_expiry_that_cannot_be_read_is_refused(written: object) -> None:
    """An expiry that is no date or no text makes its row bad."""
    words = "expires_at must be ISO 8601, such as '2030-12-31T23:59:00+07:00'"
    assert find_reason(write_json({"phone": PHONE, "message": "Halo", "expires_at": written})) == words


@pytest.mark.parametrize("written", ["2030-01-02T03:04:05", "2030-01-02"])
def test_expiry_without_offset_is_refused(written: str) -> None:
    """An expiry without a time zone makes its row bad, with the remedy."""
    words = "expires_at has no time zone: give it an offset such as +07:00"
    assert find_reason(f"phone,message,expires_at\n{PHONE},Halo,{written}\n") == words


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Kode {brand}: {code}", "Kode Toko {code}: 0042"),
        ("{code}{code}", "00420042"),
        ("{{code}} {{{code}}} }}{{", "{code} {0042} }{"),
        ("{nama toko} {message} {phone}", f"A, B own {PHONE}"),
        ("Halo", "Halo"),
        ("{kode-é😀}", "x"),
    ],
)
def test_template_makes_the_text(template: str, text: str) -> None:
    """Columns of a template are replaced once, doubled braces are braces, and `message` is not used."""
    line = {
        "phone": PHONE,
        "brand": "Toko {code}",
        "code": "0042",
        "nama toko": "A, B",
        "message": "own",
        "kode-é😀": "x",
    }
    written = io.StringIO()
    csv.writer(written).writerows([line.keys(), line.values()])
    assert read_texts(written.getvalue(), template) == read_texts(write_json(line), template) == [text]


@pytest.mark.parametrize(
    "content", [f"phone\n{PHONE}\n", write_json({"phone": PHONE}), write_json({"phone": PHONE, "message": 1})]
)
def test_template_needs_no_message(content: str) -> None:
    """With a template a row needs no message."""
    assert read_texts(content, "Halo") == ["Halo"]


@pytest.mark.parametrize(
    "template",
    [
        *["{", "}", "{code", "code}", "{code}}", "{{code}", "{a{code}}", "{}", "{ }", "{0}", "{12}", "{ 1 }"],
        *["{code!r}", "{code!}", "{code:>9}", "{code:}", "{code.real}", "{code[0]}"],
    ],
)
def test_template_holds_plain_columns_alone(template: str) -> None:
    """A template with more than plain columns in its braces is refused before the file is read."""
    stream = io.BytesIO(b"code,0,12,phone\n")
    with pytest.raises(InputError, match=r"^the template may hold"):
        read_rows(stream, Layout(template=f"Kode {template}"))
    assert stream.tell() == 0


@pytest.mark.parametrize("empty", ["", " ", "\n", "\u200b"])
def test_template_column_may_not_be_empty(empty: str) -> None:
    """A row with an empty column of the template is bad, and the column is named."""
    words = "the template needs column 'code', which is empty"
    assert find_reason(f'phone,code,brand\n{PHONE},"{empty}",Toko\n', "{brand} {code}") == words
    assert find_reason(write_json({"phone": PHONE, "brand": "Toko", "code": empty}), "{brand} {code}") == words


def test_json_template_columns_are_texts_or_whole_numbers() -> None:
    """Template columns of a JSON line may be str or int; each other or missing column is named."""
    assert read_one(write_json({"phone": PHONE, "a": 0, "b": -7, "c": "x"}), "{a}{b}{c}").message == "0-7x"
    line = {"phone": PHONE, "a": None, "c": True, "d": 1.5, "e": [1]}
    assert find_reason(write_json(line), "{a}{b}{c}{d}{e}{e}").split("; ") == [
        "the template needs column 'a', which is empty",
        "the template needs column 'b', which is empty",
        "column 'c' must be a text in quotes, or a whole number",
        "column 'd' must be a text in quotes, or a whole number",
        "column 'e' must be a text in quotes, or a whole number",
    ]


def test_blank_template_makes_bad_rows() -> None:
    """The text of a template is checked like any other."""
    assert find_reason(f"phone,message\n{PHONE},Halo\n", "") == "message must be a str that is not blank"


def test_all_faults_of_a_row_are_named() -> None:
    """A row with several faults names each, and keeps its key."""
    [bad] = read_all("phone,message,key,expires_at\n0812ABC, ,A-1,tomorrow\n")
    assert isinstance(bad, BadRow)
    assert [fault.split()[0] for fault in bad.reason.split("; ")] == ["phone", "expires_at", "message"]
    assert bad.key == "A-1"


@unhurried
@given(
    st.sampled_from(["0", "", "+", "62", "+62", "62 ", "+62-", "62.", "0 ", "+62 62"]),
    st.integers(7, 14),
    st.from_regex("[89][0-9]{13}", fullmatch=True),
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(" -.")), max_size=2),
)
@example("0", 10, "81234567890123", [(9, " ")])
@example("0", 10, "81234567890123", [(4, "-"), (5, "-")])
def test_a_number_is_read_as_the_library_reads_it(
    code: str, length: int, digits: str, breaks: list[tuple[int, str]]
) -> None:
    """The short way for usual spellings gives the number, or the refusal, of `normalize_phone`."""
    phone = digits[:length]
    for place, mark in breaks:
        phone = phone[:place] + mark + phone[place:]
    phone = code + phone
    [row] = read_all(write_json({"phone": phone, "message": "Halo"}))
    try:
        expected = normalize_phone(phone)
    except ValueError:
        assert isinstance(row, BadRow)
    else:
        assert isinstance(row, RowSms)
        assert row.phone == expected


def test_number_without_country_code_is_indonesian() -> None:
    """A number without country code is Indonesian, and an impossible one is refused."""
    assert read_one("phone,message\n0812345678,Halo\n").phone == "+62812345678"
    assert (
        find_reason("phone,message\n08123,Halo\n")
        == "phone is not a possible mobile number of its country: count its digits"
    )


@pytest.mark.parametrize("content", [f"phone,message\n{PHONE},a\n", write_json({"phone": PHONE, "message": "a"})])
def test_file_stays_open_and_can_be_read_again(content: str, tmp_path: Path) -> None:
    """A file can be read again after it is rewound, also if it was not read to its end."""
    path = tmp_path / "rows"
    path.write_text(content * 3, encoding="utf-8")
    with path.open("rb") as stream:
        for asked in (0, 1, 2):
            found = read_rows(stream)
            assert [next(found).row for _ in range(asked)] == list(range(1, asked + 1))
            del found
            gc.collect()
            stream.seek(0)
        first = list(read_rows(stream))
        stream.seek(0)
        assert list(read_rows(stream)) == first


@pytest.mark.parametrize("header", [b"phone,message\n", b""])
def test_rows_are_read_as_they_are_asked_for(header: bytes) -> None:
    """A file is read not much further than the rows that were asked for."""
    line = b"081234567890,a\n" if header else b'{"phone": "081234567890", "message": "a"}\n'
    stream = io.BytesIO(header + line * 100_000)
    found = read_rows(stream)
    next(found)
    next(found)
    assert stream.tell() < 100_000


@unhurried
@given(st.lists(messages, min_size=1), st.sampled_from([b"", BOM]), st.sampled_from(["\n", "\r\n", "\r"]))
def test_messages_come_back_from_csv(sent: list[Sms], start: bytes, end: str) -> None:
    """Messages that a csv.writer wrote are read back unchanged."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["phone", "message", "key", "expires_at"])
    writer.writerows([it.phone, it.message, it.key, it.expires_at and it.expires_at.isoformat()] for it in sent)
    assert read_all(start + written.getvalue().encode()) == [
        RowSms(NUMBER, it.message, it.key, it.expires_at, row=row) for row, it in enumerate(sent, 1)
    ]


@unhurried
@given(st.lists(messages, min_size=1), st.sampled_from([b"", BOM]), st.booleans())
def test_messages_come_back_from_json(sent: list[Sms], start: bytes, ascii_only: bool) -> None:
    """Messages that json.dumps wrote are read back unchanged."""
    values = [{**attrs.asdict(it), "expires_at": it.expires_at and it.expires_at.isoformat()} for it in sent]
    content = "\n".join(json.dumps(it, ensure_ascii=ascii_only) for it in values)
    assert read_all(start + content.encode()) == [
        RowSms(NUMBER, it.message, it.key, it.expires_at, row=row) for row, it in enumerate(sent, 1)
    ]


@unhurried
@given(texts, texts)
@example("{code}", "{{brand}}")
def test_template_takes_any_value_as_it_is(brand: str, code: str) -> None:
    """Values with braces or names of columns come into the text once and unchanged."""
    content = write_json({"phone": PHONE, "brand": brand, "code": code})
    assert read_one(content, "{{{brand}}} {code}").message == "{" + brand + "} " + code


pieces = st.lists(
    st.sampled_from(
        [b'{"', b'"}', b'":', b'"', b",", b"\n", b"\r", b"\0", b"\xe9", b"\\ud83d", b" ", b"[", b"7", b"null"]
    )
    | st.sampled_from([b"phone", b"message", b"key", b"expires_at", b"code", PHONE.encode(), b"2030-01-01T00:00Z"])
    | st.binary(max_size=3)
).map(b"".join)
starts = st.sampled_from([b"", BOM, b"phone,message,key,expires_at,code\n", b"phone,code\n", b"{}\n", b"\xff\xfe"])


@unhurried
@given(starts, pieces, st.none() | st.text(st.sampled_from("{}code!: ")) | st.just("{code}"))
def test_any_bytes_are_rows_or_a_file_that_cannot_be_used(start: bytes, rest: bytes, template: str | None) -> None:
    """Any file is refused, or becomes rows without a gap in their numbers, at most one for each line."""
    limit, numbers = len((start + rest).splitlines()), list[int]()
    with contextlib.suppress(InputError):
        for row in itertools.islice(read_rows(io.BytesIO(start + rest), Layout(template=template)), limit + 1):
            numbers.append(row.row)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) <= limit


SECRET = "Rahasia-482913"
secrets = st.builds("{}{}{}".format, st.text(max_size=3), st.just(SECRET), st.text(max_size=3))
columns = ["phone", "message", "key", "expires_at", "code"]


@unhurried
@given(
    st.tuples(st.just(PHONE) | secrets, *[st.just("") | st.just("Halo") | secrets] * 4),
    st.sampled_from(['"{}', "{}", '{{"{}": 1}}', '{{"key": "{}}}', '{{"phone": {{"{}": 1}}}}', '"{}"x,,,,']),
    st.sampled_from([None, "{code}"]),
)
def test_reasons_do_not_quote_their_row(values: tuple[str, ...], damage: str, template: str | None) -> None:
    """No reason and no repr shows a field of its row, also if the row is damaged."""
    line = json.dumps(dict(zip(columns, values, strict=True)))
    nested = json.dumps({column: [value] for column, value in zip(columns, values, strict=True)})
    written = io.StringIO()
    csv.writer(written).writerows([columns, values, values[:2], [*values, SECRET]])
    for content in (written.getvalue() + damage.format(SECRET), "\n".join([line, nested, damage.format(SECRET)])):
        found = read_all(content.encode("utf-8", "surrogateescape"), template)
        assert any(isinstance(row, BadRow) for row in found)
        for row in found:
            shown = repr(row) + (row.reason if isinstance(row, BadRow) else "")
            assert "Rahasia" not in shown
            assert "482913" not in shown
