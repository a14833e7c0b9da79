"""Calls of the front, read without an HTTP library.

They are requests as `openapi.json` describes them, but all of one form, and there may be thousands a second: aiohttp takes
three times as long over one as everything else that the server does for it. A connection that begins otherwise is aiohttp's.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
from collections.abc import Callable
from itertools import count
from typing import cast

from groot_fast._core import format_json
from groot_fast.errors import StoreError
from groot_fast.server import messages
from groot_fast.server.pool import Call, Pool, Worker
from groot_fast.server.world import world

MAX_CALL = 8 << 20
"""Bytes of a call: more than the arguments and environment of a process can be (execve(2))."""
MAX_HEAD = 4096
START = b"POST /v1/commands HTTP/1.1\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,8})\r\n", re.IGNORECASE)
VERSION = b"1"


def peer_of(connection: socket.socket) -> int:
    """Who is at the other end: the user id, from the kernel."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


class Refusal(Exception):
    """A call that is not taken: an HTTP status, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Front:
    """The commands that the front has asked for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.users = {0, os.geteuid()}
        self._world = world().encode()
        self._numbers = count(1)
        self._running: dict[str, Worker] = {}
        self.is_stopping = False

    async def run(self, body: bytes, transport: asyncio.Transport) -> None:
        """Run a command in the streams of the caller, which gets to know the end from the worker. Raises Refusal as long as
        nothing has run. When cancelled, the command is stopped."""
        connection = transport.get_extra_info("socket")
        if peer_of(connection) not in self.users:
            raise Refusal(403, "this server works for its own user and for root")
        version, caller = body.split(b"\0", 2)[:2] if body.count(b"\0") > 1 else (b"", b"")
        if version != VERSION:
            raise Refusal(400, "another version of the call")
        if caller != self._world:
            raise Refusal(421, "the caller lives in other namespaces, or below another root")
        if self.is_stopping:
            raise Refusal(503, "the server is stopping")
        number = str(next(self._numbers))
        payload = number.encode() + b"\0" + body
        try:
            # What the caller sends from then on is for the worker.
            worker, call = await self._pool.start(messages.COMMAND, payload, (connection.fileno(),), hand_over=transport.pause_reading)
        except StoreError as error:
            raise Refusal(503, str(error)) from None
        self._running[number] = worker
        try:
            await self._attend(worker, call, transport)
        finally:
            del self._running[number]

    async def _attend(self, worker: Worker, call: Call, transport: asyncio.Transport) -> None:
        try:
            await call.started
            # Only to see the end of the connection.
            if not transport.is_closing():
                transport.resume_reading()
            await call.ended
        except asyncio.CancelledError:
            if worker.call is call:
                worker.signal(signal.SIGTERM)
            raise

    def signal(self, number: str, signal_number: int) -> bool:
        """Send a signal to a command. False where none of this number is running."""
        worker = self._running.get(number)
        if worker is None:
            return False
        worker.signal(signal_number)
        return True


class Connection(asyncio.Protocol):
    """A new connection: a call of the front, or HTTP."""

    def __init__(self, front: Front, http: Callable[[], asyncio.Protocol]) -> None:
        self._front = front
        self._http = http
        self._data = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._task is not None:
            return  # nothing more is expected
        self._data += data
        if not self._data.startswith(START[: len(self._data)]):
            self._hand_to_http()
            return
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4 and len(self._data) < MAX_HEAD:
            return
        length = LENGTH.search(self._data, 0, end)
        if length is None or int(length[1]) > MAX_CALL:
            self._refuse(Refusal(400, "a call has a Content-Length of at most eight megabytes"))
        elif len(self._data) >= end + int(length[1]):
            self._task = asyncio.get_running_loop().create_task(self._run(bytes(self._data[end : end + int(length[1])])))

    def _hand_to_http(self) -> None:
        protocol = self._http()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(bytes(self._data))

    async def _run(self, body: bytes) -> None:
        try:
            await self._front.run(body, self._transport)
        except Refusal as error:
            self._refuse(error)
        finally:
            self._transport.close()

    def _refuse(self, error: Refusal) -> None:
        body = format_json({"error": {"kind": "Refused", "message": str(error), "hint": None}}).encode()
        head = (
            f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. A caller that goes away stops its command."""
        if self._task is not None:
            self._task.cancel()
