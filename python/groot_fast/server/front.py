"""Commands that the front has asked for."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from itertools import count

from groot_fast._core import format_json
from groot_fast.errors import StoreError
from groot_fast.server import messages
from groot_fast.server.pool import Pool, Worker
from groot_fast.server.world import world

VERSION = b"2"
DESCRIPTORS = 4
"""What comes with a call: standard input, output and error, and the working directory."""

GRACE = 0.05
"""Seconds from a caller's end to that of its command. A worker tells the caller first how it ended, and us then."""


def peer_of(connection: socket.socket) -> int:
    """Who is at the other end: the user id, from the kernel."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


class Refusal(Exception):
    """A call that is not taken: an HTTP status, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refuse(connection: socket.socket, error: Refusal) -> None:
    """Say so."""
    body = format_json({"error": {"kind": "Refused", "message": str(error), "hint": None}}).encode()
    head = f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    try:
        connection.send(head.encode() + body)
    except OSError:
        pass  # the caller is gone


class Front:
    """The commands that run, and what may be done to them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.users = {0, os.geteuid()}
        self._world = world().encode()
        self._numbers = count(1)
        self._running: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_stopping = False

    def take(self, body: bytes, connection: socket.socket, descriptors: list[int]) -> None:
        """Run a command, in the streams and the directory that are among ``descriptors``; they and the connection are ours from
        here on. The caller gets to know the end from the worker. When it goes away, the command is stopped."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(body, connection, descriptors))
        self._tasks.add(task)

        stop: asyncio.TimerHandle | None = None

        def caller_ended() -> None:
            nonlocal stop
            loop.remove_reader(connection)
            stop = loop.call_later(GRACE, task.cancel)

        def end(_task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if stop is not None:
                stop.cancel()
            loop.remove_reader(connection)
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)

        # Not in the task itself, which may be cancelled before it has begun.
        task.add_done_callback(end)
        loop.add_reader(connection, caller_ended)  # nothing more is expected of it

    async def _run(self, body: bytes, connection: socket.socket, descriptors: list[int]) -> None:
        try:
            await self._operate(body, connection, descriptors)
        except Refusal as error:
            refuse(connection, error)

    async def _operate(self, body: bytes, connection: socket.socket, descriptors: list[int]) -> None:
        if peer_of(connection) not in self.users:
            raise Refusal(403, "this server works for its own user and for root")
        version, caller = body.split(b"\0", 2)[:2] if body.count(b"\0") > 1 else (b"", b"")
        if version != VERSION:
            raise Refusal(400, "another version of the call")
        if caller != self._world:
            raise Refusal(421, "the caller lives in other namespaces, or below another root")
        if len(descriptors) != DESCRIPTORS:
            raise Refusal(400, "a call brings its streams and its directory along")
        if self.is_stopping:
            raise Refusal(503, "the server is stopping")
        number = str(next(self._numbers))
        payload = number.encode() + b"\0" + body
        try:
            worker, call = await self._pool.start(messages.COMMAND, payload, (connection.fileno(), *descriptors))
        except StoreError as error:
            raise Refusal(503, str(error)) from None
        self._running[number] = worker
        try:
            await asyncio.wait([call.done])
        except asyncio.CancelledError:
            worker.stop(call)
            raise
        finally:
            del self._running[number]

    def signal(self, number: str, signal_number: int) -> bool:
        """Send a signal to a command. False where none of this number is running."""
        worker = self._running.get(number)
        if worker is None:
            return False
        worker.signal(signal_number)
        return True
