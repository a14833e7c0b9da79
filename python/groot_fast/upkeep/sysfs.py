"""What BTRFS shows of a file system below ``/sys/fs/btrfs``; anybody may read it."""

from __future__ import annotations

import os

ROOT = "/sys/fs/btrfs"


def has_simple_quotas() -> bool:
    """Whether this kernel knows simple quotas (Linux 6.7)."""
    return os.path.exists(f"{ROOT}/features/simple_quota")


def read_number(uuid: str, name: str) -> int | None:
    """The number in file ``name`` of a file system; None where there is none."""
    try:
        with open(f"{ROOT}/{uuid}/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def device_bytes(uuid: str) -> int:
    """Size of all devices of a file system; 0 where it is unknown."""
    try:
        names = os.listdir(f"{ROOT}/{uuid}/devices")
    except OSError:
        return 0
    return sum((read_number(uuid, f"devices/{name}/size") or 0) * 512 for name in names)


def limited_groups(uuid: str) -> list[tuple[int, int]]:
    """(level, id) of the quota groups that have a limit or were made by somebody, sorted."""
    found = []
    try:
        names = os.listdir(f"{ROOT}/{uuid}/qgroups")
    except OSError:
        return []
    for name in names:
        level, _, ident = name.partition("_")
        if not level.isdecimal() or not ident.isdecimal():
            continue
        if int(level) > 0 or read_number(uuid, f"qgroups/{name}/limit_flags"):
            found.append((int(level), int(ident)))
    return sorted(found)
