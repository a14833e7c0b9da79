"""G: hostile and damaged stores, ids, limits and mappings; and other processes that swap things while we work."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support import mounts
from support.accounts import User
from support.archive import Archive
from support.attack import Attack, Sentinel
from support.command import COMMAND, MIB, Store, new_id
from support.tree import assert_same, names, photograph

Image = Callable[..., str]
MakeStore = Callable[..., Store]
SMALL = Archive().file("f", "x")


@pytest.fixture
def sentinel(scratch: Path) -> Sentinel:
    """A tree beside the store."""
    return Sentinel(scratch / "sentinel")


# -- G2, G3 ------------------------------------------------------------------------------------


def test_G2_a_full_store_is_refused_and_given_back(make_store: MakeStore, image: Image, sentinel: Sentinel) -> None:
    store = make_store(size=256 * MIB)
    layer = Archive().file("big", bytes(600 * MIB))
    result = store.refuse(image(layer))
    assert "no space left on device" in result.message
    sentinel.check()
    store.clean()
    assert store.volumes() == []
    store.create(image(SMALL), "after")
    assert store.list() == ["after"]


def test_G3_many_creates_and_cleans_and_deletes(store: Store, image: Image) -> None:
    """The same new image again and again, with clean and delete in between: each create succeeds and nothing stays."""
    url = image(Archive().file("low", os.urandom(MIB)), Archive().file("top", os.urandom(MIB)))
    creates = [store.start("create", url, f"i{n}") for n in range(16)]
    cleans = [store.start("clean") for _ in range(8)]
    for process in creates + cleans:
        store.finish(process).ok()
    assert sorted(store.list()) == sorted(f"i{n}" for n in range(16))
    # Volumes of living images stay, whatever clean did meanwhile.
    store.clean()
    assert len(store.volumes()) == 2
    for process in [store.start("delete", f"i{n}") for n in range(16)] + [store.start("clean") for _ in range(4)]:
        store.finish(process).ok()
    store.clean()
    assert store.list() == [] and store.volumes() == [] and store.temporary() == [] and store.subvolumes() == []


# -- G4: ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image_id",
    ["../x", "/", "a/b", "/etc", "", ".", "..", "n" * 245, "n" * 300, "../../sentinel/dir", "ü" * 128, "new\nline", "\x1b[31mred"],
)
def test_G4_ids_that_are_refused(store: Store, image: Image, sentinel: Sentinel, image_id: str) -> None:
    before = photograph(store.path)
    result = store.run("create", image(SMALL), image_id)
    assert result.code == 1 and "Traceback" not in result.out + result.err, result
    assert result.message.isprintable()
    for command in ("delete", "stats"):
        assert "Traceback" not in store.run(command, image_id).out
    sentinel.check()
    assert store.list() == []
    assert set(photograph(store.path)) == set(before), "something was made or removed"


@pytest.mark.parametrize("image_id", ["grüße", "n" * 244, "a b", "a..b", "...", "image:x.json"])
def test_G4_ids_that_are_only_unusual(store: Store, image: Image, sentinel: Sentinel, image_id: str) -> None:
    url = image(SMALL)
    assert store.run("create", url, image_id).ok()
    assert "already exists" in store.run("create", url, image_id).failed().message
    assert store.run("stats", image_id).ok()
    assert store.run("delete", image_id).ok()
    store.clean()
    sentinel.check()
    assert os.listdir(store.path / "images") == os.listdir(store.path / "meta/dependencies") == store.volumes() == []


@pytest.mark.parametrize(
    "argument", ["{store}/images/../../sentinel", "{sentinel}", "{store}/images/", "{store}", "/", "{store}/images/i/rootfs"]
)
def test_G4_paths_of_no_image(store: Store, image: Image, sentinel: Sentinel, argument: str) -> None:
    store.create(image(SMALL), "i")
    for command in ("delete", "stats"):
        result = store.run(command, argument.format(store=store.path, sentinel=sentinel.path))
        assert "Traceback" not in result.out + result.err
    sentinel.check()
    assert store.list() == ["i"]


# -- G5, G6: the store's own files -------------------------------------------------------------


def test_G5_a_store_behind_a_link(store: Store, image: Image, scratch: Path, sentinel: Sentinel) -> None:
    """Whoever names the store may name it by a link; what is in it is not followed out of it."""
    link = scratch / "link-to-store"
    link.symlink_to(store.path)
    through = Store(link)
    through.create(image(SMALL), "i")
    through.delete("i")
    through.clean()
    sentinel.check()
    assert store.volumes() == []


@pytest.mark.parametrize("folder", ["images", "volumes", "meta/dependencies", "tmp", "locks"])
def test_G5_a_folder_of_the_store_is_a_link_to_the_host(store: Store, image: Image, sentinel: Sentinel, folder: str) -> None:
    """The owner of a store could do that, and wait for root to delete an image or to clean."""
    place = store.path / folder
    shutil.rmtree(place)
    place.symlink_to(sentinel.path)
    for arguments in (["create", image(SMALL), "i"], ["clean"], ["delete", "dir"], ["delete", "secret"], ["stats", "dir"]):
        result = store.run(*arguments)
        assert result.code == 1 or arguments[0] == "delete", result
        assert "Traceback" not in result.out + result.err
    store.run("list")
    sentinel.check()


def test_G5_others_cannot_reach_setuid_files(store: Store, image: Image, user: User) -> None:
    """CVE-2021-41103: a setuid program of an image is no program of the host's users."""
    rootfs = store.create(image(Archive().file("su", "#!", mode=0o4755)))
    for path in (rootfs / "su", store.path / "volumes"):
        done = subprocess.run(["stat", path], user=user.uid, group=user.gid, extra_groups=[], capture_output=True)
        assert done.returncode != 0, path


def test_G5_a_store_on_another_file_system(scratch: Path, sentinel: Sentinel) -> None:
    plain = Store(scratch / "plain")
    plain.path.mkdir()
    result = plain.run("init-store")
    assert result.code == 1 and "incompatible with requested driver" in result.message
    assert os.listdir(plain.path) == []
    sentinel.check()


def test_G5_a_read_only_store(store: Store, image: Image) -> None:
    store.create(image(SMALL), "i")
    mounts.tool("mount", "-o", "remount,ro", store.path)
    try:
        assert "read-only file system" in store.run("create", image(Archive().file("g")), "j").failed().message
        assert store.run("delete", "i").failed().message
        assert store.list() == ["i"]
    finally:
        mounts.tool("mount", "-o", "remount,rw", store.path)
    store.delete("i")


def test_G5_no_program_is_run_from_the_callers_directory(scratch: Path) -> None:
    """Root stands in a directory of somebody else's, and its PATH has entries that are relative."""
    tricks = scratch / "tricks"
    tricks.mkdir()
    for name in ("mkfs.btrfs", "mount", "umount"):
        (tricks / name).write_text(f"#!/bin/sh\ntouch {tricks}/taken-over\nexit 1\n")
        (tricks / name).chmod(0o755)
    store = Store(scratch / "store")
    environment = {"PATH": f".:{os.path.relpath('/', tricks)}{tricks}::{os.environ['PATH']}"}
    for command in (["init-store", "--store-size-bytes", str(256 * MIB)], ["delete-store"]):
        done = subprocess.run([COMMAND, "--store", store.path, *command], cwd=tricks, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done
    assert not (tricks / "taken-over").exists() and not store.path.exists()


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "dangling link"])
def test_G6_what_is_at_the_place_of_a_lock(store: Store, image: Image, sentinel: Sentinel, kind: str) -> None:
    path = store.path / "locks" / "global-groot-lock.lock"
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(sentinel.path / ("secret" if kind == "link" else "made"))
    result = store.run("create", image(SMALL), "i")
    # A pipe can be locked as well as a file; anything else is named.
    assert result.code == 0 or "creating lock file for key `global-groot-lock`" in result.message, result
    assert "Traceback" not in result.out + result.err
    sentinel.check()
    assert not (sentinel.path / "made").exists()


def test_G6_a_lock_of_the_dead_and_one_of_the_future(store: Store, image: Image) -> None:
    lock = store.path / "locks" / "global-groot-lock.lock"
    lock.write_text("4194304\n")  # a process id nobody has
    os.utime(lock, (2**33, 2**33))
    store.create(image(SMALL), "i")
    store.clean()
    assert store.list() == ["i"]


# -- G7 to G10 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0" * 100, b"[1]", b'{"uid-mappings": 5}', b'{"uid-mappings": ["0:0:x"]}', b"[" * 100_000]
)
def test_G7_a_damaged_namespace_file(store: Store, image: Image, content: bytes) -> None:
    """The one record nothing can be done without: everything says what is wrong, and nothing is taken for unmapped."""
    (store.path / "meta" / "namespace.json").write_bytes(content)
    result = store.run("create", image(SMALL), "i").failed()
    assert "namespace file" in result.message or "mappings" in result.message
    assert not store.image("i").exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"{", b'["x"', b"[5]", b'{"unknown": 1}', b"\xff", b'["../../../sentinel"]'])
def test_G7_damaged_records(store: Store, image: Image, sentinel: Sentinel, content: bytes) -> None:
    store.create(image(SMALL), "good")
    store.create(image(Archive().file("g")), "bad")
    store.record("bad").write_bytes(content)
    for meta in (store.path / "meta").glob("volume-*"):
        meta.write_bytes(content)
    store.clean()
    assert sorted(store.list()) == ["bad", "good"]
    assert store.run("stats", "bad").ok()
    store.delete("bad")
    store.clean()
    sentinel.check()
    assert store.list() == ["good"] and len(store.volumes()) == 1


def test_G8_nested_subvolumes(store: Store, image: Image, sentinel: Sentinel) -> None:
    rootfs = store.create(image(SMALL), "i")
    for path in (rootfs / "sub", rootfs / "sub/deeper", rootfs / "read-only"):
        mounts.tool("btrfs", "subvolume", "create", path)
    (rootfs / "sub/deeper/link").symlink_to(sentinel.path)
    mounts.tool("btrfs", "property", "set", rootfs / "read-only", "ro", "true")
    store.delete("i")
    store.clean()
    sentinel.check()
    assert store.subvolumes() == []


@pytest.mark.parametrize("limit", ["-1", "1.5", "x", "9223372036854775808", "99999999999999999999"])
def test_G9_limits_that_are_none(store: Store, image: Image, limit: str) -> None:
    result = store.run("create", f"--disk-limit-size-bytes={limit}", image(SMALL), "i")
    assert result.code == 1 and "Traceback" not in result.out + result.err
    assert store.list() == [] and store.volumes() == []


def test_G9_limits_at_both_ends(store: Store, image: Image) -> None:
    layer = Archive().file("f", os.urandom(MIB))
    store.refuse(image(layer), "", "--disk-limit-size-bytes", "1")
    store.create(image(layer), "none", "--disk-limit-size-bytes", "0")
    store.create(image(layer), "huge", "--disk-limit-size-bytes", str(2**63 - 1))
    assert sorted(store.list()) == ["huge", "none"]


@pytest.mark.parametrize(
    "mappings",
    [
        ["--uid-mapping", "0:1000:10", "--uid-mapping", "5:2000:10"],
        ["--uid-mapping", "0:1000:0"],
        ["--uid-mapping", "0:4294967290:100"],
        ["--uid-mapping", "-1:0:1"],
        ["--gid-mapping", "0:1000"],
        ["--rootless", "nobody-at-all:nobody-at-all"],
        ["--rootless", "../../etc/passwd:root"],
    ],
)
def test_G10_mappings_that_cannot_be(scratch: Path, mappings: list[str]) -> None:
    store = Store(scratch / "mapped")
    result = store.init(*mappings)
    assert result.code == 1 and "Traceback" not in result.out + result.err
    assert not store.path.exists() and not store.backing.exists()


def test_G10_ids_without_an_owner_zero(make_store: MakeStore, image: Image) -> None:
    """A map that leaves out the image's root is refused for what belongs to it."""
    store = make_store("--uid-mapping", "1:100000:1000", "--gid-mapping", "1:100000:1000")
    result = store.run("create", image(SMALL), "i")
    assert result.code == 1 and "Traceback" not in result.out + result.err
    assert store.list() == []


# -- races -------------------------------------------------------------------------------------


class Swapper(threading.Thread):
    """Turns directories into links to the sentinel and back, as fast as it can."""

    def __init__(self, sentinel: Sentinel, folders: Callable[[], list[Path]]) -> None:
        super().__init__(daemon=True)
        self.sentinel = sentinel
        self.folders = folders
        self.stop = threading.Event()
        self.swaps = 0

    def run(self) -> None:
        while not self.stop.is_set():
            for folder in self.folders():
                aside = folder.with_name(f"{folder.name}.aside")
                try:
                    os.rename(folder, aside)
                    os.symlink(self.sentinel.path, folder)
                    self.swaps += 1
                    os.unlink(folder)
                    os.rename(aside, folder)
                except OSError:
                    continue  # gone under our hands

    def __enter__(self) -> Swapper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


def deep(count: int) -> Archive:
    """Many directories with files whose names exist in the sentinel too."""
    archive = Archive()
    for i in range(count):
        archive.dir(f"d{i}").file(f"d{i}/secret", "x").dir(f"d{i}/dir").file(f"d{i}/dir/victim", "x").dir(f"d{i}/empty")
    return archive


def test_A18_directories_are_swapped_while_an_image_is_deleted(store: Store, image: Image, sentinel: Sentinel) -> None:
    """A process that still runs in the image swaps its directories; one beside it those that containers fill."""
    url = image(deep(200), runtime={"Volumes": {"/data": {}}})
    swaps = 0
    for n in range(3):
        rootfs = store.create(url, f"i{n}")
        mounts.tool("btrfs", "subvolume", "create", rootfs / "d0" / "nested")
        (volume,) = store.image(f"i{n}").glob("vol-*")
        for i in range(300):
            (volume / f"v{i}" / "dir").mkdir(parents=True)
            (volume / f"v{i}" / "secret").write_text("x")
            (volume / f"v{i}" / "dir" / "victim").write_text("x")
        inside = [volume / f"v{i}" for i in range(0, 300, 7)] + [rootfs / f"d{i}" for i in range(0, 200, 7)]
        with Swapper(sentinel, lambda inside=inside: inside) as swapper:  # type: ignore[misc]
            result = store.run("delete", f"i{n}")
            swaps += swapper.swaps
        assert "Traceback" not in result.out + result.err
        sentinel.check()
        store.run("delete", f"i{n}")
    assert swaps > 20, "the race was never run"
    store.clean()
    assert store.list() == []


def test_A18_volumes_are_swapped_while_clean_removes_them(store: Store, image: Image, sentinel: Sentinel) -> None:
    swaps = 0
    for n in range(2):
        for i in range(5):
            store.create(image(Archive().file(f"{n}-{i}", "x"), deep(20)), "i")
            store.delete("i")
        with Swapper(sentinel, lambda: [store.path / "volumes" / name for name in store.volumes() if "aside" not in name]) as swapper:
            result = store.run("clean")
            swaps += swapper.swaps
        assert "Traceback" not in result.out + result.err
        sentinel.check()
    assert swaps > 5, "the race was never run"
    for path in (store.path / "volumes").iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.name.endswith(".aside"):
            path.rename(path.with_suffix(""))
    store.clean()
    assert [name for name in store.volumes() if ".aside" not in name] == []


def test_A18_a_directory_on_disk_is_swapped_while_it_is_copied(attack: Attack) -> None:
    """An image from a directory: what is read stays below that directory."""
    source = attack.scratch / "source"
    for i in range(300):
        (source / f"d{i}").mkdir(parents=True)
        (source / f"d{i}" / "secret").write_text("mine")
    swaps = 0
    for _ in range(5):
        with Swapper(attack.sentinel, lambda: [source / f"d{i}" for i in range(300)]) as swapper:
            image_id = new_id()
            result = attack.store.run("create", source, image_id)
            swaps += swapper.swaps
        assert "Traceback" not in result.out + result.err
        attack.sentinel.check()
        if result.code == 0:
            rootfs = attack.store.rootfs(image_id)
            for path in names(rootfs):
                if (rootfs / path).is_file() and not (rootfs / path).is_symlink():
                    assert (rootfs / path).read_text() == "mine", path
            attack.store.delete(image_id)
    assert swaps > 50, "the race was never run"
    assert_same(photograph(attack.sentinel.path, change_time=True), attack.sentinel.before)
