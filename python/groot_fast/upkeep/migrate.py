"""`migrate`: turn on simple quotas for a store that has full ones or none.

Simple quotas charge what is written after they were turned on, and turning full ones off drops every limit. So for each
image is measured and recorded what its container had written until then, and what is left of its limit; then the mode is
changed; then the limits are set again. Killed in between, the next call goes on: what is still to be set is recorded with
the image.
"""

from __future__ import annotations

import os
import stat

from groot_fast import _core
from groot_fast.drivers import sysfs
from groot_fast.errors import StoreError
from groot_fast.store import images, locks, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.drivers import Driver
    from groot_fast.store.layout import Store
    from groot_fast.telemetry.lager import Logger

PENDING_ATTRIBUTE = "user.grootfs.pending-limit"
"""On the image's directory while a migration is under way: what its container may still write."""
LOCK_DEADLINE = 60.0

EXPLANATION = """\
With `--quota simple` migrate turns on simple quotas, for the whole file system:
- kernels before Linux 6.7 cannot mount it afterwards, and there is no way back to full quotas without losing count again;
- what containers have written until then is measured once and added to their stats; deleting it does not give it back;
- limits are set again to what is left of them; containers that run meanwhile are without limit for a moment;
- subvolumes that a container has made inside are not charged, those it makes later are."""


def describe(store: Store, driver: Driver) -> str:
    """What `migrate` without ``--quota`` says: how the store counts, and what would happen. Raises StoreError."""
    accounting = driver.accounting(store.path)
    ids = images.list_images(store, driver)
    limited = sum(images.limit_of(store, driver, image_id) is not None for image_id in ids)
    counting = {"simple": "simple quotas", "full": "full quotas", None: "no quotas"}[accounting]
    head = f"{store.path} has {counting}, {len(ids)} images, {limited} of them with a limit."
    if accounting == "simple":
        return f"{head}\nNothing to do."
    _check(store, driver)
    return f"{head}\n{EXPLANATION}"


def migrate(store: Store, driver: Driver, log: Logger) -> str:
    """Turn on simple quotas; says what was done. Raises StoreError where that is impossible, OSError."""
    if os.geteuid() != 0:
        raise StoreError(f"store {store.path} can only be migrated by Root user")
    # Nobody makes or removes an image meanwhile: it would be forgotten.
    with (
        locks.lock(store, locks.GARBAGE, deadline=LOCK_DEADLINE),
        locks.lock(store, locks.GLOBAL, deadline=LOCK_DEADLINE),
    ):
        accounting = driver.accounting(store.path)
        if accounting != "simple":
            _check(store, driver)
            _record(store, driver, log, accounting)
            _switch(store, accounting)
        limited = _set_limits(store, driver, log)
    count = len(images.list_images(store, driver))
    if accounting == "simple" and not limited:
        return f"{store.path} has simple quotas already."
    return f"{store.path} has simple quotas now: {count} images, the limits of {limited} set again."


def _check(store: Store, driver: Driver) -> None:
    """Refuse before anything is changed."""
    if not sysfs.has_simple_quotas():
        hint = "Linux 6.7 has them; until then `btrfs quota enable` turns full ones on"
        raise StoreError(f"this kernel (Linux {os.uname().release}) has no simple quotas", hint=hint)
    if not _is_writable(store.path):
        raise StoreError(f"the file system of {store.path} is mounted read-only")
    uuid = _core.uuid(store.path)
    if sysfs.read_number(uuid, "qgroups/inconsistent"):
        raise StoreError("the counters of the full quotas are inconsistent", hint=f"`btrfs quota rescan -w {store.path}`, then try again")
    ours = {_core.subvolume_id(tree) for tree in _trees(store, driver).values()}
    for level, ident in sysfs.limited_groups(uuid):
        if level > 0 or (ident not in ours and _core.subvolume_exists(store.path, ident)):
            raise StoreError(
                f"quota group {level}/{ident} of the file system belongs to somebody else, and would be lost",
                hint=f"`btrfs qgroup show -re {store.path}` shows it; full quotas go on working",
            )


def _is_writable(path: str) -> bool:
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def _trees(store: Store, driver: Driver) -> dict[str, str]:
    found = {image_id: images.image_tree(store, driver, image_id) for image_id in images.list_images(store, driver)}
    return {image_id: tree for image_id, tree in found.items() if tree is not None}


def _record(store: Store, driver: Driver, log: Logger, accounting: str | None) -> None:
    """Write down with each image what its container has written and may still write. Harmless as long as the mode is not
    changed: only simple accounting looks at it."""
    driver.settle(store.path)
    sizes: dict[str, int] = {}
    for image_id, tree in _trees(store, driver).items():
        path = store.image(image_id)
        if accounting is None:
            if images.number_at(path, PENDING_ATTRIBUTE) is not None:
                continue  # an earlier call was killed between turning full quotas off and simple ones on
            size, own = _measure(store, image_id, tree, sizes)
        else:
            referenced, own = driver.usage(tree, 0, 0)
            size = max(referenced - own, 0)
            _record_limit(path, tree, referenced, own)
        if images.number_at(path, images.SIZE_ATTRIBUTE) is None:
            os.setxattr(path, images.SIZE_ATTRIBUTE, str(size).encode())
        os.setxattr(path, images.UNCOUNTED_ATTRIBUTE, str(own).encode())
        log.info("measured", id=image_id, size=size, own=own)
    _core.sync(store.path)


def _record_limit(path: str, tree: str, referenced: int, own: int) -> None:
    inclusive, exclusive = _core.limits(tree)
    limit, used = (inclusive, referenced) if inclusive is not None else (exclusive, own)
    if limit is None:
        return
    os.setxattr(path, PENDING_ATTRIBUTE, str(max(limit - used, 0)).encode())
    if images.number_at(path, images.LIMIT_ATTRIBUTE) is None:
        os.setxattr(path, images.LIMIT_ATTRIBUTE, str(limit).encode())


def _measure(store: Store, image_id: str, tree: str, sizes: dict[str, int]) -> tuple[int, int]:
    """(bytes of the image, bytes that came on top) where nobody has counted: by walking, this once. ``sizes`` keeps those
    of volumes, which many images share."""
    size = images.image_size(store, image_id)
    chain = records.read_dependencies(store, image_id)
    if images.number_at(store.image(image_id), images.SIZE_ATTRIBUTE) is None and chain:
        volume = store.volume(chain[-1])
        if volume not in sizes and os.path.isdir(volume):
            sizes[volume] = _content(volume)
        size = sizes.get(volume, size)
    return size, max(_content(tree) - size, 0)


def _content(path: str) -> int:
    """Bytes of all regular files, those with several names once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                status = os.lstat(f"{folder}/{name}")
            except OSError:
                continue  # a container is at work
            if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in seen:
                continue
            if status.st_nlink > 1:
                seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total


def _switch(store: Store, accounting: str | None) -> None:
    if accounting is not None:
        _core.disable_quota(store.path)
    try:
        _core.enable_quota(store.path, True)
    except OSError as error:
        if accounting is not None:
            _core.enable_quota(store.path, False)
        hint = "full quotas are on again, without limits" if accounting is not None else None
        raise StoreError(f"turning on simple quotas failed: {error.strerror}", hint=hint) from None


def _set_limits(store: Store, driver: Driver, log: Logger) -> int:
    limited = 0
    for image_id, tree in _trees(store, driver).items():
        path = store.image(image_id)
        left = images.number_at(path, PENDING_ATTRIBUTE)
        if left is None:
            continue
        driver.restrict(tree, left)
        os.removexattr(path, PENDING_ATTRIBUTE)
        log.info("limited", id=image_id, left=left)
        limited += 1
    if limited:
        _core.sync(store.path)
    return limited
