"""A store whose owner is hostile to root: made anew in a moment, spoilt in one place, and raced."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from groot_fast import _core
from support import mounts
from support.accounts import User
from support.archive import Archive
from support.attack import Sentinel
from support.command import Store
from support.layout import write_layout
from support.tree import Tree, photograph

IMAGE = "box"
UNFINISHED = "half"
DEAD = "d" * 64
SECRETS = re.compile(r"secret|victim|second-name|setuid|not for images|alive")
"""Names and contents of a sentinel: no command has a reason to print them."""
LARGEST = 1 << 20
"""No size that is recorded or told of the store comes near to this; a sentinel has a file that is larger."""
SWAPPER = Path(__file__).with_name("swapper.py")
SUBVOL_CREATE = 0x5000940E


class Place(NamedTuple):
    """Something in a store that its owner can put something else in the place of."""

    name: str
    """What the document calls it."""
    path: str
    """From the store; ``{chain}``, ``{source}`` and ``{declared}`` stand for names that depend on the image."""
    is_folder: bool


PLACES = [
    *(Place(name, name, True) for name in ("images", "volumes", "meta", "meta/dependencies", "meta/sources", "meta/proofs")),
    *(Place(name, name, True) for name in ("locks", "tmp", "cache")),
    Place("an image", f"images/{IMAGE}", True),
    Place("an image's `rootfs`", f"images/{IMAGE}/rootfs", True),
    Place("an image's volume source", f"images/{IMAGE}/{{declared}}", True),
    Place("an image's `image.json`", f"images/{IMAGE}/image.json", False),
    Place("an unfinished image", f"images/{UNFINISHED}", True),
    Place("an image to be", "images/new", True),
    Place("a volume", "volumes/{chain}", True),
    Place("a directory of a volume", "volumes/{chain}/dir", True),
    Place("a file of a volume", "volumes/{chain}/file", False),
    Place("an incomplete volume", f"volumes/{DEAD}-incomplete-1-2", True),
    Place("a volume to be destroyed", f"volumes/gc.{DEAD}", True),
    Place("`namespace.json`", "meta/namespace.json", False),
    Place("an image's record", f"meta/dependencies/image:{IMAGE}.json", False),
    Place("a record without image", "meta/dependencies/image:gone.json", False),
    Place("a volume's size", "meta/volume-{chain}", False),
    Place("a volume's listing", "meta/listing-{chain}", False),
    Place("a source's record", "meta/sources/{source}", False),
    Place("the proofs' key", "meta/proofs/key", False),
    Place("the lock of all", "locks/global-groot-lock.lock", False),
    Place("the lock of cleans", "locks/groot-gc-lock.lock", False),
    Place("a volume's lock", "locks/{chain}.lock", False),
    Place("a lock of the dead", f"locks/{DEAD}.lock", False),
    Place("a download", f"tmp/blob-{DEAD}", False),
    Place("a directory in `tmp`", "tmp/image-1-0", True),
    Place("a file in `tmp`", "tmp/record-1-0", False),
    Place("the backing file", "../store.backing-store", False),
]


class Field:
    """A BTRFS with the store of a user who is hostile, and two trees of root's: one on it, one elsewhere."""

    def __init__(self, scratch: Path, user: User) -> None:
        self.user = user
        self.scratch = scratch
        self.top = scratch / "fs"
        mounts.make_btrfs(scratch / "fs.btrfs", self.top, 1 << 30)
        self.home = self.top / "home"
        self.home.mkdir(mode=0o755)
        self.store = Store(self.home / "store")
        self.within = Target(self.top / "sentinel")
        self.outside = Target(scratch / "sentinel")
        self.warm = write_layout(scratch / "warm", self.layer("warm"), runtime={"Volumes": {"/data": {}}})
        self.cold = write_layout(scratch / "cold", self.layer("cold"), self.layer("above"))
        self.tar = scratch / "layer.tar"
        self.tar.write_bytes(self.layer("tar").tar)
        self.directory = scratch / "directory"
        (self.directory / "sub").mkdir(parents=True)
        (self.directory / "sub" / "file").write_text("x" * 5000)
        self.rootless = ("--rootless", f"{user.name}:{user.name}")
        self.names: dict[str, str] = {}
        self._template = scratch / "fs" / "template"
        self._make_template()

    @staticmethod
    def layer(name: str) -> Archive:
        return Archive().dir("dir").file("dir/inner", "i" * 3000).file("file", name * 1000, uid=5, gid=6).symlink("link", "dir/inner")

    def _make_template(self) -> None:
        self.store.run("init-store", *self.rootless, "--quota", "simple").ok()
        self.store.run("create", "--disk-limit-size-bytes", str(100 << 20), self.warm, IMAGE).ok()
        path = self.store.path
        (chain,) = self.store.volumes()
        (declared,) = [name.name for name in self.store.image(IMAGE).glob("vol-*")]
        (source,) = os.listdir(path / "meta" / "sources")
        self.names = {"chain": chain, "declared": declared, "source": source}
        for name in (f"volumes/{DEAD}-incomplete-1-2", f"volumes/gc.{DEAD}"):
            make_subvolume(path / name)
            (path / name / "file").write_text("left")
        for name in ("meta/proofs", f"images/{UNFINISHED}", "tmp/image-1-0"):
            (path / name).mkdir(mode=0o755)
        (path / "images" / UNFINISHED / "image.json").write_text("{}")
        (path / "meta/dependencies/image:gone.json").write_text(f'["{DEAD}"]')
        (path / "meta/proofs/key").write_bytes(b"k" * 32)
        for name in (f"tmp/blob-{DEAD}", "tmp/record-1-0", f"locks/{DEAD}.lock", "locks/groot-gc-lock.lock"):
            (path / name).write_text("")
        for name in self.owned(path):
            os.chown(name, self.user.uid, self.user.gid, follow_symlinks=False)
        copy_tree(path, self._template)
        self.clear()

    def owned(self, path: Path) -> Iterator[Path]:
        """All of the store that is its owner's: not the mappings, and not the trees."""
        yield path
        for entry in path.rglob("*"):
            inside = entry.relative_to(path).parts
            if entry.name != "namespace.json" and not (inside[0] == "volumes" and len(inside) > 2) and "rootfs" not in inside[:-1]:
                yield entry

    def clear(self) -> None:
        """Take the store away, whatever became of it."""
        for point in mounts.mounts_below(self.home):
            mounts.tool("umount", point)
        for entry in os.listdir(self.home):
            remove(self.home, entry)

    def fresh(self, *, backed: bool = False) -> Store:
        """The store as it was at first. ``backed``: beside a file that it could be in, and is not."""
        self.clear()
        copy_tree(self._template, self.store.path)
        if backed:
            (self.home / "store.backing-store").write_text("")
        os.chown(self.home, self.user.uid, self.user.gid)
        self.look()
        return self.store

    def look(self) -> None:
        """What is in root's trees now is what has to be there."""
        for target in (self.within, self.outside):
            target.look()

    def path_of(self, place: Place) -> Path:
        """Where it is now."""
        return Path(os.path.normpath(self.store.path / place.path.format(**self.names)))

    def reset_mounts(self) -> None:
        for point in mounts.mounts_below(self.home):
            mounts.tool("umount", point)


class Target(Sentinel):
    """A tree of root's that hostile users want to reach. Its times are those that it has when it is looked at."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with (path / "empty" / "large").open("wb") as file:
            os.truncate(file.fileno(), LARGEST)
        self.look()

    def look(self) -> None:
        """What is there now is what has to be there."""
        self.before = photograph(self.path, change_time=True)

    def check_unlinked(self) -> None:
        """As `check`, after a name was given to one of the files: taking that away again changes when the file was changed."""

        def comparable(tree: Tree) -> Tree:
            return {name: node._replace(ctime=0) for name, node in tree.items()}

        assert comparable(photograph(self.path, change_time=True)) == comparable(self.before)


def make_subvolume(path: Path) -> None:
    """As `btrfs subvolume create`."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.ioctl(folder, SUBVOL_CREATE, bytearray(struct.pack("q4088s", 0, os.fsencode(path.name))))
    finally:
        os.close(folder)


def remove(folder: Path, name: str) -> None:
    """Remove something, subvolumes and all."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        _core.remove_entry(opened, name)
    finally:
        os.close(opened)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a store: subvolumes stay subvolumes, owners, modes, times and attributes are kept."""
    info = os.lstat(source)
    if stat.S_ISLNK(info.st_mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISDIR(info.st_mode):
        if info.st_ino == 256:
            make_subvolume(target)
        else:
            target.mkdir()
        for name in os.listdir(source):
            copy_tree(source / name, target / name)
    else:
        shutil.copyfile(source, target)
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        target.chmod(stat.S_IMODE(info.st_mode))
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


# -- tricks ----------------------------------------------------------------------------------


def _empty(path: Path) -> None:
    if os.path.lexists(path):
        remove(path.parent, path.name)


def link_to(which: str) -> Callable[[Field, Place, Path], None]:
    def trick(field: Field, place: Place, path: Path) -> None:
        _empty(path)
        sentinel: Target = getattr(field, which)
        path.symlink_to(sentinel.path if place.is_folder else sentinel.path / "secret")

    return trick


def dangling(field: Field, _: Place, path: Path) -> None:
    _empty(path)
    path.symlink_to(field.outside.path / "made")


def hard_link(field: Field, _: Place, path: Path) -> None:
    _empty(path)
    try:
        os.link(field.within.path / "secret", path)
    except OSError:
        path.write_text("no link goes into another subvolume")


def fifo(_: Field, __: Place, path: Path) -> None:
    _empty(path)
    os.mkfifo(path)


def device(_: Field, __: Place, path: Path) -> None:
    _empty(path)
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def other_kind(field: Field, place: Place, path: Path) -> None:
    _empty(path)
    if place.is_folder:
        path.write_text("no directory")
    else:
        (path / "in").mkdir(parents=True)
        (path / "in" / "file").write_text("x")


def mount_of(which: str) -> Callable[[Field, Place, Path], None]:
    def trick(field: Field, place: Place, path: Path) -> None:
        sentinel: Target = getattr(field, which)
        if not os.path.lexists(path):
            path.mkdir()
        mounts.tool("mount", "--bind", sentinel.path if path.is_dir() else sentinel.path / "secret", path)

    return trick


TRICKS: dict[str, Callable[[Field, Place, Path], None]] = {
    "link to another file system": link_to("outside"),
    "link within the file system": link_to("within"),
    "link to nothing": dangling,
    "hard link": hard_link,
    "FIFO": fifo,
    "device": device,
    "another kind": other_kind,
    "mount of another file system": mount_of("outside"),
    "mount of the same file system": mount_of("within"),
}

SWAP = "swapped in a loop"


def lay_link(field: Field, place: Place) -> tuple[Path, Path]:
    """The place, and beside it a link to root's tree, to be exchanged."""
    path = field.path_of(place)
    link = path.with_name(f"{path.name}.swap")
    if not os.path.lexists(path):
        path.mkdir()
    link.symlink_to(field.outside.path if place.is_folder else field.outside.path / "secret")
    return path, link


@contextmanager
def swapped(field: Field, place: Place) -> Iterator[Callable[[], int]]:
    """The place and a link to root's tree change places as fast as its owner can do that; gives how often they did."""
    path, link = lay_link(field, place)
    argv = [sys.executable, "-I", SWAPPER, "until told", path, link]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()
        yield lambda: int(process.communicate("stop\n", timeout=30)[0])
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            stream.close()
