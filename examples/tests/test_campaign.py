"""The campaign: each customer gets one SMS, however often the command is given."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from oca_sms_async.sandbox import Sandbox

from campaign.campaign import run_campaign

LATER = datetime.now(UTC) + timedelta(hours=1)


def list_customers(file: Path, *, citra: str) -> None:
    """Write the list, with a number for Citra."""
    rows = ["1,Ani,0812-3456-7890", "2,Budi,081234567891", f"3,Citra,{citra}", "4,Dewi,081234567893"]
    rows += ["2,Budi,081234567891", "4,Dewi,081234567899"]
    file.write_text("\n".join(["customer,name,phone", *rows]), encoding="utf-8")


@pytest.fixture
def customers(tmp_path: Path, oca_sms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of four customers. One has an impossible number, one is in it twice, and one with two numbers."""
    for name, value in oca_sms_sandbox.environment().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "customers.csv"
    list_customers(file, citra="0812")
    return file


async def test_the_campaign_goes_on(
    customers: Path, oca_sms_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run finds out about a lost answer, tries a mended number, and sends nothing twice."""
    oca_sms_sandbox.when("081234567891").respond("accept-then-drop", times=1)
    first = await run_campaign("november", customers, LATER)
    assert first == {"sent": 2, "unknown": 1, "failed": 2, "not attempted": 1}
    told = sorted(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert told == [["failed", "november:3"], ["failed", "november:4"], ["unknown", "november:2"]]

    list_customers(customers, citra="081234567892")
    second = await run_campaign("november", customers, LATER)
    assert second == {"sent": 1, "sent before": 3, "failed": 1, "not attempted": 1}
    numbers = [message.phone for message in oca_sms_sandbox.inbox]
    assert sorted(numbers) == [f"+628123456789{digit}" for digit in range(4)]


async def test_another_campaign_sends_again(customers: Path, oca_sms_sandbox: Sandbox) -> None:
    """Its keys and its journal are its own."""
    await run_campaign("november", customers, LATER)
    await run_campaign("december", customers, LATER)
    assert len(oca_sms_sandbox.inbox) == 6


async def test_nobody_is_woken(customers: Path, oca_sms_sandbox: Sandbox) -> None:
    """After the evening nothing is sent, and the next day's run begins where this one was."""
    assert (await run_campaign("november", customers, datetime.now(UTC)))["failed"] == 5
    assert len(oca_sms_sandbox.inbox) == 0


async def test_a_full_quota_stops_the_run(
    customers: Path, oca_sms_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is printed, and the same command goes on once the account is mended."""
    oca_sms_sandbox.quota = 0
    assert (await run_campaign("november", customers, LATER))["sent"] == 0
    assert "stopped, mend this and start again" in capsys.readouterr().out
    oca_sms_sandbox.quota = None
    assert (await run_campaign("november", customers, LATER))["sent"] == 3
