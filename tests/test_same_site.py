"""The guard against other sites: the names that are the sandbox's own, on its own paths and on those of the APIs."""

import socket
from typing import Any

import httpx
import pytest

from oca_sms_async.sandbox import Sandbox


@pytest.fixture
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name leads to this machine, as those in /etc/hosts do."""
    create_server = socket.create_server

    def create(address: tuple[str, int], **options: Any) -> socket.socket:
        return create_server(("127.0.0.1", address[1]), **options)

    monkeypatch.setattr(socket, "create_server", create)


async def ask(sandbox: Sandbox, path: str, host: str) -> int:
    """Ask a served sandbox under a name of the test's own, and return the status."""
    url = httpx.URL(sandbox.base_url).copy_with(host="127.0.0.1", path=path)
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url, headers={"Host": f"{host}:{url.port}"})).status_code


@pytest.mark.parametrize(
    ("served_as", "asked_as"),
    [
        ("vm", "vm"),
        ("VM.Acme.example", "vm.acme.example"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("sms_gateway", "SMS_gateway"),
    ],
)
@pytest.mark.usefixtures("this_machine")
async def test_the_name_that_it_is_served_at_is_welcome(served_as: str, asked_as: str) -> None:
    """Under any name that it is served at, the sandbox's URL leads to its page. No other name does."""
    async with Sandbox().serve(served_as) as sandbox:
        assert httpx.URL(sandbox.base_url).raw_host == asked_as.lower().encode()
        assert await ask(sandbox, "/", asked_as) == 200
        assert await ask(sandbox, "/", f"evil.{asked_as}") == 403
        assert await ask(sandbox, "/", "evil.example") == 403


@pytest.mark.parametrize("host", ["", "münchen..example", "\udcff"])
async def test_what_can_be_no_host_is_refused(host: str) -> None:
    """An empty host would be every address, and others are no name. Each is a `ValueError` with the reason."""
    with pytest.raises(ValueError, match="host must be an address or a name"):
        async with Sandbox().serve(host):
            pass


@pytest.mark.parametrize(
    "host", ["host.docker.internal", "host.containers.internal", "Sandbox.TEST", "sandbox.localhost", "localhost"]
)
async def test_a_name_that_no_site_can_have_is_welcome(sandbox: Sandbox, host: str) -> None:
    """A name below a reserved top-level name is no site's: a container's way to its host, for example."""
    assert await ask(sandbox, "/sandbox/messages", host) == 200


@pytest.mark.parametrize(
    "host",
    ["docker.internal.example", "internal.example", "test.", "sandbox.local", "sandbox", "vm", "evil.localhost.de"],
)
async def test_other_names_are_refused_on_the_loopback(sandbox: Sandbox, host: str) -> None:
    """A name that a site or another machine may have is refused."""
    assert await ask(sandbox, "/sandbox/messages", host) == 403


@pytest.mark.parametrize(("host", "status"), [("sandbox", 200), ("vm.local", 200), ("evil.example", 403)])
async def test_names_of_the_network_are_welcome_beyond_the_loopback(host: str, status: int) -> None:
    """Where others can reach the sandbox anyway, names that the network gives are its own; a site's is not."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Sandbox().asgi())) as client:
        assert (await client.get(f"http://{host}:8025/sandbox/messages")).status_code == status


SITES = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8025", "Origin": "http://evil.example:8025"},
    {"Host": "sandbox"},  # a name that another machine of the network may have
    {"Host": ""},
]


async def ask_api(sandbox: Sandbox, **headers: str) -> httpx.Response:
    """Ask a served sandbox for its history, with its credentials."""
    auth = (sandbox.username, sandbox.password)
    async with httpx.AsyncClient(trust_env=False, auth=auth) as client:
        return await client.get(f"{sandbox.base_url}/sms", headers=headers)


@pytest.mark.parametrize("headers", SITES)
async def test_published_credentials_open_nothing_to_a_site(sandbox: Sandbox, headers: dict[str, str]) -> None:
    """A site whose name leads here knows the published password. It learns nothing by it, and the refusal counts."""
    response = await ask_api(sandbox, **headers)
    assert response.status_code == 403
    assert "Host must be" in response.json()["errors"][0]["message"]
    assert sandbox.traffic.refusals == {"foreign-host": 1}
    async with httpx.AsyncClient(trust_env=False, auth=(sandbox.username, sandbox.password)) as client:
        sms = {"phone": "081381475159", "message": "hello"}
        assert (await client.post(f"{sandbox.base_url}/sms", json=sms, headers=headers)).status_code == 403
    assert len(sandbox.inbox) == 0


async def test_published_credentials_open_the_sandbox_s_own_names(sandbox: Sandbox) -> None:
    """Addresses, localhost and names that no site can have go on working without a password of one's own."""
    for host in ("127.0.0.1:8025", "localhost", "host.docker.internal:8025"):
        assert (await ask_api(sandbox, Host=host)).status_code == 200


@pytest.mark.parametrize("headers", SITES)
async def test_a_password_of_one_s_own_opens_every_name(headers: dict[str, str]) -> None:
    """No site knows a password that is not published, so the API answers under any name, as the real one does."""
    async with Sandbox(password="another").serve() as sandbox:
        assert (await ask_api(sandbox, **headers)).status_code == 200


async def test_no_name_is_foreign_in_process() -> None:
    """No browser reaches a sandbox without a socket, so its client may keep the real gateway's URL."""
    sandbox = Sandbox()
    transport = httpx.ASGITransport(sandbox.asgi())
    async with httpx.AsyncClient(transport=transport, auth=(sandbox.username, sandbox.password)) as client:
        assert (await client.get("https://sms.ocatelkom.co.id/api/v1/sms")).status_code == 200
        other = {"Host": "evil.example"}
        assert (await client.get("https://sms.ocatelkom.co.id/api/v1/sms", headers=other)).status_code == 403
