"""The calls of a run that wait for its next transaction, and the statements that answer them together."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from attrs import evolve, frozen

from oca_sms_async._journal import Answer
from oca_sms_async._postgres_messages import (
    Claim,
    Ending,
    Names,
    Row,
    read_claims,
    read_lookup,
    write_claims,
    write_entry,
)
from oca_sms_async._postgres_statements import FIND, INTEND, LOOK_UP_NEXT, LOOK_UP_NEXT_KEYS
from oca_sms_async._postgres_troubles import StaleError


@frozen
class Next:
    """A lookup of the run's next message. `identity` is None for one without a key."""

    identity: bytes | None
    content: bytes
    done: asyncio.Future[Any]


@frozen
class Intend:
    """A claim."""

    claim: Claim
    done: asyncio.Future[Any]


@frozen
class Find:
    """The outcome of a message in doubt that the history has."""

    ending: Ending
    done: asyncio.Future[Any]


Call = Next | Intend | Find


@frozen
class Statement:
    """A statement of a batch. `finish` hands its rows over to the calls that it answers."""

    query: str
    parameters: dict[str, object]
    finish: Callable[[Sequence[Row]], None]


def make_statements(batch: list[Call], names: Names, run: object) -> Iterator[Statement]:
    """Yield the statements for a batch: few for all lookups and claims, and one for each record that was found.

    The order between lookups and writes makes no difference: a lookup of a name that this run has seen never leads to a
    write.
    """
    lookups = [call for call in batch if isinstance(call, Next)]
    if counted := [call for call in lookups if call.identity is None]:
        parameters = names.parameters(contents=[call.content for call in counted])
        yield Statement(LOOK_UP_NEXT, parameters, _answer(counted, names, run))
    for keyed in _rounds(call for call in lookups if call.identity is not None):
        parameters = names.parameters(
            identities=[call.identity for call in keyed], contents=[call.content for call in keyed]
        )
        yield Statement(LOOK_UP_NEXT_KEYS, parameters, _answer(keyed, names, run))
    if claims := [call for call in batch if isinstance(call, Intend)]:  # a run claims no message twice
        yield Statement(INTEND, names.parameters(**write_claims([call.claim for call in claims])), _claim(claims))
    for call in batch:
        if isinstance(call, Find):
            message, entry = call.ending.message, write_entry(call.ending.entry)
            parameters = names.parameters(identity=message.identity, known=message.known, **entry)
            yield Statement(FIND, parameters, _find(call))


def _answer(calls: list[Next], names: Names, run: object) -> Callable[[Sequence[Row]], None]:
    def finish(rows: Sequence[Row]) -> None:
        if len(rows) != len(calls):
            raise StaleError
        for call, (identity, seen, *stored) in zip(calls, rows, strict=True):
            lookup = read_lookup(tuple(stored), names, identity, call.content, run)
            if seen is not None:
                lookup = evolve(lookup, answer=Answer.REPEATED if seen == call.content else Answer.KEY_CONFLICT)
            if not call.done.done():
                call.done.set_result(lookup)

    return finish


def _claim(calls: list[Intend]) -> Callable[[Sequence[Row]], None]:
    def finish(rows: Sequence[Row]) -> None:
        for call, claimed in zip(calls, read_claims(rows), strict=True):
            if not call.done.done():
                call.done.set_result(claimed)

    return finish


def _find(call: Find) -> Callable[[Sequence[Row]], None]:
    def finish(rows: Sequence[Row]) -> None:
        if not call.done.done():
            call.done.set_result(bool(rows))

    return finish


def _rounds(calls: Iterable[Next]) -> list[list[Next]]:
    """Part calls so that no key stands twice in a part, each key's calls in their order."""
    rounds: list[list[Next]] = []
    times: dict[bytes | None, int] = {}
    for call in calls:
        nth = times.get(call.identity, 0)
        times[call.identity] = nth + 1
        if nth == len(rounds):
            rounds.append([])
        rounds[nth].append(call)
    return rounds
