"""Random stacks of layers mean to the command what they mean to the model (support/model.py)."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from support.accounts import User
from support.archive import Archive
from support.command import Store, new_id
from support.layout import write_layout
from support.model import Model, Unusable
from support.stacks import PAIR, STACK, Item, apply_to_model, archive_of, is_clear
from support.tree import Tree, photograph


class Place(NamedTuple):
    """A store, somewhere for images, and how to look at a tree so that it shows the ids of the image."""

    store: Store
    scratch: Path
    look: Callable[[Path], Tree]
    fewer: int
    """By what to divide the number of examples: what is repeated as an ordinary user is only there to find what differs."""


@pytest.fixture(scope="module", params=["root", "user"])
def place(request: pytest.FixtureRequest, shared_store: Store, module_scratch: Path, user: User) -> Place:
    """As root, and as an ordinary user on a store of its own."""
    if request.param == "root":
        return Place(shared_store, module_scratch, photograph, fewer=1)
    store = Store(module_scratch / "own")
    store.init("--rootless", f"{user.name}:{user.name}").ok()
    return Place(Store(store.path, uid=user.uid), module_scratch, lambda rootfs: user.seen_from_inside(photograph(rootfs)), fewer=4)


PAD = [Item("directory", "pad", mtime=5)]
"""A layer; with enough of them around a stack, its layers share a volume."""


def test_stack_equals_the_model(place: Place) -> None:
    config = place.scratch / "join.yml"
    config.write_text("create: {join_small_layers: true}\n")
    joined = Store(place.store.path, "--config", str(config), uid=place.store.uid)

    @settings(max_examples=80 // place.fewer)
    @given(stack=STACK, is_joined=st.booleans())
    def holds(stack: list[list[Item]], is_joined: bool) -> None:
        store, scratch, look, _ = place
        model = Model()
        refused = False
        if is_joined:
            stack = [PAD, *stack, PAD, PAD, PAD, PAD]
        for i, items in enumerate(stack):
            assume(is_clear(model, items))
            try:
                apply_to_model(model, items)
            except Unusable:
                refused = True
                stack = stack[: i + 1]
                break
        event(f"{len(stack)} layers, {'refused' if refused else 'made'}")
        image_id = new_id()
        url = write_layout(scratch / image_id, *map(archive_of, stack))
        if is_joined:
            store = joined
        if refused:
            store.refuse(url, image_id)
            return
        rootfs = store.create(url, image_id)
        model.assert_equals(look(rootfs))
        assert size_on_record(store, image_id) == content_of(rootfs)
        store.delete(image_id)

    holds()


def size_on_record(store: Store, image_id: str) -> int:
    """What limits and stats go by."""
    top = json.loads(store.record(image_id).read_text())[-1]
    return int(json.loads((store.path / "meta" / f"volume-{top}").read_text())["TreeSize"])


def content_of(rootfs: Path) -> int:
    """Bytes of content in all files, of those with several names once, without holes."""
    found = {}
    for folder, _, names in os.walk(rootfs):
        for status in (os.lstat(f"{folder}/{name}") for name in names):
            if stat.S_ISREG(status.st_mode):
                found[status.st_ino] = min(status.st_size, status.st_blocks * 512)
    return sum(found.values())


def test_place_of_markers_does_not_matter(place: Place) -> None:
    """The same entries with the markers elsewhere give the same tree."""

    @settings(max_examples=40 // place.fewer)
    @given(pair=PAIR, order=st.randoms(use_true_random=False))
    def holds(pair: tuple[list[Item], list[Item]], order: Random) -> None:
        lower, upper = pair
        store, scratch, look, _ = place
        model = Model()
        entries = [item for item in upper if item.kind not in ("whiteout", "opaque")]
        markers = [item for item in upper if item.kind in ("whiteout", "opaque")]
        assume(markers)
        try:
            assume(is_clear(model, lower))
            apply_to_model(model, lower)
            assume(is_clear(model, upper))
            apply_to_model(model, upper)
        except Unusable:
            assume(False)
        shuffled = list(entries)
        for marker in markers:
            shuffled.insert(order.randint(0, len(shuffled)), marker)
        for items in ([*markers, *entries], [*entries, *markers], shuffled):
            image_id = new_id()
            rootfs = store.create(write_layout(scratch / image_id, archive_of(lower), archive_of(items)), image_id)
            model.assert_equals(look(rootfs))
            store.delete(image_id)

    holds()


def test_more_levels_than_descriptors_a_process_has_by_default(place: Place) -> None:
    """The soft limit is a default; what the caller may have is the hard one."""
    store, scratch, _, _ = place
    deep = "/".join("d" * 1100)
    url = write_layout(scratch / new_id(), Archive().file(f"{deep}/f", "x"), Archive().whiteout("d/d"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        rootfs = store.create(url, new_id())
        store.run("check", "--deep").ok()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert os.listdir(rootfs / "d") == []


def test_attributes_whose_names_cannot_be_listed(place: Place) -> None:
    """The kernel sets more of them than it lists; `check --deep` could not tell such a file from a damaged one."""
    store, scratch, _, _ = place

    def layer(count: int) -> Archive:
        archive = Archive()
        archive.pax({f"SCHILY.xattr.user.{i:0240}": "x" for i in range(count)})
        return archive.file("f", "x")

    refused = store.refuse(write_layout(scratch / new_id(), layer(275)), new_id())
    assert "extended attributes whose names exceed 61440 bytes together" in refused.message
    store.create(write_layout(scratch / new_id(), layer(245)), new_id())
    store.run("check", "--deep").ok()
