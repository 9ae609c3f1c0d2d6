"""The archives: the wheel holds the package alone, and the source archive all files that its checks need."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest
from attrs import frozen

import oca_sms_async

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STEM = f"oca_sms_async-{oca_sms_async.__version__}"
INFO = f"{STEM}.dist-info"


@frozen
class Archives:
    """The archives of a build. The names in the source archive are relative to its one folder."""

    wheel: Path
    wheel_names: set[str]
    source_names: set[str]

    def text(self, name: str) -> str:
        """Return a file of the wheel."""
        with zipfile.ZipFile(self.wheel) as wheel:
            return wheel.read(name).decode()

    def metadata(self) -> Message:
        """Return the metadata of the wheel."""
        return Parser().parsestr(self.text(f"{INFO}/METADATA"))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """Build both archives."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    wheel, source = folder / f"{STEM}-py3-none-any.whl", folder / f"{STEM}.tar.gz"
    assert set(folder.iterdir()) == {wheel, source}
    with zipfile.ZipFile(wheel) as zipped, tarfile.open(source) as packed:
        folders = {PurePosixPath(name).parts[0] for name in packed.getnames()}
        assert folders == {STEM}
        return Archives(wheel, set(zipped.namelist()), {name.removeprefix(f"{STEM}/") for name in packed.getnames()})


def files_of(*folders: str) -> set[str]:
    """Return the files of the working copy below some folders, without Python's caches."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


def needs_of(extra: str) -> set[str]:
    """Return the requirements of an extra, and of the extras that it refers to."""
    needs = set[str]()
    for need in PROJECT["optional-dependencies"][extra]:
        other = re.fullmatch(rf"{PROJECT['name']}\[(\w+)\]", need)
        needs |= needs_of(other[1]) if other else {need}
    return needs


def test_wheel_holds_the_package_alone(archives: Archives) -> None:
    """The wheel has each module, the plugin's, the page, the types' marker and the licence, and nothing else."""
    package = files_of("oca_sms_async")
    page = {f"oca_sms_async/sandbox/page/inbox.{kind}" for kind in ("html", "css", "js")}
    page |= {f"oca_sms_async/sandbox/page/{script}.js" for script in ("access", "faults", "list")}
    assert {name for name in package if not name.endswith(".py")} == {"oca_sms_async/py.typed"} | page
    beside = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert archives.wheel_names == package | {"oca_sms_async_pytest.py"} | {f"{INFO}/{name}" for name in beside}


def test_source_archive_can_be_checked(archives: Archives) -> None:
    """The source archive has package, tests, benchmarks, documents, examples and the files that run them alone."""
    top = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "PKG-INFO", "README.md", "SECURITY.md"}
    top |= {"mkdocs.yml", "noxfile.py", "oca_sms_async_pytest.py", "pyproject.toml"}
    folders = ("oca_sms_async", "tests", "benchmarks", "docs", "examples")
    assert archives.source_names - {".gitignore"} == top | files_of(*folders)
    names = files_of(*folders) - files_of("tests/files")  # lists of messages of every kind
    kinds = {PurePosixPath(name).suffix for name in names}
    kinds_of_examples = {"", ".ini", ".sql", ".toml", ".yaml"}  # without an ending: a Dockerfile
    known = {".css", ".html", ".js", ".json", ".md", ".png", ".py", ".svg", ".txt", ".typed"}
    assert kinds <= known | kinds_of_examples


def test_metadata_is_the_projects(archives: Archives) -> None:
    """Name, version, Pythons, licence, README and all dependencies agree with pyproject.toml."""
    metadata = archives.metadata()
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], oca_sms_async.__version__)
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == PROJECT["license"]
    assert archives.text(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    wanted = {(name, "") for name in PROJECT["dependencies"]}
    wanted |= {(name, extra) for extra in PROJECT["optional-dependencies"] for name in needs_of(extra)}
    found = set[tuple[str, str]]()
    for required in metadata.get_all("Requires-Dist", []):
        name, _, marker = required.partition(";")
        extra = re.search(r"extra == '(\w+)'", marker)
        found.add((name.strip(), extra[1] if extra else ""))
    assert found == wanted


def test_entry_points_lead_somewhere(archives: Archives) -> None:
    """Each command and plugin of an installation can be imported."""
    announced = ConfigParser()
    announced.read_string(archives.text(f"{INFO}/entry_points.txt"))
    assert dict(announced["console_scripts"]) == PROJECT["scripts"]
    points = [
        importlib.metadata.EntryPoint(name, value, group)
        for group in announced.sections()
        for name, value in announced[group].items()
    ]
    assert all(point.load() for point in points)


def test_the_page_is_found_without_a_folder(archives: Archives, tmp_path: Path) -> None:
    """The page is read as a resource: also out of the wheel itself, which is a zip file and no folder."""
    script = "from oca_sms_async.sandbox import _page; print(*(len(_page._read(it)) > 100 for it in _page._SCRIPTS))"
    run = [sys.executable, "-c", script]
    ran = subprocess.run(
        run,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(archives.wheel)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split() == ["True"] * 4


@pytest.mark.parametrize(
    ("module", "collected"),
    [
        ("sandbox", 'collect_data_files("oca_sms_async.sandbox")'),
        ("cli", 'collect_submodules("oca_sms_async.cli")'),
    ],
)
def test_pyinstaller_finds_the_hooks(archives: Archives, module: str, collected: str) -> None:
    """The entry point names a folder of the wheel with the hooks of the page and of the commands' rooms."""
    (value,) = PROJECT["entry-points"]["pyinstaller40"].values()
    (folder,) = importlib.metadata.EntryPoint("hook-dirs", value, "pyinstaller40").load()()
    hook = Path(folder) / f"hook-oca_sms_async.{module}.py"
    assert collected in hook.read_text(encoding="utf-8")
    assert hook.relative_to(Path(oca_sms_async.__file__).parent.parent).as_posix() in archives.wheel_names


def test_the_changelog_begins_with_the_version() -> None:
    """The newest entry is the package's version, with its date."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == oca_sms_async.__version__
