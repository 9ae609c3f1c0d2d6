"""The client: it checks, waits for its turn, sends, and says what became of it."""

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, Unpack, overload

import httpx

from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallState
from oca_sms_async._dispatch import Dispatcher
from oca_sms_async._journal import Journal, JournalRun
from oca_sms_async._limiter import RateLimiter, TokenBucket
from oca_sms_async._models import SendReceipt, Sms
from oca_sms_async._observing import SendEvent, attach
from oca_sms_async._options import ClientOptions, EnvironmentOptions, options_from
from oca_sms_async._outcomes import BulkReport, ReconcileReport
from oca_sms_async._phone import check_region
from oca_sms_async._questions import Questions
from oca_sms_async._retry import RetryPolicy
from oca_sms_async._sending import Sender
from oca_sms_async._settings import ENVIRONMENT, Environment, check_base_url, positive_seconds
from oca_sms_async._statistics import Statistics
from oca_sms_async._waiting import Priority
from oca_sms_async._wire import Api


class AsyncOcaSms(Questions):
    """An asynchronous client of OCA's SMS gateway, for one account.

    Create one client at start-up and share it: each client counts its rate limit alone. It may be made without a
    running loop. Leave it by `async with` or `aclose()`; afterwards a send is a `RuntimeError`.

    `username`, an e-mail address, and `password` are those of SMS Regular V1. `api` is the value of any API, such as
    `RegularV1(username, password)`; credentials in both ways are a `ValueError`. `base_url` defaults to the API's own.
    `limiter` defaults to a `TokenBucket` of the client's own; clients that share a limiter keep one limit together.
    `retry` says how HTTP 500 with code 13 is repeated. `timeout` is in seconds for one attempt in total. A lent
    `http_client` is used as it is and never closed. `allow_http` permits plain http beyond loopback. `region` is how a
    number without country code is read. `journal` remembers sends with a key; it is lent, and never closed.
    `observer` is told of every send that ended.

    A wrong value is a `ValueError` that names it and shows no secret, and an `observer` that must be awaited is a
    `TypeError`. Certificates that cannot be read, because `SSL_CERT_FILE` leads nowhere, are an `OSError`.
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
        base_url: str | None = None,
        limiter: RateLimiter | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
        timeout: float = 10.0,
        http_client: httpx.AsyncClient | None = None,
        allow_http: bool = False,
        region: str = "ID",
        journal: Journal | None = None,
        observer: Callable[[SendEvent], None] | None = None,
    ) -> None:
        if api is None:
            from oca_sms_async._wire._regular_v1 import RegularV1  # noqa: PLC0415 - with the first value of the API

            api = RegularV1(username, password)  # type: ignore[arg-type] # it refuses None, and names the field
        elif username is not None or password is not None:
            raise ValueError("api must stand alone: it holds its credentials")
        del username, password  # an error tracker would show them if a line below raises
        check_region(region)
        self._api = api
        self._timeout = positive_seconds("timeout", timeout)
        self._dispatcher = Dispatcher(
            api,
            check_base_url(api.base_url if base_url is None else base_url, allow_http=allow_http),
            limiter=TokenBucket() if limiter is None else limiter,
            policy=retry,
            lent=http_client,
        )
        self.journal: Final = journal
        self._sender = Sender(
            api, self._dispatcher, region=region, timeout=self._timeout, journal=journal, observer=observer
        )
        attach(observer, self.statistics)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = ENVIRONMENT, **options: Unpack[EnvironmentOptions]) -> Self:
        """Return a client with the environment's account, and with `options` for the rest; an option given wins.

        `OCA_SMS_API` names the API: `regular-v1` (the default), `regular-v2`, `premium-v1` or `premium-v2`. V1 needs
        `OCA_SMS_USERNAME` and `OCA_SMS_PASSWORD`, V2 needs `OCA_SMS_TOKEN`, and Premium also `OCA_SMS_SENDER_ID`.
        `OCA_SMS_BASE_URL` and `OCA_SMS_ALLOW_HTTP` (1, true, yes, on, or their opposites) may be there. `ValueError`
        names each variable that is missing or belongs to another API, or the field that is wrong.
        """
        variables = Environment(environ)
        del environ  # an error tracker would serialise all of it if the next line raises
        return cls(**options_from(variables, options))

    async def __aenter__(self) -> Self:
        self._dispatcher.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client and its connections, those under a request too; a lent `http_client` stays open."""
        await self._dispatcher.aclose()

    def __repr__(self) -> str:
        return f"<AsyncOcaSms {self._dispatcher!r}>"

    async def send(
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

        `phone` in any usual spelling. `expires_in` (seconds, or a timedelta) and `expires_at` (an aware datetime) bound
        the whole call, waiting and repetitions included; the earlier one counts. A message that cannot be sent by then
        ends in an `ExpiredError`. A cancellation from outside gives no answer: then treat the message as possibly sent,
        or use `expires_in` instead. A `priority` that does not exist is a `ValueError`.

        `key` is your own name for the message, and the client's journal decides by it; without a journal it is a
        `ValueError`. A key that was sent returns its earlier receipt. One in doubt is a `DeliveryUnknownError`. Neither
        sends anything. Another number or text under such a key is an `InvalidMessageError`. A key that is new, or
        certainly was not sent, is sent. Of several sends of a key at once, on all machines that share the journal, one
        makes a request; the others wait for its outcome. `JournalError` if the journal cannot be used: nothing was
        sent.
        """
        self._dispatcher.check_open()
        return await self._sender.send(
            phone, message, CallState(), Priority(priority), key=key, expires_in=expires_in, expires_at=expires_at
        )

    def bulk(
        self,
        messages: Iterable[Sms] | AsyncIterable[Sms],
        *,
        concurrency: int = 32,
        journal: Journal | None = None,
        resend_unknown: bool = False,
    ) -> AbstractAsyncContextManager[BulkRun]:
        """Return a context manager that sends while it is open; it hands out the run, which yields the outcomes as
        they come.

        `concurrency` messages, and at most 192, are under way at once, in the lane that lets interactive ones pass. At
        most twice as many are pulled from `messages` whose outcome was not taken. Each pulled message has exactly one
        outcome.

        The run stops by itself when the account is refused, a shared limiter or the journal is gone, no connection
        comes about, or `concurrency` messages in a row get no answer in time. Then `run.stopped_by` is the error, and
        messages that the run had not started are `Skipped`. Leaving the block waits for the requests on the wire and
        starts nothing new; leaving it by an exception cancels them. `ValueError` for a `concurrency` below 1,
        `TypeError` for `messages` that cannot be iterated over. An exception of `messages` itself comes after the
        outcomes of all that was pulled.

        With a `journal`, a message that an earlier run sent is `Skipped` with its receipt. One that it left in doubt
        is `Failed` with a `DeliveryUnknownError`, or sent again if `resend_unknown`. A message is identified by its
        `key`, else by number, text and order among identical messages. A key of another number or text is an
        `InvalidMessageError`, its repetition within a run is `Skipped`. `JournalError` if the journal cannot be used,
        `ValueError` for `resend_unknown` without one.
        """
        self._dispatcher.check_open()
        run = self._journal_run(journal, resend_unknown=resend_unknown)
        return BulkRun(self._sender.send_sms, messages, concurrency, run, slots=self._dispatcher.bulk_slots)

    async def send_many(
        self,
        messages: Iterable[Sms] | AsyncIterable[Sms],
        *,
        concurrency: int = 32,
        journal: Journal | None = None,
        resend_unknown: bool = False,
    ) -> BulkReport:
        """Send all messages as `bulk` does and return every outcome, in input order; errors as those of `bulk`."""
        async with self.bulk(messages, concurrency=concurrency, journal=journal, resend_unknown=resend_unknown) as run:
            return await run.report()

    async def reconcile(self, journal: Journal, messages: Iterable[Sms] | AsyncIterable[Sms]) -> ReconcileReport:
        """Look doubtful messages of the journal up in the gateway's history, and note as sent those that it finds.

        `messages` are those that the journal's runs were given, in the same order. One record settles one message, by
        number, text and date (two minutes earlier to an hour later, because clocks differ). A record that may be the
        second copy of a message settles no other. A message that is not found stays in doubt: the history may lag or be
        incomplete. Errors as those of `history`, and `JournalError`; they change nothing. `UnsupportedError` comes
        first, even if nothing is in doubt.
        """
        from oca_sms_async._reconcile import reconcile  # noqa: PLC0415 - few programs ask

        self._api.history()  # raises where there is none
        return await reconcile(
            JournalRun(journal, self._sender.normalize), messages, self._sender.normalize, self.history
        )

    def statistics(self) -> Statistics:
        """Return counts of this client's sends, as a frozen value."""
        return self._dispatcher.counts.statistics()

    def _journal_run(self, journal: Journal | None, *, resend_unknown: bool) -> JournalRun | None:
        if journal is not None:
            return JournalRun(journal, self._sender.normalize, seconds=self._timeout, resend_unknown=resend_unknown)
        if resend_unknown:
            raise ValueError("resend_unknown needs a journal: it is about what an earlier run left in doubt")
        return None
