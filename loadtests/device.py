"""Prepare a device for a load test. What has anything on it is left alone."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path


class BadDevice(Exception):
    """A device that cannot be used; the text says why."""


def prepare(device: Path, mount: Path) -> None:
    """Make BTRFS on an empty block device and mount it with the options of a store. Raises BadDevice.

    mkfs.btrfs runs without ``--force``, so that it refuses too what `check_empty` might not see. Nodes are as large as `init-store`
    makes them (docs/kernel.md).
    """
    check_empty(device)
    if os.path.ismount(mount):
        raise BadDevice(f"{mount} is a mount point already")
    mount.mkdir(parents=True, exist_ok=True)
    make = ["mkfs.btrfs", "--quiet", "--nodesize", "8192", str(device)]
    for argv in (make, ["mount", "-o", "noatime,user_subvol_rm_allowed", str(device), str(mount)]):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BadDevice(f"{argv[0]} {device} failed: {done.stderr.strip()}")


def check_empty(device: Path) -> None:
    """Refuse a device that holds a file system, a partition table, partitions, or is in use. Raises BadDevice."""
    try:
        mode = device.stat().st_mode
    except OSError as error:
        raise BadDevice(f"{device}: {error.strerror}") from None
    if not stat.S_ISBLK(mode):
        raise BadDevice(f"{device} is not a block device")
    below = _list(device, "NAME")
    if len(below) > 1:
        raise BadDevice(f"{device} has partitions or is part of something: {', '.join(below[1:])}")
    if any(_list(device, "MOUNTPOINTS")):
        raise BadDevice(f"{device} is mounted")
    # wipefs knows more signatures than blkid tells (partition tables, RAID members) and without --all only looks.
    signatures = subprocess.run(
        ["wipefs", "--no-act", "--noheadings", "--output", "TYPE", device], capture_output=True, text=True, check=False
    )
    if signatures.returncode:
        raise BadDevice(f"wipefs {device} failed: {signatures.stderr.strip()}")
    if found := signatures.stdout.split():
        raise BadDevice(f"{device} is not empty: it holds {', '.join(sorted(set(found)))}; it was not touched")


def _list(device: Path, column: str) -> list[str]:
    done = subprocess.run(["lsblk", "--noheadings", "--list", "--output", column, device], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadDevice(f"lsblk {device} failed: {done.stderr.strip()}")
    return [line.strip() for line in done.stdout.splitlines()]
