"""Operations in threads, and whose turn it is.

At most ``max_operations`` run at once; the others wait in the order in which they came. A create that turns out to need a registry,
or somebody else's volume, steps aside: it goes on, but the next quick one has its turn, so that a deploy storm never holds up warm
creates. Of those, ``max_pulls`` fetch and unpack at once, first come first served.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from groot_fast import interrupts
from groot_fast._core import PanicException, Store, parse_json
from groot_fast.config import Settings, Value
from groot_fast.errors import Cancelled, GrootError, InternalError, StoreError, StoreNotFound, line_of
from groot_fast.groot import Groot
from groot_fast.interrupts import Stop
from groot_fast.pull.admission import Admission
from groot_fast.server.metrics import Metrics
from groot_fast.server.places import Place, Places
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import open_metrics
from groot_fast.telemetry.traceparent import trace_of

MAX_THREADS = 256
"""Operations at once, those that have stepped aside included."""


@dataclass(eq=False)
class Operation:
    """One call of the API. ``options`` are settings that differ from the server's."""

    name: str
    arguments: list[str]
    options: dict[str, Value]
    traceparent: str = ""
    stop: Stop = field(default_factory=Stop)


class Operations:
    """All operations of a server, on the settings that it was started with. Made and used in the event loop's thread."""

    def __init__(self, settings: Settings, metrics: Metrics, *, max_operations: int, max_pulls: int) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sink = open_sink(settings.log_file, settings.log_level, settings.log_time_format)
        self._turns = Places(max_operations)
        self._pulls = Places(max_pulls)
        self._running: set[Operation] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._workers: list[int] = []
        self._threads = ThreadPoolExecutor(MAX_THREADS, "operation", lambda: self._workers.append(threading.get_native_id()))
        metrics.watch(self.counts)

    def counts(self) -> dict[str, int]:
        """How many there are of what, now."""
        return {
            "operations_in_flight": len(self._running) - self._turns.waiting,
            "operations_queued": self._turns.waiting,
            "pulls_in_flight": self._pulls.taken,
            "pulls_queued": self._pulls.waiting,
            "workers": len(self._workers),
        }

    async def run(self, operation: Operation) -> object:
        """What the operation gives, when it has had its turn. Who is cancelled stops it. Raises GrootError."""
        self._running.add(operation)
        self._empty.clear()
        turn = self._turns.ask()

        def end(_: object = None) -> None:
            self._turns.leave(turn)
            self._running.discard(operation)
            if not self._running:
                self._empty.set()

        try:
            await asyncio.shield(asyncio.wrap_future(turn))
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._work, operation, turn)
        except BaseException:
            end()
            raise
        work.add_done_callback(end)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            operation.stop.set()
            work.add_done_callback(lambda done: done.exception())  # nobody waits for it any more
            raise

    def stop_all(self) -> None:
        """Stop everything that runs or waits."""
        for operation in self._running:
            operation.stop.set()

    async def drain(self) -> None:
        """Wait until nothing runs or waits, and all of it has been counted."""
        await self._empty.wait()
        self._threads.shutdown()

    def _work(self, operation: Operation, turn: Place) -> object:
        begun = time.monotonic()
        outcome = "failed"
        try:
            with interrupts.stopped_by(operation.stop):
                result = self._perform(operation, _Queued(turn, self._turns, self._pulls, self._metrics))
            outcome = "ok"
            return result
        except Cancelled:
            outcome = "cancelled"
            raise
        finally:
            self._metrics.operation(operation.name, outcome, time.monotonic() - begun)

    def _perform(self, operation: Operation, admission: Admission) -> object:
        operation.stop.check()
        settings = self._settings.override(operation.options)
        data = {"correlationID": settings.correlation_id or os.urandom(8).hex()}
        trace = trace_of(operation.traceparent)
        if trace:
            data["trace-id"] = trace  # as lager's `WithTraceInfo` calls it
        log = Logger(self._sink, "grootfs", data=data).session(operation.name)
        log.info("starting")
        metrics = open_metrics(
            settings.metron_endpoint, log, file=settings.metrics_file, store=settings.store, traceparent=operation.traceparent
        )
        metrics.began(operation.name)
        code, failure = 0, ""
        try:
            if not Store.is_initialised(settings.store):
                raise StoreNotFound("Store path is not initialized. Please run init-store.")
            groot = Groot(settings, log, None, metrics, admission, operation.stop.cancel)
            return OPERATIONS[operation.name](groot, settings, operation.arguments)
        except (Exception, PanicException) as error:
            code, failure = getattr(error, "exit_code", 1), line_of(error)
            if isinstance(error, GrootError):
                log.error("failed", failure)
                raise
            if isinstance(error, OSError):
                log.error("failed", failure)
                raise StoreError(failure) from error
            log.error("failed", failure, trace=traceback.format_exc())
            raise InternalError(failure) from error
        finally:
            log.info("ending")
            metrics.ended(operation.name, code, failure)
            if metrics.is_active:
                self._threads.submit(metrics.close)  # the caller need not wait for a collector or a busy file
            else:
                metrics.close()


class _Queued(Admission):
    """The turn of one operation, and its place among those that pull."""

    def __init__(self, turn: Place, turns: Places, pulls: Places, metrics: Metrics) -> None:
        self._turn = turn
        self._turns = turns
        self._pulls = pulls
        self._metrics = metrics
        self._pull: Place | None = None

    def step_aside(self) -> None:
        """See `Admission`."""
        self._turns.leave(self._turn)

    def built(self, content: int) -> None:
        """See `Admission`."""
        self._metrics.built(content)

    def __enter__(self) -> None:
        self.step_aside()
        self._pull = self._pulls.ask()
        try:
            with interrupts.Waiting():
                interrupts.result(self._pull)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        assert self._pull is not None
        self._pulls.leave(self._pull)


def _create(groot: Groot, _settings: Settings, arguments: list[str]) -> object:
    created = groot.create_and_clean(*arguments)
    return {"id": arguments[1], "path": created.path, "spec": parse_json(created.spec().encode())}


def _delete(groot: Groot, _settings: Settings, arguments: list[str]) -> object:
    return {"id": groot.delete(*arguments)}


def _stats(groot: Groot, _settings: Settings, arguments: list[str]) -> object:
    return {"disk_usage": groot.stats(*arguments).document()}


def _list(groot: Groot, _settings: Settings, _arguments: list[str]) -> object:
    return {"images": [{"id": os.path.basename(path), "path": path} for path in groot.list()]}


def _clean(groot: Groot, _settings: Settings, _arguments: list[str]) -> object:
    return {"cleaned": groot.clean() != "below threshold"}


OPERATIONS: dict[str, Callable[[Groot, Settings, list[str]], object]] = {
    "create": _create,
    "delete": _delete,
    "stats": _stats,
    "list": _list,
    "clean": _clean,
}
