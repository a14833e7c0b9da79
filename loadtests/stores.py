"""Places for a run: a store of our own on a loop device, one that is there, or a bare file system for buildah."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.samples import FileSystem
from loadtests.throttle import Throttle

DROP_DEADLINE = 180.0
"""Seconds that the kernel gets to drop deleted subvolumes at the end of a run."""


class NoStore(Exception):
    """A place cannot be used; the text says why."""


Place = tuple[Path, Throttle | None]


@contextmanager
def make_store(command: str, path: Path, size: int, quota: str, *, slow: bool) -> Iterator[Place]:
    """A fresh store in a file beside it, which can be slowed down if it is to be ``slow``; gone at the end. Raises NoStore,
    NoThrottle."""
    init = ("init-store", "--store-size-bytes", str(size), "--quota", quota)
    call(command, path, *init)
    try:
        if slow:
            _unmount(path)
            # As after a boot: the file is mounted again, now from the throttle, with the same scheduler and direct I/O.
            with _slow(Path(f"{path}.backing-store"), path, lambda: call(command, path, *init)) as throttle:
                yield path, throttle
        else:
            yield path, None
    finally:
        _delete_store(command, path)


@contextmanager
def _slow(file: Path, path: Path, mount: Callable[[], object]) -> Iterator[Throttle]:
    """The file that is mounted at ``path`` by ``mount``, behind a throttle."""
    with Throttle(file) as throttle:
        mount()
        try:
            yield throttle
        finally:
            try:
                throttle.lift()
            finally:
                _unmount(path)


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


def _unmount(path: Path) -> None:
    """Unmount a file system and wait until its loop device is gone. Raises NoStore."""
    device = FileSystem.source(path)
    end = time.monotonic() + DROP_DEADLINE
    while (done := subprocess.run(["umount", "--recursive", path], capture_output=True, text=True, check=False)).returncode:
        if "busy" not in done.stderr or time.monotonic() > end:
            raise NoStore(done.stderr.strip())
        time.sleep(1)
    while (Path("/sys/block") / device / "loop" / "backing_file").exists():
        if time.monotonic() > end:
            raise NoStore(f"/dev/{device} does not let go of {path}")
        time.sleep(0.05)


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
def make_file_system(command: str, path: Path, size: int, kind: str, *, slow: bool) -> Iterator[Place]:
    """A file system in a file beside its mount point, which can be slowed down if it is to be ``slow``; gone at the end. BTRFS is as
    `init-store` makes it, so that a peer has what we have, without accounting; of another ``kind`` it is what `mkfs` makes. The loop
    device is as `init-store` has it. Raises NoStore, NoThrottle."""
    file = Path(f"{path}.{'backing-store' if kind == 'btrfs' else 'file'}")

    def mount() -> None:
        subprocess.run(["mount", "-o", "loop,noatime", file, path], check=True)
        device = FileSystem.source(path)
        (Path("/sys/block") / device / "queue" / "scheduler").write_text("mq-deadline")
        subprocess.run(["losetup", "--direct-io=on", f"/dev/{device}"], check=True)

    if kind == "btrfs":
        call(command, path, "init-store", "--store-size-bytes", str(size))
        subprocess.run(["btrfs", "quota", "disable", path], check=True)
        _unmount(path)
    else:
        with file.open("wb") as sparse:
            sparse.truncate(size)
        path.mkdir()
        subprocess.run([f"mkfs.{kind}", "-q", file], check=True, stdout=subprocess.DEVNULL)
    try:
        if slow:
            with _slow(file, path, mount) as throttle:
                yield path, throttle
        else:
            mount()
            try:
                yield path, None
            finally:
                _unmount(path)
    finally:
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
        if not system.count_deleted():
            # What the last of them shared is accounted for in the commit after it.
            _sync(system)
            return
        if time.monotonic() > end:
            raise NoStore(f"the kernel has not dropped all deleted subvolumes after {DROP_DEADLINE:.0f} s")
        time.sleep(0.2)


def _sync(system: FileSystem) -> None:
    subprocess.run(["btrfs", "filesystem", "sync", system.mount], check=True, stdout=subprocess.DEVNULL)
