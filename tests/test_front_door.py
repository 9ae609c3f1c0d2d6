"""The files for those who come to the project: containers, workflows and issue forms do what they say."""

import asyncio
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
from command import PATIENCE, end_of, environment, read_line, start
from documents import ROOT, name_of, read

PROJECT: Final = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
DOCKERFILE: Final = read(ROOT / "Dockerfile")
COMPOSE: Final = read(ROOT / "compose.yaml")
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES: Final = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FORMS: Final = [form for form in TEMPLATES if form.stem != "config"]


def words_of(line: str, text: str) -> list[str]:
    """Return the list in JSON's form of the first line that begins so."""
    found = re.search(rf"(?m)^ *{line}.*?(\[.*\])", text)
    assert found is not None
    words = json.loads(found[1])
    assert isinstance(words, list)
    return words


async def test_the_container_of_the_sandbox_works() -> None:
    """The commands of Dockerfile and compose file serve a healthy sandbox that takes the message of the example."""
    entry, default, health = (words_of(line, DOCKERFILE) for line in ("ENTRYPOINT", r"CMD (?=\[\"sandbox)", "CMD"))
    served, sent = (words_of("command:", part) for part in COMPOSE.split("\n  first:\n"))
    assert entry == ["oca-sms"]
    assert served[: len(default)] == default
    example = dict(re.findall(r'(?m)^      (OCA_SMS_\w+): "?([^" \n]+)', COMPOSE))
    async with start(*served, "--port", "0", env=environment()) as server:
        url = re.search(r"http://sandbox:(\d+)/api/v1", await read_line(server.stdout))
        assert url is not None
        assert example["OCA_SMS_BASE_URL"] == url[0].replace(url[1], "8025")
        check = [word.replace("8025", url[1]) for word in health[1:]]
        process = await asyncio.create_subprocess_exec(sys.executable, *check, env=environment())
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        # The name of a service means nothing here; the rest of the example's variables stands.
        example["OCA_SMS_BASE_URL"] = f"http://127.0.0.1:{url[1]}/api/v1"
        async with start(*sent, env=environment(**example)) as first:
            ended = await end_of(first)
            assert ended.status == 0, ended.err


def test_the_image_gets_what_the_package_is_built_of() -> None:
    """The package can be built of the files that `Dockerfile.dockerignore` lets through, and others stay outside."""
    lines = read(ROOT / "Dockerfile.dockerignore").splitlines()
    kept = {path.name for line in lines if line.startswith("!") for path in ROOT.glob(line[1:])}
    built = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    package = set(built.get("packages", built.get("only-include")))
    assert "*" in lines
    assert kept == package | {PROJECT["readme"], "pyproject.toml", *PROJECT["license-files"]}


def test_every_supported_python_is_checked() -> None:
    """The classifiers, the matrix of the workflow and the lowest permitted Python agree."""
    named = [re.search(r"3\.\d+$", it) for it in PROJECT["classifiers"] if "Python :: 3." in it]
    pythons = [found[0] for found in named if found]
    assert words_of("python:", read(ROOT / ".github/workflows/ci.yml")) == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name_of)
def test_actions_are_pinned(workflow: Path) -> None:
    """Each action of others is named by a commit, and only the job that publishes has a right beyond reading."""
    text = read(workflow)
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w/.-]+@[0-9a-f]{40}", action) for action in used)
    assert re.findall(r"(?m)^permissions: (.*)$", text) == ["{}"]
    rights = set(re.findall(r"(?m)^      ([\w-]+): write", text))
    assert rights == ({"id-token"} if workflow.stem == "release" else set())


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_issue_forms_ask_for_no_secret(form: Path) -> None:
    """Each form asks first to leave numbers, codes and credentials out, and to confirm it at the end."""
    text = read(form)
    first, *_, last = text.partition("body:\n")[2].split("\n  - type: ")
    assert re.search(r"Write no phone number, no code,?", first)
    assert "label: No phone number, code," in last
    assert last.rstrip().endswith("required: true")
    assert not re.search(r"(?i)label: .*(phone|number|token|password)", text.replace(last, ""))
