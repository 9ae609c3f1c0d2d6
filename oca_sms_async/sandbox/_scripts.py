"""Answers that are laid down for a number, or for any, before a fault is drawn."""

import re
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Self

import attrs

from oca_sms_async._phone import normalize_phone
from oca_sms_async.sandbox._answers import Answer, error
from oca_sms_async.sandbox._faults import Fault, find_fault

_SENTENCE: Final = "A script of this number gives this answer."
_HEADER_NAME: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_WITHOUT_BODY: Final = {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}


@attrs.define
class _Turns:
    """A fault that is played so many times more."""

    fault: Fault
    left: int


class Scripts:
    """The answers that are laid down, by number."""

    def __init__(self) -> None:
        self._limited: dict[str | None, deque[_Turns]] = {}
        self._lasting: dict[str | None, Fault] = {}

    def add(self, phone: str | None, fault: Fault, times: int | None) -> None:
        """Play `fault` for a number (E.164; `None`: any) so many times, after earlier ones; `None`: from then on."""
        if times is None:
            self._lasting[phone] = fault
        else:
            self._limited.setdefault(phone, deque()).append(_Turns(fault, times))

    def forget(self, phone: str | None) -> None:
        """Take back all additions for a number, or for any."""
        self._limited.pop(phone, None)
        self._lasting.pop(phone, None)

    def next(self, phone: str) -> Fault | None:
        """Return the fault for this number's next send. Its own scripts go before those for any."""
        for key in (phone, None):
            if queue := self._limited.get(key):
                turns = queue[0]
                turns.left -= 1
                if not turns.left:
                    queue.popleft()
                return turns.fault
            if key in self._lasting:
                return self._lasting[key]
        return None


@attrs.frozen
class When:
    """The sends to one number, or to any. `Sandbox.when` returns it, and its methods say how they are answered."""

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
        `headers`. A message that is answered with a 2xx is accepted, unless the fault says otherwise.

        `times` is the number of sends; `None`: from now on. Limited answers come first, in the order of the calls:
        `when(phone=…).respond("internal-error", times=2).respond("reset")` fails twice and then is reset each time.
        `ValueError` names an impossible argument.
        """
        if (fault is None) == (status is None):
            raise ValueError("respond needs either a fault or a status")
        if fault is not None and (body is not None or headers):
            raise ValueError("respond takes body and headers with a status: a fault has its own")
        if times is not None and not (isinstance(times, int) and times >= 1):
            raise ValueError("times must be 1 or more sends, or None: from now on")
        if fault is not None:
            played = find_fault(fault)
        else:
            played = _check_answer(status, body, {} if headers is None else headers)
        self._scripts.add(self._phone, played, times)
        return self

    def forget(self) -> None:
        """Take back all answers for this number, or for any."""
        self._scripts.forget(self._phone)


def script(scripts: Scripts, phone: str | None) -> When:
    """Return the sends to `phone` (any spelling; `None`: any number), for their answers to be laid down."""
    return When(scripts, None if phone is None else normalize_phone(phone))


def _check_answer(status: Any, body: Any, headers: Mapping[str, str]) -> Fault:
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError("status must be an HTTP status from 200 to 599")
    if body is not None and status in _WITHOUT_BODY:
        raise ValueError(f"body must be None: HTTP has none with status {status}")
    if body is None:
        body = error(status, "Scripted").body if status >= 400 else ""
    _check_headers(headers)
    answer = Answer(status, body, "" if status < 300 else "scripted", headers)
    try:
        len(answer.content)
    except (TypeError, ValueError):
        raise ValueError("body must be a str that UTF-8 can carry, or a value that JSON can") from None
    if status < 300:
        return Fault("scripted", _SENTENCE, instead=answer)
    return Fault("scripted", _SENTENCE, refusal=answer)


def _check_headers(headers: Any) -> None:
    if not isinstance(headers, Mapping):
        raise ValueError("headers must map names to values")  # noqa: TRY004 - bad input is a ValueError
    for name, value in headers.items():
        for part, allowed in ((name, _HEADER_NAME), (value, _HEADER_VALUE)):
            if not isinstance(part, str) or not allowed.fullmatch(part):
                raise ValueError("headers must be of str that HTTP can carry")
        if name.lower() in {"content-length", "transfer-encoding"}:
            raise ValueError("headers must leave the length to the body")
