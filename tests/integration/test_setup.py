"""init-store and delete-store: where a store is, one at a time, reboots, sizes, and nothing destroyed by halves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import mounts
from support.accounts import User
from support.archive import Archive
from support.command import MIB, Grootfs, Store, wait_for

Image = Callable[..., str]
MakeStore = Callable[..., Store]
SMALL = Archive().dir("data").file("data/f", "content")
NOT_MOUNTED = "which is not mounted"


@pytest.fixture
def btrfs_host(scratch: Path) -> Path:
    """A host whose own file system is BTRFS."""
    mounts.make_btrfs(scratch / "host.img", scratch / "host", 2048 * MIB)
    return scratch / "host"


def left_in(scratch: Path) -> set[str]:
    """What of stores is in a directory, and still mounted or attached below it."""
    found = {name for name in os.listdir(scratch) if name.startswith("store")}
    return found | {str(point) for point in mounts.mounts_below(scratch)} | set(mounts.loops_below(scratch))


# -- one at a time ------------------------------------------------------------------------


def test_many_init_stores_at_once(scratch: Path, image: Image) -> None:
    store = Store(scratch / "store")
    started = [store.start("init-store", "--store-size-bytes", str(512 * MIB)) for _ in range(6)]
    for process in started:
        assert store.finish(process).ok().out == ""
    assert len(mounts.mounts_below(scratch)) == 1 and len(mounts.loops_below(scratch)) == 1
    assert sorted(os.listdir(scratch)) == ["store", "store.backing-store"]
    store.create(image(SMALL), "one")
    started = [store.start("delete-store") for _ in range(4)]
    for process in started:
        store.finish(process).ok()
    assert left_in(scratch) == set()


def test_init_and_delete_at_once(scratch: Path) -> None:
    """Whoever comes last has its way, and whatever that is, is whole."""
    store = Store(scratch / "store")
    for _ in range(3):
        started = [store.start(*argv) for argv in [("init-store", "--store-size-bytes", str(256 * MIB)), ("delete-store",)] * 3]
        for process in started:
            store.finish(process).ok()
        if store.path.exists():
            assert store.list() == [] and len(mounts.mounts_below(scratch)) == 1
        store.run("delete-store").ok()
        assert left_in(scratch) == set()


# -- paths --------------------------------------------------------------------------------

NAMES = [b"my store", b"tab\tin", b"back\\slash", b"new\nline", "ünï".encode(), b"caf\xe9", b"\\040", b"-x"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_all_commands_alike_on_odd_paths(scratch: Path, image: Image, name: bytes) -> None:
    store = Store(scratch / os.fsdecode(name))
    store.init(size=256 * MIB).ok()
    store.create(image(SMALL), "one", "--disk-limit-size-bytes", str(20 * MIB))
    assert store.stats("one")[1] > 0
    for command in (
        ["list"],
        ["list", "--json"],
        ["stats", "--store"],
        ["check"],
        ["check", "--deep"],
        ["clean"],
        ["migrate"],
        ["init-store"],
    ):
        assert "internal error" not in store.run(*command).ok().out
    assert "loop device: " in store.run("doctor").ok().out
    mounts.tool("umount", store.path)
    for command in (["list"], ["stats", "one"], ["clean"], ["check"]):
        assert NOT_MOUNTED in store.run(*command, timeout=60).out
    store.init(size=None).ok()
    assert "/images/one" in store.run("list").ok().out
    store.delete("one")
    store.run("delete-store").ok()
    assert all(left.startswith(b"c-") for left in os.listdir(os.fsencode(scratch))), "only the image is left"
    assert mounts.loops_below(scratch) == []


@pytest.mark.parametrize("path", ["link", "real/", "./real", "real/../real", "above/real"])
def test_every_path_to_a_store_means_the_same(scratch: Path, image: Image, path: str) -> None:
    real = Store(scratch / "real")
    real.init(size=256 * MIB).ok()
    (scratch / "link").symlink_to(scratch / "real")
    (scratch / "above").symlink_to(scratch)
    store = Store(scratch / "x")
    store.options = ("--store", f"{scratch}/{path}")
    store.run("create", image(SMALL), "one").ok()
    mounts.tool("umount", real.path)
    assert NOT_MOUNTED in store.run("list").failed().message
    store.init(size=256 * MIB).ok()
    assert real.list() == ["one"] and len(mounts.loops_below(scratch)) == 1
    store.run("delete-store").ok()
    assert [name for name in os.listdir(scratch) if name.startswith(("real", "link."))] == [] and mounts.loops_below(scratch) == []
    store.init(size=256 * MIB).ok()
    assert real.list() == []
    real.run("delete-store").ok()


def test_a_store_made_through_a_link_by_an_older_release(scratch: Path, image: Image) -> None:
    """That one put the file beside the link."""
    (scratch / "link").symlink_to(scratch / "real")
    made = Store(scratch / "real")
    made.init(size=256 * MIB).ok()
    made.create(image(SMALL), "one")
    mounts.tool("umount", made.path)
    made.backing.rename(scratch / "link.backing-store")
    store = Store(scratch / "link")
    store.init().ok()
    assert store.list() == ["one"] and not made.backing.exists()
    mounts.tool("umount", made.path)
    made.backing.write_bytes(b"")
    assert "could be in" in store.init().failed().message


# -- reboots ------------------------------------------------------------------------------


@pytest.fixture(params=["ext4 or so", "btrfs"])
def rebooted(request: pytest.FixtureRequest, scratch: Path, image: Image) -> Iterator[Store]:
    """A store with an image, on either kind of host, that nobody has mounted yet."""
    place = request.getfixturevalue("btrfs_host") if request.param == "btrfs" else scratch
    store = Store(place / "store")
    store.init(size=512 * MIB).ok()
    store.create(image(SMALL), "one", "--disk-limit-size-bytes", str(20 * MIB))
    mounts.tool("umount", store.path)
    yield store
    subprocess.run(["umount", store.path], check=False, capture_output=True)


def test_every_command_says_that_the_store_is_not_mounted(rebooted: Store, image: Image) -> None:
    text = f"store {rebooted.path} is in {rebooted.backing}, {NOT_MOUNTED}"
    commands = (
        ["create", image(SMALL), "two"],
        ["delete", "one"],
        ["stats", "one"],
        ["stats", "--store"],
        ["list"],
        ["list", "--json"],
        ["clean"],
        ["check"],
        ["migrate"],
        ["generate-volume-size-metadata"],
    )
    for command in commands:
        result = rebooted.run(*command).failed()
        assert result.message == text, command
        assert f"grootfs --store {rebooted.path} init-store" in result.out
    report = rebooted.run("doctor")
    assert report.code == 1 and f"broken  store: {text}" in report.out
    assert os.listdir(rebooted.path) == []


@pytest.mark.parametrize("size", [None, 512 * MIB])
def test_init_store_mounts_it_again(rebooted: Store, size: int | None) -> None:
    rebooted.init(size=size).ok()
    assert rebooted.list() == ["one"] and rebooted.stats("one")
    assert rebooted.run("check").ok()


def test_delete_store_finds_the_file(rebooted: Store) -> None:
    rebooted.run("delete-store").ok()
    assert not rebooted.path.exists() and not rebooted.backing.exists()


def test_nothing_is_mounted_over_what_is_there(rebooted: Store) -> None:
    """Also an older release's empty store in the bare mount point."""
    (rebooted.path / "precious").write_text("x")
    for command in ("init-store", "delete-store"):
        assert f"{rebooted.path} is not empty" in rebooted.run(command).failed().message
    assert NOT_MOUNTED in rebooted.run("list").failed().message
    assert (rebooted.path / "precious").read_text() == "x" and rebooted.backing.exists()


def test_the_file_is_kept_when_something_else_is_mounted_there(rebooted: Store) -> None:
    mounts.tool("mount", "-t", "tmpfs", "tmpfs", rebooted.path)
    before = rebooted.backing.stat()
    rebooted.init().ok()
    assert rebooted.list() == ["one"] and rebooted.backing.stat().st_ino == before.st_ino
    mounts.tool("umount", rebooted.path)
    (rebooted.path / "f").write_text("x")
    assert "is not empty" in rebooted.init().failed().message
    assert rebooted.backing.stat().st_ino == before.st_ino
    mounts.tool("umount", rebooted.path)


def test_a_new_store_is_not_mounted_over_what_is_there(scratch: Path) -> None:
    store = Store(scratch / "store")
    store.path.mkdir()
    (store.path / "precious").write_text("x")
    assert f"{store.path} is not empty" in store.init().failed().message
    assert os.listdir(store.path) == ["precious"] and not store.backing.exists()


# -- sizes --------------------------------------------------------------------------------


def sizes(store: Store, scratch: Path) -> tuple[int, int, int]:
    """Bytes of the file system, of the file, and what `capacity` says to who has configured 768 MiB."""
    system = os.statvfs(store.path)
    config = scratch / "config.yml"
    config.write_text(f"store: {store.path}\ninit:\n  store_size_bytes: {768 * MIB}\n")
    capacity = json.loads(Grootfs("--config", str(config)).run("capacity").ok().out)["capacity"]
    return system.f_blocks * system.f_frsize, store.backing.stat().st_size, capacity


@pytest.mark.parametrize("mounted", [True, False])
def test_a_larger_size_makes_the_store_grow(make_store: MakeStore, scratch: Path, image: Image, *, mounted: bool) -> None:
    store = make_store(size=256 * MIB)
    rootfs = store.create(image(SMALL), "one")
    assert sizes(store, scratch) == (256 * MIB,) * 3
    with (rootfs / "data" / "f").open() as held:
        if not mounted:
            held.close()
            mounts.tool("umount", store.path)
        assert store.init(size=768 * MIB).ok().out == ""
        assert (rootfs / "data" / "f").read_text() == "content"
    assert sizes(store, scratch) == (768 * MIB,) * 3
    (rootfs / "large").write_bytes(bytes(400 * MIB))
    store.run("check").ok()


def test_a_file_that_grew_by_hand(make_store: MakeStore, scratch: Path) -> None:
    store = make_store(size=256 * MIB)
    mounts.tool("umount", store.path)
    os.truncate(store.backing, 768 * MIB)
    store.init(size=None).ok()
    assert sizes(store, scratch) == (256 * MIB, 768 * MIB, 256 * MIB)
    store.init(size=768 * MIB).ok()
    assert sizes(store, scratch) == (768 * MIB,) * 3


def test_a_smaller_size_says_what_it_would_take(make_store: MakeStore, scratch: Path, image: Image) -> None:
    store = make_store(size=512 * MIB)
    rootfs = store.create(image(SMALL), "one")
    said = store.init(size=300 * MIB).ok().out
    assert f"btrfs filesystem resize {300 * MIB}" in said and f"truncate -s {300 * MIB}" in said
    assert sizes(store, scratch)[:2] == (512 * MIB,) * 2
    mounts.tool("btrfs", "filesystem", "resize", str(300 * MIB), store.path)
    mounts.tool("umount", store.path)
    mounts.tool("truncate", "-s", str(300 * MIB), store.backing)
    assert store.init(size=300 * MIB).ok().out == ""
    assert sizes(store, scratch) == (300 * MIB,) * 3 and (rootfs / "data" / "f").read_text() == "content"
    (rootfs / "large").write_bytes(os.urandom(100 * MIB))
    mounts.tool("sync", "-f", rootfs)
    assert "are in use" in store.init(size=64 * MIB).ok().out


def test_a_file_that_was_cut_off(make_store: MakeStore) -> None:
    store = make_store(size=512 * MIB)
    mounts.tool("umount", store.path)
    os.truncate(store.backing, 200 * MIB)
    result = store.init(size=512 * MIB).failed()
    assert "was cut off" in result.message and f"truncate -s {512 * MIB}" in result.out
    assert store.backing.stat().st_size == 200 * MIB
    os.truncate(store.backing, 512 * MIB)
    store.init().ok()


def test_limits_by_root_alone(make_store: MakeStore, image: Image, user: User) -> None:
    store = make_store("--rootless", f"{user.name}:{user.name}", "--limits-by", "root")
    assert os.getxattr(store.path, "trusted.grootfs.limits") == b"root"
    store.init("--rootless", f"{user.name}:{user.name}").ok()
    assert os.getxattr(store.path, "trusted.grootfs.limits") == b"root", "it stays until the other is asked for"
    own = Store(store.path, uid=user.uid)
    own.create(image(SMALL), "one", "--disk-limit-size-bytes", str(60 * MIB))
    own.delete("one")
    store.clean()
    assert store.groups() == set()
    store.init("--rootless", f"{user.name}:{user.name}", "--limits-by", "owner").ok()
    assert "trusted.grootfs.limits" not in os.listxattr(store.path)
    assert "must be owner or root" in store.init("--limits-by", "me").failed().message


# -- nothing is destroyed by halves -------------------------------------------------------


@pytest.fixture(params=["file", "directory"])
def kept(request: pytest.FixtureRequest, scratch: Path, image: Image) -> Store:
    """A store with two images, in a file of its own, or in a directory of a BTRFS."""
    if request.param == "file":
        store = Store(scratch / "store")
        store.init().ok()
    else:
        store = Store(request.getfixturevalue("btrfs_host") / "store")
        store.init("--quota", "simple", size=None).ok()
    for image_id in ("one", "two"):
        store.create(image(SMALL), image_id, "--disk-limit-size-bytes", str(60 * MIB))
    return store


def refuses_whole(store: Store, text: str) -> None:
    """`delete-store` fails, and everything is as it was."""
    before = store.subvolumes()
    result = store.run("delete-store").failed()
    assert text in result.message, result
    assert store.list() == ["one", "two"] and store.subvolumes() == before
    for image_id in ("one", "two"):
        assert (store.rootfs(image_id) / "data" / "f").read_text() == "content"


def test_a_mount_in_the_second_image(kept: Store) -> None:
    point = kept.rootfs("two") / "data"
    mounts.tool("mount", "-t", "tmpfs", "tmpfs", point)
    before = kept.subvolumes()
    assert f"{point} is a mount point" in kept.run("delete-store").failed().message
    mounts.tool("umount", point)
    assert kept.list() == ["one", "two"] and kept.subvolumes() == before
    kept.run("delete-store").ok()


def test_a_swap_file_in_the_second_image(kept: Store) -> None:
    with mounts.swap_file(kept.rootfs("two")):
        refuses_whole(kept, "a swap file in it is active")
        assert "swapoff" in kept.run("delete-store").failed().out
    kept.run("delete-store").ok()


def test_the_default_subvolume(kept: Store) -> None:
    mounts.tool("btrfs", "subvolume", "set-default", kept.rootfs("two"))
    refuses_whole(kept, "it is the default subvolume of the file system")
    mounts.tool("btrfs", "subvolume", "set-default", "5", kept.path)
    kept.run("delete-store").ok()


def test_a_busy_process(make_store: MakeStore, image: Image) -> None:
    store = make_store()
    for image_id in ("one", "two"):
        store.create(image(SMALL), image_id)
    with (store.rootfs("two") / "data" / "f").open():
        refuses_whole(store, f"{store.path} cannot be unmounted")
        (store.path / "foreign").write_text("x")
        refuses_whole(store, f"{store.path} cannot be unmounted")
    (store.path / "foreign").unlink()
    store.run("delete-store").ok()
    assert not store.path.exists() and not store.backing.exists()


def test_a_container_that_has_it_mounted(make_store: MakeStore, image: Image) -> None:
    """In its own mount namespace: nothing here is busy."""
    store = make_store()
    for image_id in ("one", "two"):
        store.create(image(SMALL), image_id)
    container = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "60"])
    try:
        wait_for(lambda: Path(f"/proc/{container.pid}/comm").read_text() == "sleep\n", "the container runs")
        refuses_whole(store, f"{store.path} cannot be unmounted: it is mounted in another mount namespace too")
        assert len(mounts.loops_below(store.path.parent)) == 1
        store.create(image(SMALL), "three")
    finally:
        container.kill()
        container.wait()
    store.run("delete-store").ok()


def test_nobody_else_can_hold_the_lock(make_store: MakeStore, user: User, scratch: Path) -> None:
    """A user may lock what it may read; that is no lock of root's."""
    store = make_store()
    holder = subprocess.Popen(["flock", "--exclusive", scratch, "sleep", "60"], user=user.uid)
    try:
        wait_for(lambda: subprocess.run(["flock", "--nonblock", scratch, "true"]).returncode != 0, "somebody holds the directory")
        store.init().ok()
        store.run("delete-store").ok()
    finally:
        subprocess.run(["pkill", "-P", str(holder.pid)], check=False)
        holder.kill()
        holder.wait()


def test_what_is_not_ours_keeps_the_file(make_store: MakeStore, image: Image) -> None:
    store = make_store()
    store.create(image(SMALL), "one")
    (store.path / "foreign").write_text("x")
    store.run("delete-store").ok()
    assert not store.path.exists()
    mounts.mount_copy(store.backing, store.path)
    assert os.listdir(store.path) == ["foreign"]


def test_an_ordinary_user_deletes_nothing_by_halves(
    make_store: MakeStore, image: Image, user: User, scratch: Path, btrfs_host: Path
) -> None:
    made = make_store("--rootless", f"{user.name}:{user.name}")
    inner = Store(btrfs_host / "store")
    inner.init("--rootless", f"{user.name}:{user.name}", "--quota", "simple", size=None).ok()
    for store, text in ((made, "can only be deleted by Root user"), (inner, "permission denied")):
        own = Store(store.path, uid=user.uid)
        for image_id in ("one", "two"):
            own.create(image(SMALL), image_id)
        refuses_whole(own, text)
    own = Store(btrfs_host / "home" / "store", uid=user.uid)
    own.path.parent.mkdir()
    Store(own.path).init("--rootless", f"{user.name}:{user.name}", size=None).ok()
    os.chown(own.path.parent, user.uid, user.gid)
    own.create(image(SMALL), "one")
    own.run("delete-store").ok()
    assert not own.path.exists()
