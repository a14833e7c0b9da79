"""The metrics file as Prometheus' own parser reads it. How processes share it is tested where it is made (rust/telemetry)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from groot_fast.telemetry import BYTES, NANOS
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import open_metrics

LOG = Logger(open_sink(None, None), "test")


def add(path: Path, *values: tuple[str, float, str], command: str = "create", code: int = 0, store: str = "/s") -> None:
    """What one command adds."""
    metrics = open_metrics("", LOG, file=str(path), store=store)
    assert metrics.is_active
    for value in values:
        metrics.send(*value)
    metrics.ended(command, code, "text")
    metrics.close()


def read(path: Path) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            key = (sample.name, *sample.labels.values())
            assert key not in found and family.documentation and family.type != "unknown"
            found[key] = sample.value
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "grootfs.prom"


def test_counters_add_up_and_gauges_do_not(file: Path) -> None:
    for used in (7000, 5000):
        add(file, ("UnpackTime", 2_500_000_000, NANOS), ("DownloadedBytes", 100, BYTES), ("StoreUsage", used, BYTES))
    add(file, command="create", code=130)
    add(file, ("SharedLockingTime", 5e8, NANOS), ("ExclusiveLockHoldTime", 1e9, NANOS), command="delete", store="/other")
    found = read(file)
    assert found["grootfs_commands_total", "/s", "create", "success"] == 2
    assert found["grootfs_commands_total", "/s", "create", "failure"] == 1
    assert found["grootfs_commands_total", "/other", "delete", "success"] == 1
    assert found["grootfs_layer_unpack_seconds_sum", "/s"] == 5 and found["grootfs_layer_unpack_seconds_count", "/s"] == 2
    assert found["grootfs_downloaded_bytes_total", "/s"] == 200
    assert found["grootfs_store_used_bytes", "/s"] == 5000
    assert found["grootfs_lock_wait_seconds_sum", "/other", "shared"] == 0.5
    assert found["grootfs_lock_hold_seconds_sum", "/other", "exclusive"] == 1
    assert found["grootfs_command_duration_seconds_bucket", "/s", "create", "+Inf"] == 3
    assert found["grootfs_command_duration_seconds_bucket", "/s", "create", "0.5"] == 3
    assert sorted(os.listdir(file.parent)) == ["grootfs.prom", "grootfs.prom.journal", "grootfs.prom.lock"]


@pytest.mark.parametrize("store", ['/a "b"', "/back\\slash", "/new\nline", "/bl anks {x} 1", "/\udcff", "/grüße"])
def test_names_of_stores(file: Path, store: str) -> None:
    for _ in range(2):
        add(file, ("UnpackTime", 1e9, NANOS), store=store)
    shown = store.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    assert read(file)["grootfs_layer_unpack_seconds_count", shown] == 2


ADD = """
import sys
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import open_metrics
sys.stdin.read()
for _ in range(40):
    metrics = open_metrics("", Logger(open_sink(None, "error"), "test"), file=sys.argv[1], store="/s")
    metrics.ended("create", 0, "")
    metrics.close()
"""


def test_nothing_is_lost_when_many_processes_end_at_once(file: Path) -> None:
    argv = [sys.executable, "-c", ADD, str(file)]
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(10)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # all at once
    for process in processes:
        assert process.stderr is not None
        assert process.stderr.read() == "" and process.wait() == 0
        process.stderr.close()
    assert read(file)["grootfs_commands_total", "/s", "create", "success"] == 400
