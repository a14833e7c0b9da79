"""Fresh file systems on loop devices, and what the kernel counts for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.throttle import Throttle

SIZE = 40_000_000_000
"""Bytes of a fresh file system; its file is sparse."""
MOUNT_OPTIONS = "loop,user_subvol_rm_allowed"
SECTOR = 512
SETTLE = 60.0


@dataclass(frozen=True)
class Counters:
    """Bytes written to the device, the requests that wrote them, and commits, since the file system was mounted."""

    written: int
    requests: int
    commits: int


class Filesystem:
    """A mounted file system on one loop device. Only BTRFS tells its commits."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self._device = device_of(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"), str(point))
        found = list(Path("/sys/fs/btrfs").glob(f"*/devices/{self._device}"))
        self._folder = found[0].parents[1] if found else None

    def counters(self) -> Counters:
        """As of now; call `flush` first for everything to be in it."""
        stat = Path(f"/sys/block/{self._device}/stat").read_text()
        done = commits((self._folder / "commit_stats").read_text()) if self._folder is not None else 0
        return Counters(sectors_written(stat) * SECTOR, writes(stat), done)

    def flush(self) -> float:
        """Write everything to the device; gives the seconds."""
        start = time.perf_counter()
        subprocess.run(["sync", "-f", self.point], check=True)
        return time.perf_counter() - start

    def settle(self) -> None:
        """Write everything and wait, at most a minute, until the kernel is done with deleted subvolumes: else it would be at
        work on them during somebody's turn. The ioctl, other than `flush`, wakes the thread that does it. At last what others left
        on the machine's own disk: a commit waits for that disk, and so for whatever a daemon writes there behind its turn."""
        end = time.monotonic() + SETTLE
        self._sync()
        while self._has_deleted() and time.monotonic() < end:
            time.sleep(0.01)
            self._sync()
        self._sync()  # what the deletions left
        os.sync()

    def _sync(self) -> None:
        if self._folder is None:
            self.flush()
            return
        subprocess.run(["btrfs", "filesystem", "sync", self.point], check=True, stdout=subprocess.DEVNULL)

    def _has_deleted(self) -> bool:
        if self._folder is None:
            return False
        return bool(subprocess.run(["btrfs", "subvolume", "list", "-d", self.point], check=True, capture_output=True).stdout)


@contextmanager
def fresh(folder: Path, maker: Path | None = None, kind: str = "btrfs") -> Iterator[Filesystem]:
    """An empty file system below ``folder``, taken away at the end.

    With a ``grootfs`` as ``maker`` it is BTRFS as `init-store` makes it (smaller nodes, a loop device past the page cache that joins
    requests), without accounting; else what `mkfs` makes by default.
    """
    folder.mkdir(parents=True)
    point = folder / "mount"
    if maker is not None and kind == "btrfs":
        init = [str(maker), "--store", str(point), "init-store", "--store-size-bytes", str(SIZE)]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["btrfs", "quota", "disable", point], check=True)
    else:
        file = folder / "disk"
        with file.open("wb") as new:
            os.truncate(new.fileno(), SIZE)
        subprocess.run([f"mkfs.{kind}", "-q", file], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        point.mkdir()
        options = MOUNT_OPTIONS if kind == "btrfs" else "loop"
        subprocess.run(["mount", "-t", kind, "-o", options, file, point], check=True)
    try:
        yield Filesystem(point)
    finally:
        subprocess.run(["umount", "--recursive", point], check=True)
        shutil.rmtree(folder)


@contextmanager
def throttled(folder: Path) -> Iterator[tuple[Filesystem, Throttle]]:
    """An empty BTRFS below ``folder`` on a file that can be slowed down (loadtests/throttle.py), taken away at the end. Raises
    NoThrottle."""
    folder.mkdir(parents=True)
    file, point = folder / "disk", folder / "mount"
    with file.open("wb") as new:
        os.truncate(new.fileno(), SIZE)
    subprocess.run(["mkfs.btrfs", "-q", "-n", "8k", file], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    point.mkdir()
    try:
        with Throttle(file) as throttle:
            subprocess.run(["mount", "-t", "btrfs", "-o", MOUNT_OPTIONS, file, point], check=True)
            try:
                yield Filesystem(point), throttle
            finally:
                throttle.lift()
                subprocess.run(["umount", "--recursive", point], check=True)
    finally:
        shutil.rmtree(folder)


def device_of(mountinfo: str, point: str) -> str:
    """Name of the block device mounted at ``point``. Raises LookupError."""
    for line in reversed(mountinfo.splitlines()):
        before, _, after = line.partition(" - ")
        if before.split()[4] == point:
            return after.split()[1].rpartition("/")[2]
    raise LookupError(f"nothing is mounted at {point}")


def sectors_written(stat: str) -> int:
    """Sectors of 512 bytes written, from a ``/sys/block/DEVICE/stat`` (seventh field)."""
    return int(stat.split()[6])


def writes(stat: str) -> int:
    """Requests to write that were done, from a ``/sys/block/DEVICE/stat`` (fifth field): what was joined on the way counts once."""
    return int(stat.split()[4])


def commits(stats: str) -> int:
    """Number of commits in a ``commit_stats``."""
    return int(next(line for line in stats.splitlines() if line.startswith("commits ")).split()[1])
