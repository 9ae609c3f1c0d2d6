"""The Django site, served by a real server in a process of its own."""

import asyncio
import secrets

import httpx
import pytest
from oca_sms_async.sandbox import Sandbox

from processes import Start

PHONE = "081234567890"
TOKEN = secrets.token_hex(16)


@pytest.fixture
def site(start: Start, database: str) -> str:
    """The address of the site."""
    return start(
        "django_site.asgi:application",
        SMS_DATABASE=database,
        WAREHOUSE_TOKEN=TOKEN,
        DJANGO_SECRET_KEY=secrets.token_hex(32),
        DJANGO_SETTINGS_MODULE="django_site.settings",
    )


async def test_the_warehouse_reports(site: str, oca_sms_sandbox: Sandbox) -> None:
    """Reports at once and repeated ones are one SMS, doubt is told, and callers without the token are refused."""
    async with httpx.AsyncClient(base_url=site, trust_env=False) as http:

        async def report(order: int, phone: str = PHONE, token: str = TOKEN) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"}
            return await http.post(f"/orders/{order}/shipped", data={"phone": phone}, headers=headers)

        first = await asyncio.gather(*(report(17) for _ in range(5)), report(18))
        assert {answer.status_code for answer in first} == {200}
        assert len({answer.json()["id"] for answer in first}) == 2
        assert (await report(17)).json() == first[0].json()

        oca_sms_sandbox.when(PHONE).respond("accept-then-drop", times=1)
        assert [(await report(19)).json() for _ in range(2)] == [{"status": "unknown"}] * 2
        assert len(oca_sms_sandbox.inbox) == 3

        assert (await report(20, phone="0812")).status_code == 422
        assert (await report(20, token="x")).status_code == 403
        assert (await http.get("/orders/20/shipped")).status_code == 405
        oca_sms_sandbox.quota = 0
        assert (await report(21)).json() == {"status": "not-sent"}
    assert len(oca_sms_sandbox.inbox) == 3
