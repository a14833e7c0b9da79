"""A random walk over pulls that go wrong. After each step every image can be created from a healthy registry, without a `clean`.

``--steps`` says how far, ``--seed`` which way; a failure names the step and what was done in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from fake_registry import FakeRegistry, Fault, Image
from groot_fast import _core
from groot_fast.telemetry.lager import Logger
from support.archive import Archive, Layer
from support.command import MIB, Store
from support.pulls import publish, trusting

SIZES = (3_000, 40_000, 300_000, 1_200_000, 3_000_000, 9_000_000)
STACKS = ((0, 1, 2), (2, 1, 0), (3, 4), (4, 3, 5), (5,), (1, 5, 3, 0), (6, 7), (7, 6, 4))
"""Images by their layers: shared at the bottom, and shared in another order on other parents."""
KINDS = ("damaged", "cut", "slow", "short", "refused", "full", "killed", "stopped", "nothing")
MakeStore = Callable[..., Store]


@dataclass
class Walk:
    """One store, one registry, and what it serves."""

    store: Store
    registry: FakeRegistry
    random: Random
    layers: list[Layer]
    images: list[Image]
    count: int = 0

    def step(self) -> str:
        """Do something that goes wrong; says what."""
        chosen = self.random.sample(KINDS, self.random.randint(1, 3))
        numbers = self.random.sample(range(len(STACKS)), self.random.choice((1, 1, 2)))
        for kind in chosen:
            self._spoil(kind, self.random.choice(STACKS[numbers[0]]))
        filler = self._fill() if "full" in chosen else None
        running = [(number, self._start(number)) for number in numbers]
        for kind, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGTERM)):
            if kind in chosen:
                time.sleep(self.random.random() / 2)
                running[0][1].send_signal(number)
        for number, process in running:
            result = self.store.finish(process, 120)
            # What has not begun to catch SIGTERM yet ends by it.
            assert result.code in (0, 1, 130, -signal.SIGKILL, -signal.SIGTERM), result
            assert "internal error" not in result.out and "Traceback" not in result.err, result
            if result.code == 0:
                self._look(number, self.store.list())
        self.registry.heal()
        if filler is not None:
            filler.unlink()
            self.core(lambda core: core.sync())
        return f"{chosen} while {numbers} were created"

    def recover(self) -> None:
        """Create every image from the registry, which is healthy now."""
        self._forget()
        for number in self.random.sample(range(len(STACKS)), len(STACKS)):
            self.store.finish(self._start(number), 120).ok()
            self._look(number, self.store.list())
        assert self.store.temporary() == []
        # So that the next step pulls anew, and what is left in `tmp` is for it.
        self._forget(self.random.randint(0, 3))

    def core(self, work: Callable[[_core.Store], object]) -> None:
        """Work on the store without a command: `clean` would remove downloads, too."""
        work(_core.Store.open(self.store.path, drax="drax"))

    def _forget(self, keep: int = 0) -> None:
        for image_id in self.store.list():
            self.store.delete(image_id)
        volumes = self.store.volumes()
        gone = self.random.sample(volumes, max(len(volumes) - keep, 0))
        log = Logger.silent()
        self.core(lambda core: (core.doom(gone, log), core.destroy_marked(log, _core.Cancel())))

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        self.count += 1
        return self.store.start("create", *trusting(self.registry), self.images[number].url, f"i{self.count}-{number}")

    def _look(self, number: int, ids: list[str]) -> None:
        """Whether an image has what its layers hold."""
        [image_id] = [image_id for image_id in ids if image_id.endswith(f"-{number}")][-1:]
        rootfs = self.store.rootfs(image_id)
        for layer in STACKS[number]:
            assert (rootfs / f"f{layer}").read_bytes() in self.layers[layer].tar, (image_id, layer)

    def _spoil(self, kind: str, layer: int) -> None:
        blob = self.layers[layer].blob
        at = self.random.randrange(len(blob))
        pause = self.random.random()
        faults = {
            "damaged": Fault(body=blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]),
            "cut": Fault(cut_after=at),
            "short": Fault(body=blob[:at]),
            "refused": Fault(status=self.random.choice((404, 429, 500))),
            "slow": Fault(hook=lambda _handler: bool(time.sleep(pause))),
        }
        if kind in faults:
            self.registry.fault(f"sha256:{self.layers[layer].digest}", faults[kind], times=self.random.randint(1, 6))

    def _fill(self) -> Path:
        """Leave almost no room."""
        space = os.statvfs(self.store.path)
        filler = self.store.path / "filler"
        with filler.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, max(space.f_bavail * space.f_frsize - self.random.randrange(1, 12) * MIB, MIB))
            except OSError:
                pass  # as full as it gets
        return filler


@pytest.fixture
def walk(make_store: MakeStore, request: pytest.FixtureRequest) -> Iterator[Walk]:
    """At its beginning."""
    random = Random(request.config.getoption("--seed"))
    layers = [Layer(Archive().file(f"f{number}", random.randbytes(random.choice(SIZES))).tar) for number in range(8)]
    with FakeRegistry() as registry:
        images = [publish(registry, *(layers[i] for i in stack), repo=f"image{n}") for n, stack in enumerate(STACKS)]
        yield Walk(make_store(size=256 * MIB), registry, random, layers, images)


def test_every_image_can_be_created_whatever_happened_before(walk: Walk, request: pytest.FixtureRequest) -> None:
    for number in range(request.config.getoption("--steps")):
        done = walk.step()
        try:
            if number % 5 == 4:
                walk.recover()
        except AssertionError as error:
            raise AssertionError(f"step {number}, after {done}: {error}") from error
    walk.recover()
