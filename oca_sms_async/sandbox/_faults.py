"""What can go wrong on purpose: the kinds of fault, how often each is played, and answers scripted for a number."""

import re
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Self

import attrs

from oca_sms_async._phone import normalize_phone
from oca_sms_async.sandbox import _answers
from oca_sms_async.sandbox._answers import Answer, Complaint, Manner


@attrs.frozen
class Fault:
    """What is done to one send: it is refused, or else accepted and answered in some manner, or by something else."""

    kind: str
    refusal: Answer | None = None
    manner: Manner = Manner.WHOLE
    instead: Answer | None = None

    def accepted(self, receipt: Answer) -> Answer:
        """Return what goes out for a message that was accepted."""
        return self.instead or attrs.evolve(receipt, manner=self.manner)


_REFUSALS: Final = (
    _answers.INTERNAL_ERROR,
    _answers.INVALID_CREDENTIALS,
    _answers.MISSING_AUTHORIZATION,
    _answers.invalid([Complaint("89694353628", "Invalid country code", "phone_number")]),  # the vendor's own sample
    _answers.UNKNOWN_USER,
    _answers.ACCOUNT_EXPIRED,
    _answers.QUOTA_EXHAUSTED,
    _answers.rate_limited(25, 1.0),
    _answers.SUCCESS_WITH_ERRORS,
    _answers.HTML,
    Answer(200, "", "reset", manner=Manner.RESET),  # nothing of it goes out
)
_MANNERS: Final = {
    "accept-then-drop": Manner.NONE,
    "truncated-body": Manner.TRUNCATED,
    "late-reply": Manner.LATE,
    "slow-drip": Manner.DRIPPED,
}
_HEADER_NAME: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_WITHOUT_BODY: Final = {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
# In the order in which a draw is shared out among them: a run that is to be repeated hangs on it.
_TABLE: Final[Mapping[str, Fault]] = {answer.kind: Fault(answer.kind, refusal=answer) for answer in _REFUSALS} | {
    kind: Fault(kind, manner=manner) for kind, manner in _MANNERS.items()
}
FAULTS: Final = tuple(_TABLE)
INTERNAL_ERROR: Final = _TABLE[_answers.INTERNAL_ERROR.kind]


def checked_faults(faults: Mapping[str, float]) -> Mapping[str, float]:
    """Return a read-only copy of probabilities by kind; `ValueError` names what is no kind or no probability."""
    if not isinstance(faults, Mapping):
        raise ValueError('faults must map kinds to probabilities, such as {"reset": 0.05}')  # noqa: TRY004 - bad input is a ValueError
    for kind, probability in faults.items():
        if kind not in FAULTS:
            raise ValueError(f"faults has no kind of that name; there are {', '.join(FAULTS)}")
        if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError(f"faults: the probability of {kind} must be a number between 0 and 1")
    return MappingProxyType({kind: float(faults[kind]) for kind in FAULTS if faults.get(kind)})


def drawn_fault(faults: Mapping[str, float], chance: float) -> Fault | None:
    """Return the fault to which a number from 0 to 1 falls; probabilities that exceed 1 together share all sends."""
    left = chance * max(1.0, sum(faults.values()))
    for kind in FAULTS:
        left -= faults.get(kind, 0.0)
        if left < 0:
            return _TABLE[kind]
    return None


class Scripts:
    """Answers that were laid down for a number, or for any, before anything is drawn."""

    def __init__(self) -> None:
        self._limited: dict[str | None, deque[Fault]] = {}
        self._lasting: dict[str | None, Fault] = {}

    def add(self, phone: str | None, fault: Fault, times: int | None) -> None:
        """Play `fault` for a number (E.164; None: any) so many times, after what was added so; None: from then on."""
        if times is None:
            self._lasting[phone] = fault
        else:
            self._limited.setdefault(phone, deque()).extend([fault] * times)

    def forget(self, phone: str | None) -> None:
        """Take back what was added for a number, or for any."""
        self._limited.pop(phone, None)
        self._lasting.pop(phone, None)

    def next(self, phone: str) -> Fault | None:
        """Return what is to be played for this number's next send; its own scripts go before those for any."""
        for whose in (phone, None):
            if queue := self._limited.get(whose):
                return queue.popleft()
            if whose in self._lasting:
                return self._lasting[whose]
        return None


@attrs.frozen
class When:
    """The sends to one number, or to any: what `Sandbox.when` returns, to be told how they are answered."""

    _scripts: Scripts = attrs.field(repr=False)
    _phone: str | None = attrs.field(repr=False)

    def respond(
        self,
        fault: str | None = None,
        *,
        status: int | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> Self:
        """Answer with a `fault`, or else with an HTTP `status`, `body` (a str as it is, anything else as JSON) and
        `headers`; a message that is answered with a 2xx is accepted, unless the fault says otherwise.

        `times` is for how many sends; None: from now on. What is limited is played first, in the order of the calls, so
        that `when(phone=…).respond("internal-error", times=2).respond("reset")` fails twice and then is reset each
        time. `ValueError` names what cannot be.
        """
        if (fault is None) == (status is None):
            raise ValueError("respond needs either a fault or a status")
        if fault is not None and (body is not None or headers):
            raise ValueError("respond takes body and headers with a status: a fault has its own")
        if times is not None and not (isinstance(times, int) and times >= 1):
            raise ValueError("times must be 1 or more sends, or None: from now on")
        if fault is not None:
            checked_faults({fault: 1.0})
            played = _TABLE[fault]
        else:
            played = _scripted(status, body, {} if headers is None else headers)
        self._scripts.add(self._phone, played, times)
        return self

    def forget(self) -> None:
        """Take back all that was laid down for this number, or for any."""
        self._scripts.forget(self._phone)


def when(scripts: Scripts, phone: str | None) -> When:
    """Return what is to be told how sends to `phone` (any spelling; None: any number) are answered."""
    return When(scripts, None if phone is None else normalize_phone(phone))


def _scripted(status: Any, body: Any, headers: Mapping[str, str]) -> Fault:
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError("status must be an HTTP status from 200 to 599")
    if body is not None and status in _WITHOUT_BODY:
        raise ValueError(f"body must be None: HTTP has none with status {status}")
    if body is None:
        body = _answers.error(status, "Scripted").body if status >= 400 else ""
    _check_headers(headers)
    answer = Answer(status, body, "" if status < 300 else "scripted", headers)
    try:
        len(answer.content)
    except (TypeError, ValueError):
        raise ValueError("body must be a str that UTF-8 can carry, or what JSON can") from None
    return Fault("scripted", instead=answer) if status < 300 else Fault("scripted", refusal=answer)


def _check_headers(headers: Any) -> None:
    if not isinstance(headers, Mapping):
        raise ValueError("headers must map names to values")  # noqa: TRY004 - bad input is a ValueError
    for name, value in headers.items():
        for part, allowed in ((name, _HEADER_NAME), (value, _HEADER_VALUE)):
            if not isinstance(part, str) or not allowed.fullmatch(part):
                raise ValueError("headers must be of str that HTTP can carry")
        if name.lower() in {"content-length", "transfer-encoding"}:
            raise ValueError("headers must leave the length to the body")
