"""Parts of the tests over real sockets: a client that does not wait, a free port, and a certificate."""

import socket
import ssl
from typing import Any

import trustme

from oca_sms_async import AsyncOcaSms, RetryPolicy, Unlimited

PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
QUICK = RetryPolicy(initial_wait=0, max_wait=0)


def client_of(base_url: str, **options: Any) -> AsyncOcaSms:
    """Return a client without limit and without waits."""
    defaults: dict[str, Any] = {"limiter": Unlimited(), "retry": QUICK, "allow_http": True}
    return AsyncOcaSms("user@example.com", "secret", base_url=base_url, **(defaults | options))


def free_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


def tls(host: str) -> tuple[trustme.CA, ssl.SSLContext]:
    """Return a private authority and a server's context with a certificate for `host`."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return authority, context
