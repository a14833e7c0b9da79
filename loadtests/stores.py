"""Places for a run: a store of our own on a loop device, one that is there, or a bare file system for buildah."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.samples import FileSystem

DROP_DEADLINE = 180.0
"""Seconds that the kernel gets to drop deleted subvolumes at the end of a run."""


class NoStore(Exception):
    """A place cannot be used; the text says why."""


@contextmanager
def make_store(command: str, path: Path, size: int, quota: str) -> Iterator[Path]:
    """A fresh store in a file beside it; gone at the end. Raises NoStore."""
    call(command, path, "init-store", "--store-size-bytes", str(size), "--quota", quota)
    try:
        yield path
    finally:
        _delete_store(command, path)


def _delete_store(command: str, path: Path) -> None:
    """Delete a store; a command that was stopped while the kernel worked for it may keep it busy for a while. Raises NoStore."""
    end = time.monotonic() + DROP_DEADLINE
    while True:
        try:
            call(command, path, "delete-store")
            return
        except NoStore as error:
            if "busy" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(1)


@contextmanager
def open_store(command: str, path: Path, quota: str) -> Iterator[Path]:
    """A store at a mount point of BTRFS that belongs to the load test, initialised where it is not; it stays."""
    if not os.path.ismount(path):
        raise NoStore(f"{path} is not a mount point; `python -m loadtests prepare DEVICE {path}` makes it one")
    call(command, path, "init-store", "--quota", quota)
    if call(command, path, "list") != "Store empty":
        raise NoStore(f"the store at {path} has images in it; a load test needs one of its own")
    yield path


@contextmanager
def make_file_system(command: str, path: Path, size: int, kind: str) -> Iterator[Path]:
    """A file system in a file beside its mount point; gone at the end. BTRFS is as `init-store` makes it, so that a peer has what we
    have, without accounting; of another ``kind`` it is what `mkfs` makes. Raises NoStore."""
    if kind == "btrfs":
        call(command, path, "init-store", "--store-size-bytes", str(size))
        subprocess.run(["btrfs", "quota", "disable", path], check=True)
        file = Path(f"{path}.backing-store")
    else:
        file = Path(f"{path}.file")
        with file.open("wb") as sparse:
            sparse.truncate(size)
        path.mkdir()
        subprocess.run([f"mkfs.{kind}", "-q", file], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", file, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--recursive", path], check=True)
        path.rmdir()
        file.unlink()


def call(command: str, store: Path, *args: str) -> str:
    """Run the command and give what it printed. Raises NoStore with that where it fails."""
    done = subprocess.run([command, "--store", str(store), *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoStore(f"`{Path(command).name} {args[0]}` failed: {done.stdout.strip()}")
    return done.stdout.strip()


def empty_store(command: str, store: Path, system: FileSystem) -> float:
    """Delete all images and layers and wait until the kernel has dropped them; gives the seconds that took. Raises NoStore."""
    start = time.monotonic()
    for path in (store / "images").iterdir():
        call(command, store, "delete", path.name)
    call(command, store, "clean")
    settle(system)
    # A volume's quota group stays while the kernel has still to drop an image that shared its extents; the next clean takes it.
    call(command, store, "clean")
    return time.monotonic() - start


def settle(system: FileSystem) -> None:
    """Have everything written and every deleted subvolume dropped. Raises NoStore."""
    if not system.is_btrfs:
        subprocess.run(["sync", "-f", system.mount], check=True)
        return
    end = time.monotonic() + DROP_DEADLINE
    while True:
        # A sync wakes the kernel's cleaner too, which else sleeps up to 30 s.
        _sync(system)
        if not system.count_subvolumes("-d"):
            # What the last of them shared is accounted for in the commit after it.
            _sync(system)
            return
        if time.monotonic() > end:
            raise NoStore(f"the kernel has not dropped all deleted subvolumes after {DROP_DEADLINE:.0f} s")
        time.sleep(0.2)


def _sync(system: FileSystem) -> None:
    subprocess.run(["btrfs", "filesystem", "sync", system.mount], check=True, stdout=subprocess.DEVNULL)
