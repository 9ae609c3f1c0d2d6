"""The service over HTTP: `uvicorn --factory otp_service.app:create_app`.

Numbers, logins and codes travel in bodies alone: paths end up in the access logs of every proxy.
"""

import asyncio
import contextlib
import ipaddress
import math
import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Final, Literal

import psycopg
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from oca_sms_async import AsyncOcaSms, JournalError, TokenBucket, normalize_phone
from oca_sms_async.postgres import PostgresJournal, PostgresTokenBucket
from psycopg_pool import AsyncConnectionPool
from pydantic import UUID4, AfterValidator, BaseModel, BeforeValidator, StringConstraints

from otp_service.codes import DIGITS
from otp_service.metrics import Metrics
from otp_service.service import COOL_DOWN, OtpService, Status
from otp_service.settings import Settings
from otp_service.store import Connection, LimitedError

RATE: Final = 22.0  # requests a second of the whole account
WORKERS: Final = 2  # they share the rate out while PostgreSQL is away

HTTP: Final[Mapping[Status, int]] = {"sent": 202, "unknown": 202, "not-sent": 503, "over": 410, "other-number": 409}


class SendRequest(BaseModel):
    """The page's form. `login` is its own `crypto.randomUUID()`, made once when the page shows the form."""

    login: UUID4
    phone: Annotated[str, StringConstraints(max_length=32), AfterValidator(normalize_phone)]


class ResendRequest(BaseModel):
    """A login that wants a new code."""

    login: UUID4


class VerifyRequest(BaseModel):
    """A guess. People type spaces into codes. A code of another form takes no try."""

    login: UUID4
    code: Annotated[
        str,
        BeforeValidator(lambda typed: re.sub(r"[\s-]", "", typed) if isinstance(typed, str) else typed),
        StringConstraints(pattern=rf"^[0-9]{{{DIGITS}}}$"),
    ]


def get_service(request: Request) -> OtpService:
    """Return the service of this process."""
    return request.state.service  # type: ignore[no-any-return] # the state of a lifespan has no types


def get_metrics(request: Request) -> Metrics:
    """Return the metrics of this process."""
    return request.state.metrics  # type: ignore[no-any-return] # as above


def find_address(request: Request) -> str:
    """Return the address that limits count: one IPv4 address, or the /64 that one IPv6 subscriber has.

    X-Forwarded-For is not read here: every caller can write one. uvicorn reads it if it comes from your own proxy,
    named by `--forwarded-allow-ips`. Name yours: otherwise all users share the proxy's address and its limit.
    """
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host  # a Unix socket's
    if address.version == 4:
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))


Service = Annotated[OtpService, Depends(get_service)]
Counts = Annotated[Metrics, Depends(get_metrics)]
Address = Annotated[str, Depends(find_address)]

router: Final = APIRouter()


def create_app(environ: Mapping[str, str] = os.environ) -> FastAPI:
    """Return the application; `ValueError` names a bad variable, so that a wrong deployment does not start."""
    settings = Settings.from_env(environ)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, object]]:
        """Open one client for the process. It is shared by all requests, and its limit by all workers."""
        metrics = Metrics(environ)
        spare = TokenBucket(RATE / WORKERS)
        async with (
            AsyncConnectionPool[Connection](settings.database, open=False, timeout=2) as pool,
            PostgresJournal(settings.database, name="otp") as journal,
            contextlib.aclosing(
                PostgresTokenBucket(settings.database, name="oca", rate=RATE, fallback=spare)
            ) as limiter,
            AsyncOcaSms.from_env(environ, journal=journal, limiter=limiter, observer=metrics.observe) as client,
        ):
            service = OtpService(settings, pool, client, journal)
            cleaner = asyncio.create_task(purge_hourly(service))
            try:
                yield {"service": service, "metrics": metrics}
            finally:
                cleaner.cancel()

    app = FastAPI(title="OTP", lifespan=lifespan)
    app.include_router(router)
    app.add_exception_handler(LimitedError, refuse)
    app.add_exception_handler(psycopg.Error, apologize)
    app.add_exception_handler(JournalError, apologize)
    return app


@router.post("/send")
async def send(wanted: SendRequest, service: Service, metrics: Counts, address: Address) -> JSONResponse:
    """Send a code. The same login again gets the same answer, and sends nothing.

    The answer does not depend on accounts: it must not tell strangers which numbers have one with you.
    """
    return tell(await service.send(wanted.login, wanted.phone, address), metrics)


@router.post("/resend")
async def resend(wanted: ResendRequest, service: Service, metrics: Counts, address: Address) -> JSONResponse:
    """Send a new code for a login."""
    return tell(await service.resend(wanted.login, address), metrics)


@router.post("/verify")
async def verify(guess: VerifyRequest, service: Service, metrics: Counts) -> JSONResponse:
    """Check a code. Open the user's session here, on the server: a number in a browser proves nothing to others."""
    phone, tries_left = await service.verify(guess.login, guess.code)
    status: Literal["verified", "wrong", "over"] = "verified" if phone else "wrong" if tries_left else "over"
    metrics.guesses.labels(status).inc()
    match status:
        case "verified":
            return JSONResponse({"status": status, "phone": phone})
        case "wrong":
            return JSONResponse({"status": status, "tries_left": tries_left}, 403)
        case "over":  # unknown, used, expired and out of tries look alike: the user needs a new code in each case
            return JSONResponse({"status": status}, 410)


@router.get("/metrics")
async def show_metrics(metrics: Counts) -> PlainTextResponse:
    """Return the counts of all workers of this machine. Let no proxy pass this path to the world."""
    return PlainTextResponse(metrics.render(), media_type=metrics.media_type)


def tell(status: Status, metrics: Metrics) -> JSONResponse:
    """Return the answer to a request for a code. `retry_after` is when the page may offer a new one."""
    metrics.answers.labels(status).inc()
    return JSONResponse({"status": status, "retry_after": COOL_DOWN if HTTP[status] == 202 else 0}, HTTP[status])


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that a limit refuses. The kind of the limit is the operator's to know, not the caller's."""
    assert isinstance(error, LimitedError)  # noqa: S101 - the type of a handler is wider than its registration
    get_metrics(request).refusals.labels(error.kind).inc()
    seconds = math.ceil(error.seconds)
    return JSONResponse({"status": "wait", "retry_after": seconds}, 429, {"Retry-After": str(seconds)})


async def apologize(_: Request, __: Exception) -> JSONResponse:
    """Answer while PostgreSQL is away. The page may repeat its request as it is: the login makes that harmless."""
    return JSONResponse({"status": "unavailable", "retry_after": 5}, 503, {"Retry-After": "5"})


async def purge_hourly(service: OtpService) -> None:
    """Forget old numbers, once an hour for as long as the process lives. Several workers may do so at once."""
    while True:
        with contextlib.suppress(psycopg.Error, JournalError):  # the next hour is soon enough
            await service.purge()
        await asyncio.sleep(3600)
