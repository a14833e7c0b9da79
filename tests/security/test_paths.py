"""A: paths and links that try to leave the root file system."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from pathlib import Path

import pytest

from support.archive import Archive, Layer, sha256
from support.attack import Attack, Sentinel, apply
from support.command import Grootfs, new_id
from support.layout import write_layout
from support.tree import names, photograph

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@pytest.mark.parametrize(
    ("name", "lands"),
    [
        ("../x", "x"),
        ("../../etc/x", "etc/x"),
        ("a/../../x", "x"),
        ("a/b/../../../../c/x", "c/x"),
        ("./../a/./x", "a/x"),
        ("a/..x", "a/..x"),
        ("a/...", "a/..."),
    ],
)
def test_A1_dot_dot_stays_inside(attack: Attack, name: str, lands: str) -> None:
    rootfs = attack.contained(Archive().file(name, "mine"))
    assert (rootfs / lands).read_text() == "mine"
    assert [path for path in names(rootfs) if (rootfs / path).is_file()] == [lands]


def test_A1_dot_dot_to_a_known_file(attack: Attack) -> None:
    up = attack.sentinel.up
    rootfs = attack.contained(Archive().file(f"{up}/secret", "mine").dir(f"{up}/dir", mode=0o777).link("grab", f"{up}/secret"))
    inside = rootfs / str(attack.sentinel.path).lstrip("/")
    assert (inside / "secret").read_text() == "mine" and (rootfs / "grab").samefile(inside / "secret")


def test_A1_dot_dot_as_the_whole_name_is_the_root(attack: Attack) -> None:
    rootfs = attack.contained(Archive().dir("..", uid=5, gid=6, mtime=7).dir("a/../..", mode=0o700, uid=8, gid=9, mtime=10))
    info = rootfs.stat()
    assert (info.st_uid, info.st_gid, info.st_mtime, stat.S_IMODE(info.st_mode)) == (8, 9, 10, 0o755)
    assert names(rootfs) == []


@pytest.mark.parametrize("name", ["/etc/x", "//etc//x", "/./etc/./x", "///../etc/x", "./etc/x"])
def test_A2_absolute_names_start_at_the_root(attack: Attack, name: str) -> None:
    rootfs = attack.contained(Archive().file(name, "mine"))
    assert names(rootfs) == ["etc", "etc/x"] and (rootfs / "etc/x").read_text() == "mine"


def test_A2_absolute_name_of_a_known_file(attack: Attack) -> None:
    rootfs = attack.contained(Archive().file(f"{attack.sentinel.path}/secret", "mine").symlink(f"{attack.sentinel.path}/link", "/x"))
    assert (rootfs / str(attack.sentinel.path)[1:] / "secret").read_text() == "mine"


def test_A3_file_through_an_absolute_symlink(attack: Attack) -> None:
    rootfs = attack.contained(Archive().dir("etc").symlink("l", "/etc").file("l/passwd", "mine"))
    assert (rootfs / "etc/passwd").read_text() == "mine" and os.readlink(rootfs / "l") == "/etc"


@pytest.mark.parametrize("depth", ["", "/dir"])
def test_A3_every_kind_through_a_symlink_to_a_known_directory(attack: Attack, depth: str) -> None:
    outside = f"{attack.sentinel.path}{depth}"
    archive = Archive().symlink("door", outside).file("door/victim", "mine").file("door/new", "n").dir("door/dir", mode=0o777)
    archive.symlink("door/link", "x").link("door/second-name", "door/new").dir("door/empty", uid=1, gid=1)
    rootfs = attack.contained(archive)
    inside = rootfs / outside[1:]
    assert sorted(os.listdir(inside)) == ["dir", "empty", "link", "new", "second-name", "victim"]
    assert (inside / "victim").read_text() == "mine"


@pytest.mark.parametrize(
    ("links", "name", "lands"),
    [
        ([("l", "../../../")], "l/x", "x"),
        ([("a/up", "../../../../..")], "a/up/x", "x"),
        ([("a/up", "../.."), ("b", "a/up/../..")], "b/x", "x"),
        ([("one", "two"), ("two", "three/../.."), ("three", "../..")], "one/etc/x", "etc/x"),
        ([("l", "/../../..")], "l/etc/x", "etc/x"),
        ([("l", ".")], "l/l/l/x", "x"),
        ([("d/l", "../../d/../..")], "d/l/d/x", "d/x"),
    ],
)
def test_A4_relative_symlinks_up_and_out(attack: Attack, links: list[tuple[str, str]], name: str, lands: str) -> None:
    archive = Archive()
    for link, target in links:
        archive.symlink(link, target)
    rootfs = attack.contained(archive.file(name, "mine"))
    assert (rootfs / lands).read_text() == "mine"


def test_A4_up_and_out_to_a_known_directory(attack: Attack) -> None:
    rootfs = attack.contained(Archive().symlink("a/b/up", attack.sentinel.up).file("a/b/up/secret", "mine").dir("a/b/up", mode=0o777))
    assert (rootfs / str(attack.sentinel.path)[1:] / "secret").read_text() == "mine"
    assert (rootfs / "a/b/up").is_dir() and not (rootfs / "a/b/up").is_symlink()


@pytest.mark.parametrize("name", [".", "./", "/", "a/..", "..", "/../"])
@pytest.mark.parametrize("typeflag", [b"0", b"1", b"2", b"3", b"6"])
def test_A5_root_entry_that_is_no_directory(attack: Attack, name: str, typeflag: bytes) -> None:
    archive = Archive().dir("a").entry(name, typeflag, link=str(attack.sentinel.path)).file("secret", "x")
    attack.refused(archive, match="would replace the root directory")


def test_A6_symlink_in_a_lower_layer(attack: Attack) -> None:
    lower = Archive().symlink("door", str(attack.sentinel.path)).symlink("up", attack.sentinel.up)
    upper = Archive().file("door/secret", "mine").file("up/dir/victim", "mine").dir("door/empty", mode=0o777).link("grab", "door/secret")
    rootfs = attack.contained(lower, upper)
    inside = rootfs / str(attack.sentinel.path)[1:]
    assert [(inside / name).read_text() for name in ("secret", "dir/victim")] == ["mine", "mine"]
    assert os.readlink(rootfs / "door") == str(attack.sentinel.path)


def test_A6_symlinks_over_three_layers(attack: Attack) -> None:
    stack = [Archive().symlink("a", "b"), Archive().symlink("b", attack.sentinel.up), Archive().file("a/dir/victim", "mine")]
    assert (attack.contained(*stack) / str(attack.sentinel.path)[1:] / "dir/victim").read_text() == "mine"


@pytest.mark.parametrize("split", [False, True])
def test_A7_directory_entry_over_a_symlink(attack: Attack, *, split: bool) -> None:
    first = Archive().symlink("d", str(attack.sentinel.path))
    second = (
        Archive().dir("d", mode=0o777, uid=3, gid=4, mtime=5).pax({"SCHILY.xattr.user.x": "y"}).dir("d", mode=0o777, uid=3, gid=4, mtime=5)
    )
    parts = [first, second] if split else [Archive().raw(first.open).raw(second.open)]
    rootfs = attack.contained(*parts)
    node = photograph(rootfs)["d"]
    assert (node.kind, node.mode, node.owner, node.mtime, node.xattrs) == ("directory", 0o777, (3, 4), 5 * 10**9, (("user.x", b"y"),))


@pytest.mark.parametrize("target", ["{path}/secret", "{up}/secret", "door/secret", "door/../secret", "/door/dir/victim"])
def test_A8_hard_link_to_the_host(attack: Attack, target: str) -> None:
    known = target.format(path=attack.sentinel.path, up=attack.sentinel.up)
    attack.refused(
        Archive().symlink("door", str(attack.sentinel.path)).link("grab", known).file("grab", "overwritten"),
        match=r"link `.*` `grab`: no such file or directory",
    )


def test_A8_hard_link_through_a_symlink_stays_inside(attack: Attack) -> None:
    archive = (
        Archive()
        .file("etc/shadow", "image")
        .symlink("l", "/etc")
        .symlink("m", "../../etc")
        .link("one", "l/shadow")
        .link("m/two", "m/shadow")
    )
    rootfs = attack.contained(archive)
    assert (rootfs / "one").samefile(rootfs / "etc/shadow") and (rootfs / "etc/two").samefile(rootfs / "etc/shadow")


def test_A9_hard_link_to_a_symlink_is_not_followed(attack: Attack) -> None:
    target = str(attack.sentinel.path / "dir" / "setuid")
    archive = Archive().symlink("s", target).pax({"SCHILY.xattr.user.x": "y"}).link("h", "s", mode=0o666, uid=7, gid=8, mtime=9)
    rootfs = attack.contained(archive)
    tree = photograph(rootfs)
    assert tree["h"].kind == "symlink" and tree["h"].content == target and tree["h"].group == "h" == tree["s"].group
    assert tree["h"].owner == (0, 0) and tree["h"].xattrs == ()


def test_A9_metadata_of_a_replaced_symlink(attack: Attack) -> None:
    target = str(attack.sentinel.path / "secret")
    rootfs = attack.contained(Archive().symlink("s", target), Archive().file("s", "x", mode=0o666, uid=7, gid=8, mtime=9))
    node = photograph(rootfs)["s"]
    assert (node.kind, node.mode, node.owner) == ("file", 0o666, (7, 8))


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (Archive().link("b", "a").file("a"), "link `a` `b`: no such file or directory"),
        (Archive().file("x").link("b", "gone/a"), "link `gone/a` `b`: no such file or directory"),
        (Archive().file("a").link("a", "a"), "`a` is a hard link to itself"),
        (Archive().file("a").link("a", "./x/.././a"), "`a` is a hard link to itself"),
        (Archive().file("d/a").symlink("l", "d").link("l/a", "d/a"), "`l/a` is a hard link to itself"),
        (Archive().dir("d").link("h", "d"), "link `d` `h`: target is a directory"),
        (Archive().dir("d").link("h", "."), r"link `\.` `h`: operation not permitted"),
        (Archive().file("a").link("h", ""), "link `` `h`: operation not permitted"),
        (Archive().file("d/a").link("d", "d/a"), "link `d/a` `d`: no such file or directory"),
        (Archive().file("f").link("h", "f/a"), "link `f/a` `h`: no such file or directory"),
    ],
)
def test_A10_hard_links_that_cannot_be(attack: Attack, archive: Archive, message: str) -> None:
    attack.refused(archive, match=message)


@pytest.mark.parametrize(
    "name", [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", "a/.wh..wh.x", "a/.wh..wh.", ".wh..wh..wh..opq"]
)
def test_A11_whiteouts_of_nothing(attack: Attack, name: str) -> None:
    attack.refused(Archive().file("a/kept", "x"), Archive().file(name), match="invalid whiteout `.*wh")


def test_A11_bookkeeping_of_aufs_is_left_out(attack: Attack) -> None:
    archive = Archive().file("f", "x").dir(".wh..wh.plnk").file(".wh..wh.aufs", "").dir(".wh..wh.orph")
    assert names(attack.contained(Archive().file("lower"), archive)) == ["f", "lower"]


@pytest.mark.parametrize(
    "marker", ["l/.wh.secret", "l/.wh..wh..opq", "l/dir/.wh.victim", "l/dir/.wh..wh..opq", "up/.wh.secret", "up/.wh.dir"]
)
@pytest.mark.parametrize("split", [False, True])
def test_A12_whiteout_through_a_symlink(attack: Attack, marker: str, *, split: bool) -> None:
    lower = Archive().symlink("l", str(attack.sentinel.path)).symlink("up", attack.sentinel.up).file("kept", "x")
    parts = [lower, Archive().file(marker)] if split else [Archive().raw(lower.open).file(marker)]
    assert names(attack.contained(*parts)) == ["kept", "l", "up"]


def test_A12_whiteout_through_a_symlink_works_inside(attack: Attack) -> None:
    lower = Archive().file("etc/gone", "x").file("etc/kept", "y").symlink("l", "/etc").symlink("m", "../../etc").file("etc/gone2", "z")
    rootfs = attack.contained(lower, Archive().whiteout("l/gone").whiteout("m/gone2"))
    assert names(rootfs) == ["etc", "etc/kept", "l", "m"]


def test_A12_dot_dot_in_a_whiteout(attack: Attack) -> None:
    up = attack.sentinel.up
    rootfs = attack.contained(
        Archive().file("f", "x"), Archive().file(f"{up}/.wh.secret").file(f"{up}/.wh..wh..opq").file(f"{attack.sentinel.path}/.wh.dir")
    )
    assert names(rootfs) == ["f"]


ENTRIES = [(b"5", "d"), (b"0", "d/new"), (b"5", "d/sub"), (b"0", "d/sub/new")]


@pytest.mark.parametrize("at", range(len(ENTRIES) + 1))
@pytest.mark.parametrize("marker", ["d/.wh..wh..opq", ".wh.d"])
def test_A13_marker_anywhere_among_the_layers_own_entries(attack: Attack, at: int, marker: str) -> None:
    lower = (
        Archive()
        .dir("d", mode=0o700, uid=9)
        .file("d/old")
        .dir("d/sub", mode=0o700)
        .file("d/sub/old")
        .file("d/new", "old")
        .file("kept", "x")
    )
    upper = Archive()
    for i, (typeflag, name) in enumerate([*ENTRIES, (b"", "")]):
        if i == at:
            upper.file(marker)
        if name:
            upper.entry(name, typeflag, b"" if typeflag == b"5" else b"new", mode=0o711)
    rootfs = attack.contained(lower, upper)
    assert names(rootfs) == ["d", "d/new", "d/sub", "d/sub/new", "kept"]
    assert (rootfs / "d/new").read_text() == "new"
    assert [stat.S_IMODE((rootfs / name).stat().st_mode) for name in ("d", "d/sub")] == [0o711, 0o711]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("marker", [".wh.d", "d/.wh.sub"])
def test_A13_removed_directory_that_comes_back_without_an_entry(attack: Attack, marker: str, *, first: bool) -> None:
    """What a whiteout removed does not lend its owner and mode to a directory that the layer only implies."""
    lower = Archive().dir("d", mode=0o700, uid=9).pax({"SCHILY.xattr.user.x": "y"}).dir("d/sub", mode=0o700, uid=9).file("d/sub/old")
    upper = Archive()
    if first:
        upper.file(marker)
    upper.file("d/sub/new", "n")
    if not first:
        upper.file(marker)
    rootfs = attack.contained(lower, upper)
    tree = photograph(rootfs)
    assert sorted(tree) == [".", "d", "d/sub", "d/sub/new"]
    removed = ["d", "d/sub"] if marker == ".wh.d" else ["d/sub"]
    seen = [(tree[name].mode, tree[name].owner, tree[name].xattrs, tree[name].mtime) for name in removed]
    assert seen == [(0o755, (0, 0), (), 0)] * len(removed)


@pytest.mark.parametrize("marker", ["a/.wh.x", "a/.wh.never", "a/x/.wh..wh..opq", "a/b/.wh.y", "a/.wh..wh..opq"])
@pytest.mark.parametrize("entry", [b"0", b"5", b"2"])
@pytest.mark.parametrize("above", [True, False])
def test_A13_marker_before_an_entry_and_a_marker_above(attack: Attack, marker: str, entry: bytes, *, above: bool) -> None:
    """Looking into a directory for a marker must not hide that the layer wrote into it afterwards."""
    lower = Archive().dir(".", mtime=3).dir("a", mtime=4).file("a/x/y").dir("a/b", mtime=5).file("a/b/y").dir("a/b", mtime=5)
    upper = Archive().file(marker).entry("a/new", entry, link="x").entry("a/b/new", entry, link="x")
    tree = photograph(attack.contained(lower, upper.whiteout("a") if above else upper))
    assert {"a", "a/b", "a/new", "a/b/new"} <= set(tree) and (not above or len(tree) == 5)
    if not above:
        assert (tree["."].mtime, tree["a"].mtime) == (3 * 10**9, 4 * 10**9)


@pytest.mark.parametrize("first", [True, False])
def test_A13_whiteout_of_a_file_of_the_same_layer(attack: Attack, *, first: bool) -> None:
    upper = Archive()
    if first:
        upper.whiteout("f").whiteout("s").whiteout("h")
    upper.file("f", "new").symlink("s", "new").link("h", "f")
    if not first:
        upper.whiteout("f").whiteout("s").whiteout("h")
    rootfs = attack.contained(Archive().file("f", "old").symlink("s", "old").file("h", "old"), upper)
    assert (rootfs / "f").read_text() == "new" and os.readlink(rootfs / "s") == "new" and (rootfs / "h").samefile(rootfs / "f")


def test_A13_opaque_root(attack: Attack) -> None:
    rootfs = attack.contained(Archive().file("old").dir("d").file("d/old"), Archive().file("new").file("d/new").opaque())
    assert names(rootfs) == ["d", "d/new", "new"]


def test_A14_names_that_only_look_like_markers(attack: Attack) -> None:
    lower = Archive().file("bar", "kept").file("x", "kept")
    upper = Archive().file("foo.wh.bar", "1").dir(".whx").file(".whx/f", "2").file(".wh", "3").file("x.wh.", "4").file("wh.bar", "5")
    rootfs = attack.contained(lower, upper)
    assert names(rootfs) == [".wh", ".whx", ".whx/f", "bar", "foo.wh.bar", "wh.bar", "x", "x.wh."]


@pytest.mark.parametrize(("typeflag", "body"), [(b"0", b"payload" * 200), (b"5", b""), (b"2", b""), (b"1", b""), (b"3", b""), (b"6", b"")])
def test_A15_whiteout_of_any_type(attack: Attack, typeflag: bytes, body: bytes) -> None:
    link = str(attack.sentinel.path / "secret")
    upper = Archive().entry(".wh.gone", typeflag, body, link=link).entry("d/.wh..wh..opq", typeflag, body, link=link).file("after", "x")
    rootfs = attack.contained(Archive().file("gone").file("d/gone").file("kept"), upper)
    assert names(rootfs) == ["after", "d", "kept"] and (rootfs / "after").read_text() == "x"


MAKERS = {
    "file": lambda archive: archive.file("p", "file", mode=0o640),
    "empty directory": lambda archive: archive.dir("p", mode=0o750),
    "full directory": lambda archive: archive.dir("p", mode=0o750).file("p/child/deep", "x").symlink("p/link", "/etc"),
    "symlink": lambda archive: archive.symlink("p", "/other"),
    "symlink to a directory": lambda archive: archive.symlink("p", "other"),
    "hard link": lambda archive: archive.link("p", "other/file"),
}
RESULT = {"file": "file", "symlink": "symlink", "symlink to a directory": "symlink", "hard link": "file"}


@pytest.mark.parametrize("old", MAKERS)
@pytest.mark.parametrize("new", MAKERS)
@pytest.mark.parametrize("split", [False, True])
def test_A16_anything_replaces_anything(attack: Attack, old: str, new: str, *, split: bool) -> None:
    first, second = Archive().file("other/file", "other"), Archive()
    MAKERS[old](first)
    MAKERS[new](second)
    tree = photograph(attack.contained(*([first, second] if split else [Archive().raw(first.open).raw(second.open)])))
    assert tree["p"].kind == RESULT.get(new, "directory")
    assert tree["other/file"].content == sha256(b"other") and tree["other"].kind == "directory"
    children = sorted(path for path in tree if path.startswith("p/"))
    full = ["p/child", "p/child/deep", "p/link"]
    kept = new == "full directory" or (old == "full directory" and new == "empty directory")
    assert children == (full if kept else [])


@pytest.mark.parametrize("split", [False, True])
def test_A16_one_name_of_a_hard_link_pair(attack: Attack, *, split: bool) -> None:
    first, second = Archive().file("a", "shared").link("b", "a"), Archive().file("a", "mine")
    rootfs = attack.contained(*([first, second] if split else [Archive().raw(first.open).raw(second.open)]))
    assert ((rootfs / "a").read_text(), (rootfs / "b").read_text()) == ("mine", "shared")


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("child", ["a/b", "a/b/c", "l/b"])
def test_A17_parent_is_a_file(attack: Attack, child: str, *, split: bool) -> None:
    first, second = Archive().file("a", "file").symlink("l", "a"), Archive().file(child, "x")
    attack.refused(*([first, second] if split else [Archive().raw(first.open).raw(second.open)]), match="not a directory")


def exchange(one: Path, other: Path) -> bool:
    done: int = LIBC.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return done == 0


class Swapper(threading.Thread):
    """Swaps the directory ``d`` of a volume in the making with a symbolic link to the sentinel, as fast as it can."""

    def __init__(self, sentinel: Sentinel) -> None:
        super().__init__(daemon=True)
        self.sentinel = sentinel
        self.swaps = 0
        self.stop = threading.Event()

    def volume(self) -> Path | None:
        raise NotImplementedError

    def run(self) -> None:
        while not self.stop.is_set():
            root = self.volume()
            if root is None or not (root / "d").exists():
                continue
            evil = root / "evil"
            try:
                evil.symlink_to(self.sentinel.path)
            except OSError:
                continue
            while not self.stop.is_set() and exchange(root / "d", evil):
                self.swaps += 1


def race_layer(entries: int) -> Layer:
    """Entries of all kinds below ``d``, each after one elsewhere, so that ``d`` is looked up again for each."""
    archive = Archive().dir("d").dir("e")
    for i in range(entries):
        archive.file(f"e/{i}", "x").file(f"d/{i}", "y").file(f"e/b{i}", "x").dir("d/dir", mode=0o777, uid=i % 7)
        archive.file("e/secret", "x").link("d/second-name", "e/secret").whiteout("d/secret").file("e/x").file("d/secret", "overwritten")
        if i % 50 == 0:
            archive.opaque("d").file("e/y").dir("d", mode=0o777, uid=i % 5)
    return Layer(archive.tar, "none")


def test_A18_directory_and_symlink_swapped_while_unpacking(attack: Attack) -> None:
    store = attack.store
    swaps = 0
    for attempt in range(20):
        before = set(store.volumes())

        class InStore(Swapper):
            def volume(self, before: set[str] = before) -> Path | None:
                fresh = [name for name in store.volumes() if name not in before and "-incomplete-" in name]
                return store.path / "volumes" / fresh[0] if fresh else None

        swapper = InStore(attack.sentinel)
        url = attack.layout(race_layer(3000 + attempt))
        swapper.start()
        result = store.run("create", url, new_id())
        swapper.stop.set()
        swapper.join()
        attack.sentinel.check()
        assert result.code in (0, 1) and "Traceback" not in result.out + result.err, result
        assert store.temporary() == []
        swaps += swapper.swaps
        # The first swap may end the unpacking.
        if swaps > 100:
            break
    assert swaps > 100, "the race was never run"


def test_A18_the_same_on_an_ordinary_file_system(attack: Attack) -> None:
    layer = race_layer(400)
    swaps = 0
    for _ in range(5):
        root = attack.scratch / new_id()

        class InDirectory(Swapper):
            def volume(self, root: Path = root) -> Path:
                return root

        swapper = InDirectory(attack.sentinel)
        swapper.start()
        try:
            apply(root, layer)
        except Exception as error:
            assert str(error), "a failure without a reason"
        finally:
            swapper.stop.set()
            swapper.join()
        attack.sentinel.check()
        swaps += swapper.swaps
    assert swaps > 100, "the race was never run"


@pytest.mark.parametrize(
    "archive",
    [
        Archive().symlink("a", "a").file("a/x"),
        Archive().symlink("a", "b").symlink("b", "a").file("a/x"),
        Archive().symlink("a", "/a/b").file("a/x"),
        Archive().symlink("d/l", "l/x").file("d/l/y"),
    ],
)
def test_A19_symlink_loop_in_a_parent(attack: Attack, archive: Archive) -> None:
    attack.refused(archive, match="too many levels of symbolic links")


@pytest.mark.parametrize("dangling", [False, True])
def test_A19_more_links_than_the_kernel_follows(attack: Attack, *, dangling: bool) -> None:
    def chain(links: int) -> Archive:
        archive = Archive()
        for i in range(links):
            archive.symlink(f"l{i}", f"l{i + 1}")
        if not dangling:
            archive.dir(f"l{links}")
        return archive.file("l0/x", "mine")

    assert (attack.contained(chain(40)) / "l40/x").read_text() == "mine"
    attack.refused(chain(41), match="too many levels of symbolic links")


def test_A20_parent_directory_becomes_a_symlink(attack: Attack) -> None:
    archive = Archive().file("d/e/one", "1").symlink("d/e", str(attack.sentinel.path)).file("d/e/secret", "2")
    archive.file("x/y/one", "3").symlink("x", attack.sentinel.up).file("x/dir/victim", "4").file("x/y/two", "5")
    rootfs = attack.contained(archive)
    inside = rootfs / str(attack.sentinel.path)[1:]
    assert [(inside / name).read_text() for name in ("secret", "dir/victim", "y/two")] == ["2", "4", "5"]
    assert (rootfs / "d/e").is_symlink() and (rootfs / "x").is_symlink()


def test_A20_link_on_the_way_is_turned_around(attack: Attack) -> None:
    archive = Archive().dir("one").dir("two").symlink("l", "one").file("l/a", "1").symlink("l", "two").file("l/b", "2")
    archive.symlink("m", "l").file("m/c", "3").symlink("l", str(attack.sentinel.path)).file("m/secret", "4")
    rootfs = attack.contained(archive)
    assert (rootfs / "one/a").exists() and (rootfs / "two/b").exists() and (rootfs / "two/c").exists()
    assert (rootfs / str(attack.sentinel.path)[1:] / "secret").read_text() == "4"


def test_A20_parent_directory_is_whited_out(attack: Attack) -> None:
    lower = Archive().file("d/e/old", "1")
    upper = Archive().file("d/x", "2").whiteout("d/e").symlink("d/e", str(attack.sentinel.path)).file("d/e/secret", "3")
    assert (attack.contained(lower, upper) / str(attack.sentinel.path)[1:] / "secret").read_text() == "3"


@pytest.mark.parametrize("target", ["/proc/self/root", "/proc/self/cwd", "/proc/self/fd/3", "/dev/fd/3", "/proc/1/root"])
def test_A21_magic_links(attack: Attack, target: str) -> None:
    rootfs = attack.contained(Archive().symlink("l", target).file("l/x", "mine").link("h", "l/x"))
    assert (rootfs / target[1:] / "x").read_text() == "mine" and not os.path.lexists(f"{target}/x")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (Archive().pax({"path": "a\0b"}).file("x"), "`path` contains a NUL"),
        (Archive().pax({"linkpath": "a\0b"}).symlink("x", "y"), "`linkpath` contains a NUL"),
        (Archive().extension(b"L", b"a\0b\0").file("x"), "malformed long name"),
        (Archive().file(""), "entry without a name"),
        (Archive().extension(b"L", b"\0").file("x"), "malformed long name"),
        (Archive().file("n" * 256), "file name too long"),
        (Archive().file("d/" * 2048 + "x"), "file name too long"),
        (Archive().file("d/" * 3000 + "x"), "file name too long"),
        (Archive().long_name("d/" * 2048 + "x").file("x"), "file name too long"),
        (Archive().symlink("s", "t/" * 2048 + "x"), "file name too long"),
        (Archive().symlink("s", ""), "no such file or directory"),
    ],
)
def test_A22_names_that_are_refused(attack: Attack, archive: Archive, message: str) -> None:
    attack.refused(archive, match=message)


@pytest.mark.parametrize(
    "name", [b"new\nline", b"\x1b[31mred", b"\xff\xfe", b"\xc3\x28", "grüße".encode(), b" ", b"n" * 255, b"-rf", b"a:b", b"\\x"]
)
def test_A22_other_bytes_are_kept(attack: Attack, name: bytes) -> None:
    rootfs = attack.contained(Archive().file(name, "x").dir(b"d/" + name).symlink(b"s/" + name, name))
    assert sorted(os.listdir(os.fsencode(rootfs))) == sorted([name, b"d", b"s"])
    assert os.readlink(os.fsencode(rootfs / "s") + b"/" + name) == name


@pytest.mark.parametrize("name", [b"\x1b]0;owned\x07", b"line\nbreak", b"\xff\r", b"\xc2\x9b31m"])
def test_A22_messages_and_logs_escape_names(attack: Attack, name: bytes) -> None:
    archive = Archive().file(name).link(b"h" + name, b"gone" + name)
    assert attack.refused(archive, match="no such file or directory").isprintable()
    logged = Grootfs(*attack.store.options, "--log-level", "debug").run("create", attack.layout(archive), new_id())
    assert logged.code == 1 and "gone" in logged.err
    assert all(line.isprintable() for line in logged.err.splitlines())


@pytest.mark.parametrize("name", ["f/", "f//", "f/.", "./f"])
def test_A22_trailing_slashes_and_dots(attack: Attack, name: str) -> None:
    rootfs = attack.contained(Archive().file(name, "x"))
    assert names(rootfs) == ["f"] and (rootfs / "f").read_text() == "x"


def test_A22_old_directory_is_a_file_with_a_slash(attack: Attack) -> None:
    rootfs = attack.contained(Archive().entry("d/", b"\0", magic=b"\0" * 8, mode=0o750))
    assert photograph(rootfs)["d"].kind == "directory" and stat.S_IMODE((rootfs / "d").stat().st_mode) == 0o750


def test_A23_configuration_paths_are_not_resolved(attack: Attack) -> None:
    archive = Archive().symlink("app", str(attack.sentinel.path)).symlink("etc/passwd", str(attack.sentinel.path / "secret"))
    runtime = {"WorkingDir": "/app", "User": "root", "Volumes": {"/app/data": {}, "/app/../../x": {}}}
    relative = write_layout(attack.scratch / "relative", archive, runtime={"Volumes": {attack.sentinel.up: {}}})
    assert "is not an absolute path" in attack.store.refuse(relative).message
    rootfs = attack.store.create(write_layout(attack.scratch / "configured", archive, runtime=runtime))
    attack.sentinel.check()
    assert names(rootfs) == ["app", "etc", "etc/passwd"]
    beside_rootfs = sorted(os.listdir(rootfs.parent))
    assert [name[:4] for name in beside_rootfs] == ["imag", "root", "vol-", "vol-"]


def test_A24_case_and_normalisation(attack: Attack) -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    rootfs = attack.contained(Archive().file("README", "1").file("readme", "2").file(composed, "3").file(decomposed, "4"))
    assert [(rootfs / name).read_text() for name in ("README", "readme", composed, decomposed)] == ["1", "2", "3", "4"]
