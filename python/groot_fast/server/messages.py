"""Messages between the server and its workers, over a stream socket.

To a worker: one byte for the kind, four for the length (big-endian), the payload; a descriptor may ride along. From a
worker: one JSON object a line, with ``event``.
"""

from __future__ import annotations

import socket

from groot_fast._core import format_json, parse_json

COMMAND, OPERATION, GO = b"c", b"o", b"g"
"""Run argv on the connection that comes along; run an operation of the API; you may pull."""

HEADER = 5
CHUNK = 1 << 16


def send(channel: socket.socket, kind: bytes, payload: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Send to a worker, which is waiting for it and takes it at once. Raises OSError where it is gone."""
    data = kind + len(payload).to_bytes(4, "big") + payload
    sent = socket.send_fds(channel, [data], descriptors)
    if sent < len(data):
        channel.sendall(data[sent:])


def receive(channel: socket.socket) -> tuple[bytes, bytes, list[int]] | None:
    """(kind, payload, descriptors) of the next message; None where the server is gone."""
    data, descriptors, _, _ = socket.recv_fds(channel, CHUNK, 1, socket.MSG_CMSG_CLOEXEC)
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
