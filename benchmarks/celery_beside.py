"""Celery with Redis and an empty task, for the benchmark of the queue: jobs put and ended a second.

Each worker is one process (`--pool=solo`) with `acks_late`, so that a killed worker's job is delivered again, as the
queue's messages are. Redis keeps everything in memory alone.
"""

import sys
import time
from pathlib import Path
from typing import Any, Final

import celery  # type: ignore[import-untyped] # it has no types
import redis
from workload import running

_EDGE: Final = 0.1  # of the jobs, at both ends, that are not measured
_WORKER: Final = """
import sys
sys.path.insert(0, sys.argv[2])
from celery_beside import make_app
options = ["--pool=solo", "--loglevel=CRITICAL", "--without-gossip", "--without-mingle", "--without-heartbeat"]
make_app(sys.argv[1]).worker_main(["worker", *options])
"""


def make_app(url: str) -> Any:
    """Return an app of Celery's with one task that does nothing."""
    app = celery.Celery("beside", broker=url)
    app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)
    app.task(name="empty")(_do_nothing)
    return app


def _do_nothing() -> None:
    """Do nothing."""


def put(url: str, count: int) -> float:
    """Return how many jobs a second are put, into an empty queue."""
    with redis.Redis.from_url(url) as queue:
        queue.flushall()
    task = make_app(url).tasks["empty"]
    began = time.perf_counter()
    for _ in range(count):
        task.delay()
    return count / (time.perf_counter() - began)


def work(url: str, count: int, workers: int) -> float:
    """Return how many of so many jobs a second the workers end, without the first and the last ones."""
    put(url, count)
    with (
        redis.Redis.from_url(url) as queue,
        running([sys.executable, "-c", _WORKER, url, str(Path(__file__).parent)], workers),
    ):

        def passed(left: float) -> tuple[float, int]:
            while (length := int(str(queue.llen("celery")))) > left * count:
                time.sleep(0.01)
            return time.perf_counter(), length

        (began, many), (ended, few) = passed(1 - _EDGE), passed(_EDGE)
    return (many - few) / (ended - began)
