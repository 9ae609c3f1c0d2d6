"""The rules: the sending of codes, their outcomes, and the checks of guesses. No HTTP."""

import hmac
import logging
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple
from uuid import UUID

from oca_sms_async import AsyncOcaSms, InvalidMessageError, InvalidRequestError, OcaSmsError
from oca_sms_async.postgres import PostgresJournal
from psycopg_pool import AsyncConnectionPool

from otp_service import store
from otp_service.codes import digest, draw_code, write_text
from otp_service.settings import Settings
from otp_service.store import Connection, Limit

Status = Literal["sent", "unknown", "not-sent", "over", "other-number"]

PATIENCE: Final = 20  # seconds that a user looks at a spinner; a code that would leave later is not sent
COOL_DOWN: Final = 60  # seconds between two SMS to a number
NUMBER_A_DAY: Final = 10
# Mobile networks put many subscribers behind one address, so its limits are loose.
ADDRESS_COOL_DOWN: Final = 1
ADDRESS_A_DAY: Final = 200
# Fraudsters have codes sent to numbers that pay them («SMS pumping»), each from an address of its own. Only a limit of
# all sends bounds that bill. Choose it from your own traffic, and let an alarm ring well before it.
ALL_A_DAY: Final = 10_000

log: Final = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """The number that a right code proves, else None and the tries that are left. A login that is over has none."""

    phone: str | None
    tries_left: int


class OtpService:
    """Sends codes and checks them. A login is a random id that the page makes for one form."""

    def __init__(
        self,
        settings: Settings,
        pool: AsyncConnectionPool[Connection],
        client: AsyncOcaSms,
        journal: PostgresJournal,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._client = client
        self._journal = journal

    async def send(self, login: UUID, number: str, address: str) -> Status:
        """Send the first code of a login. A login that has begun, by a double click say, sends nothing more.

        `number` is E.164: a number has one limit in all its spellings. `LimitedError` if a limit refuses.
        """
        code = draw_code()
        limits = self._limits(number, address)
        async with self._pool.connection() as connection:
            begun = await store.begin(connection, login, number, self._digest(login, code))
            if begun:
                await store.spend(connection, limits)
        # Committed: a crash from here on costs the user a code, and nobody a second SMS.
        if begun:
            return await self._dispatch(login, 1, number, code, limits)
        return await self._look_up(login, number)

    async def resend(self, login: UUID, address: str) -> Status:
        """Send a new code for a login; the earlier one is no longer right. `LimitedError` if a limit refuses."""
        code = draw_code()
        async with self._pool.connection() as connection:
            renewed = await store.renew(connection, login, self._digest(login, code))
            if renewed is None:
                return "over"
            limits = self._limits(renewed.phone, address)
            await store.spend(connection, limits)
        return await self._dispatch(login, renewed.sends, renewed.phone, code, limits)

    async def verify(self, login: UUID, code: str) -> Verdict:
        """Tell whether a code is right. A right code is right once.

        The try is committed before anything is compared, so no crash and no second request gives it back.
        """
        async with self._pool.connection() as connection:
            guess = await store.take_try(connection, login)
        if guess is None:
            return Verdict(None, 0)
        mine = self._digest(login, code)
        # Constant time: a comparison that ends at the first difference tells how much of a guess was right.
        if not hmac.compare_digest(mine, guess.digest):
            return Verdict(None, guess.tries_left)
        async with self._pool.connection() as connection:
            return Verdict(await store.use(connection, login, mine), 0)

    async def purge(self) -> None:
        """Forget old numbers, and keys that no page asks for any more."""
        async with self._pool.connection() as connection:
            await store.purge(connection)
        await self._journal.forget(datetime.now(UTC) - timedelta(days=2), doubtful=True)

    async def _dispatch(self, login: UUID, send: int, number: str, code: str, limits: list[Limit]) -> Status:
        """Send one code and return what the user may be told of it."""
        text = write_text(self._settings.brand, self._settings.domain, code)
        try:
            await self._client.send(number, text, key=_key(login, send), expires_in=PATIENCE)
        except OcaSmsError as error:
            log.warning("a code was not sent, or perhaps: %s", error)  # the library's errors hold no number and no text
            if error.may_have_been_sent:
                return "unknown"
            if not isinstance(error, InvalidMessageError | InvalidRequestError):  # those are the number's fault
                async with self._pool.connection() as connection:
                    await store.give_back(connection, limits)
            return "not-sent"
        return "sent"

    async def _look_up(self, login: UUID, number: str) -> Status:
        """Return the outcome of a login's newest code. All workers share the journal, so any of them can answer."""
        async with self._pool.connection() as connection:
            known = await store.find(connection, login)
        if known is None or known.phone != number:
            return "other-number"
        entry = await self._journal.lookup(_key(login, known.sends))
        match entry.status if entry else "doubtful":  # without an entry, the other request is just about to send
            case "sent":
                return "sent"
            case "unsent":
                return "not-sent"
            case _:
                return "unknown"

    def _digest(self, login: UUID, code: str) -> bytes:
        return digest(self._settings.secret, "code", str(login), code)

    def _limits(self, number: str, address: str) -> list[Limit]:
        secret = self._settings.secret
        return [
            Limit("number", digest(secret, "number", number), COOL_DOWN, NUMBER_A_DAY),
            Limit("address", digest(secret, "address", address), ADDRESS_COOL_DOWN, ADDRESS_A_DAY),
            Limit("all", digest(secret, "all"), 0, ALL_A_DAY),
        ]


def _key(login: UUID, send: int) -> str:
    return f"otp-{login}-{send}"
