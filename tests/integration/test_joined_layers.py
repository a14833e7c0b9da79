"""Small layers that are missing together share a volume: the image is the same, and so is what others may use of it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.accounts import User
from support.archive import Archive, Layer
from support.command import Store
from support.layout import chain_ids
from support.tree import photograph

Image = Callable[..., str]
MakeStore = Callable[..., Store]


def layer(number: int, size: int = 3000) -> Layer:
    """Its files, one that it takes from the layer below, and one that every layer changes."""
    archive = Archive().dir("d", mode=0o750 + number % 2, mtime=number).file(f"d/{number}", bytes([number % 251]) * size, uid=number)
    archive.whiteout(f"d/{number - 2}").file("changed", str(number)).file(f"gone/{number}", "x" * number)
    return Layer(archive.opaque("gone").tar)


def joining(store: Store, *options: str, uid: int | None = None) -> Store:
    """The same store, driven with the setting."""
    config = store.path.parent / "join.yml"
    config.write_text("create: {join_small_layers: true}\n")
    return Store(store.path, "--config", str(config), *options, uid=uid)


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """A fresh store."""
    return joining(make_store())


STACK = [layer(number) for number in range(30)]
CHAIN = chain_ids(STACK)


def volumes(store: Store, chain: list[str] = CHAIN) -> list[int]:
    """Which layers have a volume of their own."""
    return [number for number, chain_id in enumerate(chain) if chain_id in store.volumes()]


def test_small_layers_share_volumes(store: Store, image: Image) -> None:
    rootfs = store.create(image(*STACK), "one")
    assert volumes(store) == [0, 12, 24, 28, 29]
    assert json.loads(store.record("one").read_text()) == CHAIN
    assert (rootfs / "changed").read_text() == "29"
    assert sorted(path.name for path in (rootfs / "d").iterdir()) == ["28", "29"]
    assert sorted(path.name for path in (rootfs / "gone").iterdir()) == ["29"]
    record = json.loads((store.path / "meta" / f"volume-{CHAIN[12]}").read_text())
    assert (record["Layers"], record["Size"]) == (12, sum(3000 + len(str(number)) + number for number in range(1, 13)))
    top = json.loads((store.path / "meta" / f"volume-{CHAIN[29]}").read_text())
    assert top["TreeSize"] == 2 * 3000 + 2 + 29
    assert store.run("check", "--deep").ok().out == "nothing found\n"
    assert store.stats("one")[0] >= top["TreeSize"]


def test_the_tree_is_that_of_single_volumes(make_store: MakeStore, image: Image) -> None:
    joined, single = joining(make_store()), make_store()
    trees = [photograph(joined.create(image(*STACK[:8]), "one"))]
    # Each release has one layer more than the one before.
    for number in range(1, 9):
        single.create(image(*STACK[:number]), f"release-{number}")
    trees.append(photograph(single.rootfs("release-8")))
    assert trees[0] == trees[1]
    assert (volumes(joined), volumes(single)) == ([0, 6, 7], list(range(8)))


def test_it_has_to_be_wanted(make_store: MakeStore, image: Image) -> None:
    store = make_store()
    store.create(image(*STACK[:8]), "one")
    assert volumes(store) == list(range(8))


def test_few_layers_keep_their_own(store: Store, image: Image) -> None:
    store.create(image(*STACK[:5]), "one")
    assert volumes(store) == [0, 1, 2, 3, 4]


def test_large_layers_stand_alone(store: Store, image: Image) -> None:
    large = Layer(Archive().file("large", os.urandom(1200 << 10)).tar)
    stack = [*STACK[:6], large, *STACK[6:11]]
    store.create(image(*stack), "one")
    assert volumes(store, chain_ids(stack)) == [0, 5, 6, 10, 11]


def test_another_image_uses_what_there_is(store: Store, image: Image) -> None:
    """Its top is one of the first one's inner layers: what is below the shared volume serves it."""
    store.create(image(*STACK), "one")
    other = store.create(image(*STACK[:20]), "two")
    assert (other / "changed").read_text() == "19" and sorted(path.name for path in (other / "d").iterdir()) == ["18", "19"]
    assert volumes(store) == [0, 12, 18, 19, 24, 28, 29]
    store.delete("one")
    store.clean()
    assert volumes(store) == [0, 12, 18, 19]
    assert store.run("check", "--deep").ok().out == "nothing found\n"
    # And back.
    again = store.create(image(*STACK), "three")
    assert (again / "changed").read_text() == "29"
    assert store.run("check", "--deep").ok().out == "nothing found\n"


def test_both_at_once(store: Store, image: Image) -> None:
    urls = [image(*STACK[:count]) for count in (30, 20, 30, 16, 30, 9)]
    failed: list[str] = []

    def create(number: int, url: str) -> None:
        result = store.run("create", url, f"id-{number}")
        if result.code != 0:
            failed.append(result.out)

    threads = [threading.Thread(target=create, args=pair) for pair in enumerate(urls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for number, count in enumerate((30, 20, 30, 16, 30, 9)):
        assert (store.rootfs(f"id-{number}") / "changed").read_text() == str(count - 1)
    assert store.run("check", "--deep").ok().out == "nothing found\n"


def test_a_bad_layer_leaves_nothing(store: Store, image: Image) -> None:
    bad = Layer(STACK[3].tar, diff_id="0" * 64)
    stack = [*STACK[:3], bad, *STACK[4:8]]
    result = store.refuse(image(*stack), "one")
    assert "unpacking layer" in result.out or "diffID" in result.out
    assert volumes(store, chain_ids(stack)) == [0]
    store.clean()
    assert store.run("check").ok().out == "nothing found\n"
    store.create(image(*STACK[:8]), "one")


def test_as_an_ordinary_user(user: User, make_store: MakeStore, image: Image) -> None:
    store = joining(make_store("--rootless", f"{user.name}:{user.name}"), uid=user.uid)
    rootfs = store.create(image(*STACK), "one")
    assert (rootfs / "changed").read_text() == "29"
    assert volumes(store) == [0, 12, 24, 28, 29]
    assert store.run("check", "--deep").ok().out == "nothing found\n"


@pytest.mark.parametrize("word", ["newest", "btrfs"])
def test_with_the_limits_of_a_release(store: Store, image: Image, word: str) -> None:
    """It counts a layer's bytes while it is unpacked; those of the layers before it in the same volume count."""
    config = store.path.parent / "c.yml"
    config.write_text("create: {disk_limit_size_bytes: 20000, join_small_layers: true}\n")
    result = store.run("--config", str(config), "--compatibility", word, "create", image(*STACK), "one")
    single = store.run("--config", str(config), "--compatibility", word, "create", image(*STACK[:9]), "two")
    assert (result.code == 0) == (single.code == 0), (result, single)
    assert Path(store.path).exists()
