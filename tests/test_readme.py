"""The README and CONTRIBUTING are true: blocks of Python run, and tables are complete."""

import asyncio
import pkgutil
import re
from pathlib import Path

import pytest
from answers import APIS

import oca_sms_async
from oca_sms_async import OcaSmsError
from oca_sms_async._settings import Environment
from oca_sms_async._wire import needed_variables
from oca_sms_async.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = (ROOT / "docs" / "one-key-one-sms.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README + KEYS, re.MULTILINE | re.DOTALL)


SCRIPTS = [block for block in BLOCKS if "def test_" not in block]
TESTS = [block for block in BLOCKS if "def test_" in block]


@pytest.mark.parametrize("block", SCRIPTS, ids=range(len(SCRIPTS)))
async def test_a_block_runs(
    block: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each Python block runs as it stands, with the sandbox, and a real database, named by the environment."""
    if "DATABASE_URL" in block:
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("database"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCA_SMS_USERNAME", sandbox.username)
    monkeypatch.setenv("OCA_SMS_PASSWORD", sandbox.password)
    monkeypatch.setenv("OCA_SMS_BASE_URL", sandbox.base_url)
    # The blocks run event loops of their own, so they need a thread.
    await asyncio.to_thread(exec, compile(block, "README.md", "exec"), {"__name__": "__main__"})
    if "from_env() as" in block:
        assert len(sandbox.inbox) > 0


@pytest.mark.parametrize("block", TESTS, ids=range(len(TESTS)))
def test_a_test_passes(block: str, pytester: pytest.Pytester) -> None:
    """Each block that is a test passes in a project with the package's plugin."""
    pytester.makeini("[pytest]")  # otherwise pytest would take the settings of a project around it
    pytester.makepyfile(block)
    ran = pytester.runpytest_subprocess("-o", "asyncio_mode=auto")
    ran.assert_outcomes(passed=1)


def test_the_blocks_were_found() -> None:
    """The markup of the blocks is as these tests expect it; otherwise they would test nothing."""
    assert len(BLOCKS) == (README + KEYS).count("```python") == 7
    assert (len(SCRIPTS), len(TESTS)) == (6, 1)


def test_the_error_table_names_every_error() -> None:
    """The README's table has all errors that can be imported, and no others."""
    section = README.partition("\n## What can go wrong\n")[2].partition("\n## ")[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    table = set(re.findall(r"`(\w+Error)`", rows)) - {"ValueError", "TimeoutError", "RuntimeError"}
    exported = {name for name in oca_sms_async.__all__ if name.endswith("Error") and name != "FieldError"}
    assert table == exported - {OcaSmsError.__name__}


def rows_of_the_apis() -> dict[str, dict[str, str]]:
    """Return the table of `docs/apis.md`: each row by its first cell, each cell by the API."""
    table = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in (ROOT / "docs" / "apis.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    return {name: dict(zip(APIS, cells, strict=True)) for name, *cells in table}


@pytest.mark.parametrize("name", APIS)
def test_the_table_of_the_apis_is_true(name: str) -> None:
    """Each API's value, variables, address, history and codes are those that the table has."""
    rows = {first: cells[name] for first, cells in rows_of_the_apis().items()}
    api, environ = APIS[name], Environment({"OCA_SMS_API": name})
    assert rows[""].lower().replace(" ", "-") == name
    assert rows["`api=`"].startswith(f"`{type(api).__name__}(")
    assert rows["`OCA_SMS_API`"].startswith(f"`{name}`")
    assert rows["its variables"] == ", ".join(f"`{variable.name}`" for variable in needed_variables(environ))
    assert rows["its address"] == f"`{api.base_url}`"
    assert rows["`history`, `find_in_history`, `reconcile`"] == ("yes" if api.has_history else "no")
    for code, error in api.codes.items():
        for first, codes in rows.items():
            if f"`{error.__name__}`" in first:
                assert str(code) in codes.split(", "), (first, code)
    told = {int(code) for first, codes in rows.items() if "Error`" in first for code in re.findall(r"\d+", codes)}
    assert api.codes.keys() - told == api.codes.keys() & {9, 13, 33}  # the same everywhere, or «not found»
    assert told <= api.codes.keys()


def test_the_map_has_every_room() -> None:
    """Each module and package below `oca_sms_async` has a row of its own in CONTRIBUTING's map."""
    rooms = set(re.findall(r"^\|[^|]*\| `(\w+)/?` \|", CONTRIBUTING, re.MULTILINE))
    assert rooms == {module.name for module in pkgutil.iter_modules(oca_sms_async.__path__)}


def test_the_readme_opens_with_the_two_commands_and_fits() -> None:
    """The two commands come before the first section, and the whole has at most 200 lines."""
    opening = README.split("\n## ")[0]
    assert '    pip install ".[cli]" && oca-sms demo\n    pip install nox && nox -s tests\n' in opening
    assert len(README.splitlines()) <= 200
