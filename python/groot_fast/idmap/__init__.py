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
    return _subordinate("/etc/subuid", user, uid), _subordinate("/etc/subgid", group, gid)


def _subordinate(path: str, name: str, own: int) -> Ranges:
    mappings = [(0, own, 1)]
    inside = 1
    for who, start, count in dict.fromkeys(_core.read_ranges(path)):  # a range that is given twice is one
        if who in (name, str(own)):
            mappings.append((inside, start, count))
            inside += count
    return mappings
