"""Stores that the original wrote: used, cleaned and deleted from in place, by both in turn; and `migrate`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import mounts
from support.accounts import COUNT, FIRST, User
from support.archive import Archive, Layer
from support.command import MIB, Store
from support.layout import chain_ids, write_layout
from support.original import Original, local_key, make_original
from support.tree import assert_same, photograph

Image = Callable[..., str]
BASE = Layer(Archive().dir("etc").file("etc/os", "debian").file("base", os.urandom(3 * MIB)).tar)
APP = Layer(Archive().file("app", os.urandom(2 * MIB)).tar)
OTHER = Layer(Archive().file("other", os.urandom(MIB)).tar)


class Taken(NamedTuple):
    """A store of the original, in both hands."""

    old: Original
    new: Store


@pytest.fixture(params=["full", "none"])
def taken(request: pytest.FixtureRequest, scratch: Path) -> Taken:
    """With images of the original: one of two layers, one without mount, and a layer that nobody uses."""
    old, new = make_original(scratch, quota=request.param, size=1024 * MIB)
    limit = 40 * MIB if request.param == "full" else 0
    old.create("one", BASE, APP, limit=limit)
    old.create("unmounted", BASE, mount=False)
    old.create("gone", BASE, OTHER)
    old.delete("gone")
    return Taken(old, new)


@pytest.fixture
def full(scratch: Path) -> Taken:
    """Only with full accounting, without images."""
    return Taken(*make_original(scratch, quota="full", size=1024 * MIB))


def counts(taken: Taken) -> bool:
    return "0/5" in mounts.tool("btrfs", "qgroup", "show", taken.new.path, check=False)


def test_images_of_the_original_are_used(taken: Taken) -> None:
    assert taken.new.list() == ["one", "unmounted"]
    if counts(taken):
        (taken.new.rootfs("one") / "written").write_bytes(os.urandom(4 * MIB))
        total, own = taken.new.stats("one")
        assert 9 * MIB <= total < 10 * MIB and 4 * MIB <= own < 5 * MIB
        assert 3 * MIB <= taken.new.stats("unmounted")[0] < 4 * MIB
    else:
        assert "quotas not enabled" in taken.new.run("stats", "one").failed().message
    described = {image["id"]: image for image in json.loads(taken.new.run("list", "--json").ok().out)}
    assert described["one"]["layers"] == chain_ids([BASE, APP]) and described["one"]["image_size_bytes"] == 5 * MIB + 6
    assert described["one"]["quota_size_bytes"] == (40 * MIB if counts(taken) else None)
    told = json.loads(taken.new.run("stats", "--store").ok().out)
    assert (told["layers"]["count"], told["layers"]["unused_bytes"]) == (3, MIB)
    assert told["images"]["quota_size_bytes"] == (40 * MIB if counts(taken) else 0)


def test_layers_of_the_original_are_used(taken: Taken, scratch: Path) -> None:
    """No layer is unpacked again: the layout no longer has any."""
    url = write_layout(scratch / "image", BASE, APP)
    for layer in (BASE, APP):
        (scratch / "image/blobs/sha256" / layer.digest).unlink()
    before = taken.new.volumes()
    rootfs = taken.new.create(url, "two")
    assert taken.new.volumes() == before
    assert_same(photograph(rootfs), photograph(taken.old.path / "images/one/rootfs"))
    assert json.loads(taken.new.record("two").read_text()) == chain_ids([BASE, APP])


def test_layers_on_top_of_those_of_the_original(taken: Taken, image: Image) -> None:
    upper = Archive().whiteout("app").file("new", "n" * 1000)
    rootfs = taken.new.create(image(BASE, APP, upper), "two")
    assert sorted(os.listdir(rootfs)) == ["base", "etc", "new"]
    assert taken.old.path.joinpath("images/one/rootfs/app").exists()


def test_local_tar_has_the_same_key(taken: Taken, scratch: Path) -> None:
    path = scratch / "rootfs.tar"
    path.write_bytes(BASE.tar)
    taken.new.create(path, "local")
    assert local_key(path) in taken.new.volumes()


def test_images_of_the_original_are_deleted(taken: Taken) -> None:
    mounts.tool("btrfs", "subvolume", "create", taken.new.rootfs("one") / "nested")
    for image_id in ("one", "unmounted"):
        taken.new.delete(image_id)
    assert taken.new.list() == taken.old.list() == [] and os.listdir(taken.new.path / "meta/dependencies") == []
    taken.new.clean()
    assert taken.new.volumes() == [] and taken.new.subvolumes() == []
    assert [name for name in os.listdir(taken.new.path / "meta") if name.startswith("volume-")] == []
    if counts(taken):
        assert taken.new.groups() == set()


def test_clean_keeps_what_the_original_uses(taken: Taken) -> None:
    chain = chain_ids([BASE, APP])
    volumes = taken.new.path / "volumes"
    # Leftovers as the original leaves them (contract, section 7.5).
    mounts.tool("btrfs", "subvolume", "create", volumes / f"{'a' * 64}-incomplete-1500000000000000000-42")
    mounts.tool("btrfs", "subvolume", "create", volumes / f"gc.{'b' * 64}")
    (taken.new.path / "locks" / f"{'c' * 64}.lock").touch()
    before = photograph(taken.new.rootfs("one"))
    taken.new.clean()
    assert taken.new.volumes() == sorted(chain) and taken.new.temporary() == []
    assert {name for name in os.listdir(taken.new.path / "locks") if len(name) == 69} == {f"{name}.lock" for name in chain}
    assert_same(photograph(taken.new.rootfs("one")), before)


def test_threshold_counts_the_records_of_the_original(taken: Taken) -> None:
    size = 6 * MIB + 6
    assert taken.new.run("clean", "--threshold-bytes", str(size + 1)).ok().out == "threshold not reached: skipping clean\n"
    assert len(taken.new.volumes()) == 3
    taken.new.clean("--threshold-bytes", str(size))
    assert len(taken.new.volumes()) == 2


def test_both_in_turn(taken: Taken, image: Image) -> None:
    old, new = taken
    new.create(image(BASE, APP), "ours")
    new.create(image(BASE, OTHER), "ours-too", "--without-mount")
    assert old.list() == new.list() == ["one", "ours", "ours-too", "unmounted"]
    old.clean()
    assert new.volumes() == sorted({*chain_ids([BASE, APP]), *chain_ids([BASE, OTHER])})
    old.delete("ours")
    new.delete("one")
    old.clean()
    assert new.volumes() == sorted(chain_ids([BASE, OTHER]))
    (new.rootfs("ours-too").parent / "snapshot" / "other").read_bytes()
    old.create("again", BASE, APP)
    new.clean()
    assert new.volumes() == sorted({*chain_ids([BASE, APP]), *chain_ids([BASE, OTHER])})
    url = image(BASE, APP)
    assert_same(photograph(new.create(url, "last")), photograph(new.rootfs("again")))
    for image_id in ("ours-too", "last"):
        old.delete(image_id)
    for image_id in ("unmounted", "again"):
        new.delete(image_id)
    old.clean()
    new.clean()
    assert old.list() == [] and new.volumes() == [] and new.subvolumes() == []


def test_ids_are_reserved_between_both(taken: Taken, image: Image) -> None:
    taken.new.run("create", image(BASE), "one").failed()
    taken.new.create(image(BASE), "ours")
    with pytest.raises(FileExistsError):
        taken.old.create("ours", BASE)


def test_limits_of_the_original_hold(full: Taken, image: Image) -> None:
    tree = full.old.create("old", BASE, limit=8 * MIB)
    ours = full.new.create(image(BASE), "new", "--disk-limit-size-bytes", str(8 * MIB))
    for rootfs in (tree, ours):
        with pytest.raises(OSError, match="exceeded"), (rootfs / "more").open("wb", buffering=0) as out:
            for _ in range(8):
                out.write(os.urandom(MIB))
                os.fsync(out.fileno())
    # Full accounting hands a limit on to snapshots: the layer must have none.
    assert full.new.create(image(BASE), "free").joinpath("big").write_bytes(bytes(20 * MIB)) == 20 * MIB


def test_store_with_mappings(scratch: Path, user: User, image: Image) -> None:
    """An unprivileged cell's store, driven by its user."""
    mappings = {"uid": [f"0:{user.uid}:1", f"1:{FIRST}:{COUNT}"], "gid": [f"0:{user.gid}:1", f"1:{FIRST}:{COUNT}"]}
    old, new = make_original(scratch, quota="full", size=1024 * MIB, mappings=mappings, owner=(user.uid, user.gid))
    translated = Layer(Archive().file("f", "x", uid=user.uid, gid=user.gid).file("g", "y", uid=FIRST + 4, gid=FIRST + 4).tar)
    original = Layer(Archive().file("f", "x").file("g", "y", uid=5, gid=5).tar)
    # What its unpacker makes of the image's layer, under the image's chain id.
    old.create("old", Layer(translated.tar, diff_id=original.diff_id))
    own = Store(new.path, uid=user.uid)
    rootfs = own.create(image(original), "new")
    assert len(own.volumes()) == 1
    assert_same(photograph(rootfs), photograph(own.rootfs("old")))
    assert own.create(image(original, Archive().file("h", "z", uid=5)), "more").joinpath("h").stat().st_uid == FIRST + 4
    for image_id in ("old", "new", "more"):
        own.delete(image_id)
    own.clean()
    assert own.list() == [] and own.volumes() == []


def test_init_store_again(taken: Taken) -> None:
    """As a deployment does at each start."""
    before = photograph(taken.new.path / "meta")
    taken.new.init(size=None).ok()
    assert_same(photograph(taken.new.path / "meta"), before)
    assert "do not match" in taken.new.init("--uid-mapping", "0:1000:1", size=None).failed().message


def test_delete_store(taken: Taken) -> None:
    taken.new.run("delete-store").ok()
    assert os.listdir(taken.new.path) == []  # an operator's file system stays


# -- migrate ------------------------------------------------------------------------------


def fill(path: Path, most: int) -> int:
    """Write until the limit; gives how much went."""
    written = 0
    with path.open("wb", buffering=0) as out:
        try:
            while written < most:
                written += out.write(os.urandom(256 << 10))
                os.fsync(out.fileno())
        except OSError as error:
            assert "exceeded" in str(error)
    return written


def mode(store: Store) -> str:
    uuid = mounts.tool("findmnt", "-n", "-o", "UUID", store.path).strip()
    file = Path("/sys/fs/btrfs") / uuid / "qgroups/mode"
    return file.read_text().strip() if file.exists() else "none"


def test_migrate_only_says_what_it_would_do(taken: Taken) -> None:
    before = mode(taken.new)
    text = taken.new.run("migrate").ok().out
    assert ("full quotas" if counts(taken) else "no quotas") in text and "2 images" in text
    assert "kernels before Linux 6.7 cannot mount it" in text and mode(taken.new) == before


def test_migrate(taken: Taken, image: Image) -> None:
    """Stats go on where they were, limits hold what is left of them, and later images are as on any store."""
    rootfs = taken.new.rootfs("one")
    (rootfs / "written").write_bytes(os.urandom(4 * MIB))
    mounts.tool("btrfs", "filesystem", "sync", taken.new.path)
    limited = counts(taken)
    before = taken.new.stats("one") if limited else (9 * MIB + 6, 4 * MIB)
    text = taken.new.run("migrate", "--quota", "simple").ok().out
    said = f"{taken.new.path} has simple quotas now: 2 images, the limits of {1 if limited else 0} set again."
    unknown = "" if limited else " Whether these had a limit is not known, so they have none: one, unmounted."
    assert text == f"{said}{unknown}\n"
    assert mode(taken.new) == "squota"
    total, own = taken.new.stats("one")
    assert before[0] <= total < before[0] + 256 * 1024 and before[1] <= own < before[1] + 256 * 1024
    assert taken.new.stats("unmounted")[0] >= 3 * MIB
    (rootfs / "more").write_bytes(os.urandom(MIB))
    assert MIB <= taken.new.stats("one")[1] - own < 2 * MIB
    if limited:
        # 40 MiB, of which 9 were there before and 1 came since.
        went = fill(rootfs / "rest", 60 * MIB)
        assert 28 * MIB <= went <= 30 * MIB
        listed = {row["id"]: row for row in json.loads(taken.new.run("list", "--json").ok().out)}
        assert listed["one"]["quota_size_bytes"] == 40 * MIB
    ours = taken.new.create(image(BASE, APP), "ours", "--disk-limit-size-bytes", str(8 * MIB))
    assert 2 * MIB <= fill(ours / "f", 20 * MIB) <= 3 * MIB
    again = taken.new.run("migrate", "--quota", "simple").ok().out
    assert again == f"{taken.new.path} has simple quotas already.\n" and "Nothing to do" in taken.new.run("migrate").ok().out
    for image_id in ("one", "unmounted", "ours"):
        taken.new.delete(image_id)
    taken.new.clean()
    assert taken.new.groups() == set() and taken.new.subvolumes() == [] and taken.new.volumes() == []


def test_migrated_limits_charge_later_subvolumes(full: Taken) -> None:
    tree = full.old.create("old", BASE, limit=12 * MIB)
    full.new.run("migrate", "--quota", "simple").ok()
    mounts.tool("btrfs", "subvolume", "create", tree / "nested")
    assert 8 * MIB <= fill(tree / "nested" / "f", 30 * MIB) <= 9 * MIB


def test_exclusive_limit_is_migrated(full: Taken) -> None:
    tree = full.old.create("old", BASE, limit=6 * MIB, exclusive=True)
    (tree / "first").write_bytes(os.urandom(2 * MIB))
    full.new.run("migrate", "--quota", "simple").ok()
    assert 3 * MIB <= fill(tree / "second", 20 * MIB) <= 4 * MIB


def test_limit_that_is_used_up(full: Taken) -> None:
    tree = full.old.create("old", BASE, limit=MIB)  # the original allows less than the image has
    full.new.run("migrate", "--quota", "simple").ok()
    with pytest.raises(OSError, match="exceeded"):
        (tree / "f").write_bytes(bytes(MIB))
    full.new.delete("old")
    assert full.new.list() == []


def test_our_own_images_are_migrated(make_store: Callable[..., Store], image: Image) -> None:
    store = make_store("--quota", "full")
    rootfs = store.create(image(BASE), "one", "--disk-limit-size-bytes", str(10 * MIB))
    (rootfs / "f").write_bytes(os.urandom(2 * MIB))
    before = store.stats("one")
    store.run("migrate", "--quota", "simple").ok()
    after = store.stats("one")
    assert abs(after[0] - before[0]) < 256 * 1024 and abs(after[1] - before[1]) < 256 * 1024
    assert 4 * MIB <= fill(rootfs / "g", 20 * MIB) <= 5 * MIB


def test_killed_migration_is_finished_by_the_next(full: Taken) -> None:
    """At its worst: full quotas are off, simple ones not yet on, no limit set."""
    tree = full.old.create("old", BASE, limit=10 * MIB)
    for name, value in (("image-size", 3 * MIB), ("uncounted", 16384), ("pending-limit", 7 * MIB), ("limit", 10 * MIB)):
        os.setxattr(full.new.image("old"), f"user.grootfs.{name}", str(value).encode())
    mounts.tool("btrfs", "quota", "disable", full.new.path)
    assert "the limits of 1 set again" in full.new.run("migrate", "--quota", "simple").ok().out
    assert 6 * MIB <= fill(tree / "f", 20 * MIB) <= 7 * MIB
    assert full.new.stats("old")[0] >= 9 * MIB


@pytest.mark.parametrize("options", [[], ["--exclude-image-from-quota"]])
def test_limits_that_did_not_hold_hold_after_a_migration(make_store: Callable[..., Store], image: Image, options: list[str]) -> None:
    """Of a store whose accounting somebody turned off."""
    store = make_store()
    rootfs = store.create(image(BASE), "one", "--disk-limit-size-bytes", str(10 * MIB), *options)
    mounts.tool("btrfs", "quota", "disable", store.path)
    (rootfs / "f").write_bytes(os.urandom(2 * MIB))
    assert "the limits of 1 set again.\n" in store.run("migrate", "--quota", "simple").ok().out
    room = 8 if options else 5  # the image has 3
    assert (room - 1) * MIB <= fill(rootfs / "g", 20 * MIB) <= room * MIB
    assert store.run("check").ok()


def test_limits_that_cannot_be_set_are_named(make_store: Callable[..., Store], image: Image) -> None:
    from groot_fast import _core
    from groot_fast.errors import StoreError
    from groot_fast.telemetry.lager import Logger
    from groot_fast.upkeep.migrate import _set_limits

    class Failing:
        def __init__(self, path: Path) -> None:
            self.core: Any = _core.Store.open(path, drax="drax")

        def restrict(self, image_id: str, left: int) -> None:
            if image_id == "bad":
                raise OSError(28, "limiting bad: no space left on device")
            self.core.restrict(image_id, left)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.core, name)

    store = make_store()
    for image_id in ("bad", "good"):
        rootfs = store.create(image(BASE), image_id)
        os.setxattr(store.image(image_id), "user.grootfs.pending-limit", str(MIB).encode())
    failing: Any = Failing(store.path)
    try:
        with pytest.raises(StoreError, match=r"limits of 1 images could not be set: `bad` \(limiting bad"):
            _set_limits(failing, Logger.silent())
    finally:
        failing.core = None
    assert fill(rootfs / "f", 5 * MIB) <= MIB
    assert os.getxattr(store.image("bad"), "user.grootfs.pending-limit") == str(MIB).encode()


def refused(store: Store, *options: str) -> str:
    before = mode(store)
    message = store.run("migrate", "--quota", "simple", *options).failed().message
    assert mode(store) == before
    return message


def test_groups_of_others_are_not_dropped(full: Taken) -> None:
    mounts.tool("btrfs", "subvolume", "create", full.new.path / "theirs")
    full.new.run("migrate").ok()
    mounts.tool("btrfs", "qgroup", "limit", "1g", full.new.path / "theirs")
    assert "belongs to somebody else" in refused(full.new)
    mounts.tool("btrfs", "qgroup", "limit", "none", full.new.path / "theirs")
    mounts.tool("btrfs", "qgroup", "create", "1/7", full.new.path)
    assert refused(full.new) == "quota group 1/7 of the file system belongs to somebody else, and would be lost"


def test_impossible_migrations(full: Taken, user: User, scratch: Path) -> None:
    mounts.tool("mount", "-o", "remount,ro", full.new.path)
    assert "read-only" in refused(full.new)
    mounts.tool("mount", "-o", "remount,rw", full.new.path)
    full.new.path.chmod(0o755)
    assert "can only be migrated by Root user" in refused(Store(full.new.path, uid=user.uid))
    assert "usage: migrate" in full.new.run("migrate", "--quota", "full").failed().message
    assert "not initialized" in Store(scratch / "none").run("migrate").failed().message


def test_kernel_without_simple_quotas(full: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    from groot_fast.config import Settings
    from groot_fast.errors import StoreError
    from groot_fast.groot import Groot
    from groot_fast.telemetry.lager import Logger, open_sink

    monkeypatch.setattr("groot_fast.upkeep.sysfs.has_simple_quotas", lambda: False)
    groot = Groot(Settings({"store": str(full.new.path)}), Logger(open_sink(None, None), "test"))
    with pytest.raises(StoreError, match="has no simple quotas"):
        groot.migrate("simple")
    assert mode(full.new) == "qgroup"
