"""Check: compare what is in a store with what should be, item by item, changing nothing.

What belongs to a running command is not reported: that command holds a lock on it (``rust/store/src/locks.rs``). A lock is looked at by
holding it shared for a moment, and whatever seemed wrong is looked at again while it is held, because the command may just
have ended. No tree is walked, so the cost is a few system calls an item.

| severity | means |
| --- | --- |
| ``error`` | something is damaged: an image or a volume is not what it should be |
| ``warning`` | something is left over, or will be missed later; nothing in use is harmed |
| ``note`` | nothing is wrong, but somebody who looks after the store may want to know |
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator

from groot_fast import interrupts
from groot_fast._core import (
    DOOMED,
    FOREIGN_AGE,
    GARBAGE_LOCK,
    IDMAPPED_ATTRIBUTE,
    INCOMPLETE,
    KEEP_DOWNLOADS,
    LIMIT_ATTRIBUTE,
    SIZE_ATTRIBUTE,
    UNCOUNTED_ATTRIBUTE,
    UNVALIDATED_ATTRIBUTE,
    Store,
)
from groot_fast.idmap.trees import Trees
from groot_fast.upkeep.content import check_content
from groot_fast.upkeep.findings import ERROR, NOTE, WARNING, Finding, is_chain_id, is_download

CLEAN = "`grootfs clean` removes it"
MOVE = "move it away if nobody needs it there"
MAKE_AGAIN = "delete the image and create it again when convenient"
REPULL = "a create that needs it pulls it again"

FOLDERS = ("images", "volumes", "meta", "locks", "tmp", "meta/dependencies")
DEPENDENCIES = "meta/dependencies"
TREES = ("rootfs", "snapshot")
UNLIMITED = tuple(f"{name}.unlimited" for name in TREES)
"""As the core has them (``rust/store/src``)."""

ORIGINALS = {"cache", "whiteout_dev", "l", "projectids"}
"""What other releases and drivers of the original keep at the top of a store (contract, section 11)."""
GROUP_PAUSE = 0.1
"""Seconds between two looks at quota groups without a subvolume."""
RECORD_AGE = 60.0
"""Seconds after which a record without its name counts as left behind: it is renamed a moment after it is made."""


def check(store: Store, trees: Trees, *, deep: bool = False) -> list[Finding]:
    """Look at the whole store, with ``deep`` at the content of its volumes too. Raises OSError if it may not be read."""
    found = [*_check_folders(store), *_check_volumes(store), *_check_images(store)]
    found += [*_check_records(store), *_check_temporary(store), *_check_locks(store), *_check_subvolumes(store)]
    found += [*_check_accounting(store), *_check_origin(store)]
    if deep:
        found += check_content(store, trees)
    return found


def _exists(store: Store, folder: str, name: str) -> bool:
    return store.stat(folder, name) is not None


# -- the store's own directories ----------------------------------------------------------


def _check_folders(store: Store) -> Iterator[Finding]:
    own = {name.partition("/")[0] for name in FOLDERS}
    for name in sorted(set(store.names("")) - own - ORIGINALS):
        yield Finding(WARNING, "foreign-entry", f"{store.path}/{name}", "does not belong in a store", MOVE)
    for folder in ("", *FOLDERS):
        parent, _, name = folder.rpartition("/")
        found = store.stat(parent, name)
        path = f"{store.path}/{folder}" if folder else store.path
        if found is None:
            continue
        mode, *ids, _, _ = found
        if not stat.S_ISDIR(mode):
            yield Finding(ERROR, "wrong-folder", path, "is not a directory", "put a directory in its place, then run `grootfs init-store`")
        elif store.owner is not None and tuple(ids) != store.owner:
            problem = f"belongs to {ids[0]}:{ids[1]}, and the store's owner is {store.owner[0]}:{store.owner[1]}"
            yield Finding(ERROR, "wrong-owner", path, problem, f"chown {store.owner[0]}:{store.owner[1]} {path}")


# -- volumes ------------------------------------------------------------------------------


def _check_volumes(store: Store) -> Iterator[Finding]:
    used = store.used_volumes()
    for name in store.names("volumes"):
        path = f"{store.path}/volumes/{name}"
        if not store.is_subvolume("volumes", name):
            if _exists(store, "volumes", name):
                problem = "is not a subvolume"
                if is_chain_id(name) or name.startswith("copy-"):
                    problem = "is a copy of a layer, made file by file, and no subvolume: it is unpacked anew when it is needed"
                yield Finding(WARNING, "foreign-entry", path, problem, MOVE)
        elif name.startswith(DOOMED):
            yield from _if_free(
                store, GARBAGE_LOCK, name, Finding(WARNING, "doomed-volume", path, "marked, and no clean is running", CLEAN)
            )
        elif INCOMPLETE in name:
            chain_id = name.split(INCOMPLETE, maxsplit=1)[0]
            yield from _if_free(store, chain_id, name, Finding(WARNING, "incomplete-volume", path, "nobody is building it", CLEAN))
        else:
            yield from _check_volume(store, name, is_used=name in used)


def _if_free(store: Store, key: str, volume: str, finding: Finding) -> Iterator[Finding]:
    """The finding, if nobody holds the lock and the volume it speaks of is still there while nobody does."""
    held = store.observe(key)
    if held is not None:
        with held:
            if _exists(store, "volumes", volume):
                yield finding


def _check_volume(store: Store, name: str, *, is_used: bool) -> Iterator[Finding]:
    path = f"{store.path}/volumes/{name}"
    if not is_chain_id(name) and not is_used:
        yield Finding(WARNING, "foreign-entry", path, "is not named like a volume, and no image uses it", CLEAN)
        return
    try:
        nested = store.nested_in_volume(name)
    except OSError as error:
        if _exists(store, "volumes", name):
            yield Finding(ERROR, "damaged-volume", path, f"cannot be opened: {error.strerror}", REPULL)
        return
    for inner in sorted(nested):
        text = "a subvolume inside a volume: nothing of the store made it"
        yield Finding(WARNING, "nested-subvolume", f"{path}/{inner}", text, f"btrfs subvolume delete {path}/{inner}")
    if store.read_size(name) is not None:
        return
    # A builder writes the record before the volume has its name; clean removes the record after the name, and holds the lock.
    held = store.observe(name)
    if held is None:
        return
    with held:
        if not store.has_volume(name) or store.read_size(name) is not None:
            return
        record = f"volume-{name}"
        cure = "`grootfs generate-volume-size-metadata` measures the volume"
        if _exists(store, "meta", record):
            yield Finding(ERROR, "damaged-size", f"{store.path}/meta/{record}", "is not a size record", cure)
        else:
            yield Finding(WARNING, "volume-without-size", path, "has no size record: thresholds and limits count it as empty", cure)


# -- images -------------------------------------------------------------------------------


def _check_images(store: Store) -> Iterator[Finding]:
    accounting = store.accounting()
    for image_id in store.names("images"):
        path = f"{store.path}/images/{image_id}"
        found = store.stat("images", image_id)
        if found is None:
            continue
        if not stat.S_ISDIR(found[0]):
            yield Finding(WARNING, "foreign-entry", path, "is not the directory of an image", MOVE)
            continue
        if not store.has_image(image_id):
            yield from _check_unfinished(store, image_id)
            continue
        try:
            findings = [
                *_check_dependencies(store, image_id),
                *_check_limit(store, image_id, accounting),
                *_check_size(store, image_id),
                *_check_mount(store, image_id),
            ]
        except OSError:
            if store.has_image(image_id):
                raise
            continue
        # A delete takes the tree away first: what was missing after that is not missing.
        if store.has_image(image_id):
            yield from findings
    yield from _check_missing(store, set(store.names("volumes")))


def _check_unfinished(store: Store, image_id: str) -> Iterator[Finding]:
    held = store.lock_image(image_id)
    if held is None:
        return
    with held:
        if not store.has_image(image_id):
            cure = "`grootfs clean` or `grootfs delete` removes it; a create of this id replaces it"
            path = f"{store.path}/images/{image_id}"
            if store.image_is_copy(image_id):
                problem = "a copy of an image: its root file system is a directory, and no subvolume (as cp, rsync and tar make it)"
                yield Finding(ERROR, "copied-image", path, problem, f"{MOVE}; `grootfs delete {image_id}` removes it")
                return
            yield Finding(WARNING, "unfinished-image", path, "has no tree, and nobody is making it", cure)


def _check_dependencies(store: Store, image_id: str) -> Iterator[Finding]:
    if store.read_dependencies(image_id) is None:
        record = f"image:{image_id}.json"
        if _exists(store, DEPENDENCIES, record):
            problem = "is not a list of volumes: clean goes by the image's configuration"
            yield Finding(ERROR, "damaged-record", f"{store.path}/{DEPENDENCIES}/{record}", problem, MAKE_AGAIN)
        else:
            problem = "no record says what it is made of: clean takes its volumes for unused"
            yield Finding(ERROR, "image-without-record", f"{store.path}/images/{image_id}", problem, MAKE_AGAIN)


def _check_missing(store: Store, volumes: set[str]) -> Iterator[Finding]:
    users: dict[str, list[str]] = {}
    for image_id in store.recorded_images():
        chain_ids = store.read_dependencies(image_id) or []
        missing = [chain_id for chain_id in chain_ids if chain_id not in volumes]
        joined = store.joined(chain_ids) if missing else set()
        for chain_id in missing:
            if chain_id not in joined:
                users.setdefault(chain_id, []).append(image_id)
    for chain_id, image_ids in users.items():
        # A new volume gets its name right after the image's tree; until then its builder holds the lock.
        held = store.observe(chain_id)
        if held is None:
            continue
        with held:
            living = [image_id for image_id in image_ids if store.has_image(image_id)]
            if living and not _exists(store, "volumes", chain_id):
                more = f" and {len(living) - 1} more" if len(living) > 1 else ""
                problem = f"image `{living[0]}`{more} was made of it, and it is not there"
                # Not even a warning: a power cut takes unpublished volumes away, and the original's clean knows no locks of ours.
                path = f"{store.path}/volumes/{chain_id}"
                yield Finding(NOTE, "missing-volume", path, problem, "none needed by the image; " + REPULL)


def _check_limit(store: Store, image_id: str, accounting: str | None) -> Iterator[Finding]:
    limit = store.image_number(image_id, LIMIT_ATTRIBUTE)
    if limit is None:
        return
    tree = f"{store.path}/images/{image_id}/{store.image_tree(image_id)}"
    if accounting is None:
        cure = "turn accounting on (`btrfs quota enable --simple`), then create the image again"
        yield Finding(ERROR, "missing-limit", tree, f"its limit of {limit} bytes does not hold: accounting is off", cure)
        return
    # Simple accounting charges an image for its own bytes only, so what the image holds may have come off the limit.
    size = store.image_number(image_id, SIZE_ATTRIBUTE) or 0
    own = limit - size if accounting == "simple" else limit
    actual = store.kernel_limits(image_id)
    if actual == (None, None):
        problem = f"its limit of {limit} bytes does not hold: the quota group has none"
        yield Finding(ERROR, "missing-limit", tree, problem, f"btrfs qgroup limit {own if own > 0 else limit} {tree}")
    elif store.image_number(image_id, UNCOUNTED_ATTRIBUTE) is None and not {own, limit}.intersection(actual):
        # (`migrate` takes off what was there before accounting began.)
        problem = f"was created with a limit of {limit} bytes, and the quota group has {actual[0] or actual[1]}"
        yield Finding(ERROR, "wrong-limit", tree, problem, f"btrfs qgroup limit {own if own > 0 else limit} {tree}")


def _check_size(store: Store, image_id: str) -> Iterator[Finding]:
    text = store.image_attribute(image_id, SIZE_ATTRIBUTE)
    if text is None:
        return  # the original's images have none
    path = f"{store.path}/images/{image_id}"
    chain_ids = store.read_dependencies(image_id)
    top = store.read_size(chain_ids[-1]) if chain_ids else None
    expected = top[1] if top is not None else None
    if not text.isdigit():
        yield Finding(ERROR, "wrong-image-size", path, f"{SIZE_ATTRIBUTE} is not a number", MAKE_AGAIN)
    elif store.image_attribute(image_id, UNVALIDATED_ATTRIBUTE) is not None:
        return  # a validated volume may have taken the place of the one that it was made of
    elif expected is not None and int(text) != expected:
        problem = f"{SIZE_ATTRIBUTE} says {int(text)} bytes, and the record of its top volume {expected}"
        yield Finding(WARNING, "wrong-image-size", path, problem, "stats are wrong by the difference; " + MAKE_AGAIN)


def _check_mount(store: Store, image_id: str) -> Iterator[Finding]:
    if store.image_attribute(image_id, IDMAPPED_ATTRIBUTE) == b"1" and not store.is_mounted(image_id):
        problem = "its idmapped mount is gone (mounts end with a reboot)"
        yield Finding(ERROR, "unmounted-image", f"{store.path}/images/{image_id}/rootfs", problem, MAKE_AGAIN)


# -- records ------------------------------------------------------------------------------


def _check_records(store: Store) -> Iterator[Finding]:
    for image_id in store.recorded_images():
        record = f"image:{image_id}.json"
        # Create makes the directory before the record, delete removes it after.
        if not _exists(store, "images", image_id) and _exists(store, DEPENDENCIES, record) and not _exists(store, "images", image_id):
            path = f"{store.path}/{DEPENDENCIES}/{record}"
            yield Finding(WARNING, "record-without-image", path, "its image is gone: its volumes count as used", CLEAN)
    for name in store.names(DEPENDENCIES):
        # `baseimage:` are those of the blog's era.
        if not name.endswith(".json") or not name.startswith(("image:", "baseimage:")):
            yield Finding(WARNING, "foreign-entry", f"{store.path}/{DEPENDENCIES}/{name}", "is not a record", MOVE)
    for name in store.names("meta"):
        path = f"{store.path}/meta/{name}"
        kind, _, chain_id = name.partition("-")
        if kind in ("volume", "listing") and chain_id:
            if not store.has_volume(chain_id):
                yield from _check_lone_record(store, name, chain_id)
        elif name not in ("namespace.json", "dependencies", "sources", "proofs") and _exists(store, "meta", name):
            yield Finding(WARNING, "foreign-entry", path, "is not a record", MOVE)
    for name in store.damaged_sources():
        problem = "is not the record of a source: `clean --ignore-image` and `--pull-policy missing` do not know the image"
        path = f"{store.path}/meta/sources/{name}"
        yield Finding(WARNING, "damaged-source", path, problem, "the next create of that image writes it anew")


def _check_lone_record(store: Store, name: str, chain_id: str) -> Iterator[Finding]:
    held = store.observe(chain_id)
    if held is not None:
        with held:
            if _exists(store, "meta", name) and not store.has_volume(chain_id):
                yield Finding(WARNING, "record-without-volume", f"{store.path}/meta/{name}", "its volume is gone", CLEAN)


# -- leftovers ----------------------------------------------------------------------------


def _check_temporary(store: Store) -> Iterator[Finding]:
    now = time.time()
    for name in store.names("tmp"):
        path = f"{store.path}/tmp/{name}"
        found = store.stat("tmp", name)
        if found is None or store.is_subvolume("tmp", name):
            continue  # `_check_subvolumes` speaks of it
        *_, size, modified = found
        age = now - modified
        if is_download(name) or name.startswith("image-"):
            # Between making the directory of an image and locking it its process has only the name.
            if store.is_locked("tmp", name) or _is_of_the_living(name):
                continue
            if name.startswith("image-"):
                yield Finding(WARNING, "leftover", path, "the directory of an image that never got its name", CLEAN)
            elif age < KEEP_DOWNLOADS:
                yield Finding(NOTE, "interrupted-download", path, f"{size} bytes, kept for whoever tries again", CLEAN)
            else:
                yield Finding(WARNING, "leaked-blob", path, f"{size} bytes of a download that nobody continues", CLEAN)
        elif name.startswith("blob-"):
            # The original's unpacked blobs: no lock tells whether it still works on them.
            if age > FOREIGN_AGE:
                yield Finding(WARNING, "leaked-blob", path, f"{size} bytes that the original left", CLEAN)
        elif age > RECORD_AGE:
            yield Finding(WARNING, "leftover", path, "a temporary file that nobody came back for", CLEAN)


def _is_of_the_living(name: str) -> bool:
    """Whether the process that made a temporary name is there."""
    kind, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    return kind == "image" and pid.isdecimal() and os.path.exists(f"/proc/{pid}")


def _check_locks(store: Store) -> Iterator[Finding]:
    """Lock files are empty and used again, so that many of them are one remark."""
    stale = 0
    for name in store.names("locks"):
        key = name.removesuffix(".lock")
        found = store.stat("locks", name)
        if found is None:
            continue  # clean removes those of volumes that are gone
        if key == name or not stat.S_ISREG(found[0]):
            yield Finding(WARNING, "foreign-entry", f"{store.path}/locks/{name}", "is not a lock", MOVE)
        elif is_chain_id(key) and not _exists(store, "volumes", key) and not store.is_locked("locks", name):
            stale += 1
    if stale:
        problem = f"{stale} lock file{'s' if stale > 1 else ''} of volumes that are gone"
        yield Finding(NOTE, "stale-locks", f"{store.path}/locks", problem, "`grootfs clean` removes them")


# -- the file system ----------------------------------------------------------------------


def _check_subvolumes(store: Store) -> Iterator[Finding]:
    for place in sorted(store.subvolumes()):
        path = f"{store.path}/{place}"
        parts = place.split("/")
        if parts[0] == "volumes" and len(parts) == 2:
            continue  # had its turn
        if parts[0] == "images" and len(parts) == 3 and (parts[2] in (*TREES, *UNLIMITED) or parts[2].startswith("vol-")):
            continue
        if place in store.subvolumes():
            problem = "a subvolume where none belongs: no command of ours uses or removes it"
            yield Finding(WARNING, "orphan-subvolume", path, problem, f"btrfs subvolume delete {path}")


def _check_accounting(store: Store) -> Iterator[Finding]:
    if store.accounting() is None:
        return
    if store.is_inconsistent():
        cure = f"btrfs quota rescan {store.path}"
        yield Finding(ERROR, "inconsistent-quota", store.path, "full accounting has lost count: stats and limits are wrong", cure)
    try:
        groups = store.stale_groups()
        if groups:
            # The kernel removes the group of a deleted subvolume by itself, a moment after the subvolume.
            with interrupts.Waiting():
                time.sleep(GROUP_PAUSE)
            groups = sorted(set(groups) & set(store.stale_groups()))
        own = [(level, ident) for level, ident in groups if level == 0 or store.is_own_group(ident)]
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):
            raise
        yield Finding(NOTE, "needs-root", store.path, "stale quota groups were not looked for", "run check as root")
        return
    for level, ident in own:
        path = f"{store.path}:{level}/{ident}"
        yield Finding(WARNING, "stale-group", path, "a quota group whose subvolume is gone", CLEAN)


def _check_origin(store: Store) -> Iterator[Finding]:
    """What the original made works like what we make; only its sizes are bounds, and nothing can verify its content."""
    theirs = [image_id for image_id in store.images() if _is_foreign(store, image_id)]
    if theirs:
        problem = f"{len(theirs)} image{'s' if len(theirs) > 1 else ''} made by the original: {', '.join(theirs[:3])}"
        more = ", ..." if len(theirs) > 3 else ""
        cure = "none needed; their size is the sum of their layers"
        yield Finding(NOTE, "original", f"{store.path}/images", problem + more, cure)


def _is_foreign(store: Store, image_id: str) -> bool:
    """Whether the original made the image: it writes no size."""
    try:
        return not store.image_attribute(image_id, SIZE_ATTRIBUTE)
    except FileNotFoundError:
        return False  # deleted meanwhile
