"""A file as slow as a volume: `groot-throttle` (rust/throttle) serves it to the loop device that lies on it.

Requests arrive there as they would at a disk, joined by the scheduler, on any kernel with FUSE, whoever made them: BTRFS's own threads
too. The program counts them as AWS does and unmounts everything when this process ends, however it does.
"""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

from loadtests.volumes import Volume

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "bin" / "groot-throttle"
ENDING = 90.0
"""Seconds that the program gets to unmount what lies on its file."""

Counters = dict[str, float | None]


class NoThrottle(Exception):
    """This machine cannot slow a file down; the text says why."""


class Throttle:
    """A file that can be slowed down, from entering to leaving the context. Raises NoThrottle on entering."""

    def __init__(self, file: Path) -> None:
        """Nothing is limited at first."""
        self._file = file
        self._volume: Volume | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Throttle:
        check_throttle()
        argv = [PROGRAM, self._file]
        # Of a session of its own: a terminal's Ctrl-C must not end it before what lies on it is unmounted.
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._process.communicate(timeout=ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise NoThrottle(f"{self._file} is still in use after {ENDING:.0f} s") from None
        finally:
            if self._process.returncode:
                # Killed from elsewhere: what it mounted serves nobody.
                subprocess.run(["umount", "--lazy", self._file], check=False, stderr=subprocess.DEVNULL)

    def limit(self, volume: Volume, credits_left: int | None = None) -> None:
        """Be as slow as a volume from now on, with ``credits_left`` burst credits (a full bucket). Raises NoThrottle."""
        limits = {
            "iops": volume.iops,
            "write_cost": volume.write_cost,
            "bytes_per_second": volume.bytes_per_second,
            "latency_us": volume.latency_us,
            "burst_iops": volume.burst_iops,
            "bucket": volume.bucket,
            "credits": credits_left,
        }
        self._ask({"limits": limits})
        self._volume = volume

    def lift(self) -> None:
        """Let everything through again. Raises NoThrottle."""
        self._ask({"limits": {}})
        self._volume = None

    def count(self) -> Counters:
        """``counted_reads`` and ``counted_writes`` (operations as AWS counts them), ``requests`` (before joining), ``above_iops_us`` and
        ``above_bytes_us`` (time in which something waited because of a limit), ``credits``, ``cap`` (operations a second now). Raises
        NoThrottle."""
        found = self._ask({})
        credits_left: float | None = found["credits"]
        cap = self._volume.iops if self._volume else None
        if self._volume and self._volume.burst_iops and credits_left and credits_left >= 1:
            cap = self._volume.burst_iops
        return {
            "counted_reads": found["reads"],
            "counted_writes": found["writes"],
            "requests": found["requests"],
            "above_iops_us": found["above_iops_us"],
            "above_bytes_us": found["above_bytes_us"],
            "credits": credits_left,
            "cap": cap,
        }

    def _ask(self, question: dict[str, object]) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                pass
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise NoThrottle(self._process.stderr.read().strip() or "groot-throttle ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


NOTHING: Counters = {
    "counted_reads": 0,
    "counted_writes": 0,
    "requests": 0,
    "above_iops_us": 0,
    "above_bytes_us": 0,
    "credits": None,
    "cap": None,
}
"""What `Throttle.count` gives, where there is none."""


def check_throttle() -> None:
    """Raises NoThrottle where there is no FUSE, or the program was not built."""
    if not Path("/dev/fuse").exists():
        raise NoThrottle("volumes are imitated by a file that FUSE serves, and there is no /dev/fuse; use --profile unlimited here")
    if not PROGRAM.exists():
        raise NoThrottle(f"{PROGRAM} is not there: `make {PROGRAM.parent.parent.name}/bin/{PROGRAM.name}` builds it")
