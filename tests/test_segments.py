"""Segments: counting them, and advice on a text."""

import random
import re
import unicodedata

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oca_sms_async._segments import Advice, Segments, check_message, segments

# The table of 3GPP TS 23.038, 6.2.1, column by column as it is printed there, without the escape at 0x1B.
COLUMNS = (
    "@£$¥èéùìòÇ\nØø\rÅå",
    "Δ_ΦΓΛΩΠΨΣΘΞÆæßÉ",
    " !\"#¤%&'()*+,-./",
    "0123456789:;<=>?",
    "¡ABCDEFGHIJKLMNO",
    "PQRSTUVWXYZÄÖÑÜ§",
    "¿abcdefghijklmno",
    "pqrstuvwxyzäöñüà",
)
BASIC = "".join(COLUMNS)
EXTENSION = "\f^{}\\[~]|€"
EMOJI = "😀"

gsm_texts = st.text(st.sampled_from("aZ é\n" + EXTENSION), max_size=500)
any_texts = st.text(st.one_of(st.sampled_from("a{€é4" + EMOJI), st.characters(exclude_categories=())), max_size=300)
# A pair must meet the end of a segment in every position. Single characters seldom reach that.
long_texts = st.lists(
    st.builds(lambda char, times: char * times, st.sampled_from(["a", "{", "ç", EMOJI, "\ud83d"]), st.integers(1, 170)),
    max_size=6,
).map("".join)
texts = gsm_texts | any_texts | long_texts


def units_and_cuts(text: str) -> tuple[str, list[bool]]:
    """Return the alphabet of a text, and for each unit whether a segment may not begin before it."""
    if all(char in BASIC + EXTENSION for char in text):
        septets = "".join("\x1b" + char if char in EXTENSION else char for char in text)
        return "GSM-7", [i > 0 and septets[i - 1] == "\x1b" for i in range(len(septets))]
    raw = text.encode("utf-16-be", "surrogatepass")
    words = [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
    pairs = [i > 0 and words[i - 1] >> 10 == 0x36 and words[i] >> 10 == 0x37 for i in range(len(words))]
    return "UCS-2", pairs


def fewest_segments(text: str) -> tuple[str, int, int]:
    """Find the fewest segments among all ways to cut the text, by dynamic programming."""
    encoding, glued = units_and_cuts(text)
    alone, each = (160, 153) if encoding == "GSM-7" else (70, 67)
    if len(glued) <= alone:
        return encoding, len(glued), 1 if text else 0
    best = [0]
    for end in range(1, len(glued) + 1):
        # Only starts are checked: after a segment that ends inside a pair, no start is allowed.
        starts = (i for i in range(max(0, end - each), end) if not glued[i])
        best.append(1 + min(best[i] for i in starts))
    return encoding, len(glued), best[-1]


def codes(text: str, brand: str | None = None) -> list[str]:
    """Return the codes of all advice that a text gets."""
    return [advice.code for advice in check_message(text, brand=brand)]


def zero_digits(text: str) -> str:
    """Replace every decimal digit by the zero of its script."""
    return "".join(chr(ord(char) - unicodedata.decimal(char, 0)) for char in text)


def test_alphabet_is_the_standards() -> None:
    """In the basic plane, exactly the characters of the two GSM tables are GSM-7."""
    found = {chr(point) for point in range(0x10000) if segments(chr(point)).encoding == "GSM-7"}
    assert found == set(BASIC + EXTENSION)


@pytest.mark.parametrize("column", COLUMNS)
def test_basic_characters_take_one_septet(column: str) -> None:
    """A character of the default alphabet is one septet."""
    assert segments(column) == Segments("GSM-7", len(column), 1)


@pytest.mark.parametrize("char", EXTENSION)
def test_extension_characters_take_two_septets(char: str) -> None:
    """A character of the extension table is an escape and a septet. In UCS-2 it is one unit."""
    assert segments(char) == Segments("GSM-7", 2, 1)
    assert segments(char + "ç") == Segments("UCS-2", 2, 1)


def test_only_the_capital_cedilla_is_gsm7() -> None:
    """The alphabet has Ç and lacks ç. One ç makes the whole text UCS-2."""
    assert segments("GARÇON") == Segments("GSM-7", 6, 1)
    assert segments("garçon") == Segments("UCS-2", 6, 1)


@pytest.mark.parametrize(
    ("length", "count"),
    [(0, 0), (1, 1), (153, 1), (154, 1), (160, 1), (161, 2), (306, 2), (307, 3), (459, 3), (460, 4)],
)
def test_gsm7_boundaries(length: int, count: int) -> None:
    """160 septets fit in one segment, 153 in each of several. An empty text takes 0 segments."""
    assert segments("a" * length) == Segments("GSM-7", length, count)


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (67, 1), (68, 1), (70, 1), (71, 2), (134, 2), (135, 3), (201, 3), (202, 4)]
)
def test_ucs2_boundaries(length: int, count: int) -> None:
    """70 UTF-16 units fit in one segment, 67 in each of several."""
    assert segments("я" * length) == Segments("UCS-2", length, count)


@pytest.mark.parametrize(
    ("text", "units", "count"),
    [
        ("a" * 151 + "{" + "a" * 153, 306, 2),
        ("a" * 152 + "{" + "a" * 152, 306, 3),
        ("a" * 153 + "{" + "a" * 151, 306, 2),
        ("a" * 152 + "{", 154, 1),
        ("{" * 80, 160, 1),
        ("{" * 81, 162, 2),
        ("{" * 152, 304, 2),
        ("{" * 153, 306, 3),
    ],
)
def test_escape_pairs_stay_whole(text: str, units: int, count: int) -> None:
    """An escape pair at the end of a segment moves to the next one, and leaves a septet empty."""
    assert segments(text) == Segments("GSM-7", units, count)


@pytest.mark.parametrize(
    ("text", "units", "count"),
    [
        ("я" * 65 + EMOJI + "я" * 67, 134, 2),
        ("я" * 66 + EMOJI + "я" * 66, 134, 3),
        ("я" * 67 + EMOJI + "я" * 65, 134, 2),
        ("я" * 66 + EMOJI, 68, 1),
        (EMOJI * 35, 70, 1),
        (EMOJI * 36, 72, 2),
        (EMOJI * 66, 132, 2),
        (EMOJI * 67, 134, 3),
    ],
)
def test_surrogate_pairs_stay_whole(text: str, units: int, count: int) -> None:
    """An emoji is two units. At the end of a segment it moves to the next one."""
    assert segments(text) == Segments("UCS-2", units, count)


def test_lone_surrogates_take_one_unit() -> None:
    """Half a surrogate pair, as broken JSON leaves it, counts one unit. Two halves side by side are a pair."""
    assert segments("\ud83d" * 71) == Segments("UCS-2", 71, 2)
    assert segments("\ude00\ud83d") == Segments("UCS-2", 2, 1)
    halves = "я" * 66 + "\ud83d\ude00" + "я" * 66
    assert segments(halves) == segments("я" * 66 + EMOJI + "я" * 66)


@settings(deadline=None)  # the reference is slow by design, and a busy machine must not fail the test
@given(texts)
def test_count_is_the_fewest_possible(text: str) -> None:
    """The count is the smallest one among all ways to cut the text with pairs kept whole."""
    size = segments(text)
    assert (size.encoding, size.units, size.count) == fewest_segments(text)


@given(gsm_texts, gsm_texts)
def test_septets_add_up(left: str, right: str) -> None:
    """A GSM-7 text has as many septets as its parts."""
    assert segments(left + right).units == segments(left).units + segments(right).units


@given(texts, texts)
def test_ucs2_units_add_up(left: str, right: str) -> None:
    """A UCS-2 text has as many units as its parts."""
    assert segments("ç" + left + "ç" + right).units == segments("ç" + left).units + segments("ç" + right).units


@given(texts, texts)
@example("{" * 80, "ç")
def test_count_never_falls_when_text_is_appended(left: str, right: str) -> None:
    """More text never takes fewer segments, even where UCS-2 turns escape pairs into single units."""
    assert segments(left + right).count >= segments(left).count


@given(texts)
def test_every_segment_but_the_last_is_full(text: str) -> None:
    """The segments hold all units. Each before the last is full, or one unit short to keep a pair whole."""
    size = segments(text)
    each = 153 if size.encoding == "GSM-7" else 67
    if size.count > 1:
        assert (size.count - 1) * (each - 1) < size.units <= size.count * each
    else:
        assert size.units <= size.count * (each + (7 if each == 153 else 3))


@pytest.mark.parametrize("text", [None, b"Kode", 482913])
def test_text_must_be_a_str(text: object) -> None:
    """A value of another type is refused. The sentence names the parameter and shows nothing of the value."""
    for function in (segments, check_message):
        with pytest.raises(TypeError, match=r"^text must be a str, not \w+$"):
            function(text)  # type: ignore[arg-type]  # the wrong type is the test


@pytest.mark.parametrize("value", [Segments("GSM-7", 1, 1), Advice("not-gsm7", "text")])
def test_values_are_frozen(value: Segments | Advice) -> None:
    """Results cannot be changed, and can be keys of a dict."""
    with pytest.raises(AttributeError):
        setattr(value, attrs.fields(type(value))[0].name, "other")
    assert hash(value) == hash(attrs.evolve(value))


@pytest.mark.parametrize(
    ("text", "brand", "expected"),
    [
        ("Kode Tokoku: 482913", None, []),
        ("Kode Tokoku: 482913", "Tokoku", []),
        ("", None, []),
        ("Kode Tokoku: 482913 😀", None, ["not-gsm7"]),
        ("garçon", None, ["not-gsm7"]),
        ("GARÇON", None, []),
        ("Kode Tokoku: [482913]", None, ["extension-characters"]),
        ("a" * 160, None, []),
        ("a" * 161, None, ["several-segments"]),
        ("я" * 70, None, ["not-gsm7"]),
        ("я" * 71, None, ["not-gsm7", "several-segments"]),
        ("Kode: 482913", "Tokoku", ["brand-missing"]),
        ("", "Tokoku", ["brand-missing"]),
        ("{я}" * 30, "Tokoku", ["not-gsm7", "extension-characters", "several-segments", "brand-missing"]),
    ],
)
def test_advice_is_given_when_there_is_reason(text: str, brand: str | None, expected: list[str]) -> None:
    """Each advice appears exactly if its reason is present, always in the same order."""
    assert codes(text, brand) == expected


@pytest.mark.parametrize("char", EXTENSION)
def test_every_extension_character_is_advised_on(char: str) -> None:
    """Each character of the extension table is named by its Unicode name, or else by code point."""
    [advice] = check_message(f"Kode{char}")
    assert advice.code == "extension-characters"
    assert advice.text.endswith(f": {unicodedata.name(char, 'U+000C')}.")


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("garçon", ": LATIN SMALL LETTER C WITH CEDILLA."),
        ("çaçaça", ": LATIN SMALL LETTER C WITH CEDILLA."),
        ("a\x85", ": U+0085."),
        ("a\ud83d", ": U+D83D."),
        ("“a” ‘b’", ": LEFT SINGLE QUOTATION MARK, RIGHT SINGLE QUOTATION MARK, LEFT DOUBLE QUOTATION MARK, and more."),
        ("“a”‘", ": LEFT SINGLE QUOTATION MARK, LEFT DOUBLE QUOTATION MARK, RIGHT DOUBLE QUOTATION MARK."),
        ("٤٨٢٩", ": numerals of another script."),
        ("④⑧四", ": numerals of another script."),
        ("ç ４８２９", ": LATIN SMALL LETTER C WITH CEDILLA, numerals of another script."),
    ],
)
def test_offending_characters_are_named(text: str, ending: str) -> None:
    """Up to three characters outside the alphabet are named, each once. A numeral is not: it may be part of an OTP."""
    [advice] = check_message(text)
    assert advice.text.endswith(ending)


@pytest.mark.parametrize("code", ["4829", "７３０６", "٤٨٢٩"])
@pytest.mark.parametrize("rest", ["", "[]", "ç", "😀", "{“}", "a" * 161, "ç" * 71])
def test_advice_holds_no_digit_and_no_word_of_the_message(code: str, rest: str) -> None:
    """No advice shows a digit, the code, a word of the message or the brand."""
    advices = check_message(f"Rahasia {code} {rest}", brand="Bank4829")
    assert advices
    for advice in advices:
        assert not re.search(r"\d|DIGIT|rahasia|bank", advice.text, re.IGNORECASE)


@given(texts | st.text(st.sampled_from("0123456789٤٨４８ç{")))
def test_advice_does_not_depend_on_the_digits(text: str) -> None:
    """Messages that differ in digits alone get the same advice, so it reveals no OTP."""
    assert check_message(text) == check_message(zero_digits(text))


@given(st.lists(st.sampled_from("КОДça{~"), max_size=12), st.randoms(use_true_random=False))
def test_advice_does_not_depend_on_the_order(chars: list[str], random: random.Random) -> None:
    """The same characters in another order get the same advice, so it spells no word of the message."""
    shuffled = random.sample(chars, len(chars))
    assert check_message("".join(chars)) == check_message("".join(shuffled))


@pytest.mark.parametrize(
    ("text", "brand"),
    [
        ("Kode TOKOKU: 4829", "tokoku"),
        ("kode tokoku: 4829", "TokoKu"),
        ("Kode STRASSE", "Straße"),
        ("aTokoku1", " Tokoku\n"),
    ],
)
def test_brand_is_found_in_any_case(text: str, brand: str) -> None:
    """The brand is found in any case and within a word. White space around it is ignored."""
    assert codes(text, brand) == []


@pytest.mark.parametrize("text", ["Kode Toko ku: 4829", "Kode Tokok", "ukokoT"])
def test_brand_must_be_present_as_a_whole(text: str) -> None:
    """A part of the brand's name is not the brand, nor are its letters in another order."""
    assert codes(text, "Tokoku") == ["brand-missing"]


@pytest.mark.parametrize("brand", ["", "  ", "\n\u3000"])
def test_blank_brand_is_refused(brand: str) -> None:
    """A blank brand is refused: every text would contain it."""
    with pytest.raises(ValueError, match=r"^brand must not be blank$"):
        check_message("Kode 4829", brand=brand)


@pytest.mark.parametrize("brand", [b"Tokoku", 7, False])
def test_brand_must_be_a_str(brand: object) -> None:
    """A brand must be a str, and the error names it."""
    with pytest.raises(TypeError, match=r"^brand must be a str or None, not \w+$"):
        check_message("Kode 4829", brand=brand)  # type: ignore[arg-type]  # the wrong type is the test
