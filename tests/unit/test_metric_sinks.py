"""Metrics as Python hands them on; what is sent and written is tested where it is made (rust/telemetry)."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from groot_fast.telemetry import BYTES
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import Metrics, Several, open_metrics

LOG = Logger(open_sink(None, None), "test")


class Noted(Metrics):
    """Notes what it is told."""

    is_active = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[tuple[object, ...]] = []

    def send(self, name: str, value: float, unit: str) -> None:
        self.told.append((name, value, unit))

    def ended(self, command: str, code: int, message: str) -> None:
        self.told.append((command, code, message))


def test_several_hear_the_same() -> None:
    receivers = [Noted("one"), Noted("two")]
    several = Several([Metrics(), *receivers])
    several.began("create")
    several.send("StoreUsage", 5, BYTES)
    several.ended("create", 1, "why")
    several.close()
    assert several.is_active and not Several([Metrics()]).is_active
    assert [receiver.told for receiver in receivers] == [[("StoreUsage", 5, BYTES), ("create", 1, "why")]] * 2


def test_metron_hears_of_a_command() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(5)
        metrics = open_metrics(f"127.0.0.1:{agent.getsockname()[1]}", LOG)
        metrics.began("stats")
        metrics.ended("stats", 1, "reason \udcff")
        metrics.close()
        names = [agent.recv(2000) for _ in range(3)]
    assert names[0].endswith(b"grootfs-stats.run\x10\x01") and names[1].endswith(b"grootfs-stats.run.fail\x10\x01")
    assert names[2].endswith("reason \ufffd".encode())


@pytest.mark.parametrize("endpoint", ["", "localhost", "127.0.0.1:x"])
def test_nobody_wants_them(endpoint: str) -> None:
    metrics = open_metrics(endpoint, LOG)
    assert not metrics.is_active
    metrics.send("StoreUsage", 1, BYTES)


def test_traces_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable may be there for other programs."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "groot_fast.telemetry.traces", raising=False)
    log = tmp_path / "log"
    metrics = open_metrics("", Logger(open_sink(str(log), "error"), "test"))
    metrics.began("create")
    metrics.close()
    assert "failed-to-initialize-traces" in log.read_text() and "groot_fast[otel]" in log.read_text()
