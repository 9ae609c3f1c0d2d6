"""The compose file: its commands and variables work together. Docker itself does not run here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import yaml
from oca_sms_async.sandbox import Sandbox

from processes import EXAMPLES, PATIENCE, Launch

FOLDER: Final = EXAMPLES / "compose"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
PROGRAMS: Final = {"python": [], "uvicorn": ["-m", "uvicorn"], "oca-sms": ["-m", "oca_sms_async.cli"]}


def command_of(service: str) -> list[str]:
    """Return the command of a service, at any free port of this machine."""
    program, *arguments = SERVICES[service]["command"]
    here = {"0.0.0.0": "127.0.0.1", "8000": "0", "8025": "0"}
    return [sys.executable, *PROGRAMS[program], *(here.get(argument, argument) for argument in arguments)]


def variables_of(service: str, **replaced: str) -> dict[str, str]:
    """Return the variables of a service, each as compose would give it but for those that are replaced."""
    given: dict[str, str] = SERVICES[service]["environment"]
    assert replaced.keys() <= given.keys()
    return {name: replaced.get(name, value) for name, value in given.items()}


def test_the_stack_sends_a_code(launch: Launch, empty_database: str, tmp_path: Path) -> None:
    """The commands, with their variables, make the tables, send a code and count it."""
    here = {"OTP_DATABASE": empty_database, "PGPASSWORD": ""}
    subprocess.run(command_of("tables"), env=variables_of("tables", **here), cwd=EXAMPLES, check=True, timeout=PATIENCE)
    gateway = launch(command_of("sandbox"), {}).replace("sandbox", "127.0.0.1")
    here |= {
        "OCA_SMS_BASE_URL": f"{gateway}/api/v1",
        "OTP_SECRET": "ab" * 32,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    service = launch(command_of("service"), variables_of("service", **here))
    patient = httpx.HTTPTransport(retries=8)  # uvicorn names its address before its workers listen
    with httpx.Client(base_url=service, transport=patient, timeout=PATIENCE) as http:
        login = str(uuid4())
        assert http.post("/send", json={"login": login, "phone": "081234567890"}).json()["status"] == "sent"
        inbox = httpx.get(f"{gateway}/sandbox/messages/latest", params={"phone": "081234567890"}, trust_env=False)
        assert http.post("/verify", json={"login": login, "code": inbox.json()["code"]}).json()["status"] == "verified"
        assert 'otp_guesses_total{status="verified"} 1.0' in http.get("/metrics").text.splitlines()


def test_the_names_agree() -> None:
    """Services are reached by their names and at their ports, and start after all that they need."""
    service, sandbox = SERVICES["service"], SERVICES["sandbox"]["command"]
    assert service["environment"]["OCA_SMS_BASE_URL"] == "http://sandbox:8025/api/v1"
    assert sandbox[sandbox.index("--allow-host") + 1] == "sandbox"
    assert sandbox[sandbox.index("--port") + 1] == "8025"
    account = Sandbox()
    assert service["environment"]["OCA_SMS_USERNAME"] == account.username
    assert service["environment"]["OCA_SMS_PASSWORD"] == account.password
    database = SERVICES["postgres"]["environment"]
    assert (
        service["environment"]["OTP_DATABASE"]
        == f"host=postgres user={database['POSTGRES_USER']} dbname={database['POSTGRES_DB']}"
    )
    for described in SERVICES.values():
        assert described.get("depends_on", {}).keys() <= SERVICES.keys()
        assert all(port.startswith("127.0.0.1:") for port in described.get("ports", ()))


def test_no_secret_is_written_down() -> None:
    """The database's password and the key of the digests come from a file that is nobody else's."""
    variables = [value for described in SERVICES.values() for value in described.get("environment", {}).items()]
    secret = [value for name, value in variables if name in {"PGPASSWORD", "POSTGRES_PASSWORD", "OTP_SECRET"}]
    assert len(secret) == 4
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?.*\}", value) for value in secret)


def test_the_image_has_what_the_service_needs() -> None:
    """Its packages have the versions of pyproject.toml, and its files are there."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text(encoding="utf-8"))
    needs = set(re.findall(r'"([a-z-]+(?:\[[a-z,]+\])?>=[0-9.]+)"', text))
    assert {"fastapi", "prometheus-client", "psycopg"} == {re.split(r"\W>|\[|>", need)[0] for need in needs}
    assert needs <= set(project["dependency-groups"]["examples"])
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((EXAMPLES.parent / source).exists() for source in sources.split())


@pytest.mark.parametrize("service", ["sandbox", "tables", "service"])
def test_containers_have_few_rights(service: str) -> None:
    """They write nothing, and have no right of root."""
    described = SERVICES[service]
    assert (described["read_only"], described["cap_drop"]) == (True, ["ALL"])
    assert "\nUSER 65534" in (FOLDER / "Dockerfile").read_text(encoding="utf-8")
