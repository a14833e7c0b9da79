"""Clean: remove the volumes no image uses, and what the dead left behind (contract, section 16).

Marking (renaming ``X`` to ``gc.X``) and destroying are apart: marking is short, destroying may take long and hurts
nobody. A create never waits for clean to destroy, and clean never waits for a create: each volume that some create
uses or builds is locked by it until its image has a record, and clean only takes what it can lock.
"""

from __future__ import annotations

import posix
import time

from groot_fast import files, interrupts
from groot_fast.errors import GrootError, StoreError
from groot_fast.store import images, locks, records
from groot_fast.store.volumes import DOOMED, INCOMPLETE, RECLAIM_DEADLINE, list_volumes
from groot_fast.telemetry.metrics import NANOS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.drivers import Driver
    from groot_fast.store.layout import Store
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics

KEEP_DOWNLOADS = 3600.0
"""Seconds that a clean on create keeps interrupted downloads for whoever tries again."""
FOREIGN_AGE = 86400.0
"""Seconds after which a temporary file that may belong to a running process of the original counts as left behind."""
BLOB = "blob-"


def cached_bytes(store: Store) -> int:
    """Bytes of file content in all cached layers, used or not: what thresholds are held against."""
    sizes = (records.read_size(store, chain_id) for chain_id in list_volumes(store))
    return sum(size.layer for size in sizes if size is not None)


def unused_bytes(store: Store) -> int:
    """Bytes of file content in the layers that no image uses."""
    used = records.Dependencies(store).volumes()
    sizes = (records.read_size(store, chain_id) for chain_id in list_volumes(store) if chain_id not in used)
    return sum(size.layer for size in sizes if size is not None)


def clean(
    store: Store,
    driver: Driver,
    log: Logger,
    metrics: Metrics,
    *,
    threshold: int = 0,
    ignore_images: list[str] | None = None,
    on_create: bool = False,
) -> bool:
    """Remove what is unused. False where the threshold is not reached.

    ``ignore_images`` names images whose volumes stay although no image uses them. ``on_create`` spares interrupted
    downloads. Where another clean is running there is nothing to do. Raises StoreError when a volume could not be
    destroyed; everything else is done all the same.
    """
    if threshold > 0 and cached_bytes(store) < threshold:
        return False
    running = locks.try_lock(store, locks.GARBAGE)
    if running is None:
        log.info("another-clean-is-running")
        return True
    with running:
        # First: while what the dead left has a record, its volumes count as used.
        images.remove_unfinished(store, driver)
        _mark(store, driver, log, metrics, set(ignore_images or ()), on_create)
        destroy_marked(store, driver, log, wait=not on_create)
    return True


def _mark(store: Store, driver: Driver, log: Logger, metrics: Metrics, ignore_images: set[str], on_create: bool) -> None:
    # Creates of the original hold this lock and nothing on their base volume. With ours running there is no need to
    # wait: they lock what they use.
    asked = time.monotonic_ns()
    alone = locks.try_lock(store, locks.GLOBAL)
    waited = time.monotonic_ns() - asked
    if alone is None:
        metrics.send("ExclusiveLockingTime", waited, NANOS)
    else:
        alone.waited = waited
        alone.report(metrics, locks.EXCLUSIVE)
    try:
        if alone is not None:
            drop_stale_records(store, log)
        dependencies = records.Dependencies(store)
        used = dependencies.volumes()
        for image in ignore_images:
            used.update(records.read_source(store, image))
        for name in posix.listdir(store.folder("volumes")):
            # What is no volume is not ours to remove.
            if not name.startswith(DOOMED) and name not in used and driver.is_volume(store.volume(name)):
                doom(store, name, dependencies, log)
        remove_temporary(store, alone is not None, KEEP_DOWNLOADS if on_create else 0.0)
        volumes = set(list_volumes(store))
        records.prune_sources(store, volumes)
        if alone is not None:
            records.prune_volumes(store, volumes)
            remove_lock_files(store, volumes)
    finally:
        if alone is not None:
            alone.release()


def drop_stale_records(store: Store, log: Logger) -> None:
    """Remove the records of images that are gone. Only with the store's lock: a create holds it while it has a directory."""
    for image_id in records.recorded_images(store):
        # Not `isdir`: a directory that cannot be looked at is still an image.
        try:
            posix.lstat(store.image(image_id))
        except FileNotFoundError:
            log.info("record-without-image", id=image_id)
            records.remove_dependencies(store, image_id)


def doom(store: Store, name: str, dependencies: records.Dependencies, log: Logger) -> None:
    """Mark a volume for removal, unless somebody uses or builds it."""
    chain_id = name.split(INCOMPLETE, maxsplit=1)[0]
    held = locks.try_lock(store, chain_id)
    if held is None:
        log.debug("volume-is-in-use", volume=name)
        return
    with held:
        # A create holds its volumes until the image has its record. With the lock ours, whoever used this one is done, and may
        # have come after the first look.
        if name in dependencies.volumes():
            return
        try:
            posix.rename(store.volume(name), store.volume(DOOMED + name))
        except FileNotFoundError:
            return
        if name == chain_id:
            records.remove_volume(store, chain_id)


def destroy_marked(store: Store, driver: Driver, log: Logger, *, wait: bool) -> None:
    """Destroy what is marked. Only with the lock of cleans. Raises StoreError when a volume could not be destroyed."""
    failed = 0
    destroyed: list[int] = []
    for name in posix.listdir(store.folder("volumes")):
        if not name.startswith(DOOMED):
            continue
        interrupts.check()
        try:
            if driver.is_volume(store.volume(name)):
                destroyed += driver.destroy(store.volume(name))
        except (OSError, GrootError) as error:
            log.error("destroying-volume-failed", error, volume=name)
            failed += 1
    if destroyed:
        # Who asks for a clean wants the space; a create that cleans on the way does not wait for it.
        driver.reclaim(store.folder("volumes"), destroyed, RECLAIM_DEADLINE if wait else 0.0)
    if failed:
        raise StoreError("destroying volumes failed", hint="the log names the volumes (`--log-level error`)")


def remove_temporary(store: Store, alone: bool, keep_downloads: float) -> None:
    """Remove what processes left in ``tmp``. A download in progress is locked by its process; of other files only their
    age tells, unless nobody else is at work."""
    now = time.time()
    for name in posix.listdir(store.folder("tmp")):
        path = store.folder(f"tmp/{name}")
        try:
            age = now - posix.lstat(path).st_mtime
            if is_download(name):
                # A time in the future says as little as one long ago.
                if not 0 <= age < keep_downloads:
                    remove_unlocked(path)
            elif alone and files.is_directory(path):
                posix.rmdir(path)
            elif alone or age > FOREIGN_AGE:
                posix.unlink(path)
        except OSError:
            pass  # gone meanwhile, or a directory that is none of ours


def is_download(name: str) -> bool:
    """Whether a file in ``tmp`` is one of our downloads: ``blob-`` and 64 hex digits."""
    digest = name.removeprefix(BLOB)
    return name.startswith(BLOB) and len(digest) == 64 and not set(digest) - set("0123456789abcdef")


def remove_unlocked(path: str) -> None:
    """Remove a download that no process is working on."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC | posix.O_NONBLOCK)
    try:
        if locks.try_flock(fd):
            posix.unlink(path)
    finally:
        posix.close(fd)


def remove_lock_files(store: Store, volumes: set[str]) -> None:
    """Remove the lock files of volumes that are gone; the original keeps one for each layer it ever saw."""
    for name in posix.listdir(store.folder("locks")):
        key = name.removesuffix(".lock")
        if key in (locks.GLOBAL, locks.GARBAGE) or key in volumes or key == name:
            continue
        held = locks.try_lock(store, key)
        if held is not None:
            with held:
                posix.unlink(store.folder(f"locks/{name}"))
