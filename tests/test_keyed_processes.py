"""Keyed sends of several processes over one PostgreSQL: no message goes out twice, and none is forgotten."""

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from typing import Any, Final

from command import PATIENCE, account, environment, until

from oca_sms_async.sandbox import Sandbox

KILLS: Final = int(os.environ.get("OCA_SMS_TEST_KILLS", "8"))
SEED: Final = int(os.environ.get("OCA_SMS_TEST_SEED", "1"))
KEYS: Final = 200
CONCURRENCY: Final = 8  # requests on the wire of a process that is killed
KEYS_A_KILL: Final = 40

# It sends the keys of its arguments' range, and prints the outcome of each. A line on standard input starts it.
PROGRAM: Final = """
import asyncio, json, sys
from oca_sms_async import AsyncOcaSms, OcaSmsError, RetryPolicy, Unlimited
from oca_sms_async.postgres import PostgresJournal

DATABASE, KEYS, CONCURRENCY, TIMEOUT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

async def main():
    room, options = asyncio.Semaphore(CONCURRENCY), {"limiter": Unlimited(), "retry": RetryPolicy(1)}
    async with (
        PostgresJournal(DATABASE, name="acme", timeout=30) as journal,
        AsyncOcaSms.from_env(journal=journal, timeout=TIMEOUT, **options) as client,
    ):
        async def send(number):
            key, phone = f"order-{number}", f"+62812345670{number % 7:02}"
            async with room:
                try:
                    receipt = await client.send(phone, f"Acme: {number:06} is your code", key=key)
                    return ["sent", receipt.msg_uid, receipt.attempts]
                except OcaSmsError as error:
                    return ["unknown" if error.may_have_been_sent else "failed", str(error)]

        await journal.lookup("ready")
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(await asyncio.gather(*map(send, range(KEYS)))))

asyncio.run(main())
"""


async def start(sandbox: Sandbox, database: str, keys: int, *, concurrency: int, timeout: float) -> Process:
    """Start a process that is ready to send."""
    arguments = (database, str(keys), str(concurrency), str(timeout))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdin=PIPE, stdout=PIPE, env=environment(**account(sandbox))
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"ready\n"
    return process


async def send_all(process: Process) -> list[Any]:
    """Let the process send, and return the outcomes."""
    out, _ = await asyncio.wait_for(process.communicate(b"\n"), PATIENCE)
    assert process.returncode == 0
    outcomes: list[Any] = json.loads(out)
    return outcomes


async def send_until_killed(process: Process, sandbox: Sandbox, accepted: int) -> None:
    """Let the process send, and kill it once the gateway accepted so many more messages."""
    enough = len(sandbox.inbox) + accepted
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await process.stdin.drain()
    await until(lambda: len(sandbox.inbox) >= enough or process.returncode is not None)
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    assert process.returncode == -signal.SIGKILL


async def test_four_processes_send_the_same_keys(sandbox: Sandbox, database: str) -> None:
    """Each key makes one request, and all four get its receipt."""
    ready = [start(sandbox, database, KEYS, concurrency=KEYS, timeout=30) for _ in range(4)]
    outcomes = await asyncio.gather(*map(send_all, await asyncio.gather(*ready)))
    assert outcomes == [outcomes[0]] * 4
    ids = {message.text: message.msg_uid for message in sandbox.inbox}
    assert outcomes[0] == [["sent", ids[f"Acme: {number:06} is your code"], 1] for number in range(KEYS)]
    assert len(sandbox.inbox) == KEYS


async def test_killed_processes_send_nothing_twice(sandbox: Sandbox, database: str) -> None:
    """Kills at random moments leave some keys in doubt, all of them named. The next processes send the rest."""
    draw = random.Random(SEED)
    keys = KILLS * KEYS_A_KILL + 50
    for _ in range(KILLS):
        sandbox.latency = draw.choice([0.0, 0.005, 0.05])
        process = await start(sandbox, database, keys, concurrency=CONCURRENCY, timeout=0.5)
        await send_until_killed(process, sandbox, draw.randrange(1, KEYS_A_KILL))
    sandbox.latency = 0.0

    outcomes = await send_all(await start(sandbox, database, keys, concurrency=CONCURRENCY, timeout=10))
    assert max(Counter(message.text for message in sandbox.inbox).values()) == 1
    ids = {message.text: message.msg_uid for message in sandbox.inbox}
    unknown = [number for number, (kind, *_) in enumerate(outcomes) if kind == "unknown"]
    for number, (kind, told, *_) in enumerate(outcomes):
        if kind == "sent":
            assert told == ids.pop(f"Acme: {number:06} is your code")
        else:
            assert (kind, number in unknown) == ("unknown", True), told
    assert set(ids) <= {f"Acme: {number:06} is your code" for number in unknown}
    assert 0 < len(unknown) <= KILLS * CONCURRENCY

    again = await send_all(await start(sandbox, database, keys, concurrency=CONCURRENCY, timeout=10))
    assert again == outcomes


async def test_a_process_that_waits_for_a_killed_one(sandbox: Sandbox, database: str) -> None:
    """It gets doubt once the attempt of the other one can no longer be under way, and sends nothing."""
    sandbox.latency = 0.05
    first = await start(sandbox, database, 1, concurrency=1, timeout=1.0)
    second = await start(sandbox, database, 1, concurrency=1, timeout=1.0)
    await send_until_killed(first, sandbox, 1)
    ((kind, told),) = await send_all(second)
    assert kind == "unknown"
    assert "left in doubt" in told
    assert len(sandbox.inbox) == 1
