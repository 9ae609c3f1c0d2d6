"""The faults that the sandbox plays on purpose: their kinds, and how often each is played."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import attrs

from oca_sms_async.sandbox import _refusals
from oca_sms_async.sandbox._answers import Answer, Manner
from oca_sms_async.sandbox._refusals import Complaint, Parameter, Refusal


@attrs.frozen
class Fault:
    """The fate of one send. It is refused, or it is accepted and its receipt goes out spoilt or replaced.

    A refusal is in the words of the API, or an answer that no API has. `sentence` is for the page.
    """

    kind: str
    sentence: str
    refusal: Refusal | Answer | None = None
    manner: Manner = Manner.WHOLE
    instead: Answer | None = None

    def spoil(self, receipt: Answer) -> Answer:
        """Return the answer to a message that was accepted."""
        return self.instead or attrs.evolve(receipt, manner=self.manner)


_HTML: Final = Answer(
    HTTPStatus.BAD_GATEWAY,
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
    "html",
)
_RESET: Final = Answer(200, "", "reset", manner=Manner.RESET)  # not a byte of it goes out
_FOREIGN_NUMBER: Final = Complaint("89694353628", "Invalid country code", Parameter.PHONE)  # the vendor's sample
_REFUSED: Final[Sequence[tuple[Refusal | Answer, str]]] = (
    (_refusals.INTERNAL_ERROR, "The gateway reports an internal error, and the client sends again."),
    (_refusals.INVALID_CREDENTIALS, "The gateway refuses the credentials."),
    (_refusals.MISSING_AUTHORIZATION, "The gateway says that the Authorization header is missing."),
    (_refusals.refuse_parameters(_FOREIGN_NUMBER), "The gateway refuses the number for its country code."),
    (_refusals.UNKNOWN_USER, "The gateway does not know the user."),
    (_refusals.ACCOUNT_EXPIRED, "The gateway says that the account has expired."),
    (_refusals.QUOTA_EXHAUSTED, "The gateway says that the quota is used up."),
    (_refusals.refuse_rate(25, 1.0), "The gateway says that there are too many requests."),
    (_refusals.SUCCESS_WITH_ERRORS, "The status is 200, but the body is an error. Nothing is delivered."),
    (_HTML, "A proxy answers 502 with an HTML page. Nothing is delivered."),
    (_RESET, "The connection is reset before an answer. Nothing is delivered."),
)
_SPOILT: Final = (
    ("accept-then-drop", Manner.NONE, "The message is delivered, but the connection ends without an answer."),
    ("truncated-body", Manner.TRUNCATED, "The message is delivered, but the connection ends within the receipt."),
    ("late-reply", Manner.LATE, "The message is delivered, but the receipt comes too late."),
    ("slow-drip", Manner.DRIPPED, "The message is delivered, but the receipt comes at a byte a second."),
)
# The order matters: a draw is shared out in it, and a run with a seed must repeat itself.
_TABLE: Final[Mapping[str, Fault]] = {
    refusal.kind: Fault(refusal.kind, sentence, refusal=refusal) for refusal, sentence in _REFUSED
} | {kind: Fault(kind, sentence, manner=manner) for kind, manner, sentence in _SPOILT}
FAULTS: Final = tuple(_TABLE)


def find_fault(kind: str) -> Fault:
    """Return the fault of a kind; `ValueError` for an unknown kind."""
    check_faults({kind: 1.0})
    return _TABLE[kind]


def check_faults(faults: Mapping[str, float]) -> Mapping[str, float]:
    """Return a read-only copy of probabilities by kind; `ValueError` names a wrong kind or probability."""
    if not isinstance(faults, Mapping):
        raise ValueError('faults must map kinds to probabilities, such as {"reset": 0.05}')  # noqa: TRY004 - bad input is a ValueError
    for kind, probability in faults.items():
        if kind not in FAULTS:
            raise ValueError(f"faults has no kind of that name; there are {', '.join(FAULTS)}")
        if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError(f"faults: the probability of {kind} must be a number between 0 and 1")
    return MappingProxyType({kind: float(faults[kind]) for kind in FAULTS if faults.get(kind)})


def draw_fault(faults: Mapping[str, float], chance: float) -> Fault | None:
    """Return the fault that a number from 0 to 1 picks, if any. Probabilities above 1 in sum share all sends."""
    left = chance * max(1.0, sum(faults.values()))
    for kind in FAULTS:
        left -= faults.get(kind, 0.0)
        if left < 0:
            return _TABLE[kind]
    return None
