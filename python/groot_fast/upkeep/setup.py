"""init-store and delete-store."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
from collections.abc import Callable

from groot_fast import _core, interrupts
from groot_fast._core import Cancel, Store
from groot_fast.errors import StoreError
from groot_fast.place import find_tool
from groot_fast.telemetry.lager import Logger

NAMESPACE = "namespace.json"
MOUNT_OPTIONS = "user_subvol_rm_allowed,noatime,rw"


def backing_file(path: str) -> str:
    """The loop file of a store."""
    return f"{os.path.normpath(path)}.backing-store"


NODE_BYTES = "8192"
"""Size of a metadata node. What a snapshot costs grows with the children of its root node once many snapshots exist. With 16 KiB
(the default of mkfs) images of a few thousand files have hundreds of children; with 4 KiB those of ten thousands do. With 8 KiB
both are flat (``docs/kernel.md`` has the figures)."""


SCHEDULER = "mq-deadline"
LOOP_SET_DIRECT_IO = 0x4C08
"""linux/loop.h."""


def init_store(
    path: str,
    mappings: tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]],
    log: Logger,
    *,
    size: int = 0,
    tools: str = "",
    quota: str | None = None,
    direct_io: bool = True,
) -> None:
    """Make a directory a store, or check and repair one that is. Never formats anything that exists.

    With ``size`` > 0 and no BTRFS at ``path``, a loop file of that size is made beside it, formatted and mounted; one
    that is already there is only mounted. Accounting is turned on where we made the file system (simple, or full before
    Linux 6.7); elsewhere only when ``quota`` says so (``simple`` or ``full``). ``tools`` is the directory of `mkfs.btrfs`.
    ``direct_io``: whether the store's own loop device writes past the page cache.
    Raises StoreError and OSError; what was made is taken back.
    """
    if os.geteuid() != 0:
        raise StoreError(f"store {path} can only be initialized by Root user")
    if os.path.lexists(path) and not os.path.isdir(path):
        raise StoreError(f"making directory `{path}`: not a directory")
    if os.path.exists(_dismounted_file(path)):
        # A `delete_store` was killed near its end.
        if os.path.isdir(path):
            _dismount(path)
        _remove_dismounted(path)
    made = _Undo()
    try:
        _provide_filesystem(path, log, size, tools, quota, made)
        _tune_loop(path, log, direct_io)
        if not os.path.isdir(path):
            os.mkdir(path, 0o755)
            made.add(lambda: os.rmdir(path))
        Store.initialise(path, mappings)
    except BaseException:
        made.run()
        raise


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
            except OSError:
                pass


def _provide_filesystem(path: str, log: Logger, size: int, tools: str, quota: str | None, made: _Undo) -> None:
    checked = path if size > 0 or os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(checked) and size <= 0:
        raise StoreError(f"stat {checked}: no such file or directory")
    # The accounting mode of a file system that we did not make is its operator's business.
    if os.path.isdir(checked) and _is_on_btrfs(checked):
        log.debug("store-already-initialized", path=checked)
        if _core.accounting(checked) is None:
            if _is_mounted_from(path, backing_file(path)):
                _enable_quota(checked, quota)  # somebody was killed between mounting it and this
            elif quota is not None:
                _core.enable_quota(checked, quota == "simple")
        return
    if size <= 0:
        raise StoreError(
            f"Store path filesystem ({checked}) is incompatible with requested driver",
            hint="give --store-size-bytes to keep the store in a file, or put it on BTRFS",
        )
    file = backing_file(path)
    if _exists(file) and not _is_roots_own(file):
        raise StoreError(f"{file} is not a file of root's own; it was not mounted", hint="move it away, or choose another store path")
    if _exists(file) and not _is_btrfs(file):
        raise _foreign(file)
    if not os.path.isdir(path):
        os.mkdir(path, 0o755)
        made.add(lambda: os.rmdir(path))
    elif {"images", "volumes"} & set(os.listdir(path)):
        # It would be hidden below the new one, with all that runs on it.
        raise StoreError(f"{path} holds a store on a file system that is not BTRFS; it was not touched", hint=CHANGE_OVER)
    if not _exists(file):
        _format(file, size, tools)
        made.add(lambda: os.unlink(file))
    _run("mount", "-t", "btrfs", "-o", f"loop,{MOUNT_OPTIONS}", file, path)
    made.add(lambda: _run("umount", path))
    if _core.accounting(path) is None:
        _enable_quota(path, quota)


def _tune_loop(path: str, log: Logger, direct_io: bool) -> None:
    """Where the store is on its own loop device, have that write past the host's page cache (if ``direct_io``), which would hold
    every byte once more. The scheduler first: it joins neighbouring requests, as the page cache did; without it a create costs the
    disk five times as many (``docs/kernel.md``). What cannot be done is left: the store works without."""
    device = loop_device(path, backing_file(path))
    if device is None:
        return
    try:
        with open(f"/sys/block/{os.path.basename(device)}/queue/scheduler", "w", encoding="ascii") as scheduler:
            scheduler.write(SCHEDULER)
        opened = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(opened, LOOP_SET_DIRECT_IO, int(direct_io))
        finally:
            os.close(opened)
    except OSError as error:
        log.debug("loop-device-not-tuned", device=device, reason=str(error))


def _exists(path: str) -> bool:
    """As `os.path.exists`, but a disk that cannot be read has not lost its files: what is missing here is made anew.
    Raises OSError."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _is_btrfs(file: str) -> bool:
    """By the magic of the first superblock (linux/btrfs_tree.h). Raises OSError."""
    with open(file, "rb") as backing:
        backing.seek(0x10040)
        return backing.read(8) == b"_BHRfS_M"


def _is_roots_own(file: str) -> bool:
    """Whether root put it there, a file or a link to one, and root alone can write it. Where others may write to the directory, they
    could have a file system of somebody else's mounted for them. Raises OSError."""
    found = os.stat(file)
    is_roots = os.lstat(file).st_uid == 0 == found.st_uid
    return is_roots and stat.S_ISREG(found.st_mode) and not found.st_mode & 0o022


def _foreign(file: str) -> StoreError:
    """What is said of a backing file that is not ours."""
    with open(file, "rb") as backing:
        if backing.read(4) == b"XFSB":  # XFS_SB_MAGIC
            return StoreError(f"{file} exists and holds an XFS file system, not BTRFS; it was not touched", hint=CHANGE_OVER)
    return StoreError(
        f"{file} exists and holds no BTRFS file system; it was not touched", hint="move it away, or choose another store path"
    )


def _format(file: str, size: int, tools: str) -> None:
    """Format under another name and rename: a file under the final name is always a whole file system, so it never
    needs to be formatted again (contract, defect 4)."""
    new = f"{file}.new"
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as made:
            os.fchmod(made.fileno(), 0o600)
            os.truncate(made.fileno(), size)
        with interrupts.Waiting():
            mkfs = find_tool("mkfs.btrfs", tools) or os.path.join(tools, "mkfs.btrfs")
            _run(mkfs, "--quiet", "--nodesize", NODE_BYTES, new)
        with open(new, "rb") as made:
            os.fsync(made.fileno())
        os.rename(new, file)
    finally:
        if os.path.exists(new):
            os.unlink(new)


def _enable_quota(path: str, quota: str | None) -> None:
    try:
        _core.enable_quota(path, quota != "full")
    except OSError:
        if quota == "simple":
            raise
        _core.enable_quota(path, False)  # before Linux 6.7


def _run(*argv: str) -> None:
    """Run a tool of the system. Raises StoreError with what it said."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except FileNotFoundError:
        hint = "install btrfs-progs" if "mkfs" in argv[0] else None
        raise StoreError(f"{argv[0]} was not found in the $PATH", hint=hint) from None
    if done.returncode != 0:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise StoreError(f"{os.path.basename(argv[0])}: {said or f'exit status {done.returncode}'}")


CHANGE_OVER = "it is not taken over: drain the cell, remove it with the grootfs that made it, and try again (docs/newest.md)"

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

    Raises StoreError for a directory that is no store: nothing in it is touched; and if something could not be removed: all else
    is gone then. An interrupted call is finished by the next: the mappings go last, and after them only what is empty.
    """
    if os.path.lexists(path):
        store = Store.open_any(path)
        names = set(store.names(""))
        if {"images", "meta"} <= names:
            with interrupts.Waiting():
                left = store.take_apart(cancel)
            for place, reason in left:
                log.error("not-removed", reason, path=place)
            if left:
                place, reason = left[0]
                more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
                raise StoreError(f"deleting store path: {place}{more}: {reason}", hint="the log names all of them (`--log-level error`)")
        elif not _is_remainder(store, names) or (keep_empty and not names and not os.path.ismount(path)):
            missing = "images" if "images" not in names else "meta"
            raise StoreError(f"listing images: open {path}/{missing}: no such file or directory")
        store.forget_mappings()
        del store  # it holds the directory, which could not be unmounted
        _dismount(path)
    _remove_dismounted(path)


def _is_remainder(store: Store, names: set[str]) -> bool:
    """Whether these names are all that an interrupted `delete_store` leaves."""
    return names <= {"meta"} and set(store.names("meta") if names else ()) <= {NAMESPACE}


def _dismount(path: str) -> None:
    """Unmount a store that lives in its own loop file, and remove the directory. A file system that an operator mounted
    stays as it is, empty; so does a file with something in it that is not ours."""
    file = backing_file(path)
    if not os.path.ismount(path):
        _remove(path)
    elif _is_mounted_from(path, file) and os.listdir(path):
        _run("umount", path)
        _remove(path)
    elif _is_mounted_from(path, file) or _is_mounted_from(path, _dismounted_file(path)):
        # The name tells the next call that the file has nothing in it any more, should this one be killed.
        if os.path.exists(file):
            os.rename(file, _dismounted_file(path))
        try:
            _run("umount", path)
        except BaseException:
            os.rename(_dismounted_file(path), file)
            raise
        _remove(path)


def _dismounted_file(path: str) -> str:
    return f"{backing_file(path)}.deleted"


def _remove_dismounted(path: str) -> None:
    try:
        os.unlink(_dismounted_file(path))
    except FileNotFoundError:
        pass


def _is_mounted_from(path: str, file: str) -> bool:
    """Whether the file system at ``path`` is on a loop device over ``file``."""
    return loop_device(path, file) is not None


def loop_device(path: str, file: str) -> str | None:
    """The loop device over ``file`` that the file system at ``path`` is on."""
    if not os.path.exists(file):
        return None
    real = os.path.realpath(path)
    sources = [source for point, _, source, _ in _core.mounts() if point == real]
    for source in sources:
        try:
            with open(f"/sys/block/{os.path.basename(source)}/loop/backing_file", encoding="utf-8") as backing:
                if backing.read().rstrip("\n") == os.path.realpath(file):
                    return source
        except OSError:
            continue
    return None


def _remove(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        reason = (error.strerror or "error").lower()
        left = sorted(os.listdir(path)) if error.errno == errno.ENOTEMPTY else []
        hint = f"{path}/{left[0]} is not the store's; move it away and try again" if left else None
        raise StoreError(f"deleting store path: {path}: {reason}", hint=hint) from None
