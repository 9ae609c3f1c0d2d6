"""The gateway's rules without HTTP: from the credentials and body of a request to an answer in the words of one API."""

import random
import re
from collections.abc import Sequence

import attrs

from oca_sms_async._segments import segments
from oca_sms_async.sandbox import _refusals
from oca_sms_async.sandbox._answers import Answer, Manner
from oca_sms_async.sandbox._api import Api, Operation, RawSend
from oca_sms_async.sandbox._credentials import PUBLISHED
from oca_sms_async.sandbox._faults import Fault, draw_fault, find_fault
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._inbox import Tally
from oca_sms_async.sandbox._parameters import check_phone, check_text, guess_phone, read_parameters
from oca_sms_async.sandbox._refusals import Complaint, Parameter, Refusal
from oca_sms_async.sandbox._scripts import Scripts


@attrs.frozen
class Service:
    """One API of an account. All the APIs of an account share its inbox, limit, quota and faults."""

    api: Api
    _gateway: Gateway
    _scripts: Scripts = attrs.field(repr=False)

    @property
    def is_public(self) -> bool:
        """Whether every reader of the documentation knows the secret."""
        secret = self.api.authorization.secret
        return secret(self._gateway) == secret(PUBLISHED)

    def send(self, authorization: str | None, content_type: str | None, body: bytes) -> Answer:
        """Answer a send: check the account first, then the limit, the parameters, the faults, and the quota.

        A message is delivered only if its answer is a 2xx.
        """
        raw = self.api.read_send(read_parameters(content_type, body))
        answer = self._refuse_account(authorization) or self._submit(raw)
        return self.note(answer, Operation.SEND, guess_phone(raw.phone))

    def history(self, authorization: str | None) -> Answer:
        """Answer a request for all messages that came by this API."""
        messages = (message for message in self._gateway.inbox if message.api == self.api.name)
        assert self.api.write_history is not None  # noqa: S101 - an API without a history has no path for it
        answer = self._refuse_account(authorization) or self.api.write_history(messages)
        return self.note(answer, Operation.HISTORY)

    def status(self, authorization: str | None, msg_uid: str) -> Answer:
        """Answer a request for one message that came by this API. An unknown id is not counted as a refusal."""
        if refusal := self._refuse_account(authorization):
            return self.note(refusal, Operation.STATUS)
        message = self._gateway.inbox.find(msg_uid)
        if message is None or message.api != self.api.name:
            return self.api.refuse(_refusals.UNKNOWN_ID)
        return self.api.write_status(message)

    def note(self, answer: Answer, operation: Operation, phone: str = "") -> Answer:
        """Return an answer, counted and kept if it is a refusal."""
        if answer.kind:
            self._gateway.traffic.note(answer, api=self.api.name, operation=operation.value, phone=phone)
        return answer

    def _refuse_account(self, authorization: str | None) -> Answer | None:
        """Return the refusal of a request for its credentials, its account or the limit."""
        refusal = self._check_account(authorization) or self._check_limit()
        return None if refusal is None else self.api.refuse(refusal)

    def _check_account(self, authorization: str | None) -> Refusal | None:
        if refusal := self.api.authorization.check(authorization, self._gateway):
            return refusal
        if self._gateway.unknown_user:
            return _refusals.UNKNOWN_USER
        return _refusals.ACCOUNT_EXPIRED if self._gateway.expired else None

    def _check_limit(self) -> Refusal | None:
        limit = self._gateway.rate_limit
        wait = self._gateway.traffic.wait(limit)
        return None if wait is None or limit is None else _refusals.refuse_rate(limit, wait)

    def _submit(self, raw: RawSend) -> Answer:
        phone, text = check_phone(raw.phone), check_text(raw.text)
        complaints = [it for it in (phone, text, self._check_sender(raw)) if isinstance(it, Complaint)]
        if isinstance(phone, Complaint) or isinstance(text, Complaint) or complaints:
            return self.api.refuse(_refusals.refuse_parameters(*complaints))
        complaints, tally = self._check_message(phone, text), self._gateway.inbox.tally(phone, text)
        fault = None if complaints else self._choose_fault(phone, text, tally)
        tally.note(fault.kind if fault else "")
        if complaints:
            return self.api.refuse(_refusals.refuse_parameters(*complaints))
        if fault and fault.refusal:
            answer = fault.refusal if isinstance(fault.refusal, Answer) else self.api.refuse(fault.refusal)
            return attrs.evolve(answer, reason=f"Played on purpose. {fault.sentence}")
        return self._deliver(phone, text, fault, tally)

    def _check_sender(self, raw: RawSend) -> Complaint | None:
        if not raw.has_sender or raw.sender_id == self._gateway.sender_id:
            return None
        return Complaint(raw.sender_id, "Invalid value", Parameter.SENDER)

    def _check_message(self, phone: str, text: str) -> list[Complaint]:
        complaints, template = [], self._gateway.template
        if phone in self._gateway.refused_numbers:
            complaints.append(Complaint(phone, "Invalid phone number", Parameter.PHONE))
        if template is not None and not re.fullmatch(template, text):
            msg = "Message does not match the template"
            complaints.append(Complaint(text, msg, Parameter.TEXT, is_template=True))
        return complaints

    def _choose_fault(self, phone: str, text: str, tally: Tally) -> Fault | None:
        if scripted := self._scripts.next(phone):
            return scripted
        if tally.attempts < self._gateway.failing_attempts:
            return find_fault(_refusals.INTERNAL_ERROR.kind)
        return draw_fault(self._gateway.faults, self._draw("fault", phone, text, tally.posts))

    def _deliver(self, phone: str, text: str, fault: Fault | None, tally: Tally) -> Answer:
        gateway, needed = self._gateway, segments(text).count
        if gateway.quota is not None:
            if needed > gateway.quota:
                return self.api.refuse(_refusals.QUOTA_EXHAUSTED)
            gateway.quota -= needed
        message = gateway.inbox.deliver(
            phone,
            text,
            segments=needed,
            stages=self._plan_stages(self._draw("end", phone, text, tally.posts)),
            api=self.api.name,
            sender_id=gateway.sender_id if self.api.has_sender else None,
            msg_uid=self.api.make_id(),
        )
        answer = self.api.write_receipt(message)
        if fault:
            answer = fault.spoil(answer)
        if answer.manner is Manner.WHOLE:
            tally.end()
        return answer

    def _draw(self, *drawn_for: object) -> float:
        """Return a number from 0 to 1. A seed makes it the same for the same arguments, in any order of arrival."""
        seed = None if self._gateway.seed is None else repr((self._gateway.seed, drawn_for))
        return random.Random(seed).random()  # noqa: S311 - an injected fault is no secret

    def _plan_stages(self, chance: float) -> Sequence[tuple[float, str]]:
        sent_at = self._gateway.submitted_for
        end = "failed" if chance < self._gateway.failed_share else "delivered"
        submitted = [(0.0, "submited")] if sent_at else []
        return [*submitted, (sent_at, "sent"), (sent_at + self._gateway.sent_for, end)]
