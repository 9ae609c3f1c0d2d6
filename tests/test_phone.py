"""Recipients' numbers: every usual spelling is sent as one number, and any other text is refused."""

import contextlib
import re
from typing import Any

import phonenumbers
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from oca_sms_async import AsyncOcaSms, InvalidMessageError
from oca_sms_async._phone import check_region, mask_phone, normalize_phone

E164 = re.compile(r"\+[1-9][0-9]{6,14}")
CODES = {str(code) for code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE}
MARGIN = " \u00a0\u2007\u202f\u200b\u200c\u200d\u2060\ufeff" + "".join(
    map(chr, [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
)
unhurried = settings(deadline=None)  # a busy machine must not fail a test


@pytest.mark.parametrize(
    "phone",
    [
        "+6281381475159",
        "6281381475159",
        "081381475159",
        "81381475159",
        "+62 813 8147 5159",
        "+62-813-8147-5159",
        "+62.813.8147.5159",
        "(+62) 813 8147 5159",
        "+(62) 813 8147 5159",
        "+62(813)81475159",
        "+62 (813) 8147-5159",
        "+62 (0813)-8147.5159",
        "62 (813) 8147 5159",
        "(62) 813 8147 5159",
        "+62 0813 8147 5159",
        "62 0813 8147 5159",
        "(0813) 8147-5159",
        "(0813)8147 5159",
        "08 13 81 47 51 59",
        "  081381475159  ",
        "\ufeff081381475159",
        "\u202a+62 813-8147-5159\u202c",
        "\u200e\u00a0081381475159\u202f\u200b",
        "00862 813 8147 5159",  # dialled abroad from Indonesia
    ],
)
def test_spellings(phone: str) -> None:
    """Every usual spelling becomes the same number, with its plus."""
    assert normalize_phone(phone) == "+6281381475159"


@pytest.mark.parametrize(
    "phone",
    [
        "0811234567",  # 10 digits, counted with the zero in front
        "08112345678",
        "081123456789",
        "0811234567890",  # 13
        "0800 0000 0000",
        "0888 8888 8888",  # prefixes that are not assigned today
        "0899 9999 9999",
    ],
)
def test_length_counts_and_prefix_does_not(phone: str) -> None:
    """A mobile number has 10 to 13 digits with its zero. New prefixes appear, so any prefix passes."""
    assert normalize_phone(phone) == "+62" + re.sub(r"\D", "", phone)[1:]


@pytest.mark.parametrize(
    "phone",
    [
        "",
        " ",
        "+",
        "()",
        "-.-",
        "0812 ABCD EFGH",
        "0812-CALL-NOW",
        "0813--8147 - 5159",
        "0 8 1 3 8 1 4 7 5 1 5 9",
        ".081381475159.",
        "-081381475159-",
        "+62 (0) 813-8147-5159",
        "0813  8147 5159",
        "0813. 8147 5159",
        "+62 - 813 8147 5159",
        "( 0813) 8147 5159",
        "(0813 8147 5159)",
        "((0813)) 8147 5159",
        "0813 (8147) 5159",
        "+62 813 (8147) 5159",
        "(+62) (813) 8147 5159",
        "+6281 (381) 475159",
        "(0813) 8147 (5159)",
        "(0813 8147 5159",
        "0813) 8147 5159",
        "+6 2813 8147 5159",
        "6 2813 8147 5159",
        "8 1381475159",
        "0813\u20118147\u20115159",
        "0813\u202a8147\u202c5159",
        "081381475159x5",
        "081381475159;ext=5",
        "081381475159 ext. 5",
        "tel:+6281381475159",
        "tel:81381475159;phone-context=+62",
        "081381475159,081381475160",
        "0813/81475159",
        "0813 8147 5159\n",
        "0813\t8147 5159",
        "0813\u00a08147 5159",
        "0813–8147–5159",
        "０８１３８１４７５１５９",
        "٠٨١٣٨١٤٧٥١٥٩",
        "०८१३८१४७५१५९",
        "0813814751５9",
        "＋6281381475159",
        "62+81381475159",
        "081381475159+",
        "++6281381475159",
        "+62+81381475159",
        "+ +6281381475159",
        "-+6281381475159",
        "+62 813 8147 5159 / +62 813 8147 5160",
        "081381475159#",
        "*081381475159",
        "\ud83d081381475159",
        "081381475159\x00",
    ],
)
def test_other_spellings_are_refused(phone: str) -> None:
    """Letters, extensions, other scripts' digits, misplaced signs and lone digits may reach a stranger."""
    with pytest.raises(ValueError, match=r"^phone "):
        normalize_phone(phone)


@pytest.mark.parametrize(
    "phone",
    [
        "11",
        "110",
        "08134567",
        "081345678",
        "+6281345678",
        "08134567890123",
        "+62813456789012345",
        "8" * 250,
        "0" * 12,
        "0062 813 8147 5159",  # Indonesia does not dial 00
        "001 0813 8147 5159",
        "+620081381475159",
        "+62 00 813 8147 5159",
        "+0813 8147 5159",
        "+999 813 8147 5159",
        "+62",
        "+800 1234 5678",  # not a mobile number
        "+6262811234567",  # its country code stands twice
        "6262811234567",
        "62 62 811 234 567",
        "021 5551234",  # a land line in Jakarta
        "+62 21 555 12345",
        "+62 (021) 5551234",
        "0062 811 234 567",
    ],
)
def test_impossible_numbers_are_refused(phone: str) -> None:
    """A number that is too short or too long for its country is refused, and one that keeps a dialling zero."""
    with pytest.raises(ValueError, match=r"^phone is not a possible"):
        normalize_phone(phone)


@pytest.mark.parametrize("phone", [None, 6281381475159, 81381475159.0, b"+6281381475159", ["+6281381475159"], True])
def test_number_must_be_a_str(phone: Any) -> None:
    """A number must be a str. An int above all is refused: it has lost its zero and its plus."""
    with pytest.raises(ValueError, match=r"^phone must be a str"):
        normalize_phone(phone)


@pytest.mark.parametrize(
    ("phone", "region", "number"),
    [
        ("+65 9123 4567", "ID", "+6591234567"),
        ("+1 (650) 253-0000", "ID", "+16502530000"),
        ("+44 7911 123456", "ID", "+447911123456"),
        ("+44 (07911) 123456", "ID", "+447911123456"),
        ("(+44) 7911 123456", "ID", "+447911123456"),
        ("+39 312 345 6789", "ID", "+393123456789"),
        ("+39 06 1234 5678", "ID", "+390612345678"),  # Italy dials that zero
        ("+7 912 345 67 89", "ID", "+79123456789"),
        ("00865 9123 4567", "ID", "+6591234567"),
        ("9123 4567", "SG", "+6591234567"),
        ("(650) 253-0000", "US", "+16502530000"),
        ("0412 345 678", "AU", "+61412345678"),
        ("8912 345 67 89", "RU", "+79123456789"),
        ("+7 (912) 345-67-89", "RU", "+79123456789"),
        ("65 (9123) 4567", "SG", "+6591234567"),
        ("+62 21 5551 2345", "SG", None),
        ("312 345 6789", "IT", "+393123456789"),
        ("+62 813 8147 5159", "US", "+6281381475159"),
        ("0062 813 8147 5159", "SG", None),  # Singapore dials 000, 001 or 002
        ("0011 62 813 8147 5159", "AU", "+6281381475159"),
        ("0813 8147 5159", "SG", None),
        ("9123 4567", "ID", None),
    ],
)
def test_other_countries(phone: str, region: str, number: str | None) -> None:
    """A country code wins. Without one, the region decides how a number is read and how long it may be."""
    if number is None:
        with pytest.raises(ValueError, match=r"^phone is not a possible"):
            normalize_phone(phone, region=region)
    else:
        assert normalize_phone(phone, region=region) == number


@pytest.mark.parametrize("region", ["ID", "SG", "US", "GB"])
def test_known_regions(region: str) -> None:
    """A country code of two capitals is a region."""
    check_region(region)


@pytest.mark.parametrize("region", ["", "id", "Id", "IDN", "62", "+62", "001", "XX", "ZZ", " ID", None, 62])
def test_unknown_regions(region: Any) -> None:
    """Any other value is refused, and the parameter is named."""
    with pytest.raises(ValueError, match=r"^region must be"):
        check_region(region)


@pytest.mark.parametrize(
    ("phone", "oddity"),
    [
        ("81234567890.0", "has a decimal point: was this column a number in a spreadsheet?"),
        ("+6281234567890.0", "has a decimal point: was this column a number in a spreadsheet?"),
        ("812345678.00", "has a decimal point: was this column a number in a spreadsheet?"),
        ("62812345678.00", "has a decimal point: was this column a number in a spreadsheet?"),
        ("8.1234567890E+10", "has an exponent: was this column a number in a spreadsheet?"),
        ("8,12e10", "has an exponent: was this column a number in a spreadsheet?"),
        ("", "is empty"),
        (" \u00a0", "is empty"),
        ("()-", "has no digit"),
        ("0811\u202a234567", "has a character that cannot be seen, U+202A, in the middle: it may hold"),
        ("\u202a0811234567x", "has a letter at the end: it may hold"),
        ("\t0811234567", "has a character that cannot be seen, U+0009, at the front: it may hold"),
        ("0811234567\n", "has a character that cannot be seen, U+000A, at the end: it may hold"),
        ("'0811234567", 'has the character "\'" at the front: it may hold'),
        ("0811/234567", "has the character '/' in the middle: it may hold"),
        ("0811\u2011234567", "has the character U+2011 in the middle: it may hold"),
        ("0811 234 56\u0667", "has a digit of another script at the end: it may hold"),
        ("0811 234 5é67", "has a letter in the middle: it may hold"),
        ("0811 234 567\u0301", "has a letter at the end: it may hold"),
        ("62+811234567", "has a '+' that is not before its first digit"),
        ("++62811234567", "has a '+' that is not before its first digit"),
        ("+ 62811234567", "has a '+' that is not before its first digit"),
        ("+(62) 811+234567", "has a '+' that is not before its first digit"),
        ("1. 0811234567", "has a single digit at the front, apart from the others"),
        ("0811234567 (2)", "has a single digit at the end, apart from the others"),
        ("0811234567-1", "has a single digit at the end, apart from the others"),
        ("+62 (0)811 234 567", "has a single digit in the middle, apart from the others"),
        ("8 11234567", "has a single digit at the front, apart from the others"),
        ("+6 2811234567", "has a single digit at the front, apart from the others"),
        ("+1 811234567 8", "has a single digit at the end, apart from the others"),
        ("(+1) 811234567 8", "has a single digit at the end, apart from the others"),
        ("+(1) 811234567 8", "has a single digit at the end, apart from the others"),
        ("0811  234567", "has a space, '-' or '.' too many in the middle"),
        ("-0811 234567", "has a space, '-' or '.' too many at the front"),
        ("0811 234567.", "has a space, '-' or '.' too many at the end"),
        ("65 (811) 234567", "has parentheses round its second group, and the first is no country code"),
        ("0811 (234) 567", "has parentheses round its second group, and the first is no country code"),
        ("+62811 (234) 567", "has parentheses round its second group, and the first is no country code"),
        ("(0811 234) 567", "has parentheses that do not enclose one group, the first or the one behind the country"),
        ("+999 811 234 567", "is not a possible number: give the country code and the whole number"),
        ("0811 234 567 890 12", "is not a possible mobile number of its country: count its digits"),
        ("021 555 12345", "is not a possible mobile number of Indonesia: it begins with 8 behind one country code, 62"),
    ],
)
def test_the_error_names_the_oddity(phone: str, oddity: str) -> None:
    """The sentence tells the fault and its place, and shows no digit and no letter of the number."""
    with pytest.raises(ValueError, match=r"^phone ") as caught:
        normalize_phone(phone)
    assert str(caught.value).removeprefix("phone ").startswith(oddity)


@pytest.mark.parametrize("phone", ["0811234567.12", "08113456.00", "0811345.0000", "+628113.45000", "0811.000.00.00"])
def test_zeros_behind_a_point_may_be_digits(phone: str) -> None:
    """A point with zeros is a decimal point only behind a whole number."""
    assert normalize_phone(phone) == "+62" + re.sub(r"\D", "", phone).removeprefix("62").removeprefix("0")


@pytest.mark.parametrize("phone", ["0813814751591234", "081381475159 quagga", "0813٤٤٤٤75159", 6281381475159])
async def test_refusal_never_shows_the_number(phone: Any) -> None:
    """A refused number belongs to a person too: neither the error nor its causes hold it."""
    with pytest.raises(ValueError, match=r"^phone ") as caught:
        normalize_phone(phone)
    async with AsyncOcaSms("user", "password") as client:
        with pytest.raises(InvalidMessageError, match=r"^phone ") as refused:
            await client.send(phone, "Acme: 482913")
    assert not refused.value.may_have_been_sent
    assert refused.value.attempts == 0
    for error in (caught.value, refused.value):
        links = [error, error.__cause__, error.__context__]
        shown = " ".join(f"{link} {link!r} {vars(link)}" for link in links if link is not None)
        assert not re.search(r"8138|٤|quagga|75159", shown)


nationals = st.from_regex(r"8[0-9]{8,11}", fullmatch=True)
margins = st.text(MARGIN, max_size=3)
signs = st.sampled_from([" ", "-", "."])


@st.composite
def groups(draw: st.DrawFn, digits: str) -> list[str]:
    """Draw a division of digits into groups of two and more."""
    parts = []
    while len(digits) >= 4 and draw(st.booleans()):
        size = draw(st.integers(2, len(digits) - 2))
        parts.append(digits[:size])
        digits = digits[size:]
    return [*parts, digits]


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """Draw an Indonesian mobile number and one of the spellings that the grammar allows."""
    national = draw(nationals)
    code = draw(st.sampled_from(["+62", "62", ""]))
    trunk = draw(st.sampled_from(["", "0"] if code else ["", "0", "00862"]))
    first, *rest = draw(groups(trunk + national))
    heads = [[first], [f"({first})"]]
    if code:
        heads = [[code + first], [code, first], [code, f"({first})"], [f"({code})", first]]
    if code == "+62":
        heads.append(["+(62)", first])
    written = ""
    for group in [*draw(st.sampled_from(heads)), *rest]:
        beside_parenthesis = written.endswith(")") or group.startswith("(")
        sign = draw(st.just("") | signs if beside_parenthesis else signs)
        written += (sign if written else "") + group
    assume(not re.fullmatch(r"\+?[0-9]+\.0+", written))  # perhaps a decimal
    return "+62" + national, draw(margins) + written + draw(margins)


def is_spelling(text: str) -> bool:
    """Tell whether the grammar allows a text, apart from its margins. The region is Indonesia."""
    has_plus = text.startswith(("+", "(+"))
    text = text.replace("+", "", 1) if has_plus else text
    numbers = re.findall(r"[0-9]+", text)
    if not numbers or not re.fullmatch(r"[0-9 .()-]+", text):
        return False
    code, *others = numbers
    is_code = code in CODES if has_plus else code == "62"
    if any(len(group) < 2 for group in others) or (len(code) < 2 and not (has_plus and is_code)):
        return False
    shape = re.sub(r"[ .-]", "s", re.sub(r"[0-9]+", "n", text))
    return bool(
        re.fullmatch(r"(n|\(n\)(s?n)?)(sn)*", shape) or (is_code and re.fullmatch(r"ns?\(n\)(s?n(sn)*)?", shape))
    )


@st.composite
def misspellings(draw: st.DrawFn) -> str:
    """Draw a spelling with a few characters more, fewer or exchanged."""
    text = draw(spellings())[1].strip(MARGIN)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from("0123456789+ -.()")) + text[place + draw(st.integers(0, 1)) :]
    return text


@unhurried
@given(st.text("0123456789+ -.()", max_size=20) | misspellings())
def test_any_other_spelling_is_refused(text: str) -> None:
    """A text that the grammar does not allow is refused. An allowed one is refused only for its number."""
    text = text.strip(" ")
    try:
        number = normalize_phone(text)
    except ValueError as error:
        about_number = str(error).startswith(("phone is not a possible", "phone has a decimal point"))
        assert about_number >= is_spelling(text)
    else:
        assert is_spelling(text)
        assert re.sub(r"\D", "", text).endswith(number[-4:])


@pytest.mark.parametrize("char", MARGIN)
def test_margins_are_dropped(char: str) -> None:
    """Spaces and characters that cannot be seen are dropped round a number, and refused within it."""
    assert normalize_phone(f"{char}0813 8147 5159{char}") == "+6281381475159"
    if char != " ":
        with pytest.raises(ValueError, match=rf"cannot be seen, U\+{ord(char):04X}, in the middle"):
            normalize_phone(f"0813{char}81475159")


@unhurried
@given(st.from_regex(r"\+628[0-9]{6,14}", fullmatch=True), st.sampled_from(["ID", "SG", "US"]))
def test_the_short_way_says_what_the_long_one_says(phone: str, region: str) -> None:
    """An Indonesian mobile number in E.164 passes unchanged, and phonenumbers agrees."""
    long_way = phone[:3] + " " + phone[3:]  # only phonenumbers reads this

    def read(written: str) -> str | None:
        with contextlib.suppress(ValueError):
            return normalize_phone(written, region=region)
        return None

    assert read(phone) == read(long_way)


@unhurried
@given(spellings())
def test_any_spelling_of_a_mobile_number(number_and_spelling: tuple[str, str]) -> None:
    """Every spelling of a mobile number of 10 to 13 digits becomes the same number."""
    number, spelling = number_and_spelling
    assert normalize_phone(spelling) == number


alike = st.text("0123456789+ -.()", max_size=30) | st.from_regex(r"\+[1-9][0-9]{3,16}", fullmatch=True)


@unhurried
@given(st.text(max_size=30) | alike, st.sampled_from(["ID", "SG", "US", "IT", "AT", "RU", "AR"]))
@example("0062 813 8147 5159", "ID")
def test_any_text_is_a_number_or_refused(phone: str, region: str) -> None:
    """Any text becomes E.164 or a ValueError that shows nothing of it. A result passes again unchanged."""
    number = refusal = None
    try:
        number = normalize_phone(phone, region=region)
    except ValueError as error:
        refusal = str(error)
    if number is None:
        assert not re.search(r"\d{3}", re.sub(r"U\+[0-9A-F]+", "", refusal or ""))
        return
    assert E164.fullmatch(number)
    assert normalize_phone(number) == normalize_phone(number, region="US") == number
    # Nothing is invented: the text holds the last digits, where no country code and no prefix reaches.
    assert re.sub(r"\D", "", phone).endswith(number[-4:])


@pytest.mark.parametrize(
    "unit", ["(", "1  ", "+", "-", "1", "0", "( ", "(1", "1 ", "1-", " )", "+62", "+1 ", "x", "8(", "٨"]
)
@pytest.mark.parametrize("end", ["", "x", "1", "+", "81381475159"])
@pytest.mark.parametrize("length", [240, 100_000])
def test_long_texts_are_refused_at_once(unit: str, end: str, length: int) -> None:
    """Long texts are refused at once: a pattern that backtracks would block the loop for ever."""
    with pytest.raises(ValueError, match=r"^phone "):
        normalize_phone((unit * length)[:length] + end)


@pytest.mark.parametrize(
    ("phone", "shown"),
    [
        ("+6281381475159", "***********159"),
        ("081381475159", "*********159"),
        ("12345678", "*****678"),
        ("1234567", "*******"),
        ("123", "***"),
        ("", ""),
    ],
)
def test_masked(phone: str, shown: str) -> None:
    """At most three digits of a number are shown, and no digit of a short one."""
    assert mask_phone(phone) == shown


@given(st.text(max_size=40))
def test_masked_shows_three_characters_at_most(phone: str) -> None:
    """All but the last three characters of any text become stars, one for each."""
    shown = mask_phone(phone)
    assert len(shown) == len(phone)
    kept = 3 if len(phone) > 7 else 0
    assert shown == "*" * (len(phone) - kept) + phone[len(phone) - kept :]


@pytest.mark.parametrize("phone", ["62811234567", "62 811-234-567", "(62) 811 234 567", "+62811234567", "0811234567"])
def test_sixty_two_and_nine_digits_is_a_number_with_its_code(phone: str) -> None:
    """Eleven digits may be a number without country code. One that begins with the code is read with it."""
    assert normalize_phone(phone) == "+62811234567"


@pytest.mark.parametrize(
    ("phone", "region", "number"),
    [
        ("391 234 5678", "IT", "+393912345678"),
        ("274 950 698", "ZA", "+27274950698"),  # possible with its first two digits as a code, too
        ("9758 5349", "BT", "+97597585349"),  # too short without them
    ],
)
def test_a_mobile_number_may_begin_like_its_countrys_code(phone: str, region: str, number: str) -> None:
    """A mobile number that begins like its country's code keeps these digits."""
    assert normalize_phone(phone, region=region) == number


def test_the_region_is_checked() -> None:
    """An unknown region is refused, even beside a number with a country code."""
    with pytest.raises(ValueError, match=r"^region must be"):
        normalize_phone("+6281381475159", region="id")


def test_a_code_of_one_digit_needs_its_plus() -> None:
    """A single digit in front is a country code only behind a plus."""
    assert normalize_phone("+1 650 253 0000", region="US") == "+16502530000"
    with pytest.raises(ValueError, match="single digit at the front"):
        normalize_phone("1 650 253 0000", region="US")


def test_a_plain_number_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Indonesian number in E.164, the usual one, does not cost the time of a parser."""
    monkeypatch.setattr("phonenumbers.parse", None)
    assert normalize_phone("+6281381475159") == "+6281381475159"
