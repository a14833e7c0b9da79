"""Volumes are subvolumes, images are snapshots, limits are quota groups (contract, section 13)."""

from __future__ import annotations

import errno
import os
import time

from groot_fast import _core
from groot_fast.drivers import Limit
from groot_fast.errors import QuotaError

RECLAIM_PAUSE = 0.005
QUOTA_OFF_HINT = "`btrfs quota enable --simple <mount point>` turns accounting on (plain `enable` before Linux 6.7)"


class Btrfs:
    """The BTRFS driver."""

    def is_compatible(self, path: str) -> bool:
        """By asking the file system for its UUID: `statfs` magic is not in Python's standard library."""
        try:
            _core.uuid(path)
        except OSError:
            return False
        return True

    def make_volume(self, path: str, parent: str | None) -> None:
        """See `Driver`. A volume never has a limit: under full accounting its snapshots would inherit it."""
        if parent is None:
            _core.create_subvolume(path)
        else:
            _core.snapshot(parent, path)

    def is_volume(self, path: str) -> bool:
        """See `Driver`."""
        return _core.is_subvolume(path)

    def make_image(self, volume: str, path: str, limit: Limit | None) -> None:
        """See `Driver`. Raises QuotaError where the limit cannot be set."""
        if limit is None:
            _core.snapshot(volume, path)
            return
        accounting = _core.accounting(volume)
        if accounting is None:
            raise QuotaError("unable to limit requested quota group: quota not enabled", hint=QUOTA_OFF_HINT)
        if accounting == "simple":
            self._make_simple(volume, path, limit)
        else:
            self._make_full(volume, path, limit)

    def _make_simple(self, volume: str, path: str, limit: Limit) -> None:
        # Simple accounting charges a snapshot for what it writes itself; what the image holds comes off the limit.
        own = limit.size if limit.exclusive else limit.size - limit.image_size
        _core.snapshot(volume, path, limit=own, exclusive=limit.exclusive)
        try:
            _core.enclose(path, own, limit.exclusive)
        except OSError as error:
            # Privileged. Without it the limit holds, but subvolumes made inside are not charged.
            if error.errno not in (errno.EPERM, errno.EACCES):
                self.destroy(path)
                raise QuotaError(f"unable to limit requested quota group: {error.strerror}") from None

    def _make_full(self, volume: str, path: str, limit: Limit) -> None:
        # The limit cannot come with the snapshot here. The name appears when the limit is set, and the commit
        # behind it makes both durable.
        unlimited = f"{path}.unlimited"
        _core.delete_subvolume(unlimited)
        _core.snapshot(volume, unlimited)
        try:
            _core.set_limit(unlimited, limit.size, limit.exclusive)
            os.rename(unlimited, path)
            _core.sync(path)
        except OSError as error:
            self.destroy(unlimited)
            self.destroy(path)
            raise QuotaError(f"unable to limit requested quota group: {error.strerror}") from None

    def destroy(self, path: str) -> list[int]:
        """See `Driver`. The groups that were made for the subvolume go with it."""
        try:
            members = _core.subvolume_ids(path)
        except FileNotFoundError:
            return []
        _core.delete_subvolume(path)
        try:
            _core.disband_group(os.path.dirname(path), members[0], members)
        except OSError:
            # Privileged. An empty group costs nothing; root's next `clean` has no better way either.
            pass
        return members

    def reclaim(self, path: str, ids: list[int], deadline: float) -> None:
        """See `Driver`. A thread of the kernel frees the space when it wakes, every 30 seconds or with a commit."""
        _core.sync(path)
        end = time.monotonic() + deadline
        try:
            for ident in ids:
                while _core.subvolume_exists(path, ident):
                    if time.monotonic() > end:
                        return
                    time.sleep(RECLAIM_PAUSE)
        except PermissionError:
            return  # only root may look; the thread is awake in any case
        # What the thread freed may be used again after the commit behind it.
        _core.sync(path)

    def usage(self, path: str, image_size: int) -> tuple[int, int]:
        """See `Driver`. Counters move at commits only, so this makes one (cheap when nothing is dirty)."""
        _core.sync(path)
        counted = _core.usage(path)
        if counted is None:
            raise QuotaError("qgroup usage: can't list qgroups: quotas not enabled", hint=QUOTA_OFF_HINT)
        referenced, exclusive = counted
        if _core.accounting(path) == "simple":
            return image_size + exclusive, exclusive
        return referenced, exclusive
