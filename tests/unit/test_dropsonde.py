"""Metrics: the bytes on the wire, and that nothing about them can hurt."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from groot_fast.telemetry import dropsonde
from groot_fast.telemetry.dropsonde import counter_envelope, envelope, error_envelope
from groot_fast.telemetry.lager import Logger, Sink, open_sink
from groot_fast.telemetry.metrics import open_metrics

LOG = Logger(Sink(2, 9), "test")


def test_bytes_of_the_original() -> None:
    """The example of the contract, section 18.1, seen on the wire of the original."""
    expected = bytes.fromhex(
        "0a0767726f6f74667310063080a094a58d1d4a260a144578636c75736976654c6f636b696e6754696d6511000000008061cc401a056e616e6f73"
    )
    assert envelope("ExclusiveLockingTime", 14531, "nanos", 1_000_000_000_000) == expected


def test_bytes_of_a_counter_and_an_error() -> None:
    """By hand from the contract's table of fields; nothing of the original shows them."""
    assert counter_envelope("grootfs-create.run", 1, 1) == bytes.fromhex(
        "0a0767726f6f7466731007300152160a1267726f6f7466732d6372656174652e72756e1001"
    )
    assert error_envelope("grootfs-error.stats", 1, "no", 1) == bytes.fromhex(
        "0a1367726f6f7466732d6572726f722e7374617473100830015a1b0a1367726f6f7466732d6572726f722e737461747310011a026e6f"
    )


def test_long_errors_fit_into_a_datagram() -> None:
    assert len(error_envelope("grootfs-error.create", 1, "ü" * 100_000, 1)) < 5000


@pytest.fixture
def agent():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(5)
        yield agent


def test_runs_and_errors(agent: socket.socket) -> None:
    metrics = open_metrics(f"127.0.0.1:{agent.getsockname()[1]}", LOG)
    for command, code in (("create", 0), ("list", 1), ("stats", 1)):
        metrics.began(command)
        metrics.ended(command, code, "reason")
    names = [agent.recv(2000) for _ in range(5)]
    for name, datagram in zip(
        (
            b"grootfs-create.run\x10\x01",
            b"grootfs-create.run.success\x10\x01",
            b"grootfs-stats.run\x10\x01",
            b"grootfs-stats.run.fail\x10\x01",
        ),
        names,
        strict=False,
    ):
        assert name in datagram and datagram.startswith(b"\x0a\x07grootfs\x10\x07")
    assert names[4].startswith(b"\x0a\x13grootfs-error.stats\x10\x08") and names[4].endswith(b"\x10\x01\x1a\x06reason")
    agent.setblocking(False)
    with pytest.raises(BlockingIOError):
        agent.recv(2000)
    metrics.close()


def test_name_of_a_host(agent: socket.socket) -> None:
    """Looked up by a thread; nothing is sent before, everything at the end."""
    metrics = open_metrics(f"localhost:{agent.getsockname()[1]}", LOG)
    metrics.send("StoreUsage", 1, "bytes")
    metrics.send("UnusedLayersSize", 2, "bytes")
    metrics.close()
    assert b"StoreUsage" in agent.recv(2000) and b"UnusedLayersSize" in agent.recv(2000)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 300, "a..b", "ü" * 70])
def test_name_that_cannot_be_resolved(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    metrics = open_metrics(f"{host}:3457", LOG)
    metrics.send("StoreUsage", 1, "bytes")
    metrics.close()
    assert capfd.readouterr() == ("", "")


def test_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A command does not wait for a name server."""
    held = threading.Event()
    monkeypatch.setattr("_socket.getaddrinfo", lambda *_: [held.wait(60)] and [(0, 0, 0, "", ("127.0.0.1", 9))])
    monkeypatch.setattr(dropsonde, "RESOLVE_DEADLINE", 0.05)
    log = tmp_path / "log"
    metrics = open_metrics("slow.example.com:3457", Logger(open_sink(str(log), "error"), "test"))
    metrics.send("StoreUsage", 1, "bytes")
    metrics.close()
    assert "was not resolved in time" in log.read_text()
    held.set()


def test_one_datagram_each() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(5)
        metrics = open_metrics(f"127.0.0.1:{agent.getsockname()[1]}", LOG)
        metrics.send("StoreUsage", 5000, "bytes")
        assert b"StoreUsage" in agent.recv(2000)
        metrics.close()


@pytest.mark.parametrize("endpoint", ["", "localhost", ":1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:１"])
def test_endpoints_that_make_no_sense(endpoint: str) -> None:
    metrics = open_metrics(endpoint, LOG)
    assert not metrics.is_active
    metrics.send("StoreUsage", 1, "bytes")


def test_nobody_there() -> None:
    metrics = open_metrics("127.0.0.1:9", LOG)
    assert metrics.is_active
    for _ in range(3):
        metrics.send("StoreUsage", 1, "bytes")
    metrics.close()


def test_traces_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """The variable may be there for other programs."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "groot_fast.telemetry.traces", raising=False)
    log = tmp_path / "log"
    metrics = open_metrics("", Logger(open_sink(str(log), "error"), "test"))
    metrics.began("create")
    metrics.close()
    assert "failed-to-initialize-traces" in log.read_text() and "groot_fast[otel]" in log.read_text()
