"""The public face cannot drift: its names, signatures and docstrings, and the cost of its import."""

import ast
import asyncio
import contextlib
import difflib
import importlib
import importlib.metadata
import inspect
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints
from unittest import mock
from urllib.parse import unquote, urlsplit

import public_api
import pytest

import oca_sms_async
from oca_sms_async import (
    AsyncOcaSms,
    ExpiredError,
    InvalidMessageError,
    LimiterUnavailableError,
    OcaSmsError,
    Priority,
    RetryPolicy,
    Sms,
    SqliteJournal,
    TokenBucket,
    Unlimited,
    check_message,
    segments,
)
from oca_sms_async.aiohttp import aiohttp_client
from oca_sms_async.blocking import OcaSms
from oca_sms_async.redis import RedisTokenBucket
from oca_sms_async.sandbox import Sandbox

RECORDED = Path(__file__).parent / "api.txt"
TYPED_USE = Path(__file__).parent / "typing" / "api.py"
MODULES = public_api.modules()
MEMBERS = {member.name: member for member in public_api.members()}
CALLABLE = {name: member for name, member in MEMBERS.items() if inspect.isfunction(member.value)}
CALLED_BY_RUNS = {"begin_run", "lookup_next", "intend", "settle", "find", "end_run"}  # users do not call them

each_module = pytest.mark.parametrize("name", MODULES)


# Names and signatures


def test_the_package_under_test_is_the_installed_one() -> None:
    """If the package was installed from a wheel, no folder of sources takes its place."""
    installed = importlib.metadata.distribution("oca-sms-async")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    editable = origin.get("dir_info", {}).get("editable", False)
    place = Path(unquote(urlsplit(origin["url"]).path)) if editable else Path(str(installed.locate_file("")))
    assert Path(oca_sms_async.__file__).resolve() == (place / "oca_sms_async" / "__init__.py").resolve()
    assert editable or place.name == "site-packages"


def test_modules_beside_the_facade() -> None:
    """A module without an underscore is public, so each of them must be meant."""
    extras = {name.removeprefix("oca_sms_async.") for name in MODULES[1:]}
    assert extras >= {"aiohttp", "blocking", "cli", "opentelemetry", "postgres", "queue", "redis", "sandbox"}
    assert extras <= {"aiohttp", "blocking", "cli", "opentelemetry", "postgres", "queue", "redis", "sandbox", "testing"}


@each_module
def test_exports_are_sorted_and_complete(name: str) -> None:
    """`__all__` is sorted, all its names can be imported, and no public name is missing."""
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(set(module.__all__))
    imported: dict[str, Any] = {}
    exec(f"from {name} import *", imported)
    assert set(imported) - {"__builtins__"} == set(module.__all__)
    assert public_api.public_names(module) == set(module.__all__) - {"__version__"}


def test_every_signature_is_the_recorded_one() -> None:
    """A change to a class, function, method, property or field changes the record too."""
    recorded = RECORDED.read_text(encoding="utf-8").splitlines()
    found = [member.line for member in MEMBERS.values()]
    difference = "\n".join(difflib.unified_diff(recorded, found, "recorded", "found", lineterm="", n=0))
    assert not difference, f"if you mean it: python tests/public_api.py > tests/api.txt\n{difference}"


@pytest.mark.parametrize("name", MEMBERS)
def test_types_can_be_read_at_run_time(name: str) -> None:
    """`get_type_hints` works on every class and function, and each parameter and result has a type."""
    value = MEMBERS[name].value
    if inspect.isclass(value):
        get_type_hints(value)
    elif inspect.isfunction(value):
        named = inspect.signature(value).parameters.keys() - {"self", "cls"} | {"return"}
        assert named <= get_type_hints(value).keys()


def test_mypy_sees_every_public_name_in_use() -> None:
    """The file in which mypy checks typed use has every export, method, property and field."""
    names = set[str]()
    for node in ast.walk(ast.parse(TYPED_USE.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                names.add(name)
            case ast.MatchClass(kwd_attrs=attributes):
                names.update(attributes)
    public = {name.rpartition(".")[2] for name in MEMBERS if not name.startswith("oca_sms_async.sandbox.")}
    exports = {name for module in map(importlib.import_module, MODULES) for name in module.__all__}
    assert {name for name in public | exports if not name.endswith("__")} - CALLED_BY_RUNS <= names


# Docstrings

# The word that the sentence on a quantity must hold. A quantity is a float or a timedelta.
UNITS = {
    "capacity": "burst",
    "deadline": "loop's",
    "expires_in": "seconds",
    "failed_share": "share",
    "faults": "probabilit",
    "initial_wait": "seconds",
    "interval": "seconds",
    "lateness": "seconds",
    "latency": "seconds",
    "limiter_wait": "seconds",
    "max_wait": "seconds",
    "oldest_age": "seconds",
    "paused_for": "seconds",
    "rate": "requests per second",
    "retry_after": "seconds",
    "seconds": "seconds",
    "sent_for": "seconds",
    "submitted_for": "seconds",
    "timeout": "seconds",
    "tokens": "in the bucket",
    "took": "seconds",
    "waited": "seconds",
}


QUANTITIES = [
    (name, parameter)
    for name, member in MEMBERS.items()
    for parameter, kind in member.parameters.items()
    if any(part in (float, timedelta) for part in (kind, *get_args(kind)))
]


WITHOUT_DOCSTRING = {"oca_sms_async.Outcome", "oca_sms_async.postgres.SCHEMA", "oca_sms_async.sandbox.FAULTS"}


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in WITHOUT_DOCSTRING])
def test_everything_is_documented(name: str) -> None:
    """Each class, function, method and property has a docstring. A class's docstring covers its fields."""
    assert (MEMBERS[name].doc or "").strip() or name.endswith("__")


@pytest.mark.parametrize(("name", "quantity"), QUANTITIES)
def test_quantities_have_units(name: str, quantity: str) -> None:
    """A sentence about the quantity, or about its list, has its unit."""
    doc = " ".join((MEMBERS[name].doc or "").split())
    about = [part for part in re.split(r"(?<=[.;]) ", doc) if re.search(rf"\b{quantity}\b", part)]
    assert any(UNITS[quantity] in part for part in about), f"which unit has {quantity}? {doc}"


def test_units_are_of_quantities() -> None:
    """The table above has no quantity that is gone."""
    assert UNITS.keys() == {quantity for _, quantity in QUANTITIES}


PHONE, TEXT = "+6281381475159", "text"
NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - naive on purpose


def client() -> AsyncOcaSms:
    """Return a client of a port on which no server listens."""
    return AsyncOcaSms("user", "secret", base_url="http://localhost:9", limiter=Unlimited())


async def close(it: Any) -> Any:
    """Close something and return it."""
    await it.aclose()
    return it


async def send_after_closing() -> None:
    """Send with a closed client."""
    await (await close(client())).send(PHONE, TEXT)


async def journal_after_closing() -> None:
    """Begin a run with a closed journal."""
    await (await close(SqliteJournal("unused"))).begin_run()


async def two_tokens(limiter: TokenBucket) -> None:
    """Take a token, and ask for a second one that comes too late."""
    await limiter.acquire()
    await limiter.acquire(deadline=asyncio.get_running_loop().time() + 1)


async def token_after_closing() -> None:
    """Ask a closed limiter for a token."""
    await (await close(RedisTokenBucket("redis://localhost:9", name="x"))).acquire()


async def token_without_server() -> None:
    """Ask a limiter without its server for a token."""
    async with contextlib.aclosing(RedisTokenBucket("redis://localhost:9", name="x")) as limiter:
        await limiter.acquire()


async def serve_twice() -> None:
    """Serve a sandbox twice at once."""
    async with (sandbox := Sandbox()).serve(), sandbox.serve():
        pass


def aiohttp_with_a_proxy_of_another_kind() -> None:
    """Make the fast client in an environment with a proxy that it cannot use."""
    with mock.patch.dict(os.environ, {"HTTPS_PROXY": "gopher://localhost"}):
        aiohttp_client()


# Calls that must fail, with their errors. The docstring of each callee names its error.
REFUSALS: list[tuple[str, type[Exception], Callable[[], object]]] = [
    ("AsyncOcaSms", ValueError, lambda: AsyncOcaSms("", "secret")),
    ("AsyncOcaSms", ValueError, lambda: AsyncOcaSms("user", "secret", timeout=0)),
    ("AsyncOcaSms", TypeError, lambda: AsyncOcaSms("user", "secret", observer=cast(Any, finish))),
    ("AsyncOcaSms", RuntimeError, send_after_closing),
    ("AsyncOcaSms.from_env", ValueError, lambda: AsyncOcaSms.from_env({})),
    ("AsyncOcaSms.send", OcaSmsError, lambda: client().send("1", TEXT)),
    ("AsyncOcaSms.send", OcaSmsError, lambda: client().send(PHONE, " ")),
    ("AsyncOcaSms.send", ExpiredError, lambda: client().send(PHONE, TEXT, expires_in=0)),
    ("AsyncOcaSms.send", ValueError, lambda: client().send(PHONE, TEXT, priority=cast(Priority, 7))),
    ("AsyncOcaSms.history", ValueError, lambda: client().history(timeout=0)),
    ("AsyncOcaSms.history", OcaSmsError, lambda: client().history()),
    ("AsyncOcaSms.status", ValueError, lambda: client().status(" ")),
    ("AsyncOcaSms.status", OcaSmsError, lambda: client().status("uid")),
    ("AsyncOcaSms.wait_for_status", TypeError, lambda: client().wait_for_status("uid", "sent")),
    ("AsyncOcaSms.wait_for_status", ValueError, lambda: client().wait_for_status("uid", set())),
    ("AsyncOcaSms.wait_for_status", ValueError, lambda: client().wait_for_status("uid", {"sent"}, interval=0)),
    ("AsyncOcaSms.wait_for_status", OcaSmsError, lambda: client().wait_for_status("uid", {"sent"})),
    ("AsyncOcaSms.find_in_history", ValueError, lambda: client().find_in_history(Sms(PHONE, TEXT), since=NOON)),
    (
        "AsyncOcaSms.find_in_history",
        InvalidMessageError,
        lambda: client().find_in_history(Sms("1", TEXT), since=NOON.astimezone()),
    ),
    ("AsyncOcaSms.bulk", ValueError, lambda: client().bulk([], concurrency=0)),
    ("AsyncOcaSms.bulk", ValueError, lambda: client().bulk([], resend_unknown=True)),
    ("AsyncOcaSms.bulk", TypeError, lambda: client().bulk(cast(Any, 7))),
    ("AsyncOcaSms.send_many", ValueError, lambda: client().send_many([], concurrency=0)),
    ("AsyncOcaSms.send_many", TypeError, lambda: client().send_many(cast(Any, 7))),
    ("SqliteJournal", ValueError, lambda: SqliteJournal("")),
    ("SqliteJournal", RuntimeError, journal_after_closing),
    ("SqliteJournal.begin_run", RuntimeError, journal_after_closing),
    ("RetryPolicy", ValueError, lambda: RetryPolicy(max_attempts=0)),
    ("RetryPolicy", ValueError, lambda: RetryPolicy(max_wait=math.inf)),
    ("TokenBucket", ValueError, lambda: TokenBucket(0)),
    ("TokenBucket.acquire", TimeoutError, lambda: two_tokens(TokenBucket(0.1))),
    ("TokenBucket.pause", ValueError, lambda: TokenBucket().pause(-1)),
    ("Unlimited.acquire", TimeoutError, lambda: Unlimited().acquire(deadline=-1)),
    ("check_message", TypeError, lambda: check_message(cast(str, 7))),
    ("check_message", ValueError, lambda: check_message(TEXT, brand=" ")),
    ("segments", TypeError, lambda: segments(cast(str, 7))),
    ("aiohttp.aiohttp_client", ValueError, aiohttp_with_a_proxy_of_another_kind),
    ("blocking.OcaSms", ValueError, lambda: OcaSms("", "secret")),
    ("blocking.OcaSms.from_env", ValueError, lambda: OcaSms.from_env({})),
    ("blocking.OcaSms.send_many", TypeError, lambda: OcaSms("user", "secret").send_many(cast(Any, 7))),
    ("redis.RedisTokenBucket", ValueError, lambda: RedisTokenBucket("redis://localhost:9", name="")),
    ("redis.RedisTokenBucket", LimiterUnavailableError, token_without_server),
    ("redis.RedisTokenBucket.acquire", LimiterUnavailableError, token_without_server),
    ("redis.RedisTokenBucket.aclose", RuntimeError, token_after_closing),
    ("redis.RedisTokenBucket.pause", ValueError, lambda: RedisTokenBucket("redis://localhost:9", name="x").pause(-1)),
    ("sandbox.Sandbox", ValueError, lambda: Sandbox(quota=-1)),
    ("sandbox.Sandbox.base_url", RuntimeError, lambda: Sandbox().base_url),
    ("sandbox.Sandbox.serve", RuntimeError, serve_twice),
]


async def finish(call: Callable[[], object]) -> None:
    """Make a call, and await its result if it is awaitable."""
    outcome = call()
    if inspect.isawaitable(outcome):
        await outcome


def read_doc(name: str) -> str:
    """Return a docstring and those that it refers to, as in «errors as those of `status`»."""
    member = MEMBERS[name]
    doc = member.doc or ""
    referred = re.findall(r"\berrors\s+as\s+those\s+of\s+`(\w+)`", doc, re.IGNORECASE)
    return "\n".join([doc, *(read_doc(f"{member.owner}.{method}") for method in referred)])


@pytest.mark.parametrize(
    ("name", "error", "call"), REFUSALS, ids=[f"{name} {error.__name__}" for name, error, _ in REFUSALS]
)
async def test_refusals_are_documented(name: str, error: type[Exception], call: Callable[[], object]) -> None:
    """The docstring of the callee names the error of each bad call."""
    with pytest.raises(error) as caught:
        await finish(call)
    told = set(re.findall(r"`(\w+)`", read_doc(f"oca_sms_async.{name}")))
    assert told & {kind.__name__ for kind in type(caught.value).__mro__}


@pytest.mark.parametrize("name", CALLABLE)
def test_each_raised_error_is_documented(name: str) -> None:
    """The docstring of a public function names each error that it raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(CALLABLE[name].value)))
    raised = {
        ast.unparse(node.exc.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }
    assert raised <= set(re.findall(r"\w+", read_doc(name)))


# The cost of an import


# These belong to extras, except cattrs and phonenumbers, which are imported when the first client is made.
WAITS = ["aiohttp", "cattrs", "cyclopts", "httpx_aiohttp", "phonenumbers", "redis", "rich", "starlette"]


def modules_of(statement: str, waiting: list[str]) -> set[str]:
    """Return the modules that a statement loads in a fresh process, in which those that wait are missing."""
    script = f"import sys; sys.modules.update(dict.fromkeys({waiting})); {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split()) - set(waiting)


def test_core_imports_no_extra() -> None:
    """Importing the client needs httpx, attrs and tenacity, and neither a journal's file nor the rules of all numbers.

    It loads no public module of the package beside the facade, and it does not look at metadata, which is slow.
    """
    loaded = modules_of("from oca_sms_async import AsyncOcaSms", WAITS) - modules_of("import httpx", WAITS)
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert "oca_sms_async" in foreign
    assert foreign <= {"oca_sms_async", "attr", "attrs", "tenacity"}
    ours = {name for name in loaded if name.startswith("oca_sms_async.")}
    assert {name for name in ours if not name.startswith("oca_sms_async._")} == set()
    seldom = {"_segments", "_journal._sqlite", "_spelling", "_wire._converter", "_wire._environment"}
    assert ours & {f"oca_sms_async.{name}" for name in seldom} == set()
    assert loaded & {"importlib.metadata", "multiprocessing", "sqlite3", "unittest", "uvicorn"} == set()


def test_the_facade_alone_imports_no_room() -> None:
    """A program pays for a room when it uses a name of it, and `oca-sms --help` uses none."""
    loaded = modules_of("import oca_sms_async", ["httpx", "attrs"]) - modules_of("import typing, importlib", [])
    assert loaded == {"oca_sms_async"}


def test_type_checkers_and_the_facade_agree() -> None:
    """Each public name comes out of the room from which type checkers see it imported, and its own room has it."""
    tree = ast.parse(Path(oca_sms_async.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name: f"oca_sms_async.{room}" for name, room in oca_sms_async._ROOM_OF.items()} == seen
    assert sorted(seen) == oca_sms_async.__all__
    for name, room in seen.items():
        assert getattr(oca_sms_async, name) is getattr(importlib.import_module(room), name)
    assert set(seen) <= set(dir(oca_sms_async))
    with pytest.raises(AttributeError, match=r"^module 'oca_sms_async' has no attribute 'AsyncOcaSm'$"):
        _ = oca_sms_async.AsyncOcaSm  # type: ignore[attr-defined] # that is what is tested


def test_a_client_imports_what_its_answers_need() -> None:
    """Once a client is made, no number, error, outcome or report imports a module: later, that could fail."""
    script = """
import sys, oca_sms_async
client = oca_sms_async.AsyncOcaSms("user", "secret")
before = set(sys.modules)
late = {"Advice", "Segments", "SqliteJournal", "PremiumV1", "PremiumV2", "RegularV2", "check_message", "segments"}
for name in set(oca_sms_async.__all__) - late - {"__version__"}:
    getattr(oca_sms_async, name)
oca_sms_async.normalize_phone("+62 813-8147-5159")
print(*(name for name in set(sys.modules) - before if not name.startswith("phonenumbers.data")))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_help_of_the_command_imports_no_room_of_a_command() -> None:
    """`oca-sms --help` is there at once: it imports neither a client nor an event loop, and no command's room."""
    script = """
import atexit, sys
before = set(sys.modules)  # a measurement of coverage has imported some
from oca_sms_async.cli import main
sys.argv = ["oca-sms", "--help"]
atexit.register(lambda: print(*(sys.modules.keys() - before), file=sys.stderr))
main()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stderr.split())
    assert "Send one message and print its receipt." in run.stdout
    assert "cyclopts" in loaded
    assert loaded & {"asyncio", "httpx", "openpyxl", "phonenumbers", "sqlite3", "starlette", "uvicorn"} == set()
    rooms = {name.removeprefix("oca_sms_async.cli.") for name in loaded if name.startswith("oca_sms_async.cli.")}
    assert rooms == {"_app", "_commands", "_console", "_endings", "_main", "_signals"}
