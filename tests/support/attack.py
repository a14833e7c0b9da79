"""Hostile layers: apply them, and see that nothing beside the root file system notices."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from groot_fast import _core
from groot_fast.errors import GrootError
from support.archive import Archive, Layer, layers_of
from support.command import Store, new_id
from support.layout import chain_ids, write_layout
from support.tree import Tree, assert_same, photograph

Part = Archive | Layer | bytes


class Sentinel:
    """A tree that no layer may touch. Its names are known to the attackers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o750)
        (path / "secret").write_text("not for images\n")
        (path / "secret").chmod(0o600)
        (path / "dir").mkdir(mode=0o711)
        (path / "dir" / "victim").write_text("alive\n")
        (path / "dir" / "setuid").write_text("#!\n")
        (path / "dir" / "setuid").chmod(0o4755)
        (path / "link").symlink_to("secret")
        (path / "empty").mkdir(mode=0o700)
        os.link(path / "secret", path / "second-name")
        os.setxattr(path / "secret", "user.owner", b"host")
        os.chown(path / "dir" / "victim", 4711, 4712)
        for name in ("secret", "dir/victim", "dir", "."):
            os.utime(path / name, (1, 1))
        self.before = photograph(path, change_time=True)

    def check(self) -> None:
        """Nothing changed, not even a change time."""
        assert_same(photograph(self.path, change_time=True), self.before)

    @property
    def up(self) -> str:
        """The way from any directory of a volume: up past the root of the file system, then down."""
        return "../" * 30 + str(self.path).lstrip("/")


class Attack:
    """Applies stacks of layers through the command, and again through the core on an ordinary file system.

    Both must come to the same end, and the sentinel beside the store must stay as it is.
    """

    def __init__(self, store: Store, scratch: Path) -> None:
        self.store = store
        self.scratch = scratch
        self.sentinel = Sentinel(scratch / "sentinel")

    def layout(self, *parts: Part) -> str:
        """An image of these layers, none of which the store knows: what is cached is not unpacked."""
        if set(chain_ids(layers_of(parts))) & set(self.store.volumes()):
            for image_id in self.store.list():
                self.store.delete(image_id)
            self.store.clean()
        return write_layout(self.scratch / new_id(), *parts)

    def contained(self, *parts: Part, core: bool = True) -> Path:
        """The layers are applied; gives the root file system. ``core=False`` where only BTRFS can hold the result."""
        rootfs = self.store.create(self.layout(*parts))
        self.sentinel.check()
        assert self.store.temporary() == []
        if core:
            directly = self.scratch / new_id()
            for layer in layers_of(parts):
                apply(directly, layer)
            self.sentinel.check()
            assert_same(_comparable(photograph(directly)), _comparable(photograph(rootfs)))
        return rootfs

    def refused(self, *parts: Part, match: str, core: bool = True, flags: tuple[str, ...] = ()) -> str:
        """The topmost layer is refused with a line that matches; complete lower layers may stay. Gives the line."""
        layers = layers_of(parts)
        url = self.layout(*parts)
        before = set(self.store.volumes())
        result = self.store.refuse(url, "", *flags)
        self.sentinel.check()
        assert re.search(match, result.message), f"{match!r} is not in: {result.out}"
        assert set(self.store.volumes()) == before | set(chain_ids(layers)[:-1]), result
        if core:
            directly = self.scratch / new_id()
            for layer in layers[:-1]:
                apply(directly, layer)
            with pytest.raises((GrootError, OSError)) as caught:
                apply(directly, layers[-1])
            self.sentinel.check()
            said = caught.value.strerror if isinstance(caught.value, OSError) else str(caught.value)
            assert said and said in result.message, f"core: {said!r}, command: {result.message!r}"
        return result.message


def _comparable(tree: Tree) -> Tree:
    # Parents that no entry describes have the time at which they were made.
    return {path: node._replace(mtime=0) if node.mtime > 1_700_000_000 * 10**9 else node for path, node in tree.items()}


def apply(root: Path, layer: Layer, **changes: object) -> tuple[int, int, int, dict[str, int], list[str]]:
    """Unpack one layer with the core into a plain directory."""
    root.mkdir(exist_ok=True)
    blob = root.parent / f"{root.name}.blob"
    blob.write_bytes(layer.blob)
    arguments: dict[str, object] = {
        "digest": layer.digest,
        "size": layer.size,
        "diff_id": layer.diff_id,
        "media_type": layer.media_type,
        "base": "",
        "uids": [],
        "gids": [],
        "max_content": None,
        "listing": None,
        "cancel": _core.Cancel(),
        **changes,
    }
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _core.unpack(directory, blob, **arguments)  # type: ignore[arg-type]
    finally:
        os.close(directory)
        blob.unlink()


@contextmanager
def beside(store: Store, scratch: Path) -> Iterator[Attack]:
    """An `Attack` whose sentinel is checked once more at the end."""
    attack = Attack(store, scratch)
    yield attack
    attack.sentinel.check()
