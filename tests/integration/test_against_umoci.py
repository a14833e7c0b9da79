"""Random stacks of layers come out of us as they come out of umoci, which shares no code with us.

Where the two differ on purpose, the difference is taken out before comparing, and named:

- times of directories: umoci gives a directory that a later entry changed the time of unpacking, or that of its last entry;
- the root directory: umoci leaves it with the mode that the archive gives it (ours is always 0755) and the owner who runs it;
- directories that no layer describes: umoci makes them with the time of unpacking, and keeps what a whiteout of the same layer
  took away (mode, owner, attributes) when the marker comes after the entries below it;
- layers that one of the two refuses are compared in nothing but that we do not accept what is refused by our model.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from support.command import Store, new_id
from support.layout import write_layout
from support.model import Model, Unusable, split
from support.stacks import DIRECTORY, FILE, LINK, MARKER, SYMLINK, Item, apply_to_model, archive_of, is_clear, layers_of_items
from support.tree import Node, Tree, photograph

PLAIN = st.one_of(FILE, FILE, DIRECTORY, DIRECTORY, MARKER)
LINKS = st.one_of(FILE, FILE, DIRECTORY, SYMLINK, LINK)
STACK = st.one_of(*(st.lists(layers_of_items(kinds), min_size=1, max_size=4) for kinds in (PLAIN, PLAIN, LINKS)))


def with_parents(items: list[Item]) -> list[Item]:
    """The layer with an entry for every directory on the way, and its markers first, as builders write it."""
    markers = [item for item in items if item.kind in ("whiteout", "opaque")]
    entries: list[Item] = []
    made: set[str] = set()
    for item in items:
        if item in markers:
            continue
        parts = split(item.path)
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folder not in made:
                entries.append(Item("directory", folder, mode=0o755, mtime=7))
                made.add(folder)
        entries.append(item)
        made.add(item.path)
    return [*markers, *entries]


def comparable(tree: Tree) -> dict[str, Node]:
    """Without what differs on purpose."""
    return {path: node._replace(mtime=0, size=0) if node.kind == "directory" else node for path, node in tree.items() if path != "."}


def unpack_with_umoci(url: str, place: Path) -> Path | None:
    """The tree that umoci makes; None where it refuses."""
    layout, tag = url.removeprefix("oci://").rsplit(":", 1)
    done = subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", place], capture_output=True, text=True)
    return place if done.returncode == 0 else None


@settings(max_examples=60)
@given(stack=STACK)
def test_same_tree_as_umoci(shared_store: Store, module_scratch: Path, stack: list[list[Item]]) -> None:
    model = Model()
    layers = [with_parents(items) for items in stack]
    for items in layers:
        assume(is_clear(model, items))
        try:
            apply_to_model(model, items)
        except Unusable:
            assume(False)
    name = new_id()
    url = write_layout(module_scratch / name, *map(archive_of, layers))
    theirs = unpack_with_umoci(url, module_scratch / f"{name}-umoci")
    ours = shared_store.create(url, name)
    event("unpacked by both" if theirs else "refused by umoci")
    if theirs is not None:
        one, other = comparable(photograph(ours)), comparable(photograph(theirs))
        assert one == other, [(path, one.get(path), other.get(path)) for path in {*one, *other} if one.get(path) != other.get(path)]
    shared_store.delete(name)


def test_umoci_is_there() -> None:
    """The comparison is void without it."""
    assert "umoci" in subprocess.run(["umoci", "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("layer", [[Item("file", "d/f", content=b"x", mode=0o4711, uid=1000, xattr=b"green"), Item("link", "h", "d/f")]])
def test_umoci_unpacks_what_is_compared(module_scratch: Path, layer: list[Item]) -> None:
    """What is compared is a tree with modes, owners, attributes and second names, and not an empty directory."""
    theirs = unpack_with_umoci(write_layout(module_scratch / new_id(), archive_of(with_parents(layer))), module_scratch / new_id())
    assert theirs is not None
    tree = comparable(photograph(theirs))
    assert (tree["d/f"].mode, tree["d/f"].owner, tree["h"].group, tree["d/f"].xattrs) == (
        0o4711,
        (1000, 0),
        "d/f",
        (("user.colour", b"green"),),
    )
