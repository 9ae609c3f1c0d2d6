"""The rules by which the environment's variables choose a proxy."""

import httpx
import pytest

from oca_sms_async._proxies import EnvironmentProxies

GATEWAY = "https://sms.example.com/api/v1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine plays a part."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, GATEWAY, None),
        ({"HTTPS_PROXY": "http://a:1"}, GATEWAY, "http://a:1"),
        ({"HTTPS_PROXY": "a:1"}, GATEWAY, "http://a:1"),
        ({"https_proxy": "http://a:1"}, GATEWAY, "http://a:1"),
        ({"HTTP_PROXY": "http://a:1"}, GATEWAY, None),
        ({"ALL_PROXY": "http://a:1"}, GATEWAY, "http://a:1"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:1"}, GATEWAY, "http://b:1"),
        ({"HTTP_PROXY": "http://a:1"}, "http://sms.example.com", "http://a:1"),
        ({"HTTP_PROXY": "http://a:1"}, "http://127.8.8.8", None),
        ({"HTTP_PROXY": "http://127.0.0.1:1"}, "http://localhost", "http://127.0.0.1:1"),
        ({"HTTPS_PROXY": "http://a:1"}, "https://127.0.0.1", "http://a:1"),
        ({"HTTP_PROXY": "http://a:x"}, "http://localhost", "http://a:x"),
    ],
)
def test_the_proxy_of_a_scheme_serves_before_the_one_for_all(
    variables: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy without a scheme is an http one. Plain http to this machine goes to no proxy elsewhere."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert EnvironmentProxies().proxy_for(httpx.URL(url)) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "covered", "others"),
    [
        ("*", [GATEWAY, "https://127.0.0.1"], []),
        ("example.com", [GATEWAY, "https://example.com"], ["https://myexample.com", "https://example.com.id"]),
        (".example.com", [GATEWAY], ["https://example.com"]),
        ("*.example.com", [GATEWAY], ["https://example.com"]),
        ("SMS.Example.COM", [GATEWAY], ["https://example.com"]),
        (" a.test , sms.example.com ", [GATEWAY, "https://a.test"], ["https://b.test"]),
        ("sms.example.com:443", [GATEWAY], ["https://sms.example.com:8443"]),
        ("https://sms.example.com", [GATEWAY], ["https://sms.example.org"]),
        ("http://sms.example.com", [], [GATEWAY]),
        ("all://sms.example.com", [GATEWAY], []),
        ("localhost", ["https://localhost:1"], ["https://127.0.0.1"]),
        ("127.0.0.1", ["https://127.0.0.1"], ["https://127.0.0.2", "https://localhost"]),
        ("127.0.0.1:1", ["https://127.0.0.1:1"], ["https://127.0.0.1:2"]),
        ("127.0.0.0/8", ["https://127.0.0.1", "https://127.9.9.9:1"], ["https://128.0.0.1", GATEWAY]),
        ("10.1.2.3/8", ["https://10.9.9.9"], ["https://11.0.0.1"]),
        ("::1", ["https://[::1]:1"], ["https://[::2]"]),
        ("[::1]", ["https://[::1]", "https://[0:0::1]"], ["https://[::2]"]),
        ("[::1]:8443", ["https://[::1]:8443"], ["https://[::1]"]),
        ("fe80::/10", ["https://[fe80::1]", "https://[febf::1]"], ["https://[fec0::1]", "https://10.0.0.1"]),
        ("[fe80::]/10", ["https://[fe80::1]"], ["https://[fec0::1]"]),
        ("fe80::/999, 10.0.0.0/x, [, ]:, :, ://, localhost", ["https://localhost"], [GATEWAY]),
        ("", [], [GATEWAY]),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(
    no_proxy: str, covered: list[str], others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry covers a host with the hosts below it, an address, or a network, on one port if it names one."""
    monkeypatch.setenv("ALL_PROXY", "http://a:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    proxies = EnvironmentProxies()
    assert [proxies.proxy_for(httpx.URL(url)) for url in covered] == [None] * len(covered)
    assert [proxies.proxy_for(httpx.URL(url)) for url in others] == ["http://a:1"] * len(others)
