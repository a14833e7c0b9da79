"""When an operation may be stopped from outside, and what stops it.

A stop that comes wherever the interpreter happens to be leaves things behind that nobody has a name for yet: a directory
between `mkdir` and the `try` that would remove it, an image whose caller is told that there is none. So an operation is stopped
only where it waits: in `Waiting` blocks, and, when an image is committed, where the core waits (`Committing`). A stop that meets
no such place any more comes too late, and the operation ends as if it had not come.

A command is stopped by SIGTERM, SIGINT and SIGHUP: while it is at work (`hold`), a signal is noted, and raised only there. An
operation in a thread of its own, as a server has them, is stopped by its `Stop`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from groot_fast._core import Cancel
from groot_fast.errors import Cancelled

T = TypeVar("T")

_held = False
_noted = 0


class Stop:
    """What stops one operation in a thread of its own. Usable from any thread."""

    def __init__(self) -> None:
        self.cancel = Cancel()
        """For the core's calls."""
        self._done: Future[None] = Future()
        self._lock = threading.Lock()

    def set(self) -> None:
        """Stop the operation: it raises Cancelled where it waits."""
        with self._lock:
            if not self._done.done():
                self.cancel.set()
                self._done.set_result(None)

    def check(self) -> None:
        """Raise Cancelled if the operation is to stop."""
        if self._done.done():
            raise Cancelled("stopped by the caller")

    def result(self, future: Future[T]) -> T:
        """The result of ``future``, unless this comes first. Raises Cancelled."""
        first: list[Future[Any]] = [future, self._done]
        wait(first, return_when=FIRST_COMPLETED)
        if not future.done():
            self.check()
        return future.result()

    @contextmanager
    def calling(self, end: Callable[[], None]) -> Iterator[None]:
        """Call ``end``, in another thread, if this comes in the block."""
        ended = False
        lock = threading.Lock()

        def call(_: object) -> None:
            with lock:
                if not ended:
                    end()

        self._done.add_done_callback(call)
        try:
            yield
        finally:
            with lock:
                ended = True


class _Here(threading.local):
    """What is so for one thread."""

    stop: Stop | None = None
    waiting = 0
    committing: Cancel | None = None


_here = _Here()


def hold() -> None:
    """From here on signals are raised in `Waiting` blocks only. Raises Cancelled if one has come."""
    global _held
    _held = True
    check()


def arrive(number: int) -> None:
    """What a signal handler calls; the interpreter runs it in the main thread. Raises Cancelled, now or later."""
    global _noted
    # Also if it is raised: the interpreter calls handlers in places that drop exceptions, such as weak references' callbacks.
    _noted = number
    if _held and not _here.waiting:
        if _here.committing is not None:
            _here.committing.set()
        return
    raise Cancelled(f"stopped by signal {number}")


def check() -> None:
    """Raise Cancelled if this operation is to stop."""
    global _noted
    if _here.stop is not None:
        _here.stop.check()
    elif _noted and threading.current_thread() is threading.main_thread():
        number, _noted = _noted, 0
        raise Cancelled(f"stopped by signal {number}")


@contextmanager
def stopped_by(stop: Stop) -> Iterator[None]:
    """In this block an operation runs in this thread, which ``stop`` stops."""
    _here.stop = stop
    try:
        yield
    finally:
        _here.stop = None


def cancel() -> Cancel:
    """What stops a call of the core in this thread; signals do besides."""
    return _here.stop.cancel if _here.stop is not None else Cancel()


def result(future: Future[T]) -> T:
    """The result of ``future``. In a `Waiting` block a stop ends the wait, and Cancelled is raised."""
    if _here.stop is not None and _here.waiting:
        return _here.stop.result(future)
    return future.result()


@contextmanager
def ended_by(end: Callable[[], None]) -> Iterator[None]:
    """A block that waits for something that does not know of stops; ``end`` ends it. It only matters in a `Waiting` block."""
    if _here.stop is None or not _here.waiting:
        yield
        return
    try:
        with _here.stop.calling(end):
            yield
    except Exception:
        _here.stop.check()  # what was ended has nothing else to say
        raise


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, in an event loop of its own in this thread. A stop cancels it, and Cancelled is raised."""
    import asyncio

    async def stoppable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end() -> None:
            loop.call_soon_threadsafe(task.cancel)

        with ended_by(end):
            return await work

    with Waiting():
        try:
            return asyncio.run(stoppable())
        except asyncio.CancelledError:
            check()
            raise


class Committing:
    """A block that ends well or leaves nothing: only the core, by ``cancel``, knows until when it may be stopped. So a stop is not
    raised in here; one that the core does not see any more comes too late."""

    __slots__ = ("_cancel",)

    def __init__(self, cancel: Cancel) -> None:
        """See the class."""
        self._cancel = cancel

    def __enter__(self) -> None:
        _here.committing = self._cancel
        if _noted and threading.current_thread() is threading.main_thread():
            self._cancel.set()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        _here.committing = None
        if isinstance(error, Cancelled):
            check()  # says by what it was stopped


class Waiting:
    """A block that a stop may end at any moment: it waits, or does what can be thrown away."""

    __slots__ = ()

    def __enter__(self) -> None:
        # In this order: a signal between the two is raised by `arrive`.
        _here.waiting += 1
        try:
            check()
        except BaseException:
            _here.waiting -= 1
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        global _noted
        _here.waiting -= 1
        if isinstance(error, Cancelled):
            if _here.stop is None and threading.current_thread() is threading.main_thread():
                _noted = 0  # it was raised, and what tidies up may wait
        elif error is None:
            check()
