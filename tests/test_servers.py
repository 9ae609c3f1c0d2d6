"""The client for threads under the servers that people run: gunicorn with Django's WSGI, and Celery's prefork workers.

The programs are the examples of docs/threads.md.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from in_memory import PHONE

from oca_sms_async.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these servers fork")

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(
    r"^```python\n# (\w+\.py)\n(.*?)^```", (ROOT / "docs" / "threads.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
)

SITE = """
import os
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", LOGGING_CONFIG=None)
from django_views import send_code, sms

def pid(request):
    return JsonResponse({"pid": os.getpid()})

urlpatterns = [path("send", send_code), path("pid", pid)]
application = get_wsgi_application()
if os.environ.get("SEND_AT_IMPORT"):  # the master's loop runs before it forks
    sms.send("+6281381475159", "Acme: at import")
"""

CONFIG = """
broker_url = "filesystem://"
broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
worker_hijack_root_logger = False
worker_enable_remote_control = False
"""

# A worker's process sends before it forks, as a start-up hook may.
TASKS = """
from celery.signals import worker_init
from celery_tasks import app, sms

@worker_init.connect
def greet(**_):
    sms.send("+6281381475159", "Acme: at start")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the examples of the document."""
    assert [name for name, _ in EXAMPLES] == ["django_views.py", "celery_tasks.py"]
    for name, source in [*EXAMPLES, ("site_wsgi.py", SITE), ("celery_config.py", CONFIG), ("started_tasks.py", TASKS)]:
        (tmp_path / name).write_text(source, encoding="utf-8")
    for folder in ("queue", "control"):
        (tmp_path / folder).mkdir()
    return tmp_path


@contextmanager
def serve(project: Path, sandbox: Sandbox, *command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a server of the project, and end it by SIGTERM; it must end by itself."""
    environ = (
        os.environ | sandbox.environment("regular-v1") | {"PYTHONPATH": f"{ROOT}{os.pathsep}{project}"} | variables
    )
    log = project / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=project, env=environ, stdout=output, stderr=output, text=True
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait(60)
    assert "Traceback" not in log.read_text(), log.read_text()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str], project: Path) -> None:
    """Wait until something is true, at most a minute and as long as the process runs."""
    until = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, (project / "log").read_text()
        assert time.monotonic() < until, (project / "log").read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_django_under_gunicorn(preload: bool, project: Path, sandbox_in_thread: Sandbox) -> None:
    """Two workers with four threads each send what is asked of them, also after the master has sent before the fork."""
    command = ["gunicorn", "--bind", "unix:socket", "--workers", "2", "--threads", "4", "site_wsgi:application"]
    variables = {"SEND_AT_IMPORT": "1"} if preload else {}
    transport = httpx.HTTPTransport(uds=str(project / "socket"))
    with (
        serve(project, sandbox_in_thread, *command, *(["--preload"] if preload else []), **variables) as server,
        httpx.Client(transport=transport, base_url="http://site", timeout=60, trust_env=False) as browser,
        ThreadPoolExecutor(8) as threads,
    ):
        wait_for(lambda: "Booting worker" in (project / "log").read_text(), server, project)
        answers = list(threads.map(lambda _: browser.get("/send", params={"phone": PHONE}), range(24)))
        pids = {browser.get("/pid").json()["pid"] for _ in range(8)}
        refused = browser.get("/send", params={"phone": "0812"})
    assert [answer.status_code for answer in answers] == [200] * 24
    assert server.pid not in pids
    assert refused.json() == {"error": "InvalidMessageError", "maybe": False}
    uids = {message.msg_uid for message in sandbox_in_thread.inbox}
    assert {answer.json()["id"] for answer in answers} <= uids
    assert len(uids) == 24 + preload


def test_tasks_under_celerys_prefork(project: Path, sandbox_in_thread: Sandbox) -> None:
    """Two worker processes send, although their parent has sent before it forked them."""
    putting = "from celery_tasks import send_code\nfor n in range(6): send_code.delay('+6281381475159', f'Acme: {n}')\n"
    options = ["--pool", "prefork", "--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = ["celery", "--app", "started_tasks", "worker", *options]
    with serve(project, sandbox_in_thread, *command, CELERY_CONFIG_MODULE="celery_config") as worker:
        environ = os.environ | sandbox_in_thread.environment("regular-v1") | {"CELERY_CONFIG_MODULE": "celery_config"}
        environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{project}"
        subprocess.run([sys.executable, "-c", putting], cwd=project, env=environ, check=True, timeout=60)
        wait_for(lambda: len(sandbox_in_thread.inbox) == 7, worker, project)
    texts = sorted(message.text for message in sandbox_in_thread.inbox)
    assert texts == [*(f"Acme: {number}" for number in range(6)), "Acme: at start"]
