"""A store without BTRFS, for tests of what goes on around volumes."""

from __future__ import annotations

from pathlib import Path

from groot_fast._core import Store

FOLDERS = ("images", "volumes", "meta", "locks", "tmp", "meta/dependencies")


def plain_store(path: Path) -> Store:
    """A store in an ordinary directory: locks, records and downloads work, images and volumes do not."""
    for name in FOLDERS:
        (path / name).mkdir(exist_ok=True)
    (path / "meta" / "namespace.json").write_text('{"uid-mappings":[],"gid-mappings":[]}')
    return Store.open(path, drax="drax")
