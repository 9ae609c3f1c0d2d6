"""The guide on observability: its lines for Prometheus count, and its tables are complete."""

import asyncio
import logging
import re
from pathlib import Path

import pytest
from in_memory import PHONE, TEXT, Gateway, client_of, hang, make_messages, refuse
from prometheus_client import REGISTRY

from oca_sms_async import QuotaExhaustedError, opentelemetry
from oca_sms_async._log import EVENTS

DOCS = Path(__file__).parent.parent / "docs"
OBSERVABILITY = (DOCS / "observability.md").read_text(encoding="utf-8")
(PROMETHEUS,) = re.findall(r"^```python\n(# prometheus_metrics\.py\n.*?)^```", OBSERVABILITY, re.MULTILINE | re.DOTALL)


async def test_the_lines_for_prometheus_count() -> None:
    """The example counts each outcome, a cancelled send too, and the time of each lane."""
    for collector in {it for name, it in REGISTRY._names_to_collectors.items() if name.startswith("oca_sms")}:
        REGISTRY.unregister(collector)  # another test may have run the example
    names: dict[str, object] = {}
    exec(compile(PROMETHEUS, "docs", "exec"), names)
    options = {"observer": names["observe"]}
    await client_of(Gateway(), **options).send_many(make_messages(2))
    with pytest.raises(QuotaExhaustedError):
        await client_of(Gateway(refuse(401, 55)), **options).send(PHONE, TEXT)
    sending = asyncio.create_task(client_of(Gateway(hang), **options).send(PHONE, TEXT))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait({sending})
    for outcome, priority, count in [
        ("sent", "bulk", 2),
        ("QuotaExhaustedError", "interactive", 1),
        ("CancelledError", "interactive", 1),
    ]:
        labels = {"outcome": outcome, "priority": priority}
        assert REGISTRY.get_sample_value("oca_sms_messages_total", labels) == count
    assert REGISTRY.get_sample_value("oca_sms_send_seconds_count", {"priority": "interactive"}) == 2


def test_the_events_of_the_log_exist() -> None:
    """Each event in the table is one of the logger's, at its level."""
    rows = re.findall(r"^\| `([a-z.]+\.[a-z_]+)` \| ([A-Z]+) \|", OBSERVABILITY, re.MULTILINE)
    assert len(rows) >= 8
    assert dict(rows) == {name: logging.getLevelName(EVENTS[name][0]) for name, _ in rows}


def test_the_metrics_are_those_of_the_observer() -> None:
    """The tables name each metric and each attribute of the observer."""
    source = Path(str(opentelemetry.__file__)).read_text(encoding="utf-8")
    named = set(re.findall(r'"((?:messaging|oca_sms|error)\.[a-z_.]+)"', source))
    assert len(named) == 11
    assert {name for name in named if f"`{name}`" in OBSERVABILITY} == named
