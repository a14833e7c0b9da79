"""What a command measures, for whoever wants it: metron and Prometheus (both in the core), traces (`traces`)."""

from __future__ import annotations

import os

from groot_fast import _core
from groot_fast._core import Logger, Metrics

__all__ = ["Metrics", "Several", "open_metrics", "open_traces"]


class Several(Metrics):
    """Hands everything to several."""

    def __init__(self, receivers: list[Metrics]) -> None:
        self._receivers = receivers

    @property
    def is_active(self) -> bool:
        """See `Metrics`."""
        return any(receiver.is_active for receiver in self._receivers)

    def send(self, name: str, value: float, unit: str) -> None:
        """See `Metrics`."""
        for receiver in self._receivers:
            receiver.send(name, value, unit)

    def send_apart(self, name: str, value: float, adding: float, unit: str) -> None:
        """See `Metrics`."""
        for receiver in self._receivers:
            receiver.send_apart(name, value, adding, unit)

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


def open_metrics(endpoint: str, log: Logger, *, file: str = "", store: str = "", traceparent: str = "") -> Metrics:
    """The metrics of one command: to metron at ``host:port``, into a file for Prometheus with ``store`` as a label, as traces
    if the variables of the OpenTelemetry SDK ask for that, there as part of the trace that ``traceparent`` names; to all of them,
    or nowhere. What makes no sense is a line in the log."""
    metrics = _core.open_metrics(endpoint, log, file, store)
    traces = open_traces(log, traceparent)
    return Several([metrics, *traces]) if traces else metrics


def open_traces(log: Logger, traceparent: str = "") -> list[Metrics]:
    """The traces of one command, if they are wanted and can be had, as part of the caller's trace."""
    if not _core.wants_traces(dict(os.environ)):
        return []
    try:
        from groot_fast.telemetry.traces import Traces

        return [Traces(log, traceparent)]
    except ImportError as error:
        log.error("failed-to-initialize-traces", f"{error}; `pip install groot_fast[otel]`")
        return []
