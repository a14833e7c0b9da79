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

from groot_fast.server import messages
from groot_fast.server.metrics import Metrics
from groot_fast.server.zygote import Zygote

MAX_WORKERS = 256
"""Processes at once, those that have stepped aside included."""


class WorkerLost(Exception):
    """A worker ended without saying how its command did."""


class Call:
    """One command in a worker. ``started`` is set when it can be signalled, ``done`` holds the worker's last report."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.started: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[dict[str, object]] = loop.create_future()
        self.begun = time.monotonic()


class Worker:
    """A worker process as the server sees it."""

    def __init__(self, pool: Pool, channel: socket.socket) -> None:
        self.channel = channel
        self.call: Call | None = None
        self.is_quick = False
        self.pulls = False
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
        """Send a signal to the process; to none that happens to have its number after it."""
        if self._process >= 0:
            try:
                signal.pidfd_send_signal(self._process, number)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """Forget the process."""
        asyncio.get_running_loop().remove_reader(self.channel)
        self.channel.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self.channel, messages.CHUNK, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
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

    async def take(self) -> Worker:
        """A worker, when it is our turn. Raises OSError where none can be made. Whoever takes one has to `run` something in
        it at once."""
        if self._queue or not self._has_room():
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            await turn
        worker = self._idle.pop() if self._idle else self._spawn()
        worker.is_quick = True
        self._quick += 1
        self._empty.clear()
        return worker

    def _has_room(self) -> bool:
        return self._quick < self._max_operations and (bool(self._idle) or len(self._workers) < MAX_WORKERS)

    def _spawn(self) -> Worker:
        worker = Worker(self, self._zygote.spawn())
        self._workers.add(worker)
        return worker

    def hear(self, worker: Worker, report: dict[str, object]) -> None:
        """A worker reports."""
        call = worker.call
        match report["event"]:
            case "started" if call is not None and not call.started.done():
                call.started.set_result(None)
            case "aside":
                self._leave(worker)
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
        if report["stays"]:
            self._idle.append(worker)
        else:
            self._remove(worker)
        self._leave(worker)
        self._finish(call, report)

    def ended(self, worker: Worker) -> None:
        """A worker's process is gone."""
        call, worker.call = worker.call, None
        self._end_pull(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._remove(worker)
        self._leave(worker)
        self._finish(call, None)

    def _finish(self, call: Call | None, report: dict[str, object] | None) -> None:
        if len(self._workers) == len(self._idle):
            self._empty.set()
        if call is None or call.done.done():
            return
        if report is None:
            self._metrics.operation("unknown", "lost", time.monotonic() - call.begun)
            call.done.set_exception(WorkerLost())
            call.done.exception()  # seen, also where nobody waits for it any more
        else:
            self._metrics.operation(str(report["name"]) or "unknown", _outcome(report), time.monotonic() - call.begun)
            call.done.set_result(report)

    def _remove(self, worker: Worker) -> None:
        self._workers.discard(worker)
        worker.close()

    def _leave(self, worker: Worker) -> None:
        """The worker no longer counts as quick: the next in the queue has its turn."""
        if worker.is_quick:
            worker.is_quick = False
            self._quick -= 1
        turns = self._max_operations - self._quick
        while turns > 0 and self._queue and self._has_room():
            turn = self._queue.popleft()
            if not turn.done():  # else its caller went away
                turn.set_result(None)
                turns -= 1

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
