"""Slow a block device down to what a volume allows, with the blkio controller of cgroup v1.

The throttle sits on the **root** group, because that is where the kernel's own threads write: BTRFS commits in them. It
holds for work in that group only, and only version 1 has it there (version 2 has no limits on its root), so both are checked.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from loadtests.volumes import TICK, Bucket, Volume

BLKIO = Path("/sys/fs/cgroup/blkio")


class NoThrottle(Exception):
    """This machine cannot slow a device down; the text says why."""


class Throttle:
    """A device under a volume's limits, from entering to leaving the context. Raises NoThrottle on entering."""

    def __init__(self, device: str, volume: Volume, credits_left: int | None = None) -> None:
        """``device`` is its name below /sys/block."""
        self._device = device
        self._volume = volume
        self._bucket = Bucket(volume, credits_left)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="burst-credits", daemon=True)
        self._number = ""
        self.cap: tuple[int | None, int | None] = (None, None)
        """Reads and writes a second that are allowed now."""

    @property
    def credits(self) -> float | None:
        """Burst credits left; None for volumes without."""
        return self._bucket.credits if self._volume.credits else None

    def __enter__(self) -> Throttle:
        if self._volume.write_iops is None:
            return self
        check_throttle()
        self._number = (Path("/sys/block") / self._device / "dev").read_text().strip()
        for way in ("read", "write"):
            self._limit(f"{way}_bps", self._volume.bytes_per_second)
        self._apply()
        if self._volume.credits:
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._number:
            for way in ("read", "write"):
                self._limit(f"{way}_bps", None)
                self._limit(f"{way}_iops", None)

    def _apply(self) -> None:
        if self._bucket.iops == self.cap:
            return
        self.cap = self._bucket.iops
        for way, iops in zip(("read", "write"), self.cap, strict=True):
            self._limit(f"{way}_iops", iops)

    def _limit(self, kind: str, value: int | None) -> None:
        # 0 takes a limit away.
        (BLKIO / f"blkio.throttle.{kind}_device").write_text(f"{self._number} {value or 0}")

    def _follow(self) -> None:
        operations, then = count_operations(self._device), time.monotonic()
        while not self._end.wait(TICK):
            now, count = time.monotonic(), count_operations(self._device)
            self._bucket.spend(count - operations, now - then)
            operations, then = count, now
            self._apply()


def check_throttle() -> None:
    """Raises NoThrottle where the kernel, the cgroups or our own group do not allow it."""
    if not (BLKIO / "blkio.throttle.write_iops_device").exists():
        raise NoThrottle(
            "volumes are imitated by the blkio controller of cgroup v1, and it is not mounted at "
            f"{BLKIO} (version 2 cannot limit what the kernel writes for BTRFS); use --profile unlimited here"
        )
    group = next((line.rsplit(":", 1)[1] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":blkio:" in line), "")
    if group != "/":
        raise NoThrottle(
            f"this process is in the blkio group `{group}`, and the throttle is on the root group: move it with\n"
            f"echo $$ > {BLKIO}/cgroup.procs"
        )


def count_operations(device: str) -> int:
    """Reads and writes that a device has completed."""
    fields = (Path("/sys/block") / device / "stat").read_text().split()
    return int(fields[0]) + int(fields[4])
