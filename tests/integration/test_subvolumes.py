"""Which subvolumes a store has, counted by a reader of its own (`btrfsutil`, of btrfs-progs)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from loadtests import btrfs
from support import mounts
from support.archive import Archive
from support.command import MIB, Store, wait_for

Image = Callable[..., str]
MakeStore = Callable[..., Store]
BASE, APP, OTHER = (Archive().file(name, name * 5000) for name in ("base", "app", "other"))


def there(store: Store) -> set[str]:
    """Paths below the store's root, whatever is above."""
    return {subvolume.path.partition("store/")[2] or subvolume.path for subvolume in btrfs.subvolumes(store.path)}


def expected(store: Store, images: dict[str, list[str]]) -> set[str]:
    """What the records say: volumes, and of each image these trees."""
    chains = {chain for name in images for chain in json.loads(store.record(name).read_text())}
    return {f"volumes/{chain}" for chain in chains} | {f"images/{name}/{tree}" for name, trees in images.items() for tree in trees}


def test_a_store_has_its_volumes_and_trees_and_no_other(make_store: MakeStore, image: Image) -> None:
    store = make_store()
    assert there(store) == set()
    url = image(BASE, APP)
    store.create(url, "one")
    store.create(url, "two", "--disk-limit-size-bytes", str(50 * MIB))
    store.create(image(BASE, OTHER), "three")
    assert there(store) == expected(store, {name: ["rootfs"] for name in ("one", "two", "three")})
    # A container makes one inside; it goes with its image.
    mounts.tool("btrfs", "subvolume", "create", store.rootfs("two") / "inside")
    assert "images/two/rootfs/inside" in there(store)
    store.delete("two")
    store.delete("three")
    store.clean()
    assert there(store) == expected(store, {"one": ["rootfs"]})
    store.delete("one")
    store.clean()
    assert there(store) == set()
    # `clean` waits for the kernel.
    wait_for(lambda: btrfs.deleted(store.path) == [], "deleted subvolumes to be dropped", timeout=10)


def test_a_declared_volume_is_one_more(store: Store, image: Image) -> None:
    store.create(image(Archive().dir("data").file("data/f", "x"), runtime={"Volumes": {"/data": {}}}), "one")
    (volume,) = (name.name for name in store.image("one").iterdir() if name.name.startswith("vol-"))
    assert there(store) == expected(store, {"one": ["rootfs", volume]})
    store.delete("one")
    store.clean()
    assert there(store) == set()


def test_numbers_are_the_kernels(store: Store, image: Image) -> None:
    store.create(image(BASE), "one")
    found = {subvolume.path: subvolume for subvolume in btrfs.subvolumes(store.path)}
    groups = store.groups()
    for subvolume in found.values():
        assert f"0/{subvolume.id}" in groups, "each is counted"
        assert Path(store.path / subvolume.path.partition("store/")[2]).exists() or subvolume.parent == 5
