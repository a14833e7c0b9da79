"""Loop devices and mounts: what the tests make is always taken away, in the order that works."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Refused(AssertionError):
    """A tool of the system failed."""


def tool(*argv: str | Path, check: bool = True) -> str:
    """Run a program of the system and give what it said."""
    done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode != 0:
        raise Refused(f"{' '.join(map(str, argv))}: {done.stdout}")
    return done.stdout


def mounts_below(path: Path) -> list[Path]:
    """Mount points at or below ``path``, innermost first."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    points = [os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda digits: bytes([int(digits[1], 8)]), line.split()[4])) for line in lines]
    found = [Path(point) for point in points if Path(point) == path or path in Path(point).parents]
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def loops_below(path: Path) -> list[str]:
    """Loop devices whose file is (or was) below ``path``."""
    found = []
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = os.fsdecode(device.read_bytes().removesuffix(b"\n").removesuffix(b" (deleted)"))
        except OSError:
            continue
        if path in Path(backing).parents:
            found.append(f"/dev/{device.parts[3]}")
    return found


def device_of(point: Path) -> str:
    """The device of what is mounted at ``point``."""
    return tool("findmnt", "--noheadings", "--output", "SOURCE", point).strip()


def release(path: Path) -> None:
    """Unmount everything below ``path`` and detach its loop devices."""
    for point in mounts_below(path):
        tool("umount", point)
    for device in loops_below(path):
        tool("losetup", "-d", device, check=False)  # mostly gone with the mount
    assert mounts_below(path) == []


def mount_copy(file: Path, point: Path) -> None:
    """Mount a file system that is in a file."""
    point.mkdir(exist_ok=True)
    tool("mount", "-t", "btrfs", "-o", "loop", file, point)


def make_btrfs(file: Path, point: Path, size: int) -> None:
    """A BTRFS that the command did not make."""
    with file.open("wb") as new:
        os.truncate(new.fileno(), size)
    tool("mkfs.btrfs", "--quiet", file)
    point.mkdir(exist_ok=True)
    tool("mount", "-t", "btrfs", "-o", "loop,user_subvol_rm_allowed", file, point)


def missing_requirements() -> str:
    """Why stores cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "root is required: these tests mount file systems"
    if not Path("/dev/loop-control").exists():
        return "loop devices are required (/dev/loop-control)"
    if "btrfs" not in Path("/proc/filesystems").read_text().split():
        subprocess.run(["modprobe", "btrfs"], check=False, capture_output=True)
    if "btrfs" not in Path("/proc/filesystems").read_text().split():
        return "a kernel with btrfs is required"
    return ""


@contextmanager
def swap_file(place: Path) -> Iterator[None]:
    """An active swap file in a directory."""
    swap = place / "swap"
    swap.touch()
    tool("chattr", "+C", swap)
    tool("fallocate", "-l", "16M", swap)
    swap.chmod(0o600)
    tool("mkswap", swap)
    tool("swapon", swap)
    try:
        yield
    finally:
        tool("swapoff", swap)
