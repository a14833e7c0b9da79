"""OpenTelemetry traces: a span for a command, with one for each phase of it. For who installs ``groot_fast[otel]``.

The phases are those whose times are metrics, so nothing else has to be measured: a span is made when its time is known.
The trace goes where the SDK's variables say, by OTLP over HTTP, when the command is done; ``TRACEPARENT`` in the environment makes
it part of the caller's. What cannot be sent is a line in the log.
"""

from __future__ import annotations

import os
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from groot_fast._core import Metrics
from groot_fast.telemetry import NANOS
from groot_fast.telemetry.lager import Logger, divert

PHASES = {
    "ImageResolveTime": "resolve",
    "DownloadTime": "download layer",
    "UnpackTime": "unpack layer",
    "ImageCommitTime": "commit",
    "ImageCleanTime": "clean",
    "SharedLockingTime": "wait for shared lock",
    "PullLockingTime": "wait for others that ask the registry",
    "ExclusiveLockingTime": "wait for exclusive lock",
}
EXPORT_DEADLINE = 2.0
"""Seconds a command that is done waits for the collector."""


class Traces(Metrics):
    """Makes spans of the times it is given, and attributes of the command's span of all else."""

    def __init__(self, log: Logger, traceparent: str) -> None:
        """``traceparent`` is the caller's; the variable of the environment if it is empty."""
        self._parent = traceparent or os.environ.get("TRACEPARENT", "")
        divert("opentelemetry", log, "failed-to-export-traces")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or "grootfs"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_DEADLINE)))
        self._tracer = self._provider.get_tracer("groot_fast")
        self._command: trace.Span = trace.INVALID_SPAN

    def began(self, command: str) -> None:
        """See `Metrics`."""
        parent = TraceContextTextMapPropagator().extract({"traceparent": self._parent})
        self._command = self._tracer.start_span(f"grootfs {command}", context=parent)

    def send(self, name: str, value: float, unit: str) -> None:
        """See `Metrics`."""
        if unit != NANOS:
            self._command.set_attribute(f"grootfs.{name}", value)
            return
        phase = PHASES.get(name)
        if phase is not None:
            end = time.time_ns()
            span = self._tracer.start_span(phase, context=trace.set_span_in_context(self._command), start_time=end - int(value))
            span.end(end)

    def ended(self, command: str, code: int, message: str) -> None:
        """See `Metrics`."""
        self._command.set_attribute("process.exit.code", code)
        if code:
            self._command.set_status(trace.StatusCode.ERROR, message)
        self._command.end()

    def close(self) -> None:
        """See `Metrics`."""
        self._provider.force_flush(int(EXPORT_DEADLINE * 1000))
        self._provider.shutdown()
