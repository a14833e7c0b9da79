"""Layers that share content: cloned on the disk, the same to whoever reads them, and counted once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import mounts
from support.accounts import User
from support.archive import Archive, Layer
from support.command import MIB, Grootfs, Store
from support.layout import chain_ids, write_layout
from support.tree import photograph

Image = Callable[..., str]
MakeStore = Callable[..., Store]

SMALL = {f"lib/{number}": os.urandom(20_000) for number in range(40)}
"""Files that two releases have in common."""
LARGE = os.urandom(3 * MIB)


def release(*extra: tuple[str, bytes], large: bytes = LARGE, top: str = "app") -> Archive:
    """An application: what all releases have in common, and what is this one's."""
    archive = Archive().dir(top, mode=0o755)
    for name, content in SMALL.items():
        archive.file(f"{top}/{name}", content, mode=0o640, uid=7, gid=8, mtime=1000)
    archive.file(f"{top}/large", large)
    for name, content in extra:
        archive.file(f"{top}/{name}", content)
    return archive


COMMON = sum(map(len, SMALL.values())) + len(LARGE)
FIRST = Layer(release(("version", b"1" * 5000)).tar)
SECOND = Layer(release(("version", b"2" * 5000), top="other").tar)
(FIRST_ID,), (SECOND_ID,) = chain_ids([FIRST]), chain_ids([SECOND])


def cloned(store: Store, chain_id: str) -> dict[str, int]:
    """What a volume's record says was cloned, by volume."""
    record = json.loads((store.path / "meta" / f"volume-{chain_id}").read_text())
    found: dict[str, int] = record.get("Cloned", {})
    return found


def report(store: Grootfs) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(store.run("stats", "--store").ok().out)
    return told


def used(store: Store) -> int:
    """Bytes of data on the disk."""
    mounts.tool("btrfs", "filesystem", "sync", store.path)
    lines = mounts.tool("btrfs", "filesystem", "df", "-b", store.path).splitlines()
    (data,) = (line for line in lines if line.startswith("Data"))
    return int(data.rpartition("used=")[2])


def never(store: Store) -> Grootfs:
    """The same store with a configuration that shares nothing."""
    config = store.path.parent / "never.yml"
    config.write_text("create: {share_content: never}\n")
    return Grootfs("--config", str(config), "--store", str(store.path))


@pytest.mark.parametrize("quota", ["simple", "full", "none"])
def test_what_another_layer_has_is_cloned(make_store: MakeStore, image: Image, quota: str) -> None:
    store = make_store("--quota", quota) if quota != "none" else make_store()
    if quota == "none":
        mounts.tool("btrfs", "quota", "disable", store.path)
    store.create(image(FIRST), "one")
    before = used(store)
    tree = store.create(image(SECOND), "two")
    assert cloned(store, SECOND_ID) == {FIRST_ID: COMMON}
    assert used(store) - before < 64 << 10
    for name, content in SMALL.items():
        path = tree / "other" / name
        assert path.read_bytes() == content
        stat = path.stat()
        assert (stat.st_mode & 0o7777, stat.st_mtime, stat.st_nlink) == (0o640, 1000, 1)
    if quota == "simple":
        metrics = store.path.parent / "metrics.prom"
        third = Layer(release(("version", b"3" * 5000), top="third").tar)
        store.run("--metrics-file", metrics, "create", image(third), "three").ok()
        assert f'grootfs_cloned_bytes_total{{store="{store.path}"}} {COMMON}\n' in metrics.read_text()
    # Nobody sees the others' writes.
    (tree / "other/large").write_bytes(b"x")
    assert (store.rootfs("one") / "app/large").read_bytes() == LARGE
    assert store.run("check", "--deep").ok().out == "nothing found\n"


def test_the_tree_is_that_of_a_store_that_shares_nothing(make_store: MakeStore, image: Image) -> None:
    shared, plain = make_store(), make_store()
    trees = []
    for store, command in ((shared, shared), (plain, never(plain))):
        for name, layer in (("one", FIRST), ("two", SECOND)):
            command.run("create", image(layer), name).ok()
        trees.append(photograph(store.rootfs("two")))
    assert trees[0] == trees[1]
    assert cloned(shared, SECOND_ID) and not cloned(plain, SECOND_ID)


def test_bytes_are_counted_once(store: Store, image: Image) -> None:
    size = COMMON + 5000
    store.create(image(FIRST), "one")
    store.create(image(SECOND), "two")
    told = report(store)
    assert [(row["size_bytes"], row["cloned_bytes"]) for row in sorted(told["by_layer"], key=lambda row: row["cloned_bytes"])] == [
        (size, 0),
        (size, COMMON),
    ]
    assert told["layers"] == {"count": 2, "size_bytes": size + 5000, "unused_count": 0, "unused_bytes": 0}
    # Of the layer that nobody uses, another one needs nearly all.
    store.delete("one")
    assert report(store)["reclaimable_bytes"] == 5000
    store.clean()
    told = report(store)
    assert told["layers"]["size_bytes"] == size and used(store) >= COMMON
    # The other way round; the first was made anew, and is not the one that was cloned from.
    store.create(image(FIRST), "three")
    assert cloned(store, FIRST_ID) == {SECOND_ID: COMMON}
    assert report(store)["layers"]["size_bytes"] == size + 5000
    store.delete("two")
    store.delete("three")
    store.clean()
    assert used(store) < MIB
    assert store.run("check").ok().out == "nothing found\n"


def test_a_threshold_sees_what_is_on_the_disk(store: Store, image: Image) -> None:
    """Two releases of 4 MB, of which all but some KB are shared, are below a threshold of 6 MB."""
    store.create(image(FIRST), "one")
    store.delete("one")
    store.create(image(SECOND), "two")
    store.delete("two")
    store.run("clean", "--threshold-bytes", str(6 * MIB)).ok()
    assert sorted(store.volumes()) == sorted([FIRST_ID, SECOND_ID])
    store.clean("--threshold-bytes", str(3 * MIB))
    assert store.volumes() == []


@pytest.mark.parametrize("quota", ["simple", "full"])
def test_limits_are_what_they_were(make_store: MakeStore, image: Image, quota: str) -> None:
    """A container may write what its limit leaves beside its image, whether or not that is shared."""
    store = make_store("--quota", quota)
    store.create(image(FIRST), "one")
    tree = store.create(image(SECOND), "two", "--disk-limit-size-bytes", str(20 * MIB))
    total, own = store.stats("two")
    assert own < 64 << 10 and COMMON <= total <= COMMON + (1 << 20)
    store.delete("one")
    store.clean()
    room = 0
    with pytest.raises(OSError, match="Disk quota exceeded"), (tree / "written").open("wb", buffering=0) as file:
        while True:
            file.write(os.urandom(256 << 10))
            os.fsync(file.fileno())
            room += 256 << 10
    assert 20 * MIB - COMMON - 2 * MIB <= room <= 20 * MIB - COMMON + MIB


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/shadow")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def other(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


@pytest.mark.parametrize(
    "change", [link, pipe, other, Path.unlink, lambda path: os.truncate(path, 5)], ids=["link", "pipe", "other", "gone", "cut"]
)
def test_what_is_not_as_recorded_is_written(store: Store, image: Image, change: Callable[[Path], None]) -> None:
    store.create(image(FIRST), "one")
    for name in ("lib/0", "large"):
        change(store.path / "volumes" / FIRST_ID / "app" / name)
    tree = store.create(image(SECOND), "two")
    assert (tree / "other/lib/0").read_bytes() == SMALL["lib/0"] and (tree / "other/large").read_bytes() == LARGE
    assert cloned(store, SECOND_ID) == {FIRST_ID: COMMON - len(LARGE) - len(SMALL["lib/0"])}


def test_the_start_of_a_large_file_is_cloned(store: Store, image: Image) -> None:
    changed = LARGE[: 2 * MIB + 77] + bytes(len(LARGE) - 2 * MIB - 77)
    store.create(image(FIRST), "one")
    tree = store.create(image(release(large=changed, top="other")), "two")
    assert (tree / "other/large").read_bytes() == changed
    (top,) = json.loads(store.record("two").read_text())
    # But for the piece in which the difference is.
    assert COMMON - len(LARGE) + MIB < cloned(store, top)[FIRST_ID] <= COMMON - len(LARGE) + 2 * MIB


def test_layers_of_one_image_share(store: Store, image: Image) -> None:
    """As an image that changes the owner of all its files in a layer of its own."""
    below = Archive()
    for name, content in SMALL.items():
        below.file(name, content)
    above = Archive()
    for name, content in SMALL.items():
        above.file(name, content, uid=1, gid=1)
    filling = Archive().file("big", os.urandom(300_000))
    tree = store.create(image(below, filling, above), "one")
    assert (tree / "lib/0").stat().st_size == len(SMALL["lib/0"])
    base, _, top = json.loads(store.record("one").read_text())
    assert cloned(store, top) == {base: sum(map(len, SMALL.values()))}


def test_a_base_directory_is_shared_too(store: Store, scratch: Path, image: Image) -> None:
    """A droplet that is pushed again."""
    note = {"org.cloudfoundry.experimental.image.base-directory": "/home/vcap"}
    rootfs = Archive().dir("home").dir("home/vcap")
    for number, layer in enumerate((FIRST, SECOND)):
        droplet = Layer(layer.tar, annotations=note)
        store.create(write_layout(scratch / str(number), rootfs, droplet), f"app-{number}")
    (_, top) = json.loads(store.record("app-1").read_text())
    assert sum(cloned(store, top).values()) == COMMON
    assert (store.rootfs("app-1") / "home/vcap/other/large").read_bytes() == LARGE


def test_a_layer_unpacked_by_an_ordinary_user(user: User, make_store: MakeStore, image: Image) -> None:
    store = Store(make_store("--rootless", f"{user.name}:{user.name}").path, uid=user.uid)
    for name, layer in (("one", FIRST), ("two", SECOND)):
        store.create(image(layer), name)
    assert cloned(store, SECOND_ID) == {FIRST_ID: COMMON}
    assert store.run("check", "--deep").ok().out == "nothing found\n"
