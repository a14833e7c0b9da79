"""Messages between the server and its workers, over a stream socket.

To a worker: one byte for the kind, four for the length (big-endian), the payload; descriptors may ride along. From a
worker: one JSON object a line, with ``event``.
"""

from __future__ import annotations

import socket
import struct

from groot_fast._core import format_json, parse_json

COMMAND, OPERATION, GO = b"c", b"o", b"g"
"""Run argv for the connection, in the streams and the directory, that come along; run an operation of the API; you may pull."""

MAX_DESCRIPTORS = 5

HEADER = 5
CHUNK = 1 << 16


def send(channel: socket.socket, kind: bytes, payload: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Send to a worker, which is waiting for it and takes it at once. Raises OSError where it is gone."""
    data = kind + len(payload).to_bytes(4, "big") + payload
    sent = socket.send_fds(channel, [data], descriptors)
    if sent < len(data):
        channel.sendall(data[sent:])


def receive_some(channel: socket.socket, count: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """What is there, and up to ``count`` descriptors, which children will not inherit. Not `socket.recv_fds`: of Python 3.11 it
    ignores flags, and so leaves them open for children, and waits. Raises OSError."""
    data, ancillary, _, _ = channel.recvmsg(CHUNK, socket.CMSG_LEN(4 * count), socket.MSG_CMSG_CLOEXEC | flags)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += struct.unpack(f"{len(content) // 4}i", content)
    return data, descriptors


def receive(channel: socket.socket) -> tuple[bytes, bytes, list[int]] | None:
    """(kind, payload, descriptors) of the next message; None where the server is gone."""
    data, descriptors = receive_some(channel, MAX_DESCRIPTORS)
    while len(data) < HEADER or len(data) < HEADER + int.from_bytes(data[1:HEADER], "big"):
        more = channel.recv(CHUNK) if data else b""
        if not more:
            return None
        data += more
    return data[:1], data[HEADER:], descriptors


def report(channel: socket.socket, event: str, **values: object) -> None:
    """Tell the server. That it is gone is no reason to stop half-way."""
    try:
        channel.sendall(format_json({"event": event, **values}).encode() + b"\n")
    except OSError:
        pass


def split(data: bytes) -> tuple[list[dict[str, object]], bytes]:
    """The whole reports in ``data``, and what is left."""
    *lines, rest = data.split(b"\n")
    return [parse_json(line) for line in lines], rest
