"""Deep checks: a volume that is as it was unpacked gives no alarm, and a single change of anything does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support import mounts
from support.accounts import User
from support.archive import Archive, Layer
from support.command import MIB, Result, Store, new_id
from support.layout import chain_ids, write_layout
from support.stacks import STACK, Item, archive_of
from support.tree import photograph

Image = Callable[..., str]
MakeStore = Callable[..., Store]
HOLE = 1 << 20


def deep(store: Store, *flags: str) -> list[dict[str, str]]:
    """What a deep check finds."""
    result = store.run("check", "--deep", "--json", *flags)
    assert result.err == "" and result.code in (0, 1), result
    found: list[dict[str, str]] = json.loads(result.out)["findings"]
    remains = any(finding["severity"] != "note" and finding["state"] != "repaired" for finding in found)
    assert result.code == int(remains), result
    return found


def sparse(archive: Archive, name: str, data: bytes) -> Archive:
    """A file with a hole in front of its data (PAX, GNU sparse 0.1)."""
    pairs = {
        "GNU.sparse.name": name,
        "GNU.sparse.size": str(HOLE + len(data)),
        "GNU.sparse.map": f"{HOLE},{len(data)}",
        "GNU.sparse.numblocks": "1",
    }
    return archive.pax(pairs).file("GNUSparseFile.0/x", data)


def lower() -> Archive:
    """What the layer above changes in every way."""
    archive = Archive().dir(".", mtime=500).dir("d", mode=0o2750, uid=5, gid=6).dir("gone").file("gone/x", "x").dir("emptied")
    archive.file("emptied/old", "old").file("hidden", "h").file("d/replaced", "old").file("kept", "kept" * 5000, mode=0o4755)
    archive.pax({"SCHILY.xattr.user.colour": b"blue", "SCHILY.xattr.user.empty": b""}).file("painted", "p")
    archive.pax({"SCHILY.xattr.user.d": b"1"}).dir("painted-dir").dir("restated", mtime=77).file("restated/in", "i")
    return archive.file("one", "names").link("two", "one").link("d/three", "two").file("stays", "s").symlink("stays-link", "stays")


def upper() -> Archive:
    """Markers, replacements, parents that no entry describes, a directory that is described again, links of all kinds."""
    archive = (
        Archive().whiteout("gone").whiteout("hidden").opaque("emptied").file("emptied/new", "new").dir("restated", mtime=99, mode=0o700)
    )
    archive.file("a/b/c/implicit", "deep").file("d/replaced", "new").whiteout("d").file("d/replaced", "again").link("four", "one")
    archive.symlink("way", "a/b").file("way/through", "t").file("big", os.urandom(300_000))
    sparse(archive, "holes", b"behind")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    return archive.pax({"SCHILY.xattr.security.capability": capability}).file("capable", "c", mode=0o755)


LAYERS = [Layer(lower().tar), Layer(upper().tar)]
CHAIN = chain_ids(LAYERS)


@pytest.fixture(scope="module")
def layout(module_scratch: Path) -> str:
    return write_layout(module_scratch / "layout", *LAYERS)


@pytest.fixture(scope="module")
def place(shared_store: Store, layout: str) -> Store:
    """A store with the image."""
    shared_store.create(layout, "rich")
    return shared_store


def volume(store: Store, chain_id: str = CHAIN[-1]) -> Path:
    return store.path / "volumes" / chain_id


def test_nothing_is_wrong_and_nothing_is_touched(place: Store) -> None:
    before = photograph(volume(place), change_time=True)
    times = os.lstat(volume(place) / "big").st_atime_ns
    assert deep(place) == []
    assert photograph(volume(place), change_time=True) == before and os.lstat(volume(place) / "big").st_atime_ns <= times
    assert place.run("check", "--deep").ok().out == "nothing found\n"


# -- single changes -----------------------------------------------------------------------


def keep_times(*paths: Path) -> Callable[[], None]:
    """Gives what puts the modification times back."""
    times = [(path, os.lstat(path).st_mtime_ns) for path in paths]
    return lambda: [os.utime(path, ns=(time, time), follow_symlinks=False) for path, time in times if os.path.lexists(path)]  # type: ignore[return-value]


def flip(path: Path, at: int = 0) -> None:
    """One bit of the content, and the time as before."""
    restore = keep_times(path)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    restore()


def inside(change: Callable[[Path], object], *parents: str) -> Callable[[Path], None]:
    """A change that leaves the times of these directories as they were."""

    def make(root: Path) -> None:
        restore = keep_times(*(root / parent for parent in parents))
        change(root)
        restore()

    return make


def copy_over(root: Path) -> None:
    """The same file again, no longer with its other names."""
    shutil.copy2(root / "two", root / "copy")
    os.rename(root / "copy", root / "two")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "first bit": (lambda root: flip(root / "kept"), "`kept`: other content"),
    "last bit": (lambda root: flip(root / "big", 299_999), "`big`: other content"),
    "bit of an upper layer": (lambda root: flip(root / "way" / "through"), "`a/b/through`: other content"),
    "bit after a hole": (lambda root: flip(root / "holes", HOLE), "`holes`: other content"),
    "bit in a hole": (lambda root: flip(root / "holes", 5000), "`holes`: other content"),
    "bit under three names": (lambda root: flip(root / "one"), "other content"),
    "longer": (lambda root: os.truncate(root / "holes", HOLE * 3), "3145728 bytes, not 1048582"),
    "cut": (lambda root: inside(lambda r: os.truncate(r / "kept", 0), "kept")(root), "`kept`: 0 bytes, not 20000"),
    "mode": (lambda root: (root / "kept").chmod(0o755), "`kept`: mode 0755, not 4755"),
    "mode of a directory": (lambda root: (root / "d").chmod(0o700), "`d`: mode 0700, not"),
    "user": (lambda root: os.chown(root / "stays", 7, -1), "`stays`: owner 7:0, not 0:0"),
    "group": (lambda root: os.chown(root / "restated", -1, 7), "`restated`: owner 0:7, not 0:0"),
    "owner of a link": (lambda root: os.lchown(root / "stays-link", 1, 1), "`stays-link`: owner 1:1, not 0:0"),
    "owner of the root": (lambda root: os.chown(root, 1, 1), "`/`: owner 1:1, not 0:0"),
    "mode of the root": (lambda root: root.chmod(0o711), "`/`: mode 0711, not 0755"),
    "time": (lambda root: os.utime(root / "stays", ns=(0, 1_400_000_000_000_000_001)), "`stays`: modified at 1400000000.000000001, not"),
    "time of a directory": (lambda root: os.utime(root / "a" / "b", (5, 5)), "`a/b`: modified at 5.000000000, not 0.000000000"),
    "time of a link": (lambda root: os.utime(root / "way", (5, 5), follow_symlinks=False), "`way`: modified at 5.000000000"),
    "gone": (inside(lambda root: (root / "stays").unlink(), "."), "`stays`: is missing"),
    "gone from below": (inside(lambda root: (root / "a/b/c/implicit").unlink(), "a/b/c"), "`a/b/c/implicit`: is missing"),
    "all gone": (inside(lambda root: shutil.rmtree(root / "a"), "."), "`a`: is missing"),
    "new file": (inside(lambda root: (root / "a/b/new").touch(), "a/b"), "`a/b/new`: no layer put it there"),
    "new directory": (inside(lambda root: (root / "new").mkdir(), "."), "`new`: no layer put it there"),
    "whiteout undone": (inside(lambda root: (root / "hidden").write_text("h"), "."), "`hidden`: no layer put it there"),
    "attribute": (lambda root: os.setxattr(root / "painted", "user.colour", b"red"), "`painted`: other extended attributes"),
    "new attribute": (lambda root: os.setxattr(root / "stays", "user.x", b""), "`stays`: other extended attributes"),
    "lost attribute": (lambda root: os.removexattr(root / "painted", "user.empty"), "`painted`: other extended attributes"),
    "attribute of a directory": (lambda root: os.removexattr(root / "painted-dir", "user.d"), "`painted-dir`: other extended"),
    "lost capability": (lambda root: os.removexattr(root / "capable", "security.capability"), "`capable`: other extended"),
    "another target": (
        inside(lambda root: ((root / "way").unlink(), (root / "way").symlink_to("a/c")), "."),
        "points at `a/c`, not at `a/b`",
    ),
    "another name": (inside(lambda root: os.link(root / "stays", root / "d" / "stays"), "d"), "2 names, not 1"),
    "names apart": (inside(copy_over, "."), "`two`: 1 names, not 3, not the same file"),
    "file for a link": (inside(lambda root: ((root / "way").unlink(), (root / "way").touch()), "."), "is no symbolic link any more"),
    "link for a file": (inside(lambda root: ((root / "stays").unlink(), (root / "stays").symlink_to("one")), "."), "is no regular file"),
    "link for a directory": (
        inside(lambda root: (os.rename(root / "restated", root / "d/r"), (root / "restated").symlink_to("d/r")), ".", "d"),
        "`restated`: is no directory any more",
    ),
    "pipe for a file": (inside(lambda root: ((root / "stays").unlink(), os.mkfifo(root / "stays")), "."), "is no regular file any more"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_single_change_is_found(place: Store, layout: str, name: str) -> None:
    change, told = CHANGES[name]
    top = volume(place)
    backup = place.path / "tmp" / "backup"
    mounts.tool("btrfs", "subvolume", "snapshot", top, backup)
    try:
        change(top)
        found = [finding for finding in deep(place) if finding["path"] != str(backup)]
        assert [(finding["severity"], finding["kind"], finding["path"]) for finding in found] == [("error", "damaged-content", str(top))]
        assert told in found[0]["problem"], found
    finally:
        mounts.tool("btrfs", "subvolume", "delete", top)
        os.rename(backup, top)
    assert deep(place) == []


def test_a_hole_that_was_filled_with_zeros_is_no_change(place: Store) -> None:
    path = volume(place) / "holes"
    restore = keep_times(path)
    with path.open("r+b") as file:
        file.write(bytes(100_000))
    restore()
    assert os.stat(path).st_blocks * 512 >= 100_000
    assert deep(place) == []


def test_changes_below_are_found_below(place: Store) -> None:
    bottom = volume(place, CHAIN[0])
    flip(bottom / "hidden")
    try:
        assert [(finding["kind"], finding["path"]) for finding in deep(place)] == [("damaged-content", str(bottom))]
    finally:
        flip(bottom / "hidden")
    assert deep(place) == []


def test_decay_of_the_disk_is_found(make_store: MakeStore, image: Image) -> None:
    """The kernel notices by its checksums; the check goes on to the end and says where."""
    store = make_store()
    noise = os.urandom(1 * MIB)
    store.create(image(Archive().file("a", "a" * 5000).file("decayed", noise).file("z", "z")), "one")
    mounts.tool("umount", store.path)
    whole = store.backing.read_bytes()
    at = whole.index(noise[:65536])
    with store.backing.open("r+b") as disk:
        disk.seek(at + 20_000)
        disk.write(b"decay")
    mounts.mount_copy(store.backing, store.path)
    found = deep(store)
    assert [finding["kind"] for finding in found] == ["damaged-content"]
    assert "1 of 4 paths" in found[0]["problem"] and "`decayed`: content cannot be read: input/output error" in found[0]["problem"]


# -- listings -----------------------------------------------------------------------------


def listing(store: Store, chain_id: str = CHAIN[-1]) -> Path:
    return store.path / "meta" / f"listing-{chain_id}"


@pytest.fixture
def own(store: Store, layout: str) -> Store:
    store.create(layout, "one")
    return store


def test_volumes_without_listings_are_not_damage(own: Store) -> None:
    listing(own, CHAIN[0]).unlink()
    found = deep(own)
    assert [(finding["severity"], finding["kind"]) for finding in found] == [("note", "not-verifiable")]
    assert "2 volumes" in found[0]["problem"]
    own.create(write_layout(own.path.parent / "more", LAYERS[0], Layer(Archive().file("m", "more").tar)), "two")
    assert "3 volumes" in deep(own)[0]["problem"]


def test_listing_of_another_volume_below_is_not_used(own: Store) -> None:
    head, _, rest = listing(own).read_bytes().partition(b"\n")
    other = head[:-1] + (b"0" if head[-1:] != b"0" else b"1")
    listing(own).write_bytes(other + b"\n" + rest)
    assert [(finding["severity"], finding["kind"]) for finding in deep(own)] == [("note", "not-verifiable")]


@pytest.mark.parametrize("damage", ["cut", "bit", "body"])
def test_damaged_listing(own: Store, damage: str) -> None:
    whole = listing(own).read_bytes()
    head, _, body = whole.partition(b"\n")
    bad = {"cut": whole[:-3], "bit": whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:], "body": head + b"\n" + body[:10]}
    listing(own).write_bytes(bad[damage])
    found = deep(own)
    assert [(finding["severity"], finding["kind"], finding["path"]) for finding in found] == [
        ("warning", "damaged-listing", str(volume(own)))
    ]


@pytest.mark.parametrize("trick", ["pipe", "link", "empty", "folder"])
def test_something_else_for_a_listing(own: Store, trick: str) -> None:
    listing(own).unlink()
    {
        "pipe": lambda: os.mkfifo(listing(own)),
        "link": lambda: listing(own).symlink_to("/dev/zero"),
        "empty": lambda: listing(own).touch(),
        "folder": lambda: listing(own).mkdir(),
    }[trick]()
    assert [finding["kind"] for finding in deep(own)] == ["not-verifiable"]


def test_listings_go_with_their_volumes(own: Store) -> None:
    assert listing(own).exists()
    own.delete("one")
    own.clean()
    assert os.listdir(own.path / "meta") and not [name for name in os.listdir(own.path / "meta") if "-" in name]


def test_failed_unpacking_leaves_no_listing(store: Store, image: Image) -> None:
    store.refuse(image(Archive().file("f", "x").link("l", "nothing")))
    wrong = Layer(Archive().file("f", "y").tar, diff_id="b" * 64)
    store.refuse(image(wrong))
    assert [name for name in os.listdir(store.path / "meta") if name.startswith(("listing-", "volume-"))] == []


def test_repair_removes_damaged_volumes_that_nobody_uses(own: Store, image: Image) -> None:
    flip(volume(own) / "kept")
    tree = photograph(own.rootfs("one"), change_time=True)
    assert [finding["state"] for finding in deep(own, "--dry-run")] == ["found"]
    assert [finding["state"] for finding in deep(own, "--repair")] == ["found"]
    assert photograph(own.rootfs("one"), change_time=True) == tree
    own.delete("one")
    assert [finding["state"] for finding in deep(own, "--dry-run")] == ["would be repaired"]
    assert [finding["state"] for finding in deep(own, "--repair")] == ["repaired"]
    assert own.volumes() == [CHAIN[0]] and deep(own) == []


def test_directory_as_an_image(store: Store, scratch: Path) -> None:
    source = scratch / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_text("f")
    os.link(source / "d" / "f", source / "g")
    (source / "l").symlink_to("d")
    os.setxattr(source / "d", "user.x", b"1")
    with (source / "holes").open("wb") as file:
        os.truncate(file.fileno(), 9000)
    store.create(source, "one")
    assert deep(store) == []
    flip(next((store.path / "volumes").iterdir()) / "g")
    assert [finding["kind"] for finding in deep(store)] == ["damaged-content"]


@pytest.mark.parametrize("maker", ["root", "user"])
def test_translated_store_seen_by_root_and_by_its_owner(make_store: MakeStore, user: User, layout: str, maker: str) -> None:
    root = make_store("--rootless", f"{user.name}:{user.name}")
    owner = Store(root.path, uid=user.uid)
    (root if maker == "root" else owner).create(layout, "one")
    assert deep(root) == [] and [finding for finding in deep(owner) if finding["kind"] != "needs-root"] == []
    os.chown(volume(root) / "stays", 0, 0)
    for store in (root, owner):
        found = [finding for finding in deep(store) if finding["kind"] != "needs-root"]
        assert [finding["kind"] for finding in found] == ["damaged-content"] and "`stays`: owner" in found[0]["problem"]


# -- random stacks ------------------------------------------------------------------------


class Busy(NamedTuple):
    """A store, and by what to divide the number of examples: repeating them as an ordinary user is only to find what differs."""

    store: Store
    fewer: int


@pytest.fixture(scope="module", params=["root", "user"])
def busy(request: pytest.FixtureRequest, module_scratch: Path, user: User) -> Busy:
    """As root, and as an ordinary user on a store of its own."""
    if request.param == "root":
        store = Store(module_scratch / "roots")
        store.init().ok()
        return Busy(store, fewer=1)
    store = Store(module_scratch / "users")
    store.init("--rootless", f"{user.name}:{user.name}").ok()
    return Busy(Store(store.path, uid=user.uid), fewer=4)


def made(store: Store, scratch: Path, stack: list[list[Item]]) -> str | None:
    """The image of a stack, and of nothing else; None where it is refused."""
    image_id = new_id()
    result: Result = store.run("create", write_layout(scratch / image_id, *map(archive_of, stack)), image_id)
    return image_id if result.code == 0 else None


def without(store: Store, image_id: str) -> None:
    store.delete(image_id)
    store.clean()


def test_no_false_alarm(busy: Busy, module_scratch: Path) -> None:
    @settings(max_examples=40 // busy.fewer)
    @given(stack=STACK)
    def holds(stack: list[list[Item]]) -> None:
        image_id = made(busy.store, module_scratch, stack)
        assume(image_id is not None)
        assert image_id is not None
        try:
            # Refused stacks leave their lower volumes, which are verified too, and lock files.
            assert [finding for finding in deep(busy.store) if finding["kind"] not in ("needs-root", "stale-group", "stale-locks")] == []
        finally:
            without(busy.store, image_id)

    holds()


def change_one(path: Path, how: int) -> None:
    """One of the changes that fit what is there."""
    info = os.lstat(path)
    if path.is_symlink():
        os.utime(path, ns=(0, info.st_mtime_ns + 1), follow_symlinks=False)
    elif how == 0:
        path.chmod(info.st_mode & 0o7777 ^ 0o010)
    elif how == 1:
        os.setxattr(path, "user.other", b"1")
    elif how == 2:
        os.utime(path, ns=(0, info.st_mtime_ns + 1))
    elif path.is_dir():
        (path / "foreign").touch()
        os.utime(path, ns=(0, info.st_mtime_ns))
    elif info.st_size == 0:
        os.truncate(path, 1)
        os.utime(path, ns=(0, info.st_mtime_ns))
    else:
        flip(path, info.st_size - 1)


def test_no_change_is_missed(busy: Busy, module_scratch: Path) -> None:
    @settings(max_examples=40 // busy.fewer)
    @given(stack=STACK, where=st.randoms(use_true_random=False), how=st.integers(0, 3))
    def holds(stack: list[list[Item]], where: object, how: int) -> None:
        image_id = made(busy.store, module_scratch, stack)
        assume(image_id is not None)
        assert image_id is not None
        try:
            top = busy.store.path / "volumes" / json.loads(busy.store.record(image_id).read_text())[-1]
            chosen = where.choice(sorted(photograph(top)))  # type: ignore[attr-defined]
            change_one(top / chosen, how)
            found = {finding["path"] for finding in deep(busy.store) if finding["kind"] == "damaged-content"}
            assert found == {str(top)}
        finally:
            without(busy.store, image_id)

    holds()
