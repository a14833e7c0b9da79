"""A random walk on a store that is nearly full: pushes of new versions, creates, deletes, cleans, containers that misbehave.

A create that has room, by what living images hold, never fails; what is deleted is gone; everything is accounted for.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import mounts
from support.archive import Archive
from support.command import MIB, Store, new_id

Image = Callable[..., str]
SIZE = 300 * MIB
ROOM = SIZE * 2 // 3
"""What images and layers may hold by the test's reckoning: the rest is for metadata and for what the kernel has not freed yet."""
BASE, VERSION, WRITTEN = 8 * MIB, 6 * MIB, 2 * MIB
STEPS = 150


def misbehave(rootfs: Path, chance: random.Random) -> None:
    """Leave something that is hard to remove."""
    kind = chance.randrange(5)
    if kind == 0:
        for path in ("a", "a/b"):
            mounts.tool("btrfs", "subvolume", "create", rootfs / path)
        mounts.tool("btrfs", "property", "set", rootfs / "a" / "b", "ro", "true")
    elif kind == 1:
        (rootfs / "fixed").mkdir()
        (rootfs / "fixed" / "file").write_text("x")
        mounts.tool("chattr", "+i", rootfs / "fixed" / "file", rootfs / "fixed")
    elif kind == 2:
        here = os.open(rootfs, os.O_RDONLY)
        for _ in range(400):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    elif kind == 3:
        mounts.tool("chattr", "+i", rootfs)
    else:
        for number in range(50):
            mounts.tool("btrfs", "subvolume", "create", rootfs / f"s{number}")


class Walk:
    """The store, and what the test knows to be in it."""

    def __init__(self, store: Store, image: Image, seed: int) -> None:
        self.store = store
        self.image = image
        self.chance = random.Random(seed)
        self.bases = [Archive().dir("app").dir("data").file("base", os.urandom(BASE)) for _ in range(3)]
        self.versions: list[tuple[int, str]] = []
        self.living: dict[str, tuple[int, str]] = {}
        self.fullest = 0.0

    def held(self, also: tuple[int, str]) -> int:
        """Bytes that living images and their layers hold, with one more."""
        images = [*self.living.values(), also]
        return len({base for base, _ in images}) * BASE + len(set(images)) * VERSION + len(images) * WRITTEN

    def push(self) -> None:
        base = self.chance.randrange(len(self.bases))
        self.versions.append((base, self.image(self.bases[base], Archive().file("app/version", os.urandom(VERSION)))))

    def create(self) -> None:
        version = self.chance.choice(self.versions[-6:])
        image_id = new_id()
        has_room = self.held(version) <= ROOM
        clean = ("--with-clean",) if self.chance.random() < 0.3 else ()
        done = self.store.run("create", *clean, "--disk-limit-size-bytes", str(64 * MIB), version[1], image_id)
        if done.code != 0:
            assert not has_room, done
            return
        self.living[image_id] = version
        rootfs = self.store.rootfs(image_id)
        room = os.statvfs(rootfs)
        self.fullest = max(self.fullest, 1 - room.f_bavail / room.f_blocks)
        assert (rootfs / "app" / "version").stat().st_size == VERSION
        subprocess.run(
            ["dd", "if=/dev/urandom", f"of={rootfs}/data/f", "bs=1M", f"count={WRITTEN // MIB}"], capture_output=True, check=False
        )
        if self.chance.random() < 0.5:
            misbehave(rootfs, self.chance)

    def delete(self) -> None:
        if self.living:
            image_id = self.chance.choice(list(self.living))
            self.store.delete(image_id)
            del self.living[image_id]
            assert not self.store.image(image_id).exists()

    def clean(self) -> None:
        flags: list[tuple[str, ...]] = [(), ("--keep-bytes", str(60 * MIB)), ("--free-percent", "20"), ("--threshold-bytes", str(1 << 50))]
        self.store.run("clean", *self.chance.choice(flags)).ok()

    def look(self) -> None:
        """What is said is what is there."""
        report = json.loads(self.store.run("stats", "--store").ok().out)
        sizes = {row["id"]: row["size_bytes"] for row in report["by_layer"]}
        assert set(sizes.values()) <= {BASE, VERSION} and report["layers"]["size_bytes"] == sum(sizes.values())
        assert {row["id"] for row in report["by_image"]} == set(self.living) == set(self.store.list())
        used = report["layers"]["size_bytes"] + report["images"]["exclusive_bytes_used"]
        assert used <= report["file_system"]["used_bytes"] + MIB
        assert "nothing found" in self.store.run("check").ok().out


@pytest.mark.parametrize("seed", [1, 2])
def test_a_walk_on_a_store_that_is_nearly_full(make_store: Callable[..., Store], image: Image, seed: int) -> None:
    store = make_store(size=SIZE)
    before = json.loads(store.run("stats", "--store").ok().out)["file_system"]["used_bytes"]
    walk = Walk(store, image, seed)
    walk.push()
    for step in range(STEPS):
        fullness = walk.held((0, "")) / ROOM
        # More and more, until the store is full; then about as much comes as goes.
        weights = (3, 8, 2 if fullness < 0.95 else 12, 1)
        walk.chance.choices([walk.push, walk.create, walk.delete, walk.clean], weights)[0]()
        if step % 25 == 0:
            walk.look()
    walk.look()
    assert walk.fullest > 0.9, "it was nearly full"
    while walk.living:
        walk.delete()
    store.clean()
    assert store.volumes() == [] and store.subvolumes() == [] and store.groups() == set()
    assert os.listdir(store.path / "images") == [] and store.temporary() == []
    mounts.tool("btrfs", "subvolume", "sync", store.path)
    after = json.loads(store.run("stats", "--store").ok().out)["file_system"]["used_bytes"]
    assert after <= before + SIZE // 100, "within one hundredth"
