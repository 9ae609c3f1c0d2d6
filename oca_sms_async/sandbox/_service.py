"""The gateway's rules without HTTP: from the credentials and body of a request to an answer in the words of one API."""

import random
import re
from collections.abc import Sequence
from typing import Final

import attrs

from oca_sms_async._segments import segments
from oca_sms_async.sandbox import _api
from oca_sms_async.sandbox._answers import Answer, Manner
from oca_sms_async.sandbox._api import Api, Complaint, Parameter, Refusal
from oca_sms_async.sandbox._credentials import PUBLISHED
from oca_sms_async.sandbox._faults import Fault, draw_fault
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._inbox import Tally
from oca_sms_async.sandbox._parameters import check_phone, check_text, read_parameters
from oca_sms_async.sandbox._scripts import Scripts

_FIRST_ATTEMPTS_FAIL: Final = Fault(_api.INTERNAL_ERROR.kind, refusal=_api.INTERNAL_ERROR)


@attrs.frozen
class Service:
    """One API of an account. All the APIs of an account share its inbox, limit, quota and faults."""

    api: Api
    _gateway: Gateway
    _scripts: Scripts = attrs.field(repr=False)

    @property
    def is_public(self) -> bool:
        """Whether every reader of the documentation knows the secret."""
        return self.api.secret(self._gateway) == self.api.secret(PUBLISHED)

    def send(self, authorization: str | None, content_type: str | None, body: bytes) -> Answer:
        """Answer a send: check the account first, then the limit, the parameters, the faults, and the quota.

        A message is delivered only if its answer is a 2xx.
        """
        return self.count(self._refuse_account(authorization) or self._submit(content_type, body))

    def history(self, authorization: str | None) -> Answer:
        """Answer a request for all messages."""
        return self.count(self._refuse_account(authorization) or self.api.write_history(self._gateway.inbox))

    def detail(self, authorization: str | None, msg_uid: str) -> Answer:
        """Answer a request for one message. An unknown id is not counted as a refusal."""
        if refusal := self._refuse_account(authorization):
            return self.count(refusal)
        message = self._gateway.inbox.find(msg_uid)
        return self.api.refuse(_api.UNKNOWN_ID) if message is None else self.api.write_detail(message)

    def count(self, answer: Answer) -> Answer:
        """Return an answer, counted if it is a refusal."""
        if answer.kind:
            self._gateway.traffic.refusals[answer.kind] += 1
        return answer

    def _refuse_account(self, authorization: str | None) -> Answer | None:
        """Return the refusal of a request for its credentials, its account or the limit."""
        refusal = self._check_account(authorization) or self._check_limit()
        return None if refusal is None else self.api.refuse(refusal)

    def _check_account(self, authorization: str | None) -> Refusal | None:
        if authorization is None:
            return _api.MISSING_AUTHORIZATION
        if not self.api.is_authorized(authorization, self._gateway):
            return _api.INVALID_CREDENTIALS
        if self._gateway.unknown_user:
            return _api.UNKNOWN_USER
        return _api.ACCOUNT_EXPIRED if self._gateway.expired else None

    def _check_limit(self) -> Refusal | None:
        limit = self._gateway.rate_limit
        wait = self._gateway.traffic.wait(limit)
        return None if wait is None or limit is None else _api.refuse_rate(limit, wait)

    def _submit(self, content_type: str | None, body: bytes) -> Answer:
        recipient, message = self.api.read_send(read_parameters(content_type, body))
        phone, text = check_phone(recipient), check_text(message)
        if isinstance(phone, Complaint) or isinstance(text, Complaint):
            found = (it for it in (phone, text) if isinstance(it, Complaint))
            return self.api.refuse(_api.refuse_parameters(*found))
        complaints, tally = self._check_message(phone, text), self._gateway.inbox.tally(phone, text)
        fault = None if complaints else self._choose_fault(phone, text, tally)
        tally.note(fault.kind if fault else "")
        if complaints:
            return self.api.refuse(_api.refuse_parameters(*complaints))
        if fault and fault.refusal:
            return fault.refusal if isinstance(fault.refusal, Answer) else self.api.refuse(fault.refusal)
        return self._deliver(phone, text, fault, tally)

    def _check_message(self, phone: str, text: str) -> list[Complaint]:
        complaints, template = [], self._gateway.template
        if phone in self._gateway.refused_numbers:
            complaints.append(Complaint(phone, "Invalid phone number", Parameter.PHONE))
        if template is not None and not re.fullmatch(template, text):
            complaints.append(Complaint(text, "Message does not match the template", Parameter.TEXT))
        return complaints

    def _choose_fault(self, phone: str, text: str, tally: Tally) -> Fault | None:
        if scripted := self._scripts.next(phone):
            return scripted
        if tally.attempts < self._gateway.failing_attempts:
            return _FIRST_ATTEMPTS_FAIL
        return draw_fault(self._gateway.faults, self._draw("fault", phone, text, tally.posts))

    def _deliver(self, phone: str, text: str, fault: Fault | None, tally: Tally) -> Answer:
        gateway, needed = self._gateway, segments(text).count
        if gateway.quota is not None:
            if needed > gateway.quota:
                return self.api.refuse(_api.QUOTA_EXHAUSTED)
            gateway.quota -= needed
        stages = self._plan_stages(self._draw("end", phone, text, tally.posts))
        answer = self.api.write_receipt(gateway.inbox.deliver(phone, text, segments=needed, stages=stages))
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
