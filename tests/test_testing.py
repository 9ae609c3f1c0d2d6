"""The pytest plugin: it serves every kind of test, leaves nothing behind, and costs nothing when unused."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SENDING = """
    import asyncio
    import pytest
    from oca_sms_async import QuotaExhaustedError

    {mark}
    async def test_sending(oca_sms_sandbox, oca_sms_client):
        receipt = await oca_sms_client.send("081381475159", "Acme: 482913 is your code")
        [message] = oca_sms_sandbox.inbox
        assert (message.phone, message.text) == ("+6281381475159", "Acme: 482913 is your code")
        assert message.msg_uid == receipt.msg_uid
        oca_sms_sandbox.quota = 0
        with pytest.raises(QuotaExhaustedError):
            await oca_sms_client.send("081381475159", "one more")

    {mark}
    async def test_a_sandbox_of_its_own(oca_sms_sandbox, oca_sms_client):
        assert oca_sms_sandbox.quota is None
        assert len(oca_sms_sandbox.inbox) == 0
        await asyncio.gather(*(oca_sms_client.send("081381475159", f"{{number}}") for number in range(20)))
        assert len(oca_sms_sandbox.inbox) == 20
"""
# Loads the plugin by its entry point, and no other: some of them import httpx.
ALONE = ["--disable-plugin-autoload", "-p", "oca_sms_async"]
# Objects that were not closed warn when they are collected. In the last test that is an error.
COLLECTING = """
    import gc
    import threading

    def test_nothing_is_left():
        gc.collect()
        assert threading.enumerate() == [threading.main_thread()]
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Another project, in an environment where this package is installed with its entry points."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    pytester.makeini("[pytest]")  # or the settings of a project around it would be taken, as those of this one
    installed = pytester.mkdir("oca_sms_async-0.dist-info")
    lines = [line for group, points in groups.items() for line in (f"[{group}]", *map(" = ".join, points.items()))]
    (installed / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: oca_sms_async\nVersion: 0\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run the project's tests with each warning as an error."""
    # Some versions of pytest-asyncio want a default that this project leaves to them.
    unset = "ignore:The configuration option"
    return project.runpytest_subprocess("-W", "error", "-W", unset, *options, timeout=60)


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        pytest.param("@pytest.mark.asyncio", ["-o", "asyncio_mode=strict"], id="pytest-asyncio, strict"),
        pytest.param("", ["-o", "asyncio_mode=auto"], id="pytest-asyncio, auto"),
        pytest.param(
            '@pytest.mark.asyncio(loop_scope="module")', ["-o", "asyncio_mode=strict"], id="pytest-asyncio, one loop"
        ),
        pytest.param(
            '@pytest.mark.anyio\n    @pytest.mark.parametrize("anyio_backend", ["asyncio"])',
            ["-p", "no:asyncio"],
            id="anyio",
        ),
    ],
)
def test_async_tests_send_to_a_sandbox_each(project: pytest.Pytester, mark: str, options: list[str]) -> None:
    """Under every plugin for async tests, each test has a sandbox with working knobs. It leaves nothing."""
    project.makepyfile(test_1=SENDING.format(mark=mark), test_2=COLLECTING)
    result = run(project, *options)
    result.assert_outcomes(passed=3)
    assert result.ret == 0


def test_plain_tests_send_from_loops_of_their_own(project: pytest.Pytester) -> None:
    """A plain test may run one loop after another with the same client. It leaves nothing."""
    project.makepyfile(
        test_1="""
        import asyncio
        import pytest
        from oca_sms_async import QuotaExhaustedError

        def test_sending(oca_sms_sandbox, oca_sms_client):
            asyncio.run(oca_sms_client.send("081381475159", "one"))
            asyncio.run(oca_sms_client.send("081381475159", "two"))
            assert [message.text for message in oca_sms_sandbox.inbox] == ["one", "two"]
            oca_sms_sandbox.quota = 0
            with pytest.raises(QuotaExhaustedError):
                asyncio.run(oca_sms_client.send("081381475159", "three"))

        def test_a_sandbox_of_its_own(oca_sms_sandbox):
            assert oca_sms_sandbox.quota is None
            assert len(oca_sms_sandbox.inbox) == 0
        """,
        test_2=COLLECTING,
    )
    result = run(project, "-p", "no:asyncio", "-p", "no:anyio")
    result.assert_outcomes(passed=3)
    assert result.ret == 0


def test_a_failing_test_leaves_nothing(project: pytest.Pytester) -> None:
    """A test may fail with a request under way. Address and client are closed then, and no thread is left."""
    project.makepyfile(
        test_1="""
        import asyncio
        import socket
        import httpx
        import pytest

        left = []

        async def fail(sandbox, client):
            sandbox.latency = 3600
            sending = asyncio.create_task(client.send("081381475159", "one"))
            await sandbox.inbox.wait_for("081381475159")
            raise KeyError("mine")

        def test_failing(oca_sms_sandbox, oca_sms_client):
            left.extend([httpx.URL(oca_sms_sandbox.base_url), oca_sms_client])
            asyncio.run(fail(oca_sms_sandbox, oca_sms_client))

        def test_after_it():
            url, client = left
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((url.host, url.port))
            with pytest.raises(RuntimeError, match="this client is closed"):
                asyncio.run(client.send("081381475159", "two"))
        """,
        test_2=COLLECTING,
    )
    result = run(project)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["*KeyError: 'mine'"])


def test_the_client_waits_for_nothing(project: pytest.Pytester) -> None:
    """In a loop with a stopped clock, sends that may take no time repeat and follow each other."""
    project.makepyfile("""
        import asyncio

        def test_not_waiting(oca_sms_sandbox, oca_sms_client):
            async def send():
                loop = asyncio.get_running_loop()
                now = loop.time()
                loop.time = lambda: now
                oca_sms_sandbox.failing_attempts = 3
                repeated = await oca_sms_client.send("081381475159", "one", expires_in=0.0001)
                assert repeated.attempts == 4
                await oca_sms_client.send("081381475159", "two", expires_in=0.0001)
            asyncio.run(send())
    """)
    run(project).assert_outcomes(passed=1)


def test_a_proxy_is_not_asked(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment, which could not reach the loopback, does not stand in the way."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    project.makepyfile(SENDING.format(mark="@pytest.mark.asyncio"))
    run(project).assert_outcomes(passed=2)


def test_a_missing_extra_is_named(project: pytest.Pytester) -> None:
    """Without the sandbox's extra a test that wants one fails with the command that helps."""
    project.makeconftest("import sys; sys.modules['uvicorn'] = None")
    project.makepyfile("def test_wanting_one(oca_sms_client): ...")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['The sandbox needs its extra: pip install "oca-sms-async[[]sandbox]"'])


def test_a_run_that_uses_no_fixture_imports_nothing_of_the_package(project: pytest.Pytester) -> None:
    """The plugin is loaded, and neither the package, nor httpx, nor a server is."""
    project.makepyfile("""
        import sys

        def test_modules():
            assert "oca_sms_async_pytest" in sys.modules
            assert {"oca_sms_async", "httpx", "anyio", "starlette", "uvicorn"} & set(sys.modules) == set()
    """)
    run(project, *ALONE).assert_outcomes(passed=1)


def test_collecting_imports_nothing_of_the_package(project: pytest.Pytester) -> None:
    """`pytest --co` of a file that names the fixtures imports neither the package nor httpx."""
    project.makeconftest("""
        import sys

        def pytest_sessionfinish():
            print("imported:", {"oca_sms_async", "httpx"} & set(sys.modules))
    """)
    project.makepyfile("def test_sending(oca_sms_sandbox, oca_sms_client): ...")
    result = run(project, "--co", *ALONE)
    result.stdout.fnmatch_lines(["*test_sending*", "*imported: set()*"])


@pytest.mark.parametrize("options", [[], ["-p", "no:oca_sms_async"]], ids=["twice", "by its public name alone"])
def test_the_public_module_is_a_plugin_too(project: pytest.Pytester, options: list[str]) -> None:
    """`-p oca_sms_async.testing` has the fixtures, with the plugin that pytest found by itself and without it."""
    project.makepyfile(SENDING.format(mark="@pytest.mark.asyncio"))
    run(project, "-p", "oca_sms_async.testing", *options).assert_outcomes(passed=2)


def test_the_fixtures_are_listed(project: pytest.Pytester) -> None:
    """`pytest --fixtures` shows the two fixtures and their purpose, but not the thread behind them."""
    result = run(project, "--fixtures")
    result.stdout.fnmatch_lines(["oca_sms_sandbox -- *", "*OCA's SMS gateway*", "oca_sms_client -- *", "*AsyncOcaSms*"])
    result.stdout.no_fnmatch_line("*_oca_sms_portal*")


def test_the_plugin_can_be_turned_off(project: pytest.Pytester) -> None:
    """`-p no:oca_sms_async` leaves the plugin out, and the package unimported."""
    project.makepyfile("import sys\ndef test_modules(): assert 'oca_sms_async' not in sys.modules")
    run(project, "-p", "no:oca_sms_async").assert_outcomes(passed=1)


def test_an_installed_wheel_is_all_it_takes(tmp_path: Path) -> None:
    """A fresh environment has the wheel, its extra and pytest. A test that names the fixtures passes there."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    # Isolated, or PYTHONPATH would lead back here.
    python = [str(tmp_path / ("Scripts" if sys.platform == "win32" else "bin") / "python"), "-I", "-m"]
    package = f"oca-sms-async[sandbox] @ {ROOT.as_uri()}"
    install = [*python, "pip", "install", "--quiet", "--retries=0", package, "pytest"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        reason = f"pip cannot install here: {installed.stderr.strip()[-300:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    test = tmp_path / "test_sample.py"
    test.write_text(
        "import asyncio\n"
        "def test_sending(oca_sms_sandbox, oca_sms_client):\n"
        "    asyncio.run(oca_sms_client.send('081381475159', 'Acme: 482913 is your code'))\n"
        "    assert oca_sms_sandbox.inbox.code('081381475159') == '482913'\n",
        encoding="utf-8",
    )
    run_there = [*python, "pytest", "-W", "error", str(test)]
    ran = subprocess.run(run_there, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in ran.stdout, ran.stdout
