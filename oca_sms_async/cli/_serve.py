"""The command that serves a sandbox to programs on this machine, or beyond it."""

import asyncio
import contextlib
import errno
import os
import re
import shlex
import signal
import socket
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from cyclopts import Parameter, Token, validators

from oca_sms_async._settings import check_base_url
from oca_sms_async.cli._console import complain, show
from oca_sms_async.cli._endings import CommandError, ExitStatus
from oca_sms_async.sandbox import FAULTS, Sandbox

_SUBMITTED_FOR: Final = 1.0  # seconds: a status that moves teaches more than a constant one
_EVERY_ADDRESS: Final = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to
_DEFAULT_API: Final = "regular-v1"
_OTHER_APIS: Final = ("regular-v2", "premium-v1", "premium-v2")
_DURATION: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ms|s)|0")
_UNITS: Final = {"ms": 1e-3, "s": 1.0}  # seconds


def _read_seconds(_: Any, tokens: Sequence[Token]) -> float:
    found = _DURATION.fullmatch(tokens[0].value)
    if found is None:
        raise ValueError
    return float(found[1]) * _UNITS[found[2]] if found[1] else 0.0


def _read_whole(_: Any, tokens: Sequence[Token]) -> int:
    return int(tokens[0].value)  # cyclopts would round 1.5


_Seconds = Annotated[float, Parameter(converter=_read_seconds)]
_Whole = Annotated[int, Parameter(converter=_read_whole)]
_WholeOrNone = Annotated[int | None, Parameter(converter=_read_whole)]


def sandbox(
    *,
    host: Annotated[str, Parameter(help="The address or name to listen at.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        Parameter(negative=(), help="A name by which others reach it, several times: a compose service's name, say."),
    ] = None,
    port: Annotated[
        _Whole, Parameter(validator=validators.Number(gte=0, lte=65535), help="The port; 0 is any free one.")
    ] = 8025,
    username: Annotated[str, Parameter(help="The user of its one account.")] = "sandbox@example.com",
    password: Annotated[str, Parameter(help="A made-up password: all users of this machine can see it.")] = "sandbox",  # noqa: S107 - its help says so
    token: Annotated[str, Parameter(help="A made-up token for the V2 APIs.")] = "sandbox-token",  # noqa: S107 - as above
    sender_id: Annotated[str, Parameter(help="The sender's name for the Premium APIs.")] = "Sandbox",
    rate_limit: Annotated[_Whole, Parameter(help="Requests in any second; 0 is no limit.")] = 25,
    quota: Annotated[_WholeOrNone, Parameter(help="Segments of the account; without it no limit.")] = None,
    latency: Annotated[_Seconds, Parameter(help="Time before each answer, such as `50ms` or `1.5s`.")] = 0.0,
    fault: Annotated[
        list[str] | None,
        Parameter(
            negative=(), help=f"`KIND=PROBABILITY`, several times: {', '.join(FAULTS)}. Or `failing-attempts=N`."
        ),
    ] = None,
    seed: Annotated[_WholeOrNone, Parameter(help="The seed of all draws: a run with it can be repeated.")] = None,
) -> None:
    """Run `oca-sms sandbox`; its help stands in `_commands`."""
    try:
        gateway = Sandbox(
            username=username,
            password=password,
            token=token,
            sender_id=sender_id,
            rate_limit=rate_limit or None,
            quota=quota,
            latency=latency,
            seed=seed,
            allowed_hosts=allow_host or (),
            submitted_for=_SUBMITTED_FOR,
        )
        gateway.play(_read_faults(fault))
    except ValueError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error
    asyncio.run(_serve(gateway, host, port))


def _read_faults(pairs: Sequence[str] | None) -> dict[str, float]:
    faults: dict[str, float] = {}
    for pair in pairs or ():
        kind, _, number = pair.partition("=")
        if kind in faults:
            raise ValueError("--fault must name each kind only once")
        try:
            faults[kind] = float(number)
        except ValueError:
            raise ValueError("--fault must be KIND=PROBABILITY, such as reset=0.05") from None
    return faults


async def _serve(gateway: Sandbox, host: str, port: int) -> None:
    terminated = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(gateway.serve(host, port))
        except OSError as error:
            line = f"cannot listen on {host}, port {port}: {_explain(error)}"
            raise CommandError(line, ExitStatus.USAGE) from error
        except ValueError as error:  # it begins with the name, host
            raise CommandError(f"--{error}", ExitStatus.USAGE) from error
        with contextlib.suppress(NotImplementedError):  # the event loop of Windows takes no signals
            # The first process of a container is not ended by a signal that it does not handle.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
        if _is_beyond_loopback(f"http://[{host}]" if ":" in host else f"http://{host}"):
            complain("warning: others can reach this sandbox, and it has no encryption; use no real numbers")
        show(*_welcome(gateway), *_name_machine(gateway, host))
        await terminated.wait()
    raise CommandError("terminated", ExitStatus.TERMINATED)


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "it is taken, choose another --port"
    number = error.errno or 0  # below 0 for a name that is not found: the resolver has numbers of its own
    return os.strerror(number) if number > 0 else "no such host"


def _welcome(gateway: Sandbox) -> list[str]:
    """Return the lines to print. Those for one API can be pasted into a shell, also after those for another one."""
    variables = _read_environment(gateway)
    url = variables["OCA_SMS_BASE_URL"]
    if _is_beyond_loopback(url):
        variables["OCA_SMS_ALLOW_HTTP"] = "1"
    if host := _find_proxied_host(url):
        variables["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), host]))
    inbox = urlsplit(url)._replace(path="/").geturl()
    account = f"user {gateway.username}, password {gateway.password}"
    return [
        f"Sandbox at {url}, {account}; its inbox is {inbox} and Ctrl-C ends it.",
        "",
        _unset(gateway, _DEFAULT_API),
        *(_export({name: value}) for name, value in variables.items()),
        "",
        "# For another API, its line after those above:",
        *(f"{_unset(gateway, api)}; {_export(_read_environment(gateway, api))}" for api in _OTHER_APIS),
    ]


def _name_machine(gateway: Sandbox, host: str) -> list[str]:
    """Return a line about the machine's or container's own name, if the sandbox listens at every address."""
    if gateway.allowed_hosts or host not in _EVERY_ADDRESS:
        return []
    url = urlsplit(gateway.base_url)
    own = url._replace(netloc=f"{socket.gethostname().lower()}:{url.port}").geturl()
    return ["", f"# From other machines: export OCA_SMS_BASE_URL={own} OCA_SMS_ALLOW_HTTP=1"]


def _unset(gateway: Sandbox, api: str) -> str:
    """Return the command that removes the variables of other APIs: with one of them, a client refuses the account."""
    known = {name: None for other in (_DEFAULT_API, *_OTHER_APIS) for name in gateway.environment(other)}
    return " ".join(["unset", *(name for name in known if name not in gateway.environment(api))])


def _read_environment(gateway: Sandbox, api: str = _DEFAULT_API) -> dict[str, str]:
    """Return a client's variables. The URL has the first of the allowed names: others reach the sandbox by it."""
    variables = gateway.environment(api)
    for name in [*gateway.allowed_hosts][:1]:
        url = urlsplit(variables["OCA_SMS_BASE_URL"])
        variables["OCA_SMS_BASE_URL"] = url._replace(netloc=f"{name}:{url.port}").geturl()
    return variables


def _export(variables: Mapping[str, str]) -> str:
    return " ".join(["export", *(f"{name}={shlex.quote(value)}" for name, value in variables.items())])


def _find_proxied_host(url: str) -> str:
    """Return the host of a URL that the environment sends through a proxy, which cannot reach it; else ""."""
    host, proxies = urlsplit(url).hostname or "", urllib.request.getproxies()
    return host if {"http", "all"} & set(proxies) and not urllib.request.proxy_bypass(host) else ""


def _is_beyond_loopback(url: str) -> bool:
    """Tell whether the client refuses plain http there unless it is allowed to."""
    try:
        check_base_url(url, allow_http=False)
    except ValueError:
        return True
    return False
