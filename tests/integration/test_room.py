"""How full a store is: also below a sparse file; and a clean that starts by free space, and keeps what was used last."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support import mounts
from support.archive import Archive
from support.command import MIB, Result, Store

Image = Callable[..., str]


def configured(store: Store, scratch: Path, text: str) -> tuple[str, str]:
    path = scratch / "config.yml"
    path.write_text(text)
    return ("--config", str(path))


def findings(store: Store, *options: str) -> dict[str, tuple[str, str]]:
    """State and text by check."""
    report = Store(store.path, *options).run("doctor", "--json").out
    return {finding["check"]: (finding["state"], finding["text"]) for finding in json.loads(report)}


# -- a sparse file ------------------------------------------------------------------------


@pytest.fixture
def cramped(scratch: Path) -> Store:
    """A store of 2 GiB in a sparse file, on a disk of 600 MiB."""
    mounts.tool("truncate", "-s", str(600 * MIB), scratch / "disk")
    mounts.tool("mkfs.ext4", "-q", "-m", "0", scratch / "disk")
    (scratch / "host").mkdir()
    mounts.tool("mount", "-o", "loop", scratch / "disk", scratch / "host")
    store = Store(scratch / "host" / "store")
    store.init(size=2048 * MIB).ok()
    return store


def test_what_is_free_below_counts(cramped: Store, image: Image) -> None:
    def below() -> int:
        host = os.statvfs(cramped.path.parent)
        return host.f_bavail * host.f_frsize

    space = json.loads(cramped.run("stats", "--store").ok().out)["file_system"]
    assert space["size_bytes"] == 2048 * MIB and space["available_below_bytes"] == pytest.approx(below(), abs=4 * MIB)
    assert space["available_below_bytes"] <= space["available_bytes"] < 600 * MIB
    assert findings(cramped)["free space"][0] == "ok"
    (cramped.path.parent / "other").write_bytes(bytes(below() - 20 * MIB))
    state, text = findings(cramped)["free space"]
    assert state == "warn" and f"the file system of {cramped.backing} has no more" in text
    assert "clean completed" in cramped.run("clean", "--free-bytes", str(200 * MIB)).ok().out
    assert "not reached" in cramped.run("clean", "--free-bytes", str(10 * MIB)).ok().out


def test_a_file_that_has_all_its_blocks_needs_none(cramped: Store, scratch: Path) -> None:
    cramped.run("delete-store").ok()
    cramped.init(size=300 * MIB).ok()
    mounts.tool("fallocate", "-l", str(300 * MIB), cramped.backing)
    host = os.statvfs(cramped.path.parent)
    (cramped.path.parent / "other").write_bytes(bytes(host.f_bavail * host.f_frsize - MIB))
    assert json.loads(cramped.run("stats", "--store").ok().out)["file_system"]["available_bytes"] > 200 * MIB
    assert findings(cramped)["free space"][0] == "ok"


@pytest.mark.parametrize(("size", "state", "cure"), [(1024, "ok", ""), (2048, "warn", "init-store"), (512, "warn", "init-store")])
def test_doctor_knows_the_size(store: Store, scratch: Path, size: int, state: str, cure: str) -> None:
    options = configured(store, scratch, f"init: {{store_size_bytes: {size * MIB}}}\n")
    found, text = findings(store, *options)["store size"]
    assert found == state and (state == "ok" or f"configured are {size * MIB}" in text)


# -- clean --------------------------------------------------------------------------------


@pytest.fixture
def three(store: Store, image: Image) -> tuple[Store, list[str]]:
    """A store with the layers of three images, 10 MiB each, used in this order; and their names."""
    names: list[str] = []
    for number in range(3):
        url = image(Archive().file(f"f{number}", os.urandom(10 * MIB)))
        known = set(store.volumes())
        store.create(url, f"c{number}")
        store.delete(f"c{number}")
        [new] = set(store.volumes()) - known
        names.append(new)
    for age, name in enumerate(reversed(names)):
        os.utime(store.path / "locks" / f"{name}.lock", (1e9 - age, 1e9 - age))
    return store, names


def clean(store: Store, *flags: str) -> Result:
    return store.run("clean", *flags).ok()


def test_those_go_first_that_were_used_longest_ago(three: tuple[Store, list[str]]) -> None:
    store, names = three
    clean(store, "--keep-bytes", str(25 * MIB))
    assert sorted(store.volumes()) == sorted(names[1:])
    clean(store, "--keep-bytes", str(15 * MIB))
    assert store.volumes() == names[2:]
    clean(store, "--keep-bytes", "0")
    assert store.volumes() == []


def test_a_use_makes_a_layer_young(store: Store, image: Image) -> None:
    urls = [image(Archive().file(f"f{number}", os.urandom(10 * MIB))) for number in range(2)]
    for url in urls:
        store.create(url, "c")
        store.delete("c")
    for lock in (store.path / "locks").glob("*.lock"):
        os.utime(lock, (1e9, 1e9))
    store.create(urls[0], "c")
    store.delete("c")
    clean(store, "--keep-bytes", str(15 * MIB))
    [left] = store.volumes()
    assert os.listdir(store.path / "volumes" / left) == ["f0"]


def test_of_one_image_the_upper_layers_go_first(store: Store, image: Image) -> None:
    layers = [Archive().file(f"f{number}", os.urandom(10 * MIB)) for number in range(3)]
    store.create(image(*layers), "c")
    store.delete("c")
    for lock in (store.path / "locks").glob("*.lock"):
        os.utime(lock, (1e9, 1e9))
    clean(store, "--keep-bytes", str(25 * MIB))
    assert sorted(len(os.listdir(store.path / "volumes" / name)) for name in store.volumes()) == [1, 2]


def test_conditions(three: tuple[Store, list[str]], scratch: Path) -> None:
    store, _ = three
    for flags in (("--free-bytes", str(100 * MIB)), ("--free-percent", "50"), ("--threshold-bytes", str(40 * MIB), "--free-percent", "1")):
        assert clean(store, *flags).out == "threshold not reached: skipping clean\n"
    assert len(store.volumes()) == 3
    assert "invalid argument: 101 percent" in store.run("clean", "--free-percent", "101").message
    options = configured(store, scratch, f"clean: {{free_percent: 99, keep_bytes: {25 * MIB}}}\n")
    assert Store(store.path, *options).run("clean").ok().out == "clean completed\n"
    assert len(store.volumes()) == 2
    assert clean(store, "--free-bytes", str(1024 * MIB)).out == "clean completed\n"
    assert store.volumes() == []


def test_used_and_ignored_layers_stay_whatever_is_to_be_kept(store: Store, image: Image) -> None:
    urls = [image(Archive().file(f"f{number}", os.urandom(10 * MIB))) for number in range(3)]
    for number, url in enumerate(urls):
        store.create(url, f"c{number}")
    for image_id in ("c1", "c2"):
        store.delete(image_id)
    clean(store, "--keep-bytes", "1", "--ignore-image", urls[1])
    assert sorted(os.listdir(store.path / "volumes" / name)[0] for name in store.volumes()) == ["f0", "f1"]


def test_a_threshold_above_what_the_disk_can_hold_is_capped(make_store: Callable[..., Store], image: Image, scratch: Path) -> None:
    store = make_store(size=300 * MIB)
    huge = ("--threshold-bytes", str(10 << 40))
    store.create(image(Archive().file("f", os.urandom(20 * MIB))), "c")
    store.delete("c")
    logged = Store(store.path, "--log-level", "info").run("clean", *huge)
    assert logged.code == 0 and "threshold not reached" in logged.out and "threshold-above-what-the-disk-can-hold" in logged.err
    options = configured(store, scratch, f"clean: {{threshold_bytes: {10 << 40}}}\n")
    state, text = findings(store, *options)["clean threshold"]
    assert state == "warn" and "more than the disk can hold" in text


def test_a_capped_threshold_is_reached(make_store: Callable[..., Store], image: Image) -> None:
    store = make_store(size=300 * MIB)
    for number in range(30):
        done = store.run("create", image(Archive().file("f", os.urandom(10 * MIB))), f"c{number}")
        if done.code != 0:
            break
        if json.loads(store.run("stats", "--store").ok().out)["file_system"]["available_bytes"] < 12 * MIB:
            break
    for image_id in store.list():
        store.delete(image_id)
    assert clean(store, "--threshold-bytes", str(10 << 40)).out == "clean completed\n"
    assert store.volumes() == []


def test_what_was_deleted_a_moment_ago_makes_room(make_store: Callable[..., Store], image: Image) -> None:
    """The kernel frees it when it wakes: a create that finds no room wakes it and waits, also if it finds no layer to remove."""
    store = make_store(size=300 * MIB)
    url = image(Archive().file("f", os.urandom(MIB)))
    for number in range(40):
        (store.create(url, f"c{number}") / "written").write_bytes(os.urandom(MIB))
    with contextlib.suppress(OSError), (store.create(url, "full") / "written").open("wb", buffering=0) as file:
        while file.write(os.urandom(MIB)):
            os.fdatasync(file.fileno())
    for number in range(40):
        store.delete(f"c{number}")
    for number in range(20):
        store.create(url, f"new{number}")
