"""Workers, and whose turn it is.

At most ``max_operations`` commands run at once; the others wait in the order in which they came. A command that turns
out to need a registry, or somebody else's volume, steps aside: it goes on, but the next quick one has its turn, so that
a deploy storm never holds up warm creates. Of those, ``max_pulls`` fetch and unpack at once, first come first served.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import deque

from groot_fast.errors import StoreError
from groot_fast.server import messages
from groot_fast.server.metrics import Metrics
from groot_fast.server.zygote import Zygote

MAX_WORKERS = 256
"""Processes at once, those that have stepped aside included."""
ATTEMPTS = 3
"""How often to try another worker where one turns out to be dead."""


class WorkerLost(Exception):
    """A worker ended without saying how its command did."""


class Call:
    """One command in a worker. ``done`` holds the worker's last report, or WorkerLost."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[dict[str, object]] = loop.create_future()
        self.begun = time.monotonic()


class Worker:
    """A worker process as the server sees it."""

    def __init__(self, pool: Pool, channel: socket.socket) -> None:
        self.channel = channel
        self.call: Call | None = None
        self.is_quick = False
        self.pulls = False
        self.is_signalled = False
        self._pool = pool
        self._process = -1
        self._rest = b""
        asyncio.get_running_loop().add_reader(channel, self._read)

    def run(self, kind: bytes, payload: bytes, descriptors: tuple[int, ...] = ()) -> Call:
        """Start a command. Raises OSError where the process is gone."""
        self.call = Call(asyncio.get_running_loop())
        messages.send(self.channel, kind, payload, descriptors)
        return self.call

    def signal(self, number: int) -> None:
        """Send a signal to the process; to none that happens to have its number after it. Its command is its last: the next one
        must not get a signal that comes late."""
        self.is_signalled = True
        if self._process >= 0:
            try:
                signal.pidfd_send_signal(self._process, number)
            except ProcessLookupError:
                pass

    def stop(self, call: Call) -> None:
        """Stop a command whose caller has gone away, unless it has ended, of which we may not have heard yet."""
        if self.call is call:
            self._read()
        if self.call is call:
            self.signal(signal.SIGTERM)

    def close(self) -> None:
        """Forget the process."""
        asyncio.get_running_loop().remove_reader(self.channel)
        self.channel.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def _read(self) -> None:
        try:
            data, descriptors = messages.receive_some(self.channel, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            self._process = descriptor
        if not data:
            self._pool.ended(self)
            return
        reports, self._rest = messages.split(self._rest + data)
        for report in reports:
            self._pool.hear(self, report)


class Pool:
    """All workers of a server."""

    def __init__(self, zygote: Zygote, metrics: Metrics, *, max_operations: int, max_pulls: int) -> None:
        self._zygote = zygote
        self._metrics = metrics
        self._max_operations = max_operations
        self._max_pulls = max_pulls
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._quick = 0
        self._pulls = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._pull_queue: deque[Worker] = deque()
        self._empty = asyncio.Event()
        self._empty.set()
        metrics.watch(self.counts)

    def counts(self) -> dict[str, int]:
        """How many there are of what, now."""
        return {
            "operations_in_flight": len(self._workers) - len(self._idle),
            "operations_queued": len(self._queue),
            "pulls_in_flight": self._pulls,
            "pulls_queued": len(self._pull_queue),
            "workers": len(self._workers),
        }

    async def start(self, kind: bytes, payload: bytes, descriptors: tuple[int, ...] = ()) -> tuple[Worker, Call]:
        """Start a command in a worker when it is its turn. Raises StoreError where there is no worker to be had."""
        await self._turn()
        for _ in range(ATTEMPTS):
            try:
                worker = self._idle.pop() if self._idle else Worker(self, self._zygote.spawn())
            except OSError:
                break
            self._workers.add(worker)
            try:
                call = worker.run(kind, payload, descriptors)
            except OSError:
                self._remove(worker)  # it was idle and has just died
                continue
            worker.is_quick = True
            return worker, call
        self._quick -= 1
        self._go_on()
        raise StoreError("no worker process could be started")

    async def _turn(self) -> None:
        """Wait until we may start something; counts it."""
        self._empty.clear()
        if not self._queue and self._has_room():
            self._quick += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._quick -= 1  # it was ours already
            elif turn in self._queue:
                self._queue.remove(turn)
            self._go_on()
            raise

    def _has_room(self) -> bool:
        return self._quick < self._max_operations and (bool(self._idle) or len(self._workers) < MAX_WORKERS)

    def hear(self, worker: Worker, report: dict[str, object]) -> None:
        """A worker reports."""
        match report["event"]:
            case "aside":
                self._step_aside(worker)
            case "pull":
                self._pull_queue.append(worker)
                self._admit()
            case "pulled":
                self._end_pull(worker)
            case "built":
                self._metrics.built(int(str(report["bytes"])))
            case "done":
                self._done(worker, report)

    def _done(self, worker: Worker, report: dict[str, object]) -> None:
        call, worker.call = worker.call, None
        self._end_pull(worker)
        if report["stays"] and not worker.is_signalled:
            self._idle.append(worker)
        else:
            self._remove(worker)
        self._step_aside(worker)
        self._finish(call, report)

    def ended(self, worker: Worker) -> None:
        """A worker's process is gone."""
        call, worker.call = worker.call, None
        self._end_pull(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._remove(worker)
        self._step_aside(worker)
        self._finish(call, None)

    def _finish(self, call: Call | None, report: dict[str, object] | None) -> None:
        if call is None:
            return
        if report is None:
            self._metrics.operation("unknown", "lost", time.monotonic() - call.begun)
            call.done.set_exception(WorkerLost())
            call.done.exception()  # seen, also where nobody waits for it
        else:
            self._metrics.operation(str(report["name"]) or "unknown", _outcome(report), time.monotonic() - call.begun)
            call.done.set_result(report)

    def _remove(self, worker: Worker) -> None:
        self._workers.discard(worker)
        worker.close()

    def _step_aside(self, worker: Worker) -> None:
        """The worker no longer counts as quick."""
        if worker.is_quick:
            worker.is_quick = False
            self._quick -= 1
        self._go_on()

    def _go_on(self) -> None:
        """Whoever can, has their turn."""
        while self._queue and self._has_room():
            turn = self._queue.popleft()
            if not turn.cancelled():  # its caller went away
                self._quick += 1
                turn.set_result(None)
        if not self._quick and not self._queue and len(self._workers) == len(self._idle):
            self._empty.set()

    def _admit(self) -> None:
        while self._pull_queue and self._pulls < self._max_pulls:
            worker = self._pull_queue.popleft()
            worker.pulls = True
            self._pulls += 1
            try:
                messages.send(worker.channel, messages.GO, b"")
            except OSError:
                self._end_pull(worker)

    def _end_pull(self, worker: Worker) -> None:
        if worker in self._pull_queue:
            self._pull_queue.remove(worker)
        if worker.pulls:
            worker.pulls = False
            self._pulls -= 1
            self._admit()

    async def drain(self) -> None:
        """Wait until nothing runs."""
        await self._empty.wait()

    def stop_all(self, number: int) -> None:
        """Send a signal to every worker that has a command."""
        for worker in self._workers:
            if worker.call is not None:
                worker.signal(number)


def _outcome(report: dict[str, object]) -> str:
    if report.get("code", 0) == 130:
        return "cancelled"
    return "failed" if "error" in report or report.get("code", 0) != 0 else "ok"
