"""Counts of a server, as Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Callable

from groot_fast import __version__
from groot_fast._core import commits_of

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the latency buckets, in seconds: from a warm create to a large pull."""

GAUGES = {
    "operations_in_flight": "Operations that run.",
    "operations_queued": "Operations that wait for their turn.",
    "pulls_in_flight": "Creates that fetch or unpack.",
    "pulls_queued": "Creates that wait for leave to fetch and unpack.",
    "workers": "Threads that run operations.",
}


class Metrics:
    """Counts since the start of the server. Usable from any thread."""

    def __init__(self, store: str) -> None:
        """``store`` is the directory whose file system's commits are reported, where it is one of BTRFS."""
        self._store = store
        self._lock = threading.Lock()
        self._operations: dict[tuple[str, str], int] = {}
        self._latencies: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._built = 0
        self._gauges: Callable[[], dict[str, int]] = dict

    def watch(self, gauges: Callable[[], dict[str, int]]) -> None:
        """Take the values of `GAUGES` from there."""
        self._gauges = gauges

    def operation(self, name: str, outcome: str, seconds: float) -> None:
        """An operation ended; ``outcome`` is ``ok``, ``failed`` or ``cancelled``."""
        with self._lock:
            self._operations[name, outcome] = self._operations.get((name, outcome), 0) + 1
            self._latencies.setdefault(name, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, seconds)] += 1
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def built(self, content: int) -> None:
        """A volume was built, with so many bytes of file content."""
        with self._lock:
            self._built += content

    def text(self) -> str:
        """All of it."""
        with self._lock:
            return self._text()

    def _text(self) -> str:
        lines = _heading("operations_total", "counter", "Operations that ended, by name and outcome.")
        for (name, outcome), count in sorted(self._operations.items()):
            lines.append(self._sample("operations_total", count, operation=name, outcome=outcome))
        lines += _heading("operation_duration_seconds", "histogram", "Time from an operation's turn to its end.")
        for name, counts in sorted(self._latencies.items()):
            total = 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
                total += count
                lines.append(self._sample("operation_duration_seconds_bucket", total, operation=name, le=bound))
            lines.append(self._sample("operation_duration_seconds_sum", round(self._seconds[name], 6), operation=name))
            lines.append(self._sample("operation_duration_seconds_count", total, operation=name))
        values = self._gauges()
        for name, text in GAUGES.items():
            lines += [*_heading(name, "gauge", text), self._sample(name, values.get(name, 0))]
        lines += _heading("built_bytes_total", "counter", "Bytes of file content in the volumes that were built.")
        lines.append(self._sample("built_bytes_total", self._built))
        commits = commits_of(self._store)
        if commits is not None:
            # A name of its own: the metrics file of commands has the other one, and node_exporter takes a series from one file.
            lines += _heading("server_filesystem_commits_total", "counter", "Commits of the store's file system since it was mounted.")
            lines.append(self._sample("server_filesystem_commits_total", commits))
        lines += _heading("server_build_info", "gauge", "Version of the server.")
        lines.append(self._sample("server_build_info", 1, version=__version__))
        return "\n".join(lines) + "\n"

    def _sample(self, name: str, value: float, **labels: str) -> str:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in {**labels, "store": self._store}.items())
        return f"grootfs_{name}{{{pairs}}} {value}"


def _escaped(text: str) -> str:
    text = os.fsencode(text).decode(errors="replace")
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _heading(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP grootfs_{name} {text}", f"# TYPE grootfs_{name} {kind}"]
