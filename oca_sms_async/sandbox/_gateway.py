"""The rules of the V1 gateway without HTTP: from a request's credentials and body to an answer."""

import base64
import hmac
import json
import random
import re
from collections.abc import Callable, Collection
from typing import Any, Final

import attrs

from oca_sms_async._phone import e164
from oca_sms_async._segments import segments
from oca_sms_async.sandbox import _answers
from oca_sms_async.sandbox._answers import Answer, Complaint
from oca_sms_async.sandbox._inbox import Inbox

_PHONE_CHARACTERS: Final = re.compile(r"\+?[0-9]+")


def _satisfies(condition: Callable[[Any], bool], wish: str) -> Callable[[Any, Any, Any], None]:
    """Return an attrs validator whose `ValueError` names the field and never shows the value, which may be a secret."""

    def validate(_: Any, attribute: Any, value: Any) -> None:
        if not condition(value):
            raise ValueError(f"{attribute.name} must {wish}")

    return validate


def _is_regular_expression(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _all_e164(refused_numbers: Collection[str]) -> frozenset[str]:
    try:
        return frozenset(e164(number, "ID") for number in refused_numbers)
    except ValueError as error:
        raise ValueError(f"refused_numbers must hold possible numbers: {error}") from None


@attrs.define(kw_only=True, eq=False)
class Gateway:
    """One account at the gateway; its knobs may be turned at any time and hold from the next request on.

    `ValueError` names a knob that cannot have the value it is given, at construction and later alike.
    """

    username: str = attrs.field(
        default="sandbox@example.com",
        validator=_satisfies(lambda name: bool(name) and ":" not in name, "not be empty nor hold a colon"),
    )
    password: str = attrs.field(default="sandbox", repr=False, validator=_satisfies(bool, "not be empty"))
    quota: int | None = attrs.field(  # segments left; None: no limit
        default=None, validator=_satisfies(lambda left: left is None or left >= 0, "be 0 or more segments, or None")
    )
    expired: bool = False
    unknown_user: bool = False
    template: str | None = attrs.field(  # a regular expression that the whole text must match
        default=None,
        repr=False,
        validator=_satisfies(lambda it: it is None or _is_regular_expression(it), "be a regular expression, or None"),
    )
    refused_numbers: Collection[str] = attrs.field(default=(), repr=False, converter=_all_e164)  # any spelling
    internal_error_rate: float = attrs.field(  # the share of sends that is answered 500 with code 13
        default=0.0, validator=_satisfies(lambda rate: 0 <= rate <= 1, "be a share between 0 and 1")
    )
    seed: int | None = attrs.field(default=None, on_setattr=attrs.setters.frozen)  # of that share's draws
    latency: float = attrs.field(  # seconds between a decision, the delivery included, and its answer
        default=0.0, validator=_satisfies(lambda seconds: seconds >= 0, "be 0 or more seconds")
    )
    internal_errors: int = attrs.field(  # so many of the next sends are answered 500 with code 13; counts down
        default=0, validator=_satisfies(lambda left: left >= 0, "be 0 or more sends")
    )
    inbox: Inbox = attrs.field(init=False, factory=Inbox, on_setattr=attrs.setters.frozen)
    _random: random.Random = attrs.field(init=False, repr=False)

    @_random.default
    def _seeded(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311 - an injected fault is no secret

    def send(self, authorization: str | None, content_type: str | None, body: bytes) -> Answer:
        """Answer `POST /sms`: the account is checked first, then the parameters, then the faults, then the quota.

        A message that is answered with anything but 200 is not delivered.
        """
        if refusal := self._account_refusal(authorization):
            return refusal
        parameters = _json_object(content_type, body)
        phone, text = _phone(parameters.get("phone")), _text(parameters.get("message"))
        if isinstance(phone, Complaint) or isinstance(text, Complaint):
            return _answers.invalid(it for it in (phone, text) if isinstance(it, Complaint))
        self.inbox.note_attempt(phone, text)
        if complaints := self._complaints(phone, text):
            return _answers.invalid(complaints)
        if self._fails():
            return _answers.INTERNAL_ERROR
        needed = segments(text).count
        if self.quota is not None:
            if needed > self.quota:
                return _answers.QUOTA_EXHAUSTED
            self.quota -= needed
        return _answers.sent(self.inbox.deliver(phone, text, segments=needed))

    def history(self, authorization: str | None) -> Answer:
        """Answer `GET /sms`."""
        return self._account_refusal(authorization) or _answers.history(self.inbox)

    def detail(self, authorization: str | None, msg_uid: str) -> Answer:
        """Answer `GET /sms/status/{msg_uid}`."""
        if refusal := self._account_refusal(authorization):
            return refusal
        message = self.inbox.find(msg_uid)
        return _answers.NO_DATA if message is None else _answers.detail(message)

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

    def _fails(self) -> bool:
        # Drawn for every send, needed or not, so that the fate of the nth send hangs on the seed alone.
        drawn = self._random.random() < self.internal_error_rate
        if not self.internal_errors:
            return drawn
        self.internal_errors -= 1
        return True


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
        phone = e164("+" + value if value.startswith("62") else value, "ID")
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
