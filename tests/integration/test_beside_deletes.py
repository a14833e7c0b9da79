"""What looks at a store while images and volumes go: what went meanwhile is no finding and no failure."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from groot_fast import _core
from groot_fast.idmap.trees import Direct
from groot_fast.upkeep.check import check
from groot_fast.upkeep.report import Report, describe_images, describe_store
from support.archive import Archive
from support.command import Store

Write = Callable[..., str]


class Vanishing:
    """A store in which the image `goes` is deleted when one of its limits is looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._core: _core.Store | None = _core.Store.open(store.path, drax="drax")

    def close(self) -> None:
        """Let the file system go."""
        self._core = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._core, name)
        if name not in ("image_limit", "kernel_limits"):
            return found

        def delete_first(image_id: str) -> Any:
            if image_id == "goes" and self._store.image("goes").exists():
                self._store.delete("goes")
            return found(image_id)

        return delete_first


@pytest.fixture
def vanishing(store: Store, image: Write) -> Iterator[_core.Store]:
    """One with two images; the other one stays."""
    url = image(Archive().file("f", b"x"))
    for image_id in ("goes", "stays"):
        store.create(url, image_id, "--disk-limit-size-bytes", "50000000")
    made = Vanishing(store)
    yield cast(_core.Store, made)
    made.close()


def test_check(store: Store, vanishing: _core.Store) -> None:
    assert check(vanishing, Direct(vanishing, _core.Cancel())) == []
    assert store.list() == ["stays"]


@pytest.mark.parametrize("ask", [describe_images, lambda store: describe_store(store, 0)["by_image"]])
def test_reports(store: Store, vanishing: _core.Store, ask: Callable[[_core.Store], list[Report]]) -> None:
    assert [report["id"] for report in ask(vanishing)] == ["stays"]
    assert store.list() == ["stays"]


def test_sizes_of_volumes(store: Store, image: Write) -> None:
    store.create(image(Archive().file("f", b"x")), "c")
    [volume] = store.volumes()
    record = store.path / "meta" / f"volume-{volume}"
    record.unlink()
    holder = os.open(store.path / "locks" / f"{volume}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    store.run("generate-volume-size-metadata").ok()
    assert not record.exists(), "who removes it wants no record"
    os.close(holder)
    store.run("generate-volume-size-metadata").ok()
    assert record.exists()
