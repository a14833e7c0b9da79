"""The store: what is left behind, damaged, limited, mapped or configured in unusual ways."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import mounts
from support.archive import Archive, Layer
from support.command import MIB, Grootfs, Result, Store, new_id
from support.layout import BASE_DIRECTORY, chain_ids
from support.tree import assert_same, names, photograph

Image = Callable[..., str]
MakeStore = Callable[..., Store]
NOISE = os.urandom(5 * MIB)
FAT = Archive().dir("data").file("data/fat", NOISE).file("thin", "x")


def write(path: Path, size: int) -> str:
    """Write with dd, as an application would, to the disk; gives what it complains about."""
    argv = ["dd", "if=/dev/zero", f"of={path}", "bs=256K", f"count={size // (256 << 10)}", "conv=fsync"]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert (done.returncode == 0) == ("error" not in done.stderr.lower() and "exceeded" not in done.stderr)
    return "" if done.returncode == 0 else done.stderr


# -- unfinished and stale things ----------------------------------------------------------


@pytest.fixture
def unfinished(store: Store) -> Store:
    """A store with the directory of an image that was never finished, as a killed create leaves it."""
    store.image("dead").mkdir(mode=0o700)
    (store.image("dead") / "image.json").write_text("{}")
    (store.image("dead") / "vol-0").mkdir()
    (store.image("dead") / "vol-0" / "data").write_text("x")
    store.record("dead").write_text('["' + "0" * 64 + '"]')
    return store


def test_unfinished_image_is_not_listed(unfinished: Store) -> None:
    assert unfinished.list() == []
    assert unfinished.run("stats", "dead").failed().message == "Image `dead` not found."


def test_unfinished_image_can_be_deleted(unfinished: Store) -> None:
    unfinished.delete("dead")
    assert not unfinished.image("dead").exists() and not unfinished.record("dead").exists()


def test_unfinished_image_is_removed_by_clean(unfinished: Store) -> None:
    unfinished.clean()
    assert not unfinished.image("dead").exists() and not unfinished.record("dead").exists()


def test_unfinished_image_is_replaced_by_create(unfinished: Store, image: Image) -> None:
    rootfs = unfinished.create(image(Archive().file("f", "new")), "dead")
    assert names(rootfs) == ["f"] and sorted(os.listdir(rootfs.parent)) == ["image.json", "rootfs"]
    assert json.loads(unfinished.record("dead").read_text()) != ["0" * 64]


def test_records_without_images_are_removed_by_clean(store: Store, image: Image) -> None:
    store.create(image(Archive().file("f", "x")), "kept")
    store.record("gone").write_text(json.dumps(store.volumes()))
    store.create(image(Archive().file("g", "y")), "victim")
    mounts.tool("btrfs", "subvolume", "delete", store.rootfs("victim"))
    (store.image("victim") / "image.json").unlink()
    store.image("victim").rmdir()
    store.clean()
    assert os.listdir(store.path / "meta" / "dependencies") == ["image:kept.json"]
    assert store.volumes() == json.loads(store.record("kept").read_text())


def test_lock_files_of_gone_volumes_are_removed_by_clean(store: Store, image: Image) -> None:
    store.create(image(Archive().file("f", "x")), "kept")
    store.create(image(Archive().file("g", "y")), "gone")
    store.delete("gone")
    (store.path / "locks" / f"{'a' * 64}.lock").touch()
    store.clean()
    locks = set(os.listdir(store.path / "locks")) - {"global-groot-lock.lock", "groot-gc-lock.lock"}
    assert locks == {f"{store.volumes()[0]}.lock"}
    store.create(image(Archive().file("g", "y")), "again")


@pytest.mark.parametrize("folder", ["tmp", "volumes", "locks", "meta", "meta/dependencies", "images"])
def test_foreign_files_do_not_stop_clean(store: Store, image: Image, folder: str) -> None:
    """Somebody put something there. What is ours to clean is cleaned, and other commands go on."""
    store.create(image(Archive().file("f", "x")), "gone")
    store.delete("gone")
    place = store.path / folder
    (place / "notes.txt").write_text("mine")
    (place / "folder").mkdir()
    (place / "folder" / "file").write_text("mine")
    (place / "dangling").symlink_to("/nowhere")
    ours = store.volumes()
    store.run("clean")
    assert not [name for name in store.volumes() if len(name) >= 64], ours
    assert store.list() == []
    kept = image(Archive().file("k", "x"))
    store.create(kept, "kept")
    assert store.list() == ["kept"] and store.stats("kept")[0] >= 1
    store.delete("kept")


@pytest.mark.parametrize("folder", ["tmp", "volumes", "images"])
def test_clean_succeeds_beside_foreign_files(store: Store, image: Image, folder: str) -> None:
    store.create(image(Archive().file("f", "x")), "gone")
    store.delete("gone")
    (store.path / folder / "notes.txt").write_text("mine")
    for _ in range(2):
        result = store.run("clean")
        assert (result.code, result.out) == (0, "clean completed\n"), result
    assert [name for name in store.volumes() if len(name) >= 64] == []


def test_name_that_is_too_long_to_be_doomed(store: Store, image: Image) -> None:
    store.create(image(Archive().file("f", "x")), "gone")
    store.delete("gone")
    (store.path / "volumes" / ("n" * 255)).mkdir()
    store.run("clean")
    assert [name for name in store.volumes() if len(name) == 64] == []


DAMAGE = [b"", b"{", b"null", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'["' + b"../" * 20 + b'etc"]', b"[]", bytes(2 << 20)]


@pytest.mark.parametrize("content", DAMAGE)
@pytest.mark.parametrize("which", ["dependencies", "size", "source"])
def test_damaged_records_break_nothing(store: Store, image: Image, content: bytes, which: str) -> None:
    url = image(Archive().file("base", "b"), Archive().file("f", "x" * 5000))
    before = photograph(store.create(url, "one"))
    store.create(image(Archive().file("other", "y")), "two")
    files = {
        "dependencies": [store.record("one")],
        "size": sorted((store.path / "meta").glob("volume-*")),
        "source": sorted((store.path / "meta" / "sources").iterdir()),
    }[which]
    assert files
    for file in files:
        file.write_bytes(content)
    assert store.list() == ["one", "two"]
    assert store.stats("one")[0] >= 5000
    assert store.run("clean", "--threshold-bytes", str(1 << 40)).ok().out == "threshold not reached: skipping clean\n"
    store.clean()
    store.clean("--ignore-image", url)
    assert_same(photograph(store.rootfs("one")), before)
    assert_same(photograph(store.create(url, "three", "--disk-limit-size-bytes", str(100 * MIB))), before)
    for image_id in ("one", "two", "three"):
        store.delete(image_id)
    store.clean()
    assert store.volumes() == [] and os.listdir(store.path / "meta" / "dependencies") == []


@pytest.mark.parametrize("content", [b"", b"\0" * 68, b'{"a": 1}'])
def test_clean_keeps_what_an_image_with_a_damaged_record_is_made_of(store: Store, image: Image, content: bytes) -> None:
    """Its configuration says the same as the record did."""
    url = image(Archive().file("base", "b"), Archive().file("f", "x" * 5000))
    store.create(url, "one")
    volumes = store.volumes()
    store.record("one").write_bytes(content)
    store.clean()
    assert store.volumes() == volumes


# -- init-store ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"precious data\n" * 1000, bytes(MIB)])
def test_existing_file_is_never_formatted(scratch: Path, content: bytes) -> None:
    store = Store(scratch / "store")
    store.backing.write_bytes(content)
    before = store.backing.stat()
    result = store.init().failed()
    assert f"{store.backing} exists and holds no BTRFS file system; it was not touched" == result.message
    after = store.backing.stat()
    assert store.backing.read_bytes() == content
    assert (after.st_mtime_ns, after.st_ino, after.st_mode) == (before.st_mtime_ns, before.st_ino, before.st_mode)
    assert mounts.mounts_below(scratch) == [] and not store.path.exists()


def test_other_file_system_is_never_formatted(scratch: Path) -> None:
    """Another file system in the file: what is mounted as BTRFS has to be BTRFS."""
    store = Store(scratch / "store")
    with store.backing.open("wb") as file:
        os.truncate(file.fileno(), 64 * MIB)
    mounts.tool("mkfs.ext4", "-q", "-F", store.backing)
    before = hashlib.sha256(store.backing.read_bytes()).digest()
    store.init().failed()
    assert hashlib.sha256(store.backing.read_bytes()).digest() == before and not store.path.exists()


def test_store_comes_back_after_an_unmount(store: Store, image: Image) -> None:
    url = image(FAT)
    before = photograph(store.create(url, "one", "--disk-limit-size-bytes", str(20 * MIB)))
    mounts.tool("umount", store.path)
    store.run("list").failed()
    store.init(size=10 * MIB).ok()  # the size counts only when there is no file
    assert store.list() == ["one"]
    assert_same(photograph(store.rootfs("one")), before)
    assert "exceeded" in write(store.rootfs("one") / "more", 40 * MIB)


def loop_device(path: Path) -> tuple[str, str]:
    """Whether the loop device of a store goes past the page cache (losetup's ``DIO``), and its scheduler."""
    device = mounts.device_of(path)
    direct = mounts.tool("losetup", "--noheadings", "--output", "DIO", device).strip()
    schedulers = Path(f"/sys/block/{Path(device).name}/queue/scheduler").read_text()
    return direct, schedulers.partition("[")[2].partition("]")[0]


def test_the_loop_device_joins_requests_and_goes_past_the_page_cache(store: Store) -> None:
    assert loop_device(store.path) == ("1", "mq-deadline")
    device = mounts.device_of(store.path)
    mounts.tool("losetup", "--direct-io=off", device)
    assert loop_device(store.path) == ("0", "mq-deadline")
    store.init(size=None).ok()
    assert loop_device(store.path) == ("1", "mq-deadline"), "also a store that was mounted before, or by an older release"


def test_a_host_without_direct_io(scratch: Path, image: Image) -> None:
    """A loop device asks for it in units no smaller than the sectors of what is below."""
    mounts.tool("truncate", "-s", str(2 << 30), scratch / "disk")
    device = mounts.tool("losetup", "--find", "--show", "--sector-size", "4096", scratch / "disk").strip()
    mounts.tool("mkfs.ext4", "-q", device)
    (scratch / "host").mkdir()
    mounts.tool("mount", device, scratch / "host")
    try:
        store = Store(scratch / "host" / "store")
        store.init(size=512 * MIB).ok()
        assert loop_device(store.path)[0] == "0"
        store.create(image(FAT), "one")
        store.run("delete-store").ok()
    finally:
        mounts.release(scratch)


def test_failed_init_leaves_nothing(scratch: Path) -> None:
    store = Store(scratch / "store")
    for size in (1, 4096, MIB):
        store.init(size=size).failed()
        assert os.listdir(scratch) == [] and mounts.loops_below(scratch) == []


def test_init_twice_and_repair(store: Store, image: Image) -> None:
    store.create(image(FAT), "one")
    store.init().ok()
    (store.path / "tmp").rmdir()
    assert "not initialized" in store.run("create", image(FAT), "two").failed().message
    store.init().ok()
    store.create(image(FAT), "two")
    assert store.list() == ["one", "two"]


# -- limits -------------------------------------------------------------------------------


def foreign_full_store(scratch: Path) -> Store:
    """A BTRFS that an operator made, with full accounting."""
    store = Store(scratch / "own")
    mounts.make_btrfs(scratch / "own.img", store.path, 1024 * MIB)
    mounts.tool("btrfs", "quota", "enable", store.path)
    store.init(size=None).ok()
    return store


@pytest.fixture(params=["simple", "full", "full by hand"])
def counting(request: pytest.FixtureRequest, make_store: MakeStore, scratch: Path) -> Store:
    """A store for each way of accounting."""
    return foreign_full_store(scratch) if request.param == "full by hand" else make_store("--quota", request.param)


def test_inclusive_limit_counts_the_image(counting: Store, image: Image) -> None:
    rootfs = counting.create(image(FAT), "c", "--disk-limit-size-bytes", str(10 * MIB))
    assert write(rootfs / "first", 3 * MIB) == ""
    assert "exceeded" in write(rootfs / "second", 4 * MIB)
    total, own = counting.stats("c")
    assert 8 * MIB <= total <= 10 * MIB and 3 * MIB <= own <= 5 * MIB + 64 * 1024


def test_exclusive_limit_does_not(counting: Store, image: Image) -> None:
    rootfs = counting.create(image(FAT), "c", "--disk-limit-size-bytes", str(10 * MIB), "--exclude-image-from-quota")
    assert write(rootfs / "first", 8 * MIB) == ""
    assert "exceeded" in write(rootfs / "second", 4 * MIB)
    total, own = counting.stats("c")
    assert 8 * MIB <= own <= 10 * MIB and total >= own + 5 * MIB - 256 * 1024


def test_limits_of_two_images_are_apart(counting: Store, image: Image) -> None:
    url = image(FAT)
    small = counting.create(url, "small", "--disk-limit-size-bytes", str(8 * MIB))
    large = counting.create(url, "large", "--disk-limit-size-bytes", str(40 * MIB))
    free = counting.create(url, "free")
    assert write(large / "f", 20 * MIB) == "" and write(free / "f", 50 * MIB) == ""
    assert "exceeded" in write(small / "f", 20 * MIB)
    assert (free / "data/fat").read_bytes() == NOISE


def test_stats_of_an_untouched_image(counting: Store, image: Image) -> None:
    counting.create(image(FAT), "c")
    total, own = counting.stats("c")
    assert 5 * MIB <= total <= 5 * MIB + 256 * 1024 and 0 <= own <= 64 * 1024


def test_nested_subvolume_cannot_exceed_the_limit(store: Store, image: Image) -> None:
    """A container with the right to make subvolumes must not get a second limit with each."""
    for flags in ((), ("--exclude-image-from-quota",)):
        rootfs = store.create(image(FAT), "c", "--disk-limit-size-bytes", str(12 * MIB), *flags)
        mounts.tool("btrfs", "subvolume", "create", rootfs / "nested")
        mounts.tool("btrfs", "subvolume", "create", rootfs / "nested" / "deeper")
        mounts.tool("btrfs", "subvolume", "snapshot", rootfs / "nested", rootfs / "copy")
        assert "exceeded" in write(rootfs / "nested" / "big", 30 * MIB)
        (rootfs / "nested" / "big").unlink()
        mounts.tool("btrfs", "filesystem", "sync", store.path)
        assert write(rootfs / "nested" / "deeper" / "half", 3 * MIB) == ""
        assert "exceeded" in write(rootfs / "copy" / "rest", 12 * MIB)
        before = store.groups()
        assert any(group.startswith("1/") for group in before)
        store.delete("c")
        assert not store.image("c").exists()
        store.clean()
        assert store.groups() == set() and store.subvolumes() == []


def test_groups_go_with_their_images(counting: Store, image: Image) -> None:
    url = image(FAT)
    for i in range(3):
        counting.create(url, f"c{i}", "--disk-limit-size-bytes", str(20 * MIB))
    for i in range(3):
        counting.delete(f"c{i}")
    counting.clean()
    assert counting.groups() == set()
    assert counting.subvolumes() == []


def test_limit_between_compressed_and_real_size(store: Store, image: Image) -> None:
    url = image(Archive().file("zeros", bytes(8 * MIB)))
    result = store.refuse(url, "c", "--disk-limit-size-bytes", str(MIB))
    assert result.message == (
        "making image: creating image: applying disk limits: disk limit is smaller than volume size: "
        f"the image has {8 * MIB} bytes, the limit is {MIB} bytes"
    )
    assert f"hint: raise --disk-limit-size-bytes above {8 * MIB}, or use --exclude-image-from-quota" in result.out
    store.create(url, "c", "--disk-limit-size-bytes", str(MIB), "--exclude-image-from-quota")


def test_limit_below_the_compressed_size(store: Store, image: Image) -> None:
    result = store.refuse(image(FAT), "c", "--disk-limit-size-bytes", str(MIB))
    assert "pulling the image: layers exceed disk quota " in result.message and f"/{MIB} bytes" in result.message
    assert store.volumes() == []


def test_limit_where_nobody_counts(scratch: Path, image: Image) -> None:
    store = Store(scratch / "own")
    mounts.make_btrfs(scratch / "own.img", store.path, 512 * MIB)
    store.init(size=None).ok()
    result = store.refuse(image(FAT), "c", "--disk-limit-size-bytes", str(20 * MIB))
    assert "unable to limit requested quota group: quota not enabled" in result.message and "btrfs quota enable" in result.out
    store.create(image(FAT), "c")
    assert "quotas not enabled" in store.run("stats", "c").failed().message


# -- configuration ---------------------------------------------------------------------------


def with_config(scratch: Path, text: str) -> Grootfs:
    path = scratch / f"{new_id()}.yml"
    path.write_text(text)
    return Grootfs("--config", str(path))


SPELLINGS = {
    "flat keys of 2017": (
        "store_path: {store}\ndriver: btrfs\ndisk_limit_size_bytes: {limit}\nexclude_base_image_from_quota: {exclusive}\n"
    ),
    "nested keys of 2018": (
        "store: {store}\ndriver: btrfs\ncreate:\n  disk_limit_size_bytes: {limit}\n  exclude_image_from_quota: {exclusive}\n"
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("exclusive", [True, False])
def test_limit_from_the_configuration(store: Store, image: Image, scratch: Path, spelling: str, *, exclusive: bool) -> None:
    limit = 10 * MIB
    text = SPELLINGS[spelling].format(store=store.path, limit=limit, exclusive=str(exclusive).lower())
    with_config(scratch, text).run("create", image(FAT), "c").ok()
    assert (write(store.rootfs("c") / "f", 8 * MIB) == "") == exclusive
    assert "exceeded" in write(store.rootfs("c") / "g", 8 * MIB)


@pytest.mark.parametrize(
    "text",
    [
        "store_path: {store}\nclean_on_create: true\nclean_threshold_bytes: 1\nignore_base_images: ['{kept}']\n",
        "store: {store}\ncreate:\n  with_clean: true\nclean:\n  threshold_bytes: 1\n  ignore_images: ['{kept}']\n",
        "store: {store}\ncreate:\n  with_clean: yes\nclean:\n  cache_bytes: 1\n  ignore_images:\n  - '{kept}'\n",
    ],
)
def test_clean_from_the_configuration(store: Store, image: Image, scratch: Path, text: str) -> None:
    kept, gone, new = (Archive().file(name, "x" * 100) for name in ("kept", "gone", "new"))
    kept_url = image(kept)
    for url in (kept_url, image(gone)):
        store.create(url, "c")
        store.delete("c")
    configured = with_config(scratch, text.format(store=store.path, kept=kept_url))
    configured.run("create", "--without-clean", image(new), "n").ok()
    assert len(store.volumes()) == 3
    configured.run("create", image(new), "m").ok()
    assert store.volumes() == sorted(chain_ids([Layer(kept.tar)]) + chain_ids([Layer(new.tar)]))


def test_options_win_over_the_configuration(store: Store, image: Image, scratch: Path) -> None:
    text = f"store: /nowhere\ncreate:\n  disk_limit_size_bytes: {10 * MIB}\n  json: true\n"
    path = scratch / "c.yml"
    path.write_text(text)
    created = Grootfs("--config", str(path), "--store", str(store.path)).run("create", "--disk-limit-size-bytes", "0", image(FAT), "c").ok()
    assert json.loads(created.out)["root"]["path"] == str(store.rootfs("c"))
    assert write(store.rootfs("c") / "f", 20 * MIB) == ""


# -- mappings -----------------------------------------------------------------------------------


def options(*maps: str, kind: str = "both") -> list[str]:
    kinds = ["uid", "gid"] if kind == "both" else [kind]
    return [argument for text in maps for one in kinds for argument in (f"--{one}-mapping", text)]


def test_mappings_on_create(make_store: MakeStore, image: Image) -> None:
    store = make_store(*options("0:10000:1", "1:20000:1000"))
    url = image(Archive().file("f", "x", uid=5))
    for maps in (["0:10000:1", "1:20000:1000"], ["1:20000:1000", "0:10000:1"]):
        assert (store.create(url, "", *options(*maps)) / "f").stat().st_uid == 20004
    assert (store.create(url) / "f").stat().st_uid == 20004
    for maps in (["0:10000:1"], ["0:10000:1", "1:20000:999"], ["0:10001:1", "1:20000:1000"]):
        assert store.refuse(url, "", *options(*maps)).message == "store already initialized with a different mapping"
    for kind in ("uid", "gid"):
        assert "different mapping" in store.refuse(url, "", *options("0:10000:1", "1:20000:1000", kind=kind)).message


def test_mappings_on_create_of_an_unmapped_store(store: Store, image: Image) -> None:
    assert "different mapping" in store.refuse(image(FAT), "", *options("0:10000:1")).message


def test_init_store_with_other_mappings(make_store: MakeStore, image: Image) -> None:
    store = make_store(*options("0:10000:1", "1:20000:1000"))
    store.init(*options("1:20000:1000", "0:10000:1")).ok()
    before = photograph(store.path / "meta")
    assert "UID mappings do not match" in store.init(*options("0:10000:1")).failed().message
    assert "UID mappings do not match" in store.init().failed().message
    assert_same(photograph(store.path / "meta"), before)


# -- base directories ------------------------------------------------------------------------------


def based(directory: str, archive: Archive) -> Layer:
    return Layer(archive.tar, annotations={BASE_DIRECTORY: directory})


@pytest.mark.parametrize("directory", ["/home/app", "home/app", "/home/app/", "/home/./x/../app", "/app"])
def test_base_directory(store: Store, image: Image, directory: str) -> None:
    lower = (
        Archive()
        .dir("home/app", mode=0o700, mtime=5)
        .file("home/app/old", "o")
        .file("home/app/gone", "g")
        .symlink("app", "home/app")
        .dir("home/x")
    )
    upper = (
        Archive()
        .dir(".", mode=0o750, uid=7, mtime=9)
        .file("f", "x")
        .whiteout("gone")
        .file("/abs", "y")
        .file("../../up", "z")
        .link("h", "f")
    )
    rootfs = store.create(image(lower, based(directory, upper)))
    assert names(rootfs) == sorted(["app", "home", "home/x", "home/app", *(f"home/app/{name}" for name in ("abs", "f", "h", "old", "up"))])
    node = photograph(rootfs)["home/app"]
    assert (node.mode, node.owner, node.mtime) == (0o750, (7, 0), 9 * 10**9)


@pytest.mark.parametrize("directory", ["/missing", "/file", "/home/missing/deep"])
def test_base_directory_that_is_not_there(store: Store, image: Image, directory: str) -> None:
    lower = Archive().file("file", "x").dir("home")
    result = store.refuse(image(lower, based(directory, Archive().file("f", "x"))))
    assert "base directory not found in parent layer" in result.message
    assert store.volumes() == chain_ids([Layer(lower.tar)])


def test_base_directory_through_links_to_the_outside(store: Store, image: Image, scratch: Path) -> None:
    outside = scratch / "outside"
    outside.mkdir()
    lower = Archive().symlink("door", str(outside)).dir(str(outside))
    rootfs = store.create(image(lower, based("/door", Archive().file("f", "x").opaque())))
    assert os.listdir(outside) == [] and (rootfs / str(outside)[1:] / "f").read_text() == "x"


def test_layers_above_a_based_layer_start_at_the_root(store: Store, image: Image) -> None:
    rootfs = store.create(image(Archive().dir("app"), based("/app", Archive().file("f", "1")), Archive().file("f", "2")))
    assert names(rootfs) == ["app", "app/f", "f"]


def test_results_are_printed_once(store: Store, image: Image) -> None:
    """Nothing but the result is on stdout, nothing at all on stderr."""
    result: Result = store.run("create", image(FAT), "c").ok()
    assert (result.out, result.err) == (f"{store.image('c')}\n", "")
