"""The table of faults: what goes wrong, and what the client promises for it. `python tests/faults.py` writes it out."""

from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

import misbehaviours as gateway
import troubles
from attrs import frozen
from troubles import Greeting, Misbehaviour, Trouble

from oca_sms_async import ConnectionFailedError, DeliveryUnknownError, OcaSmsError, UnexpectedResponseError

PAGE: Final = Path(__file__).with_name("RELIABILITY.md")
BEGIN: Final = "<!-- faults: written by tests/faults.py -->"
END: Final = "<!-- /faults -->"


class Use(Enum):
    """What the connection was before the fault."""

    NEW = "new"
    KEPT = "kept alive"


@frozen
class Fault:
    """One row: `when` a request meets with `what`, made by `trouble`, the call ends in `error` (None: it succeeds), and
    the gateway has read `requests` of it.

    `timed_out` is True where nothing but the attempt's own time-out ends it, `floods` where an answer is longer than
    anybody should hold in memory. `uses` are the connections that it can happen to.
    """

    when: str
    what: str
    trouble: Callable[[], Trouble]
    error: type[OcaSmsError] | None = DeliveryUnknownError
    requests: int = 1
    timed_out: bool = False
    floods: bool = False
    uses: tuple[Use, ...] = (Use.NEW, Use.KEPT)


def _connecting(what: str, trouble: Callable[[], Trouble], *, timed_out: bool = False) -> Fault:
    return Fault("connecting", what, trouble, ConnectionFailedError, requests=0, timed_out=timed_out, uses=(Use.NEW,))


def _met(when: str, what: str, behaviour: gateway.Behaviour, **options: object) -> Fault:
    return Fault(when, what, partial(Misbehaviour, behaviour), **options)  # type: ignore[arg-type] # as given


FAULTS: Final = (
    _connecting("refused", troubles.Refusal),
    _connecting("unknown host", troubles.NamelessHost),
    _connecting("certificate for another host", troubles.AnotherHost),
    _connecting("expired certificate", troubles.ExpiredCertificate),
    _connecting("unknown authority", troubles.UnknownAuthority),
    _connecting("time-out of the connection", troubles.FullBacklog, timed_out=True),
    _connecting("time-out of the TLS handshake", troubles.HandshakeWithoutEnd, timed_out=True),
    _connecting("time-out of the name server", troubles.SilentNameServer, timed_out=True),
    Fault("writing", "time-out", troubles.Deafness, requests=0, timed_out=True, uses=(Use.NEW,)),
    Fault("writing", "reset", partial(Greeting, gateway.reset), requests=0, uses=(Use.NEW,)),
    _met("waiting", "time-out", gateway.say_nothing, timed_out=True),
)
