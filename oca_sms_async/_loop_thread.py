"""An event loop in a thread of its own: other threads make calls into it, and each call has an end."""

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from oca_sms_async._client import AsyncOcaSms
from oca_sms_async._connections import leave_to_parent
from oca_sms_async._errors import ClientClosedError, ConnectionFailedError, DeliveryUnknownError, OcaSmsError

_T = TypeVar("_T")

_running: Final = weakref.WeakSet["LoopThread"]()


class ThreadCall(Generic[_T]):
    """One call of another thread, and its end.

    `sends` is False for a call that only asks. Closing the client cancels it; a send ends by itself, with its answer.
    """

    def __init__(self, make: Callable[[AsyncOcaSms], Awaitable[_T]], *, sends: bool) -> None:
        self.end = Future[_T]()
        self.sends = sends
        self._make = make
        self._task: asyncio.Task[Any] | None = None
        self._given_up = False

    async def run(self, client: AsyncOcaSms) -> None:
        """Make the call in the loop. Every exception ends the call, and none ends the loop."""
        self._task = asyncio.current_task()
        try:
            result = await self._make(client)
        except asyncio.CancelledError as cancelled:
            self.fail(cancelled if self._given_up else self._lost())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that calls
            self.fail(error)
        else:
            self.end.set_result(result)

    async def give_up(self) -> None:
        """Cancel the call for the thread that made it."""
        self._given_up = True
        self.cancel()
        if self._task is None:  # the interruption came before the loop heard of the call
            self.fail(asyncio.CancelledError())

    def cancel(self) -> None:
        """Cancel the call."""
        if self._task is not None:
            self._task.cancel()

    def fail(self, error: BaseException | None = None) -> None:
        """End the call by an error, by default that of a call whose loop has ended."""
        with contextlib.suppress(InvalidStateError):  # it has ended already
            self.end.set_exception(error or self._lost())

    def _lost(self) -> OcaSmsError:
        if self.sends:
            return DeliveryUnknownError("the send was cancelled in the client's event loop")
        return ClientClosedError("this client is closed")


class LoopThread:
    """A client in an event loop of its own, in a daemon thread of this process.

    `open_client` is awaited in the loop; its exception comes out here. The loop closes the client when it ends. A
    process that ends closes it too. `ConnectionFailedError` if no thread can be started.

    anyio's `start_blocking_portal` is not used. It is a generator, and a forked child that collects the generator would
    wait for ever for the parent's loop.
    """

    def __init__(self, open_client: Callable[[], Awaitable[AsyncOcaSms]]) -> None:
        self._open_client = open_client
        self._pid = os.getpid()
        self._calls = set[ThreadCall[Any]]()
        self._lock = threading.RLock()  # a signal's handler may send, while its thread holds the lock
        self._is_leaving = False
        self._has_ended = False
        self._started = Future[tuple[BlockingPortal, asyncio.AbstractEventLoop, asyncio.Event, AsyncOcaSms]]()
        self._thread = threading.Thread(target=self._run, daemon=True, name="oca-sms")
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads, or the process ends
            raise ConnectionFailedError("no thread for the client's event loop could be started") from error
        self._portal, self._loop, self._leave, self.client = self._started.result()
        _running.add(self)

    def is_here(self) -> bool:
        """Tell whether this loop runs in this process; a fork copies no thread."""
        return self._pid == os.getpid() and not self._has_ended

    def is_of_parent(self) -> bool:
        """Tell whether the process has forked since, and this is its child."""
        return self._pid != os.getpid()

    def call(
        self,
        make: Callable[[AsyncOcaSms], Awaitable[_T]],
        *,
        sends: bool = False,
        serve: Callable[[Future[Any]], None] | None = None,
    ) -> _T:
        """Make a call in the loop, and return its result or raise its exception.

        `serve` works for the call in the calling thread until the call's end. An exception that interrupts the calling
        thread, such as a Ctrl-C, cancels the call, waits for its end, and goes on. `ClientClosedError` if the loop
        ends, `RuntimeError` in the loop's own thread.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call in the event loop's own thread would wait for itself")
        call = ThreadCall(make, sends=sends)
        self._calls.add(call)
        try:
            if not self._spawn(call.run, self.client):
                call.fail(ClientClosedError("this client is closed"))
            if serve is not None:
                serve(call.end)
            return call.end.result()
        except BaseException as interruption:
            if not call.end.done():
                self._spawn(call.give_up)
                for note in getattr(call.end.exception(), "__notes__", ()):  # they say whether it may have been sent
                    interruption.add_note(note)
            raise
        finally:
            self._calls.discard(call)
            del call  # its error has a traceback, which would hold this frame, and so itself

    def leave(self) -> None:
        """Close the client, let each call end, and then end the loop; do not wait for it."""
        if not self.is_here():  # asked before the lock, which a thread of the parent may hold for ever
            return
        with self._lock:
            if self._is_leaving:
                return
            self._is_leaving = True
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._leave.set)

    def join(self) -> None:
        """Wait for the end of the thread."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("the event loop's own thread cannot wait for its end")
        if self._pid == os.getpid():
            self._thread.join()

    def _spawn(self, run: Callable[..., Awaitable[None]], *args: Any) -> bool:
        """Start a task in the loop; return whether the loop takes one.

        Under the lock, so that the loop cannot end between the question and the task, which would wait for ever.
        """
        with self._lock:
            if self._is_leaving or self._has_ended:
                return False
            try:
                self._portal.start_task_soon(run, *args)
            except RuntimeError:  # the loop has ended by itself
                return False
        return True

    def _run(self) -> None:
        """Run the loop. It can end by a SystemExit in a task of it, and then too each call has an end."""
        try:
            anyio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 - each call has its own end, and no thread asks for this one
            if not self._started.done():
                self._started.set_exception(error)
        finally:
            self._has_ended = True
            for call in list(self._calls):
                call.fail()

    async def _serve(self) -> None:
        leave, client = asyncio.Event(), await self._open_client()
        del self._open_client  # it leads to the object that should be collected once its user forgets it
        async with BlockingPortal() as portal:
            self._started.set_result((portal, asyncio.get_running_loop(), leave, client))
            await leave.wait()
            await portal.stop()
            await client.aclose()  # sends end by it, each with its answer
            for call in list(self._calls):
                if not call.sends:
                    call.cancel()


def _end_all() -> None:
    """Close the clients of this process at its end; connections that stay open would be a warning."""
    for thread in list(_running):
        thread.leave()
        thread.join()


def starting() -> threading.RLock:
    """Return the lock under which this process starts its loops."""
    return _starting


def _enter_child() -> None:
    """Keep the parent's loops as they are in a forked child, and renew the lock.

    A loop that were collected would take its descriptors out of the selector that the parent waits on. The old lock may
    be held by a thread that the child does not have.
    """
    global _starting  # noqa: PLW0603 - one for each process
    leave_to_parent(*_running)
    _running.clear()
    _starting = threading.RLock()


_starting = threading.RLock()
atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_enter_child)
