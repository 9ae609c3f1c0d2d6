"""Recipients' numbers: how they are read, how they are sent (E.164), and the three digits that are shown."""

import contextlib
import re
from typing import Final

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType, ValidationResult

# ASCII only, and a plus only in front. phonenumbers alone reads letters as digits: «0812 ABCD EFGH» is a real number.
# It also drops an extension in silence. Both ways the message reaches a stranger.
_WRITTEN: Final = re.compile(r"[ (]*+\+?[0-9 .()\-]+")
# An Indonesian mobile number in E.164. Most numbers arrive in this form, and phonenumbers takes 25 µs to agree.
_PLAIN: Final = re.compile(r"\+628[0-9]{8,11}")
_MOBILE: Final = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)


def normalize_phone(phone: str, region: str) -> str:
    """Return a recipient's number as E.164 with its plus. `ValueError` gives the reason and never shows the number.

    `region` (ISO 3166-1 alpha-2) is the country of a number without country code. The length must be possible for a
    mobile number of its country. Prefixes are not checked: new ones appear, and real customers have them.
    """
    if not isinstance(phone, str):
        raise ValueError("phone must be a str, such as '+6281234567890'")  # noqa: TRY004 - bad input is a ValueError
    if _PLAIN.fullmatch(phone):
        return phone
    if not _WRITTEN.fullmatch(phone):
        raise ValueError("phone may hold digits, a leading '+', spaces and '-', '.', '(', ')', nothing else")
    number = _parse(phone, region)
    if number is None:
        raise ValueError("phone is not a possible number: give the country code and the whole number")
    if str(number.national_number).startswith(str(number.country_code)) and "+" not in phone:
        # «62 811 234 567» begins with the country code, and yet is short enough for a number without it. It is read
        # with the code, unless it is a mobile number without it.
        with_code = _parse("+" + phone.lstrip(" ("), None)
        if with_code is not None and _is_possible(with_code) and phonenumbers.number_type(number) not in _MOBILE:
            number = with_code
    if not _is_possible(number):
        raise ValueError("phone is not a possible mobile number of its country: count its digits")
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def check_region(region: str) -> None:
    """Raise `ValueError` for a region that phonenumbers does not know."""
    if not (isinstance(region, str) and region in phonenumbers.SUPPORTED_REGIONS):
        raise ValueError("region must be an ISO 3166-1 alpha-2 country code in capitals, such as 'ID'")


def mask_phone(phone: str) -> str:
    """Star all but the last three digits of a number, for logs and reprs."""
    return "*" * (len(phone) - 3) + phone[-3:] if len(phone) > 7 else "*" * len(phone)


def _parse(phone: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    with contextlib.suppress(phonenumbers.NumberParseException):
        return phonenumbers.parse(phone, region)
    return None


def _is_possible(number: phonenumbers.PhoneNumber) -> bool:
    reason = phonenumbers.is_possible_number_for_type_with_reason(number, PhoneNumberType.MOBILE)
    return reason == ValidationResult.IS_POSSIBLE and not _keeps_trunk_zero(number)


def _keeps_trunk_zero(number: phonenumbers.PhoneNumber) -> bool:
    """Tell whether a dialling zero was read as part of the number, as in «0062 812 …». Indonesia does not dial 00."""
    region = phonenumbers.region_code_for_country_code(number.country_code or 0)
    country = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    return bool(number.italian_leading_zero) and country is not None and country.national_prefix == "0"
