"""The checks of the project: `nox -s tests` on a fresh machine, and all others that `.ci/run` asks for."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.options.sessions = ["tests", "lint", "typing"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")


def runs(python: str) -> bool:
    """Tell whether this Python runs; a version manager may put a name on PATH that leads nowhere."""
    found = shutil.which(python)
    return found is not None and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0


PYTHONS = [f"3.{minor}" for minor in range(11, 16) if runs(f"python3.{minor}")]

# One process for each core, because most tests wait for sockets. `-- -n 0` means a single process.
PARALLEL = ("-n", "auto")

EXTRAS = "cli,redis,aiohttp,postgres,queue,opentelemetry"


def install(session: nox.Session, *groups: str) -> None:
    """Install the package with its extras, and the groups of tools."""
    session.install("-e", f".[{EXTRAS}]", *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python of nox; arguments after `--` go to pytest."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run the tests on every installed Python from 3.11 on."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)


def pin_floors() -> list[str]:
    """Return the lowest version of each dependency that pyproject.toml permits, as pins."""
    project = PROJECT["project"]
    named = [*project["dependencies"], *(need for extra in project["optional-dependencies"].values() for need in extra)]
    needs = [need for need in map(Requirement, named) if need.name != project["name"]]  # an extra may refer to another
    pins = {need.name: next(it.version for it in need.specifier if it.operator == ">=") for need in needs}
    pins["psycopg-binary"] = pins["psycopg"]  # the tests install it, and it works with its own version alone
    return [f"{name}=={version}" for name, version in pins.items()]


# The SDK wants the version of its own API, FastAPI one of Starlette, and Celery's broker one of redis.
FLOORS_OF_TESTS = (
    "celery==5.5.3",
    "fastapi==0.115.6",
    "kombu==5.5.4",
    "opentelemetry-sdk==1.30.0",
    "opentelemetry-instrumentation-httpx==0.51b0",
    "opentelemetry-instrumentation-aiohttp-client==0.51b0",
)


@nox.session(python=PYTHONS[:1])
def floors(session: nox.Session) -> None:
    """Run the tests on the lowest versions that pyproject.toml permits, on the oldest Python that is installed."""
    # In a second step, because pip keeps installed versions that fit. The tools of the tests are the newest ones:
    # users do not install them.
    install(session, "tests")
    session.install(*pin_floors(), *FLOORS_OF_TESTS)
    session.run("python", "-m", "pip", "check")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build both archives, install the wheel, and run the tests of the source archive against it."""
    # Not nox' folder for temporary files: then the tests would use it too, and their sockets' names would be too long.
    shutil.rmtree(folder := Path(session.virtualenv.location) / "archives", ignore_errors=True)
    session.install("build", *nox.project.dependency_groups(PROJECT, "tests"))
    session.run("python", "-m", "build", "--outdir", str(folder))  # the wheel out of the source archive
    (built,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    session.install(f"{built}[{EXTRAS}]")
    with tarfile.open(source) as packed:
        packed.extractall(folder, filter="data")
    session.chdir(folder / source.name.removesuffix(".tar.gz"))
    shutil.rmtree("oca_sms_async")  # otherwise `python -c` and `python -m` would import it from this folder
    Path("oca_sms_async_pytest.py").unlink()  # as above
    # Tests that build the archives, or read files of the repository alone, need the sources.
    building = (
        "--ignore=tests/test_front_door.py",
        "--ignore=tests/test_packaging.py",
        "--deselect=tests/test_testing.py::test_an_installed_wheel_is_all_it_takes",
    )
    session.run("python", "-m", "pytest", *PARALLEL, *building, *session.posargs)


@nox.session
def bundle(session: nox.Session) -> None:
    """Make one file of a program by PyInstaller, without options, and run it: it has the sandbox's page."""
    session.install(".[sandbox]", "pyinstaller")
    folder = Path(session.create_tmp()) / "bundle"
    where = ("--distpath", str(folder), "--workpath", str(folder / "work"), "--specpath", str(folder))
    session.run("pyinstaller", "--onefile", "--noconfirm", "--log-level=WARN", *where, "tests/bundled_program.py")
    session.run(str(folder / "bundled_program"), external=True)


@nox.session
def mutants(session: nox.Session) -> None:
    """Make small changes to the rooms of pure decisions, and list those that no test notices: tests/MUTANTS.md."""
    install(session, "mutants")
    session.run("mutmut", "run", "--max-children", "2", *session.posargs)
    session.run("mutmut", "results")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, and fail if they take fewer than 95 % of lines and branches."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *PARALLEL, "--cov", *session.posargs)


@nox.session
def kills(session: nox.Session) -> None:
    """Kill a campaign, senders with keys and workers of a queue 40 times, five times over. The tests do so 8 times."""
    install(session, "tests")
    for seed in range(1, 6):
        env = {"OCA_SMS_TEST_KILLS": "40", "OCA_SMS_TEST_SEED": str(seed)}
        killed = ("tests/test_kill.py", "tests/test_keyed_processes.py", "tests/test_queue_processes.py")
        session.run("python", "-m", "pytest", *killed, *session.posargs, env=env)


@nox.session
def picture(session: nox.Session) -> None:
    """Draw the picture of the sandbox's page in `docs/tests.md` anew."""
    install(session, "tests")
    env = {"OCA_SMS_TEST_SCREENSHOT": "docs/inbox.png", "CI": "true"}
    session.run("python", "-m", "pytest", "tests/test_page.py", "-k", "picture", env=env)


SCHEMAS = {
    "github-workflows": ".github/workflows/*.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "dependabot": ".github/dependabot.yml",
    "compose-spec": "compose.yaml",
}


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, the direction of imports, the workflows, the issue forms and the containers."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("zizmor", "--offline", "--no-progress", ".github")
    for schema, pattern in SCHEMAS.items():
        files = sorted(str(path) for path in Path().glob(pattern) if path.stem != "config" or "config" in schema)
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
    session.run("hadolint", "Dockerfile")
    if shutil.which("actionlint"):  # pip cannot install it everywhere: its installation loads it from elsewhere
        session.run("actionlint", external=True)


def find_strange_lines(told: str) -> list[str]:
    """Return the lines of ty about code that mypy takes for right. ty does not heed ignores with mypy's codes."""
    source = Path("tests/typing/api.py").read_text(encoding="utf-8").splitlines()
    found = ((line, re.match(r"tests/typing/api\.py:(\d+):", line)) for line in told.splitlines())
    return [line for line, place in found if place and "# type: ignore" not in source[int(place[1]) - 1]]


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly; and let pyright and ty read the package as its users do."""
    install(session, "typing")
    session.run("mypy", f"--python-version={sys.version_info.major}.{sys.version_info.minor}")
    # Without this path, it would take the `.venv` in this folder, if there is one.
    session.run("basedpyright", "--pythonpath", f"{session.bin}/python")
    told = session.run("ty", "check", "--output-format=concise", "tests/typing", silent=True, success_codes=[0, 1])
    if strange := find_strange_lines(str(told)):
        session.error("ty finds mistakes where there are none:\n" + "\n".join(strange))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, and fail on a link, a heading or a name that leads nowhere."""
    session.install(*nox.project.dependency_groups(PROJECT, "docs"))
    session.run("zensical", "build", "--clean", "--strict", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Check the types and the compose file of the examples, and run their tests; arguments after `--` go to pytest."""
    install(session, "examples")
    session.run("mypy", f"--python-version={sys.version_info.major}.{sys.version_info.minor}", "examples")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "examples/compose/compose.yaml")
    session.run("python", "-m", "pytest", "examples", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run all benchmarks, for 25 to 40 minutes on an idle machine, and leave their tables; `-- NAME` only shows one."""
    install(session, "tests", "bench")  # the tests find a PostgreSQL and a redis-server
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Send 100,000 messages at mixed faults, for some minutes; `-- --messages N` sends fewer."""
    install(session)
    session.run("python", "benchmarks/soak.py", *session.posargs)
