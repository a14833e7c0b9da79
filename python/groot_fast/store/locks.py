"""Locks between processes: flock on files below ``locks/``, under the original's names (contract, section 17).

| lock | shared | exclusive |
| --- | --- | --- |
| ``global-groot-lock`` | create, from planning to the end | clean, while it marks, if it gets it at once |
| ``<chain id>`` | create, on all volumes of its image, until it has a record | create, while it builds the volume; clean, to mark it |
| ``groot-gc-lock`` | | clean, from start to end; check, while it repairs |
| ``pull-<hash>`` | | create, while it asks a registry for one image on behalf of one caller |

Create takes chain locks from the top of its image downwards, so two creates never wait for each other in a circle.
Clean only ever tries chain locks. Nobody waits without a deadline. Check looks whether somebody holds a lock by holding it
shared for a moment (`observe`), and holds a volume's lock shared while it verifies its content.
"""

from __future__ import annotations

import fcntl
import posix
import time

from groot_fast import interrupts
from groot_fast.errors import LockTimeout, StoreError
from groot_fast.telemetry.metrics import NANOS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from groot_fast.store.layout import Store
    from groot_fast.telemetry.metrics import Metrics

GLOBAL = "global-groot-lock"
GARBAGE = "groot-gc-lock"

SHARED, EXCLUSIVE, PULL = "Shared", "Exclusive", "Pull"
"""How the metrics call the kinds of locks."""

NOTE_BYTES = 128
FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.02


class Lock:
    """A held lock. Released by `release`, at the end of a ``with`` block, or by the kernel when the process ends.

    ``waited`` is how long it took to get it, in nanoseconds.
    """

    __slots__ = ("_fd", "_metrics", "_name", "_since", "waited")

    def __init__(self, fd: int, waited: int) -> None:
        self._fd = fd
        self._metrics: Metrics | None = None
        self._name = ""
        self._since = 0
        self.waited = waited

    def report(self, metrics: Metrics, kind: str) -> None:
        """Send how long it took to get the lock, and once it is released how long it was held since this call; ``kind`` is
        `SHARED`, `EXCLUSIVE` or `PULL`."""
        metrics.send(f"{kind}LockingTime", self.waited, NANOS)
        if metrics.is_active:
            self._metrics, self._name, self._since = metrics, f"{kind}LockHoldTime", time.monotonic_ns()

    def share(self) -> None:
        """Let others have it too, without letting go in between: Linux makes a shared lock of an exclusive one in one step."""
        fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def write_note(self, note: str) -> None:
        """Leave a note in the lock file for the next holder."""
        posix.pwrite(self._fd, note.encode().ljust(NOTE_BYTES), 0)

    def read_note(self) -> str:
        """The note that an earlier holder left, or nothing."""
        return posix.pread(self._fd, NOTE_BYTES, 0).decode("utf-8", "replace").rstrip()

    def release(self) -> None:
        """Let go. Harmless when already done."""
        if self._fd >= 0:
            posix.close(self._fd)
            self._fd = -1
            if self._metrics is not None:
                self._metrics.send(self._name, time.monotonic_ns() - self._since, NANOS)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_path(store: Store, key: str) -> str:
    """The file behind a lock."""
    return store.folder(f"locks/{key.replace('/', '')}.lock")


def try_lock(store: Store, key: str, *, shared: bool = False) -> Lock | None:
    """The lock if it is free now, else None. Raises StoreError where the lock file cannot be opened."""
    path = lock_path(store, key)
    while True:
        fd = _open(store, path, key)
        if not try_flock(fd, shared=shared):
            posix.close(fd)
            return None
        # Clean removes lock files of volumes that are gone: a lock on a removed file locks nothing.
        if is_at(fd, path):
            return Lock(fd, 0)
        posix.close(fd)


def observe(store: Store, key: str) -> Lock | None:
    """The lock, shared, if nobody holds it exclusively, else None; writes nothing. Where the lock has no file nobody holds it,
    and the lock that is given holds nothing. Raises OSError where the file cannot be opened."""
    path = lock_path(store, key)
    while True:
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
        except FileNotFoundError:
            return Lock(-1, 0)
        if not try_flock(fd, shared=True):
            posix.close(fd)
            return None
        if is_at(fd, path):
            return Lock(fd, 0)
        posix.close(fd)


def lock(store: Store, key: str, *, shared: bool = False, deadline: float) -> Lock:
    """The lock, waiting at most ``deadline`` seconds. Raises LockTimeout, StoreError."""
    held = lock_unless(store, key, lambda: False, shared=shared, deadline=deadline)
    assert held is not None
    return held


def lock_unless(store: Store, key: str, condition: Callable[[], bool], *, shared: bool = False, deadline: float) -> Lock | None:
    """As `lock`, but None as soon as ``condition`` holds while others have the lock."""
    start = time.monotonic_ns()
    end = start + int(deadline * 1e9)
    pause = FIRST_PAUSE
    while True:
        held = try_lock(store, key, shared=shared)
        now = time.monotonic_ns()
        if held is not None:
            held.waited = now - start
            return held
        if condition():
            return None
        if now > end:
            raise LockTimeout(
                f"timed out waiting for the '{key}' file lock after '{deadline:g}s'",
                hint="another grootfs process holds it; `fuser` on the file below `locks/` of the store names it",
            )
        with interrupts.Waiting():
            time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _open(store: Store, path: str, key: str) -> int:
    # Non-blocking, or a pipe under the lock's name would hold us for ever.
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
    try:
        try:
            return posix.open(path, flags & ~posix.O_CREAT)
        except FileNotFoundError:
            fd = posix.open(path, flags, 0o600)
            if store.owner is not None:
                posix.fchown(fd, *store.owner)
            return fd
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise StoreError(f"creating lock file for key `{key}`: open {path}: {reason}") from None


def try_flock(fd: int, *, shared: bool = False) -> bool:
    """Lock what a descriptor is open on, if nobody else has it locked."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: str) -> bool:
    """Whether ``path`` still names what the descriptor is open on: a lock on something that lost its name locks nothing."""
    held = posix.fstat(fd)
    try:
        named = posix.lstat(path)
    except FileNotFoundError:
        return False
    return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)
