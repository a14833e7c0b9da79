"""Metrics: the bytes on the wire, and that nothing about them can hurt."""

from __future__ import annotations

import socket

import pytest

from groot_fast.telemetry.dropsonde import Metron, envelope, open_metrics
from groot_fast.telemetry.lager import Logger, Sink

LOG = Logger(Sink(2, 9), "test")


def test_bytes_of_the_original() -> None:
    """The example of the contract, section 18.1, seen on the wire of the original."""
    expected = bytes.fromhex(
        "0a0767726f6f74667310063080a094a58d1d4a260a144578636c75736976654c6f636b696e6754696d6511000000008061cc401a056e616e6f73"
    )
    assert envelope("ExclusiveLockingTime", 14531, "nanos", 1_000_000_000_000) == expected


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
    assert isinstance(metrics, Metron)
    for _ in range(3):
        metrics.send("StoreUsage", 1, "bytes")
    metrics.close()
