"""Stores, machines and clocks in a bad state: a clear line or no effect, nothing leaked, and one thing never blocks another."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import mounts
from support.accounts import User
from support.archive import Archive
from support.command import COMMAND, MIB, Result, Store
from support.interruption import wait_until_freed
from support.layout import write_layout
from support.tree import assert_same, photograph

LIMIT = ("--disk-limit-size-bytes", str(50 * MIB))
IMAGE = [Archive().dir(".").file("base", "b" * 9000), Archive().file("top", "t")]


@pytest.fixture
def url(scratch: Path) -> str:
    return write_layout(scratch / "image", *IMAGE)


def run_with(store: Store, argv: tuple[str, ...], **options: Any) -> Result:
    """Run a command with other options of `subprocess`."""
    done = subprocess.run([COMMAND, *store.options, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    return Result(argv, done.returncode, done.stdout, done.stderr)


def assert_spotless(store: Store) -> None:
    """Delete everything, clean: nothing is left."""
    for image_id in store.list():
        store.delete(image_id)
    store.clean()
    assert store.volumes() == [] and store.temporary() == [] and os.listdir(store.path / "images") == []
    assert os.listdir(store.path / "meta" / "dependencies") == []


# -- no space, no descriptors, no writing --------------------------------------------------------


def fill(path: Path, leave: int) -> None:
    """Fill the file system up to ``leave`` bytes."""
    with path.open("wb", buffering=0) as file:
        block = os.urandom(MIB)
        try:
            while True:
                file.write(block)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        end = file.tell()
        os.fsync(file.fileno())
        os.ftruncate(file.fileno(), max(end - leave, 0))
        os.fsync(file.fileno())


@pytest.mark.parametrize("leave", [0, MIB, 4 * MIB])
def test_full_disk(make_store: Callable[..., Store], scratch: Path, url: str, leave: int) -> None:
    """A create fails clearly, and what is there can be listed, deleted and cleaned: a full store can be emptied."""
    store = make_store(size=128 * MIB)
    kept = photograph(store.create(url, "kept", *LIMIT))
    store.create(write_layout(scratch / "unused", Archive().file("u", os.urandom(8 * MIB))), "unused")
    store.delete("unused")
    fill(store.path / "filler", leave)
    result = store.run("create", write_layout(scratch / "big", Archive().file("f", os.urandom(16 * MIB))), "victim").failed()
    assert "no space left on device" in result.message, result
    assert store.list() == ["kept"] and store.temporary() == []
    assert store.stats("kept")[0] > 0
    assert_same(photograph(store.rootfs("kept")), kept)
    assert [name for name in store.volumes() if "incomplete" in name] == []
    store.clean()
    store.delete("kept")
    (store.path / "filler").unlink()
    store.create(url, "victim", *LIMIT)
    assert_spotless(store)


@pytest.mark.parametrize("mode", ["simple", "full"])
def test_image_at_its_limit(make_store: Callable[..., Store], url: str, mode: str) -> None:
    """EDQUOT is the container's: every command on the store goes on."""
    store = make_store("--quota", mode, size=256 * MIB)
    rootfs = store.create(url, "full", "--disk-limit-size-bytes", str(4 * MIB))
    with pytest.raises(OSError, match="quota"):
        (rootfs / "fill").write_bytes(os.urandom(8 * MIB))
    assert store.stats("full")[0] <= 4 * MIB
    store.create(url, "other", "--disk-limit-size-bytes", str(4 * MIB))
    store.clean()
    store.delete("full")
    assert_spotless(store)
    wait_until_freed(store)
    store.clean()
    assert store.groups() == set()


@pytest.mark.parametrize("files", range(4, 24, 2))
def test_few_descriptors(store: Store, url: str, files: int) -> None:
    """Whatever EMFILE meets: a line or success; never half an image."""
    store.create(url, "kept")
    for argv in (("create", *LIMIT, url, "victim"), ("list",), ("stats", "kept"), ("clean",), ("delete", "kept")):
        result = run_with(store, argv, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
        if result.code == 0:
            continue
        if "groot_fast" in result.err or result.out == "":
            assert result.code != 0, result  # the interpreter itself did not come up
            continue
        result.failed()
    assert set(store.list()) <= {"kept", "victim"}
    assert_spotless(store)
    wait_until_freed(store)
    store.clean()
    assert store.groups() == set() and store.subvolumes() == []


def test_read_only_mount(store: Store, url: str) -> None:
    store.create(url, "kept")
    before = photograph(store.path)
    mounts.tool("mount", "-o", "remount,ro", store.path)
    for argv in (("create", url, "victim"), ("delete", "kept"), ("clean",)):
        assert "read-only file system" in store.run(*argv).failed().message.lower()
    assert store.list() == ["kept"] and store.stats("kept")[0] > 0
    mounts.tool("mount", "-o", "remount,rw", store.path)
    assert_same(photograph(store.path), before)
    store.create(url, "victim")
    assert_spotless(store)


def test_full_temporary_folder(store: Store, url: str) -> None:
    """`tmp/` on another, full file system: no command goes over the border, and nothing half-made stays."""
    store.create(url, "kept")
    mounts.tool("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", store.path / "tmp")
    store.run("create", url, "victim").failed()
    assert store.list() == ["kept"] and not os.path.lexists(store.image("victim"))
    assert "something is mounted on" in store.run("clean").failed().message
    mounts.tool("umount", store.path / "tmp")
    store.clean()
    store.delete("kept")
    store.create(url, "victim")
    assert_spotless(store)


# -- quotas behind our back ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["simple", "full"])
def test_quotas_turned_off(make_store: Callable[..., Store], url: str, mode: str) -> None:
    store = make_store("--quota", mode, size=256 * MIB)
    store.create(url, "limited", *LIMIT)
    mounts.tool("btrfs", "quota", "disable", store.path)
    assert "quota" in store.run("create", *LIMIT, url, "victim").failed().message
    assert "quota" in store.run("stats", "limited").failed().message
    store.create(url, "unlimited")
    assert store.list() == ["limited", "unlimited"]
    assert_spotless(store)


def test_inconsistent_quotas(make_store: Callable[..., Store], url: str) -> None:
    """Full accounting that needs a rescan: numbers may be off, nothing fails."""
    store = make_store("--quota", "full", size=256 * MIB)
    store.create(url, "one", *LIMIT)
    # Assigning a group makes the numbers inconsistent until a rescan.
    mounts.tool("btrfs", "qgroup", "create", "1/100", store.path)
    ident = mounts.tool("btrfs", "inspect-internal", "rootid", store.rootfs("one")).strip()
    mounts.tool("btrfs", "qgroup", "assign", "--no-rescan", f"0/{ident}", "1/100", store.path, check=False)
    store.create(url, "two", *LIMIT)
    assert all(number >= 0 for image_id in ("one", "two") for number in store.stats(image_id))
    assert_spotless(store)


def test_limits_and_groups_removed(store: Store, url: str) -> None:
    """An administrator has taken our groups apart."""
    rootfs = store.create(url, "one", *LIMIT)
    ident = mounts.tool("btrfs", "inspect-internal", "rootid", rootfs).strip()
    mounts.tool("btrfs", "qgroup", "remove", f"0/{ident}", f"1/{ident}", store.path)
    mounts.tool("btrfs", "qgroup", "destroy", f"1/{ident}", store.path)
    assert store.stats("one")[0] > 0
    assert_spotless(store)


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-20 * 365 * 86400, -3600, 3600, 20 * 365 * 86400])
def test_clock_jumps(store: Store, url: str, offset: int) -> None:
    """What is there was made in the future, or long ago: clean takes what is unused, no more, and no less."""
    kept = photograph(store.create(url, "kept"))
    blob = store.path / "tmp" / f"blob-{'0' * 64}"
    record = store.path / "tmp" / "record-1-0"
    for path in (blob, record):
        path.write_text("left")
    then = time.time() + offset
    for path in [store.path, *store.path.rglob("*")]:
        if not path.is_relative_to(store.rootfs("kept")) and not path.is_relative_to(store.path / "volumes"):
            os.utime(path, (then, then), follow_symlinks=False)
    store.create(url, "other")
    store.clean()
    assert not record.exists() and not blob.exists()
    assert store.list() == ["kept", "other"]
    assert_same(photograph(store.rootfs("kept")), kept)
    assert_spotless(store)


# -- missing helpers -------------------------------------------------------------------------------


def test_without_mkfs(scratch: Path) -> None:
    store = Store(scratch / "store", "--btrfs-progs-path", str(scratch))
    result = store.init().failed()
    assert "mkfs.btrfs was not found" in result.message and "hint: install btrfs-progs" in result.out
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("option", ["--newuidmap-bin", "--newgidmap-bin"])
@pytest.mark.parametrize("helper", ["/nowhere/helper", "/bin/false", "/etc/passwd"])
def test_without_id_helpers(make_store: Callable[..., Store], scratch: Path, user: User, url: str, option: str, helper: str) -> None:
    path = make_store("--rootless", f"{user.name}:{user.name}", size=256 * MIB).path
    store = Store(path, option, helper, uid=user.uid)
    store.refuse(url, "victim")
    other = Store(path, uid=user.uid)
    other.create(url, "victim")
    store.delete("victim")
    store.clean()
    assert store.volumes() == []


@pytest.mark.parametrize("helper", ["/nowhere/drax", "/bin/false", "/etc/passwd"])
def test_without_drax(make_store: Callable[..., Store], user: User, url: str, helper: str) -> None:
    """Full accounting needs it for a limit; everything else goes without."""
    path = make_store("--rootless", f"{user.name}:{user.name}", "--quota", "full", size=256 * MIB).path
    store = Store(path, "--drax-bin", helper, uid=user.uid)
    store.run("create", *LIMIT, url, "victim").failed()
    assert store.list() == [] and store.temporary() == [] and os.listdir(path / "images") == []
    store.create(url, "victim")
    assert store.stats("victim")[0] > 0
    assert_spotless(store)


def test_empty_path(store: Store, url: str) -> None:
    """No program of the system is needed for the life of an image."""
    for argv in (("create", *LIMIT, url, "one"), ("stats", "one"), ("delete", "one"), ("clean",)):
        assert run_with(store, argv, env={"PATH": "/nowhere"}).code == 0
    assert store.volumes() == []


# -- what does not belong there --------------------------------------------------------------------

FOLDERS = ("", "images", "volumes", "meta", "meta/dependencies", "meta/sources", "locks", "tmp")


def plant(folder: Path) -> list[Path]:
    """One of everything that a store does not have."""
    made = [folder / "foreign.txt", folder / "full", folder / "empty", folder / "link", folder / "pipe", folder / os.fsdecode(b"\xff\n")]
    made[0].write_text("mine")
    made[1].mkdir()
    (made[1] / "inside").write_text("mine")
    made[2].mkdir()
    made[3].symlink_to("/etc/passwd")
    os.mkfifo(made[4])
    made[5].write_text("mine")
    return made


@pytest.mark.parametrize("folder", FOLDERS)
def test_foreign_files(store: Store, url: str, folder: str) -> None:
    """Every command goes on; files whose owner is unknown are not removed outside of `tmp/`, `locks/` and `images/`."""
    kept = photograph(store.create(url, "kept"))
    planted = plant(store.path / folder)
    store.create(url, "other", *LIMIT)
    store.delete("other")
    store.clean()
    assert store.list() == ["kept"]
    assert_same(photograph(store.rootfs("kept")), kept)
    if folder in ("", "volumes", "meta"):
        assert [path for path in planted if not os.path.lexists(path)] == []
    assert store.run("generate-volume-size-metadata").ok().out == ""
    store.delete("kept")
    store.clean()
    assert [name for name in store.volumes() if len(name) == 64] == []
    assert Path("/etc/passwd").read_text()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, max(path.stat().st_size // 2, 1)),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "binary": lambda path: path.write_bytes(os.urandom(5000)),
    "huge": lambda path: os.truncate(path, 1 << 40),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "wrong type": lambda path: path.write_bytes(b'{"Size":"x","volumes":[1],"image":3}'),
    "null": lambda path: path.write_bytes(b"null"),
    "number": lambda path: path.write_bytes(b"1e400"),
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "link to nowhere": lambda path: (path.unlink(), path.symlink_to("/nowhere/at/all")),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "unreadable": lambda path: path.chmod(0),
}


def records_of(store: Store) -> dict[str, Path]:
    """One record of each kind, of the image ``damaged``."""
    dependencies = store.record("damaged")
    chain_id = dependencies.read_text().strip('[]\n"').split('","')[-1]
    return {
        "image.json": store.image("damaged") / "image.json",
        "dependencies": dependencies,
        "size": store.path / "meta" / f"volume-{chain_id}",
        "source": next((store.path / "meta" / "sources").iterdir()),
    }


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["image.json", "dependencies", "size", "source"])
def test_damaged_record(store: Store, url: str, scratch: Path, kind: str, damage: str) -> None:
    """One damaged record never disables another image, `list`, `stats`, `delete`, `clean` or a further create."""
    store.create(url, "damaged", *LIMIT)
    path = records_of(store)[kind]
    other_url = write_layout(scratch / "other", Archive().file("other", "o"))
    other = photograph(store.create(other_url, "other"))
    DAMAGE[damage](path)
    assert store.list() == ["damaged", "other"]
    assert store.run("stats", "damaged", timeout=10).code == 0
    again = store.create(url, "again", *LIMIT)
    assert (again / "base").stat().st_size == 9000
    store.clean()
    assert store.list() == ["again", "damaged", "other"]
    assert (store.rootfs("damaged") / "base").stat().st_size == 9000
    assert_same(photograph(store.rootfs("other")), other)
    store.run("create", "--with-clean", other_url, "third").ok()
    for image_id in ("damaged", "again", "other", "third"):
        store.delete(image_id)
    store.clean()
    assert store.volumes() == [] and os.listdir(store.path / "images") == [] and store.subvolumes() == []


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name not in ("unreadable",)])
def test_damaged_mappings(store: Store, url: str, damage: str) -> None:
    """Without its mappings a store cannot be written to, and says so; it can be listed and deleted."""
    store.create(url, "one")
    path = store.path / "meta" / "namespace.json"
    good = path.read_bytes()
    DAMAGE[damage](path)
    for argv in (("create", url, "two"), ("stats", "one"), ("clean",)):
        result = store.run(*argv, timeout=10)
        assert result.code in (0, 1) and "Traceback" not in result.out + result.err, result
        if damage not in ("null", "wrong type"):
            result.failed()
    assert store.list()[:1] == ["one"]
    (shutil.rmtree if path.is_dir() and not path.is_symlink() else lambda it: it.unlink(missing_ok=True))(path)
    path.write_bytes(good)
    store.create(url, "three")
    assert_spotless(store)
