"""Random walks on a store that is nearly full: pushes of new versions, creates, deletes, cleans, containers that misbehave.

A create that has room, by what living images hold, never fails; what is deleted is gone; everything is accounted for. Layers are kept
about as well as by an oracle that keeps what was used last. With ``--full`` both walks go 5,000 steps, on a store of 4 GiB.
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
BASE, VERSION, WRITTEN = 8 * MIB, 6 * MIB, 2 * MIB
STEPS = 150
SIZE = 300 * MIB


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

    def __init__(self, store: Store, size: int, image: Image, seed: int) -> None:
        self.store = store
        # What images and layers may hold by the test's reckoning: the rest is for metadata and what the kernel has not freed yet.
        self.room = int(size * (0.86 if size > SIZE else 0.66))
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
        has_room = self.held(version) <= self.room
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


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Bytes of the store, and steps."""
    return (4096 * MIB, 5000) if request.config.getoption("--full") else (SIZE, STEPS)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_walk_on_a_store_that_is_nearly_full(make_store: Callable[..., Store], image: Image, seed: int, extent: tuple[int, int]) -> None:
    size, steps = extent
    store = make_store(size=size)
    before = json.loads(store.run("stats", "--store").ok().out)["file_system"]["used_bytes"]
    walk = Walk(store, size, image, seed)
    walk.push()
    for step in range(steps):
        fullness = walk.held((0, "")) / walk.room
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
    assert after <= before + size // 100, "within one hundredth"


# -- what is kept -------------------------------------------------------------------------

KEPT = 60 * MIB
"""What the layers may hold."""


class Oracle:
    """Layers of which those go that were used longest ago, of one image the upper ones first; a living image's never do."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.living: list[str] = []

    def create(self, layers: list[str], now: int) -> int:
        """How many layers have to be unpacked. Layers are named from the bottom up."""
        missing = [layer for layer in layers if layer not in self.used]
        self.used.update(dict.fromkeys(layers, now))
        self.living += layers
        return len(missing)

    def clean(self, sizes: dict[str, int]) -> None:
        held = sum(sizes[layer] for layer in self.used)
        # An upper layer's name is longer than those of what is below it.
        for layer in sorted(set(self.used) - set(self.living), key=lambda layer: (self.used[layer], -len(layer))):
            if held <= KEPT:
                return
            held -= sizes[layer]
            del self.used[layer]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [1, 2])
def test_layers_are_kept_as_well_as_by_an_oracle(
    make_store: Callable[..., Store], image: Image, seed: int, extent: tuple[int, int], scratch: Path
) -> None:
    """Few images are created often, many seldom; each create cleans."""
    chance = random.Random(seed)
    (scratch / "config.yml").write_text(f"create: {{with_clean: true}}\nclean: {{keep_bytes: {KEPT}}}\n")
    store = Store(make_store(size=SIZE).path, "--config", str(scratch / "config.yml"))
    bases = [Archive().file(f"base{number}", os.urandom(BASE)) for number in range(4)]
    images = [(number % 4, image(bases[number % 4], Archive().file(f"app{number}", os.urandom(VERSION)))) for number in range(24)]
    sizes = {f"{base}": BASE for base in range(4)} | {f"{base}/{number}": VERSION for number, (base, _) in enumerate(images)}
    oracle, living = Oracle(), dict[str, list[str]]()
    unpacked = expected = 0
    for step in range(extent[1]):
        number = min(int(chance.paretovariate(0.5)) - 1, len(images) - 1)
        base, url = images[number]
        layers, image_id = [f"{base}", f"{base}/{number}"], new_id()
        known = set(store.volumes())
        logged = Store(store.path, *store.options, "--log-level", "info").run("create", url, image_id).ok()
        unpacked += logged.err.count("unpacking-layer.starting")
        now = set(store.volumes()) | known
        expected += oracle.create(layers, step)
        oracle.clean(sizes)
        # The time of a lock's file says when its layer was used, to the minute: here a step is one.
        for name in now & set(store.volumes()):
            lock = store.path / "locks" / f"{name}.lock"
            if lock.stat().st_mtime > 1e9:
                os.utime(lock, (step, step))
        living[image_id] = layers
        if len(living) > 3:
            gone = chance.choice(list(living))
            store.delete(gone)
            for layer in living.pop(gone):
                oracle.living.remove(layer)
    assert expected > extent[1] // 10, "there was not room for all"
    print(f"{unpacked} layers unpacked, {expected} by the oracle, in {extent[1]} steps")
    assert expected * 0.9 <= unpacked <= expected * 1.1
