"""An ordinary user on a store of its own, and the same things done by root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.accounts import COUNT, FIRST, User
from support.archive import Archive
from support.command import COMMAND, MIB, REPOSITORY, Grootfs, Store, new_id, wait_for
from support.tree import assert_same, photograph


@pytest.fixture
def own_store(make_store: Callable[..., Store], user: User) -> Store:
    """The user's store, driven by the user."""
    store = make_store("--rootless", f"{user.name}:{user.name}")
    return Store(store.path, uid=user.uid)


@pytest.fixture(params=["root", "user"])
def either_store(request: pytest.FixtureRequest, own_store: Store) -> Store:
    """The user's store, driven by root and by the user."""
    return Store(own_store.path) if request.param == "root" else own_store


def mixed() -> Archive:
    """Entries of several ids, some in directories that their owner may not write."""
    return (
        Archive()
        .dir("ro", mode=0o555)
        .file("ro/f", "r", mode=0o444)
        .dir("closed", mode=0o700, uid=33, gid=44)
        .file("closed/f", "c", uid=33, gid=44)
        .file("su", "s", mode=0o4755, uid=1, gid=1)
        .symlink("link", "su", uid=5, gid=6)
        .link("hard", "su")
    )


def test_life_of_an_image(either_store: Store, image: Callable[..., str], user: User) -> None:
    url = image(mixed(), Archive().whiteout("closed").file("ro/g", "g").file("last", "l", uid=COUNT, gid=COUNT))
    rootfs = either_store.create(url, "one")
    owners = {name: (os.lstat(rootfs / name).st_uid, os.lstat(rootfs / name).st_gid) for name in (".", "ro/g", "su", "link", "last")}
    assert owners == {
        ".": (user.uid, user.gid),
        "ro/g": (user.uid, user.gid),
        "su": (FIRST, FIRST),
        "link": (FIRST + 4, FIRST + 5),
        "last": (FIRST + COUNT - 1, FIRST + COUNT - 1),
    }
    assert not (rootfs / "closed").exists()
    total, exclusive = either_store.stats("one")
    assert total >= exclusive > 0
    assert either_store.list() == ["one"]
    either_store.delete("one")
    either_store.clean()
    assert either_store.list() == [] and os.listdir(either_store.path / "volumes") == []


def test_both_make_the_same_tree(make_store: Callable[..., Store], image: Callable[..., str], user: User) -> None:
    url = image(mixed(), Archive().file("more", uid=12, gid=13).opaque("closed").dir("closed", mode=0o750, uid=2, gid=3))
    trees = []
    for uid in (None, user.uid):
        store = Store(make_store("--rootless", f"{user.name}:{user.name}").path, uid=uid)
        trees.append(photograph(store.create(url)))
    assert_same(*trees)


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_ids_outside_the_mapping_are_refused(either_store: Store, image: Callable[..., str], kind: str) -> None:
    owner = {"uid": 0, "gid": 0, kind: 900_000}
    message = either_store.refuse(image(Archive().file("stranger", **owner))).message
    assert "`stranger`" in message and f"{kind} 900000" in message
    assert os.listdir(either_store.path / "volumes") == []


def test_a_root_directory_of_another_id(either_store: Store, image: Callable[..., str]) -> None:
    """Snapshots and deletes of it need the namespace, because its owner is not the user."""
    url = image(Archive().dir("./", mode=0o755, uid=33, gid=33).file("f", "x"), Archive().file("g"))
    rootfs = either_store.create(url, "one")
    assert os.stat(rootfs).st_uid == FIRST + 32
    assert either_store.create(url, "two").exists()
    for name in ("one", "two"):
        either_store.delete(name)
    either_store.clean()
    assert either_store.subvolumes() == []


def test_volumes_that_a_container_filled(either_store: Store, image: Callable[..., str]) -> None:
    url = image(Archive().file("f"), runtime={"Volumes": {"/data": {}}})
    spec = json.loads(either_store.run("create", "--json", url, "one").ok().out)
    source = Path(spec["mounts"][0]["source"])
    (source / "deep").mkdir(mode=0o700)
    (source / "deep" / "file").write_text("x")
    for path in (source / "deep" / "file", source / "deep"):
        os.chown(path, FIRST + 7, FIRST + 7)
    either_store.delete("one")
    assert not either_store.image("one").exists()


def test_nested_subvolumes(either_store: Store, image: Callable[..., str], user: User) -> None:
    rootfs = either_store.create(image(Archive().dir("d").file("d/f")), "one")
    for path in (rootfs / "inner", rootfs / "inner" / "innermost"):
        subprocess.run(["btrfs", "subvolume", "create", path], check=True, stdout=subprocess.DEVNULL)
        os.chown(path, user.uid, user.gid)
    subprocess.run(["btrfs", "property", "set", "-ts", rootfs / "inner" / "innermost", "ro", "true"], check=True)
    either_store.delete("one")
    assert [path for path in either_store.subvolumes() if path.startswith("images/")] == []


def test_limits_without_privilege(own_store: Store, image: Callable[..., str]) -> None:
    rootfs = own_store.create(image(Archive().file("f", os.urandom(MIB))), "one", "--disk-limit-size-bytes", str(8 * MIB))

    def write(megabytes: int) -> subprocess.CompletedProcess[bytes]:
        argv = ["dd", "if=/dev/zero", f"of={rootfs}/x", "bs=1M", f"count={megabytes}", "conv=fsync"]
        return subprocess.run(argv, user=own_store.uid, capture_output=True, check=False)

    assert write(5).returncode == 0
    refused = write(10)
    assert refused.returncode != 0 and b"Disk quota exceeded" in refused.stderr


def test_runc_runs_the_image_without_root(own_store: Store, image: Callable[..., str], scratch: Path, user: User) -> None:
    busybox = shutil.which("busybox") or pytest.fail("busybox is not installed")
    runc = shutil.which("runc") or pytest.fail("runc is not installed")
    layer = Archive()
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
        layer.dir(name, mode=0o755)
    layer.file("bin/busybox", Path(busybox).read_bytes(), mode=0o755).symlink("bin/sh", "busybox").symlink("bin/id", "busybox")
    rootfs = own_store.create(image(layer), "one", "--disk-limit-size-bytes", str(64 * MIB))
    bundle, state = scratch / "bundle", scratch / "state"
    for path in (bundle, state):
        path.mkdir()
        os.chown(path, user.uid, user.gid)
    who = {"user": user.uid, "group": user.gid, "extra_groups": [], "env": {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(state)}}
    subprocess.run([runc, "spec", "--rootless"], cwd=bundle, check=True, **who)
    spec = json.loads((bundle / "config.json").read_text())
    spec["root"] = {"path": str(rootfs), "readonly": False}
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["/bin/sh", "-c", "id -u; echo hello > /written"]
    (bundle / "config.json").write_text(json.dumps(spec))
    argv = [runc, "--root", str(state), "run", "--bundle", str(bundle), new_id()]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, **who)
    assert (done.returncode, done.stdout) == (0, b"0\n"), done
    assert (rootfs / "written").read_text() == "hello\n"
    assert os.stat(rootfs / "written").st_uid == user.uid


def test_the_child_ends_with_its_parent(own_store: Store, scratch: Path, image: Callable[..., str]) -> None:
    layer = Archive()
    for i in range(5000):
        layer.file(f"f{i}", "x" * 50)
    process = own_store.start("create", image(layer), "one")

    def children() -> list[str]:
        return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    wait_for(children, "the child in the namespace")
    child = children()[0]
    process.kill()
    process.communicate()
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the child", 10)
    own_store.clean()
    assert own_store.list() == [] and os.listdir(own_store.path / "volumes") == []


def test_a_warm_create_starts_no_child(own_store: Store, image: Callable[..., str]) -> None:
    url = image(mixed())
    own_store.create(url, "one")
    nowhere = Store(own_store.path, "--newuidmap-bin", "/no/such/newuidmap", uid=own_store.uid)
    nowhere.create(url, "two")
    nowhere.delete("one")
    nowhere.delete("two")
    nowhere.clean()
    assert nowhere.subvolumes() == []


def test_missing_and_refusing_helpers(own_store: Store, image: Callable[..., str], scratch: Path) -> None:
    url = image(mixed())

    def with_helper(path: str) -> Store:
        return Store(own_store.path, "--newuidmap-bin", path, uid=own_store.uid)

    assert "/no/such/newuidmap was not found in the $PATH" in with_helper("/no/such/newuidmap").refuse(url).message
    powerless = scratch / "newuidmap"
    shutil.copy(shutil.which("newuidmap") or pytest.fail("uidmap is not installed"), powerless)
    powerless.chmod(0o755)
    refused = with_helper(str(powerless)).refuse(url)
    assert "setting uid mapping: newuidmap exit status 1" in refused.message
    assert "setuid root" in refused.out


def test_mappings_that_are_not_allowed(make_store: Callable[..., Store], image: Callable[..., str], user: User) -> None:
    ranges = [f"0:{user.uid}:1", f"1:{FIRST + COUNT}:10"]
    flags = [flag for one in ranges for flag in ("--uid-mapping", one)] + ["--gid-mapping", f"0:{user.gid}:1"]
    store = Store(make_store(*flags).path, uid=user.uid)
    refused = store.refuse(image(mixed()))
    assert "setting uid mapping: newuidmap exit status 1" in refused.message and "/etc/subuid" in refused.out


@pytest.mark.parametrize(
    ("mappings", "message"),
    [
        (["0:1000:1", "0:2000:1"], "uid mappings 0:1000:1 and 0:2000:1 overlap"),
        (["0:1000:10", "20:1005:10"], "uid mappings 0:1000:10 and 20:1005:10 overlap"),
        (["0:1000:0"], "parsing uid-mapping: ids out of range: 0:1000:0"),
        (["0:4294967295:1"], "parsing uid-mapping: ids out of range: 0:4294967295:1"),
        (["zero:1:1"], "parsing uid-mapping: expected integer"),
        (["0:1"], "parsing uid-mapping: unexpected EOF"),
    ],
)
def test_bad_mappings(scratch: Path, mappings: list[str], message: str) -> None:
    store = Store(scratch / "store")
    flags = [flag for mapping in mappings for flag in ("--uid-mapping", mapping)]
    assert store.init(*flags).failed().message == message
    assert not store.path.exists() and not Path(f"{store.path}.backing-store").exists()


def test_a_missing_store_says_what_root_has_to_do(scratch: Path, image: Callable[..., str], user: User) -> None:
    store = Store(scratch / "new", uid=user.uid)
    source = image(Archive().file("f"))
    scratch.chmod(0o755)
    failed = store.run("create", source, "one").failed()
    command = failed.out.split("`")[1].split()
    assert command[0] == "grootfs" and command[-2:] == ["--rootless", f"{user.name}:{user.name}"]
    try:
        # smaller than it says: the machine of a test has less
        Grootfs().run(*[word.replace("20GiB", "1GiB") for word in command[1:]]).ok()
        store.create(source, "one")
    finally:
        Grootfs("--store", str(store.path)).run("delete-store")


def test_the_command_runs_for_everybody() -> None:
    """What `make build` leaves can be used by any user of the machine."""
    done = subprocess.run([COMMAND, "--version"], user=65534, capture_output=True, text=True, check=True, cwd="/", env={})
    assert done.stdout.startswith("grootfs version ") and done.stderr == ""


class TestDrax:
    """What the kernel reserves to root, through the helper."""

    @pytest.fixture
    def drax(self, scratch: Path) -> Path:
        """A setuid copy of the built helper."""
        path = scratch / "drax"
        shutil.copy(REPOSITORY / "build" / "bin" / "drax", path)
        path.chmod(0o4755)
        return path

    @staticmethod
    def write(store: Store, target: Path, megabytes: int) -> bytes:
        """Write as the user; gives what dd complained of."""
        argv = ["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={megabytes}", "conv=fsync", "status=none"]
        return subprocess.run(argv, user=store.uid, capture_output=True, check=False).stderr

    @pytest.mark.parametrize("exclusive", [False, True])
    def test_full_accounting(
        self, make_store: Callable[..., Store], image: Callable[..., str], user: User, drax: Path, exclusive: bool
    ) -> None:
        made = make_store("--rootless", f"{user.name}:{user.name}", "--quota", "full")
        store = Store(made.path, "--drax-bin", str(drax), uid=user.uid)
        flags = ["--disk-limit-size-bytes", str(8 * MIB), *(["--exclude-image-from-quota"] if exclusive else [])]
        rootfs = store.create(image(Archive().file("f", os.urandom(4 * MIB))), "one", *flags)
        assert self.write(store, rootfs / "a", 2) == b""
        assert b"Disk quota exceeded" in self.write(store, rootfs / "b", 8)
        os.unlink(rootfs / "b")
        subprocess.run(["btrfs", "filesystem", "sync", rootfs], check=True, stdout=subprocess.DEVNULL)
        assert (self.write(store, rootfs / "c", 3) == b"") is exclusive
        store.delete("one")

    def test_full_accounting_without_it(self, make_store: Callable[..., Store], image: Callable[..., str], user: User) -> None:
        made = make_store("--rootless", f"{user.name}:{user.name}", "--quota", "full")
        url = image(Archive().file("f", "x"))
        limit = ["--disk-limit-size-bytes", str(8 * MIB)]
        missing = Store(made.path, "--drax-bin", "/no/such/drax", uid=user.uid).refuse(url, "", *limit)
        assert "drax was not found in the $PATH" in missing.message
        powerless = Store(made.path, "--drax-bin", str(REPOSITORY / "build" / "bin" / "drax"), uid=user.uid).refuse(url, "", *limit)
        assert "missing the setuid bit on drax" in powerless.message

    def test_nested_subvolumes_are_charged(self, own_store: Store, image: Callable[..., str], user: User, drax: Path) -> None:
        store = Store(own_store.path, "--drax-bin", str(drax), uid=user.uid)
        rootfs = store.create(image(Archive().file("f", "x")), "one", "--disk-limit-size-bytes", str(8 * MIB))
        subprocess.run(["btrfs", "subvolume", "create", rootfs / "inner"], user=user.uid, check=True, stdout=subprocess.DEVNULL)
        assert b"Disk quota exceeded" in self.write(store, rootfs / "inner" / "big", 10)
        assert [group for group in store.groups() if group.startswith("1")] != []
        store.delete("one")
        assert [group for group in store.groups() if group.startswith("1")] == []


class TestIdmappedMount:
    """Layers are stored once with the image's ids; each image is mounted with its own."""

    MAPPINGS = (
        "--uid-mapping",
        "0:1000:1",
        "--uid-mapping",
        "1:100000:65535",
        "--gid-mapping",
        "0:2000:1",
        "--gid-mapping",
        "1:200000:65535",
    )

    def test_owners_are_translated_by_the_mount(self, store: Store, image: Callable[..., str]) -> None:
        url = image(mixed())
        rootfs = store.create(url, "mapped", "--idmapped-mount", *self.MAPPINGS)
        plain = store.create(url, "plain")
        seen = {name: (os.lstat(rootfs / name).st_uid, os.lstat(rootfs / name).st_gid) for name in ("ro/f", "closed", "link")}
        assert seen == {"ro/f": (1000, 2000), "closed": (100_032, 200_043), "link": (100_004, 200_005)}
        assert os.lstat(plain / "closed").st_uid == 33
        assert len(store.volumes()) == 1, "no second copy"
        os.chown(rootfs / "ro/f", 100_009, 200_009)
        assert os.lstat(store.image("mapped") / "snapshot" / "ro" / "f").st_uid == 10
        assert store.stats("mapped")[0] > 0
        store.delete("mapped")
        assert not store.image("mapped").exists() and str(store.image("mapped")) not in Path("/proc/self/mountinfo").read_text()
        store.delete("plain")

    def test_specification(self, store: Store, image: Callable[..., str]) -> None:
        result = store.run("create", "--json", "--idmapped-mount", *self.MAPPINGS, image(mixed()), "one").ok()
        assert json.loads(result.out)["root"]["path"] == str(store.rootfs("one")) and "mounts" not in json.loads(result.out)
        store.delete("one")

    def test_an_image_whose_mount_is_gone_can_be_deleted(self, store: Store, image: Callable[..., str]) -> None:
        rootfs = store.create(image(mixed()), "one", "--idmapped-mount", *self.MAPPINGS)
        subprocess.run(["umount", rootfs], check=True)
        store.delete("one")

    def test_where_it_is_not_possible(self, store: Store, own_store: Store, image: Callable[..., str]) -> None:
        url = image(mixed())
        assert "needs --uid-mapping" in store.refuse(url, "a", "--idmapped-mount").message
        assert "stores without mappings" in Store(own_store.path).refuse(url, "b", "--idmapped-mount", *self.MAPPINGS).message
        assert "needs root" in own_store.refuse(url, "c", "--idmapped-mount", *self.MAPPINGS).message
