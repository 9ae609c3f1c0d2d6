"""The client for threads: Django, Flask, Celery and scripts. In asynchronous code take `AsyncOcaSms`."""

import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from oca_sms_async._callers_messages import CallersMessages
from oca_sms_async._client import AsyncOcaSms
from oca_sms_async._connections import leave_to_parent
from oca_sms_async._errors import ClientClosedError
from oca_sms_async._journal import Journal
from oca_sms_async._loop_thread import LoopThread, starting
from oca_sms_async._models import SendReceipt, Sms, SmsRecord
from oca_sms_async._options import ClientOptions, EnvironmentOptions, options_from
from oca_sms_async._outcomes import BulkReport, Skipped
from oca_sms_async._settings import ENVIRONMENT, Environment
from oca_sms_async._statistics import Statistics
from oca_sms_async._waiting import Priority
from oca_sms_async._wire import Api

__all__ = ["OcaSms"]

_T = TypeVar("_T")


class OcaSms:
    """A client of OCA's SMS gateway for threads, with the arguments and the errors of `AsyncOcaSms`.

    Create one client for a process and share it between all threads: together they keep one rate limit. It starts an
    event loop in a thread of its own with the first call. A forked child makes its own loop, connections and limit with
    its first call; processes that must share one limit need a limiter such as `RedisTokenBucket`. `observer` is called
    in the loop's thread.

    An exception that interrupts the calling thread, such as a Ctrl-C or Celery's soft time limit, cancels the call and
    waits for its end. A note on the exception then says whether the message of a `send` may have been sent.

    Leave the client by `with` or `close()`; afterwards a send is a `RuntimeError`. The end of the process closes it as
    well. A wrong value is a `ValueError` that names it and shows no secret. Certificates that cannot be read, because
    `SSL_CERT_FILE` leads nowhere, are an `OSError`. A call from the loop's own thread, for example by the observer, is
    a `RuntimeError`.
    """

    @overload
    def __init__(self, username: str, password: str, **options: Unpack[ClientOptions]) -> None: ...
    @overload
    def __init__(self, *, api: Api, **options: Unpack[ClientOptions]) -> None: ...
    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        *,
        api: Api | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        if api is None:
            from oca_sms_async._wire._regular_v1 import RegularV1  # noqa: PLC0415 - with the first value of the API

            api = RegularV1(username, password)  # type: ignore[arg-type] # it refuses None, and names the field
        elif username is not None or password is not None:
            raise ValueError("api must stand alone: it holds its credentials")
        del username, password  # an error tracker would show them if a line below raises
        self._api = api
        self._options = options
        self._client = AsyncOcaSms(api=api, **options)
        self._thread: LoopThread | None = None
        self._closed = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = ENVIRONMENT, **options: Unpack[EnvironmentOptions]) -> Self:
        """Return a client with the environment's account, and with `options` for the rest; an option given wins.

        The variables are those of `AsyncOcaSms.from_env`. `ValueError` names each variable that is missing or belongs
        to another API, or the field that is wrong.
        """
        variables = Environment(environ)
        del environ  # an error tracker would serialise all of it if the next line raises
        return cls(**options_from(variables, options))

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        thread = vars(self).get("_thread")
        if thread is not None and thread.is_here() and not self._closed:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<OcaSms {self._client!r}>" if not self._closed else "<OcaSms closed>"

    def close(self) -> None:
        """Close the client and its connections, and end its thread; a second call does nothing.

        Calls of other threads end with it, each with its answer: a send that may be on its way is a
        `DeliveryUnknownError`. A lent `http_client`, `journal` or `limiter` stays open. The requests on a lent
        `http_client` end by themselves, and `close` waits for them.
        """
        with starting():  # a thread that starts now is seen below
            self._closed = True
        if self._thread is not None:
            self._thread.leave()
            self._thread.join()

    def send(
        self,
        phone: str,
        message: str,
        *,
        key: str | None = None,
        expires_in: float | timedelta | None = None,
        expires_at: datetime | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> SendReceipt:
        """Send one message and return the gateway's receipt; every failure is an `OcaSmsError`.

        All is as with `AsyncOcaSms.send`: `expires_in` (seconds, or a timedelta) and `expires_at` (an aware datetime)
        bound the whole call, and the journal decides about a message with a `key`. A `priority` that does not exist is
        a `ValueError`, and so is a `key` without a journal.
        """

        def send(client: AsyncOcaSms) -> Awaitable[SendReceipt]:
            return client.send(phone, message, key=key, expires_in=expires_in, expires_at=expires_at, priority=priority)

        return self._call(send, sends=True)

    def send_many(
        self,
        messages: Iterable[Sms],
        *,
        concurrency: int = 32,
        journal: Journal | None = None,
        resend_unknown: bool = False,
    ) -> BulkReport:
        """Send all messages and return every outcome, in input order.

        All is as with `AsyncOcaSms.send_many`. The calling thread iterates over `messages`, so they may come from
        Django's ORM or a blocking source. `ValueError` for a `concurrency` below 1, and for `resend_unknown` without a
        journal; `TypeError` for `messages` that cannot be iterated over; `JournalError` if the journal cannot be used.
        """
        source = CallersMessages(messages)

        def send(client: AsyncOcaSms) -> Awaitable[BulkReport]:
            return client.send_many(source, concurrency=concurrency, journal=journal, resend_unknown=resend_unknown)

        report = self._call(send, sends=True, serve=source.serve)
        if (late := source.find_late()) is None:
            return report
        return BulkReport((*report.outcomes, Skipped(late, report.stopped_by)), report.stopped_by)

    def history(self, *, timeout: float = 60.0) -> list[SmsRecord]:
        """Return all that the gateway keeps, in its order; an `OcaSmsError` if that does not come.

        `timeout` is in seconds for one attempt, `ValueError` unless above 0. `UnsupportedError` if the API has no
        history.
        """
        return self._call(lambda client: client.history(timeout=timeout))

    def status(self, msg_uid: str) -> SmsRecord:
        """Return the record of one message.

        `NotFoundError` if there is none, or not yet; any other `OcaSmsError` if the gateway does not say. `ValueError`
        for a blank id.
        """
        return self._call(lambda client: client.status(msg_uid))

    def wait_for_status(
        self, msg_uid: str, statuses: Collection[str], *, timeout: float = 60.0, interval: float = 2.0
    ) -> SmsRecord:
        """Ask every `interval` seconds until the status is one of `statuses`, and return the record.

        A message that the gateway does not know yet is asked for again. `TimeoutError` after `timeout` seconds; other
        errors as those of `status`, `ValueError` also for no status or a duration not above 0, `TypeError` for
        `statuses` in one str.
        """
        return self._call(lambda client: client.wait_for_status(msg_uid, statuses, timeout=timeout, interval=interval))

    def statistics(self) -> Statistics:
        """Return counts of this client's sends in this process, as a frozen value."""
        return self._client.statistics()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError("this client is closed")

    def _call(
        self,
        make: Callable[[AsyncOcaSms], Awaitable[_T]],
        *,
        sends: bool = False,
        serve: Callable[[Future[Any]], None] | None = None,
    ) -> _T:
        thread = self._thread
        if thread is None or not thread.is_here():
            thread = self._start()
        return thread.call(make, sends=sends, serve=serve)

    def _start(self) -> LoopThread:
        """Start the thread of this process, once for all of its threads."""
        with starting():
            self._check_open()
            if self._thread is None or not self._thread.is_here():
                self._thread = LoopThread(self._open_client)
            return self._thread

    async def _open_client(self) -> AsyncOcaSms:
        """Return the client of this process; a child leaves one that was used to its parent."""
        if self._thread is not None and self._thread.is_of_parent():
            await self._client.__aenter__()  # it refuses a lent http_client that the parent has used
            leave_to_parent(self._client)
            self._client = AsyncOcaSms(api=self._api, **self._options)
        return self._client
