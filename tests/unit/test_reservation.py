"""Taking an image id: every moment at which somebody else may look."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from groot_fast.errors import ImageExists
from groot_fast.idmap import Mappings
from groot_fast.store import images
from groot_fast.store.layout import FOLDERS, Store
from support.plain import PlainDriver

DRIVER: Any = PlainDriver()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    return Store(str(tmp_path), Mappings([], []))


def finish(store: Store, image_id: str) -> None:
    """Make an image the way a commit does."""
    os.mkdir(f"{store.image(image_id)}/rootfs")


def test_a_clean_at_the_worst_moment_takes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making the directory and locking it, a clean comes by and looks for what the dead left."""
    lock = images.lock_directory

    def clean_first(path: str) -> int:
        monkeypatch.setattr(images, "lock_directory", lock)
        images.remove_unfinished(store, DRIVER)
        return lock(path)

    monkeypatch.setattr(images, "lock_directory", clean_first)
    with images.Reservation(store, DRIVER, "new") as reservation:
        assert os.path.isdir(reservation.path)
        images.remove_unfinished(store, DRIVER)
        assert os.path.isdir(reservation.path), "held, so not left by the dead"
        finish(store, "new")
    assert images.list_images(store, DRIVER) == ["new"]
    assert os.listdir(store.folder("tmp")) == []


@pytest.mark.parametrize("who", ["clean", "check"])
def test_somebody_comes_by_before_the_directory_is_locked(store: Store, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """A clean takes it for left by the dead; a check holds it for the moment in which we try."""
    lock, tries = images.lock_directory, []

    def disturbed(path: str) -> int:
        tries.append(path)
        if len(tries) > 1:
            return lock(path)
        if who == "clean":
            os.rmdir(path)
            return lock(path)
        other = os.open(path, os.O_RDONLY)
        fcntl.flock(other, fcntl.LOCK_SH)
        try:
            return lock(path)
        finally:
            os.close(other)

    monkeypatch.setattr(images, "lock_directory", disturbed)
    with images.Reservation(store, DRIVER, "new") as reservation:
        assert os.path.isdir(reservation.path)
        assert images.lock_directory(reservation.path) == -1, "held"
        finish(store, "new")
    assert images.list_images(store, DRIVER) == ["new"]
    assert os.listdir(store.folder("tmp")) == []


def test_second_comer(store: Store) -> None:
    with images.Reservation(store, DRIVER, "one"):
        finish(store, "one")
        with pytest.raises(ImageExists, match="image for id `one` already exists"):
            images.Reservation(store, DRIVER, "one")
    with pytest.raises(ImageExists):
        images.Reservation(store, DRIVER, "one")
    assert os.listdir(store.folder("tmp")) == []


def test_second_comer_while_the_first_is_at_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CLAIM_DEADLINE", 0.05)
    with images.Reservation(store, DRIVER, "one"), pytest.raises(ImageExists):
        images.Reservation(store, DRIVER, "one")
    assert os.listdir(store.folder("tmp")) == []


def test_what_the_dead_left_is_replaced(store: Store) -> None:
    os.mkdir(store.image("one"))
    Path(store.image("one"), "image.json").write_text("old")
    with images.Reservation(store, DRIVER, "one") as reservation:
        assert os.listdir(reservation.path) == []
        finish(store, "one")
    assert images.list_images(store, DRIVER) == ["one"]


def test_failure_takes_everything_back(store: Store) -> None:
    with pytest.raises(RuntimeError, match="no"), images.Reservation(store, DRIVER, "one") as reservation:
        Path(reservation.path, "image.json").write_text("x")
        raise RuntimeError("no")
    assert os.listdir(store.folder("images")) == [] and os.listdir(store.folder("tmp")) == []
