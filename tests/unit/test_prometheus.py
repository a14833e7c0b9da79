"""The metrics file: its text, how processes add to it, and that nothing about it can hurt."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from groot_fast.telemetry import prometheus
from groot_fast.telemetry.lager import Logger, Sink, open_sink
from groot_fast.telemetry.metrics import BYTES, NANOS, open_metrics
from groot_fast.telemetry.prometheus import FAMILIES, VALUES, MetricsFile, parse, render

LOG = Logger(Sink(2, 9), "test")


def add(path: Path, *values: tuple[str, float, str], command: str = "create", code: int = 0, store: str = "/s") -> None:
    """What one command adds."""
    metrics = MetricsFile(str(path), store, LOG)
    for value in values:
        metrics.send(*value)
    metrics.ended(command, code, "text")
    metrics.close()


def read(path: Path) -> dict[tuple[str, ...], float]:
    """Samples by name and label values, as Prometheus' own parser sees them."""
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
    assert sorted(os.listdir(file.parent)) == ["grootfs.prom", "grootfs.prom.lock"]
    assert file.stat().st_mode & 0o777 == 0o644


def test_histogram(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 4_000_000, 0, 400_000_000_000, 0, 250_000_000])
    monkeypatch.setattr("groot_fast.telemetry.prometheus.time.monotonic_ns", lambda: next(clock))
    for _ in range(3):
        add(file)
    found = read(file)
    buckets = [found["grootfs_command_duration_seconds_bucket", "/s", "create", f"{bound:g}"] for bound in prometheus.BUCKETS]
    assert buckets == [1] * 5 + [2] * 9
    assert found["grootfs_command_duration_seconds_bucket", "/s", "create", "+Inf"] == 3
    assert found["grootfs_command_duration_seconds_count", "/s", "create"] == 3
    assert found["grootfs_command_duration_seconds_sum", "/s", "create"] == 400.254


def test_every_value_has_its_family(file: Path) -> None:
    add(file, *[(name, 1e9, NANOS if name.endswith("Time") else BYTES) for name in VALUES], ("SomethingNew", 1, BYTES))
    text = file.read_text()
    for family, (kind, _) in FAMILIES.items():
        if family != "grootfs_filesystem_commits_total":  # no BTRFS here
            assert f"# TYPE {family} {kind}\n" in text
    assert render(parse(text)) == text


@pytest.mark.parametrize("store", ['/a "b"', "/back\\slash", "/new\nline", "/bl anks {x} 1", "/\udcff", "/grüße"])
def test_names_of_stores(file: Path, store: str) -> None:
    for _ in range(2):
        add(file, ("UnpackTime", 1e9, NANOS), store=store)
    shown = store.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    assert read(file)["grootfs_layer_unpack_seconds_count", shown] == 2


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"grootfs_commands_total{ x\n", b"\xff\xfe", b"other_total 5\n"])
def test_file_that_is_not_from_us(file: Path, content: bytes) -> None:
    """Counters start anew; Prometheus takes that for a restart."""
    file.write_bytes(content)
    add(file)
    assert read(file)["grootfs_commands_total", "/s", "create", "success"] == 1


def logged(tmp_path: Path, path: Path) -> str:
    log = tmp_path / "log"
    metrics: Any = open_metrics("", Logger(open_sink(str(log), "error"), "test"), file=str(path), store="/s")
    metrics.send("UnpackTime", 1, NANOS)
    metrics.ended("create", 0, "")
    metrics.close()
    return log.read_text()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    assert "failed-to-write-metrics-file" in logged(tmp_path, tmp_path / "missing" / "x.prom")
    (tmp_path / "folder.prom").mkdir()
    assert "failed-to-write-metrics-file" in logged(tmp_path, tmp_path / "folder.prom")
    huge = tmp_path / "huge.prom"
    with huge.open("wb") as out:
        out.truncate(2 << 20)
    assert "failed-to-write-metrics-file" in logged(tmp_path, huge) and huge.stat().st_size == 2 << 20
    os.symlink("/etc/hostname", tmp_path / "link.prom.lock")
    assert "failed-to-write-metrics-file" in logged(tmp_path, tmp_path / "link.prom")


def test_lock_that_is_never_free(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "LOCK_DEADLINE", 0.05)
    add(file)
    before = file.read_bytes()
    with Path(f"{file}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "failed-to-write-metrics-file" in logged(tmp_path, file)
    assert file.read_bytes() == before
