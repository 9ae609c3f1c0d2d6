"""Recipients' numbers: every usual spelling is sent as one number, and any other text is refused."""

import contextlib
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oca_sms_async import AsyncOcaSms, InvalidMessageError
from oca_sms_async._phone import check_region, mask_phone, normalize_phone

E164 = re.compile(r"\+[1-9][0-9]{6,14}")
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
        "+62 (0) 813-8147-5159",
        "+62 0813 8147 5159",
        "62 0813 8147 5159",
        "(0813) 8147-5159",
        "0813--8147 - 5159",
        "0 8 1 3 8 1 4 7 5 1 5 9",
        "  081381475159  ",
        ".081381475159.",
        "-081381475159-",
        "00862 813 8147 5159",  # dialled abroad from Indonesia
    ],
)
def test_spellings(phone: str) -> None:
    """Every usual spelling becomes the same number, with its plus."""
    assert normalize_phone(phone, "ID") == "+6281381475159"


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
    assert normalize_phone(phone, "ID") == "+62" + re.sub(r"\D", "", phone)[1:]


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
def test_strange_characters_are_refused(phone: str) -> None:
    """A letter, an extension, another script's digit or a misplaced plus would reach a stranger, and is refused."""
    with pytest.raises(ValueError, match=r"^phone "):
        normalize_phone(phone, "ID")


@pytest.mark.parametrize(
    "phone",
    [
        "1",
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
    ],
)
def test_impossible_numbers_are_refused(phone: str) -> None:
    """A number that is too short or too long for its country is refused, and one that keeps a dialling zero."""
    with pytest.raises(ValueError, match=r"^phone is not a possible"):
        normalize_phone(phone, "ID")


@pytest.mark.parametrize("phone", [None, 6281381475159, 81381475159.0, b"+6281381475159", ["+6281381475159"], True])
def test_number_must_be_a_str(phone: Any) -> None:
    """A number must be a str. An int above all is refused: it has lost its zero and its plus."""
    with pytest.raises(ValueError, match=r"^phone must be a str"):
        normalize_phone(phone, "ID")


@pytest.mark.parametrize(
    ("phone", "region", "number"),
    [
        ("+65 9123 4567", "ID", "+6591234567"),
        ("+1 (650) 253-0000", "ID", "+16502530000"),
        ("+44 7911 123456", "ID", "+447911123456"),
        ("+44 (0)7911 123456", "ID", "+447911123456"),
        ("+39 312 345 6789", "ID", "+393123456789"),
        ("+39 06 1234 5678", "ID", "+390612345678"),  # Italy dials that zero
        ("+7 912 345 67 89", "ID", "+79123456789"),
        ("00865 9123 4567", "ID", "+6591234567"),
        ("9123 4567", "SG", "+6591234567"),
        ("(650) 253-0000", "US", "+16502530000"),
        ("0412 345 678", "AU", "+61412345678"),
        ("8 912 345 67 89", "RU", "+79123456789"),
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
            normalize_phone(phone, region)
    else:
        assert normalize_phone(phone, region) == number


@pytest.mark.parametrize("region", ["ID", "SG", "US", "GB"])
def test_known_regions(region: str) -> None:
    """A country code of two capitals is a region."""
    check_region(region)


@pytest.mark.parametrize("region", ["", "id", "Id", "IDN", "62", "+62", "001", "XX", "ZZ", " ID", None, 62])
def test_unknown_regions(region: Any) -> None:
    """Any other value is refused, and the parameter is named."""
    with pytest.raises(ValueError, match=r"^region must be"):
        check_region(region)


@pytest.mark.parametrize("phone", ["0813814751591234", "081381475159 quagga", "0813٤٤٤٤75159", 6281381475159])
async def test_refusal_never_shows_the_number(phone: Any) -> None:
    """A refused number belongs to a person too: neither the error nor its causes hold it."""
    with pytest.raises(ValueError, match=r"^phone ") as caught:
        normalize_phone(phone, "ID")
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
gaps = st.sampled_from(["", "", "", " ", "-", ".", " - ", ") ", " (", "  "])


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """Draw an Indonesian mobile number and one of its spellings."""
    national = draw(nationals)
    prefix = draw(st.sampled_from(["+62", "+62", "+620", "62", "620", "0", "", "00862"]))
    plus, digits = prefix[: prefix.startswith("+")], prefix.removeprefix("+") + national
    written = "".join(draw(gaps) + digit for digit in digits)
    return "+62" + national, draw(st.sampled_from(["", " ", "(", " ("])) + plus + written + draw(gaps)


@unhurried
@given(st.from_regex(r"\+628[0-9]{6,14}", fullmatch=True), st.sampled_from(["ID", "SG", "US"]))
def test_the_short_way_says_what_the_long_one_says(phone: str, region: str) -> None:
    """An Indonesian mobile number in E.164 passes unchanged, and phonenumbers agrees."""
    long_way = phone[:3] + " " + phone[3:]  # only phonenumbers reads this

    def read(written: str) -> str | None:
        with contextlib.suppress(ValueError):
            return normalize_phone(written, region)
        return None

    assert read(phone) == read(long_way)


@unhurried
@given(spellings())
def test_any_spelling_of_a_mobile_number(number_and_spelling: tuple[str, str]) -> None:
    """Every spelling of a mobile number of 10 to 13 digits becomes the same number."""
    number, spelling = number_and_spelling
    assert normalize_phone(spelling, "ID") == number


alike = st.text("0123456789+ -.()", max_size=30) | st.from_regex(r"\+[1-9][0-9]{3,16}", fullmatch=True)


@unhurried
@given(st.text(max_size=30) | alike, st.sampled_from(["ID", "SG", "US", "IT", "AT", "RU", "AR"]))
@example("0062 813 8147 5159", "ID")
def test_any_text_is_a_number_or_refused(phone: str, region: str) -> None:
    """Any text becomes E.164 or a ValueError that shows nothing of it. A result passes again unchanged."""
    number = refusal = None
    try:
        number = normalize_phone(phone, region)
    except ValueError as error:
        refusal = str(error)
    if number is None:
        assert not re.search(r"\d{3}", refusal or "")
        return
    assert E164.fullmatch(number)
    assert normalize_phone(number, "ID") == normalize_phone(number, "US") == number
    # Nothing is invented: the text holds the last digits, where no country code and no prefix reaches.
    assert re.sub(r"\D", "", phone).endswith(number[-4:])


@pytest.mark.parametrize(
    "unit", ["(", " ", "+", "-", "1", "0", "( ", "(1", "1 ", "1-", " )", "+62", "+1 ", "x", "8(", "٨"]
)
@pytest.mark.parametrize("end", ["", "x", "1", "+", "81381475159"])
@pytest.mark.parametrize("length", [240, 100_000])
def test_long_texts_are_refused_at_once(unit: str, end: str, length: int) -> None:
    """Long texts are refused at once: a pattern that backtracks would block the loop for ever."""
    with pytest.raises(ValueError, match=r"^phone "):
        normalize_phone((unit * length)[:length] + end, "ID")


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
    assert normalize_phone(phone, "ID") == "+62811234567"


def test_a_mobile_number_may_begin_like_its_countrys_code() -> None:
    """Italian mobile numbers may begin with 39, Italy's code, and keep it."""
    assert normalize_phone("391 234 5678", "IT") == "+393912345678"
