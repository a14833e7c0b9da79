"""Metrics as Cloud Foundry's metron reads them (contract, section 18): one dropsonde v1 envelope a UDP datagram.

Never in the way: an endpoint that cannot be used, or a datagram that cannot be sent, is a line in the log.
"""

from __future__ import annotations

import struct
import time

from groot_fast.telemetry.metrics import Metrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.telemetry.lager import Logger

ORIGIN = "grootfs"
VALUE_METRIC, COUNTER_EVENT, ERROR = 6, 7, 8

COUNTED = ("create", "delete", "clean", "stats")
"""Commands whose runs and errors metron hears of."""
MAX_MESSAGE = 4096
"""Bytes of an error's text: a datagram must not become too large to be sent."""
RESOLVE_DEADLINE = 0.5
"""Seconds a command that is done waits for the name of the endpoint to be resolved."""


class Metron(Metrics):
    """Sends to a metron agent. A host that is a name is resolved by a thread, because that may take any time."""

    is_active = True

    def __init__(self, host: str, port: int, log: Logger) -> None:
        import _socket as socket  # `socket` would import `enum` and `selectors`

        self._log = log
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._resolver: Resolver | None = None
        self._address = (host, port)
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            self._resolver = Resolver(host, port)

    def send(self, name: str, value: float, unit: str) -> None:
        """See `Metrics`."""
        self._emit(name, envelope(name, value, unit, time.time_ns()))

    def began(self, command: str) -> None:
        """See `Metrics`."""
        if command in COUNTED:
            self._count(f"grootfs-{command}.run")

    def ended(self, command: str, code: int, message: str) -> None:
        """See `Metrics`."""
        if command not in COUNTED:
            return
        self._count(f"grootfs-{command}.run.{'fail' if code else 'success'}")
        if code:
            name = f"grootfs-error.{command}"
            self._emit(name, error_envelope(name, code, message, time.time_ns()))

    def _count(self, name: str) -> None:
        self._emit(name, counter_envelope(name, 1, time.time_ns()))

    def _emit(self, name: str, datagram: bytes) -> None:
        if self._resolver is not None:
            self._resolver.waiting.append((name, datagram))
            return
        try:
            self._socket.sendto(datagram, self._address)
        except OSError as error:
            self._log.error("failed-to-emit-metric", error, metric=name)

    def close(self) -> None:
        """See `Metrics`."""
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            try:
                self._address = resolver.address()
            except OSError as error:
                self._log.error("failed-to-initialize-metrics-emitter", error)
                resolver.waiting.clear()
            for name, datagram in resolver.waiting:
                self._emit(name, datagram)
        self._socket.close()


class Resolver:
    """Looks up a host in a thread; ``waiting`` is what is to be sent there, with names for the log."""

    def __init__(self, host: str, port: int) -> None:
        import threading

        self._host = host
        self._port = port
        self._found: tuple[str, int] | None = None
        self._failure = OSError(f"`{host}` was not resolved in time")
        self.waiting: list[tuple[str, bytes]] = []
        # A daemon: the process ends whether the name is known or not.
        self._thread = threading.Thread(target=self._resolve, name="metron", daemon=True)
        self._thread.start()

    def _resolve(self) -> None:
        import _socket as socket

        try:
            address = socket.getaddrinfo(self._host, self._port, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
            self._found = str(address[0]), self._port
        except OSError as error:
            self._failure = error
        except UnicodeError as error:
            self._failure = OSError(f"`{self._host}` is no host name: {error}")

    def address(self) -> tuple[str, int]:
        """The address, waiting a moment for it. Raises OSError."""
        self._thread.join(RESOLVE_DEADLINE)
        if self._found is None:
            raise self._failure
        return self._found


def open_metron(endpoint: str, log: Logger) -> Metrics:
    """The metrics of one command, to metron at ``host:port``. What makes no sense is a line in the log."""
    host, _, port = endpoint.rpartition(":")
    try:
        if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"`{endpoint}` is not host:port")
        return Metron(host, int(port), log)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no more threads
        log.error("failed-to-initialize-metrics-emitter", error)
        return Metrics()


def envelope(name: str, value: float, unit: str, timestamp: int) -> bytes:
    """The protobuf message ``Envelope`` with a ``ValueMetric``, fields in ascending order. Nanoseconds since the epoch."""
    metric = _text(1, name) + _key(2, 1) + struct.pack("<d", value) + _text(3, unit)
    return _envelope(ORIGIN, VALUE_METRIC, timestamp, _bytes(9, metric))


def counter_envelope(name: str, delta: int, timestamp: int) -> bytes:
    """An ``Envelope`` with a ``CounterEvent``."""
    return _envelope(ORIGIN, COUNTER_EVENT, timestamp, _bytes(10, _text(1, name) + _number(2, delta)))


def error_envelope(source: str, code: int, message: str, timestamp: int) -> bytes:
    """An ``Envelope`` with an ``Error``; its origin is the source (contract, section 18.2)."""
    text = message.encode("utf-8", "replace")[:MAX_MESSAGE].decode("utf-8", "ignore")
    return _envelope(source, ERROR, timestamp, _bytes(11, _text(1, source) + _number(2, code) + _text(3, text)))


def _envelope(origin: str, kind: int, timestamp: int, event: bytes) -> bytes:
    return _text(1, origin) + _number(2, kind) + _number(6, timestamp) + event


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
