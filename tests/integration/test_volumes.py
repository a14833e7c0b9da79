"""The volumes that an image declares: inside its limit and stats, with what the image has there, and only such that a runtime may see."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import mounts
from support.accounts import FIRST, User
from support.archive import Archive
from support.command import MIB, Store
from support.tree import assert_same, photograph

Image = Callable[..., str]
MakeStore = Callable[..., Store]


def fill(path: Path, size: int) -> int:
    """Write as an application would; gives the bytes that went."""
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=256K", f"count={size // (256 << 10)}", "conv=fsync"], capture_output=True)
    return path.stat().st_size


def sources(store: Store, url: str, image_id: str, *flags: str) -> dict[str, Path]:
    """Make an image; where each of its volumes is."""
    spec = json.loads(store.run("create", "--json", *flags, url, image_id).ok().out)
    return {mount["destination"]: Path(mount["source"]) for mount in spec.get("mounts", []) if mount["destination"] != "/"}


def declaring(*paths: str) -> dict[str, Any]:
    return {"Volumes": {path: {} for path in paths}}


def content() -> Archive:
    """A directory with everything that a tree can have."""
    return (
        Archive()
        .dir("data", mode=0o2750, uid=7, gid=8)
        .file("data/large", os.urandom(5 * MIB), uid=7, gid=8, mode=0o640)
        .file("data/small", "s", mode=0o4755, uid=9, gid=9)
        .link("data/hard", "data/small")
        .symlink("data/link", "/etc/passwd", uid=3, gid=3)
        .dir("data/closed", mode=0o700, uid=33, gid=33)
        .file("data/closed/f", "c", uid=33, gid=33)
        .file("outside", "o")
    )


LIMIT = ("--disk-limit-size-bytes", str(20 * MIB))


@pytest.mark.parametrize("flags", [(), ("--exclude-image-from-quota",), ("--without-mount",)], ids=str)
def test_volumes_are_inside_the_limit_and_the_stats(store: Store, image: Image, flags: tuple[str, ...]) -> None:
    url = image(Archive().file("f"), runtime=declaring("/a", "/b"))
    found = sources(store, url, "one", *LIMIT, *flags)
    before = store.stats("one")[1]
    assert fill(found["/a"] / "f", 8 * MIB) == 8 * MIB
    mounts.tool("sync", "-f", store.path)
    assert 8 * MIB <= store.stats("one")[1] - before < 9 * MIB
    assert fill(found["/b"] / "f", 60 * MIB) < 13 * MIB
    tree = store.image("one") / ("snapshot" if "--without-mount" in flags else "rootfs")
    assert fill(tree / "f", 20 * MIB) < MIB
    mounts.tool("sync", "-f", store.path)
    assert 18 * MIB < store.stats("one")[1] < 21 * MIB
    assert "nothing found" in store.run("check").ok().out
    store.delete("one")
    store.clean()
    assert store.groups() == set() and store.subvolumes() == []


def test_volumes_of_an_image_without_limit_are_in_its_stats(store: Store, image: Image) -> None:
    found = sources(store, image(Archive().file("f"), runtime=declaring("/a")), "one")
    fill(found["/a"] / "f", 8 * MIB)
    mounts.tool("sync", "-f", store.path)
    assert 8 * MIB <= store.stats("one")[1] < 9 * MIB
    report = json.loads(store.run("stats", "--store").ok().out)
    assert 8 * MIB <= report["by_image"][0]["exclusive_bytes_used"] < 9 * MIB


def test_under_full_accounting_each_volume_has_the_limit(make_store: MakeStore, image: Image) -> None:
    store = make_store("--quota", "full")
    found = sources(store, image(Archive().file("f"), runtime=declaring("/a")), "one", *LIMIT)
    assert 15 * MIB < fill(found["/a"] / "f", 60 * MIB) < 21 * MIB
    mounts.tool("sync", "-f", store.path)
    assert 15 * MIB < store.stats("one")[1] < 22 * MIB
    store.delete("one")
    assert "nothing found" in store.run("check").ok().out


def test_limits_hold_after_a_migration(make_store: MakeStore, image: Image) -> None:
    store = make_store("--quota", "full")
    found = sources(store, image(Archive().file("f"), runtime=declaring("/a")), "one", *LIMIT)
    store.run("migrate", "--quota", "simple").ok()
    assert fill(found["/a"] / "f", 60 * MIB) < 21 * MIB
    assert fill(store.rootfs("one") / "f", 60 * MIB) < 2 * MIB


@pytest.mark.parametrize("who", ["root", "mapped root", "user"])
def test_a_volume_holds_what_the_image_has_there(make_store: MakeStore, image: Image, user: User, who: str) -> None:
    flags = () if who == "root" else ("--rootless", f"{user.name}:{user.name}")
    store = Store(make_store(*flags).path, uid=user.uid if who == "user" else None)
    url = image(content(), runtime=declaring("/data"))
    # What is shared with the image costs nothing: the limit has room for half of it.
    found = sources(store, url, "one", "--exclude-image-from-quota", "--disk-limit-size-bytes", str(3 * MIB))
    there, copied = photograph(store.rootfs("one") / "data"), photograph(found["/data"])
    assert_same(copied, there)
    root = found["/data"].stat()
    first = 0 if who == "root" else FIRST - 1
    assert (root.st_mode & 0o7777, root.st_uid, root.st_gid) == (0o2750, first + 7, first + 8)
    assert (found["/data"] / "hard").stat().st_ino == (found["/data"] / "small").stat().st_ino
    assert json.loads((store.image("one") / "image.json").read_text())["config"] == declaring("/data")
    (found["/data"] / "small").write_text("changed")
    assert (store.rootfs("one") / "data" / "small").read_text() == "s"
    store.delete("one")
    assert not store.image("one").exists()


def test_the_tree_does_not_show_that_volumes_were_made(store: Store, image: Image) -> None:
    archive = content()
    with_volumes = store.create(image(archive, runtime=declaring("/data", "/new")), "one", *LIMIT)
    without = store.create(image(archive), "two", *LIMIT)
    assert_same(photograph(with_volumes), photograph(without))
    assert sorted(os.listdir(store.image("two"))) == ["image.json", "rootfs"]


def test_where_the_image_has_nothing_a_volume_is_empty_and_roots(make_store: MakeStore, image: Image, user: User) -> None:
    url = image(Archive().file("file", "x").symlink("dangling", "/nowhere"), runtime=declaring("/new", "/file", "/dangling"))
    for flags, owner in (((), 0), (("--rootless", f"{user.name}:{user.name}"), user.uid)):
        for path in sources(make_store(*flags), url, "one").values():
            found = path.stat()
            assert (os.listdir(path), found.st_mode & 0o7777, found.st_uid) == ([], 0o755, owner)


def test_links_lead_nowhere_but_into_the_image(store: Store, image: Image, scratch: Path) -> None:
    """Whatever the image puts on the way, the host's files never come in."""
    (scratch / "secret").mkdir()
    (scratch / "secret" / "key").write_text("secret")
    url = image(
        Archive()
        .symlink("absolute", str(scratch / "secret"))
        .symlink("up", "../" * 20 + str(scratch / "secret"))
        .symlink("inner", "/real")
        .dir("real")
        .file("real/f", "inside"),
        runtime=declaring("/absolute", "/up", "/inner"),
    )
    found = sources(store, url, "one")
    assert [os.listdir(found[path]) for path in ("/absolute", "/up", "/inner")] == [[], [], ["f"]]


def test_what_does_not_fit_is_refused_whole(store: Store, image: Image) -> None:
    archive = Archive().dir("data")
    for number in range(2000):
        archive.file(f"data/{number}", os.urandom(1500))
    url = image(archive, runtime=declaring("/data"))
    result = store.refuse(url, "one", "--exclude-image-from-quota", "--disk-limit-size-bytes", str(MIB))
    assert "volume `/data` does not fit into the disk limit" in result.message and "--disk-limit-size-bytes" in result.out
    store.create(url, "one", "--exclude-image-from-quota", "--disk-limit-size-bytes", str(20 * MIB))


def test_idmapped_images_have_translated_volumes(store: Store, image: Image) -> None:
    flags = ["--idmapped-mount"]
    for kind in ("uid", "gid"):
        flags += [f"--{kind}-mapping", "0:500000:65536"]
    found = sources(store, image(content(), runtime=declaring("/data", "/new")), "one", *flags)
    assert found["/data"].stat().st_uid == 500007 and found["/new"].stat().st_uid == 500000
    assert_same(photograph(found["/data"]), photograph(store.rootfs("one") / "data"))
    store.delete("one")


def test_many_volumes_are_bounded(store: Store, image: Image) -> None:
    paths = [f"/v{number}" for number in range(128)]
    assert len(sources(store, image(Archive().file("f"), runtime=declaring(*paths)), "one", *LIMIT)) == 128
    store.delete("one")
    store.clean()
    assert store.subvolumes() == []
    refused = store.refuse(image(Archive().file("f"), runtime=declaring(*paths, "/one-more")), "two")
    assert "more than 128 volumes" in refused.message


@pytest.mark.parametrize("path", ["", "data", "..", "/", "/a/..", "/proc", "/proc/sys", "/a\nb", "/a\x00b", "/a\x1b[2J"])
def test_places_that_no_runtime_should_see(store: Store, image: Image, path: str) -> None:
    assert "image configuration: volume `" in store.refuse(image(Archive().file("f"), runtime=declaring(path))).message


def test_places_are_written_in_one_way(store: Store, image: Image) -> None:
    url = image(Archive().file("f"), runtime=declaring("/data/", "/data", "//x/./y/../z"))
    assert sorted(sources(store, url, "one")) == ["/data", "/x/z"]


@pytest.mark.parametrize("variable", ["", "=x", "A=b\x00c"])
def test_variables_that_no_process_can_have(store: Store, image: Image, variable: str) -> None:
    assert "image configuration: variable `" in store.refuse(image(Archive().file("f"), runtime={"Env": ["A=b", variable]})).message


def test_killed_creates_leave_nothing_that_stays(store: Store, image: Image) -> None:
    """As a kill between the tree and its name leaves it."""
    url = image(content(), runtime=declaring("/data"))
    store.create(url, "one", *LIMIT)
    store.rootfs("one").rename(store.image("one") / "rootfs.unlimited")
    assert store.list() == []
    store.create(url, "one", *LIMIT)
    store.rootfs("one").rename(store.image("one") / "rootfs.unlimited")
    store.clean()
    assert store.subvolumes() == [] and store.groups() == set() and os.listdir(store.path / "images") == []
