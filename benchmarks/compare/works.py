"""The works. Contestants take turns within a round, in another order each round; a sample says what one command cost.

Before each measured command everything dirty is flushed and deletions are finished; after it the flush is timed apart,
so that nobody wins by leaving data unwritten. Cold means a file system made for this one command; the input is in the
page cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from compare.floors import SnapshotFloor
from compare.images import Image
from compare.peers import Groot, GrootStore, Peer, Store
from compare.process import Argv, Ended, Failed, Runner, Steps
from compare.programs import build
from compare.registry import Registries
from loadtests.volumes import Volume

T = TypeVar("T")
FILLERS = 16
"""Processes that fill a store at once."""
BASE = 10
"""Images in the store that a full one is compared with."""


@dataclass(frozen=True)
class Sample:
    """One command: seconds, CPU seconds, peak memory (KiB), seconds of the flush after it, bytes written until after the
    flush, commits until before it. ``images`` is how many the store held, where that matters; ``requests`` are those to write until
    after the flush, 0 in results that are older than their count."""

    work: str
    image: str
    who: str
    round: int
    seconds: float
    cpu: float
    peak: int
    flush: float
    written: int
    commits: int
    images: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Burst:
    """Many commands started at once: seconds of all together, of each, how many failed, and commits until the last end."""

    work: str
    image: str
    who: str
    round: int
    count: int
    seconds: float
    latencies: list[float]
    failed: int
    commits: int


@dataclass
class Results:
    """All that was measured."""

    samples: list[Sample]
    bursts: list[Burst]


def turns(contestants: Sequence[T], number: int) -> list[T]:
    """The order of a round: another one begins every second round, and between them the order is turned round. So nobody has the
    better place, and of any two each is as often before the other, also where some cannot do a work."""
    first = number // 2 % len(contestants)
    order = [*contestants[first:], *contestants[:first]]
    return order[::-1] if number % 2 else order


class Bench:
    """Runs works below ``scratch`` and collects what they cost."""

    def __init__(self, scratch: Path, results: Results, say: Callable[[str], None]) -> None:
        self._scratch = scratch
        self._runner = Runner(scratch / "output.log", build("launch", scratch), build("burst", scratch))
        self._floor = build("snapshot", scratch)
        self._results = results
        self._say = say
        self._ids = 0

    def cold(self, image: Image, peers: Sequence[tuple[Peer, int]], registry: str | None = None) -> None:
        """Cold creates, from the layout or from the registry; with each peer goes the number of rounds it takes part in. Beside a
        registry ours is made from the layout too, in the same round, for what the network costs."""
        for number in range(max(rounds for _, rounds in peers)):
            for peer, rounds in turns(peers, number):
                if number >= rounds:
                    continue
                sources: list[tuple[str, str | None]] = [("cold oci", None)] if registry is None else [("cold docker", registry)]
                if registry is not None and isinstance(peer, Groot):
                    sources.append(("cold oci, beside docker", None))
                for work, where in sources[:: -1 if number % 2 else 1]:
                    self._cold_once(peer, image, work, where, number)

    def _cold_once(self, peer: Peer, image: Image, work: str, registry: str | None, number: int) -> None:
        with peer.open(self._folder()) as store:
            steps = store.cold(image, "cold", registry)
            if steps is None:
                return
            image.read()
            self._weigh(store, steps, work, image, number)
            if work == "cold oci":
                self._clean_everything(store, image, number)

    def again(self, old: Image, new: Image, peers: Sequence[Peer], rounds: int) -> None:
        """Create the next release of an image on a file system that has nothing but the old one."""
        for number in range(rounds):
            for peer in turns(peers, number):
                with ExitStack() as stack:
                    for store in self._open(stack, old, [peer]):
                        new.read()
                        self._maybe(store, store.cold(new, "next", None), "again", new, number)

    def again_throttled(self, old: Image, new: Image, peers: Sequence[Groot], rounds: int, operations: int) -> None:
        """The same on a volume of so many operations a second."""
        for number in range(rounds):
            for peer in turns(peers, number):
                with peer.open_throttled(self._folder()) as (store, throttle):
                    self._runner.run(store.cold(old, "cold", None))
                    new.read()
                    store.filesystem.settle()
                    throttle.limit(Volume(f"iops:{operations}", operations, None))
                    self._weigh(store, store.cold(new, "next", None), f"again, {operations} IOPS", new, number)

    def _clean_everything(self, store: Store, image: Image, number: int) -> None:
        clean, delete = store.clean(), store.delete("cold")
        if clean is not None and delete is not None:
            self._runner.run(delete)
            self._weigh(store, clean, "clean, all unused", image, number)

    def operations(self, image: Image, peers: Sequence[Peer], rounds: int) -> None:
        """Warm creates with and without a limit, deletes, stats, list and clean with nothing to do."""
        with ExitStack() as stack:
            stores = self._open(stack, image, peers)
            first = stores[0]
            if isinstance(first, GrootStore):
                stores += [SnapshotFloor(first, self._floor, python=True), SnapshotFloor(first, self._floor, python=False)]
            for number in range(rounds):
                for limited in (False, True):
                    end = ", limit" if limited else ""
                    made = []
                    for store in turns(stores, number):
                        name = self._id()
                        steps = store.warm(image, name, limited=limited)
                        if steps is not None:
                            self._weigh(store, steps, f"warm{end}", image, number)
                            made.append((store, name))
                    for work in ("stats", "list") if limited else ():
                        for store in turns(stores, number):
                            self._maybe(store, store.stats("cold") if work == "stats" else store.list(), work, image, number)
                    for store, name in made:
                        if isinstance(store, SnapshotFloor):
                            self._remove(store, [name])
                        else:
                            self._maybe(store, store.delete(name), f"delete{end}", image, number)
                            store.filesystem.settle()
                for store in turns(stores, number):
                    self._maybe(store, store.clean(), "clean", image, number)

    def bursts(self, image: Image, peers: Sequence[Peer], counts: Sequence[int], rounds: int) -> None:
        """Warm creates at once, with a limit where the contestant has limits."""
        with ExitStack() as stack:
            stores = self._open(stack, image, peers)
            first = stores[0]
            if isinstance(first, GrootStore):
                stores.append(SnapshotFloor(first, self._floor, python=False))
            for count in counts:
                for number in range(rounds):
                    for store in turns(stores, number):
                        ids = [self._id() for _ in range(count)]
                        self._burst(store, "warm at once", image, number, partial(store.warm_together, self._runner, image, ids))
                        self._remove(store, ids)

    def pulls(self, image: Image, peers: Sequence[tuple[Peer, int]], registry: str, count: int) -> None:
        """One cold pull, and ``count`` at once, each on a fresh file system."""
        for number in range(max(rounds for _, rounds in peers)):
            for peer, rounds in turns(peers, number):
                for many in (1, count) if number < rounds else ():
                    with peer.open(self._folder()) as store:
                        argvs = [store.pull(image, self._id(), registry) for _ in range(many)]
                        given = [argv for argv in argvs if argv is not None]
                        if not given:
                            continue
                        self._burst(store, "pull at once", image, number, partial(self._runner.together, given))

    def named(self, image: Image, peers: Sequence[Groot], registries: Registries, rounds: int, count: int) -> None:
        """Warm creates with a limit from a layout, by a tag over plain http, and by a tag over TLS with a token; then ``count`` at once
        by the tag over http."""
        with ExitStack() as stack:
            stores = [store for store in self._open(stack, image, peers) if isinstance(store, GrootStore)]
            forms: list[tuple[str, Callable[[GrootStore, str], Argv]]] = [
                ("warm by layout", lambda store, name: store.warm(image, name, limited=True)[0][0]),
                ("warm by tag, http", lambda store, name: store.named(image, name, registries.plain, login=None)),
                ("warm by tag, TLS", lambda store, name: store.named(image, name, registries.guarded, login=registries.login)),
            ]
            for store in stores:
                for _, form in forms:  # so that the store knows the name
                    self._runner.run([[form(store, self._id())]])
            for number in range(rounds):
                for work, form in forms[:: -1 if number % 2 else 1]:
                    for store in turns(stores, number):
                        name = self._id()
                        self._weigh(store, [[form(store, name)]], work, image, number)
                        self._remove(store, [name])
                for store in turns(stores, number):
                    names = [self._id() for _ in range(count)]
                    argvs = [forms[1][1](store, name) for name in names]
                    self._burst(store, "by tag at once", image, number, partial(self._runner.together, argvs))
                    self._remove(store, names)

    def growth(self, image: Image, peer: Peer, levels: Sequence[int], rounds: int, *, floor: bool) -> None:
        """Warm creates with a limit, stats and list as a store fills, in turns with a store that keeps `BASE` images; with
        ``floor`` also bare snapshots in the full one."""
        with ExitStack() as stack:
            small, full = (self._open(stack, image, [peer])[0] for _ in range(2))
            self._fill(small, image, 1, BASE)
            held = 1
            for level in levels:
                self._fill(full, image, held, level)
                held = level
                stores = [(small, "grown base", BASE), (full, "grown", level)]
                bare = [SnapshotFloor(full, self._floor, python=True)] if floor and isinstance(full, GrootStore) else []
                for number in range(rounds):
                    turn = level * 1000 + number
                    for store, work, images in turns(stores + [(store, "grown", level) for store in bare], number):
                        name = self._id()
                        steps = store.warm(image, name, limited=not isinstance(store, SnapshotFloor))
                        if steps is not None:
                            self._weigh(store, steps, f"{work} warm", image, turn, images)
                            self._remove(store, [name])
                    for store, work, images in turns(stores, number):
                        self._maybe(store, store.stats("cold"), f"{work} stats", image, turn, images)
                        self._maybe(store, store.list(), f"{work} list", image, turn, images)

    def _fill(self, store: Store, image: Image, held: int, wanted: int) -> None:
        """Make images until ``wanted`` are there. Raises Failed."""
        steps = [store.warm(image, self._id(), limited=True) for _ in range(wanted - held)]
        argvs = [each[0][0] for each in steps if each is not None]
        for start in range(0, len(argvs), FILLERS):
            _, ended = self._runner.together(argvs[start : start + FILLERS])
            if not all(end.ok for end in ended):
                raise Failed(f"filling the store of {store.who} failed; see {self._runner.log}")
        store.filesystem.flush()

    def _open(self, stack: ExitStack, image: Image, peers: Sequence[Peer]) -> list[Store]:
        """A store of each with the image ``cold`` in it."""
        stores = []
        for peer in peers:
            store = stack.enter_context(peer.open(self._folder()))
            steps = store.cold(image, "cold", None)
            if steps is not None:
                self._runner.run(steps)
                stores.append(store)
        return stores

    def _maybe(self, store: Store, steps: Steps | None, work: str, image: Image, number: int, images: int = 0) -> None:
        if steps is not None:
            self._weigh(store, steps, work, image, number, images)

    def _remove(self, store: Store, image_ids: Sequence[str]) -> None:
        """Delete images, and wait until the kernel is done with them: it would be at work on them during somebody else's turn."""
        for image_id in image_ids:
            steps = store.delete(image_id)
            if steps is not None:
                self._runner.run(steps)
        store.filesystem.settle()

    def _weigh(self, store: Store, steps: Steps, work: str, image: Image, number: int, images: int = 0) -> None:
        store.filesystem.settle()
        before = store.filesystem.counters()
        cost = self._runner.run(steps, store.daemon)
        commits = store.filesystem.counters().commits - before.commits
        flush = store.filesystem.flush()
        after = store.filesystem.counters()
        written, requests = after.written - before.written, after.requests - before.requests
        sample = Sample(work, image.name, store.who, number, cost.seconds, cost.cpu, cost.peak, flush, written, commits, images, requests)
        self._results.samples.append(sample)
        if work.startswith(("cold", "again")):
            self._say(f"{work} {image.name}: {store.who} {cost.seconds:.2f} s, flush {flush:.2f} s, {written / 1e6:.0f} MB written")

    def _burst(self, store: Store, work: str, image: Image, number: int, together: Callable[[], tuple[float, list[Ended]]]) -> None:
        store.filesystem.settle()
        before = store.filesystem.counters().commits
        seconds, ended = together()
        commits = store.filesystem.counters().commits - before
        latencies = [end.seconds for end in ended]
        failed = sum(not end.ok for end in ended)
        self._results.bursts.append(Burst(work, image.name, store.who, number, len(ended), seconds, latencies, failed, commits))
        self._say(f"{work} {image.name}: {store.who} x {len(ended)} {seconds:.2f} s, {failed} failed")

    def _id(self) -> str:
        self._ids += 1
        return f"bench-{self._ids}"

    def _folder(self) -> Path:
        self._ids += 1
        return self._scratch / f"place-{self._ids}"
