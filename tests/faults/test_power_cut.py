"""What a power cut leaves: the bytes of the loop file while the store is still mounted.

Nothing is unmounted or synced before the copy. The page cache of the host holds what the loop device was given, which is
what a disk with a working flush would have, in the order of the flushes. An image that was reported as made has to be
there, whole; a volume under its final name may not differ from the original in a single file.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import mounts
from support.archive import Archive
from support.command import MIB, Store, new_id
from support.tree import Tree, assert_same, photograph


class PowerCut:
    """Copies the disk of a store and mounts the copy elsewhere."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.point = scratch / new_id()
        copy = scratch / f"{new_id()}.img"
        mounts.tool("cp", "--reflink=auto", "--sparse=always", store.backing, copy)
        # The copy has the identity of the original, and the kernel mounts one of them only.
        self.original = store
        self.trees = {name: photograph(store.path / "volumes" / name) for name in store.volumes()}
        self.images = {image_id: photograph(store.rootfs(image_id)) for image_id in store.list()}
        self.records = {image_id: json.loads(store.record(image_id).read_text()) for image_id in self.images}
        mounts.tool("umount", store.path)
        mounts.mount_copy(copy, self.point)
        self.store = Store(self.point)

    def check(self, image_id: str) -> None:
        """Everything about an image that was reported as made."""
        assert image_id in self.store.list()
        assert_same(photograph(self.store.rootfs(image_id)), self.images[image_id])
        assert json.loads((self.store.image(image_id) / "image.json").read_text())["os"] == "linux"
        assert json.loads(self.store.record(image_id).read_text()) == self.records[image_id]
        total, own = self.store.stats(image_id)
        assert total >= own >= 0

    def check_volumes(self) -> None:
        """No final name over something else than the original has there."""
        finals = [name for name in self.store.volumes() if "incomplete" not in name and not name.startswith("gc.")]
        for name in finals:
            assert_same(photograph(self.point / "volumes" / name), self.trees[name])

    def check_use(self, url: str, expected: Tree) -> None:
        """The store goes on working."""
        assert_same(photograph(self.store.create(url, "after")), expected)
        for image_id in self.store.list():
            self.store.delete(image_id)
        self.store.clean()
        assert self.store.volumes() == [] and self.store.temporary() == []


@pytest.fixture
def cut(scratch: Path) -> Callable[[Store], PowerCut]:
    return lambda store: PowerCut(store, scratch)


def layers(seed: int, count: int = 4) -> list[Archive]:
    generator = random.Random(seed)
    stack = []
    for i in range(count):
        archive = Archive().dir(".").dir(f"l{i}")
        for j in range(60):
            archive.file(f"l{i}/{j}", generator.randbytes(generator.choice([0, 10, 3000, 40_000])))
        stack.append(archive.file("shared", f"from {i}").link(f"l{i}/link", "shared").symlink(f"l{i}/s", "../shared"))
    return stack


LIMITS = [(), ("--disk-limit-size-bytes", str(200 * MIB)), ("--disk-limit-size-bytes", str(50 * MIB), "--exclude-image-from-quota")]


@pytest.mark.parametrize("flags", LIMITS, ids=["no limit", "inclusive", "exclusive"])
@pytest.mark.parametrize("mode", ["simple", "full"])
def test_right_after_a_cold_create(
    make_store: Callable[..., Store], image: Callable[..., str], cut: Callable[[Store], PowerCut], flags: tuple[str, ...], mode: str
) -> None:
    store = make_store("--quota", mode, size=512 * MIB)
    url = image(*layers(1))
    store.create(url, "cold", *flags)
    # The image is on disk; the name of its topmost volume follows with a commit that nobody waits for.
    time.sleep(1)
    after = cut(store)
    after.check("cold")
    after.check_volumes()
    assert after.store.volumes() == sorted(after.records["cold"])
    after.check_use(url, after.images["cold"])


@pytest.mark.parametrize("flags", LIMITS, ids=["no limit", "inclusive", "exclusive"])
def test_right_after_a_warm_create(
    make_store: Callable[..., Store], image: Callable[..., str], cut: Callable[[Store], PowerCut], flags: tuple[str, ...]
) -> None:
    store = make_store(size=512 * MIB)
    url = image(*layers(2))
    store.create(url, "cold")
    for i in range(3):
        store.create(url, f"warm{i}", *flags)
    after = cut(store)
    for image_id in ("cold", "warm0", "warm1", "warm2"):
        after.check(image_id)
    after.check_volumes()
    after.check_use(url, after.images["cold"])


def test_right_after_a_second_image_on_shared_layers(
    make_store: Callable[..., Store], image: Callable[..., str], cut: Callable[[Store], PowerCut]
) -> None:
    store = make_store(size=512 * MIB)
    base = layers(3, 3)
    store.create(image(*base), "one")
    url = image(*base[:2], *layers(4, 2))
    store.create(url, "two")
    after = cut(store)
    after.check("one")
    after.check("two")
    after.check_volumes()
    after.check_use(url, after.images["two"])


def test_without_mount(make_store: Callable[..., Store], image: Callable[..., str], scratch: Path) -> None:
    store = make_store(size=512 * MIB)
    url = image(*layers(5, 2), runtime={"Volumes": {"/data": {}}})
    store.run("create", "--without-mount", url, "apart").ok()
    expected = photograph(store.image("apart") / "snapshot")
    copy = scratch / "copy.img"
    mounts.tool("cp", "--sparse=always", store.backing, copy)
    mounts.tool("umount", store.path)
    mounts.mount_copy(copy, scratch / "point")
    after = Store(scratch / "point")
    assert after.list() == ["apart"]
    assert_same(photograph(after.image("apart") / "snapshot"), expected)
    assert [path.name[:4] for path in sorted(after.image("apart").iterdir())] == ["imag", "root", "snap", "vol-"]


def test_while_creating(make_store: Callable[..., Store], image: Callable[..., str], scratch: Path) -> None:
    """At any moment: what has a final name is whole, what is reported is there, and `clean` removes the rest."""
    generator = random.Random(9)
    for round_number in range(4):
        store = make_store(size=256 * MIB)
        url = image(*layers(10 + round_number))
        process = store.start("create", url, "victim")
        try:
            process.wait(generator.uniform(0.02, 0.25))
        except Exception:
            assert process.poll() is None
        reported = process.poll() == 0
        copy = scratch / f"{round_number}.img"
        mounts.tool("cp", "--reflink=auto", "--sparse=always", store.backing, copy)
        store.finish(process).ok()
        trees = {name: photograph(store.path / "volumes" / name) for name in store.volumes()}
        expected = photograph(store.rootfs("victim"))
        mounts.tool("umount", store.path)
        point = scratch / f"point{round_number}"
        mounts.mount_copy(copy, point)
        after = Store(point)
        assert not reported or after.list() == ["victim"]
        for name in after.volumes():
            if "incomplete" not in name:
                assert_same(photograph(point / "volumes" / name), trees[name])
        if "victim" in after.list():
            assert_same(photograph(after.rootfs("victim")), expected)
            after.delete("victim")
        assert_same(photograph(after.create(url, "victim")), expected)
        after.delete("victim")
        after.clean()
        assert after.volumes() == [] and after.temporary() == []
        mounts.tool("umount", point)
