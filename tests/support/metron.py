"""A metron agent: takes dropsonde datagrams and decodes them (contract, section 18.1)."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

EVENTS = {6: ("value", 9), 7: ("counter", 10), 8: ("error", 11)}


class Event(NamedTuple):
    """One envelope; ``fields`` are those of the event inside, by number."""

    origin: str
    kind: str
    timestamp: int
    fields: dict[int, Any]

    @property
    def name(self) -> str:
        """Name of the metric, or source of the error."""
        return self.fields[1].decode()


class Agent:
    """Listens on a port of its own."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.endpoint = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def take(self) -> list[Event]:
        """What has come since the last call: a command that ended has sent everything."""
        events = []
        while True:
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                return events
            envelope = _decode(datagram)
            kind, field = EVENTS[envelope[2]]
            assert set(envelope) == {1, 2, 6, field}
            events.append(Event(envelope[1].decode(), kind, envelope[6], _decode(envelope[field])))

    def close(self) -> None:
        """Stop."""
        self._socket.close()


def _decode(data: bytes) -> dict[int, Any]:
    """A protobuf message with fields in ascending order."""
    fields: dict[int, Any] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        assert key >> 3 > max(fields, default=0)
        if key & 7 == 0:
            fields[key >> 3], at = _varint(data, at)
        elif key & 7 == 1:
            fields[key >> 3] = struct.unpack_from("<d", data, at)[0]
            at += 8
        else:
            assert key & 7 == 2
            length, at = _varint(data, at)
            assert at + length <= len(data)
            fields[key >> 3] = data[at : at + length]
            at += length
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
