"""What the users did, from all of locust's processes into one file.

Workers send their operations with the reports that locust sends to its master anyway; the master, or the only process,
writes them down. Times are the wall clock's (to set them beside the samples), durations the monotonic clock's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locust.env import Environment
from locust.runners import WorkerRunner

REPORT_KEY = "operations"
Operation = dict[str, Any]
"""``name``, ``start`` (seconds since the epoch), ``seconds``, ``error`` (text or None), ``cold`` (creates), ``push``."""


class Journal:
    """The journal of one process."""

    def __init__(self, environment: Environment, file: Path) -> None:
        self._environment = environment
        self._file = file
        self._waiting: list[Operation] = []
        self._is_worker = isinstance(environment.runner, WorkerRunner)
        self.creates = 0
        """Creates that have ended, well or not, as far as this process knows. The shape of a storm looks at it."""
        if self._is_worker:
            environment.events.report_to_master.add_listener(self._send)
        else:
            environment.events.worker_report.add_listener(self._receive)

    def measure(self, name: str, operation: Callable[[], None], *, due: float | None = None, **more: object) -> bool:
        """Do an operation and write down how it went; gives whether it went well. It counts from when it was ``due`` (on the clock
        of `time.perf_counter`), if that is given: what it waited before it began is the caller's wait, too."""
        from loadtests.doors import Refused

        begun = time.perf_counter() if due is None else due
        start = time.time() - (time.perf_counter() - begun)
        error: Exception | None = None
        try:
            operation()
        except (Refused, OSError) as failure:
            error = failure
        seconds = time.perf_counter() - begun
        entry: Operation = {"name": name, "start": start, "seconds": seconds, "error": str(error) if error else None, **more}
        # locust's own statistics, for those who watch its console or web page.
        self._environment.events.request.fire(
            request_type="cell", name=name, response_time=seconds * 1000, response_length=0, exception=error, context={}
        )
        if self._is_worker:
            self._waiting.append(entry)
        else:
            self._write([entry])
        return error is None

    def _send(self, client_id: str, data: dict[str, Any]) -> None:
        data[REPORT_KEY], self._waiting = self._waiting, []

    def _receive(self, client_id: str, data: dict[str, Any]) -> None:
        self._write(data.get(REPORT_KEY, []))

    def _write(self, entries: list[Operation]) -> None:
        self.creates += sum(entry["name"] == "create" for entry in entries)
        if entries:
            with self._file.open("a") as lines:
                lines.writelines(json.dumps(entry) + "\n" for entry in entries)
