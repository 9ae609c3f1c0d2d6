"""The counts of a queue: a table that refreshes on a terminal, plain lines elsewhere, or JSON."""

import asyncio
import json
import sys
from typing import Final, NoReturn

import attrs
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from oca_sms_async.cli._bulk_plan import format_duration
from oca_sms_async.cli._console import on_terminal, show, show_pairs
from oca_sms_async.cli._queue_database import Queue

_REFRESH: Final = 1.0  # seconds


async def show_status(queue: Queue, *, as_json: bool, once: bool) -> None:
    """Show the counts once, or on a terminal until a signal comes."""
    async with queue:
        if as_json:
            show(json.dumps(attrs.asdict(await queue.statistics())))
        elif once or not on_terminal(sys.stdout):
            show_pairs(await _read(queue))
        else:
            await _refresh(queue)


async def _refresh(queue: Queue) -> NoReturn:
    with Live(_make_table(await _read(queue)), console=Console(), auto_refresh=False) as live:
        while True:
            live.update(_make_table(await _read(queue)), refresh=True)
            await asyncio.sleep(_REFRESH)


async def _read(queue: Queue) -> list[tuple[str, object]]:
    counted = await queue.statistics()
    age = None if counted.oldest_age is None else format_duration(counted.oldest_age)
    return [
        ("waiting, interactive", counted.waiting_interactive),
        ("waiting, bulk", counted.waiting_bulk),
        ("working", counted.working),
        ("oldest", age),
    ]


def _make_table(pairs: list[tuple[str, object]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0))
    for name, value in pairs:
        table.add_row(name, "-" if value is None else str(value))
    return table
