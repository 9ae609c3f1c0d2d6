"""The commands of the queue: make its tables, work for it, put a file into it, look at it, and settle its doubts."""

import asyncio
import contextlib
import sys
from pathlib import Path
from signal import Signals
from typing import Annotated, Final

from cyclopts import App, Parameter, validators

from oca_sms_async._limiter import DEFAULT_RATE
from oca_sms_async.cli._account import client_of_account
from oca_sms_async.cli._bulk_input import open_input
from oca_sms_async.cli._bulk_options import Options, Session, check_options
from oca_sms_async.cli._console import show
from oca_sms_async.cli._endings import CommandError, ExitStatus, while_asking
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import Layout
from oca_sms_async.cli._messages import ShowTexts
from oca_sms_async.cli._out import OutcomesFile
from oca_sms_async.cli._queue_database import Queue, QueueName, open_queue
from oca_sms_async.cli._queue_put import put_rows
from oca_sms_async.cli._queue_status import show_status
from oca_sms_async.cli._stop import Stop, run_in_loop

_LAYOUT: Final = Layout()

queue: Final = App(name="queue", help_format="markdown")  # its help stands in `_commands`


@queue.command
def setup(*, name: QueueName = "oca-sms") -> None:
    """Make the tables that are missing: Procrastinate's, the journal's with the limit's, and the queue's."""

    async def set_up(opened: Queue) -> None:
        async with opened:
            await opened.setup()

    with while_asking():
        run_in_loop(lambda _: set_up(open_queue(name)))
    show("the tables are there")


@queue.command
def work(
    *,
    name: QueueName = "oca-sms",
    concurrency: Annotated[int, Parameter(validator=validators.Number(gte=1), help="Messages under way at once.")] = 32,
    rate: Annotated[
        float,
        Parameter(
            validator=validators.Number(gt=0, lte=1e6),
            help="Requests per second of all workers together, which must give the same.",
        ),
    ] = DEFAULT_RATE,
) -> None:
    """Send what the queue holds, until SIGTERM or Ctrl-C. Any number of processes may do so.

    Then requests on the wire end, and all other messages go back to the queue. Exit status: 0 ended by SIGTERM, 130 by
    Ctrl-C, 2 no credentials, or the database cannot be used at the start.
    """
    opened = open_queue(name)
    limiter = opened.limiter(rate)
    client = client_of_account(journal=opened.journal, limiter=limiter)

    async def send(stop: Stop) -> Signals | None:
        async with opened, contextlib.aclosing(limiter), client:
            await opened.statistics()  # without a database the command ends here
            show(f"working for the queue {name}")
            with stop.gently(), stop.cut_short():
                working = asyncio.create_task(opened.work(client, concurrency=concurrency))
                stopping = asyncio.create_task(stop.requested.wait())
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if stop.requested.is_set():
                    working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working
        return stop.signal

    with while_asking():
        ended_by = run_in_loop(send)
    if ended_by == Signals.SIGINT:
        raise CommandError("interrupted: what waits is in the queue", ExitStatus.INTERRUPTED)


@queue.command
def put(
    file: Annotated[
        Path,
        Parameter(
            allow_leading_hyphen=True, help="CSV with a header, JSON lines, or a workbook; `-` is standard input."
        ),
    ],
    /,
    *,
    name: QueueName = "oca-sms",
    layout: Layout = _LAYOUT,
    skip_invalid: Annotated[bool, Parameter(negative=(), help="Go on without the rows that cannot be sent.")] = False,
    dedupe: Annotated[
        bool, Parameter(negative=(), help="Skip each row with the recipient of an earlier row, in any spelling.")
    ] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Show the plan and queue nothing.")] = False,
    brand: Annotated[str | None, Parameter(help="For the advice of --dry-run: the name that an OTP has to show.")] = (
        None
    ),
    show_texts: ShowTexts = False,
) -> None:
    """Put a file of messages into the bulk lane: columns phone, message and key, and optionally expires_at.

    First the whole file is checked, as `oca-sms bulk` does it. Each row needs a key: the same command again queues no
    row twice. Exit status: 0 all are queued or known, 1 trouble with the database, 2 bad usage or input.
    """
    options = Options(
        layout=layout, skip_invalid=skip_invalid, dedupe=dedupe, dry_run=dry_run, brand=brand, show_texts=show_texts
    )
    check_options(file, options)
    opened = None if dry_run else open_queue(name)
    with open_input(file) as stream, contextlib.closing(OutcomesFile(None, show_numbers=False)) as out:
        try:
            run_in_loop(lambda stop: put_rows(stream, opened, Session(options, sys.stdout, out, stop)))
        except InputError as error:
            raise CommandError(f"{file}: {error}", ExitStatus.USAGE) from error


@queue.command
def status(
    *,
    name: QueueName = "oca-sms",
    json: Annotated[bool, Parameter(negative=(), help="Print one JSON object.")] = False,
    once: Annotated[bool, Parameter(negative=(), help="On a terminal too, print once and end.")] = False,
) -> None:
    """Print how many messages wait in each lane, how many are under way, and the age of the oldest one.

    On a terminal the table refreshes until Ctrl-C. Elsewhere it is printed once.
    """
    with while_asking():
        run_in_loop(lambda _: show_status(open_queue(name), as_json=json, once=once))


@queue.command
def reconcile(*, name: QueueName = "oca-sms") -> None:
    """Look all messages in doubt up in the gateway's history, and note as sent those that it has.

    A message that is not found stays in doubt.
    """
    opened = open_queue(name)
    client = client_of_account(journal=opened.journal)

    async def look_up() -> str:
        async with opened, client:
            report = await opened.reconcile(client)
        return f"{report.found} found in the gateway's history, {report.doubtful} still in doubt"

    with while_asking():
        line = run_in_loop(lambda _: look_up())
    show(line)
