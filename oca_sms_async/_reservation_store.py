"""A limit that is kept on a server, asked within a time-out, and a second time where a connection may have died."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from oca_sms_async._errors import LimiterUnavailableError
from oca_sms_async._limiter import check_bucket
from oca_sms_async._scrub import scrub
from oca_sms_async._settings import positive_seconds

Asked: TypeAlias = asyncio.Task[tuple[bool, float]]  # whether a time was reserved, and the time


class ReservationStore(Protocol):
    """The limit itself, on a server that all processes share; `redis` has one."""

    server: str  # its name in an error's text

    async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
        """Reserve the time of one request, and return whether that was done, and the seconds until then.

        A time that is more than `patience` seconds away is returned, but not reserved. So a negative patience only
        looks. For `pause` seconds from now, the store reserves no time for any process. A `LimiterUnavailableError`
        names the cause.
        """
        ...

    async def reconnect(self) -> None:
        """Use fresh connections from now on. The old ones may be broken, or of another event loop or process."""
        ...

    async def aclose(self) -> None:
        """Close the connections, unless they were lent."""
        ...


class Reserver:
    """Asks a store within a time-out, twice if need be.

    A connection may have died without a word, and a server that became a replica goes on answering with errors over
    the old connections. So after each failure the next try uses fresh ones.
    """

    def __init__(self, store: ReservationStore, *, timeout: float) -> None:
        self._store = store
        self._timeout: Final = timeout
        self._suspect = False
        self._proven = False  # these connections have answered
        self._renewals = 0

    def suspect(self) -> None:
        """Let the next try use fresh connections."""
        self._suspect, self._proven = True, False

    async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
        """Return as the store does; `LimiterUnavailableError` if it fails twice or does not answer in time.

        If the first answer is lost on its way, its reservation is too: that costs one token.
        """
        end = asyncio.get_running_loop().time() + self._timeout
        try:
            try:
                # A connection that has answered before may be dead. A new one takes time, and gets all of it.
                async with asyncio.timeout_at(end - self._timeout / 2 if self._proven else end):
                    return await self._try(pause, patience)
            except (TimeoutError, LimiterUnavailableError):
                async with asyncio.timeout_at(end):
                    return await self._try(pause, patience)
        except TimeoutError as late:
            raise LimiterUnavailableError(self._says("did not answer in time")) from scrub(late)

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()

    async def _try(self, pause: float, patience: float) -> tuple[bool, float]:
        if self._suspect:
            self._suspect = False
            self._renewals += 1
            await self._store.reconnect()
        renewals = self._renewals
        try:
            answer = await self._store.reserve(pause, patience)
        except BaseException as error:  # a time-out and a closing cancel
            if renewals == self._renewals:  # else the present connections are other ones already
                self.suspect()
            if isinstance(error, LimiterUnavailableError) or not isinstance(error, Exception):
                raise
            # The store's library has raised: a client that was lent may be of no use in this loop.
            raise LimiterUnavailableError(self._says("cannot be used")) from scrub(error)
        self._proven = True
        return answer

    def _says(self, what: str) -> str:
        return f"the limiter's {self._store.server} {what}"


class Questions(set[Asked]):
    """The questions to a store that are under way, each in a task. `round_trip` is the seconds until an answer.

    `pause` returns the seconds for which the store is to reserve no time.
    """

    def __init__(self, reserver: Reserver, pause: Callable[[], float]) -> None:
        super().__init__()
        self.round_trip = 0.0
        self._reserver = reserver
        self._pause = pause

    def ask(self, patience: float, on_answer: Callable[[Asked], None]) -> None:
        """Ask for one reservation that is at most so many seconds away."""
        task = asyncio.get_running_loop().create_task(self._reserve(patience))
        self.add(task)
        task.add_done_callback(on_answer)

    async def _reserve(self, patience: float) -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        taken, wait = await self._reserver.reserve(self._pause(), patience)
        now = loop.time()
        self.round_trip += 0.2 * (now - asked - self.round_trip)
        return taken, now + wait


def check_shared_bucket(name: str, rate: float, capacity: float, timeout: float) -> None:
    """Raise `ValueError` that names the argument which no shared bucket can have."""
    check_bucket(rate, capacity)
    if not (isinstance(name, str) and name):
        raise ValueError("name must be a str that is not empty: it tells one account's limit from another's")
    positive_seconds("timeout", timeout)
