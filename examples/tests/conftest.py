"""The fixtures of the examples' tests. The sandbox comes from the package's own plugin."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest rewrites the asserts of a plugin, which must not be imported before
    from postgres_server import PostgresServer

# The first is the project's own: a real PostgreSQL, from PATH or out of a wheel.
pytest_plugins = ["postgres_server", "processes"]


@pytest.fixture
def empty_database(postgres: "PostgresServer") -> Iterator[str]:
    """The connection string of a fresh database without tables."""
    created = postgres.create_database()
    yield created
    postgres.drop_database(created)
