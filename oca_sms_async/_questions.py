"""The questions that a client asks the gateway. They send no message."""

from collections.abc import Collection
from datetime import datetime
from functools import partial

from oca_sms_async._call import CallOptions, CallState
from oca_sms_async._dispatch import Dispatcher
from oca_sms_async._models import Sms, SmsRecord
from oca_sms_async._polling import poll
from oca_sms_async._sending import Sender
from oca_sms_async._settings import positive_seconds
from oca_sms_async._waiting import Priority
from oca_sms_async._wire import Api


class Questions:
    """The part of a client that asks: history and status. It waits in the bulk lane, so that no OTP waits for it."""

    _api: Api
    _dispatcher: Dispatcher
    _sender: Sender
    _timeout: float

    @property
    def has_history(self) -> bool:
        """True if the account's API can list its messages: SMS Regular can, SMS Premium cannot."""
        return self._api.has_history

    async def history(self, *, timeout: float = 60.0) -> list[SmsRecord]:  # noqa: ASYNC109 - of one attempt, as the client's
        """Return all that the gateway keeps, in its order; an `OcaSmsError` if that does not come.

        `timeout` is in seconds for one attempt, `ValueError` unless above 0. `UnsupportedError` if the API has no
        history.
        """
        options, request = CallOptions(Priority.BULK, positive_seconds("timeout", timeout)), self._api.history()
        self._dispatcher.check_open()
        return await self._dispatcher.request(request, options, CallState(sends=False))

    async def status(self, msg_uid: str) -> SmsRecord:
        """Return the record of one message.

        `NotFoundError` if there is none, or not yet; any other `OcaSmsError` if the gateway does not say. `ValueError`
        for a blank id.
        """
        request = self._api.status(msg_uid)
        self._dispatcher.check_open()
        options = CallOptions(Priority.BULK, self._timeout)
        return await self._dispatcher.request(request, options, CallState(sends=False))

    async def wait_for_status(
        self,
        msg_uid: str,
        statuses: Collection[str],
        *,
        timeout: float = 60.0,  # noqa: ASYNC109 - the contract's own
        interval: float = 2.0,
    ) -> SmsRecord:
        """Ask every `interval` seconds until the status is one of `statuses`, and return the record.

        A message that the gateway does not know yet is asked for again. `TimeoutError` after `timeout` seconds; other
        errors as those of `status`, `ValueError` also for no status or a duration not above 0, `TypeError` for
        `statuses` in one str.
        """
        return await poll(partial(self.status, msg_uid), statuses, seconds=timeout, interval=interval)

    async def find_in_history(self, sms: Sms, *, since: datetime) -> SmsRecord | None:
        """Return the earliest record of this number and text made since then; None is no proof that it was not sent.

        `since` must be aware, else `ValueError`, and is taken two minutes earlier, because clocks differ. A record
        whose date cannot be read counts, after all those with a date. `InvalidMessageError` for an impossible number,
        else errors as those of `history`.
        """
        from oca_sms_async._reconcile import earliest  # noqa: PLC0415 - few programs ask

        if since.utcoffset() is None:
            raise ValueError("since must be an aware datetime: give it a tzinfo")
        self._sender.normalize(sms.phone)
        return earliest(await self.history(), sms, self._sender.normalize, since=since)
