"""B: special files, owners, modes, times and extended attributes."""

from __future__ import annotations

import json
import os
import pwd
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from support.archive import T0, Archive, base256
from support.attack import Attack
from support.command import Grootfs, Store, new_id
from support.tree import names, photograph

NOBODY = pwd.getpwnam("nobody").pw_uid
NOGROUP = pwd.getpwnam("nobody").pw_gid


def left_out(store: Store, url: str) -> dict[str, int]:
    """What the log says was left out of an image."""
    result = Grootfs(*store.options, "--log-level", "info", uid=store.uid).run("create", url, new_id()).ok()
    lines = [json.loads(line) for line in result.err.splitlines()]
    found = [line["data"]["entries"] for line in lines if line["message"].endswith(".left-out")]
    assert len(found) == 1, result.err
    entries: dict[str, int] = found[0]
    return entries


DEVICES = (
    Archive()
    .entry("mem", b"3", mode=0o666, major=1, minor=1)
    .entry("sda", b"4", major=8)
    .entry("null", b"3", major=1, minor=3)
    .file("f", "x")
)


def test_B1_devices_are_left_out(attack: Attack) -> None:
    assert names(attack.contained(DEVICES)) == ["f"]


def test_B1_devices_are_left_out_with_one_line_in_the_log(store: Store, image: Callable[..., str]) -> None:
    assert left_out(store, image(DEVICES)) == {"device": 3}


def test_B1_devices_are_left_out_for_an_ordinary_user(make_store: Callable[..., Store], image: Callable[..., str]) -> None:
    rootful = make_store("--uid-mapping", f"0:{NOBODY}:1", "--gid-mapping", f"0:{NOGROUP}:1")
    store = Store(rootful.path, uid=NOBODY)
    assert left_out(store, image(DEVICES)) == {"device": 3}
    rootfs = store.create(image(DEVICES))
    assert names(rootfs) == ["f"] and (rootfs / "f").stat().st_uid == NOBODY


@pytest.mark.parametrize("number", [b"7777777\0", b"99999999", b"\xff" * 8, b"\x80" + b"\xff" * 7, base256(-1, 8), 1 << 40])
def test_B2_device_numbers_out_of_range(attack: Attack, number: bytes | int) -> None:
    archive = Archive().entry("dev", b"3", major=number, minor=number).entry("block", b"4", major=number).file("f", "x")
    assert names(attack.contained(archive)) == ["f"]


def test_B3_overlay_whiteout_is_no_whiteout(attack: Attack) -> None:
    lower = Archive().file("f", "kept").file("d/g", "kept")
    upper = Archive().entry("f", b"3").pax({"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y"}).dir("d")
    rootfs = attack.contained(lower, upper)
    assert (rootfs / "f").read_text() == "kept" and (rootfs / "d/g").read_text() == "kept"
    assert photograph(rootfs)["d"].xattrs == ()


def test_B4_fifos_are_left_out(attack: Attack, image: Callable[..., str], store: Store) -> None:
    archive = Archive().entry("pipe", b"6", mode=0o666).file("f", "x")
    assert names(attack.contained(archive)) == ["f"]
    assert left_out(store, image(archive)) == {"fifo": 1}


def test_B4_sockets_have_no_type(attack: Attack) -> None:
    attack.refused(Archive().entry("socket", b"s"), match="`socket`: unknown entry type `s`")


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o6711, 0o7777, 0o000, 0o400, 0o2000])
def test_B5_mode_bits_survive_the_change_of_owner(attack: Attack, mode: int) -> None:
    rootfs = attack.contained(
        Archive().file("f", "x", mode=mode, uid=1000, gid=1001).dir("d", mode=mode, uid=1000, gid=1001).file("d/f", "y")
    )
    for name in ("f", "d"):
        info = (rootfs / name).lstat()
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (mode, 1000, 1001), name


def test_B5_children_of_a_setgid_directory(attack: Attack) -> None:
    archive = (
        Archive().dir("d", mode=0o2775, gid=50).file("d/f", "x", mode=0o2644).dir("d/sub").symlink("d/s", "f").file("d/implied/g", "y")
    )
    tree = photograph(attack.contained(archive))
    assert {name: (node.mode, node.owner) for name, node in tree.items() if name != "."} == {
        "d": (0o2775, (0, 50)),
        "d/f": (0o2644, (0, 0)),
        "d/sub": (0o755, (0, 0)),
        "d/s": (0o777, (0, 0)),
        "d/implied": (0o755, (0, 0)),
        "d/implied/g": (0o644, (0, 0)),
    }


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, ident)
    for tag, perm, ident in [(1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
)


def with_xattrs(archive: Archive, name: str, xattrs: dict[str, bytes], typeflag: bytes = b"0", **fields: object) -> Archive:
    return archive.pax({f"SCHILY.xattr.{key}": value for key, value in xattrs.items()}).entry(name, typeflag, **fields)


@pytest.mark.parametrize(
    ("xattr", "value"),
    [
        ("user.colour", b"green"),
        ("user.binary", bytes(range(256))),
        ("user.empty", b""),
        ("user.with=equals", b"a=b\nc"),
        ("security.capability", CAPABILITY),
        ("system.posix_acl_access", ACL),
        ("user.large", b"v" * 3000),
    ],
)
def test_B6_attributes_that_are_kept(attack: Attack, xattr: str, value: bytes) -> None:
    archive = with_xattrs(Archive(), "f", {xattr: value}, uid=1000, mode=0o640)
    if xattr != "security.capability":
        with_xattrs(archive, "d", {xattr: value}, b"5", mode=0o750)
    # An equals sign ends the key in PAX.
    key, stored = (xattr, value) if "=" not in xattr else ("user.with", b"equals=" + value)
    tree = photograph(attack.contained(archive))
    assert all(tree[name].xattrs == ((key, stored),) for name in tree if name != ".")


@pytest.mark.parametrize(
    "xattr",
    [
        "security.selinux",
        "security.ima",
        "security.apparmor",
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.x",
        "user.overlay.opaque",
        "system.posix_acl_default",
        "btrfs.compression",
        "nonsense",
    ],
)
def test_B6_attributes_that_are_left_out(attack: Attack, image: Callable[..., str], store: Store, xattr: str) -> None:
    archive = with_xattrs(with_xattrs(Archive(), "f", {xattr: b"y"}), "d", {xattr: b"y"}, b"5")
    tree = photograph(attack.contained(archive))
    assert tree["f"].xattrs == tree["d"].xattrs == ()
    assert left_out(store, image(archive)) == {f"extended attribute {xattr}": 2}


def test_B6_attributes_of_links_go_nowhere(attack: Attack) -> None:
    archive = Archive().file("f", "x").dir("d")
    for name, typeflag, target in (
        ("s", b"2", "f"),
        ("t", b"2", "d"),
        ("h", b"1", "f"),
        ("out", b"2", str(attack.sentinel.path / "secret")),
    ):
        with_xattrs(archive, name, {"user.x": b"y"}, typeflag, link=target)
    assert all(node.xattrs == () for node in photograph(attack.contained(archive)).values())


def test_B6_new_entry_for_a_directory_replaces_its_attributes(attack: Attack) -> None:
    lower = with_xattrs(Archive(), "d", {"user.old": b"1", "user.both": b"1", "system.posix_acl_access": ACL}, b"5").file("d/f")
    upper = with_xattrs(Archive(), "d", {"user.both": b"2"}, b"5", mode=0o711)
    node = photograph(attack.contained(lower, upper))["d"]
    assert node.xattrs == (("user.both", b"2"),) and node.mode == 0o711


@pytest.mark.parametrize(
    ("xattrs", "message"),
    [
        ({f"user.{i}": b"" for i in range(1001)}, "more than 1000 extended attributes"),
        ({f"user.{i}": b"" for i in range(10000)}, "more than 1000 extended attributes"),
        ({"user.x": b"v" * ((1 << 16) + 1)}, "extended attribute `user.x` has 65537 bytes"),
        ({"": b"x"}, "extended attribute without a usable name"),
        ({"user." + "n" * 300: b"x"}, "setxattr .*: numerical result out of range"),
    ],
)
def test_B6_too_many_and_too_large(attack: Attack, xattrs: dict[str, bytes], message: str) -> None:
    attack.refused(with_xattrs(Archive(), "f", xattrs), match=message)


def test_B6_value_that_btrfs_cannot_hold(attack: Attack) -> None:
    """The largest value the kernel takes does not fit a BTRFS leaf. The message blames the value, not a full store."""
    url = attack.layout(with_xattrs(Archive(), "f", {"user.x": b"v" * 60000}))
    result = attack.store.refuse(url)
    assert "extended attribute `user.x` of 60000 bytes is too large" in result.message and "full" not in result.out


@pytest.mark.parametrize("number", [0xFFFFFFFF, 1 << 32, (1 << 63) - 1, base256(-1, 8), base256(-2, 8), b"\x80" + b"\x7f" * 7, b"-0000001"])
@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("typeflag", [b"0", b"2", b"5"])
def test_B7_ids_out_of_range(attack: Attack, number: int | bytes, field: str, typeflag: bytes) -> None:
    shown = str(number) if isinstance(number, int) else ""
    pax = isinstance(number, int) and number >= 1 << 55
    archive = Archive().pax({field: shown}) if pax else Archive()
    fields = {} if pax else {field: number}
    message = attack.refused(archive.entry("f", typeflag, link="x", **fields), match="[ug]id|owner|group|id ")
    assert shown in message


def test_B7_largest_id(attack: Attack) -> None:
    rootfs = attack.contained(Archive().file("f", "x", uid=0xFFFFFFFE, gid=0xFFFFFFFE).pax({"uid": "3000000000"}).file("g"))
    assert ((rootfs / "f").stat().st_uid, (rootfs / "g").stat().st_uid) == (0xFFFFFFFE, 3_000_000_000)


@pytest.fixture
def mapped(make_store: Callable[..., Store]) -> Store:
    maps = ["0:10000:1", "1:20000:10", "4294967290:30000:2"]
    return make_store(*[argument for text in maps for kind in ("uid", "gid") for argument in (f"--{kind}-mapping", text)])


def test_B7_ids_are_mapped(mapped: Store, image: Callable[..., str]) -> None:
    ids = {0: 10000, 1: 20000, 10: 20009, 4294967291: 30001}
    archive = Archive()
    for inside in ids:
        archive.file(f"f{inside}", uid=inside).dir(f"d{inside}", gid=inside).symlink(f"s{inside}", "x", uid=inside)
    rootfs = mapped.create(image(archive.file("implied/f")))
    for inside, host in ids.items():
        assert (rootfs / f"f{inside}").stat().st_uid == host and (rootfs / f"d{inside}").stat().st_gid == host
        assert (rootfs / f"s{inside}").lstat().st_uid == host
    assert (rootfs / "implied").stat().st_uid == (rootfs / "implied").stat().st_gid == rootfs.stat().st_uid == 10000


@pytest.mark.parametrize("number", [11, 12, 65534, 4294967289, 4294967292, 10000, 20000])
@pytest.mark.parametrize("field", ["uid", "gid"])
def test_B7_ids_beyond_the_mapping(mapped: Store, image: Callable[..., str], number: int, field: str) -> None:
    fields = {field: number}
    result = mapped.refuse(image(Archive().file("ok").file("f", **fields)))
    assert str(number) in result.message and "0:10000:1 1:20000:10" in result.message, result
    assert mapped.volumes() == []


@pytest.mark.parametrize(
    ("mtime", "nanoseconds"),
    [
        ("1400000000.123456789", 1_400_000_000_123_456_789),
        ("1400000000.1234567899", 1_400_000_000_123_456_789),
        ("1.1000000000", 1_100_000_000),
        ("0", 0),
        ("0.000000001", 1),
        ("-1", -(10**9)),
        ("-0.5", -500_000_000),
        ("-1.5", -1_500_000_000),
        ("4294967296", 4294967296 * 10**9),
    ],
)
def test_B8_times_in_pax(attack: Attack, mtime: str, nanoseconds: int) -> None:
    pax = {"mtime": mtime}
    tree = photograph(attack.contained(Archive().pax(pax).file("f", "x").pax(pax).symlink("s", "f").pax(pax).dir("d").file("d/child")))
    assert [tree[name].mtime for name in ("f", "s", "d")] == [nanoseconds] * 3


@pytest.mark.parametrize("mtime", [base256(-1, 12), base256(-(1 << 31), 12)])
def test_B8_negative_time_in_the_header(attack: Attack, mtime: bytes) -> None:
    node = photograph(attack.contained(Archive().file("f", "x", mtime=mtime)))["f"]
    assert node.mtime == int.from_bytes(mtime[4:], "big", signed=True) * 10**9


@pytest.mark.parametrize("seconds", [292277026596, (1 << 62), -(1 << 62), (1 << 63) - 1, -(1 << 63)])
def test_B8_times_that_nothing_can_hold(attack: Attack, seconds: int) -> None:
    """They are cut to something a file system holds; nothing fails or wraps around."""
    rootfs = attack.contained(Archive().file("f", "x", mtime=base256(seconds, 12)).dir("d", mtime=base256(seconds, 12)), core=False)
    for name in ("f", "d"):
        assert ((rootfs / name).stat().st_mtime > 1 << 33) == (seconds > 0), name


@pytest.mark.parametrize("mtime", ["NaN", "inf", "1e9", "", "1.", ".5", "1.5.5", "+1", " 1", "0x10", "9" * 30, "1,5", "--1", "1.-5"])
def test_B8_times_that_are_none(attack: Attack, mtime: str) -> None:
    attack.refused(Archive().pax({"mtime": mtime}).file("f"), match="PAX header: `mtime` is not a time")


@pytest.mark.parametrize("type_bits", [0o100000, 0o040000, 0o120000, 0o020000, 0o170000, 0o7770000])
@pytest.mark.parametrize(("typeflag", "kind"), [(b"0", "file"), (b"5", "directory"), (b"2", "symlink")])
def test_B9_type_bits_in_the_mode(attack: Attack, type_bits: int, typeflag: bytes, kind: str) -> None:
    tree = photograph(attack.contained(Archive().entry("p", typeflag, mode=type_bits | 0o4710, link="x")))
    assert (tree["p"].kind, tree["p"].mode) == (kind, 0o777 if kind == "symlink" else 0o4710)


@pytest.mark.parametrize("mode", [0o500, 0o400, 0o000, 0o111, 0o2500])
@pytest.mark.parametrize("root", [True, False])
def test_B10_entries_in_a_directory_that_may_not_be_written(
    make_store: Callable[..., Store], image: Callable[..., str], mode: int, *, root: bool
) -> None:
    made = make_store("--uid-mapping", f"0:{NOBODY}:1", "--gid-mapping", f"0:{NOGROUP}:1")
    store = made if root else Store(made.path, uid=NOBODY)
    archive = (
        Archive()
        .dir("d", mode=mode, mtime=T0)
        .file("d/f", "x")
        .dir("d/sub", mode=mode, mtime=T0 + 1)
        .file("d/sub/g", "y")
        .symlink("d/s", "f")
    )
    rootfs = store.create(image(archive))
    tree = photograph(rootfs)
    assert sorted(set(tree) - {"."}) == ["d", "d/f", "d/s", "d/sub", "d/sub/g"]
    assert [(tree[name].mode, tree[name].mtime // 10**9, tree[name].owner[0]) for name in ("d", "d/sub")] == [
        (mode, T0, NOBODY),
        (mode, T0 + 1, NOBODY),
    ]


def test_B11_time_of_a_directory_is_the_archives(attack: Attack) -> None:
    archive = (
        Archive()
        .dir(".", mtime=1000)
        .dir("d", mtime=2000)
        .file("d/a")
        .dir("d/e", mtime=3000)
        .file("d/e/b")
        .symlink("d/e/s", "b")
        .link("h", "d/a")
    )
    tree = photograph(attack.contained(archive))
    assert [tree[name].mtime // 10**9 for name in (".", "d", "d/e")] == [1000, 2000, 3000]


def test_B11_entry_after_the_children(attack: Attack) -> None:
    tree = photograph(attack.contained(Archive().file("d/e/f").dir("d/e", mtime=3000).dir("d", mtime=2000).dir(".", mtime=1000)))
    assert [tree[name].mtime // 10**9 for name in (".", "d", "d/e")] == [1000, 2000, 3000]


LOWER = Archive().dir(".", mtime=1000).dir("d", mtime=2000).file("d/a").dir("d/e", mtime=3000).file("d/e/b").file("top")


@pytest.mark.parametrize(
    "upper",
    [
        Archive().file("d/e/new"),
        Archive().dir("d/e/new").file("new").file("d/new"),
        Archive().file("d/a", "replaced").symlink("d/e/b", "x").link("d/h", "top"),
        Archive().symlink("l", "d/e").file("l/new"),
        Archive().whiteout("d/a").whiteout("d/e/b").whiteout("top"),
        Archive().opaque("d/e"),
        Archive().whiteout("d/never"),
    ],
    ids=["file", "directories", "replaced", "through a link", "whiteouts", "opaque", "nothing removed"],
)
def test_B11_directories_of_lower_layers_keep_their_time(attack: Attack, upper: Archive) -> None:
    tree = photograph(attack.contained(LOWER, upper))
    assert [tree[name].mtime // 10**9 for name in (".", "d", "d/e")] == [1000, 2000, 3000]


def test_B11_directory_made_through_a_link_that_changes(attack: Attack) -> None:
    archive = Archive().symlink("x", "a/a").dir("x/n", mtime=5, mode=0o500).dir("a", mtime=6).symlink("x", "elsewhere")
    tree = photograph(attack.contained(archive))
    assert (tree["a/a/n"].mtime, tree["a/a/n"].mode, tree["a"].mtime) == (5 * 10**9, 0o500, 6 * 10**9)


def test_B11_new_entry_gives_a_new_time(attack: Attack) -> None:
    tree = photograph(attack.contained(LOWER, Archive().file("d/e/new").dir("d/e", mtime=9000)))
    assert [tree[name].mtime // 10**9 for name in (".", "d", "d/e")] == [1000, 2000, 9000]


def test_B11_mtime_of_files_and_links(attack: Attack) -> None:
    big = os.urandom(100_000)
    tree = photograph(attack.contained(Archive().file("f", big, mtime=5).symlink("s", "f", mtime=6).file("empty", mtime=7)))
    assert [tree[name].mtime for name in ("f", "s", "empty")] == [5 * 10**9, 6 * 10**9, 7 * 10**9]


def test_B11_umask_does_not_matter(attack: Attack) -> None:
    old = os.umask(0o077)
    try:
        rootfs: Path = attack.contained(Archive().file("f", mode=0o666).dir("d", mode=0o777).file("implied/f", mode=0o664))
    finally:
        os.umask(old)
    tree = photograph(rootfs)
    assert [tree[name].mode for name in ("f", "d", "implied", "implied/f")] == [0o666, 0o777, 0o755, 0o664]
