"""What is run to check the project: `nox -s tests` on a fresh machine, and the rest of what `.ci/run` asks for."""

import shutil
import subprocess
import sys

import nox

nox.options.sessions = ["tests", "lint", "typing"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")


def installed(python: str) -> bool:
    """Tell whether this Python runs: a version manager may put a name on PATH that leads nowhere."""
    found = shutil.which(python)
    return found is not None and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0


PYTHONS = [f"3.{minor}" for minor in range(11, 16) if installed(f"python3.{minor}")]


def install(session: nox.Session, *groups: str) -> None:
    """Install the package with its extras, and the groups of tools."""
    session.install("-e", ".[cli,redis,aiohttp]", *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs nox; arguments after `--` go to pytest."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run the tests on every installed Python from 3.11 on."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and fail where fewer than 95 % of the branches were taken."""
    install(session, "tests")
    session.run("python", "-m", "pytest", "--cov", *session.posargs)


@nox.session
def kills(session: nox.Session) -> None:
    """Kill a campaign 40 times, five times over; the tests themselves do so 8 times."""
    install(session, "tests")
    for seed in range(1, 6):
        env = {"OCA_SMS_TEST_KILLS": "40", "OCA_SMS_TEST_SEED": str(seed)}
        session.run("python", "-m", "pytest", "tests/test_kill.py", *session.posargs, env=env)


@nox.session
def picture(session: nox.Session) -> None:
    """Draw the picture of the sandbox's page in the README anew."""
    install(session, "tests")
    env = {"OCA_SMS_TEST_SCREENSHOT": "tests/inbox.png", "CI": "true"}
    session.run("python", "-m", "pytest", "tests/test_page.py", "-k", "picture", env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and the direction of imports."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, "typing")
    session.run("mypy", f"--python-version={sys.version_info.major}.{sys.version_info.minor}")


BENCHMARKS = ("bulk", "latency", "pace", "limiter", "campaign", "memory", "growth", "import_time")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; `-- --json` for machines, `-- --plot` for the plots and tables in benchmarks/results."""
    install(session, "tests", "bench")  # the tests know where to find a redis-server
    for script in ["plot"] if "--plot" in session.posargs else BENCHMARKS:
        session.run("python", f"benchmarks/{script}.py", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Send 100,000 messages at mixed faults, some minutes; arguments after `--` go to the script (`--messages N`)."""
    install(session)
    session.run("python", "benchmarks/soak.py", *session.posargs)
