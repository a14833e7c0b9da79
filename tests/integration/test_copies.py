"""A store that was copied file by file: subvolumes became directories, and nothing with data in it is thrown away silently."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from support.archive import Archive
from support.command import Store

Image = Callable[..., str]
MakeStore = Callable[..., Store]


@pytest.fixture(params=["rootfs", "snapshot"])
def copied(request: pytest.FixtureRequest, make_store: MakeStore, image: Image) -> tuple[Store, str]:
    """A copy, whose image ``one`` holds what a container wrote, and what that was made from."""
    url = image(Archive().dir("data").file("data/f", "content"))
    old, new = make_store(), make_store()
    flags = ("--without-mount",) if request.param == "snapshot" else ()
    old.run("create", *flags, url, "one").ok()
    (old.image("one") / request.param / "data" / "precious").write_text("x")
    subprocess.run(["cp", "-a", f"{old.path}/.", new.path], check=True)
    return new, url


def precious(store: Store) -> list[str]:
    return [path.read_text() for path in store.image("one").glob("*/data/precious")]


def test_what_a_container_wrote_stays(copied: tuple[Store, str]) -> None:
    store, url = copied
    assert store.list() == []
    report = store.run("check")
    assert report.code == 1 and f"error: copied-image: {store.image('one')}: a copy of an image" in report.out
    for command in (["create", url, "one"], ["clean"]):
        result = store.run(*command).failed()
        assert f"{store.image('one')} is a copy of an image" in result.message and "cp, rsync and tar" in result.out
    store.run("check", "--repair")
    store.run("create", "--with-clean", url, "two").ok()
    assert precious(store) == ["x"]
    store.delete("one")
    assert not store.image("one").exists()


def test_layers_are_unpacked_anew_and_once(copied: tuple[Store, str]) -> None:
    store, url = copied
    [chain] = store.volumes()
    for image_id in ("two", "three"):
        rootfs = store.create(url, image_id)
        assert (rootfs / "data" / "f").read_text() == "content"
    kept = [name for name in store.volumes() if name != chain]
    assert len(kept) == 1 and kept[0].startswith(f"copy-{chain}")
    assert os.listdir(store.path / "volumes" / kept[0]) == ["data"]
    report = store.run("check").out
    assert "incomplete-volume" not in report and "a copy of a layer" in report
    for image_id in ("one", "two", "three"):
        store.delete(image_id)
    store.clean()
    assert store.volumes() == kept


def test_what_was_never_finished_is_no_copy(store: Store, image: Image) -> None:
    """The empty `rootfs` beside a `snapshot` that was not made yet."""
    (store.image("dead") / "rootfs").mkdir(parents=True)
    store.clean()
    assert os.listdir(store.path / "images") == []
