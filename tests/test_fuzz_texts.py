"""Texts and numbers in any form: segments of parts and wholes, and numbers of every country."""

import asyncio
import random
import re
from typing import Any

import httpx
import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from oca_sms_async import AsyncOcaSms, OcaSmsError, SendReceipt, Unlimited, check_message, segments
from oca_sms_async._phone import normalize_phone

unhurried = settings(deadline=None)  # a busy machine must not fail a test
ANY = st.characters(exclude_categories=())  # halves of surrogate pairs too
units = st.sampled_from(["a", "a" * 59, "a" * 153, "{", "€" * 70, "ç", "я" * 67, "😀", "\ud83d", "\ude00", "\r\n"])
texts = st.lists(units | st.text(ANY, max_size=3), max_size=8).map("".join)
gsm_texts = st.lists(st.sampled_from(["a", "a" * 59, "a" * 153, "{", "€" * 70, "@"]), max_size=8).map("".join)
ALONE = {"GSM-7": 160, "UCS-2": 70}


@unhurried
@given(texts, texts, texts)
@example("ç", "{" * 80, "")
def test_a_part_takes_no_more_segments_than_the_whole(before: str, part: str, after: str) -> None:
    """A part of a text takes no more segments, and in the same alphabet no more units, than the whole."""
    size, whole = segments(part), segments(before + part + after)
    assert size.count <= whole.count
    if size.encoding == whole.encoding:
        assert size.units <= whole.units


@unhurried
@given(gsm_texts, gsm_texts)
@example("a" * 160, "a" * 160)
def test_two_texts_in_one_take_one_segment_more_at_the_most(left: str, right: str) -> None:
    """Two texts joined in one alphabet need at most one segment more than apart. Headers take that room."""
    for extra in ("", "ç"):
        apart = segments(extra + left), segments(extra + right)
        joined = segments(extra + left + extra + right)
        assert joined.count <= apart[0].count + apart[1].count + 1
        assert joined.units == apart[0].units + apart[1].units


@unhurried
@given(gsm_texts | texts.filter(lambda text: text.isprintable()), st.randoms(use_true_random=False))
def test_the_order_changes_neither_alphabet_nor_units(text: str, order: random.Random) -> None:
    """The same characters in another order are as long, and their segments hardly differ."""
    shuffled = segments("".join(order.sample(text, len(text))))
    size = segments(text)
    assert (shuffled.encoding, shuffled.units) == (size.encoding, size.units)
    assert abs(shuffled.count - size.count) <= 1 + size.count // 60  # a pair may leave one unit of 67 empty


@unhurried
@given(texts, st.none() | texts)
def test_any_text_gets_its_advice_or_a_complaint_about_the_brand(text: str, brand: str | None) -> None:
    """Any text gets its advice, and a blank brand is refused. The advice agrees with the segments."""
    if brand is not None and not brand.strip():
        with pytest.raises(ValueError, match=r"^brand "):
            check_message(text, brand=brand)
        return
    codes = [advice.code for advice in check_message(text, brand=brand)]
    assert len(set(codes)) == len(codes)
    assert ("not-gsm7" in codes) is (segments(text).encoding == "UCS-2")
    assert ("several-segments" in codes) is (segments(text).count > 1)
    if brand is None or brand in text:
        assert "brand-missing" not in codes


@pytest.mark.parametrize("unit", ["a", "{", "ç", "😀", "a{", "ç\ud83d"])
def test_a_text_of_a_million_characters_is_counted(unit: str) -> None:
    """A long text is counted too. Each segment but the last is full, or one unit short to keep a pair whole."""
    size = segments(unit * (1_000_000 // len(unit)))
    each = ALONE[size.encoding] - (7 if size.encoding == "GSM-7" else 3)
    assert size.units / each <= size.count <= size.units / (each - 1) + 1


# --- numbers ---------------------------------------------------------------------------------------------------------

FORMATS = [PhoneNumberFormat.E164, PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.NATIONAL]
LONE_DIGIT = re.compile(r"(?<![0-9+])[0-9](?![0-9])")  # but for a country code behind its plus
# The countries for which phonenumbers has an example of a mobile number.
EXAMPLES = {
    region: number
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    if (number := phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)) is not None
}


@pytest.mark.parametrize("region", EXAMPLES)
def test_every_countrys_spellings_are_one_number(region: str) -> None:
    """The national, the international, the bare and the E.164 spelling are the same number.

    A country that writes a single digit apart is the exception, and that spelling is refused.
    """
    number = EXAMPLES[region]
    expected = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    spellings = [phonenumbers.format_number(number, form) for form in FORMATS] + [expected[1:]]
    plain = [spelling for spelling in spellings if not LONE_DIGIT.search(spelling)]
    assert {spelling: normalize_phone(spelling, region=region) for spelling in plain} == dict.fromkeys(plain, expected)
    for spelling in {*spellings} - {*plain}:
        with pytest.raises(ValueError, match=r"^phone has a single digit"):
            normalize_phone(spelling, region=region)


@unhurried
@given(
    phone=st.one_of(
        st.sampled_from(["081381475159", "+6281381475159", "+1 (650) 253-0000"]), st.text(ANY, max_size=20)
    ),
    message=st.one_of(st.text(ANY, max_size=20), texts, st.none(), st.binary(max_size=3), st.integers()),
    expires_in=st.none()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.integers()
    | st.timedeltas()
    | st.text(max_size=2)
    | st.booleans(),
)
@example(phone="081381475159", message="text", expires_in=10**400)
def test_any_message_is_sent_or_an_error_of_ours(phone: str, message: Any, expires_in: Any) -> None:
    """Any value passed to `send` is sent or raises an error of the library. A refused one was not sent."""
    requests = list[bytes]()

    async def main() -> SendReceipt | OcaSmsError:
        async with httpx.AsyncClient(transport=httpx.MockTransport(take)) as lent:
            client = AsyncOcaSms("a@example.com", "secret", http_client=lent, limiter=Unlimited())
            try:
                return await client.send(phone, message, expires_in=expires_in)
            except OcaSmsError as error:
                return error

    def take(request: httpx.Request) -> httpx.Response:
        requests.append(request.content)
        return httpx.Response(200, json={"status": "sent", "msg_uid": "d3a925"})

    outcome = asyncio.run(main())
    if isinstance(outcome, OcaSmsError):
        assert (len(requests), outcome.attempts, outcome.may_have_been_sent) in {(0, 0, False), (1, 1, True)}
    else:
        assert len(requests) == 1
