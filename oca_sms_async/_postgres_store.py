"""A journal's messages in PostgreSQL. A call is one statement on any connection, which calls of its kind may share."""

import secrets
from datetime import datetime
from typing import Any, Final

from oca_sms_async._journal import JournalEntry, Lookup, Status
from oca_sms_async._postgres_connections import Connection, Connections
from oca_sms_async._postgres_lanes import Lane
from oca_sms_async._postgres_messages import (
    Claim,
    Claimable,
    Ending,
    Names,
    Row,
    found,
    read_claims,
    read_entry,
    read_lookup,
    write_claims,
    write_endings,
)
from oca_sms_async._postgres_schema import check_version, set_up
from oca_sms_async._postgres_statements import FORGET, INTEND, LOOK_UP, SETTLE
from oca_sms_async._postgres_troubles import PlainError, StaleError

# Of two that make a name at once, the second gets the salt of the first.
_MAKE: Final = """
INSERT INTO oca_sms_journal (name, salt) VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING journal, salt
"""
_PAGE: Final = 5000  # messages that one statement looks at to forget them


class Store:
    """The messages under one name. Each trouble is a `psycopg.Error`."""

    def __init__(self, connections: Connections, name: str) -> None:
        self._connections = connections
        self._name = name
        self._names: Names | None = None
        timing: Any = {"timeout": connections.timeout, "late": connections.late}
        self._lookups = Lane(self._look_up_all, **timing)
        self._claims = Lane(self._intend_all, **timing)
        self._endings = Lane(self._settle_all, **timing)

    async def set_up(self) -> None:
        """Make the tables, unless they are there."""
        connection = await self._connections.connect()
        try:
            await self._connections.answer(connection, set_up)
        finally:
            await self._connections.release(connection)

    async def open(self, connection: Connection) -> Names:
        """Return the journal's number and salt. The first use of a name makes them."""
        await check_version(connection)
        cursor = await connection.execute("SELECT journal, salt FROM oca_sms_journal WHERE name = %s", (self._name,))
        if (row := await cursor.fetchone()) is None:
            cursor = await connection.execute(_MAKE, (self._name, secrets.token_bytes(16)))
            row = await cursor.fetchone()
        self._names = Names(*found(row))
        return self._names

    def forget_names(self) -> None:
        """Read number and salt anew at the next use: the tables may have been made anew."""
        self._names = None

    async def lookup(self, key: str) -> JournalEntry | None:
        """Return the entry of a key, or None."""
        _, _, row = await self._look_up(key)
        return None if row[0] is None else read_entry(row)

    async def lookup_key(self, key: str, number: str, text: str) -> Lookup:
        """Look up a message with a key outside of any run."""
        names, identity, row = await self._look_up(key)
        return read_lookup(row, names, identity, names.of_content(number, text))

    async def intend(self, claim: Claim) -> bool:
        """Claim a message; return whether the caller got it."""
        return await self._claims.call(claim.message.names, claim.message.identity, claim)

    async def settle(self, message: Claimable, entry: JournalEntry) -> None:
        """Store the outcome of a claimed message."""
        mine = await self._endings.call(message.names, message.identity, Ending(message, entry))
        if not mine and entry.status is not Status.UNSENT:  # a claim that failed leaves nothing to settle
            raise PlainError("another sender took the message meanwhile, or it was forgotten")

    async def wait_for_end(self) -> None:
        """Return once no statement is under way. Its callers may have gone before."""
        for lane in (self._lookups, self._claims, self._endings):
            await lane.wait_for_end()

    async def forget(self, before: datetime, *, doubtful: bool) -> int:
        """Forget messages, a page after the other, and return their number."""
        names = await self.names()
        after: bytes | None = b""
        forgotten = 0
        while after is not None:
            parameters = names.parameters(before=before, doubtful=doubtful, after=after, many=_PAGE)
            ((after, gone),) = await self._perform(FORGET, parameters, repeatable=False)
            forgotten += gone
        return forgotten

    async def names(self) -> Names:
        """Return the journal's number and salt."""
        if self._names is None:
            return await self._connections.perform(self.open)
        return self._names

    async def _look_up(self, key: str) -> tuple[Names, bytes, Row]:
        names = await self.names()
        identity = names.of_key(key)
        return names, identity, await self._lookups.call(names, identity, identity)

    async def _look_up_all(self, names: Names, identities: list[bytes]) -> list[Row]:
        rows = await self._perform(LOOK_UP, names.parameters(identities=identities))
        if not rows:
            raise StaleError
        return rows

    async def _intend_all(self, names: Names, claims: list[Claim]) -> list[bool]:
        return read_claims(await self._perform(INTEND, names.parameters(**write_claims(claims))))

    async def _settle_all(self, names: Names, endings: list[Ending]) -> list[bool]:
        rows = await self._perform(SETTLE, names.parameters(**write_endings(endings)))
        return [bool(mine) for (mine,) in rows]

    async def _perform(self, query: str, parameters: dict[str, object], *, repeatable: bool = True) -> list[Row]:
        async def execute(connection: Connection) -> list[Row]:
            return await (await connection.execute(query, parameters)).fetchall()

        return await self._connections.perform(execute, repeatable=repeatable)
