"""Connections, from the moment they are taken until it is known what they are: a call of the front, or HTTP.

A call brings descriptors, and only recvmsg(2) gets them: an event loop's own streams would read past them, and lose them. So a
connection gets one of those only once it has turned out to be HTTP. The calls are requests as `openapi.json` describes them, but
all of one form, and there may be thousands a second: aiohttp takes three times as long over one as everything else that the
server does for it.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable
from typing import cast

from groot_fast.server import messages
from groot_fast.server.front import DESCRIPTORS, Front, Refusal, refuse

MAX_CALL = 8 << 20
"""Bytes of a call: more than the arguments and environment of a process can be (execve(2))."""
MAX_HEAD = 4096
START = b"POST /v1/commands HTTP/1.1\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,8})\r\n", re.IGNORECASE)
PAUSE = 1.0
"""Seconds without new connections where the process has no descriptor or memory for one."""


class Arrival:
    """A connection of which it is not known yet what it is."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = bytearray()
        self.descriptors: list[int] = []

    def receive(self) -> bool:
        """Take what has come. False where the connection has ended."""
        try:
            data, descriptors = messages.receive_some(self.connection, DESCRIPTORS)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.descriptors += descriptors
        self.data += data
        return bool(data)

    @property
    def is_http(self) -> bool:
        """Whether it begins otherwise than a call."""
        return not self.data.startswith(START[: len(self.data)])

    def body(self) -> bytes | None:
        """The body of the call, once all of it is there. Raises Refusal."""
        end = self.data.find(b"\r\n\r\n") + 4
        if end < 4 and len(self.data) < MAX_HEAD:
            return None
        length = LENGTH.search(self.data, 0, end)
        if length is None or int(length[1]) > MAX_CALL:
            raise Refusal(400, "a call has a Content-Length of at most eight megabytes")
        whole = end + int(length[1])
        return bytes(self.data[end:whole]) if len(self.data) >= whole else None

    def close_descriptors(self) -> None:
        """Forget what came along."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


class Door:
    """The listening socket, which is ours until `close`."""

    def __init__(self, listening: socket.socket, front: Front, http: Callable[[], asyncio.Protocol]) -> None:
        self._socket = listening
        self._front = front
        self._http = http
        self._loop = asyncio.get_running_loop()
        self._arrivals: set[Arrival] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Take no more connections, and drop those that have not said what they want."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for arrival in list(self._arrivals):
            self._drop(arrival)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._socket)
                self._loop.call_later(PAUSE, self._resume)
                return
            connection.setblocking(False)
            arrival = Arrival(connection)
            self._arrivals.add(arrival)
            self._read(arrival)  # a call of the front comes with its connection
            if arrival in self._arrivals:
                self._loop.add_reader(connection, self._read, arrival)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def _read(self, arrival: Arrival) -> None:
        if not arrival.receive():
            self._drop(arrival)
            return
        if arrival.is_http:
            self._release(arrival)
            task = self._loop.create_task(self._hand_to_http(arrival))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            body = arrival.body()
            if body is not None:
                self._release(arrival)
                self._front.take(body, arrival.connection, arrival.descriptors)
        except Refusal as error:
            refuse(arrival.connection, error)
            self._drop(arrival)

    def _release(self, arrival: Arrival) -> None:
        self._loop.remove_reader(arrival.connection)
        self._arrivals.discard(arrival)

    def _drop(self, arrival: Arrival) -> None:
        self._release(arrival)
        arrival.close_descriptors()
        arrival.connection.close()

    async def _hand_to_http(self, arrival: Arrival) -> None:
        arrival.close_descriptors()
        await self._loop.connect_accepted_socket(lambda: _Resumed(self._http, bytes(arrival.data)), arrival.connection)


class _Resumed(asyncio.Protocol):
    """A connection of which the beginning has been read."""

    def __init__(self, http: Callable[[], asyncio.Protocol], data: bytes) -> None:
        self._http = http
        self._data = data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        protocol = self._http()
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._data)
