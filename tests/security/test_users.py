"""The hostile archives of A and B once more as an ordinary user, on a store of its own: other code makes the files then."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.accounts import User
from support.archive import Archive
from support.attack import Sentinel
from support.command import COMMAND, Store, new_id
from support.tree import names, photograph


@pytest.fixture(scope="module")
def own(module_scratch: Path, user: User) -> Store:
    """A store of the user, for all tests."""
    store = Store(module_scratch / "own")
    store.init("--rootless", f"{user.name}:{user.name}").ok()
    return Store(store.path, uid=user.uid)


@pytest.fixture
def sentinel(scratch: Path, user: User) -> Sentinel:
    """A tree that the user could change: only we stand between the layer and it."""
    sentinel = Sentinel(scratch / "sentinel")
    for path in [sentinel.path, *sentinel.path.rglob("*")]:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    (sentinel.path / "dir" / "setuid").chmod(0o4755)
    sentinel.before = photograph(sentinel.path, change_time=True)
    return sentinel


CONTAINED: dict[str, Callable[[Sentinel], list[Archive]]] = {
    "A1 dot dot": lambda s: [Archive().file(f"{s.up}/secret", "mine").dir(f"{s.up}/dir", mode=0o777)],
    "A2 absolute": lambda s: [Archive().file(f"{s.path}/secret", "mine").symlink(f"{s.path}/link", "/x")],
    "A3 through a link": lambda s: [Archive().symlink("door", str(s.path)).file("door/secret", "mine").dir("door/dir", mode=0o777)],
    "A4 up and out": lambda s: [Archive().symlink("a/up", s.up).file("a/up/secret", "mine")],
    "A6 link in a lower layer": lambda s: [Archive().symlink("door", str(s.path)), Archive().file("door/dir/victim", "mine")],
    "A7 directory over a link": lambda s: [Archive().symlink("d", str(s.path)), Archive().dir("d", mode=0o777, mtime=5)],
    "A9 hard link to a link": lambda s: [Archive().symlink("l", str(s.path / "dir/setuid")).link("h", "l", mode=0o777)],
    "A12 whiteout through a link": lambda s: [Archive().symlink("l", str(s.path)), Archive().file("l/.wh.secret").opaque("l/dir")],
    "A16 over a link": lambda s: [Archive().symlink("f", str(s.path / "secret")), Archive().file("f", "mine")],
    "A20 parent becomes a link": lambda s: [Archive().file("d/e/1").symlink("d/e", str(s.path)).file("d/e/secret", "mine")],
    "A21 magic link": lambda s: [Archive().symlink("p", "/proc/self/root").file(f"p{s.path}/secret", "mine")],
    "B1 devices": lambda s: [Archive().entry("null", b"3", major=1, minor=3).entry("disk", b"4", major=8).file("f")],
    "B5 setuid": lambda s: [Archive().file("su", "x", mode=0o6755, uid=7, gid=8)],
    "B10 no permission": lambda s: [Archive().dir("d", mode=0).file("d/f", "x").dir("d/e", mode=0o500).file("d/e/g")],
}

REFUSED: dict[str, tuple[Callable[[Sentinel], Archive], str]] = {
    "A5 root as a link": (lambda s: Archive().symlink("./", str(s.path)), "would replace the root directory"),
    "A8 hard link to the host": (lambda s: Archive().link("grab", f"{s.path}/secret"), "no such file or directory"),
    "A10 hard link to a directory": (lambda s: Archive().dir("d").link("h", "d"), "target is a directory"),
    "A11 whiteout of nothing": (lambda s: Archive().file(".wh.."), "invalid whiteout"),
    "A19 loop": (lambda s: Archive().symlink("a", "a").file("a/x"), "too many levels of symbolic links"),
    "A22 name without end": (lambda s: Archive().file("n" * 256), "file name too long"),
    "B7 id of nobody": (lambda s: Archive().file("f", uid=4_000_000), "4000000"),
}


@pytest.mark.parametrize("case", CONTAINED)
def test_A_and_B_contained(own: Store, sentinel: Sentinel, image: Callable[..., str], case: str) -> None:
    image_id = new_id()
    rootfs = own.create(image(*CONTAINED[case](sentinel)), image_id)
    sentinel.check()
    assert names(rootfs)
    assert not any(node.kind.endswith("device") for node in photograph(rootfs).values())
    own.delete(image_id)
    own.clean()
    sentinel.check()
    assert own.volumes() == [] and own.temporary() == []


@pytest.mark.parametrize("case", REFUSED)
def test_A_and_B_refused(own: Store, sentinel: Sentinel, image: Callable[..., str], case: str) -> None:
    archive, message = REFUSED[case]
    assert message in own.refuse(image(archive(sentinel))).message
    sentinel.check()


def test_nothing_is_imported_from_the_callers_directory(own: Store, image: Callable[..., str], scratch: Path, user: User) -> None:
    """Neither by the program nor by its child in the user namespace."""
    tricks = scratch / "tricks"
    tricks.mkdir()
    for name in ("groot_fast", "os", "site", "json", "socket", "select", "sitecustomize", "usercustomize"):
        (tricks / f"{name}.py").write_text(f"open({str(tricks / 'taken-over')!r}, 'w')\n")
    os.chown(tricks, user.uid, user.gid)
    variables = {name: str(tricks) for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "HOME")}
    environment = {"PATH": f".:{os.environ['PATH']}", "PYTHONSTARTUP": str(tricks / "os.py"), **variables}
    image_id = new_id()
    url = image(Archive().file("in-a-foreign-directory", "x", uid=5))
    argv = [COMMAND, "--store", own.path, "create", url, image_id]
    done = subprocess.run(argv, cwd=tricks, env=environment, user=user.uid, group=user.gid, extra_groups=[], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{own.path}/images/{image_id}\n", ""), done
    assert not (tricks / "taken-over").exists()
    own.delete(image_id)
