"""The documents' example for Celery, run by a real worker: a job that is delivered again sends nothing again."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import redis_server
from command import PATIENCE, environment, until
from postgres_server import execute

from oca_sms_async import DeliveryUnknownError
from oca_sms_async.sandbox import Sandbox

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = (ROOT / "docs" / "one-key-one-sms.md").read_text(encoding="utf-8")
# It puts a job with this id into the queue, waits for its end, and prints the result or the error.
PUT: Final = """
import json, sys
from tasks import send_sms

job = send_sms.apply_async(("081234567892", "Acme: your invoice is ready"), task_id=sys.argv[1])
try:
    print(json.dumps(["result", job.get(timeout=60)]))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error), error.may_have_been_sent, error.args]))
"""


class Queue:
    """A folder with the example, and the environment of a worker with a broker of its own."""

    def __init__(self, folder: Path, sandbox: Sandbox, database: str, broker: str) -> None:
        (block,) = (it for it in PAGE.split("```python\n") if "from celery import" in it)
        (folder / "tasks.py").write_text(block.partition("\n```")[0], encoding="utf-8")
        self.folder = folder
        self.worker: Process | None = None
        places = {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": broker, "DATABASE_URL": database}
        paths = os.pathsep.join([str(ROOT), str(folder)])
        # Celery's own warnings are not ours to mend.
        self.environment = environment(**sandbox.environment(), **places, PYTHONPATH=paths, PYTHONWARNINGS="ignore")

    async def start(self, *arguments: str) -> Process:
        """Start a process of Python."""
        return await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=self.environment, cwd=self.folder, stdout=PIPE, start_new_session=True
        )

    async def put(self, name: str) -> list[object]:
        """Put a job with this id into the queue, and return its end."""
        process = await self.start("-c", PUT, name)
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        end: list[object] = json.loads(out)
        return end

    def list_workers(self) -> list[int]:
        """Return the processes that do the jobs: the children of the worker."""
        assert self.worker is not None
        children = Path(f"/proc/{self.worker.pid}/task/{self.worker.pid}/children")
        return [int(it) for it in children.read_text().split()]


@pytest.fixture
async def queue(tmp_path: Path, sandbox: Sandbox, database: str) -> AsyncIterator[Queue]:
    """A queue with a worker of one process."""
    with redis_server.serving() as broker:
        queue = Queue(tmp_path, sandbox, database, broker.url)
        options = ("--pool", "prefork", "--concurrency", "1", "--loglevel", "ERROR", "--without-mingle")
        queue.worker = await queue.start("-m", "celery", "-A", "tasks", "worker", *options, "--without-gossip")
        try:
            yield queue
        finally:
            os.killpg(queue.worker.pid, signal.SIGKILL)
            await queue.worker.communicate()


async def test_a_job_that_is_delivered_again(queue: Queue, sandbox: Sandbox, database: str) -> None:
    """After its end it gets the receipt of its first run. A worker that was killed with the message on the wire leaves
    doubt: the next one that gets the job sends nothing, and the error says so wherever it is read.
    """
    first = await queue.put("job-1")
    (message,) = sandbox.inbox
    assert first == ["result", message.msg_uid]
    assert await queue.put("job-1") == first

    sandbox.latency = 30.0
    putting = asyncio.create_task(queue.put("job-2"))
    await until(lambda: len(sandbox.inbox) == 2)
    (worker,) = queue.list_workers()
    os.kill(worker, signal.SIGKILL)
    await until(lambda: queue.list_workers() not in ([], [worker]))
    execute(database, "UPDATE oca_sms_message SET busy_until = now()")  # the attempt of the dead one is given up
    name, text, doubt, arguments = await putting
    assert (name, doubt) == ("DeliveryUnknownError", True)
    assert DeliveryUnknownError(*arguments).may_have_been_sent  # type: ignore[misc] # they are a list
    assert "left in doubt" in str(text)
    assert len(sandbox.inbox) == 2
