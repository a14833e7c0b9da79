"""Who a store's ids are on this machine (contract, section 12). The rules are the core's (``rust/store/src/mappings.rs``);
here is what `init-store --rootless` reads, and the work of an ordinary user in a user namespace.

trees.py work on trees as root, namespaced.py and namespace.py the same by the store's owner, worker.py the inside of its namespace.
"""

from __future__ import annotations

import grp
import pwd

from groot_fast import _core
from groot_fast.errors import UsageError

Ranges = list[tuple[int, int, int]]
"""Mappings as (first id in the image, first id on the host, how many)."""


def read_subordinate(user: str, group: str) -> tuple[Ranges, Ranges]:
    """User and group mappings of ``init-store --rootless user:group``: the user itself as root, and after it every range that
    ``/etc/subuid`` and ``/etc/subgid`` give (contract, section 12.2). Raises UsageError.
    """
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"error reading mappings for user '{user}': no matching entries in passwd file") from None
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"error reading mappings for group '{group}': no matching entries in group file") from None
    try:
        return _core.parse_mappings(_subordinate("/etc/subuid", user, uid), _subordinate("/etc/subgid", group, gid))
    except UsageError as error:
        raise UsageError(f"the ranges in /etc/subuid and /etc/subgid cannot be used: {error}") from None


def _subordinate(path: str, name: str, own: int) -> list[str]:
    """Mappings as the flags give them."""
    mappings = [f"0:{own}:1"]
    inside = 1
    # A range that is given twice, once by name and once by number perhaps, is one.
    for start, count in dict.fromkeys((start, count) for who, start, count in _core.read_ranges(path) if who in (name, str(own))):
        mappings.append(f"{inside}:{start}:{count}")
        inside += count
    return mappings
