"""The rules of the V1 gateway without HTTP: from a request's credentials and body to an answer."""

import base64
import hmac
import json
import random
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import attrs
from attrs.validators import optional

from oca_sms_async._phone import normalize_phone
from oca_sms_async._segments import segments
from oca_sms_async.sandbox import _answers, _faults, _knobs
from oca_sms_async.sandbox._answers import Answer, Complaint, Manner
from oca_sms_async.sandbox._faults import FAULTS, Fault, Scripts, checked_faults, drawn_fault
from oca_sms_async.sandbox._inbox import Inbox, Tally
from oca_sms_async.sandbox._traffic import Traffic

_FAILING_ATTEMPTS: Final = "failing-attempts"
_MOST_ATTEMPTS: Final = 1000
_PHONE_CHARACTERS: Final = re.compile(r"\+?[0-9]+")


@attrs.define(kw_only=True, eq=False)
class Gateway:
    """One account at the gateway; its knobs may be turned at any time and hold from the next request on.

    `ValueError` names a knob that cannot have the value it is given, at construction and later alike.
    """

    username: str = attrs.field(default="sandbox@example.com", validator=_knobs.USERNAME)
    password: str = attrs.field(default="sandbox", repr=False, validator=_knobs.PASSWORD)
    quota: int | None = attrs.field(  # segments left; None: no limit
        default=None, validator=optional(_knobs.at_least(0, "segments, or None"))
    )
    expired: bool = False
    unknown_user: bool = False
    template: str | None = attrs.field(  # a regular expression that the whole text must match
        default=None, repr=False, validator=optional(_knobs.PATTERN)
    )
    refused_numbers: Collection[str] = attrs.field(default=(), repr=False, converter=_knobs.all_e164)  # any spelling
    faults: Mapping[str, float] = attrs.field(factory=dict, converter=checked_faults)  # of `FAULTS`, by kind
    failing_attempts: int = attrs.field(  # the first so many attempts of each message are answered 500 with code 13
        default=0, validator=_knobs.at_least(0, "attempts")
    )
    seed: int | None = attrs.field(default=None, on_setattr=attrs.setters.frozen)  # of what each message draws
    rate_limit: int | None = attrs.field(  # requests in any second; None: no limit
        default=None, validator=optional(_knobs.at_least(1, "requests, or None"))
    )
    latency: float = attrs.field(default=0.0, validator=_knobs.DURATION)  # from a decision, delivery included, on
    lateness: float = attrs.field(default=30.0, validator=_knobs.DURATION)  # of a late reply
    submitted_for: float = attrs.field(default=0.0, validator=_knobs.DURATION)  # a message's time as `submited`
    sent_for: float = attrs.field(default=5.0, validator=_knobs.DURATION)  # and as `sent`, before its end
    failed_share: float = attrs.field(default=0.0, validator=_knobs.SHARE)  # of the messages; the others are delivered
    inbox: Inbox = attrs.field(init=False, factory=Inbox, on_setattr=attrs.setters.frozen)
    traffic: Traffic = attrs.field(init=False, factory=Traffic, on_setattr=attrs.setters.frozen, repr=False)
    _scripts: Scripts = attrs.field(init=False, factory=Scripts, repr=False)

    def when(self, phone: str | None = None) -> _faults.When:
        """Script the answers to sends to a number (any spelling), or to any: `when(phone="0812…").respond("reset")`."""
        return _faults.when(self._scripts, phone)

    @property
    def played(self) -> dict[str, float]:
        """All that `play` sets, by name."""
        return {kind: self.faults.get(kind, 0.0) for kind in FAULTS} | {_FAILING_ATTEMPTS: self.failing_attempts}

    def play(self, faults: Mapping[str, float]) -> None:
        """Set the probabilities `faults`, those not named to 0, and `failing_attempts` by the name `failing-attempts`.

        `ValueError` names what cannot be, and then nothing is changed.
        """
        attempts = faults.get(_FAILING_ATTEMPTS, 0)
        if isinstance(attempts, bool) or attempts not in range(_MOST_ATTEMPTS):
            raise ValueError(f"{_FAILING_ATTEMPTS} must be a whole number from 0 to {_MOST_ATTEMPTS - 1}")
        self.faults = {kind: share for kind, share in faults.items() if kind != _FAILING_ATTEMPTS}
        self.failing_attempts = int(attempts)

    def send(self, authorization: str | None, content_type: str | None, body: bytes) -> Answer:
        """Answer `POST /sms`: the account is checked first, then the limit, the parameters, the faults, and the quota.

        A message that is refused, or answered with what is no 2xx, is not delivered.
        """
        return self._noted(self._refusal(authorization) or self._sent(_json_object(content_type, body)))

    def history(self, authorization: str | None) -> Answer:
        """Answer `GET /sms`."""
        return self._noted(self._refusal(authorization) or _answers.history(self.inbox))

    def detail(self, authorization: str | None, msg_uid: str) -> Answer:
        """Answer `GET /sms/status/{msg_uid}`."""
        if refusal := self._refusal(authorization):
            return self._noted(refusal)
        message = self.inbox.find(msg_uid)
        return _answers.NO_DATA if message is None else _answers.detail(message)

    def _noted(self, answer: Answer) -> Answer:
        if answer.kind:
            self.traffic.refusals[answer.kind] += 1
        return answer

    def _refusal(self, authorization: str | None) -> Answer | None:
        if refusal := self._account_refusal(authorization):
            return refusal
        wait = self.traffic.wait(self.rate_limit)
        return None if wait is None or self.rate_limit is None else _answers.rate_limited(self.rate_limit, wait)

    def _sent(self, parameters: dict[str, Any]) -> Answer:
        phone, text = _phone(parameters.get("phone")), _text(parameters.get("message"))
        if isinstance(phone, Complaint) or isinstance(text, Complaint):
            return _answers.invalid(it for it in (phone, text) if isinstance(it, Complaint))
        complaints, tally = self._complaints(phone, text), self.inbox.tally(phone, text)
        fault = None if complaints else self._fault(phone, text, tally)
        tally.note(fault.kind if fault else "")
        if complaints:
            return _answers.invalid(complaints)
        if fault and fault.refusal:
            return fault.refusal
        needed = segments(text).count
        if self.quota is not None:
            if needed > self.quota:
                return _answers.QUOTA_EXHAUSTED
            self.quota -= needed
        stages = self._stages(self._chance("end", phone, text, tally.posts))
        answer = _answers.sent(self.inbox.deliver(phone, text, segments=needed, stages=stages))
        if fault:
            answer = fault.accepted(answer)
        if answer.manner is Manner.WHOLE:
            tally.end()
        return answer

    def _account_refusal(self, authorization: str | None) -> Answer | None:
        if authorization is None:
            return _answers.MISSING_AUTHORIZATION
        if not hmac.compare_digest(_basic_credentials(authorization), f"{self.username}:{self.password}".encode()):
            return _answers.INVALID_CREDENTIALS
        if self.unknown_user:
            return _answers.UNKNOWN_USER
        return _answers.ACCOUNT_EXPIRED if self.expired else None

    def _complaints(self, phone: str, text: str) -> list[Complaint]:
        complaints = []
        if phone in self.refused_numbers:
            complaints.append(Complaint(phone, "Invalid phone number", "phone_number"))
        if self.template is not None and not re.fullmatch(self.template, text):
            complaints.append(Complaint(text, "Message does not match the template", "message_body"))
        return complaints

    def _fault(self, phone: str, text: str, tally: Tally) -> Fault | None:
        if scripted := self._scripts.next(phone):
            return scripted
        if tally.attempts < self.failing_attempts:
            return _faults.INTERNAL_ERROR
        return drawn_fault(self.faults, self._chance("fault", phone, text, tally.posts))

    def _chance(self, *drawn_for: object) -> float:
        """Return a number from 0 to 1; with a seed always the same for the same, in whatever order they arrive."""
        seed = None if self.seed is None else repr((self.seed, drawn_for))
        return random.Random(seed).random()  # noqa: S311 - an injected fault is no secret

    def _stages(self, chance: float) -> Sequence[tuple[float, str]]:
        sent_at = self.submitted_for
        end = "failed" if chance < self.failed_share else "delivered"
        submitted = [(0.0, "submited")] if sent_at else []
        return [*submitted, (sent_at, "sent"), (sent_at + self.sent_for, end)]


def _basic_credentials(authorization: str) -> bytes:
    """Return what a Basic header carries, `username:password`; nothing for a header that is malformed."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        return base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        return b""


def _json_object(content_type: str | None, body: bytes) -> dict[str, Any]:
    """Return the parameters of a request; none for a body that is no JSON object or does not say that it is JSON."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        return {}
    try:
        parameters = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parameters if isinstance(parameters, dict) else {}


def _phone(value: object) -> str | Complaint:
    """Return the recipient as E.164; the gateway reads `+62…`, `62…` and `0…`, digits only, and knows one country."""
    if not isinstance(value, str) or not _PHONE_CHARACTERS.fullmatch(value):
        return Complaint(value, "Invalid value", "phone_number")
    if not value.startswith(("+62", "62", "0")):
        return Complaint(value, "Invalid country code", "phone_number")
    try:
        phone = normalize_phone("+" + value if value.startswith("62") else value)
    except ValueError:
        return Complaint(value, "Invalid phone number", "phone_number")
    # A dialled international prefix («008 65 …») leads abroad although it begins with a zero.
    return phone if phone.startswith("+62") else Complaint(value, "Invalid country code", "phone_number")


def _text(value: object) -> str | Complaint:
    """Return the text; half a surrogate pair is none, because no SMS can carry it."""
    if not isinstance(value, str) or not value.strip():
        return Complaint(value, "Invalid value", "message_body")
    try:
        value.encode()
    except UnicodeEncodeError:
        return Complaint(value, "Invalid value", "message_body")
    return value
