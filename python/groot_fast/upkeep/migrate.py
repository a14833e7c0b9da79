"""`migrate`: turn on simple quotas for a store that has full ones or none.

Simple quotas charge what is written after they were turned on, and turning full ones off drops every limit. So for each
image is measured and recorded what its container had written until then, and what is left of its limit; then the mode is
changed; then the limits are set again. Killed in between, the next call goes on: what is still to be set is recorded with
the image.
"""

from __future__ import annotations

import os

from groot_fast import _core, interrupts
from groot_fast._core import (
    EXCLUSIVE_ATTRIBUTE,
    GARBAGE_LOCK,
    GLOBAL_LOCK,
    LIMIT_ATTRIBUTE,
    SIZE_ATTRIBUTE,
    UNCOUNTED_ATTRIBUTE,
    Cancel,
    Lock,
    Store,
)
from groot_fast.errors import GrootError, StoreError, line_of
from groot_fast.telemetry.lager import Logger
from groot_fast.upkeep import sysfs

PENDING_ATTRIBUTE = "user.grootfs.pending-limit"
"""On the image's directory while a migration is under way: what its container may still write."""
LOCK_DEADLINE = 60.0

EXPLANATION = """\
With `--quota simple` migrate turns on simple quotas, for the whole file system:
- kernels before Linux 6.7 cannot mount it afterwards, and there is no way back to full quotas without losing count again;
- what containers have written until then is measured once and added to their stats; deleting it does not give it back;
- limits are set again to what is left of them; containers that run meanwhile are without limit for a moment;
- subvolumes that a container has made inside are not charged, those it makes later are."""


def describe(store: Store) -> str:
    """What `migrate` without ``--quota`` says: how the store counts, and what would happen. Raises StoreError."""
    accounting = store.accounting()
    ids = store.images()
    limited = sum(store.image_limit(image_id) is not None for image_id in ids)
    counting = {"simple": "simple quotas", "full": "full quotas", None: "no quotas"}[accounting]
    head = f"{store.path} has {counting}, {len(ids)} images, {limited} of them with a limit."
    if accounting == "simple":
        return f"{head}\nNothing to do."
    _check(store)
    return f"{head}\n{EXPLANATION}"


def migrate(store: Store, log: Logger, cancel: Cancel) -> str:
    """Turn on simple quotas; says what was done. Raises StoreError if that is impossible, OSError."""
    if os.geteuid() != 0:
        raise StoreError(f"store {store.path} can only be migrated by Root user")
    unknown: list[str] = []
    # Nobody makes or removes an image meanwhile: it would be forgotten.
    with _lock(store, GARBAGE_LOCK, cancel), _lock(store, GLOBAL_LOCK, cancel):
        accounting = store.accounting()
        if accounting != "simple":
            _check(store)
            unknown = _record(store, log, cancel, accounting)
            _switch(store, accounting)
        limited = _set_limits(store, log)
    count = len(store.images())
    if accounting == "simple" and not limited:
        return f"{store.path} has simple quotas already."
    text = f"{store.path} has simple quotas now: {count} images, the limits of {limited} set again."
    if unknown:
        text += f" Whether these had a limit is not known, so they have none: {', '.join(unknown)}."
    return text


def _lock(store: Store, key: str, cancel: Cancel) -> Lock:
    with interrupts.Waiting():
        return store.lock(key, deadline=LOCK_DEADLINE, cancel=cancel)


def _check(store: Store) -> None:
    """Refuse before anything is changed."""
    if not sysfs.has_simple_quotas():
        hint = "Linux 6.7 has them; until then `btrfs quota enable` turns full ones on"
        raise StoreError(f"this kernel (Linux {os.uname().release}) has no simple quotas", hint=hint)
    *_, is_read_only = store.space()
    if is_read_only:
        raise StoreError(f"the file system of {store.path} is mounted read-only")
    uuid = store.uuid()
    if sysfs.read_number(uuid, "qgroups/inconsistent"):
        raise StoreError("the counters of the full quotas are inconsistent", hint=f"`btrfs quota rescan -w {store.path}`, then try again")
    ours = {number for image_id in store.images() for number in store.subvolumes_of_image(image_id)}
    for level, ident in sysfs.limited_groups(uuid):
        if level > 0 or (ident not in ours and store.subvolume_exists(ident)):
            raise StoreError(
                f"quota group {level}/{ident} of the file system belongs to somebody else, and would be lost",
                hint=f"`btrfs qgroup show -re {store.path}` shows it; full quotas go on working",
            )


def _record(store: Store, log: Logger, cancel: Cancel, accounting: str | None) -> list[str]:
    """Write down with each image what its container has written and may still write. Harmless as long as the mode is not
    changed: only simple accounting looks at it. Gives the images of which nobody knows whether they had a limit: without
    accounting there is none but what we have recorded, and the original records nothing."""
    store.sync()
    unknown: list[str] = []
    sizes: dict[str, int] = {}
    for image_id in store.images():
        if accounting is None:
            if store.image_number(image_id, PENDING_ATTRIBUTE) is not None:
                continue  # an earlier call was killed between turning full quotas off and simple ones on
            is_foreign = store.image_number(image_id, SIZE_ATTRIBUTE) is None
            size, own = _measure(store, image_id, sizes, cancel)
            limit = store.image_number(image_id, LIMIT_ATTRIBUTE)
            if limit is not None:
                # Without the image there is room for one that is larger than its limit only.
                excludes = limit <= size or store.image_attribute(image_id, EXCLUSIVE_ATTRIBUTE) is not None
                _record_left(store, image_id, limit - own if excludes else limit - own - size)
            elif is_foreign:
                unknown.append(image_id)
        else:
            referenced, own = store.counted_usage(image_id)
            size = max(referenced - own, 0)
            _record_limit(store, image_id, referenced, own)
        if store.image_number(image_id, SIZE_ATTRIBUTE) is None:
            store.set_image_attribute(image_id, SIZE_ATTRIBUTE, str(size).encode())
        store.set_image_attribute(image_id, UNCOUNTED_ATTRIBUTE, str(own).encode())
        log.info("measured", id=image_id, size=size, own=own)
    store.sync()
    return unknown


def _record_left(store: Store, image_id: str, left: int) -> None:
    store.set_image_attribute(image_id, PENDING_ATTRIBUTE, str(max(left, 0)).encode())


def _record_limit(store: Store, image_id: str, referenced: int, own: int) -> None:
    inclusive, exclusive = store.kernel_limits(image_id)
    limit, used = (inclusive, referenced) if inclusive is not None else (exclusive, own)
    if limit is None:
        return
    _record_left(store, image_id, limit - used)
    if store.image_number(image_id, LIMIT_ATTRIBUTE) is None:
        store.set_image_attribute(image_id, LIMIT_ATTRIBUTE, str(limit).encode())


def _measure(store: Store, image_id: str, sizes: dict[str, int], cancel: Cancel) -> tuple[int, int]:
    """(bytes of the image, bytes that came on top) if nobody has counted: by walking, this once. ``sizes`` keeps those
    of volumes, which many images share."""
    size = store.image_size(image_id)
    chain = store.read_dependencies(image_id)
    with interrupts.Waiting():
        if store.image_number(image_id, SIZE_ATTRIBUTE) is None and chain:
            top = chain[-1]
            if top not in sizes and store.has_volume(top):
                sizes[top] = store.content_of_volume(top, cancel)
            size = sizes.get(top, size)
        return size, max(store.content_of_image(image_id, cancel) - size, 0)


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


def _set_limits(store: Store, log: Logger) -> int:
    """Set what is recorded; gives how many. Raises StoreError that names the images whose limits could not be set, when all others
    are: the next call tries these again."""
    limited = 0
    failed: dict[str, str] = {}
    for image_id in store.images():
        left = store.image_number(image_id, PENDING_ATTRIBUTE)
        if left is None:
            continue
        try:
            store.restrict(image_id, left)
            store.set_image_attribute(image_id, PENDING_ATTRIBUTE, None)
        except (GrootError, OSError) as error:
            failed[image_id] = line_of(error)
            log.error("failed-to-limit", error, id=image_id)
            continue
        log.info("limited", id=image_id, left=left)
        limited += 1
    if limited:
        store.sync()
    if failed:
        named = ", ".join(f"`{image_id}` ({reason})" for image_id, reason in failed.items())
        raise StoreError(
            f"{store.path} has simple quotas now, and the limits of {len(failed)} images could not be set: {named}",
            hint="`grootfs migrate --quota simple` tries again",
        )
    return limited
