"""Once a second: what the device, BTRFS and the machine did. Counters are written as they are; `figures` subtracts."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadtests import btrfs, nvme
from loadtests.throttle import NOTHING, Throttle

SECTOR = 512
Sample = dict[str, Any]


class NoDevice(Exception):
    """A store that is not on one block device, or ours on something else than BTRFS."""


class FileSystem:
    """The file system at a mount point: its device and, if it is BTRFS, its place in sysfs. Raises NoDevice.

    Of another one, on which a peer is at home, there is nothing to count but what its device did.
    """

    def __init__(self, mount: Path, *, is_btrfs: bool = True) -> None:
        argv = ["findmnt", "--noheadings", "--output", "SOURCE,UUID,FSTYPE", "--target", str(mount)]
        found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
        if len(found) != 3 or (found[2] == "btrfs") != is_btrfs:
            raise NoDevice(f"{mount} is not on {'BTRFS' if is_btrfs else 'another file system than BTRFS'}")
        self.is_btrfs = is_btrfs
        self.mount = mount
        self.device = Path(found[0].partition("[")[0]).resolve().name
        """Name below /sys/block."""
        if not (Path("/sys/block") / self.device).exists():
            # A partition: the whole disk has the queue and takes the throttle.
            self.device = (Path("/sys/class/block") / self.device).resolve().parent.name
        self._sysfs = Path("/sys/fs/btrfs") / found[1]

    @staticmethod
    def source(mount: Path) -> str:
        """Name of the device that is mounted at a directory."""
        argv = ["findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", str(mount)]
        found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
        return Path(found[-1].partition("[")[0]).resolve().name

    def sample(self) -> Sample:
        """Counters of the device and of BTRFS.

        ``reads``, ``writes``, ``read_bytes``, ``written_bytes`` (Documentation/block/stat.rst), ``in_flight``, ``queue_ms``
        (milliseconds of all requests together), ``commits``, ``commit_ms``, ``commit_longest_ms``, ``quotas``,
        ``qgroups``, ``subvolumes``, ``backlog`` (deleted ones that the kernel has still to drop).
        """
        stat = [int(field) for field in (Path("/sys/block") / self.device / "stat").read_text().split()]
        commits = {"commits": "0", "total_commit_ms": "0", "max_commit_ms": "0"}
        if self.is_btrfs:
            commits = dict(line.split() for line in (self._sysfs / "commit_stats").read_text().splitlines())
        return {
            "reads": stat[0],
            "read_bytes": stat[2] * SECTOR,
            "writes": stat[4],
            "written_bytes": stat[6] * SECTOR,
            "in_flight": stat[8],
            "queue_ms": stat[10],
            "commits": int(commits["commits"]),
            "commit_ms": int(commits["total_commit_ms"]),
            "commit_longest_ms": int(commits["max_commit_ms"]),
            "quotas": self.quotas(),
            "qgroups": self.count_qgroups(),
            "subvolumes": self.count_subvolumes(),
            "backlog": self.count_deleted(),
        }

    def forget_longest_commit(self) -> None:
        """Begin anew with ``commit_longest_ms``, if we may (CAP_SYS_RESOURCE): the kernel's is since the mount."""
        if self.is_btrfs:
            with suppress(PermissionError):
                (self._sysfs / "commit_stats").write_text("0")

    def quotas(self) -> str:
        """`squota`, `qgroup` or `none`; with `, inconsistent` where the kernel says so."""
        folder = self._sysfs / "qgroups"
        if not folder.exists():
            return "none"
        inconsistent = (folder / "inconsistent").read_text().strip() == "1"
        return (folder / "mode").read_text().strip() + (", inconsistent" if inconsistent else "")

    def count_qgroups(self) -> int:
        """Quota groups of all levels."""
        folder = self._sysfs / "qgroups"
        return sum(entry.is_dir() for entry in folder.iterdir()) if folder.exists() else 0

    def count_subvolumes(self) -> int:
        """Subvolumes that are there."""
        return len(btrfs.subvolumes(self.mount)) if self.is_btrfs else 0

    def count_deleted(self) -> int:
        """Subvolumes that are deleted and not dropped yet."""
        return len(btrfs.deleted(self.mount)) if self.is_btrfs else 0


class Sampler:
    """Writes a sample a second to a file, from entering to leaving the context."""

    def __init__(self, file: Path, system: FileSystem, throttle: Throttle | None, server: int | None = None) -> None:
        """Of ``server`` and its children, memory and open files are written too."""
        self._file = file
        self._system = system
        self._throttle = throttle
        self._server = server
        self._is_amazons = nvme.is_amazons(system.device)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sampler", daemon=True)
        self._failure: Exception | None = None

    def __enter__(self) -> Sampler:
        self._system.forget_longest_commit()
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        """End with a last sample. Raises what sampling failed with: figures without samples would say nothing."""
        self._end.set()
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure

    def _follow(self) -> None:
        try:
            self._write()
        except Exception as failure:
            self._failure = failure

    def _write(self) -> None:
        with self._file.open("w") as lines:
            due = time.monotonic()
            while True:
                lines.write(json.dumps(self._sample()) + "\n")
                lines.flush()
                due = max(due + 1, time.monotonic())
                if self._end.wait(due - time.monotonic()):
                    lines.write(json.dumps(self._sample()) + "\n")
                    return

    def _sample(self) -> Sample:
        counted = self._throttle.count() if self._throttle is not None else NOTHING
        aws = nvme.count(self._system.device) if self._is_amazons else nvme.NOTHING
        sample = {"time": time.time(), **self._system.sample(), **machine(), **counted, **aws}
        family = descendants(self._server) if self._server is not None else []
        sample["server_processes"] = len(family)
        sample["server_memory"] = sum(memory_share(pid) for pid in family)
        sample["server_files"] = sum(count_files(pid) for pid in family)
        return sample


def machine() -> Sample:
    """``memory`` in use and ``slab`` (kernel memory that cannot be reclaimed) in bytes; ``cpu_busy`` and ``cpu_all`` in seconds,
    ``cpu_waiting`` for the disk."""
    memory = {name: int(rest.split()[0]) * 1024 for name, rest in _pairs("/proc/meminfo")}
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting = ticks[3], ticks[4]
    return {
        "memory": memory["MemTotal"] - memory["MemAvailable"],
        "slab": memory["SUnreclaim"],
        "cpu_all": sum(ticks),
        "cpu_busy": sum(ticks) - idle - waiting,
        "cpu_waiting": waiting,
    }


def descendants(pid: int) -> list[int]:
    """A process and all that came from it and lives."""
    family, waiting = [], [pid]
    while waiting:
        pid = waiting.pop()
        family.append(pid)
        for task in Path("/proc").glob(f"{pid}/task/*/children"):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return family


def memory_share(pid: int) -> int:
    """Bytes of a process in memory, pages that several share divided among them; 0 where it has ended."""
    try:
        fields = dict(_pairs(f"/proc/{pid}/smaps_rollup"))
    except OSError:
        return 0
    return int(fields["Pss"].split()[0]) * 1024 if "Pss" in fields else 0


def count_files(pid: int) -> int:
    """Open descriptors of a process; 0 where it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _pairs(file: str) -> list[tuple[str, str]]:
    return [(name, rest) for name, _, rest in (line.partition(":") for line in Path(file).read_text().splitlines())]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines. A missing file has none."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
