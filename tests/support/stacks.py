"""Random layers, as archives and for the model."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from support.archive import Archive, header
from support.model import Model, split

HOLE = 8192
SPARSE_SIZE = 50_000
"""A sparse file: a hole of so many bytes, the content, a hole up to this size."""


@dataclass(frozen=True)
class Item:
    """One entry or marker of a layer."""

    kind: str
    path: str
    link: str = ""
    content: bytes = b""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 1
    xattr: bytes = b""

    @property
    def expanded(self) -> bytes:
        """What a reader of the file gets."""
        return (bytes(HOLE) + self.content).ljust(SPARSE_SIZE, b"\0")


NAME = st.sampled_from(["a", "b", "c"])
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join)
TARGET = st.tuples(st.sampled_from(["", "/"]), PATH).map("".join)
DETAILS = {
    "mode": st.sampled_from([0o755, 0o644, 0o700, 0o4711, 0o2750, 0o1777, 0o000]),
    "uid": st.sampled_from([0, 0, 1000, 70000]),
    "gid": st.sampled_from([0, 0, 50]),
    "mtime": st.integers(1, 10**9),
    "xattr": st.sampled_from([b"", b"", b"green"]),
}
FILE = st.builds(Item, st.just("file"), PATH, content=st.binary(max_size=20), **DETAILS)
DIRECTORY = st.builds(Item, st.just("directory"), PATH, **DETAILS)
SPARSE = st.builds(Item, st.just("sparse"), PATH, content=st.binary(min_size=1, max_size=20), uid=DETAILS["uid"], mtime=DETAILS["mtime"])
ROOT = st.builds(Item, st.just("directory"), st.just("."), **DETAILS)
MARKER = st.one_of(st.builds(Item, st.just("whiteout"), PATH), st.builds(Item, st.just("opaque"), st.one_of(PATH, st.just(""))))
SYMLINK = st.builds(Item, st.just("symlink"), PATH, TARGET, uid=DETAILS["uid"], mtime=DETAILS["mtime"])
# Content is what the header gives a size for, and no body follows.
LINK = st.builds(Item, st.just("link"), PATH, PATH, content=st.sampled_from([b"", b"12345", bytes(600)]))
# Links with names of their own, and entries through them that no marker speaks of.
DOOR = st.builds(Item, st.just("symlink"), st.sampled_from(["x", "y"]), TARGET, uid=DETAILS["uid"], mtime=DETAILS["mtime"])
THROUGH = st.builds(Item, st.sampled_from(["file", "directory"]), st.sampled_from(["x/n", "y/n", "x/n2"]), **DETAILS)

# What turns such a link into something else, and markers after it.
REPLACED = st.builds(Item, st.sampled_from(["file", "directory", "whiteout"]), st.sampled_from(["x", "y"]), **DETAILS)
BEHIND = st.one_of(
    st.builds(Item, st.just("whiteout"), st.sampled_from(["x/n", "y/n", "x/a", "y/b"])),
    st.builds(Item, st.just("opaque"), st.sampled_from(["x", "y", "x/a"])),
)

WITH_MARKERS = st.one_of(FILE, FILE, SPARSE, DIRECTORY, DIRECTORY, MARKER, MARKER, ROOT)
WITH_LINKS = st.one_of(FILE, FILE, SPARSE, DIRECTORY, SYMLINK, SYMLINK, LINK, ROOT)
WITH_BOTH = st.one_of(FILE, FILE, DIRECTORY, DIRECTORY, MARKER, MARKER, DOOR, THROUGH)
WITH_REPLACED = st.one_of(FILE, FILE, DIRECTORY, MARKER, DOOR, DOOR, REPLACED, BEHIND, BEHIND)


def layers_of_items(kinds: st.SearchStrategy[Item]) -> st.SearchStrategy[list[Item]]:
    """Entries in any order."""
    return st.lists(kinds, min_size=1, max_size=8)


def merged(times: list[int], target: str) -> list[Item]:
    """A base in which a link stands for a directory further down, as `bin` does for `usr/bin`."""
    folders = [Item("directory", path, mtime=time) for path, time in zip(("a", "a/b", "a/b/c"), times, strict=True)]
    return [*folders, Item("symlink", "x", target), Item("symlink", "y", "a/b")]


MERGED = st.builds(merged, st.lists(st.integers(1, 10**9), min_size=3, max_size=3), st.sampled_from(["a/b", "/a/b/c", "y/c"]))
INSIDE = st.builds(Item, st.just("file"), st.sampled_from(["x/n", "x/m/n", "y/n", "y/c/n"]), **DETAILS)
BESIDE = st.builds(Item, st.just("file"), st.sampled_from(["a/n", "a/b/m", "a/m/n", "a/b/c/m"]), **DETAILS)
GONE = st.builds(Item, st.just("whiteout"), st.sampled_from(["a/b/c/n", "a/b/n", "a/n", "a/b/m"]))
ON_MERGED = st.lists(layers_of_items(st.one_of(INSIDE, INSIDE, BESIDE, BESIDE, DIRECTORY, GONE)), min_size=1, max_size=3)

STACK = st.one_of(
    *(
        st.lists(layers_of_items(kinds), min_size=1, max_size=4)
        for kinds in (WITH_MARKERS, WITH_MARKERS, WITH_LINKS, WITH_BOTH, WITH_REPLACED)
    ),
    st.builds(lambda base, layers: [base, *layers], MERGED, ON_MERGED),
)
PAIR = st.one_of(*(st.tuples(layers_of_items(kinds), layers_of_items(kinds)) for kinds in (WITH_MARKERS, WITH_BOTH, WITH_REPLACED)))


def archive_of(items: list[Item]) -> Archive:
    """The layer as a tar, in this order."""
    archive = Archive()
    for item in items:
        fields = {"mode": item.mode, "uid": item.uid, "gid": item.gid, "mtime": item.mtime}
        if item.xattr:
            archive.pax({"SCHILY.xattr.user.colour": item.xattr})
        if item.kind == "file":
            archive.file(item.path, item.content, **fields)
        elif item.kind == "sparse":
            archive.pax({"GNU.sparse.size": str(SPARSE_SIZE), "GNU.sparse.map": f"{HOLE},{len(item.content)}"})
            archive.file(item.path, item.content, **fields)
        elif item.kind == "directory":
            archive.dir(item.path, **fields)
        elif item.kind == "symlink":
            archive.symlink(item.path, item.link, uid=item.uid, mtime=item.mtime)
        elif item.kind == "link":
            archive.raw(header(item.path, b"1", size=len(item.content), link=item.link))
        elif item.kind == "whiteout":
            archive.whiteout(item.path)
        else:
            archive.opaque(item.path)
    return archive


def apply_to_model(model: Model, items: list[Item]) -> None:
    """Markers first, then entries: a layer's markers mean what is below it."""
    layer = model.layer({split(item.path) for item in items if item.kind not in ("whiteout", "opaque")})

    def is_by_link(item: Item) -> bool:
        path = split(item.path)
        return layer.is_by_link(path if item.kind == "opaque" else path[:-1])

    # What a link of a lower layer leads to is found when all other markers have had their say: one may have removed the link.
    markers = [item for item in items if item.kind in ("whiteout", "opaque")]
    for item in sorted(markers, key=is_by_link):
        if item.kind == "whiteout":
            layer.hide(item.path)
        else:
            layer.clear(item.path)
    for item in items:
        if item.kind in ("whiteout", "opaque"):
            continue
        fields = {} if item.kind == "link" else {"mode": item.mode, "owner": (item.uid, item.gid), "mtime": item.mtime * 10**9}
        if item.kind == "symlink":
            fields["owner"] = (item.uid, 0)
        if item.xattr and item.kind in ("file", "directory"):
            fields["xattrs"] = {"user.colour": item.xattr}
        kind, content = ("file", item.expanded) if item.kind == "sparse" else (item.kind, item.content)
        layer.add(item.path, kind, content, link=item.link, **fields)


def is_clear(model: Model, items: list[Item]) -> bool:
    """Whether the markers mean one thing only: an entry below a file that the same layer hides depends on when it is looked at.
    No builder writes such layers.
    """
    marked = [split(item.path) for item in items if item.kind == "whiteout"]
    cleared = [split(item.path) for item in items if item.kind == "opaque"]
    # Entries below a file that a marker removes need the marker first; a link may lead there too.
    paths = [split(item.path)[:-1] for item in items if item.kind not in ("whiteout", "opaque")]
    paths += [split(item.link) for item in items if item.kind == "symlink"]
    paths += [split(entry.target) for entry in model.tree.values() if entry.kind == "symlink"]
    for prefix in {prefix for path in paths for prefix in prefixes(path)}:
        below = model.tree.get(prefix)
        hidden = any(above in marked for above in prefixes(prefix)) or any(above in cleared for above in prefixes(prefix)[:-1])
        if below is not None and below.kind != "directory" and hidden:
            return False
    return True


def prefixes(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A path and all above it, from the root down."""
    return [path[:i] for i in range(len(path) + 1)]
