"""The errors: their tree, their answers, pickle and copy, and causes without the message."""

import copy
import errno
import functools
import gc
import inspect
import itertools
import json
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oca_sms_async
from oca_sms_async import (
    ApiError,
    ClientClosedError,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    FieldError,
    InvalidMessageError,
    JournalClosedError,
    JournalError,
    LimiterUnavailableError,
    OcaSmsError,
    RegularV1,
    UnexpectedResponseError,
    _errors,
)
from oca_sms_async._errors import safe_code
from oca_sms_async._scrub import chain, mask_digits, scrub

ERRORS: dict[str, type[OcaSmsError]] = {
    name: kind
    for name in oca_sms_async.__all__
    if inspect.isclass(kind := getattr(oca_sms_async, name)) and issubclass(kind, OcaSmsError)
}
API_ERRORS = {name: kind for name, kind in ERRORS.items() if issubclass(kind, ApiError)}
FIELDS = (FieldError("phone_number", "Invalid country code", "body"), FieldError("message", "Empty", "body"))
WORDS = "Invalid country code; Empty"

each_error = pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
each_api_error = pytest.mark.parametrize("kind", API_ERRORS.values(), ids=API_ERRORS)


def plain(kind: type[OcaSmsError]) -> OcaSmsError:
    """Return an error with its defaults."""
    return kind(406) if issubclass(kind, ApiError) else kind()


def full(kind: type[OcaSmsError]) -> OcaSmsError:
    """Return an error with every field set, and no default."""
    doubt = not plain(kind).may_have_been_sent
    if issubclass(kind, ApiError):
        error: OcaSmsError = kind(406, 39, WORDS, FIELDS, retry_after=2.5, may_have_been_sent=doubt, attempts=3)
    else:
        error = kind("our own words", may_have_been_sent=doubt, attempts=3)
    error.add_note("message 7 of the bulk")
    error.add_note("the second note")
    return error


# The tree


class Branch(NamedTuple):
    """One line of the tree in the module's docstring."""

    name: str
    parent: str | None
    about: str


def read_tree() -> list[Branch]:
    """Read the tree in the module's docstring."""
    branches, path = [], list[str]()
    for lead, name, about in re.findall(r"^([│├└─ ]*)(\w+Error)\b +(.*)$", _errors.__doc__ or "", re.MULTILINE):
        depth = len(lead) // 4
        path[depth:] = [name]
        branches.append(Branch(name, path[depth - 1] if depth else None, about))
    return branches


def test_the_tree_is_true() -> None:
    """The tree in the module's docstring shows every class and its parent. Every class is exported."""
    descent = {name: kind.__bases__[0].__name__ for name, kind in ERRORS.items() if kind is not OcaSmsError}
    assert {branch.name: branch.parent for branch in read_tree()} == {"OcaSmsError": None, **descent}
    defined = {kind for kind in vars(_errors).values() if inspect.isclass(kind) and issubclass(kind, OcaSmsError)}
    assert defined == set(ERRORS.values())


def test_codes_in_the_tree_are_the_gateways() -> None:
    """The gateway gives the code that the tree shows beside an error."""
    codes = {
        branch.name: int(found[1]) for branch in read_tree() if (found := re.search(r"\bcode (\d+)", branch.about))
    }
    assert sorted(codes.values()) == [9, 13, 17, 19, 39, 41, 51, 55]
    for name, code in codes.items():
        with pytest.raises(ERRORS[name]) as caught:
            RegularV1("user", "secret").send("", "").parse(500, {}, json.dumps({"errors": [{"code": code}]}).encode())
        assert type(caught.value) is ERRORS[name]


@each_error
def test_builtin_bases(kind: type[OcaSmsError]) -> None:
    """An impossible message is a ValueError, an expired one a TimeoutError, a closed one a RuntimeError."""
    builtin = {
        InvalidMessageError: (ValueError,),
        ExpiredError: (TimeoutError, OSError),
        ClientClosedError: (RuntimeError,),
        JournalClosedError: (RuntimeError,),
    }.get(kind, ())
    assert (
        tuple(base for base in (ValueError, TimeoutError, OSError, RuntimeError) if issubclass(kind, base)) == builtin
    )
    base_in_tree = re.match(r"\((\w+)\)", next(branch.about for branch in read_tree() if branch.name == kind.__name__))
    assert (base_in_tree[1] if base_in_tree else None) == (builtin[0].__name__ if builtin else None)


# May it have been sent?


@pytest.mark.parametrize(
    ("kind", "doubt"),
    [
        (OcaSmsError, False),
        (InvalidMessageError, False),
        (ExpiredError, False),
        (LimiterUnavailableError, False),
        (JournalError, False),
        (ConnectionFailedError, False),
        (DeliveryUnknownError, True),
        (UnexpectedResponseError, True),
    ],
)
def test_default_answer(kind: type[OcaSmsError], *, doubt: bool) -> None:
    """Each class has its own answer, and no attempts. The constructor may set both."""
    assert kind("words").may_have_been_sent is doubt
    assert kind("words").attempts == 0
    for told in (True, False):
        assert kind("words", may_have_been_sent=told).may_have_been_sent is told
    assert kind("words", attempts=2).attempts == 2


@each_api_error
def test_default_answer_of_a_refusal(kind: type[ApiError]) -> None:
    """A 4xx proves that the message was not taken, except 408 and 499. Class and code do not matter."""
    for code in (None, 13, 39):
        safe = [status for status in range(100, 600) if not kind(status, code).may_have_been_sent]
        assert safe == [status for status in range(400, 500) if status not in {408, 499}]
    for told in (True, False):
        for status in (401, 408, 500):
            assert kind(status, may_have_been_sent=told).may_have_been_sent is told
    assert kind(500).attempts == 0
    assert kind(500, attempts=2).attempts == 2


# What is shown


@each_api_error
@pytest.mark.parametrize(
    ("code", "shown"),
    [
        *((None, ""), (0, ", code 0"), (39, ", code 39"), (999, ", code 999"), (-999, ", code -999")),
        *((1000, ""), (-1000, ""), (482913, ""), (6281381475159, "")),
    ],
)
def test_refusal_in_words(kind: type[ApiError], code: int | None, shown: str) -> None:
    """A refusal shows its meaning, status and code alone. It hides a code that may be a number or a password."""
    error = kind(406, code, "the gateway's words", FIELDS)
    assert re.fullmatch(rf"the [A-Za-z',: ]+ \(HTTP 406{shown}\)", str(error))
    assert repr(error) == f"{kind.__name__}({str(error)!r})"
    assert (error.status_code, error.code, error.text, error.fields) == (406, code, "the gateway's words", FIELDS)


def test_meanings_differ() -> None:
    """Each refusal has a sentence of its own."""
    assert len({str(kind(406)) for kind in API_ERRORS.values()}) == len(API_ERRORS)


def test_field_error_hides_its_words() -> None:
    """The gateway's words about a field are in `msg` alone, not in the repr."""
    assert "Invalid country code" not in repr(FIELDS)
    assert FIELDS[0].msg == "Invalid country code"


@pytest.mark.parametrize(
    ("text", "starred"),
    [
        ("", ""),
        ("123", "123"),
        ("1234", "****"),
        ("a1234567b 12 12345", "a****b 12 ****"),
        ("٠١٢٣ ０８１２", "**** ****"),
        ("123-456-789", "123-456-789"),
    ],
)
def test_digits_masked(text: str, starred: str) -> None:
    """Runs of four or more digits of any script become four stars, so their length is hidden too."""
    assert mask_digits(text) == starred


# Pickle, copy and queues


class OrderError(ExpiredError):
    """A user's own error."""

    def __init__(self, order: int) -> None:
        super().__init__(f"order {order} expired", may_have_been_sent=True, attempts=2)
        self.order = order


def pickle_and_load(error: OcaSmsError, protocol: int) -> OcaSmsError:
    """Pickle and unpickle an error."""
    arrived = pickle.loads(pickle.dumps(error, protocol))
    assert isinstance(arrived, OcaSmsError)
    return arrived


TRAVELS: dict[str, Callable[[OcaSmsError], OcaSmsError]] = {"copy": copy.copy, "deepcopy": copy.deepcopy} | {
    f"pickle {protocol}": functools.partial(pickle_and_load, protocol=protocol)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
}


@each_error
@pytest.mark.parametrize("make", [plain, full])
@pytest.mark.parametrize("travel", TRAVELS.values(), ids=TRAVELS)
def test_errors_travel(
    kind: type[OcaSmsError],
    make: Callable[[type[OcaSmsError]], OcaSmsError],
    travel: Callable[[OcaSmsError], OcaSmsError],
) -> None:
    """Pickle and copy keep the class, words, answer, attempts, notes and all the rest."""
    error = make(kind)
    arrived = travel(error)
    assert arrived is not error
    assert type(arrived) is kind
    assert (str(arrived), repr(arrived), arrived.args) == (str(error), repr(error), error.args)
    assert vars(arrived) == vars(error)
    assert arrived.may_have_been_sent is error.may_have_been_sent
    assert arrived.attempts == (3 if make is full else 0)
    if make is full:
        assert arrived.__notes__ == ["message 7 of the bulk", "the second note"]
    if isinstance(arrived, ApiError):
        told = (arrived.status_code, arrived.code, arrived.text, arrived.fields, arrived.retry_after)
        assert told == ((406, 39, WORDS, FIELDS, 2.5) if make is full else (406, None, "", (), None))


def test_users_own_error_travels() -> None:
    """An attribute that the user adds travels too."""
    error = ExpiredError("words")
    error.order = 7  # type: ignore[attr-defined] # any exception takes attributes
    assert vars(pickle.loads(pickle.dumps(error)))["order"] == 7


def test_users_own_class_travels() -> None:
    """A user's subclass travels, although its constructor takes other arguments."""
    error = OrderError(7)
    for travel in TRAVELS.values():
        arrived = travel(error)
        assert (type(arrived), str(arrived), vars(arrived)) == (OrderError, "order 7 expired", vars(error))


@each_error
@pytest.mark.parametrize("doubt", [True, False])
def test_late_answer_travels(kind: type[OcaSmsError], *, doubt: bool) -> None:
    """Values that the call sets at its end travel too, through pickle and through `args`."""
    error = plain(kind)
    error.may_have_been_sent, error.attempts = doubt, 4
    for arrived in (pickle.loads(pickle.dumps(error)), type(error)(*error.args), type(error)(*through_json(error))):
        assert (arrived.may_have_been_sent, arrived.attempts) == (doubt, 4)


def through_json(error: OcaSmsError) -> list[Any]:
    """Return the arguments of an error as a queue hands them on."""
    arguments = json.loads(json.dumps(error.args))
    assert isinstance(arguments, list)
    return arguments


def answer_of(error: OcaSmsError) -> tuple[Any, ...]:
    """Return all that a rebuilt error must say again."""
    told = (type(error), str(error), repr(error), error.may_have_been_sent, error.attempts)
    return (*told, error.status_code, safe_code(error.code), error.retry_after) if isinstance(error, ApiError) else told


@st.composite
def any_errors(draw: st.DrawFn) -> OcaSmsError:
    """Draw an error of any class, with any answer, set at once or later."""
    kind = draw(st.sampled_from([*ERRORS.values()]))
    doubt, attempts = draw(st.none() | st.booleans()), draw(st.integers(0, 9))
    if issubclass(kind, ApiError):
        code = draw(st.none() | st.integers(-(10**12), 10**12) | st.integers(0, 99))
        fields = draw(st.sampled_from([(), FIELDS]))
        wait = draw(st.none() | st.floats(0, 60))
        status = draw(st.integers(100, 599))
        error: OcaSmsError = kind(
            status, code, WORDS, fields, retry_after=wait, may_have_been_sent=doubt, attempts=attempts
        )
    else:
        error = kind(draw(st.text()), may_have_been_sent=doubt, attempts=attempts)
    if draw(st.booleans()):
        error.may_have_been_sent, error.attempts = draw(st.booleans()), draw(st.integers(0, 9))
    return error


@given(any_errors())
def test_args_rebuild_the_answer(error: OcaSmsError) -> None:
    """`type(error)(*error.args)` says the same, after JSON and once more too. Queues rebuild an exception so."""
    rebuilt = type(error)(*error.args)
    from_json = type(error)(*through_json(error))
    again = type(error)(*rebuilt.args)
    assert answer_of(rebuilt) == answer_of(from_json) == answer_of(again) == answer_of(error)
    assert rebuilt.args == error.args


@given(any_errors())
def test_args_hold_no_word_of_the_gateways(error: OcaSmsError) -> None:
    """`args` hold neither the gateway's words nor a code that may be a number."""
    if isinstance(error, ApiError):
        assert not {WORDS, FIELDS, *FIELDS} & {*error.args}
        assert error.args[1] in {None, *range(-999, 1000)}


# Causes


def link_errors(*links: BaseException) -> BaseException:
    """Chain exceptions, in turn as cause and as context, and return the first."""
    for number, (error, cause) in enumerate(itertools.pairwise(links)):
        if number % 2:
            error.__context__ = cause
        else:
            error.__cause__ = cause
    return links[0]


def test_chain_yields_each_link_once() -> None:
    """Causes, contexts and members of groups are found, each once."""
    first, second, third, member, deep = (ValueError(name) for name in "abcde")
    member.__cause__ = deep
    group = ExceptionGroup("group", [member, ExceptionGroup("inner", [third])])
    links = list(chain(link_errors(first, second, group)))
    assert {str(link) for link in links if not isinstance(link, ExceptionGroup)} == set("abcde")
    assert links[0] is first
    assert len(links) == 7


def test_chain_ends_on_cycles() -> None:
    """Exceptions that form a cycle are visited once."""
    first, second = ValueError("482913"), KeyError("482913")
    first.__cause__ = first.__context__ = second
    second.__context__ = ExceptionGroup("group", [first, second])
    second.__cause__ = second
    assert len(list(chain(first))) == 3
    assert scrub(first) is first
    assert (first.args, second.args) == (("****",), ("****",))


@pytest.mark.parametrize("position", range(3))
def test_scrub_drops_request_and_frames(position: int) -> None:
    """A scrubbed cause holds neither httpx's request, with body and credentials, nor the frames of its traceback."""

    class Local:
        """A value that only a frame holds."""

    def fail(request: httpx.Request) -> tuple[BaseException, "weakref.ref[Local]"]:
        local = Local()
        try:
            raise httpx.ReadTimeout("too late", request=request)  # noqa: TRY301 - the frame that it is raised in matters
        except httpx.ReadTimeout as error:
            return error, weakref.ref(local)

    request = httpx.Request("POST", "https://gateway.test/sms", content=b"482913")
    error, frame = fail(request)
    held = weakref.ref(request)
    del request
    links: list[BaseException] = [ValueError("outer"), ValueError("middle")]
    links.insert(position, error)
    cause = link_errors(*links)
    gc.collect()
    assert held() is not None
    assert frame() is not None
    assert scrub(cause) is cause
    gc.collect()
    assert held() is None
    assert frame() is None


@pytest.mark.parametrize("grouped", [False, True])
def test_scrub_drops_the_document(*, grouped: bool) -> None:
    """A scrubbed cause holds nothing of the unreadable JSON, in a group either."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads('{"message": "482913"')
    error = caught.value
    scrub(ExceptionGroup("group", [error]) if grouped else error)
    assert not error.doc
    assert "482913" not in repr(vars(error))
    assert str(error).startswith("Expecting")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("illegal status line: bytearray(b'HTTP/1.1 2x0 Quagga')", "illegal status line: bytearray(…"),
        ("illegal header line: b'Quagga'", "illegal header line: …"),
        ('cannot read b"it\'s\nQuagga" of 20', "cannot read …"),
        ("number 6281381475159 in 3 parts", "number **** in 3 parts"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_scrub_masks_texts(text: str, kept: str) -> None:
    """Quoted bytes and long digits are removed from the words of every cause in the chain."""
    errors = [httpx.RemoteProtocolError(text), ValueError(text, 5, "1234"), KeyError(text)]
    scrub(link_errors(*errors))
    assert [error.args for error in errors] == [(kept,), (kept, 5, "****"), (kept,)]


def test_scrub_keeps_the_systems_words() -> None:
    """The system's words about a connection stay whole."""
    error = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 50123)")
    scrub(error)
    assert error.args == (errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 50123)")
    assert error.errno == errno.ECONNREFUSED


def test_scrub_keeps_our_errors() -> None:
    """An error of the library holds no word of the message. As a cause it keeps its words and its answer."""
    ours = JournalError("the journal /data/20240101.db is locked", may_have_been_sent=True, attempts=2)
    before = answer_of(ours)
    outer = scrub(link_errors(httpx.ReadError("6281381475159"), ours))
    assert outer.args == ("****",)
    assert answer_of(ours) == before
