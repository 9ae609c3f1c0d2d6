"""A gateway without sockets, the answers that it gives, and clients on it."""

import asyncio
import inspect
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx

from oca_sms_async import AsyncOcaSms, Priority, RegularV1, RetryPolicy, Sms, Unlimited
from oca_sms_async._connections import ExactConnectErrors

PHONE: Final = "+6281381475159"
TEXT: Final = "Acme: 482913 is your code"
WITHOUT_WAITS: Final = RetryPolicy(initial_wait=0, max_wait=0)

Answer = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]

_uids = itertools.count(1)
_FIELDS: Final = [("message", "message_body"), ("phone", "receipent_number")]  # of SMS Regular and SMS Premium


# --- answers ----------------------------------------------------------------------------------------------------------


def accept(_: httpx.Request) -> httpx.Response:
    """Take the message, and give it an id that no other message has."""
    return httpx.Response(200, json={"status": "sent", "msg_uid": f"uid-{next(_uids)}"})


def lose_answer(_: httpx.Request) -> httpx.Response:
    """Take the message, and lose the connection before the answer."""
    raise _AnswerLostError("")


def respond(status: int, body: object = None, **headers: str) -> Answer:
    """Return an answer with this status and this body in JSON. `Retry_After` stands for `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, headers=named, content=b"" if body is None else json.dumps(body))


def refuse(status: int, code: int | str | None = None, message: object = "refused", **headers: str) -> Answer:
    """Return an answer that refuses as the gateway does."""
    error = {"message": message} if code is None else {"message": message, "code": code}
    return respond(status, {"errors": [error]}, **headers)


def fail(error: type[httpx.TransportError]) -> Answer:
    """Return an answer that raises this error of httpx; `httpx.ConnectError` proves that nothing was sent."""

    def answer(_: httpx.Request) -> httpx.Response:
        raise error("")

    return answer


async def hang(_: httpx.Request) -> httpx.Response:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


def delay(seconds: float, answer: Answer = accept) -> Answer:
    """Return an answer that comes after so many seconds."""

    async def late(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(seconds)
        return await ask(answer, request)

    return late


def take_turns(*answers: Answer) -> Answer:
    """Return an answer that is each of these in turn, and then the last one for ever."""
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))

    def answer(request: httpx.Request) -> httpx.Response | Awaitable[httpx.Response]:
        return next(turns)(request)

    return answer


async def ask(answer: Answer, request: httpx.Request) -> httpx.Response:
    """Return an answer's response to a request."""
    response = answer(request)
    return await response if inspect.isawaitable(response) else response


class _AnswerLostError(httpx.ReadError):
    """The gateway took the message, and its answer was lost."""


# --- the gateway ------------------------------------------------------------------------------------------------------


class Gateway(ExactConnectErrors):
    """A gateway without sockets.

    A message gets the answer that `answers` has for its text or its number, and otherwise the next one of `script`. A
    script goes on with its last answer; the default accepts. Each lookup gets the answer `lookup`. `texts` holds the
    text of each request, `moments` its time, and `accepted` the texts that were taken.
    """

    def __init__(
        self, *script: Answer, answers: Mapping[str, Answer] | None = None, lookup: Answer | None = None
    ) -> None:
        self.answers = dict(answers or {})
        self.script = take_turns(*script or [accept])
        self.lookup = lookup or refuse(404)
        self.texts: list[str] = []
        self.moments: list[float] = []
        self.accepted: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Give the answer that this request gets."""
        self.moments.append(asyncio.get_running_loop().time())
        if request.method == "GET":
            return await ask(self.lookup, request)
        body = json.loads(request.content)
        text, phone = (body.get(regular, body.get(premium)) for regular, premium in _FIELDS)
        self.texts.append(text)
        answer = self.answers.get(text) or self.answers.get(phone) or self.script
        try:
            response = await ask(answer, request)
        except _AnswerLostError:
            self.accepted.append(text)
            raise
        if response.status_code == 200:
            self.accepted.append(text)
        return response


# --- its clients ------------------------------------------------------------------------------------------------------


def client_of(gateway: httpx.AsyncBaseTransport, **options: Any) -> AsyncOcaSms:
    """Return a client of this gateway, without a limit and without back-off unless told otherwise."""
    account = RegularV1("a@example.com", "secret")
    defaults: dict[str, Any] = {"api": account, "limiter": Unlimited(), "retry": WITHOUT_WAITS}
    # Proxies of the environment have no place here, and looking for them loads certificates.
    lent = httpx.AsyncClient(transport=gateway, trust_env=False)
    return AsyncOcaSms(http_client=lent, **(defaults | options))


def make_messages(count: int) -> list[Sms]:
    """Return so many messages; the text of each is its place in the list."""
    return [Sms(f"+62812345{number:05}", str(number)) for number in range(count)]


class Gate(Unlimited):
    """A limiter that holds each request until `opened` is set; `reached` is set once a request waits."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Wait until the gate is open."""
        self.reached.set()
        await self.opened.wait()
