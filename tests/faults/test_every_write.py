"""Power cuts at every write of a run: the disk's log of writes and flushes, replayed up to each of them.

What was flushed is there; of what was written after the last flush nothing, all, or any part (`support.disk`). And at every
commit of a run in which the file system is committed before each store-changing call of each command, without the data of
files, as the kernel's timer and other commands may do at any moment: nothing may rely on the next commit being its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import mounts
from support.archive import Archive
from support.command import MIB, Store
from support.disk import FLUSH, FSYNC, READ, WRITE_OP, Disk, Log
from support.interruption import Points, trace
from support.layout import write_layout
from support.tree import Tree, assert_same, photograph

SIZE = 256 * MIB
LIMIT = ("--disk-limit-size-bytes", str(100 * MIB))
SAMPLE = 24
"""Cuts that are looked at where not all are."""
CHUNKS = 8
"""Into so many tests a run is divided."""


def stack(seed: int, count: int) -> list[Archive]:
    generator = random.Random(seed)
    layers = []
    for i in range(count):
        archive = Archive().dir(".").dir(f"l{i}")
        for j in range(12):
            archive.file(f"l{i}/{j}", generator.randbytes(generator.choice([0, 10, 3000, 60_000])))
        layers.append(archive.file("shared", f"from {i}").link(f"l{i}/link", "shared").symlink(f"l{i}/s", "../shared"))
    return layers


class History:
    """A store on a logging disk, and what was reported when (as lengths of the log)."""

    def __init__(self, scratch: Path, *, committing: bool) -> None:
        self.scratch = scratch
        self.committing = committing
        self.disk = Disk(scratch / "disk", SIZE)
        self.store = Store(scratch / "store")
        Path(f"{self.store.path}.backing-store").symlink_to(self.disk.path)
        self.made: dict[str, int] = {}
        self.deleting: dict[str, int] = {}
        self.trees: dict[str, Tree] = {}
        self.volumes: dict[str, Tree] = {}
        self.ready = 0

    def call(self, *argv: str) -> None:
        if self.committing:
            trace(self.store, self.scratch, *argv, how=("--commit", str(self.store.path))).result.ok()
        else:
            self.store.run(*argv).ok()

    def create(self, image: str, image_id: str, *flags: str) -> None:
        self.call("create", *flags, image, image_id)
        self.made[image_id] = self.disk.position()
        tree = self.store.image(image_id) / ("snapshot" if "--without-mount" in flags else "rootfs")
        self.trees[image_id] = photograph(tree)
        self.volumes |= {name: photograph(self.store.path / "volumes" / name) for name in self.store.volumes()}

    def delete(self, image_id: str) -> None:
        self.deleting[image_id] = self.disk.position()
        self.call("delete", image_id)

    def run(self) -> None:
        """Every command that changes a store."""
        self.store.init(size=SIZE).ok()
        mounts.tool("sync", "-f", self.store.path)
        self.ready = self.disk.position()
        try:
            self._commands()
        finally:
            mounts.tool("umount", self.store.path)
            self.disk.close()

    def _commands(self) -> None:
        one, two = stack(1, 4), [*stack(1, 4)[:2], *stack(2, 2)]
        first, second = write_layout(self.scratch / "one", *one), write_layout(self.scratch / "two", *two)
        self.create(first, "cold", *LIMIT)
        self.create(second, "shared")
        self.create(first, "warm", *LIMIT)
        self.delete("shared")
        self.call("clean")
        self.create(second, "again", "--exclude-image-from-quota", *LIMIT)
        self.create(first, "apart", "--without-mount")
        self.delete("cold")
        self.create(write_layout(self.scratch / "three", *stack(3, 3)), "cleaning", "--with-clean")
        self.delete("again")
        self.call("clean")


@pytest.fixture(scope="module", params=["writes", "commits"])
def history(request: pytest.FixtureRequest, module_scratch: Path) -> History:
    folder = module_scratch / request.param
    folder.mkdir()
    history = History(folder, committing=request.param == "commits")
    history.run()
    return history


def check(store: Store, history: History, position: int) -> None:
    """What holds after any power cut."""
    listed = set(store.list())
    for image_id, made in history.made.items():
        if made <= position < history.deleting.get(image_id, 1 << 62):
            assert image_id in listed, f"{image_id} was reported as made"
    for image_id in listed:
        tree = store.rootfs(image_id) if os.stat(store.rootfs(image_id)).st_ino == 256 else store.image(image_id) / "snapshot"
        assert_same(photograph(tree), history.trees[image_id])
        assert json.loads((store.image(image_id) / "image.json").read_text())["os"] == "linux"
        assert json.loads(store.record(image_id).read_text())
        total, own = store.stats(image_id)
        assert total >= own >= 0
    for name in store.volumes():
        if "-incomplete-" not in name and not name.startswith("gc."):
            assert_same(photograph(store.path / "volumes" / name), history.volumes[name])
            size = json.loads((store.path / "meta" / f"volume-{name}").read_text())
            assert 0 < size["Size"] <= size["TreeSize"]
    for record in (store.path / "meta").rglob("*"):
        assert record.is_dir() or record.name.startswith("listing-") or json.loads(record.read_text()) is not None, record


def check_deeply(store: Store) -> None:
    """Listings are whole too, and say what the volumes hold."""
    found = json.loads(store.run("check", "--deep", "--json").out)["findings"]
    assert not [finding for finding in found if finding["kind"].startswith("damaged-")], found


def check_use(store: Store, history: History) -> None:
    """The store goes on working, and gets spotless."""
    url = f"oci://{history.scratch}/one:latest"
    assert_same(photograph(store.create(url, "after")), history.trees["cold"])
    for image_id in store.list():
        store.delete(image_id)
    store.clean()
    assert store.volumes() == [] and store.temporary() == [] and os.listdir(store.path / "images") == []
    assert os.listdir(store.path / "meta" / "dependencies") == []
    assert not [name for name in os.listdir(store.path / "meta") if name.startswith(("volume-", "listing-"))]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_power_cut_at_every_write(history: History, points: Points, scratch: Path, chunk: int) -> None:
    log = Log(history.disk)
    first = log.index_at(history.ready)
    candidates = range(first + 1, len(log.records) + 1)
    if history.committing:
        candidates = [index for index in candidates if log.records[index - 1][0] == FLUSH]
    count = len(candidates)
    indices = [candidates[at - 1] for at in points.of(count, SAMPLE)]
    indices = indices[len(indices) * chunk // CHUNKS : len(indices) * (chunk + 1) // CHUNKS]
    ends = [place + size for _, _, place, size in log.records]
    image, point = scratch / "cut", scratch / "point"
    for turn, index in enumerate(log.cuts(indices, image)):
        mounts.mount_copy(image, point)
        try:
            store = Store(point)
            try:
                check(store, history, ends[index - 1])
                if turn % 3 == 0:
                    check_deeply(store)
                    check_use(store, history)
            except (AssertionError, OSError, ValueError) as error:
                raise AssertionError(f"power cut after write {index - first} of {len(log.records) - first}: {error}") from error
        finally:
            mounts.tool("umount", point)
        points.covered("power cut at commits" if history.committing else "power cut at writes", count)


# -- a disk that goes bad -------------------------------------------------------------------


@pytest.fixture
def bad(scratch: Path) -> Iterator[tuple[Store, Disk]]:
    disk = Disk(scratch / "disk", SIZE)
    store = Store(scratch / "store")
    Path(f"{store.path}.backing-store").symlink_to(disk.path)
    try:
        store.init(size=SIZE).ok()
        yield store, disk
    finally:
        disk.fail()
        mounts.tool("umount", store.path, check=False)
        disk.close()


@pytest.mark.parametrize(
    "opcodes", [(WRITE_OP,), (FSYNC,), (WRITE_OP, FSYNC), (READ, WRITE_OP, FSYNC)], ids=["write", "flush", "both", "all"]
)
def test_disk_error(bad: tuple[Store, Disk], scratch: Path, opcodes: tuple[int, ...]) -> None:
    """BTRFS turns read-only; commands say so in a line, and with a good disk again what was reported is there."""
    store, disk = bad
    url, other = write_layout(scratch / "one", *stack(1, 2)), write_layout(scratch / "two", *stack(2, 2))
    before = photograph(store.create(url, "kept", *LIMIT))
    disk.fail(*opcodes)
    result = store.run("create", *LIMIT, other, "victim").failed()
    assert any(text in result.message for text in ("input/output error", "read-only file system")), result
    for command in (("delete", "kept"), ("clean",), ("create", url, "again"), ("list",), ("stats", "kept")):
        result = store.run(*command)
        assert result.code in (0, 1) and "Traceback" not in result.out + result.err, result
    disk.fail()
    mounts.tool("umount", store.path)
    store.init(size=SIZE).ok()
    assert set(store.list()) <= {"kept", "victim"} and "kept" in store.list()
    assert_same(photograph(store.rootfs("kept")), before)
    subprocess.run(["btrfs", "scrub", "start", "-Bq", store.path], check=True, stdout=subprocess.DEVNULL)
    store.create(other, "after")
    for image_id in store.list():
        store.delete(image_id)
    store.clean()
    assert store.volumes() == [] and store.temporary() == []
