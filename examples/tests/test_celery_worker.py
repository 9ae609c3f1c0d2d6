"""The Celery worker, with a real broker, a real worker, and kills."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from oca_sms_async import DeliveryUnknownError, InvalidMessageError
from oca_sms_async.sandbox import Sandbox
from redis_server import serving

from celery_worker.tasks import app, enqueue
from processes import PATIENCE, children, run_worker

PHONE = "081234567890"
Worker = subprocess.Popen[bytes]


def soon() -> datetime:
    """Return a time by which a message is to be sent."""
    return datetime.now(UTC) + timedelta(seconds=PATIENCE)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """A Redis for the jobs and their results. Celery keeps its connections, so all tests share it."""
    with serving() as redis:
        app.conf.update(broker_url=redis.url, result_backend=redis.url)
        yield redis.url
        app.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file in which a worker writes all that Celery can tell."""
    return tmp_path / "worker.log"


@pytest.fixture
def worker(broker: str, database: str, log: Path, oca_sms_sandbox: Sandbox) -> Iterator[Worker]:
    """A worker with one process, on the sandbox and a PostgreSQL."""
    variables = {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": broker, "SMS_DATABASE": database}
    with run_worker("celery_worker.tasks", log, **variables, **oca_sms_sandbox.environment()) as running:
        yield running


@pytest.mark.usefixtures("worker")
def test_jobs(oca_sms_sandbox: Sandbox, log: Path) -> None:
    """A job that comes twice is one SMS, trouble before the send is tried again, and doubt is not."""
    oca_sms_sandbox.when(PHONE).respond("rate-limited", times=1)
    jobs = [enqueue("order-1", PHONE, "Acme: pesanan Anda dikirim", soon()) for _ in range(2)]
    assert len({job.get(timeout=PATIENCE) for job in jobs}) == 1

    oca_sms_sandbox.when("081234567891").respond("accept-then-drop", times=1)
    with pytest.raises(DeliveryUnknownError) as unknown:
        enqueue("order-2", "081234567891", "Acme: pesanan Anda dikirim", soon()).get(timeout=PATIENCE)
    assert unknown.value.may_have_been_sent
    with pytest.raises(InvalidMessageError):
        enqueue("order-3", "0812", "Acme: pesanan Anda dikirim", soon()).get(timeout=PATIENCE)
    assert len(oca_sms_sandbox.inbox) == 2
    assert "order-1" in log.read_text(encoding="utf-8")
    assert not re.search(f"{PHONE[1:]}|pesanan", log.read_text(encoding="utf-8"))


def test_a_killed_process(worker: Worker, oca_sms_sandbox: Sandbox) -> None:
    """Its job is delivered again, and sends nothing: the journal knows that the SMS may have left."""
    oca_sms_sandbox.when(PHONE).respond("late-reply", times=1)
    job = enqueue("order-1", PHONE, "Acme: pesanan Anda dikirim", soon())
    anyio.run(lambda: oca_sms_sandbox.inbox.wait_for(PHONE, timeout=PATIENCE))
    (child,) = children(worker.pid)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(DeliveryUnknownError, match="earlier send of this key"):
        job.get(timeout=PATIENCE)
    assert len(oca_sms_sandbox.inbox) == 1
