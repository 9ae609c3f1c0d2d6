"""Recipients' numbers: how they are sent (E.164), and the three digits that are shown."""

import functools
import re
from collections.abc import Collection
from typing import Final

# An Indonesian mobile number in E.164. Most numbers arrive in this form, and phonenumbers takes 25 µs to agree.
_PLAIN: Final = re.compile(r"\+628[0-9]{8,11}")


def normalize_phone(phone: str, *, region: str = "ID") -> str:
    """Return a recipient's number as E.164 with its plus. `ValueError` gives the reason and never shows the number.

    `region` (ISO 3166-1 alpha-2) is the country of a number without country code. The length must be possible for a
    mobile number of its country, and an Indonesian one begins with 8. Operators' prefixes are not checked: new ones
    appear, and real customers have them.
    """
    check_region(region)
    return normalize_in(region, phone)


def normalize_in(region: str, phone: str) -> str:
    """Return the same for a region that was checked before."""
    if not isinstance(phone, str):
        raise ValueError("phone must be a str, such as '+6281234567890'")  # noqa: TRY004 - bad input is a ValueError
    if _PLAIN.fullmatch(phone):
        return phone
    from oca_sms_async._spelling import read_phone  # noqa: PLC0415 - loaded by `_load_regions`

    return read_phone(phone, region)


def check_region(region: str) -> None:
    """Raise `ValueError` for a region that phonenumbers does not know."""
    if not (isinstance(region, str) and region in _load_regions()):
        raise ValueError("region must be an ISO 3166-1 alpha-2 country code in capitals, such as 'ID'")


@functools.cache
def _load_regions() -> Collection[str]:
    """Import the rules of all countries, and return the countries.

    They are not imported with the package, because they would make up a fifth of its import. The constructors of
    clients and queues check a region, so no message waits for the import.
    """
    from oca_sms_async._spelling import REGIONS  # noqa: PLC0415 - see above

    return REGIONS


def mask_phone(phone: str) -> str:
    """Star all but the last three digits of a number, for logs and reprs."""
    return "*" * (len(phone) - 3) + phone[-3:] if len(phone) > 7 else "*" * len(phone)
