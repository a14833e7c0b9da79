"""What a container leaves never stops anything: depth, number, length of paths, flags, swap files, in the image and in its volumes."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import mounts
from support.accounts import FIRST, User
from support.archive import Archive
from support.command import COMMAND, MIB, Store

Image = Callable[..., str]
MakeStore = Callable[..., Store]
SUBVOL_CREATE = 0x5000940E
LIMIT = ("--disk-limit-size-bytes", str(60 * MIB))
LONG = "d" * 200


def make_subvolume(parent: int, name: str) -> None:
    """By ioctl, as a process in the container would."""
    fcntl.ioctl(parent, SUBVOL_CREATE, bytearray(bytes(8) + name.encode().ljust(4088, b"\0")))


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """In this directory; paths in it may be longer than any call takes."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(path)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def as_user(uid: int, work: Callable[[], None], path: Path) -> None:
    """Do it in a process of that id: what belongs to whom matters for removal."""
    pid = os.fork()
    if pid == 0:
        try:
            with inside(path):
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def here() -> int:
    return os.open(".", os.O_RDONLY)


def long_path() -> None:
    """A subvolume with data at the end of a path of 6000 bytes."""
    for _ in range(30):
        os.mkdir(LONG)
        os.chdir(LONG)
    make_subvolume(here(), "sub")
    Path("sub/file").write_bytes(b"x" * MIB)


def long_paths_in_each_other() -> None:
    """Three subvolumes, each at the end of a path of 6000 bytes in the one before."""
    for _ in range(3):
        long_path()
        os.chdir("sub")


def levels() -> None:
    """Subvolumes in each other, 300 deep."""
    for _ in range(300):
        fd = here()
        make_subvolume(fd, "s")
        os.close(fd)
        os.chdir("s")


def many() -> None:
    """1500 subvolumes side by side: more than there may be descriptors."""
    fd = here()
    for number in range(1500):
        make_subvolume(fd, f"s{number}")


def deep() -> None:
    """3000 directories in each other."""
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")


def closed() -> None:
    """Directories that not even their owner may read, with subvolumes in them."""
    os.mkdir("closed")
    fd = os.open("closed", os.O_RDONLY)
    make_subvolume(fd, "inner")
    os.mkdir("closed/inner/also")
    os.chmod("closed/inner/also", 0)
    os.chmod("closed", 0)


KINDS = [long_path, long_paths_in_each_other, levels, many, deep, closed]


@pytest.fixture(params=["root", "user"])
def driven(request: pytest.FixtureRequest, make_store: MakeStore, user: User) -> Store:
    """A user's store, driven by root and by the user."""
    path = make_store("--rootless", f"{user.name}:{user.name}").path
    store = Store(path, uid=None if request.param == "root" else user.uid)
    os.chmod(path, 0o755)
    return store


def delete(store: Store, image_id: str) -> None:
    """With the usual number of descriptors."""
    argv = ["prlimit", "--nofile=1024", COMMAND, "--store", store.path, "delete", image_id]
    done = subprocess.run(argv, user=store.uid, group=store.uid, capture_output=True, text=True, timeout=120, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Image {image_id} deleted\n", ""), done


@pytest.mark.parametrize("where", ["rootfs", "volume"])
@pytest.mark.parametrize("leave", KINDS, ids=lambda kind: kind.__name__)
def test_whatever_a_user_in_the_container_leaves(driven: Store, image: Image, leave: Callable[[], None], where: str) -> None:
    url = image(Archive().dir("u", uid=5, gid=5, mode=0o777), runtime={"Volumes": {"/data": {}}})
    rootfs = driven.create(url, "one", *LIMIT)
    volume = next(driven.image("one").glob("vol-*"))
    os.chmod(driven.image("one"), 0o755)
    place = rootfs / "u" if where == "rootfs" else volume
    os.chmod(place, 0o777)
    as_user(FIRST + 4, leave, place)
    delete(driven, "one")
    driven.clean()
    assert driven.subvolumes() == [] and driven.list() == []
    if driven.uid is None:
        assert driven.groups() == set(), "only root may remove the last of them"
    driven.create(url, "one", *LIMIT)


def read_only(place: Path) -> None:
    for path in ("a", "a/b", "a/b/c"):
        mounts.tool("btrfs", "subvolume", "create", place / path)
    for path in ("a/b/c", "a/b", "a"):
        mounts.tool("btrfs", "property", "set", place / path, "ro", "true")


def flags(place: Path) -> None:
    for name, flag in (("i", "+i"), ("a", "+a")):
        (place / name).mkdir()
        (place / name / "file").write_text("x")
        mounts.tool("btrfs", "subvolume", "create", place / name / "sub")
        for path in (place / name / "file", place / name / "sub", place / name):
            mounts.tool("chattr", flag, path)
    mounts.tool("chattr", "+i", place)


@pytest.mark.parametrize("where", ["rootfs", "volume"])
@pytest.mark.parametrize("leave", [read_only, flags], ids=lambda kind: kind.__name__)
def test_whatever_root_in_the_container_leaves(store: Store, image: Image, leave: Callable[[Path], None], where: str) -> None:
    rootfs = store.create(image(Archive().file("f"), runtime={"Volumes": {"/data": {}}}), "one", *LIMIT)
    leave(rootfs if where == "rootfs" else next(store.image("one").glob("vol-*")))
    store.delete("one")
    store.clean()
    assert store.subvolumes() == [] and store.groups() == set()


# -- what the kernel refuses --------------------------------------------------------------


@contextmanager
def default_subvolume(place: Path) -> Iterator[None]:
    """The subvolume of the place is the default one."""
    mounts.tool("btrfs", "subvolume", "set-default", place)
    try:
        yield
    finally:
        mounts.tool("btrfs", "subvolume", "set-default", "5", place)


REFUSED = {
    "swap": (mounts.swap_file, "a swap file in it is active", "swapoff"),
    "default": (default_subvolume, "it is the default subvolume of the file system", "set-default 5"),
}


@pytest.mark.parametrize("depth", ["rootfs", "nested"])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_failed_delete_changes_nothing(store: Store, image: Image, kind: str, depth: str) -> None:
    hold, reason, cure = REFUSED[kind]
    url = image(Archive().file("f", "content"), runtime={"Volumes": {"/data": {}}})
    rootfs = store.create(url, "one", *LIMIT)
    for path in ("nested", "nested/deeper", "sub"):
        mounts.tool("btrfs", "subvolume", "create", rootfs / path)
    (rootfs / "sub" / "data").write_text("kept")
    before = store.subvolumes()
    with hold(rootfs if depth == "rootfs" else rootfs / "nested"):
        result = store.run("delete", "one").failed()
        assert reason in result.message and cure in result.out, result
        assert store.list() == ["one"] and store.subvolumes() == before
        assert (rootfs / "sub" / "data").read_text() == "kept"
        done = subprocess.run(["dd", "if=/dev/zero", f"of={rootfs}/sub/big", "bs=1M", "count=200"], capture_output=True, text=True)
        assert "exceeded" in done.stderr and (rootfs / "sub" / "big").stat().st_size < 60 * MIB
        (rootfs / "sub" / "big").unlink()
        # Everything else goes on.
        store.create(url, "two")
        store.run("create", "--with-clean", url, "three").ok()
        store.delete("two")
        store.clean()
        assert "nothing found" in store.run("check").ok().out
    store.delete("one")
    assert store.list() == ["three"]


def test_the_id_of_what_cannot_be_removed_is_free(store: Store, image: Image) -> None:
    """A half-removed image keeps its space, and is named, but nobody's create fails for it."""
    url = image(Archive().file("f"))
    store.image("dead").mkdir(mode=0o700)
    place = store.image("dead") / "vol-0"
    mounts.tool("btrfs", "subvolume", "create", place)
    mounts.tool("btrfs", "subvolume", "set-default", place)
    store.create(url, "dead")
    [left] = [name for name in os.listdir(store.path / "images") if name != "dead"]
    assert store.list() == ["dead"]
    result = store.run("clean").failed()
    assert str(store.image(left)) in result.message and "it is the default subvolume" in result.message
    # The clean after a create has nothing to complain of to who made another image.
    store.run("create", "--with-clean", url, "other").ok()
    report = store.run("check")
    assert report.code == 1 and f"unfinished-image: {store.image(left)}" in report.out
    mounts.tool("btrfs", "subvolume", "set-default", "5", store.path)
    store.clean()
    assert sorted(os.listdir(store.path / "images")) == ["dead", "other"]
