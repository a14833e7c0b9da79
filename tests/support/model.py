"""What a stack of layers means (OCI image spec, "Image Layer Filesystem Changeset"), in plain Python.

A layer's markers take away what lower layers gave, whatever their place in the archive; then its entries are applied
in order. Directories that no entry describes are 0755, of user 0, and have no particular time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from support.tree import Tree

Path = tuple[str, ...]
MAX_LINKS = 40


class Unusable(Exception):
    """The layer cannot be applied."""


@dataclass(eq=False)
class Entry:
    """What is at a path. Hard links are one `Entry` at several paths."""

    kind: str
    content: bytes = b""
    target: str = ""
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    mtime: int | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)


def split(name: str) -> Path:
    """Components of a name; ``..`` stops at the root."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


class Model:
    """A tree under construction."""

    def __init__(self) -> None:
        self.tree: dict[Path, Entry] = {(): Entry("directory")}

    def layer(self, replaced: set[Path]) -> LayerModel:
        """Start a layer that has entries for some paths."""
        return LayerModel(self, replaced)

    def remove(self, path: Path) -> None:
        """Take a path away, with all below it."""
        for known in [known for known in self.tree if known[: len(path)] == path]:
            del self.tree[known]

    def resolve(self, path: Path, *, make: bool, links: int = 0) -> Path | None:
        """The directory that a path leads to, through links, inside the root. None where there is nothing."""
        at: Path = ()
        for i, name in enumerate(path):
            entry = self.tree.get((*at, name))
            if entry is None:
                if not make:
                    return None
                self.tree[(*at, name)] = Entry("directory")
                at = (*at, name)
            elif entry.kind == "symlink":
                if links >= MAX_LINKS:
                    raise Unusable("too many links")
                start = () if entry.target.startswith("/") else at
                return self.resolve((*split("/".join((*start, entry.target))), *path[i + 1 :]), make=make, links=links + 1)
            elif entry.kind == "directory":
                at = (*at, name)
            else:
                raise Unusable("not a directory")
        return at

    def assert_equals(self, actual: Tree) -> None:
        """Hold a photograph against the model."""
        shown = {"/".join(path) or ".": entry for path, entry in self.tree.items()}
        assert sorted(actual) == sorted(shown)
        for name, entry in shown.items():
            node = actual[name]
            names = [other for other, it in shown.items() if it is entry]
            content = entry.target if entry.kind == "symlink" else hashlib.sha256(entry.content).hexdigest() if entry.kind == "file" else ""
            mode = 0o777 if entry.kind == "symlink" else 0o755 if name == "." else entry.mode
            mtime = node.mtime if entry.mtime is None else entry.mtime
            expected = node._replace(
                kind=entry.kind,
                mode=mode,
                owner=entry.owner,
                size=len(entry.content),
                content=content,
                mtime=mtime,
                xattrs=tuple(sorted(entry.xattrs.items())),
                group=min(names),
            )
            assert node == expected, f"{name}:\n  is       {node}\n  expected {expected}"


class LayerModel:
    """One layer: `hide` and `clear` first, then `add`. ``replaced`` are the paths that it has entries for."""

    def __init__(self, model: Model, replaced: set[Path]) -> None:
        self.model = model
        self.replaced = replaced

    def hide(self, name: str) -> None:
        """A whiteout of this path."""
        path = split(name)
        folder = self._folder(path[:-1])
        if folder is not None:
            self.model.remove((*folder, path[-1]))

    def clear(self, name: str) -> None:
        """An opaque marker in this directory."""
        folder = self._folder(split(name))
        for path in [path for path in self.model.tree if folder is not None and path[:-1] == folder and path]:
            self.model.remove(path)

    def is_by_link(self, path: Path) -> bool:
        """Whether a path leads through a link of a lower layer."""
        links = (self.model.tree.get(path[:end]) for end in range(1, len(path) + 1))
        return any(entry is not None and entry.kind == "symlink" for entry in links)

    def _folder(self, path: Path) -> Path | None:
        """The directory that a marker is in; None if there is nothing to take away: no directory, or a link that this layer
        replaces."""
        for end in range(1, len(path) + 1):
            entry = self.model.tree.get(path[:end])
            if entry is not None and entry.kind == "symlink" and path[:end] in self.replaced:
                return None
        try:
            return self.model.resolve(path, make=False)
        except Unusable:
            return None

    def add(self, name: str, kind: str, content: bytes = b"", *, link: str = "", **fields: Any) -> None:
        """An entry."""
        path = split(name)
        tree = self.model.tree
        if not path:
            if kind != "directory":
                raise Unusable("the root stays a directory")
            tree[()] = Entry("directory", **fields)
            return
        if kind == "link":
            self._link(path, link)
            return
        folder = self.model.resolve(path[:-1], make=True)
        assert folder is not None
        target = (*folder, path[-1])
        if kind == "directory" and target in tree and tree[target].kind == "directory":
            tree[target] = Entry(kind, **fields)
            return
        self.model.remove(target)
        tree[target] = Entry(kind, content, link if kind == "symlink" else "", **fields)
        if kind == "symlink":
            tree[target] = replace(tree[target], xattrs={})

    def _link(self, path: Path, link: str) -> None:
        source = split(link)
        if not source:
            raise Unusable("link to the root")
        folder = self.model.resolve(source[:-1], make=False)
        if folder is None or (*folder, source[-1]) not in self.model.tree:
            raise Unusable("link to nothing")
        source = (*folder, source[-1])
        entry = self.model.tree[source]
        if entry.kind == "directory":
            raise Unusable("link to a directory")
        parent = self.model.resolve(path[:-1], make=True)
        assert parent is not None
        target = (*parent, path[-1])
        if target == source:
            raise Unusable("link to itself")
        self.model.remove(target)
        if source not in self.model.tree:
            raise Unusable("link to what it replaces")
        self.model.tree[target] = entry
