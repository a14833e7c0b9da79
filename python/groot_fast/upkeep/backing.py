"""Where a store is: its directory, and the file beside it that its file system is in, if it has one of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from groot_fast import _core, interrupts
from groot_fast.errors import LockTimeout, StoreError

SUFFIX = _core.BACKING
DELETED = ".deleted"
"""What a file is called from the moment at which it is certain to be removed; see `Site.condemned`."""
LOCKS = "/run"
"""Where root alone can make files, and no reboot leaves one."""
DEADLINE = 120.0
"""Seconds to wait for another `init-store` or `delete-store`."""
PAUSE = 0.02

CHANGE_OVER = "it is not taken over: drain the cell, remove it with the grootfs that made it, and try again (docs/newest.md)"

XFS_MAGIC = b"XFSB"
SUPERBLOCK, SUPERBLOCK_BYTES = 0x10000, 4096
MAGIC_AT, MAGIC = 0x40, b"_BHRfS_M"
DEVICE_BYTES_AT = 0xC9 + 8
"""In the superblock (linux/btrfs_tree.h): size of the device, in the item that describes it."""

MOUNT_OPTIONS = "user_subvol_rm_allowed,noatime,rw"
RELEASE_DEADLINE = 1.0
"""Seconds that the kernel has to let go of a loop device."""

LOOP_SET_CAPACITY = 0x4C07
LOOP_SET_DIRECT_IO = 0x4C08
"""linux/loop.h."""
SCHEDULER = "mq-deadline"


class Site:
    """The place of a store, without links: all paths that lead there mean the same directory and the same file."""

    __slots__ = ("file", "path")

    def __init__(self, path: str) -> None:
        """Raises StoreError if there are two files, and nothing says which it is."""
        self.path = os.path.realpath(path)
        given = os.path.normpath(path)
        given = os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
        names = list(dict.fromkeys((f"{given}{SUFFIX}", f"{self.path}{SUFFIX}")))
        found = [name for name in names if os.path.lexists(name) or os.path.lexists(name + DELETED)]
        if len(found) > 1:
            found = [name for name in found if self._is_mounted_from(name)] or found
        if len(found) > 1:
            raise StoreError(f"store {path} could be in {found[0]} or in {found[1]}", hint="move away the file that is not the store's")
        self.file = found[0] if found else names[-1]

    @property
    def condemned(self) -> str:
        """The name of the file of a store that is being deleted: whoever finds it goes on, whatever became of the one who began."""
        return self.file + DELETED

    @property
    def is_mounted(self) -> bool:
        """Whether something is mounted at the directory."""
        return any(point == self.path for point, *_ in _core.mounts())

    def device(self, file: str = "") -> str | None:
        """The loop device over the store's file (or another one) that the file system at the directory is on."""
        real = os.path.realpath(file or self.file)
        for point, _, source, _ in _core.mounts():
            if point == self.path:
                try:
                    with open(f"/sys/block/{os.path.basename(source)}/loop/backing_file", "rb") as shown:
                        if os.fsdecode(shown.read().removesuffix(b"\n")) == real:
                            return source
                except OSError:
                    continue
        return None

    def _is_mounted_from(self, file: str) -> bool:
        return self.device(file) is not None or self.device(file + DELETED) is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that makes or deletes a store here. Root's lock is where nobody else can hold it, and goes with its last
        holder; an ordinary user, who can only delete, locks the directory above. Raises LockTimeout."""
        end = time.monotonic() + DEADLINE
        held = -1
        try:
            with interrupts.Waiting():
                while (held := self._try_lock()) < 0:
                    if time.monotonic() > end:
                        text = f"another init-store or delete-store of {self.path} is running since {DEADLINE:.0f}s"
                        raise LockTimeout(text, hint=f"`fuser {self._lock_file()}` names it")
                    time.sleep(PAUSE)
            yield
        finally:
            if held >= 0:
                if os.geteuid() == 0:
                    with suppress(OSError):
                        os.unlink(self._lock_file())
                os.close(held)

    def _lock_file(self) -> str:
        if os.geteuid() != 0:
            return os.path.dirname(self.path)
        return f"{LOCKS}/grootfs-{_core.sha256(os.fsencode(self.path))[:16]}.lock"

    def _try_lock(self) -> int:
        """A descriptor that holds the lock, or -1. Raises OSError."""
        path = self._lock_file()
        flags = os.O_RDONLY | os.O_DIRECTORY if os.geteuid() != 0 else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except (FileNotFoundError, PermissionError):
            if os.geteuid() == 0:
                raise
            # Of a directory that is not there, or that it may not read, a user is not the one who makes or deletes stores in it.
            return os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            # A lock on a file that lost its name locks nothing.
            if _flock(fd) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return -1

    def file_bytes(self) -> int | None:
        """Size of the file; None if there is none, or it may not be seen."""
        try:
            return os.stat(self.file).st_size
        except OSError:
            return None

    def check_file(self) -> None:
        """Refuse a file that is not root's own, or no whole BTRFS file system. Raises StoreError, OSError."""
        if not _is_roots_own(self.file):
            text = f"{self.file} is not a file of root's own; it was not mounted"
            raise StoreError(text, hint="move it away, or choose another store path")
        with open(self.file, "rb") as backing:
            size = os.fstat(backing.fileno()).st_size
            begin = backing.read(len(XFS_MAGIC))
            backing.seek(SUPERBLOCK)
            block = backing.read(SUPERBLOCK_BYTES)
        if begin == XFS_MAGIC:
            raise StoreError(f"{self.file} exists and holds an XFS file system, not BTRFS; it was not touched", hint=CHANGE_OVER)
        if block[MAGIC_AT : MAGIC_AT + len(MAGIC)] != MAGIC or len(block) < SUPERBLOCK_BYTES:
            text = f"{self.file} exists and holds no BTRFS file system; it was not touched"
            raise StoreError(text, hint="move it away, or choose another store path")
        (wanted,) = struct.unpack_from("<Q", block, DEVICE_BYTES_AT)
        if wanted > size:
            text = f"{self.file} has {size} bytes, and its file system {wanted}: the end of the file was cut off; it was not touched"
            raise StoreError(text, hint=f"`truncate -s {wanted} {self.file}` makes it mountable; what was in the missing part is lost")

    def grow(self, size: int) -> None:
        """Make file, loop device and file system at least ``size`` bytes large, while they are in use. Raises OSError, StoreError."""
        device = self.device()
        if device is None:
            return
        if not _is_roots_own(self.file):
            raise StoreError(f"{self.file} is not a file of root's own; it was not touched")
        file = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(file).st_size < size:
                os.ftruncate(file, size)
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, LOOP_SET_CAPACITY)
            finally:
                os.close(loop)
        finally:
            os.close(file)
        system = os.statvfs(self.path)
        if system.f_blocks * system.f_frsize < size:
            _core.resize(self.path, size)

    def tune(self, *, direct_io: bool) -> str:
        """Where the store is on its own loop device, have that write past the host's page cache (if ``direct_io``), which would hold
        every byte once more. The scheduler first: it joins neighbouring requests, as the page cache did; without it a create costs the
        disk five times as many (``docs/kernel.md``). What cannot be done is left: the store works without. Gives why, or nothing."""
        device = self.device()
        if device is None:
            return ""
        try:
            with open(f"/sys/block/{os.path.basename(device)}/queue/scheduler", "w", encoding="ascii") as scheduler:
                scheduler.write(SCHEDULER)
            opened = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(opened, LOOP_SET_DIRECT_IO, int(direct_io))
            finally:
                os.close(opened)
        except OSError as error:
            return str(error)
        return ""

    def mount(self) -> None:
        """Mount the store's file. Raises StoreError."""
        run("mount", "-t", "btrfs", "-o", f"loop,{MOUNT_OPTIONS}", self.file, self.path)

    def unmount(self, file: str = "") -> None:
        """Raises StoreError if it is in use, here or where somebody else has it mounted (a container's mount namespace): nothing is
        changed then. ``file`` is what the store's file is called now."""
        device = self.device(file)
        hint = f"`fuser -vm {self.path}` names the processes, `swapon --show` the swap files"
        try:
            run("umount", self.path)
        except StoreError as error:
            raise StoreError(f"{self.path} cannot be unmounted: {error}", hint=hint) from None
        if device is not None and _stays_in_use(device):
            run("mount", "-t", "btrfs", "-o", MOUNT_OPTIONS, device, self.path)
            text = f"{self.path} cannot be unmounted: it is mounted in another mount namespace too, as those of containers are"
            raise StoreError(text, hint=f"end the containers; `grep -l {device} /proc/*/mountinfo` names the processes")


def _stays_in_use(device: str) -> bool:
    """Whether a loop device that is to go with its last user stays: somebody else has it mounted."""
    end = time.monotonic() + RELEASE_DEADLINE
    while os.path.exists(f"/sys/block/{os.path.basename(device)}/loop/backing_file"):
        if time.monotonic() > end:
            return True
        time.sleep(PAUSE)
    return False


def _is_roots_own(file: str) -> bool:
    """Whether root put it there, a file or a link to one, and root alone can write it. Where others may write to the directory, they
    could have a file system of somebody else's mounted for them. Raises OSError."""
    found = os.stat(file)
    is_roots = os.lstat(file).st_uid == 0 == found.st_uid
    return is_roots and stat.S_ISREG(found.st_mode) and not found.st_mode & 0o022


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False
    return True


def run(*argv: str) -> None:
    """Run a tool of the system. Raises StoreError with what it said."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except FileNotFoundError:
        hint = "install btrfs-progs" if "mkfs" in argv[0] else None
        raise StoreError(f"{argv[0]} was not found in the $PATH", hint=hint) from None
    if done.returncode != 0:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise StoreError(f"{os.path.basename(argv[0])}: {said or f'exit status {done.returncode}'}")
