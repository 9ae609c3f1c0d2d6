"""The TLS context of our connections, with errors that name the variable of the environment that is wrong."""

import os
import ssl

import httpx


def tls_context(verify: ssl.SSLContext | bool = True, *, trust_env: bool = True) -> ssl.SSLContext:  # noqa: FBT001, FBT002 - httpx's own signature
    """Return the context that httpx makes.

    Its certificates are those of `SSL_CERT_FILE`, of `SSL_CERT_DIR`, or of the package certifi. Python itself writes
    the keys of each connection to `SSLKEYLOGFILE`. `OSError` names the variable that cannot be used.
    """
    try:
        return httpx.create_ssl_context(verify=verify, trust_env=trust_env)
    except OSError as error:
        problem = _problem(error)
        if problem is None:
            raise
        raise OSError(error.errno, f"{problem}: {error.strerror or error}") from None


def _problem(error: OSError) -> str | None:
    """Return the variable that the error is about, with its meaning."""
    if error.filename is not None and error.filename == os.environ.get("SSLKEYLOGFILE"):
        return "the file that SSLKEYLOGFILE names cannot be written"
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(variable):
            return f"the certificates that {variable} names cannot be read"
    return None
