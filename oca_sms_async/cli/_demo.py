"""The command that shows the client at work: a bulk of one-time passwords, with faults, on a sandbox."""

import asyncio
import os
import random
import time
from typing import Final

from oca_sms_async import AsyncOcaSms, RetryPolicy, Sms, TokenBucket
from oca_sms_async.cli._console import show, show_pairs
from oca_sms_async.cli._progress import Tally, show_progress
from oca_sms_async.sandbox import Sandbox

_MESSAGES: Final = 250
_REFUSED_EVERY: Final = 50
_RATE: Final = 50.0  # requests per second
# With this seed eleven of the demo's sends meet an internal error, in any order of sending. So twelve attempts are
# enough for each message, and every run ends with the same counts.
_SEED: Final = 22
_ERROR_RATE: Final = 0.04
_ATTEMPTS: Final = 12


def demo() -> None:
    """Run `oca-sms demo`; its help stands in `_commands`."""
    # httpx takes the environment's proxy for the loopback address too, and no proxy could reach this sandbox. The
    # variable is in small letters: they go before the capitals where both are set.
    os.environ["no_proxy"] = "127.0.0.1"
    show(
        f"Sending {_MESSAGES} one-time passwords to a sandbox on this machine; no SMS leaves it.",
        f"For the demo the rate limit is lifted from the default {TokenBucket().rate:g}/s to {_RATE:g}/s.",
    )
    asyncio.run(_run())


async def _run() -> None:
    messages = _one_time_passwords()
    refused = [sms.phone for sms in messages[_REFUSED_EVERY // 2 :: _REFUSED_EVERY]]
    limiter, tally = TokenBucket(rate=_RATE), Tally(total=len(messages), to_send=len(messages))
    async with (
        Sandbox(faults={"internal-error": _ERROR_RATE}, seed=_SEED, refused_numbers=refused).serve() as sandbox,
        AsyncOcaSms(
            sandbox.username,
            sandbox.password,
            base_url=sandbox.base_url,
            limiter=limiter,
            retry=RetryPolicy(max_attempts=_ATTEMPTS),
        ) as client,
    ):
        started = time.monotonic()
        with show_progress(tally) as note:
            async with client.bulk(messages) as outcomes:
                async for outcome in outcomes:
                    note(outcome)
        seconds = time.monotonic() - started
    # The first request took the token of the full bucket. The others waited for theirs.
    _summarise(tally, seconds, rate=(limiter.statistics().granted - 1) / seconds)


def _one_time_passwords() -> list[Sms]:
    """Return messages to distinct Indonesian mobile numbers, each with a code of its own."""
    draw = random.Random(_SEED)  # noqa: S311 - these codes open no account
    codes = (f"{draw.randrange(10**6):06}" for _ in range(_MESSAGES))
    numbers = draw.sample(range(10**8), _MESSAGES)
    return [
        Sms(f"+62812{number:08}", f"Acme: {code} adalah kode OTP Anda. Jangan berikan ke siapa pun.")
        for number, code in zip(numbers, codes, strict=True)
    ]


def _summarise(tally: Tally, seconds: float, *, rate: float) -> None:
    show_pairs(
        [
            ("sent", tally.sent),
            ("failed", tally.failed),
            *(("", f"{count} × {reason}") for reason, count in tally.reasons.most_common()),
            ("unknown", f"{tally.unknown} (failed, but may have been sent)"),
            ("retried", f"{tally.retried} (sent after an internal error, so perhaps more than once)"),
            ("rate", f"{rate:.1f}/s of the {_RATE:g}/s allowed"),
            ("time", f"{seconds:.1f} s"),
        ]
    )
