"""What a command measures, for whoever wants it: metron (`dropsonde`), Prometheus (`prometheus`), traces (`traces`).

The receivers are loaded when they are wanted: most commands have none.
"""

from __future__ import annotations

from groot_fast import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.telemetry.lager import Logger

NANOS, BYTES = "nanos", "bytes"
"""Units."""


class Metrics:
    """Takes values; this one does nothing with them."""

    is_active = False
    """Whether the values that cost something to find out are wanted."""

    def send(self, name: str, value: float, unit: str) -> None:
        """Report one value. From any thread."""

    def began(self, command: str) -> None:
        """A command begins."""

    def ended(self, command: str, code: int, message: str) -> None:
        """A command ended with this exit code; ``message`` says why, where it failed."""

    def close(self) -> None:
        """No more values will come."""


class Several(Metrics):
    """Hands everything to several."""

    def __init__(self, receivers: list[Metrics]) -> None:
        self._receivers = receivers
        self.is_active = any(receiver.is_active for receiver in receivers)

    def send(self, name: str, value: float, unit: str) -> None:
        """See `Metrics`."""
        for receiver in self._receivers:
            receiver.send(name, value, unit)

    def began(self, command: str) -> None:
        """See `Metrics`."""
        for receiver in self._receivers:
            receiver.began(command)

    def ended(self, command: str, code: int, message: str) -> None:
        """See `Metrics`."""
        for receiver in self._receivers:
            receiver.ended(command, code, message)

    def close(self) -> None:
        """See `Metrics`."""
        for receiver in self._receivers:
            receiver.close()


def open_metrics(endpoint: str, log: Logger, *, file: str = "", store: str = "") -> Metrics:
    """The metrics of one command: to metron at ``host:port``, into a file for Prometheus with ``store`` as a label, as traces
    to ``OTEL_EXPORTER_OTLP_ENDPOINT``; to all of them, or nowhere. What makes no sense is a line in the log."""
    receivers = []
    if endpoint:
        from groot_fast.telemetry.dropsonde import open_metron

        receivers.append(open_metron(endpoint, log))
    if file:
        from groot_fast.telemetry.prometheus import MetricsFile

        receivers.append(MetricsFile(file, store, log))
    if files.variable("OTEL_EXPORTER_OTLP_ENDPOINT"):
        try:
            from groot_fast.telemetry.traces import Traces

            receivers.append(Traces(log))
        except ImportError as error:
            log.error("failed-to-initialize-traces", f"{error}; `pip install groot_fast[otel]`")
    return Several(receivers) if receivers else Metrics()
