"""Volumes: build under a temporary name, publish when whole and durable."""

from __future__ import annotations

import posix
import time

from groot_fast import _core, interrupts
from groot_fast.store import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.drivers import Driver
    from groot_fast.store.layout import Store
    from groot_fast.store.locks import Lock

RECLAIM_DEADLINE = 5.0
"""Seconds to wait for the kernel to free space."""

DOOMED = "gc."
INCOMPLETE = "-incomplete-"


class Volume:
    """The volume of a chain id: finished, or complete under its temporary name and not yet published.

    A new volume may appear under its final name only when its data is on disk, else a power cut leaves a valid name
    over empty files. The next snapshot of it (a child's, or the image's) writes that data anyway, so publishing comes
    right behind that snapshot and costs nothing. ``path`` is what to snapshot.
    """

    def __init__(self, store: Store, chain_id: str, path: str, locks: list[Lock]) -> None:
        self._store = store
        self._locks = locks
        self.chain_id = chain_id
        self.path = path

    @property
    def is_published(self) -> bool:
        """Whether it has its final name."""
        return self.path == self._store.volume(self.chain_id)

    def publish(self, *, durable: bool) -> None:
        """Give it its final name, and let others use it. ``durable`` says that a snapshot of it was made; else everything is
        synced first."""
        final = self._store.volume(self.chain_id)
        if not self.is_published:
            if not durable:
                _core.sync(self.path)
            posix.rename(self.path, final)
            self.path = final
        if self._locks:  # else a signal came while they were handed on
            self._locks[0].share()

    def give_locks(self) -> list[Lock]:
        """The locks, for the volume above it to hold."""
        given, self._locks = self._locks, []
        return given

    def release(self) -> None:
        """Let clean have the volume and those below it."""
        while self._locks:
            self._locks.pop().release()


def incomplete_name(chain_id: str) -> str:
    """A fresh temporary name, in the original's form, so that its `clean` removes what is left of it."""
    return f"{chain_id}{INCOMPLETE}{time.time_ns()}-{int.from_bytes(posix.urandom(4), 'big')}"


def list_volumes(store: Store) -> list[str]:
    """Names of the finished volumes."""
    return [name for name in posix.listdir(store.folder("volumes")) if not name.startswith(DOOMED) and INCOMPLETE not in name]


def destroy_incomplete(store: Store, driver: Driver, path: str, chain_id: str, *, full: bool) -> None:
    """Throw away a volume whose building failed, with its record. ``full``: it failed for want of space, so whoever tries
    next needs what it took."""
    ids = driver.destroy(path)
    if not driver.is_volume(store.volume(chain_id)):
        records.remove_volume(store, chain_id)
    if full:
        driver.reclaim(store.folder("volumes"), ids, RECLAIM_DEADLINE)


def record_missing_sizes(store: Store) -> None:
    """Write the size record of each volume that has none, by walking it as `du -bs` does (contract, section 8.7)."""
    for chain_id in list_volumes(store):
        if records.read_size(store, chain_id) is None:
            with interrupts.Waiting():
                size = _disk_usage(store.volume(chain_id))
            records.write_size(store, chain_id, records.VolumeSize(size, None))


def _disk_usage(path: str) -> int:
    import os

    total = posix.lstat(path).st_size
    seen: set[int] = set()
    for folder, directories, files in os.walk(path):
        for name in (*directories, *files):
            stat = posix.lstat(f"{folder}/{name}")
            if stat.st_nlink > 1 and stat.st_ino in seen:
                continue
            seen.add(stat.st_ino)
            total += stat.st_size
    return total
