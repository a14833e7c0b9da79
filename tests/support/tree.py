"""Photographs of directory trees, for comparing."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class Node(NamedTuple):
    """Everything about one path that a layer can say. ``content`` is a digest or the target of a link, ``group`` the
    first path of the same inode."""

    kind: str
    mode: int
    owner: tuple[int, int]
    size: int
    content: str
    mtime: int
    xattrs: tuple[tuple[str, bytes], ...]
    group: str
    ctime: int = 0


Tree = dict[str, Node]


def node_of(path: str, group: str, *, change_time: bool = False) -> Node:
    """Look at one path without following it."""
    info = os.lstat(path)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    content = ""
    if kind == "symlink":
        content = os.readlink(path)
    elif kind == "file":
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(os.listxattr(path, follow_symlinks=False)))
    size = info.st_size if kind == "file" else 0
    ctime = info.st_ctime_ns if change_time else 0
    owner = (info.st_uid, info.st_gid)
    return Node(kind, stat.S_IMODE(info.st_mode), owner, size, content, info.st_mtime_ns, xattrs, group, ctime)


def photograph(root: Path | str, *, change_time: bool = False) -> Tree:
    """The tree below ``root``; the root itself is the path ``.``."""
    top = os.fspath(root)
    groups: dict[tuple[int, int], str] = {}
    tree: Tree = {}

    def add(path: str, name: str) -> None:
        info = os.lstat(path)
        group = groups.setdefault((info.st_dev, info.st_ino), name)
        tree[name] = node_of(path, group, change_time=change_time)

    add(top, ".")
    for folder, directories, files in os.walk(top):
        for entry in sorted([*directories, *files]):
            path = os.path.join(folder, entry)
            add(path, os.path.relpath(path, top))
    # Which path of a group comes first depends on the walk; the smallest name does not.
    first = {group: min(name for name, node in tree.items() if node.group == group) for group in {node.group for node in tree.values()}}
    return {name: node._replace(group=first[node.group]) for name, node in tree.items()}


def names(root: Path | str) -> list[str]:
    """All paths below ``root``."""
    return sorted(set(photograph(root)) - {"."})


def assert_same(actual: Tree, expected: Tree) -> None:
    """Compare two photographs and say what differs."""
    missing, surplus = sorted(set(expected) - set(actual)), sorted(set(actual) - set(expected))
    assert not missing and not surplus, f"missing: {missing}, not expected: {surplus}"
    for path, node in expected.items():
        assert actual[path] == node, f"{path}:\n  is       {actual[path]}\n  expected {node}"
