"""Volumes are subvolumes, images are snapshots, limits are quota groups (contract, section 13)."""

from __future__ import annotations

import errno
import posix
import time

from groot_fast import _core, interrupts
from groot_fast.errors import QuotaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.drivers import Limit
    from groot_fast.idmap.operations import Operations

RECLAIM_PAUSE = 0.005
FOREIGN = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""How other file systems answer a call of BTRFS."""
UNLIMITED = (1 << 63) - 1
"""The largest limit that drax takes."""
REFUSED = (errno.EPERM, errno.EACCES)
QUOTA_OFF_HINT = "`btrfs quota enable --simple <mount point>` turns accounting on (plain `enable` before Linux 6.7)"


class Btrfs:
    """The BTRFS driver. Quota groups are privileged; what this process may not do, the helper `drax` does."""

    def __init__(self, operations: Operations, drax_bin: str) -> None:
        self.operations = operations
        self._drax_bin = drax_bin

    def is_compatible(self, path: str) -> bool:
        """See `Driver`. Only BTRFS has this UUID; `statfs` is not in Python's standard library."""
        try:
            _core.uuid(path)
        except OSError as error:
            if error.errno not in FOREIGN:
                raise
            return False
        return True

    def make_volume(self, path: str, parent: str | None) -> None:
        """See `Driver`. A volume never has a limit: under full accounting its snapshots would inherit it."""
        if parent is None:
            _core.create_subvolume(path)
            # What no layer describes must not depend on when it was unpacked.
            posix.utime(path, (0, 0))
        else:
            self.operations.snapshot(parent, path, None, False)

    def is_volume(self, path: str) -> bool:
        """See `Driver`."""
        return _core.is_subvolume(path)

    def make_image(self, volume: str, path: str, limit: Limit | None) -> None:
        """See `Driver`. Raises QuotaError where the limit cannot be set."""
        if limit is None:
            self.operations.snapshot(volume, path, None, False)
            return
        accounting = _core.accounting(volume)
        if accounting is None:
            raise QuotaError("unable to limit requested quota group: quota not enabled", hint=QUOTA_OFF_HINT)
        if accounting == "full":
            self._limit_afterwards(volume, path, limit.size, limit.exclusive)
            return
        # Simple accounting charges a snapshot for what it writes itself; what the image holds comes off the limit.
        own = limit.size if limit.exclusive else limit.size - limit.image_size
        try:
            self.operations.snapshot(volume, path, own, limit.exclusive)
        except PermissionError:
            # That a limit may come with the snapshot is a missing check of the kernel rather than a promise.
            self._limit_afterwards(volume, path, own, limit.exclusive)
            return
        self._enclose(path, own, limit.exclusive)

    def _limit_afterwards(self, volume: str, path: str, size: int, exclusive: bool) -> None:
        """The name appears when the limit is set, and the commit behind it makes both durable."""
        unlimited = f"{path}.unlimited"
        self.destroy(unlimited)
        self.operations.snapshot(volume, unlimited, None, False)
        try:
            try:
                _core.set_limit(unlimited, size, exclusive)
            except PermissionError:
                self._drax_limit(unlimited, size, exclusive)
            posix.rename(unlimited, path)
            _core.sync(path)
        except BaseException as error:
            self.destroy(unlimited)
            self.destroy(path)
            if isinstance(error, OSError):
                raise QuotaError(f"unable to limit requested quota group: {error.strerror}") from None
            raise

    def _enclose(self, path: str, own: int, exclusive: bool) -> None:
        """Charge subvolumes that are made inside, too. Without privilege and helper the limit holds for all else."""
        try:
            _core.enclose(path, own, exclusive)
        except OSError as error:
            if error.errno not in REFUSED:
                self.destroy(path)
                raise QuotaError(f"unable to limit requested quota group: {error.strerror}") from None
            try:
                self._drax_limit(path, own, exclusive)
            except QuotaError:
                pass

    def _drax_limit(self, path: str, size: int, exclusive: bool) -> None:
        from groot_fast.drivers.drax import run_drax

        more = ["--exclude-image-from-quota"] if exclusive else []
        run_drax(self._drax_bin, "limit", "--volume-path", path, "--disk-limit-bytes", str(size), *more)

    def destroy(self, path: str) -> list[int]:
        """See `Driver`. The group that was made for the subvolume goes with it.

        The group goes first: behind a kill in between, the subvolume still tells that there is something to remove.
        """
        group = self._group_of(path)
        is_disbanded = group is None or self._disband(path, *group)
        try:
            members = self.operations.delete_subvolume(path)
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            # Removing a nested subvolume changes its parent, and the container has used up its limit.
            self._lift_limits(path)
            members = self.operations.delete_subvolume(path)
        if group is not None and not is_disbanded:
            self._disband(path, *group)  # a full disk takes a deletion before it takes anything else
        return members

    def _group_of(self, path: str) -> tuple[int, list[int]] | None:
        """Number of the level-1 group around a subvolume, if it has one, and the subvolumes that may be in it."""
        try:
            ident = _core.subvolume_id(path)
            return (ident, _core.subvolume_ids(path)) if _core.has_group(path, ident) else None
        except (FileNotFoundError, PermissionError):
            return None

    def _disband(self, path: str, ident: int, members: list[int]) -> bool:
        """Remove a level-1 group. False where that failed: an empty group costs nothing."""
        if posix.geteuid() != 0:
            self._drax_destroy(path)
            return True
        try:
            _core.disband_group(path.rpartition("/")[0], ident, members)
        except OSError:
            return False
        return True

    def _lift_limits(self, path: str) -> None:
        try:
            _core.lift_limits(path)
        except PermissionError:
            for exclusive in (False, True):
                self._drax_limit(path, UNLIMITED, exclusive)

    def _drax_destroy(self, path: str) -> None:
        from groot_fast.drivers.drax import run_drax

        try:
            run_drax(self._drax_bin, "destroy", "--volume-path", path)
        except QuotaError:
            pass  # a missing helper never blocks a delete (contract, section 13)

    def reclaim(self, path: str, ids: list[int], deadline: float) -> None:
        """See `Driver`. A thread of the kernel frees the space when it wakes, every 30 seconds or with a commit."""
        _core.sync(path)
        end = time.monotonic() + deadline
        try:
            for ident in ids:
                while _core.subvolume_exists(path, ident):
                    if time.monotonic() > end:
                        return
                    with interrupts.Waiting():
                        time.sleep(RECLAIM_PAUSE)
        except PermissionError:
            return  # only root may look; the thread is awake in any case
        # What the thread freed may be used again after the commit behind it.
        _core.sync(path)

    def settle(self, path: str) -> None:
        """See `Driver`. Counters move at commits only, so this makes one (cheap when nothing is dirty)."""
        _core.sync(path)

    def usage(self, path: str, image_size: int, uncounted: int) -> tuple[int, int]:
        """See `Driver`. Simple accounting knows what was written since it began, full accounting everything."""
        counted = _core.usage(path)
        if counted is None:
            raise QuotaError("qgroup usage: can't list qgroups: quotas not enabled", hint=QUOTA_OFF_HINT)
        referenced, exclusive = counted
        if _core.accounting(path) == "simple":
            return image_size + uncounted + exclusive, uncounted + exclusive
        return referenced, exclusive

    def limit(self, path: str) -> int | None:
        """See `Driver`."""
        referenced, exclusive = _core.limits(path)
        return exclusive if referenced is None else referenced

    def restrict(self, path: str, left: int) -> None:
        """See `Driver`. What was there before the accounting counts for nobody."""
        _core.set_limit(path, left, False)
        _core.enclose(path, left, False)

    def accounting(self, path: str) -> str | None:
        """See `Driver`: ``simple`` or ``full``."""
        return _core.accounting(path)
