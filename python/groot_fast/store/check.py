"""Check: hold what is in a store against what should be, item by item, changing nothing.

What belongs to a running command is not reported: that command holds a lock on it (locks.py). A lock is looked at by
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

from groot_fast import _core, interrupts
from groot_fast.store import images, locks, records
from groot_fast.store.clean import FOREIGN_AGE, KEEP_DOWNLOADS, is_download
from groot_fast.store.layout import FOLDERS
from groot_fast.store.volumes import DOOMED, INCOMPLETE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from groot_fast.drivers import Driver
    from groot_fast.store.layout import Store

ERROR, WARNING, NOTE = "error", "warning", "note"

CLEAN = "`grootfs clean` removes it"
MOVE = "move it away if nobody needs it there"
MAKE_AGAIN = "delete the image and create it again when convenient"
REPULL = "a create that needs it pulls it again"

ORIGINALS = {"cache", "whiteout_dev", "l", "projectids"}
"""What other releases and drivers of the original keep at the top of a store (contract, section 11)."""
GROUP_PAUSE = 0.1
"""Seconds between two looks at quota groups without a subvolume."""
RECORD_AGE = 60.0
"""Seconds after which a record without its name counts as left behind: it is renamed a moment after it is made."""


class Finding:
    """One thing that is not as it should be: what kind (`repair.REPAIRS` goes by it), where, what is wrong, what helps."""

    __slots__ = ("cure", "kind", "path", "problem", "severity", "state")

    def __init__(self, severity: str, kind: str, path: str, problem: str, cure: str = "") -> None:
        self.severity = severity
        self.kind = kind
        self.path = path
        self.problem = problem
        self.cure = cure
        self.state = "found"
        """``found``, ``would be repaired``, ``repaired`` or ``remains``."""

    @property
    def counts(self) -> bool:
        """Whether the store is worse for it, as it is now."""
        return self.severity != NOTE and self.state != "repaired"

    @property
    def name(self) -> str:
        """Last component of the path."""
        return os.path.basename(self.path)


def check(store: Store, driver: Driver, *, deep: bool = False) -> list[Finding]:
    """Look at the whole store, with ``deep`` at the content of its volumes too. Raises OSError where it may not be read."""
    found = [*_check_folders(store), *_check_volumes(store, driver), *_check_images(store, driver)]
    found += [*_check_records(store, driver), *_check_temporary(store), *_check_locks(store), *_check_subvolumes(store)]
    found += [*_check_accounting(store), *_check_origin(store, driver)]
    if deep:
        from groot_fast.store.content import check_content

        found += check_content(store, driver)
    return found


# -- the store's own directories ----------------------------------------------------------


def _check_folders(store: Store) -> Iterator[Finding]:
    own = {name.partition("/")[0] for name in FOLDERS}
    for name in sorted(set(os.listdir(store.path)) - own - ORIGINALS):
        yield Finding(WARNING, "foreign-entry", f"{store.path}/{name}", "does not belong in a store", MOVE)
    owner = store.mappings.owner()
    for path in (store.path, *map(store.folder, FOLDERS)):
        # The store itself may be named by a link; a link for one of its folders is refused before we come here.
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            yield Finding(ERROR, "wrong-folder", path, "is not a directory", "put a directory in its place, then run `grootfs init-store`")
        elif owner is not None and (status.st_uid, status.st_gid) != owner:
            problem = f"belongs to {status.st_uid}:{status.st_gid}, and the store's owner is {owner[0]}:{owner[1]}"
            yield Finding(ERROR, "wrong-owner", path, problem, f"chown {owner[0]}:{owner[1]} {path}")


# -- volumes ------------------------------------------------------------------------------


def is_chain_id(name: str) -> bool:
    """Whether a volume of ours or of the original's later releases can have this name."""
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def _check_volumes(store: Store, driver: Driver) -> Iterator[Finding]:
    used = records.Dependencies(store).volumes()
    for name in sorted(os.listdir(store.folder("volumes"))):
        path = store.volume(name)
        if not driver.is_volume(path):
            if os.path.lexists(path):
                yield Finding(WARNING, "foreign-entry", path, "is not a subvolume", MOVE)
        elif name.startswith(DOOMED):
            yield from _if_free(
                store, locks.GARBAGE, path, Finding(WARNING, "doomed-volume", path, "marked, and no clean is running", CLEAN)
            )
        elif INCOMPLETE in name:
            chain_id = name.split(INCOMPLETE, maxsplit=1)[0]
            yield from _if_free(store, chain_id, path, Finding(WARNING, "incomplete-volume", path, "nobody is building it", CLEAN))
        else:
            yield from _check_volume(store, driver, name, is_used=name in used)


def _if_free(store: Store, key: str, path: str, finding: Finding) -> Iterator[Finding]:
    """The finding, if nobody holds the lock and what it speaks of is still there while nobody does."""
    held = locks.observe(store, key)
    if held is not None:
        with held:
            if os.path.lexists(path):
                yield finding


def _check_volume(store: Store, driver: Driver, name: str, *, is_used: bool) -> Iterator[Finding]:
    path = store.volume(name)
    if not is_chain_id(name) and not is_used:
        yield Finding(WARNING, "foreign-entry", path, "is not named like a volume, and no image uses it", CLEAN)
        return
    try:
        nested = _core.list_subvolumes(path)
    except OSError as error:
        if os.path.lexists(path):
            yield Finding(ERROR, "damaged-volume", path, f"cannot be opened: {error.strerror}", REPULL)
        return
    for inner in sorted(nested):
        text = "a subvolume inside a volume: nothing of the store made it"
        yield Finding(WARNING, "nested-subvolume", f"{path}/{inner}", text, f"btrfs subvolume delete {path}/{inner}")
    if records.read_size(store, name) is not None:
        return
    # A builder writes the record before the volume has its name; clean removes the record after the name, and holds the lock.
    held = locks.observe(store, name)
    if held is None:
        return
    with held:
        if not driver.is_volume(path) or records.read_size(store, name) is not None:
            return
        record = records.size_path(store, name)
        cure = "`grootfs generate-volume-size-metadata` measures the volume"
        if os.path.lexists(record):
            yield Finding(ERROR, "damaged-size", record, "is not a size record", cure)
        else:
            yield Finding(WARNING, "volume-without-size", path, "has no size record: thresholds and limits count it as empty", cure)


# -- images -------------------------------------------------------------------------------


def _check_images(store: Store, driver: Driver) -> Iterator[Finding]:
    mounts = set(images.mounts_below(store.folder("images")))
    accounting = _core.accounting(store.folder("volumes"))
    for image_id in sorted(os.listdir(store.folder("images"))):
        path = store.image(image_id)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield Finding(WARNING, "foreign-entry", path, "is not the directory of an image", MOVE)
            continue
        tree = images.image_tree(store, driver, image_id)
        if tree is None:
            yield from _check_unfinished(store, driver, image_id)
            continue
        found = [
            *_check_dependencies(store, image_id),
            *_check_limit(path, tree, accounting),
            *_check_size(store, image_id),
            *_check_mount(path, mounts),
        ]
        # A delete takes the tree away first: what was missing behind that is not missing.
        if images.image_tree(store, driver, image_id) is not None:
            yield from found
    yield from _check_missing(store, driver, set(os.listdir(store.folder("volumes"))))


def _check_unfinished(store: Store, driver: Driver, image_id: str) -> Iterator[Finding]:
    path = store.image(image_id)
    fd = images.lock_directory(path)
    if fd < 0:
        return
    try:
        if images.image_tree(store, driver, image_id) is None:
            cure = "`grootfs clean` or `grootfs delete` removes it; a create of this id replaces it"
            yield Finding(WARNING, "unfinished-image", path, "has no tree, and nobody is making it", cure)
    finally:
        os.close(fd)


def _check_dependencies(store: Store, image_id: str) -> Iterator[Finding]:
    path = records.dependency_path(store, image_id)
    if records.read_dependencies(store, image_id) is None:
        if os.path.lexists(path):
            problem = "is not a list of volumes: clean goes by the image's configuration"
            yield Finding(ERROR, "damaged-record", path, problem, MAKE_AGAIN)
        else:
            problem = "no record says what it is made of: clean takes its volumes for unused"
            yield Finding(ERROR, "image-without-record", store.image(image_id), problem, MAKE_AGAIN)


def _check_missing(store: Store, driver: Driver, volumes: set[str]) -> Iterator[Finding]:
    users: dict[str, list[str]] = {}
    for image_id in sorted(records.recorded_images(store)):
        for chain_id in records.read_dependencies(store, image_id) or ():
            if chain_id not in volumes:
                users.setdefault(chain_id, []).append(image_id)
    for chain_id, image_ids in users.items():
        # A new volume gets its name right behind the image's tree; until then its builder holds the lock.
        held = locks.observe(store, chain_id)
        if held is None:
            continue
        with held:
            living = [image_id for image_id in image_ids if images.image_tree(store, driver, image_id) is not None]
            if living and not os.path.lexists(store.volume(chain_id)):
                more = f" and {len(living) - 1} more" if len(living) > 1 else ""
                problem = f"image `{living[0]}`{more} was made of it, and it is not there"
                # Not even a warning: a power cut takes unpublished volumes away, and the original's clean knows no locks of ours.
                yield Finding(NOTE, "missing-volume", store.volume(chain_id), problem, "none needed by the image; " + REPULL)


def _check_limit(path: str, tree: str, accounting: str | None) -> Iterator[Finding]:
    limit = images.number_at(path, images.LIMIT_ATTRIBUTE)
    if limit is None:
        return
    if accounting is None:
        cure = "turn accounting on (`btrfs quota enable --simple`), then create the image again"
        yield Finding(ERROR, "missing-limit", tree, f"its limit of {limit} bytes does not hold: accounting is off", cure)
        return
    # Simple accounting charges an image for its own bytes only, so what the image holds may have come off the limit.
    size = images.number_at(path, images.SIZE_ATTRIBUTE) or 0
    own = limit - size if accounting == "simple" else limit
    actual = _core.limits(tree)
    if actual == (None, None):
        problem = f"its limit of {limit} bytes does not hold: the quota group has none"
        yield Finding(ERROR, "missing-limit", tree, problem, f"btrfs qgroup limit {own if own > 0 else limit} {tree}")
    elif images.number_at(path, images.UNCOUNTED_ATTRIBUTE) is None and not {own, limit}.intersection(actual):
        # (`migrate` takes off what was there before accounting began.)
        problem = f"was created with a limit of {limit} bytes, and the quota group has {actual[0] or actual[1]}"
        yield Finding(ERROR, "wrong-limit", tree, problem, f"btrfs qgroup limit {own if own > 0 else limit} {tree}")


def _check_size(store: Store, image_id: str) -> Iterator[Finding]:
    path = store.image(image_id)
    try:
        text = os.getxattr(path, images.SIZE_ATTRIBUTE)
    except OSError:
        return  # the original's images have none
    chain_ids = records.read_dependencies(store, image_id)
    top = records.read_size(store, chain_ids[-1]) if chain_ids else None
    expected = top.tree if top is not None else None
    if not text.isdigit():
        yield Finding(ERROR, "wrong-image-size", path, f"{images.SIZE_ATTRIBUTE} is not a number", MAKE_AGAIN)
    elif expected is not None and int(text) != expected:
        problem = f"{images.SIZE_ATTRIBUTE} says {int(text)} bytes, and the record of its top volume {expected}"
        yield Finding(WARNING, "wrong-image-size", path, problem, "stats are wrong by the difference; " + MAKE_AGAIN)


def _check_mount(path: str, mounts: set[str]) -> Iterator[Finding]:
    if images.is_idmapped(path) and os.path.realpath(f"{path}/rootfs") not in mounts:
        problem = "its idmapped mount is gone (mounts end with a reboot)"
        yield Finding(ERROR, "unmounted-image", f"{path}/rootfs", problem, MAKE_AGAIN)


# -- records ------------------------------------------------------------------------------


def _check_records(store: Store, driver: Driver) -> Iterator[Finding]:
    for image_id in sorted(records.recorded_images(store)):
        path = records.dependency_path(store, image_id)
        # Create makes the directory before the record, delete removes it after.
        if not os.path.lexists(store.image(image_id)) and os.path.lexists(path) and not os.path.lexists(store.image(image_id)):
            yield Finding(WARNING, "record-without-image", path, "its image is gone: its volumes count as used", CLEAN)
    for name in sorted(os.listdir(store.folder(records.DEPENDENCIES))):
        # `baseimage:` are those of the blog's era.
        if not name.endswith(".json") or not name.startswith(("image:", "baseimage:")):
            path = store.folder(f"{records.DEPENDENCIES}/{name}")
            yield Finding(WARNING, "foreign-entry", path, "is not a record", MOVE)
    for name in sorted(os.listdir(store.folder("meta"))):
        path = store.folder(f"meta/{name}")
        chain_id = records.recorded_volume(name)
        if chain_id is not None:
            if not driver.is_volume(store.volume(chain_id)):
                yield from _check_lone_record(store, driver, path, chain_id)
        elif name not in ("namespace.json", "dependencies", "sources", "proofs") and os.path.lexists(path):
            yield Finding(WARNING, "foreign-entry", path, "is not a record", MOVE)
    for path in records.damaged_sources(store):
        problem = "is not the record of a source: `clean --ignore-image` and `--pull-policy missing` do not know the image"
        yield Finding(WARNING, "damaged-source", path, problem, "the next create of that image writes it anew")


def _check_lone_record(store: Store, driver: Driver, path: str, chain_id: str) -> Iterator[Finding]:
    held = locks.observe(store, chain_id)
    if held is not None:
        with held:
            if os.path.lexists(path) and not driver.is_volume(store.volume(chain_id)):
                yield Finding(WARNING, "record-without-volume", path, "its volume is gone", CLEAN)


# -- leftovers ----------------------------------------------------------------------------


def _check_temporary(store: Store) -> Iterator[Finding]:
    now = time.time()
    for name in sorted(os.listdir(store.folder("tmp"))):
        path = store.folder(f"tmp/{name}")
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if _core.is_subvolume(path):
            continue  # `_check_subvolumes` speaks of it
        age = now - status.st_mtime
        if is_download(name) or name.startswith("image-"):
            # Between making the directory of an image and locking it its process has only the name.
            if _is_locked(path) or _is_of_the_living(name):
                continue
            if name.startswith("image-"):
                yield Finding(WARNING, "leftover", path, "the directory of an image that never got its name", CLEAN)
            elif age < KEEP_DOWNLOADS:
                yield Finding(NOTE, "interrupted-download", path, f"{status.st_size} bytes, kept for whoever tries again", CLEAN)
            else:
                yield Finding(WARNING, "leaked-blob", path, f"{status.st_size} bytes of a download that nobody continues", CLEAN)
        elif name.startswith("blob-"):
            # The original's unpacked blobs: no lock tells whether it still works on them.
            if age > FOREIGN_AGE:
                yield Finding(WARNING, "leaked-blob", path, f"{status.st_size} bytes that the original left", CLEAN)
        elif age > RECORD_AGE:
            yield Finding(WARNING, "leftover", path, "a temporary file that nobody came back for", CLEAN)


def _is_of_the_living(name: str) -> bool:
    """Whether the process that a temporary name was made by (`Store.temporary`) is there."""
    kind, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    return kind == "image" and pid.isdecimal() and os.path.exists(f"/proc/{pid}")


def _is_locked(path: str) -> bool:
    """Whether a process holds what is at ``path``, or took it away."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return not (locks.try_flock(fd, shared=True) and locks.is_at(fd, path))
    finally:
        os.close(fd)


def _check_locks(store: Store) -> Iterator[Finding]:
    """Lock files are empty and used again, so that many of them are one remark."""
    stale = 0
    for name in sorted(os.listdir(store.folder("locks"))):
        key = name.removesuffix(".lock")
        path = store.folder(f"locks/{name}")
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue  # clean removes those of volumes that are gone
        if key == name or not stat.S_ISREG(mode):
            yield Finding(WARNING, "foreign-entry", path, "is not a lock", MOVE)
        elif is_chain_id(key) and not os.path.lexists(store.volume(key)) and not _is_locked(path):
            stale += 1
    if stale:
        problem = f"{stale} lock file{'s' if stale > 1 else ''} of volumes that are gone"
        yield Finding(NOTE, "stale-locks", store.folder("locks"), problem, "`grootfs clean` removes them")


# -- the file system ----------------------------------------------------------------------


def _check_subvolumes(store: Store) -> Iterator[Finding]:
    for place in sorted(_core.list_subvolumes(os.path.realpath(store.path))):
        path = f"{store.path}/{place}"
        parts = place.split("/")
        if parts[0] == "volumes" and len(parts) == 2:
            continue  # had its turn
        if parts[0] == "images" and len(parts) == 3 and parts[2] in (*images.TREES, *images.UNLIMITED):
            continue
        if os.path.lexists(path):
            problem = "a subvolume where none belongs: no command of ours uses or removes it"
            yield Finding(WARNING, "orphan-subvolume", path, problem, f"btrfs subvolume delete {path}")


def _check_accounting(store: Store) -> Iterator[Finding]:
    accounting = _core.accounting(store.folder("volumes"))
    if accounting is None:
        return
    if _core.is_inconsistent(store.folder("volumes")):
        cure = f"btrfs quota rescan {store.path}"
        yield Finding(ERROR, "inconsistent-quota", store.path, "full accounting has lost count: stats and limits are wrong", cure)
    try:
        groups = _core.stale_groups(store.folder("volumes"))
        if groups:
            # The kernel removes the group of a deleted subvolume by itself, a moment behind the subvolume.
            with interrupts.Waiting():
                time.sleep(GROUP_PAUSE)
            groups = sorted(set(groups) & set(_core.stale_groups(store.folder("volumes"))))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):
            raise
        yield Finding(NOTE, "needs-root", store.path, "stale quota groups were not looked for", "run check as root")
        return
    for level, ident in groups:
        cure = CLEAN if level == 0 else f"btrfs qgroup destroy 1/{ident} {store.path}"
        path = f"{store.path}:{level}/{ident}"
        yield Finding(WARNING, "stale-group", path, "a quota group whose subvolume is gone", cure)


def _check_origin(store: Store, driver: Driver) -> Iterator[Finding]:
    """What the original made works like what we make; only its sizes are bounds, and nothing can verify its content."""
    theirs = [image_id for image_id in images.list_images(store, driver) if images.is_foreign(store.image(image_id))]
    if theirs:
        problem = f"{len(theirs)} image{'s' if len(theirs) > 1 else ''} made by the original: {', '.join(theirs[:3])}"
        more = ", ..." if len(theirs) > 3 else ""
        yield Finding(NOTE, "original", store.folder("images"), problem + more, "none needed; their size is the sum of their layers")
