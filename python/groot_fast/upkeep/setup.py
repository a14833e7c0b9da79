"""init-store and delete-store."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from groot_fast import _core, interrupts
from groot_fast._core import Cancel, Store
from groot_fast.errors import GrootError, StoreError
from groot_fast.place import find_tool
from groot_fast.telemetry.lager import Logger
from groot_fast.upkeep.backing import CHANGE_OVER, Site, run

NAMESPACE = "namespace.json"
FOLDERS = {"images", "volumes", "meta", "locks", "tmp"}
"""What a store consists of."""
NODE_BYTES = "8192"
"""Size of a metadata node. What a snapshot costs grows with the children of its root node once many snapshots exist. With 16 KiB
(the default of mkfs) images of a few thousand files have hundreds of children; with 4 KiB those of ten thousands do. With 8 KiB
both are flat (``docs/kernel.md`` has the figures)."""


MKFS_ATTEMPTS = 5


def init_store(
    path: str,
    mappings: tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]],
    log: Logger,
    *,
    size: int = 0,
    tools: str = "",
    quota: str | None = None,
    direct_io: bool = True,
    limits: str | None = None,
) -> str:
    """Make a directory a store, or check and repair one that is. Never formats anything that exists.

    The file of a store that has one is looked for first: if it is not mounted, it is mounted. With ``size`` > 0 and no BTRFS at
    ``path``, such a file is made; one that is smaller grows. Accounting is turned on where we made the file system (simple, or
    full before Linux 6.7); elsewhere only when ``quota`` says so (``simple`` or ``full``). ``tools`` is the directory of
    `mkfs.btrfs`. ``direct_io``: whether the store's own loop device writes past the page cache.
    ``limits``: who may change limits that are set (``owner`` or ``root``); None: as it is.
    Gives what there is to say, or nothing. Raises StoreError and OSError; what was made is taken back.
    """
    if os.geteuid() != 0:
        raise StoreError(f"store {path} can only be initialized by Root user")
    site = Site(path)
    with site.locked():
        if os.path.lexists(site.path) and not os.path.isdir(site.path):
            raise StoreError(f"making directory `{path}`: not a directory")
        _finish_deletion(site)
        made = _Undo()
        try:
            _provide_filesystem(site, log, size, tools, quota, made)
            untuned = site.tune(direct_io=direct_io)
            if untuned:
                log.debug("loop-device-not-tuned", reason=untuned)
            if not os.path.isdir(site.path):
                _make_directory(site, made)
            store = Store.initialise(site.path, mappings)
            if limits is not None:
                store.keep_limits(limits == "root")
            del store  # what is taken back has to be unmounted
        except BaseException:
            made.run()
            raise
        return _size_told(site, size)


class _Undo:
    """Steps that take back what was made, run in reverse."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        self._steps.append(step)

    def run(self) -> None:
        for step in reversed(self._steps):
            try:
                step()
            except (OSError, GrootError):
                pass


def _make_directory(site: Site, made: _Undo) -> None:
    os.mkdir(site.path, 0o755)
    made.add(lambda: os.rmdir(site.path))


def _provide_filesystem(site: Site, log: Logger, size: int, tools: str, quota: str | None, made: _Undo) -> None:
    # The file first: the bare directory below the mount may be on BTRFS too.
    if not site.is_mounted and _exists(site.file):
        _mount(site, made)
    checked = site.path if size > 0 or os.path.isdir(site.path) else os.path.dirname(site.path)
    if not os.path.isdir(checked) and size <= 0:
        raise StoreError(f"stat {checked}: no such file or directory")
    if not os.path.isdir(checked) or not _is_on_btrfs(checked):
        if size <= 0:
            raise StoreError(
                f"Store path filesystem ({checked}) is incompatible with requested driver",
                hint="give --store-size-bytes to keep the store in a file, or put it on BTRFS",
            )
        if not _exists(site.file):
            _check_empty(site)
            _format(site.file, size, tools)
            made.add(lambda: os.unlink(site.file))
        _mount(site, made)
    else:
        log.debug("store-already-initialized", path=checked)
    if size > 0:
        site.grow(size)
    # The accounting mode of a file system that we did not make is its operator's business.
    if _core.accounting(checked) is None:
        if site.device() is not None:
            _enable_quota(checked, quota)
        elif quota is not None:
            _core.enable_quota(checked, quota == "simple")


def _check_empty(site: Site) -> None:
    """Refuse a directory with something in it: what is mounted on it would hide that."""
    names = os.listdir(site.path) if os.path.isdir(site.path) else []
    if {"images", "volumes"} & set(names) and not _is_on_btrfs(site.path):
        raise StoreError(f"{site.path} holds a store on a file system that is not BTRFS; it was not touched", hint=CHANGE_OVER)
    if names:
        raise StoreError(
            f"{site.path} is not empty, so nothing is mounted on it; the store's file is {site.file}",
            hint="move away what is in the directory, or choose another store path",
        )


def _mount(site: Site, made: _Undo) -> None:
    """Mount the store's file. Raises StoreError; nothing that is there is hidden or changed."""
    site.check_file()
    _check_empty(site)
    if not os.path.isdir(site.path):
        _make_directory(site, made)
    site.mount()
    made.add(lambda: run("umount", site.path))


def _size_told(site: Site, size: int) -> str:
    """What to say of a store that is larger than asked for."""
    there = site.file_bytes()
    if size <= 0 or there is None or there <= size or site.device() is None:
        return ""
    system = os.statvfs(site.path)
    used = (system.f_blocks - system.f_bfree) * system.f_frsize
    if used > size:
        return f"{site.file} has {there} bytes and stays: {used} of them are in use, more than the {size} asked for"
    return (
        f"{site.file} has {there} bytes and stays, {size} are asked for. To make it smaller: "
        f"`btrfs filesystem resize {size} {site.path}`, then unmount, `truncate -s {size} {site.file}`, and `init-store`"
    )


def _exists(path: str) -> bool:
    """As `os.path.exists`, but a disk that cannot be read has not lost its files: what is missing here is made anew.
    Raises OSError."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _format(file: str, size: int, tools: str) -> None:
    """Format under another name and rename: a file under the final name is always a whole file system, so it never
    needs to be formatted again (contract, defect 4)."""
    new = f"{file}.new"
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as made:
            os.fchmod(made.fileno(), 0o600)
            os.truncate(made.fileno(), size)
        with interrupts.Waiting():
            _make_filesystem(find_tool("mkfs.btrfs", tools) or os.path.join(tools, "mkfs.btrfs"), new)
        with open(new, "rb") as made:
            os.fsync(made.fileno())
        os.rename(new, file)
    finally:
        if os.path.exists(new):
            os.unlink(new)


def _make_filesystem(mkfs: str, file: str) -> None:
    for attempt in range(1, MKFS_ATTEMPTS + 1):
        try:
            run(mkfs, "--quiet", "--nodesize", NODE_BYTES, file)
            return
        except StoreError as error:
            # It looks at all loop devices of the machine, and gives up if one of them goes at that moment.
            if attempt == MKFS_ATTEMPTS or "cannot check mount status" not in str(error):
                raise


def _enable_quota(path: str, quota: str | None) -> None:
    try:
        _core.enable_quota(path, quota != "full")
    except OSError:
        if quota == "simple":
            raise
        _core.enable_quota(path, False)  # before Linux 6.7


FOREIGN = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""How other file systems answer a call of BTRFS."""


def _is_on_btrfs(path: str) -> bool:
    """Whether the file system at ``path`` can hold a store. Raises OSError if it cannot be asked."""
    try:
        _core.uuid(path)
    except OSError as error:
        if error.errno not in FOREIGN:
            raise
        return False
    return True


def delete_store(path: str, log: Logger, cancel: Cancel, *, keep_empty: bool = False) -> None:
    """Remove a store with everything in it; a loop file that `init_store` made goes too. Missing is fine. ``keep_empty``: an empty
    directory is no store, and stays.

    Nothing is destroyed before it is certain that all can be: a store in a file of its own is unmounted first, which nothing
    in use allows. Raises StoreError for that, and for a directory that is no store: nothing in it is touched; and if something could
    not be removed all the same: all else is gone then. An interrupted call is finished by the next.
    """
    site = Site(path)
    with site.locked():
        _finish_deletion(site)
        if not site.is_mounted and _exists(site.file):
            if os.geteuid() != 0:
                raise StoreError(f"deleting store path: {site.file} can only be mounted by Root user")
            _mount(site, _Undo())
        if os.path.lexists(site.path):
            _delete(site, log, cancel, keep_empty=keep_empty)


def _delete(site: Site, log: Logger, cancel: Cancel, *, keep_empty: bool) -> None:
    store = Store.open_any(site.path)
    names = set(store.names(""))
    is_store = {"images", "meta"} <= names
    is_remainder = names <= {"meta"} and set(store.names("meta") if names else ()) <= {NAMESPACE}
    if not is_store and (not is_remainder or (keep_empty and not names and not site.is_mounted)):
        missing = "images" if "images" not in names else "meta"
        raise StoreError(f"listing images: open {site.path}/{missing}: no such file or directory")
    is_own = site.device() is not None
    _check_rights(site, is_own=is_own)
    if is_store:
        try:
            store.check_removable()
        except StoreError as error:
            raise StoreError(f"deleting store path: {error}", hint=error.hint) from None
        store.unmount_images()
    if is_own and names <= FOLDERS:
        del store  # it holds the directory, which could not be unmounted
        _dismount(site)
        return
    if is_own:
        # There is something else in the file, so that stays. Whether it can be unmounted shows before the store goes.
        del store
        site.unmount()
        site.mount()
        store = Store.open_any(site.path)
    if is_store:
        _take_apart(store, log, cancel)
    store.forget_mappings()
    del store
    if is_own:
        site.unmount()
    if not site.is_mounted:
        _remove(site.path)


def _check_rights(site: Site, *, is_own: bool) -> None:
    """Refuse a caller who could empty the store, and then not remove it. Raises StoreError."""
    if is_own and os.geteuid() != 0:
        raise StoreError(f"store {site.path} can only be deleted by Root user: it has to be unmounted")
    if not site.is_mounted and not os.access(os.path.dirname(site.path), os.W_OK | os.X_OK, effective_ids=True):
        hint = f"{os.path.dirname(site.path)} is not this user's to write to; root can delete the store"
        raise StoreError(f"deleting store path: {site.path}: permission denied", hint=hint)


def _take_apart(store: Store, log: Logger, cancel: Cancel) -> None:
    with interrupts.Waiting():
        left = store.take_apart(cancel)
    for place, reason in left:
        log.error("not-removed", reason, path=place)
    if left:
        place, reason = left[0]
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        raise StoreError(f"deleting store path: {place}{more}: {reason}", hint="the log names all of them (`--log-level error`)")


def _dismount(site: Site) -> None:
    """Unmount a store that has a file of its own, and remove both."""
    # The name tells the next call to go on, should this one be killed.
    os.rename(site.file, site.condemned)
    try:
        site.unmount(site.condemned)
    except BaseException:
        os.rename(site.condemned, site.file)
        raise
    _remove(site.path)
    os.unlink(site.condemned)


def _finish_deletion(site: Site) -> None:
    """Finish what a `delete_store` began that was killed."""
    if not os.path.lexists(site.condemned):
        return
    if site.device(site.condemned) is not None:
        site.unmount(site.condemned)
    if os.path.isdir(site.path) and not site.is_mounted:
        _remove(site.path)
    os.unlink(site.condemned)


def _remove(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        reason = (error.strerror or "error").lower()
        left = sorted(os.listdir(path)) if error.errno == errno.ENOTEMPTY else []
        hint = f"{path}/{left[0]} is not the store's; move it away and try again" if left else None
        raise StoreError(f"deleting store path: {path}: {reason}", hint=hint) from None
