"""From a journal and samples to figures and series.

Figures are numbers with a name (``create.p99_ms``), flat, so that an objective can name one. None means that there was nothing
to measure. Series are lists of the same length, one value for each stretch of the run.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from loadtests import nvme
from loadtests.plan import Plan

STRETCHES = 120
"""At most so many points in a series."""

WINDOW = 300.0
"""Seconds at the beginning and at the end of a soak that are compared; a quarter of it where it is shorter."""

VARYING = re.compile(r"[0-9a-f]{12,}|[0-9]+")

COUNTERS = (
    "counted_reads",
    "counted_writes",
    "requests",
    "above_iops_us",
    "above_bytes_us",
    "reads",
    "writes",
    "read_bytes",
    "written_bytes",
    "queue_ms",
    "commits",
    "commit_ms",
    "cpu_busy",
    "cpu_all",
    "cpu_waiting",
)
"""What of a sample only grows; what AWS's devices count (`nvme`), too."""

Record = dict[str, Any]
Figures = dict[str, float | None]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarise(plan: Plan, journal: list[Record], samples: list[Record], write_cost: int = 1) -> dict[str, Any]:
    """``figures`` and ``series`` of a run, ``errors`` (text: how often), ``quotas`` (modes seen). Of the volume's operations a
    write takes ``write_cost``."""
    samples = _clip(samples, journal)
    by_name: dict[str, list[Record]] = defaultdict(list)
    for entry in journal:
        by_name[entry["name"]].append(entry)
    figures: Figures = {"operations": len(journal), "failures": sum(entry["error"] is not None for entry in journal)}
    for name, entries in sorted(by_name.items()):
        figures |= {f"{name}.{figure}": value for figure, value in _latencies(entries).items()}
    creates = by_name["create"]
    for kind in ("cold", "warm"):
        latencies = _latencies([entry for entry in creates if entry["cold"] == (kind == "cold")])
        figures |= {f"create.{kind}.{figure}": latencies[figure] for figure in ("count", "median_ms", "p99_ms")}
    figures |= _input_output(samples, len(creates), write_cost)
    figures |= _drift(creates, samples)
    errors: dict[str, int] = defaultdict(int)
    for entry in journal:
        if entry["error"] is not None:
            # Ids, digests and sizes differ where the reason does not.
            errors[f"{entry['name']}: {VARYING.sub('#', entry['error'])}"] += 1
    return {
        "figures": figures,
        "series": _series(journal, samples, write_cost),
        "errors": dict(sorted(errors.items(), key=lambda item: -item[1])[:20]),
        "quotas": sorted({sample["quotas"] for sample in samples}),
    }


def _clip(samples: list[Record], journal: list[Record]) -> list[Record]:
    """The samples of the time in which something was done, from the first start to the last end: locust starts and stops at its
    leisure, and a second of idling at each end would halve the rates of a short storm. At both ends stands what the counters
    must have been, between the samples before and after."""
    if not journal:
        return samples
    begin = min(entry["start"] for entry in journal)
    end = max(entry["start"] + entry["seconds"] for entry in journal)
    inside = [sample for sample in samples if begin < sample["time"] < end]
    return [_interpolated(samples, begin), *inside, _interpolated(samples, end)]


def _interpolated(samples: list[Record], moment: float) -> Record:
    """A sample of a moment between two others; the nearest one outside of them."""
    before = max((sample for sample in samples if sample["time"] <= moment), key=lambda sample: sample["time"], default=None)
    after = min((sample for sample in samples if sample["time"] >= moment), key=lambda sample: sample["time"], default=None)
    if before is None or after is None or before["time"] == after["time"]:
        return {**(before or after or {}), "time": moment}
    share = (moment - before["time"]) / (after["time"] - before["time"])
    return {**before, "time": moment, **{name: before[name] + share * (after[name] - before[name]) for name in (*COUNTERS, *nvme.NOTHING)}}


def _latencies(entries: list[Record]) -> Figures:
    good = [entry["seconds"] * 1000 for entry in entries if entry["error"] is None]
    median, p99 = percentile(good, 0.5), percentile(good, 0.99)
    span = max(e["start"] + e["seconds"] for e in entries) - min(e["start"] for e in entries) if entries else 0.0
    return {
        "count": len(entries),
        "failures": len(entries) - len(good),
        "rate": len(good) / span if span else None,
        "median_ms": median,
        "p95_ms": percentile(good, 0.95),
        "p99_ms": p99,
        "max_ms": max(good, default=None),
        "p99_over_median": p99 / median if median and p99 else None,
    }


def _input_output(samples: list[Record], creates: int, write_cost: int) -> Figures:
    first, last = samples[0], samples[-1]
    seconds = last["time"] - first["time"]
    done = {
        name: last[name] - first[name] for name in ("reads", "writes", "written_bytes", "commits", "commit_ms", "cpu_busy", "cpu_waiting")
    }
    per_second = [
        (b["writes"] - a["writes"]) / (b["time"] - a["time"]) for a, b in itertools.pairwise(samples) if b["time"] - a["time"] > 0.5
    ]
    caps = [sample["cap"] for sample in samples if sample["cap"]]
    counted = {name: last[name] - first[name] for name in ("counted_reads", "counted_writes", "above_iops_us", "above_bytes_us")}
    operations = counted["counted_reads"] + write_cost * counted["counted_writes"]
    cpu = last["cpu_all"] - first["cpu_all"]
    aws = {name: last[name] - first[name] for name in nvme.NOTHING}
    is_amazons = last["aws_operations"] > 0
    return {
        **{f"{name.replace('_', '.', 1)}_per_create": value / creates if is_amazons and creates else None for name, value in aws.items()},
        "io.reads": done["reads"],
        "io.writes": done["writes"],
        "io.written_bytes": done["written_bytes"],
        "io.writes_per_second": done["writes"] / seconds,
        "io.writes_per_second_p99": percentile(per_second, 0.99),
        "volume.operations": operations if caps else None,
        "volume.operations_per_second": operations / seconds if caps else None,
        "volume.share_of_cap": operations / seconds / statistics.fmean(caps) if caps else None,
        "volume.above_iops_share": counted["above_iops_us"] / 1e6 / seconds if caps else None,
        "volume.above_throughput_share": counted["above_bytes_us"] / 1e6 / seconds if caps else None,
        "volume.operations_per_create": operations / creates if caps and creates else None,
        "volume.above_iops_us_per_create": counted["above_iops_us"] / creates if caps and creates else None,
        "volume.above_throughput_us_per_create": counted["above_bytes_us"] / creates if caps and creates else None,
        "io.writes_per_create": done["writes"] / creates if creates else None,
        "io.commits_per_create": done["commits"] / creates if creates else None,
        "io.queue_mean": (last["queue_ms"] - first["queue_ms"]) / 1000 / seconds,
        "commits": done["commits"],
        "commit.share_of_time": done["commit_ms"] / 1000 / seconds,
        "commit.mean_ms": done["commit_ms"] / done["commits"] if done["commits"] else None,
        # The kernel's is since the mount, or since it was told to begin anew. What is not longer than one before is not known.
        "commit.longest_ms": last["commit_longest_ms"] if last["commit_longest_ms"] > first["commit_longest_ms"] else None,
        "backlog.max": max(sample["backlog"] for sample in samples),
        "backlog.end": last["backlog"],
        "subvolumes.max": max(sample["subvolumes"] for sample in samples),
        "cpu.busy": done["cpu_busy"] / cpu if cpu else None,
        "cpu.waiting": done["cpu_waiting"] / cpu if cpu else None,
        "credits.end": last["credits"],
    }


def _drift(creates: list[Record], samples: list[Record]) -> Figures:
    """The end of the run against its beginning. Of warm creates, since most of the cold ones belong to the beginning."""
    begin, end = samples[0]["time"], samples[-1]["time"]
    window = min(WINDOW, (end - begin) / 4)
    good = [entry for entry in creates if entry["error"] is None and not entry["cold"]]
    early = [entry["seconds"] for entry in good if entry["start"] < begin + window]
    late = [entry["seconds"] for entry in good if entry["start"] > end - window]
    figures: Figures = {"drift.window_seconds": window}
    for name, share in (("median", 0.5), ("p95", 0.95)):
        before, after = percentile(early, share), percentile(late, share)
        figures[f"drift.create_{name}"] = after / before if before and after else None
    for name in ("memory", "slab", "server_memory", "server_files", "server_processes", "subvolumes", "qgroups"):
        before = statistics.median(sample[name] for sample in samples if sample["time"] <= begin + window)
        after = statistics.median(sample[name] for sample in samples if sample["time"] >= end - window)
        figures[f"growth.{name}"] = after - before
    return figures


def _series(journal: list[Record], samples: list[Record], write_cost: int) -> dict[str, list[float | None]]:
    """Stretches of equal length; ``time`` is the middle of each, in seconds from the first sample."""
    begin, end = samples[0]["time"], samples[-1]["time"]
    width = max(1.0, (end - begin) / STRETCHES)
    count = max(1, int((end - begin) / width))
    entries: list[list[Record]] = [[] for _ in range(count)]
    for entry in journal:
        at = int((entry["start"] + entry["seconds"] - begin) / width)
        entries[min(max(at, 0), count - 1)].append(entry)
    series: dict[str, list[float | None]] = defaultdict(list)
    for number, stretch in enumerate(entries):
        series["time"].append((number + 0.5) * width)
        good = [entry for entry in stretch if entry["error"] is None]
        for name in ("create", "stats", "delete", "clean", "push"):
            series[f"{name}_rate"].append(sum(entry["name"] == name for entry in good) / width)
        series["failures"].append(len(stretch) - len(good))
        latencies = [entry["seconds"] * 1000 for entry in good if entry["name"] == "create"]
        for percent in (50, 95, 99):
            series[f"create_p{percent}_ms"].append(percentile(latencies, percent / 100))
        a = _interpolated(samples, begin + number * width)
        b = _interpolated(samples, begin + (number + 1) * width)
        seconds = b["time"] - a["time"]
        a["operations"], b["operations"] = (end["counted_reads"] + write_cost * end["counted_writes"] for end in (a, b))
        for name in ("operations", "reads", "writes", "written_bytes", "commits", "cpu_busy"):
            series[f"{name}_per_second"].append((b[name] - a[name]) / seconds if seconds else None)
        commits = b["commits"] - a["commits"]
        series["commit_ms"].append((b["commit_ms"] - a["commit_ms"]) / commits if commits else None)
        for name in ("cap", "credits", "in_flight", "backlog", "subvolumes", "qgroups", "memory", "slab", "server_memory"):
            series[name].append(b[name])
    return dict(series)
