"""The command that serves a sandbox to programs on this machine, or beyond it."""

import asyncio
import contextlib
import errno
import os
import shlex
from typing import Annotated

from cyclopts import Parameter, validators

from oca_sms_async._settings import checked_url
from oca_sms_async.cli._console import complain, show
from oca_sms_async.cli._endings import CommandError, ExitStatus
from oca_sms_async.sandbox import Sandbox


def sandbox(
    *,
    host: Annotated[str, Parameter(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, Parameter(validator=validators.Number(gte=0, lte=65535), help="The port; 0 is any free one.")
    ] = 8025,
    username: Annotated[str, Parameter(help="The user of its one account.")] = "sandbox@example.com",
    password: Annotated[str, Parameter(help="A made-up password: everybody on this machine can see it.")] = "sandbox",  # noqa: S107 - as its help says
) -> None:
    """Serve a gateway that sends nothing, until Ctrl-C, and print what a program needs to use it.

    The exit status is 2 where the address cannot be had: a port that is taken, say.
    """
    try:
        gateway = Sandbox(username=username, password=password)
    except ValueError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error
    asyncio.run(_serve(gateway, host, port))


async def _serve(gateway: Sandbox, host: str, port: int) -> None:
    if _beyond_loopback(f"http://[{host}]" if ":" in host else f"http://{host}"):
        complain("warning: others can reach this sandbox, and it has no encryption; use no real numbers")
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(gateway.serve(host, port))
        except OSError as error:
            line = f"cannot listen on {host}, port {port}: {_reason(error)}"
            raise CommandError(line, ExitStatus.USAGE) from error
        show(*_welcome(gateway))
        await asyncio.Event().wait()


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "it is taken, choose another --port"
    number = error.errno or 0  # below 0 for a name that is not found: the resolver counts for itself
    return os.strerror(number) if number > 0 else "no such host"


def _welcome(gateway: Sandbox) -> list[str]:
    variables = {
        "OCA_SMS_USERNAME": gateway.username,
        "OCA_SMS_PASSWORD": gateway.password,
        "OCA_SMS_BASE_URL": gateway.base_url,
    }
    if _beyond_loopback(gateway.base_url):
        variables["OCA_SMS_ALLOW_HTTP"] = "1"
    return [
        f"Sandbox at {gateway.base_url}, user {gateway.username}, password {gateway.password}. Ctrl-C ends it.",
        "",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
    ]


def _beyond_loopback(url: str) -> bool:
    """Tell whether the client would want to be told that plain http is all right."""
    try:
        checked_url(url, allow_http=False)
    except ValueError:
        return True
    return False
