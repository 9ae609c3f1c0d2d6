"""Parts that the tests of journals share: a source that remembers, a process of its own, and the kinds of outcomes."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from oca_sms_async import BulkReport, Outcome, Sms

PATIENCE: Final = 60  # seconds, after which something hangs


def kinds(report: BulkReport) -> list[type[Outcome]]:
    """Return the kind of each outcome."""
    return [type(outcome) for outcome in report.outcomes]


class Source(Iterator[Sms]):
    """An iterator that notes each message that is pulled from it."""

    def __init__(self, messages: Iterable[Sms]) -> None:
        self.pulled: list[Sms] = []
        self._messages = iter(messages)

    def __next__(self) -> Sms:
        self.pulled.append(next(self._messages))
        return self.pulled[-1]


@contextlib.asynccontextmanager
async def child(script: str, *arguments: str, **environment: str) -> AsyncIterator[Process]:
    """Run a script in a process of its own, which ends with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *arguments, stdin=PIPE, stdout=PIPE, env=os.environ | environment
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate(b"")
