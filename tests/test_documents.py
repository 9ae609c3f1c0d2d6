"""README, CONTRIBUTING and the pages below `docs/` are true: their code runs, and their tables are complete."""

import asyncio
import importlib
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis_server
from answers import APIS
from command import MAIN, PATIENCE, environment, read_line, start
from documents import BLOCKS, DOCS, PAGES, README, ROOT, SCRIPTS, TESTS, Block, leave_out_code, name_of, prose_of, read
from public_api import modules

import oca_sms_async
from oca_sms_async import ApiError, InternalError
from oca_sms_async._settings import Environment
from oca_sms_async._wire._environment import needed_variables
from oca_sms_async.sandbox import Sandbox

CONTRIBUTING: Final = read(ROOT / "CONTRIBUTING.md")
MOST_LINES: Final = 150  # of the README
MOST_WORDS: Final = 900  # of its prose, without code, tables and pictures
SENDS: Final = re.compile(r"\.(send|send_many|bulk|work)\(")
COMMAND: Final = f'oca-sms() {{ "{sys.executable}" -c "{MAIN}" "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'


@pytest.fixture
def redis_url() -> Iterator[str]:
    """The URL of a real Redis."""
    with redis_server.serving() as server:
        yield server.url


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.name)
async def test_a_block_runs(
    block: Block, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each Python block of each page runs as it stands, with the account of a sandbox in the environment.

    A block that reads `DATABASE_URL`, `OCA_SMS_DATABASE` or `REDIS_URL` gets a real server.
    """
    monkeypatch.chdir(tmp_path)
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    servers = {"DATABASE_URL": "database", "OCA_SMS_DATABASE": "queue_database", "REDIS_URL": "redis_url"}
    for name, fixture in servers.items():
        if name in block.code:
            monkeypatch.setenv(name, request.getfixturevalue(fixture))
    code = compile(block.code, block.name, "exec", dont_inherit=True)
    # The blocks run event loops of their own, so they need a thread.
    await asyncio.to_thread(exec, code, {"__name__": "__main__"})
    is_module = re.match(r"# \w+\.py\n", block.code)  # a server runs it: tests/test_servers.py
    if "from_env(" in block.code and "Sandbox(" not in block.code and SENDS.search(block.code) and not is_module:
        assert len(sandbox.inbox) > 0


def test_the_tests_pass(pytester: pytest.Pytester) -> None:
    """Each block that is a test passes in a project with pytest-asyncio and the package's plugin, without settings."""
    pytester.makeini("[pytest]")  # otherwise pytest would take the settings of a project around it
    pytester.makepyfile(**{"test_" + re.sub(r"\W", "_", block.name): block.code for block in TESTS})
    ran = pytester.runpytest_subprocess("-W", "ignore:The configuration option")
    ran.assert_outcomes(passed=sum(block.code.count("def test_") for block in TESTS))


def test_the_blocks_are_found() -> None:
    """Each block of Python is marked as `python`, because blocks with another mark do not run."""
    assert {block.language for block in BLOCKS} <= {"python", "sh", "yaml", "toml", "text", "json", "ini", "nginx"}
    assert len(SCRIPTS) + len(TESTS) == sum(read(page).count("```python\n") for page in PAGES)
    assert [block.page for block in SCRIPTS[:3]] == [README] * 3
    assert [block.page for block in TESTS[:1]] == [README]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    """Each link to another file of the project leads to one, and each link to a heading of it to a heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", leave_out_code(read(page))):
        path, _, heading = target.partition("#")
        if "://" in path or target.startswith("mailto:"):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        if heading:
            assert heading in headings_of(file), target


def headings_of(page: Path) -> set[str]:
    """Return the names by which links reach the headings of a page."""
    titles = re.findall(r"(?m)^#+ (.+)$", leave_out_code(read(page)))
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


async def test_the_first_example_runs_as_pasted(tmp_path: Path) -> None:
    """The README's first lines of the shell are those that the sandbox prints, and its first Python sends a message."""
    pasted = re.search(r"(?m)(^    (?:unset|export) .*\n)+", read(README))
    assert pasted is not None
    lines = pasted[0]
    (tmp_path / "first.py").write_text(SCRIPTS[0].code, encoding="utf-8")
    env = environment()
    async with start("sandbox", "--port", "0", env=env) as server:
        printed = [await read_line(server.stdout) for _ in range(6)]
        port = re.findall(r"(?<=:)\d+(?=/)", printed[0])[0]
        assert "".join(f"    {line}" for line in printed[2:]) == lines.replace("8025", port)
        script = f"{COMMAND}{lines.replace('8025', port)}python first.py\noca-sms history"
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-ec", script), cwd=tmp_path, env=env | {"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(shell.communicate(), PATIENCE)
    first, *history = out.decode().splitlines()
    assert shell.returncode == 0
    assert first.endswith(" sent")
    assert first.split()[0] in history[-1]


async def test_the_campaign_runs_as_pasted(sandbox: Sandbox, tmp_path: Path) -> None:
    """The README's campaign sends its message; the same command once more sends nothing."""
    section = read(README).partition("\n## A campaign\n")[2]
    found = re.search(r"(?m)(^    .*\n)+", section)
    assert found is not None
    env = environment(**sandbox.environment(), PYTHONPATH=str(ROOT))
    for _ in range(2):
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-ec", COMMAND + found[0]), cwd=tmp_path, env=env, stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(shell.communicate(), PATIENCE)
        assert shell.returncode == 0, err.decode()
    assert [message.text for message in sandbox.inbox] == ["Acme: hello"]


@pytest.mark.parametrize("page", [README, DOCS / "errors.md", DOCS / "id" / "errors.md"], ids=name_of)
def test_the_error_tables_name_errors_that_exist(page: Path) -> None:
    """Each page about errors names errors that can be imported. The pages in docs/ name all of them."""
    named = set(re.findall(r"`(\w+Error)`", read(page)))
    exported = {name for name in oca_sms_async.__all__ if name.endswith("Error")}
    builtin = {"ValueError", "TimeoutError", "RuntimeError", "ImportError", "OSError"}
    assert named - builtin <= exported
    if page != README:
        assert exported - {"FieldError"} <= named


@pytest.mark.parametrize("page", [DOCS / "errors.md", DOCS / "id" / "errors.md"], ids=name_of)
def test_the_tables_of_errors_tell_the_truth_about_doubt(page: Path) -> None:
    """The second cell of an error's row says «yes» for the classes that are doubt by themselves, and for no others."""
    text = read(page).replace("&nbsp;", " ")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    told = {found[1]: cells[1] for cells in rows if (found := re.fullmatch(r"[└├ ]*`(\w+Error)`", cells[0]))}
    assert len(told) > 15
    for name, sentence in told.items():
        error = getattr(oca_sms_async, name)
        raised = (
            InternalError(500, 13) if error is InternalError else error(400) if issubclass(error, ApiError) else error()
        )
        assert sentence.startswith(("**yes**", "**ya**")) == raised.may_have_been_sent, name


def test_every_page_is_in_the_navigation() -> None:
    """The website's navigation has each page of `docs/`, and no page that is not there."""
    navigation = read(ROOT / "mkdocs.yml").partition("\nnav:\n")[2].partition("\n\n")[0]
    named = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES if page != README)


def test_the_reference_has_every_public_name() -> None:
    """Each public class, function and constant has its place in the reference: `::: ` and its full name."""
    named = [name for page in DOCS.glob("reference/*.md") for name in re.findall(r"(?m)^::: (\S+)$", read(page))]
    public = {f"{module}.{name}" for module in modules() for name in importlib.import_module(module).__all__}
    assert sorted(named) == sorted(public - {f"{oca_sms_async.__name__}.__version__"})


def test_install_lines_work_in_a_clone() -> None:
    """Each line that installs an extra names one that exists, and no page tells to install an unpublished package.

    `docs/start.md` has a table of all extras.
    """
    extras = set(tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"])
    table = read(DOCS / "start.md").partition("| extra | brings |\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"(?m)^\| `(\w+)`", table)) == extras
    for page in PAGES:
        for names in re.findall(r'pip install "?\.\[([\w,]+)\]', read(page)):
            assert set(names.split(",")) <= extras, name_of(page)
        for line in read(page).splitlines():
            if "pip install" in line and "oca-sms-async" in line:
                assert re.search("published|terbit|rilis", read(page)), line


def rows_of_the_apis() -> dict[str, dict[str, str]]:
    """Return the table of `docs/apis.md`: each row by its first cell, each cell by the API."""
    table = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in read(DOCS / "apis.md").splitlines()
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
    """The two commands come before the first section. The whole keeps to its lines and its words of prose."""
    readme = read(README)
    opening = readme.split("\n## ")[0]
    assert '    pip install ".[cli]" && oca-sms demo\n    pip install nox && nox -s tests\n' in opening
    assert len(readme.splitlines()) <= MOST_LINES
    assert len(prose_of(readme).split()) <= MOST_WORDS
