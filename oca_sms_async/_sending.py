"""One message on its way: checked, sent, counted and told of. Every send of a client begins and ends here."""

import asyncio
from collections.abc import Awaitable
from datetime import datetime, timedelta
from functools import partial

from attrs import evolve

from oca_sms_async._call import CallOptions, CallState
from oca_sms_async._deadline import find_deadline
from oca_sms_async._dispatch import Dispatcher
from oca_sms_async._journal import ClaimLostError, Journal
from oca_sms_async._keyed import KeyedSends
from oca_sms_async._log import log
from oca_sms_async._messages import check_key, check_number, check_text
from oca_sms_async._models import SendReceipt, Sms
from oca_sms_async._observing import Observer, tell
from oca_sms_async._waiting import Priority
from oca_sms_async._wire import Api, Request


class Sender:
    """Sends messages through a dispatcher, for one account.

    `region` is how a number without country code is read. `timeout` bounds one attempt, in seconds.
    """

    def __init__(
        self,
        api: Api,
        dispatcher: Dispatcher,
        *,
        region: str,
        timeout: float,
        journal: Journal | None,
        observer: Observer | None,
    ) -> None:
        self._api = api
        self._dispatcher = dispatcher
        self._region = region
        self._timeout = timeout
        self._keyed = None if journal is None else KeyedSends(journal, seconds=timeout)
        self._observer = observer

    def normalize(self, phone: str) -> str:
        """Return the E.164 number of a phone in any spelling."""
        return check_number(phone, self._region)

    def send_sms(self, sms: Sms, call: CallState) -> Awaitable[SendReceipt]:
        """Send one message of a bulk."""
        return self.send(sms.phone, sms.message, call, Priority.BULK, expires_at=sms.expires_at)

    async def send(
        self,
        phone: str,
        message: str,
        call: CallState,
        priority: Priority,
        *,
        key: str | None = None,
        expires_in: float | timedelta | None = None,
        expires_at: datetime | None = None,
    ) -> SendReceipt:
        """Send one message and return its receipt.

        With a `key`, the journal decides. A key without a journal is a `ValueError`.
        """
        if key is not None and self._keyed is None:
            raise ValueError("key needs a journal: give the client one, AsyncOcaSms(…, journal=…)")
        began = 0.0 if self._observer is None else asyncio.get_running_loop().time()
        number: str | None = None
        end: BaseException | None = None
        try:
            until = find_deadline(expires_in=expires_in, expires_at=expires_at)
            number = self.normalize(phone)
            check_text(message)
            check_key(key)
            options, request = CallOptions(priority, self._timeout, until, number), self._api.send(number, message)
            if key is None or self._keyed is None:
                return _count_attempts(await self._dispatcher.request(request, options, call), call)
            send = partial(self._request, request, options)
            return await self._keyed.send(key, number, message, deadline=options.until, send=send, call=call)
        except BaseException as error:
            end = error
            if isinstance(error, asyncio.CancelledError):
                # A cancellation has no other way to answer.
                answer = "the message may have been sent" if call.may_have_been_sent else "this send made no request"
                error.add_note(f"oca-sms-async: {answer}")
                if call.may_have_been_sent:
                    log("send.cancelled", phone=number, attempt=call.attempts)
            raise
        finally:
            # A message that another run or send got is that one's.
            ended_here = not isinstance(end, ClaimLostError) and self._dispatcher.counts.note(call, end)
            if ended_here and self._observer is not None:
                tell(self._observer, call, end, priority, asyncio.get_running_loop().time() - began)
            del end  # a traceback that holds this frame would hold itself

    async def _request(self, request: Request[SendReceipt], options: CallOptions, call: CallState) -> SendReceipt:
        return _count_attempts(await self._dispatcher.request(request, options, call), call)


def _count_attempts(receipt: SendReceipt, call: CallState) -> SendReceipt:
    return receipt if call.attempts == 1 else evolve(receipt, attempts=call.attempts)
