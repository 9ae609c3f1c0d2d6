"""The account at the gateway: its knobs, and the inbox, traffic and scripts that its APIs share."""

from collections.abc import Collection, Mapping
from typing import Final

import attrs
from attrs.validators import optional

from oca_sms_async.sandbox import _knobs
from oca_sms_async.sandbox._credentials import PUBLISHED
from oca_sms_async.sandbox._faults import FAULTS, check_faults
from oca_sms_async.sandbox._inbox import Inbox
from oca_sms_async.sandbox._scripts import Scripts, When, script
from oca_sms_async.sandbox._traffic import Traffic

_FAILING_ATTEMPTS: Final = "failing-attempts"
_MOST_ATTEMPTS: Final = 1000


@attrs.define(kw_only=True, eq=False)
class Gateway:
    """One account at the gateway. Its knobs may be turned at any time and hold from the next request on.

    `ValueError` names a knob with an impossible value, at construction and later.
    """

    username: str = attrs.field(default=PUBLISHED.username, validator=_knobs.USERNAME)
    password: str = attrs.field(default=PUBLISHED.password, repr=False, validator=_knobs.PASSWORD)
    token: str = attrs.field(default=PUBLISHED.token, repr=False, validator=_knobs.TOKEN)  # of the V2 APIs
    sender_id: str = attrs.field(default=PUBLISHED.sender_id, validator=_knobs.SENDER_ID)  # of the Premium APIs
    quota: int | None = attrs.field(  # segments left; `None`: no limit
        default=None, validator=optional(_knobs.at_least(0, "segments, or None"))
    )
    expired: bool = False
    unknown_user: bool = False
    template: str | None = attrs.field(  # a regular expression that the whole text must match
        default=None, repr=False, validator=optional(_knobs.PATTERN)
    )
    refused_numbers: Collection[str] = attrs.field(
        default=(), repr=False, converter=_knobs.read_numbers
    )  # any spelling
    faults: Mapping[str, float] = attrs.field(factory=dict, converter=check_faults)  # of `FAULTS`, by kind
    failing_attempts: int = attrs.field(  # of each message, the first, answered by an internal error
        default=0, validator=_knobs.at_least(0, "attempts")
    )
    seed: int | None = attrs.field(default=None, on_setattr=attrs.setters.frozen)  # of each message's draws
    rate_limit: int | None = attrs.field(  # requests in any second; `None`: no limit
        default=None, validator=optional(_knobs.at_least(1, "requests, or None"))
    )
    latency: float = attrs.field(default=0.0, validator=_knobs.DURATION)  # from a decision, delivery included, on
    lateness: float = attrs.field(default=30.0, validator=_knobs.DURATION)  # of a late reply
    submitted_for: float = attrs.field(default=0.0, validator=_knobs.DURATION)  # a message's time as `submited`
    sent_for: float = attrs.field(default=5.0, validator=_knobs.DURATION)  # and as `sent`, before its end
    failed_share: float = attrs.field(default=0.0, validator=_knobs.SHARE)  # of the messages; the others are delivered
    allowed_hosts: Collection[str] = attrs.field(  # names beside the sandbox's own that are answered
        default=(), converter=_knobs.read_hosts
    )
    inbox: Inbox = attrs.field(init=False, factory=Inbox, on_setattr=attrs.setters.frozen)
    traffic: Traffic = attrs.field(init=False, factory=Traffic, on_setattr=attrs.setters.frozen, repr=False)
    _scripts: Scripts = attrs.field(init=False, factory=Scripts, repr=False)

    def when(self, phone: str | None = None) -> When:
        """Script the answers to sends to a number (any spelling), or to any: `when(phone="0812…").respond("reset")`."""
        return script(self._scripts, phone)

    @property
    def played(self) -> dict[str, float]:
        """All that `play` sets, by name."""
        return {kind: self.faults.get(kind, 0.0) for kind in FAULTS} | {_FAILING_ATTEMPTS: self.failing_attempts}

    def play(self, faults: Mapping[str, float]) -> None:
        """Set the probabilities `faults`, with 0 for kinds that are missing. `failing-attempts` is `failing_attempts`.

        `ValueError` names an impossible value, and then nothing changes.
        """
        attempts = faults.get(_FAILING_ATTEMPTS, 0)
        if isinstance(attempts, bool) or attempts not in range(_MOST_ATTEMPTS):
            raise ValueError(f"{_FAILING_ATTEMPTS} must be a whole number from 0 to {_MOST_ATTEMPTS - 1}")
        self.faults = {kind: share for kind, share in faults.items() if kind != _FAILING_ATTEMPTS}
        self.failing_attempts = int(attempts)
