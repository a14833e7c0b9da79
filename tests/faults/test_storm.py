"""Many processes at once on one store: creates against cleans and deletes."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.accounts import User
from support.archive import Archive, layers_of
from support.command import MIB, Store
from support.interruption import wait_until_freed
from support.layout import chain_ids, write_layout
from support.tree import Tree, assert_same, photograph

COUNT = 100
"""Creates, cleans and deletes, of each."""
AT_ONCE = 12
LIMIT = ("--disk-limit-size-bytes", str(64 * MIB))


def layer(seed: int) -> Archive:
    generator = random.Random(seed)
    archive = Archive().dir(".").dir(f"l{seed}")
    for i in range(30):
        archive.file(f"l{seed}/{i}", generator.randbytes(2000))
    return archive


STACKS = [(1, 2, 3), (1, 2, 4), (1, 5), (6,), (6, 7, 8, 9), (1, 2)]
"""Images that share layers at the bottom, by the seeds of their layers."""


class Storm:
    """Runs commands from many threads, each with a log of its own, and watches what they say."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.store = store
        self.scratch = scratch
        self.lock = threading.Lock()
        self.alive: dict[str, tuple[int, set[str]]] = {}
        """Images that nobody deletes: which one, and the volumes that it has been seen to have."""
        self.images: list[tuple[str, list[str], Tree]] = []
        for number, seeds in enumerate(STACKS):
            archives = tuple(layer(seed) for seed in seeds)
            url = write_layout(scratch / f"image{number}", *archives)
            tree = photograph(store.create(url, "reference"))
            store.delete("reference")
            self.images.append((url, chain_ids(layers_of(archives)), tree))
        store.clean()
        self.logs = scratch / "logs"
        self.logs.mkdir()
        self.logs.chmod(0o777)

    def create(self, number: int) -> None:
        """One create; what it reports is there, whole, with all its volumes."""
        which = number % len(self.images)
        url, chain, tree = self.images[which]
        image_id = f"image-{number}"
        log = self.logs / f"{number}.log"
        logging = Store(self.store.path, "--log-file", str(log), "--log-level", "info", uid=self.store.uid)
        flags = LIMIT if number % 3 else ("--with-clean",)
        assert logging.run("create", *flags, url, image_id).ok().out == f"{self.store.image(image_id)}\n"
        # Volumes below the top may have gone before the image needed them: it did not.
        there = set(chain) & set(self.store.volumes())
        assert chain[-1] in there, "the volume of a new image is gone"
        assert_same(photograph(self.store.rootfs(image_id)), tree)
        with self.lock:
            self.alive[image_id] = which, there

    def delete(self, generator: random.Random) -> None:
        """Delete an image, if there is one to delete: it is whole to the end."""
        with self.lock:
            if not self.alive:
                return
            image_id = generator.choice(sorted(self.alive))
            which, there = self.alive.pop(image_id)
        tree = self.images[which][2]
        assert there <= set(self.store.volumes()), "a volume of a living image is gone"
        assert_same(photograph(self.store.rootfs(image_id)), tree)
        self.store.delete(image_id)

    def look(self) -> None:
        """`list` and `stats` show whole images only."""
        with self.lock:
            before = set(self.alive)
        listed = set(self.store.list())
        with self.lock:
            still = before & set(self.alive)
        assert still <= listed

    def builds(self) -> dict[str, list[tuple[float, float]]]:
        """When each volume was unpacked, from the logs."""
        builds: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for path in self.logs.iterdir():
            begun: dict[str, float] = {}
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                if ".unpacking-layer." not in entry["message"]:
                    continue
                chain_id, when = entry["data"]["chainID"], float(entry["timestamp"])
                if entry["message"].endswith(".starting"):
                    begun[chain_id] = when
                elif entry["message"].endswith(".ending"):
                    builds[chain_id].append((begun.pop(chain_id), when))
            assert begun == {}
        return builds


@pytest.fixture(params=["root", "user"])
def storm(request: pytest.FixtureRequest, make_store: Callable[..., Store], scratch: Path, user: User) -> Storm:
    if request.param == "root":
        return Storm(make_store(), scratch)
    path = make_store("--rootless", f"{user.name}:{user.name}").path
    return Storm(Store(path, uid=user.uid), scratch)


def run_all(work: list[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()


def assert_spotless(store: Store) -> None:
    for image_id in store.list():
        store.delete(image_id)
    store.clean()
    wait_until_freed(store)
    Store(store.path).clean()  # what the kernel was still taking apart keeps its quota group until then
    assert store.volumes() == [] and store.temporary() == [] and os.listdir(store.path / "images") == []
    assert os.listdir(store.path / "meta" / "dependencies") == [] and store.subvolumes() == [] and store.groups() == set()
    assert not [name for name in os.listdir(store.path / "meta") if name.startswith("volume-")]


def test_creates_against_cleans_and_deletes(storm: Storm) -> None:
    """100 of each: nobody loses a volume it uses, no volume is built by two at once, nothing is left."""
    generator = random.Random(23)
    work: list[Callable[[], object]] = []
    for number in range(COUNT):
        one = random.Random(number)
        # Of cleans that meet one does the work.
        clean = lambda: storm.store.run("clean").ok()  # noqa: E731
        work += [lambda number=number: storm.create(number), clean, lambda one=one: storm.delete(one), storm.look]
    generator.shuffle(work)
    run_all(work)
    assert set(storm.store.list()) == set(storm.alive)
    for image_id, (which, there) in storm.alive.items():
        assert_same(photograph(storm.store.rootfs(image_id)), storm.images[which][2])
        assert there <= set(storm.store.volumes())
    for chain_id, times in storm.builds().items():
        times.sort()
        for (_, end), (begin, _) in itertools.pairwise(times):
            assert end <= begin, f"{chain_id} was built twice at once"
    assert_spotless(storm.store)


def test_nothing_is_built_twice(storm: Storm) -> None:
    """Without cleans each layer is unpacked once, whoever else wants it."""
    run_all([lambda number=number: storm.create(3 * number + 1) for number in range(COUNT // 2)])  # without `--with-clean`
    assert [chain_id for chain_id, times in storm.builds().items() if len(times) != 1] == []
    assert_spotless(storm.store)
