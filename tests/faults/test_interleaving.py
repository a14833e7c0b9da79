"""Two commands on one store, the second run while the first stands before its N-th store-changing call, for every N.

What neither loses: an image that was reported is whole, a volume that a living image was made from stays, both end as they
would have ended one after the other, and nothing is left.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.archive import Archive, layers_of
from support.command import COMMAND, MIB, Store
from support.interruption import Points, state, trace, wait_until_freed
from support.layout import chain_ids, write_layout
from support.tree import assert_same, photograph

LIMIT = ("--disk-limit-size-bytes", str(100 * MIB))
LAYERS = layers_of((Archive().dir(".").file("base", "b" * 5000), Archive().file("middle", "m"), Archive().file("top", "t" * 9000)))
OTHER = [LAYERS[0], *layers_of((Archive().file("else", "e"),))]
SAMPLE = 4
"""Calls before which the second command is run where it is not run before all."""


class Pair:
    """A store with the volumes of the image, used by nobody, and the commands."""

    def __init__(self, make_store: Callable[..., Store], scratch: Path) -> None:
        self.scratch = scratch
        self.store = make_store(size=256 * MIB)
        self.urls = {"image": write_layout(scratch / "image", *LAYERS), "other": write_layout(scratch / "other", *OTHER)}
        self.chains = {"image": chain_ids(LAYERS), "other": chain_ids(OTHER)}
        self.trees = {name: photograph(self.store.create(url, name)) for name, url in self.urls.items()}
        self.ids = {"first": "image", "second": "image", "third": "other"}
        for name in self.urls:
            self.store.delete(name)
        self.store.clean()

    def prepare(self, cached: bool, there: tuple[str, ...]) -> None:
        if cached:
            for name, url in self.urls.items():
                self.store.create(url, name)
                self.store.delete(name)
        for image_id in there:
            self.store.create(self.urls[self.ids[image_id]], image_id, *LIMIT)

    def argv(self, command: str) -> list[str]:
        """``create first`` and so on, as arguments."""
        name, _, image_id = command.partition(" ")
        image = [*LIMIT, self.urls[self.ids[image_id]]] if name == "create" else []
        return [name, *image, *([image_id] if image_id else [])]

    def check(self, expected: set[str]) -> None:
        """Images are whole and have the volume they were made from."""
        assert set(self.store.list()) == expected
        for image_id in expected:
            name = self.ids[image_id]
            assert_same(photograph(self.store.rootfs(image_id)), self.trees[name])
            assert self.chains[name][-1] in self.store.volumes(), f"the volume of {image_id} is gone"
            assert json.loads(self.store.record(image_id).read_text()) == self.chains[name]

    def finish(self) -> None:
        for image_id in self.store.list():
            self.store.delete(image_id)
        self.store.clean()
        wait_until_freed(self.store)
        self.store.clean()
        entries = state(self.store)["entries"]
        assert isinstance(entries, dict)
        assert set(entries) - {"meta/namespace.json"} == {"images", "volumes", "meta", "locks", "tmp", "meta/dependencies"}
        assert self.store.subvolumes() == [] and self.store.groups() == set()


PAIRS: dict[str, tuple[str, str, bool, tuple[str, ...], set[str]]] = {
    # paused, meanwhile, are the volumes there, images before, images after both
    "cold create, clean": ("create first", "clean", False, (), {"first"}),
    "warm create, clean": ("create first", "clean", True, (), {"first"}),
    "clean, warm create": ("clean", "create first", True, (), {"first"}),
    "clean, create of another": ("clean", "create third", True, (), {"third"}),
    "cold create, the same image": ("create first", "create second", False, (), {"first", "second"}),
    "cold create, shared base": ("create first", "create third", False, (), {"first", "third"}),
    "create, delete of the last user": ("create first", "delete second", True, ("second",), {"first"}),
    "delete of the last user, create": ("delete second", "create first", True, ("second",), {"first"}),
    "delete, clean": ("delete first", "clean", True, ("first", "third"), {"third"}),
    "clean, delete": ("clean", "delete first", True, ("first",), set()),
    "clean, clean": ("clean", "clean", True, ("third",), {"third"}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_meanwhile(make_store: Callable[..., Store], scratch: Path, points: Points, name: str) -> None:
    paused, meanwhile, cached, there, expected = PAIRS[name]
    pair = Pair(make_store, scratch)
    pair.prepare(cached, there)
    count = len(trace(pair.store, scratch, *pair.argv(paused)).calls)
    pair.finish()
    other = json.dumps([COMMAND, *pair.store.options, *pair.argv(meanwhile)])
    for at in points.of(count, SAMPLE, len(name)):
        pair.prepare(cached, there)
        traced = trace(pair.store, scratch, *pair.argv(paused), at=at, how=("--meanwhile", other))
        try:
            traced.result.ok()
            assert traced.other is not None
            traced.other.ok()
            pair.check(expected)
            pair.finish()
        except AssertionError as error:
            raise AssertionError(f"before call {at} of {count} ({traced.last}): {error}") from error
        points.covered(f"meanwhile, {name}", count)


def test_clean_beside_a_long_create(make_store: Callable[..., Store], scratch: Path, points: Points) -> None:
    """While some create holds the store-wide lock, clean marks without it: what an image was made from meanwhile stays."""
    pair = Pair(make_store, scratch)
    with (pair.store.path / "locks" / "global-groot-lock.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        pair.prepare(True, ())
        count = len(trace(pair.store, scratch, "clean").calls)
        other = json.dumps([COMMAND, *pair.store.options, *pair.argv("create first")])
        for at in points.of(count, SAMPLE):
            pair.prepare(True, ())
            traced = trace(pair.store, scratch, "clean", at=at, how=("--meanwhile", other))
            traced.result.ok()
            assert traced.other is not None
            traced.other.ok()
            pair.check({"first"})
            pair.store.delete("first")
            points.covered("meanwhile, clean beside a long create", count)
    pair.finish()


@pytest.mark.parametrize(
    ("paused", "meanwhile"), [("create first", "create first"), ("delete first", "create first"), ("create first", "delete first")]
)
def test_the_same_id(make_store: Callable[..., Store], scratch: Path, points: Points, paused: str, meanwhile: str) -> None:
    """Two that want the same id: one gets it, or the image is gone; never half of it."""
    pair = Pair(make_store, scratch)
    there = ("first",) if paused.startswith("delete") else ()
    pair.prepare(True, there)
    count = len(trace(pair.store, scratch, *pair.argv(paused)).calls)
    pair.finish()
    other = json.dumps([COMMAND, *pair.store.options, *pair.argv(meanwhile)])
    for at in points.of(count, SAMPLE, len(meanwhile)):
        pair.prepare(True, there)
        traced = trace(pair.store, scratch, *pair.argv(paused), at=at, how=("--meanwhile", other))
        try:
            assert traced.other is not None
            for result in (traced.result, traced.other):
                assert result.code == 0 or "already exists" in result.out, result
            listed = set(pair.store.list())
            if paused == meanwhile:
                assert sorted([traced.result.code, traced.other.code]) == [0, 1] and listed == {"first"}
            pair.check(listed)
            assert listed or not os.path.lexists(pair.store.image("first")), "something unfinished is left"
            pair.finish()
        except AssertionError as error:
            raise AssertionError(f"before call {at} of {count} ({traced.last}): {error}") from error
        points.covered(f"the same id, {paused}, {meanwhile}", count)
