"""`btrfsutil`, the library of btrfs-progs: a reader of subvolumes that has nothing of ours.

There is no wheel of it: the module comes with the system's btrfs-progs (Debian: python3-btrfsutil), built for the system's Python.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PLACES = (Path("/usr/lib/python3/dist-packages"),)
"""Where distributions put it, outside of the environment that this runs in."""


class NoReader(Exception):
    """The module is not there, or not for this Python."""


class Subvolume(NamedTuple):
    """One that is there."""

    path: str
    """From the root of the file system, whatever is mounted."""
    id: int
    parent: int
    """Number of the subvolume that it is in."""


def subvolumes(point: Path) -> list[Subvolume]:
    """All of a file system that is mounted at ``point``. Raises NoReader."""
    btrfsutil = _load()
    found = btrfsutil.SubvolumeIterator(str(point), top=5, info=True)
    return [Subvolume(path, info.id, info.parent_id) for path, info in found]


def deleted(point: Path) -> list[int]:
    """Numbers of those that are deleted and not dropped yet. Raises NoReader."""
    return list(_load().deleted_subvolumes(str(point)))


def _load() -> ModuleType:
    if "btrfsutil" in sys.modules:
        return sys.modules["btrfsutil"]
    files = [place / f"btrfsutil{suffix}" for place in PLACES for suffix in EXTENSION_SUFFIXES]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        version = ".".join(map(str, sys.version_info[:2]))
        raise NoReader(f"there is no btrfsutil for Python {version}\n\nhint: apt-get install python3-btrfsutil")
    spec = importlib.util.spec_from_file_location("btrfsutil", file)
    assert spec is not None and spec.loader is not None  # it has a file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["btrfsutil"] = module
    return module
