"""The index of a journal's file: it answers as a dictionary would, and a pass in the order of the list is cheap."""

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oca_sms_async._journal import _index
from oca_sms_async._journal._index import Index
from oca_sms_async._journal._records import Record
from oca_sms_async._journal._values import Status

BATCH = 50


def make_identity(number: int) -> str:
    """Return a digest; its order has nothing to do with the number's."""
    return f"{pow(number + 1, -1, 2**127 - 1):032x}"


def make_record(number: int, attempts: int) -> Record:
    """Return a record that differs from all others of the same message by its attempts."""
    return Record(make_identity(number), "00" * 16, Status.DOUBTFUL, attempts, 1.0, 1.0)


@contextlib.contextmanager
def open_index() -> Iterator[Index]:
    """Open an index without messages."""
    with contextlib.closing(Index()) as index:
        index.fill([])
        yield index


class UndoError(Exception):
    """Ends a transaction that must leave no trace."""


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(["get", "put", "touch", "forget"]), st.integers(0, 7)), max_size=12),
            st.booleans(),
        ),
        max_size=8,
    )
)
@example([([("put", 1)], False), ([("forget", 0), ("put", 0), ("put", 1), ("touch", 1)], False)])
def test_the_index_answers_as_a_dictionary_would(
    transactions: list[tuple[list[tuple[str, int]], bool]],
) -> None:
    """An index gives the last record and run of each message, however many messages it keeps places of, and undoes."""
    with open_index() as index, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_index, "_RECENT", 3)
        known: dict[int, tuple[Record, int]] = {}
        count = 0
        for steps, is_undone in transactions:
            before = known.copy()
            with contextlib.suppress(UndoError), index.transaction():
                for step, number in steps:
                    count += 1
                    found = index.get(make_identity(number))
                    assert found == known.get(number)
                    match step:
                        case "put":
                            known[number] = make_record(number, count), count
                            index.put(*known[number])
                        case "touch" if found is not None:
                            known[number] = found[0], count
                            index.touch(make_identity(number), count)
                        case "forget":
                            assert len(index.forget(2.0, doubtful=True, busy=())) == len(known)
                            known.clear()
                if is_undone:
                    known = before
                    raise UndoError
            assert {number: index.get(make_identity(number)) for number in range(8)} == {
                number: known.get(number) for number in range(8)
            }
            assert len(index._places) <= 3


def test_a_later_pass_in_the_same_order_looks_up_one_digest() -> None:
    """A pass in the order of the list finds each record behind the last one, and changes it in its place."""
    with open_index() as index:
        count, statements = 2 * BATCH, list[str]()
        index._db.set_trace_callback(statements.append)
        with index.transaction():
            for number in range(count):
                assert index.get(make_identity(number)) is None
                index.put(make_record(number, 1), 1)
        assert len(statements) == 1 + 2 * count + 1  # new messages have no place to be looked for
        statements.clear()
        for first in range(0, count, BATCH):
            batch = range(first, first + BATCH)
            for number in batch:
                assert index.get(make_identity(number)) == (make_record(number, 1), 1)
                index.touch(make_identity(number), 2)
            for attempts in (2, 3):
                for number in batch:
                    assert index.get(make_identity(number)) == (make_record(number, attempts - 1), 2)
                    index.put(make_record(number, attempts), 2)
        assert len(statements) == 6 * count  # a get and a change, three times
        assert sum("rowid = " not in it for it in statements) == 1
        statements.clear()
        assert index.get(make_identity(count)) is None
        assert index.get(make_identity(count + 1)) is None
        assert len(statements) == 2 + 1  # new ones follow: the second has no place to be looked for
