"""Parts that several benchmarks share: messages, a send that takes no time, a clock that jumps, and peak memory."""

import asyncio
import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from oca_sms_async import SendReceipt, Sms
from oca_sms_async._call import CallState

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import virtual_time

__all__ = ["messages", "peak", "running", "send", "virtual_time"]

_STATUS = Path("/proc/self/status")


def messages(count: int) -> Iterator[Sms]:
    """Yield so many messages, each made when it is asked for."""
    return (Sms(f"+62812{number:08}", f"Acme: {number:06} is your code") for number in range(count))


async def send(sms: Sms, call: CallState) -> SendReceipt:
    """Take the way of a real send, without a slot, a token or a request; one turn of the loop, so that others go on."""
    await call.before_first_send()
    call.started()
    call.left_wire()
    await asyncio.sleep(0)
    return SendReceipt(sms.phone, "sent")


@contextlib.contextmanager
def running(command: list[str], count: int) -> Iterator[None]:
    """Run so many processes of a command for the length of a block."""
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


def peak() -> float:
    """Return the peak memory of this process in MB.

    On Linux `ru_maxrss` begins with the parent's, so `/proc` is read instead.
    """
    if _STATUS.exists():
        return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if "VmHWM" in line) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
