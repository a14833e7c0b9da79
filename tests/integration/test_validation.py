"""What one create did not validate is no other create's that does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_registry import FakeRegistry
from support.archive import Archive, Layer
from support.command import Store
from support.layout import write_layout
from support.pulls import blob_gets, publish, trusting

SKIP = "--skip-layer-validation"
BASE = Layer(Archive().file("base", b"base").tar)
GOOD = Layer(Archive().file("sh", b"good").tar)
EVIL = Layer(Archive().file("sh", b"evil, and longer").tar)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry on loopback."""
    with FakeRegistry() as made:
        yield made


@pytest.fixture
def lie(scratch: Path) -> str:
    """A layout that gives the good layers' names to others."""
    return write_layout(scratch / "layout", BASE, Layer(EVIL.tar, diff_id=GOOD.diff_id))


def test_a_validated_create_builds_its_own(store: Store, registry: FakeRegistry, lie: str) -> None:
    evil = store.create(lie, "evil", SKIP)
    assert (evil / "sh").read_bytes() == b"evil, and longer"
    image = publish(registry, BASE, GOOD)
    good = store.create(image.url, "good", *trusting(registry))
    assert (good / "sh").read_bytes() == b"good"
    assert blob_gets(registry, image) == [1, 1], "the layer below was not validated, either"
    assert (evil / "sh").read_bytes() == b"evil, and longer", "an image is its own"
    store.run("check").ok()
    # In the other direction there is nothing against it.
    assert (store.create(lie, "third", SKIP) / "sh").read_bytes() == b"good"
    store.clean()
    assert len(store.volumes()) == 2


def test_a_layout_that_is_validated_builds_its_own(store: Store, scratch: Path, lie: str) -> None:
    """Without a registry it is the native create that meets the mark."""
    store.create(lie, "evil", SKIP)
    good = write_layout(scratch / "good", BASE, GOOD)
    assert (store.create(good, "first") / "sh").read_bytes() == b"good"
    assert (store.create(good, "second") / "sh").read_bytes() == b"good"


def test_a_marked_volume_serves_who_does_not_validate(store: Store, lie: str) -> None:
    store.create(lie, "one", SKIP)
    before = {name: (store.path / "volumes" / name).stat().st_ino for name in store.volumes()}
    store.create(lie, "two", SKIP)
    assert {name: (store.path / "volumes" / name).stat().st_ino for name in store.volumes()} == before
