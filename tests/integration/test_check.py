"""Check: every kind of damage and leftover is found, what is in order is not, and repair harms no image."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from support import mounts
from support.accounts import User
from support.archive import Archive, Layer
from support.command import COMMAND, MIB, Store, kill, new_id, wait_for
from support.layout import chain_ids
from support.tree import assert_same, photograph

Image = Callable[..., str]
MakeStore = Callable[..., Store]
LAYERS = [Layer(Archive().dir("d").file("d/f", "below").tar), Layer(Archive().file("g", "above" * 1000).tar)]
CHAIN = chain_ids(LAYERS)
GONE = "a" * 64
OLD = 1_400_000_000
"""A time long ago."""


class Found(NamedTuple):
    """A line of check."""

    severity: str
    kind: str
    path: str
    problem: str
    cure: str
    state: str


def check(store: Store, *flags: str, code: int | None = None) -> list[Found]:
    """What check finds. The exit code has to say whether something other than notes remains."""
    result = store.run("check", "--json", *flags)
    assert result.err == "", result
    found = [Found(**finding) for finding in json.loads(result.out)["findings"]]
    remains = any(finding.severity != "note" and finding.state != "repaired" for finding in found)
    assert result.code == int(remains), result
    assert code is None or result.code == code, result
    return found


def kinds(found: list[Found]) -> list[tuple[str, str]]:
    """Kinds and states."""
    return sorted((finding.kind, finding.state) for finding in found)


@pytest.fixture
def used(store: Store, image: Image) -> Store:
    """A store with two images, of which one has a limit, and their volumes."""
    url = image(*LAYERS)
    store.create(url, "one")
    store.create(url, "two", "--disk-limit-size-bytes", str(50 * MIB))
    return store


def test_store_in_order(used: Store) -> None:
    assert used.run("check").ok().out == "nothing found\n"
    assert json.loads(used.run("check", "--json").ok().out) == {"findings": []}
    before = photograph(used.path / "meta", change_time=True), photograph(used.path / "locks", change_time=True)
    check(used, "--dry-run", code=0)
    assert (photograph(used.path / "meta", change_time=True), photograph(used.path / "locks", change_time=True)) == before


def test_ordinary_life_leaves_nothing_to_find(used: Store, image: Image) -> None:
    used.create(image(Archive().file("x", "y")), "three", "--without-mount")
    used.create(image(Archive().file("x", "z")), "four", "--disk-limit-size-bytes", str(9 * MIB), "--exclude-image-from-quota")
    check(used, code=0)
    used.delete("two")
    used.delete("four")
    check(used, code=0)
    used.clean()
    assert check(used, code=0) == []


def test_usage(store: Store) -> None:
    assert "usage: check" in store.run("check", "extra").failed().message
    assert "not initialized" in Store(store.path / "tmp").run("check").failed().message


# -- one kind of damage after the other ---------------------------------------------------


class Damage(NamedTuple):
    """How to make it, what check has to say, and whether repair can put it right."""

    make: Callable[[Store], object]
    severity: str
    kind: str
    path: str
    repairable: bool


def subvolume(path: Path) -> None:
    mounts.tool("btrfs", "subvolume", "create", path)


def touch(path: Path, age: int = OLD) -> None:
    path.touch()
    os.utime(path, (age, age))


def unfinished(store: Store) -> None:
    store.image("dead").mkdir(mode=0o700)
    (store.image("dead") / "image.json").write_text("{}")
    subvolume(store.image("dead") / "rootfs.unlimited")


def drop_tree(store: Store) -> None:
    store.record("gone").write_text(json.dumps(CHAIN))


def lose_volume(store: Store) -> None:
    mounts.tool("btrfs", "subvolume", "delete", store.path / "volumes" / CHAIN[0])
    (store.path / "meta" / f"volume-{CHAIN[0]}").unlink()
    (store.path / "meta" / f"listing-{CHAIN[0]}").unlink()
    (store.path / "locks" / f"{CHAIN[0]}.lock").unlink()


def stale_group(store: Store) -> None:
    """As a base leaves it that had snapshots."""
    base, copy = store.path / "tmp" / "base", store.path / "tmp" / "copy"
    subvolume(base)
    (base / "file").write_bytes(os.urandom(100_000))
    mounts.tool("btrfs", "subvolume", "snapshot", base, copy)
    mounts.tool("btrfs", "subvolume", "delete", base, copy)
    known = store.groups()
    wait_for(
        lambda: mounts.tool("btrfs", "filesystem", "sync", store.path) == "" and store.groups() < known, "a dropped subvolume", pause=0.1
    )


def group_of_a_lost_image(store: Store) -> None:
    """What a delete leaves that is killed after the tree and before the group."""
    known = {group for group in store.groups() if group.startswith("0/")}
    mounts.tool("btrfs", "subvolume", "delete", store.rootfs("two"))
    shutil.rmtree(store.image("two"))
    store.record("two").unlink()
    wait_for(
        lambda: mounts.tool("btrfs", "filesystem", "sync", store.path) == "" and not known <= store.groups(),
        "a dropped subvolume",
        pause=0.1,
    )


def nested(store: Store) -> None:
    subvolume(store.path / "volumes" / CHAIN[0] / "d" / "inner")


DAMAGES = {
    "unfinished image": Damage(unfinished, "warning", "unfinished-image", "images/dead", True),
    "incomplete volume": Damage(
        lambda s: subvolume(s.path / "volumes" / f"{GONE}-incomplete-1-2"), "warning", "incomplete-volume", f"volumes/{GONE}-inc", True
    ),
    "doomed volume": Damage(lambda s: subvolume(s.path / "volumes" / f"gc.{GONE}"), "warning", "doomed-volume", f"volumes/gc.{GONE}", True),
    "orphan": Damage(lambda s: subvolume(s.path / "tmp" / "mine"), "warning", "orphan-subvolume", "tmp/mine", False),
    "orphan in an image": Damage(lambda s: subvolume(s.image("one") / "backup"), "warning", "orphan-subvolume", "images/one/backup", False),
    "nested": Damage(nested, "warning", "nested-subvolume", f"volumes/{CHAIN[0]}/d/inner", False),
    "no size": Damage(
        lambda s: (s.path / "meta" / f"volume-{CHAIN[0]}").unlink(), "warning", "volume-without-size", f"volumes/{CHAIN[0]}", True
    ),
    "empty size": Damage(
        lambda s: (s.path / "meta" / f"volume-{CHAIN[0]}").write_text(""), "error", "damaged-size", f"meta/volume-{CHAIN[0]}", True
    ),
    "size alone": Damage(
        lambda s: (s.path / "meta" / f"volume-{GONE}").write_text('{"Size":1}'),
        "warning",
        "record-without-volume",
        f"meta/volume-{GONE}",
        True,
    ),
    "no record": Damage(lambda s: s.record("one").unlink(), "error", "image-without-record", "images/one", True),
    "empty record": Damage(lambda s: s.record("one").write_text(""), "error", "damaged-record", "meta/dependencies/image:one.json", True),
    "record alone": Damage(drop_tree, "warning", "record-without-image", "meta/dependencies/image:gone.json", True),
    "missing volume": Damage(lose_volume, "note", "missing-volume", f"volumes/{CHAIN[0]}", False),
    "wrong size": Damage(
        lambda s: os.setxattr(s.image("one"), "user.grootfs.image-size", b"7"), "warning", "wrong-image-size", "images/one", True
    ),
    "nonsense for a size": Damage(
        lambda s: os.setxattr(s.image("one"), "user.grootfs.image-size", b"x"), "error", "wrong-image-size", "images/one", True
    ),
    "lost limit": Damage(
        lambda s: mounts.tool("btrfs", "qgroup", "limit", "none", s.rootfs("two")), "error", "missing-limit", "images/two/rootfs", False
    ),
    "another limit": Damage(
        lambda s: mounts.tool("btrfs", "qgroup", "limit", "40M", s.rootfs("two")), "error", "wrong-limit", "images/two/rootfs", False
    ),
    "accounting off": Damage(
        lambda s: mounts.tool("btrfs", "quota", "disable", s.path), "error", "missing-limit", "images/two/rootfs", False
    ),
    "lost mount": Damage(
        lambda s: os.setxattr(s.image("one"), "user.grootfs.idmapped", b"1"), "error", "unmounted-image", "images/one/rootfs", False
    ),
    "leaked blob": Damage(lambda s: touch(s.path / "tmp" / f"blob-{GONE}"), "warning", "leaked-blob", f"tmp/blob-{GONE}", True),
    "nameless image": Damage(
        lambda s: (s.path / "tmp" / "image-999999999-2").mkdir(), "warning", "leftover", "tmp/image-999999999-2", True
    ),
    "temporary record": Damage(lambda s: touch(s.path / "tmp" / "record-1-2"), "warning", "leftover", "tmp/record-1-2", True),
    "damaged source": Damage(
        lambda s: next((s.path / "meta" / "sources").iterdir()).write_text("["), "warning", "damaged-source", "meta/sources/", True
    ),
    "stale group": Damage(stale_group, "warning", "stale-group", ":0/", True),
    "stale level-1 group": Damage(group_of_a_lost_image, "warning", "stale-group", "", True),
    "foreign at the top": Damage(lambda s: (s.path / "notes").touch(), "warning", "foreign-entry", "notes", False),
    "foreign volume": Damage(lambda s: (s.path / "volumes" / "notes").mkdir(), "warning", "foreign-entry", "volumes/notes", False),
    "foreign subvolume": Damage(lambda s: subvolume(s.path / "volumes" / "mine"), "warning", "foreign-entry", "volumes/mine", False),
    "foreign image": Damage(lambda s: (s.path / "images" / "notes").touch(), "warning", "foreign-entry", "images/notes", False),
    "foreign record": Damage(lambda s: (s.path / "meta" / "notes").touch(), "warning", "foreign-entry", "meta/notes", False),
    "foreign dependency": Damage(
        lambda s: (s.path / "meta" / "dependencies" / "notes").touch(), "warning", "foreign-entry", "meta/dependencies/notes", False
    ),
    "foreign lock": Damage(lambda s: (s.path / "locks" / "notes").mkdir(), "warning", "foreign-entry", "locks/notes", False),
    "young download": Damage(
        lambda s: (s.path / "tmp" / f"blob-{GONE}").touch(), "note", "interrupted-download", f"tmp/blob-{GONE}", False
    ),
    "stale lock": Damage(lambda s: (s.path / "locks" / f"{GONE}.lock").touch(), "note", "stale-locks", "locks", True),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_repaired(used: Store, name: str) -> None:
    damage = DAMAGES[name]
    trees = {image_id: photograph(used.rootfs(image_id), change_time=True) for image_id in ("one", "two")}
    damage.make(used)
    found = check(used)
    assert [(finding.severity, finding.kind, finding.state) for finding in found] == [(damage.severity, damage.kind, "found")], found
    assert damage.path in found[0].path and found[0].path.startswith(str(used.path)) and found[0].problem and found[0].cure

    dry = check(used, "--dry-run")
    assert kinds(dry) == [(damage.kind, "would be repaired" if damage.repairable else "found")], dry
    assert check(used) == found, "a dry run changes nothing"

    repaired = check(used, "--repair")
    wanted = {"repaired"} if damage.repairable else {"found", "remains"}
    assert len(repaired) == 1 and repaired[0].kind == damage.kind and repaired[0].state in wanted, repaired
    assert check(used) == ([] if damage.repairable else found)
    for image_id, tree in trees.items():
        if not used.image(image_id).exists():
            continue  # the damage itself is that it was lost
        assert_same(photograph(used.rootfs(image_id), change_time=True), tree)


def test_a_group_that_an_administrator_made_is_left_alone(used: Store) -> None:
    """It counts nothing and there is no subvolume of its number: neither says whose it is."""
    mounts.tool("btrfs", "qgroup", "create", "1/9999", used.path)
    mounts.tool("btrfs", "qgroup", "limit", "1G", "1/9999", used.path)
    assert check(used) == []
    used.run("check", "--repair").ok()
    used.clean()
    assert "1/9999" in used.groups()


def test_records_are_written_as_they_were(used: Store) -> None:
    record, size = used.record("one").read_text(), os.getxattr(used.image("one"), "user.grootfs.image-size")
    used.record("one").write_text("[1]")
    os.setxattr(used.image("one"), "user.grootfs.image-size", b"12")
    check(used, "--repair", code=0)
    assert used.record("one").read_text() == record
    assert os.getxattr(used.image("one"), "user.grootfs.image-size") == size


def test_record_that_nothing_can_restore_stays_reported(store: Store, scratch: Path) -> None:
    """A tar file has no diff ids."""
    tar = scratch / "layer.tar"
    tar.write_bytes(Archive().file("f", "x").tar)
    store.create(tar, "one")
    store.record("one").unlink()
    assert kinds(check(store, "--repair", code=1)) == [("image-without-record", "found")]
    assert (store.rootfs("one") / "f").read_text() == "x"


def test_text_has_one_line_a_finding(used: Store) -> None:
    (used.path / "two\nlines\x1b[31m").touch()
    used.record("one").unlink()
    result = used.run("check")
    assert result.code == 1 and len(result.out.splitlines()) == 3, result
    assert "\x1b" not in result.out and "two\\nlines\\x1b" in result.out
    assert result.out.splitlines()[-1] == "1 error, 1 warning"
    assert "(repaired)" in used.run("check", "--repair").out


def test_owner_of_folders(make_store: MakeStore, user: User) -> None:
    store = make_store("--rootless", f"{user.name}:{user.name}")
    assert check(store, code=0) == []
    os.chown(store.path / "tmp", 0, 0)
    found = check(store, code=1)
    assert [(finding.kind, finding.path) for finding in found] == [("wrong-owner", str(store.path / "tmp"))]


# -- others at work -----------------------------------------------------------------------


def hold(path: Path) -> int:
    """Lock as a running command does."""
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def test_what_a_running_command_owns_is_no_finding(used: Store) -> None:
    owned = used.path / "locks" / f"{GONE}.lock"
    subvolume(used.path / "volumes" / f"{GONE}-incomplete-1-2")
    (used.path / "meta" / f"volume-{GONE}").write_text('{"Size":1}')
    subvolume(used.path / "volumes" / f"gc.{'b' * 64}")
    used.image("new").mkdir()
    touch(used.path / "tmp" / f"blob-{GONE}")
    (used.path / "tmp" / "image-999999999-2").mkdir()
    paths = [owned, used.path / "locks" / "groot-gc-lock.lock", used.image("new"), *(used.path / "tmp").iterdir()]
    held = [hold(path) for path in paths]
    try:
        assert check(used, code=0) == []
    finally:
        for fd in held:
            os.close(fd)
    assert {kind for kind, _ in kinds(check(used, code=1))} == {
        *("incomplete-volume", "record-without-volume", "doomed-volume", "unfinished-image", "leaked-blob", "leftover", "stale-locks")
    }
    assert {state for _, state in kinds(check(used, "--repair", code=0))} == {"repaired"}
    assert check(used) == []


def test_busy_commands_give_no_false_alarm(store: Store, image: Image) -> None:
    """Creates, deletes and cleans in full swing; every check finds a store in order, but for what waits for the kernel."""
    bulk = Archive()
    for i in range(300):
        bulk.file(f"f{i}", str(i))
    urls = [image(LAYERS[0], Layer(Archive().file(f"own{i}", "x").tar), Layer(bulk.tar)) for i in range(3)]
    rounds = [(url, f"c{i}") for i, url in enumerate(urls)]
    script = "for n in 1 2 3 4 5 6; do {0} create {1} {2} && {0} delete {2} && {0} clean; done"
    prefix = f"{COMMAND} --store {store.path}"
    workers = [subprocess.Popen(["sh", "-c", script.format(prefix, url, name)], stdout=subprocess.DEVNULL) for url, name in rounds]
    seen = 0
    alarms: list[Found] = []
    while any(worker.poll() is None for worker in workers):
        alarms += [finding for finding in check(store) if finding.severity != "note" and finding.kind != "stale-group"]
        seen += 1
    assert alarms == []
    assert [worker.returncode for worker in workers] == [0, 0, 0] and seen > 3


def test_killed_create_is_reported_and_repaired(store: Store, image: Image) -> None:
    bulk = Archive()
    for i in range(3000):
        bulk.file(f"f{i}", "x" * 500)
    process = store.start("create", image(LAYERS[0], Layer(bulk.tar, "none")), "dead")
    wait_for(lambda: any("incomplete" in name for name in store.volumes()), "an incomplete volume")
    kill(process)
    process.communicate()
    check(store, code=1)
    assert {state for _, state in kinds(check(store, "--repair", code=0))} == {"repaired"}
    assert check(store) == []


# -- the original's stores ----------------------------------------------------------------


def as_the_original(store: Store, image_id: str) -> None:
    """Take away what only we write."""
    for name in os.listxattr(store.image(image_id)):
        os.removexattr(store.image(image_id), name)
    (store.image(image_id) / "image.json").unlink()
    for record in (store.path / "meta").glob("volume-*"):
        record.write_text('{"Size":' + str(json.loads(record.read_text())["Size"]) + "}\n")
    shutil.rmtree(store.path / "meta" / "sources", ignore_errors=True)


def test_the_originals_store_is_in_order(used: Store) -> None:
    for image_id in ("one", "two"):
        as_the_original(used, image_id)
    for name in ("cache", "l", "projectids"):
        (used.path / name).mkdir()
    (used.path / "meta" / "dependencies" / "baseimage:docker:______library__x.json").write_text("[]")
    for i in range(40):
        (used.path / "locks" / f"{i:064x}.lock").touch()
    (used.path / "tmp" / f"blob-sha256:{GONE}123").touch()
    found = check(used, code=0)
    assert sorted({finding.kind for finding in found}) == ["original", "stale-locks"]
    assert "2 images" in next(finding.problem for finding in found if finding.kind == "original")


# -- an ordinary user ---------------------------------------------------------------------


def test_as_an_ordinary_user(make_store: MakeStore, user: User, image: Image) -> None:
    root = make_store("--rootless", f"{user.name}:{user.name}")
    store = Store(root.path, uid=user.uid)
    rootfs = store.create(image(*LAYERS), "one")
    before = photograph(rootfs)
    assert check(store, code=0) == []
    mounts.tool("btrfs", "qgroup", "create", "1/9999", store.path)
    assert kinds(check(store, code=0)) == [("needs-root", "found")]
    subvolume(store.path / "volumes" / f"gc.{GONE}")
    subvolume(store.path / "tmp" / "mine")
    for path in (store.path / "volumes" / f"gc.{GONE}", store.path / "tmp" / "mine"):
        os.chown(path, user.uid, user.gid)
    store.record("one").unlink()
    assert {finding.kind for finding in check(store)} == {"needs-root", "doomed-volume", "orphan-subvolume", "image-without-record"}
    assert kinds(check(store, "--repair", code=1)) == [
        ("doomed-volume", "repaired"),
        ("image-without-record", "repaired"),
        ("needs-root", "remains"),
        ("orphan-subvolume", "remains"),
    ]
    assert_same(photograph(rootfs), before)
    stranger = Store(root.path, uid=65534)
    result = stranger.run("check").failed()
    assert os.strerror(errno.EACCES).lower() in result.message.lower()


# -- damage at random ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_repair_never_harms_a_living_image(store: Store, image: Image, seed: int) -> None:
    generator = random.Random(seed)
    urls = [image(LAYERS[0], Layer(Archive().file("own", str(i)).tar)) for i in range(3)]
    names = ["one", "two", *(new_id() for _ in range(3))]
    for name in names:
        # The damages speak of these two and of the volume below all.
        url = image(*LAYERS) if name in ("one", "two") else generator.choice(urls)
        store.create(url, name, "--disk-limit-size-bytes", str(50 * MIB))
        (store.rootfs(name) / "written").write_text(name)
    before = {name: photograph(store.rootfs(name), change_time=True) for name in names}
    chosen = generator.sample(sorted(DAMAGES), 8)
    for name in chosen:
        try:
            DAMAGES[name].make(store)
        except (OSError, mounts.Refused):
            pass  # an earlier one took away what this one is about
    check(store, "--dry-run")
    check(store, "--repair")
    assert store.list() == sorted(names)
    for name in names:
        assert_same(photograph(store.rootfs(name), change_time=True), before[name])
    again = check(store)
    assert not {(finding.kind, finding.path) for finding in again} - {(f.kind, f.path) for f in check(store, "--repair")}
    for name in names:
        store.delete(name)


def test_store_named_by_a_link(used: Store, scratch: Path) -> None:
    link = scratch / "link"
    link.symlink_to(used.path)
    store = Store(link)
    assert check(store, code=0) == []
    subvolume(used.path / "volumes" / f"gc.{GONE}")
    assert kinds(check(store, "--repair", code=0)) == [("doomed-volume", "repaired")]
