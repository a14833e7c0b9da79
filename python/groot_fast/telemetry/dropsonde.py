"""Metrics as Cloud Foundry's metron reads them (contract, section 18): one dropsonde v1 envelope a UDP datagram.

Never in the way: an endpoint that cannot be used, or a datagram that cannot be sent, is a line in the log.
"""

from __future__ import annotations

import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.telemetry.lager import Logger

ORIGIN = "grootfs"
VALUE_METRIC = 6
NANOS, BYTES = "nanos", "bytes"


class Metrics:
    """Takes values; this one does not send them."""

    is_active = False

    def send(self, name: str, value: float, unit: str) -> None:
        """Report one value."""

    def close(self) -> None:
        """No more values will come."""


class Metron(Metrics):
    """Sends to a metron agent."""

    is_active = True

    def __init__(self, host: str, port: int, log: Logger) -> None:
        import _socket as socket  # `socket` would import `enum` and `selectors`

        self._address = (host, port)
        self._log = log
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, name: str, value: float, unit: str) -> None:
        """See `Metrics`."""
        try:
            self._socket.sendto(envelope(name, value, unit, time.time_ns()), self._address)
        except OSError as error:
            self._log.error("failed-to-emit-metric", error, metric=name)

    def close(self) -> None:
        """See `Metrics`."""
        self._socket.close()


def open_metrics(endpoint: str, log: Logger) -> Metrics:
    """The sender for ``host:port``; the silent one where there is none or it makes no sense."""
    if not endpoint:
        return Metrics()
    host, _, port = endpoint.rpartition(":")
    try:
        if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"`{endpoint}` is not host:port")
        return Metron(host, int(port), log)
    except (OSError, ValueError) as error:
        log.error("failed-to-initialize-metrics-emitter", error)
        return Metrics()


def envelope(name: str, value: float, unit: str, timestamp: int) -> bytes:
    """The protobuf message ``Envelope`` with a ``ValueMetric``, fields in ascending order."""
    metric = _text(1, name) + _key(2, 1) + struct.pack("<d", value) + _text(3, unit)
    return _text(1, ORIGIN) + _number(2, VALUE_METRIC) + _number(6, timestamp) + _bytes(9, metric)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, 2) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())
