"""Attacks on drax, the helper that sets limits for the owner of a store (rust/drax/THREAT-MODEL.md).

Each refusal is checked with `Machine.refuses`: the text, and that no quota group of the file system came, went or
changed its limits. Root, loop devices and `useradd` are needed; where they are missing the tests fail.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from groot_fast import _core
from support import mounts

REPO = Path(__file__).resolve().parents[2]
DRAX = Path(os.environ.get("DRAX_BIN", REPO / "build" / "bin" / "drax"))
PYTHON = os.path.realpath(sys.executable)
MIB = 1 << 20
LIMIT = 8 * MIB
UNLIMITED = (0, 0, 0)
NAMESPACE = '{"uid-mappings":["0:1000:1"],"gid-mappings":["0:1000:1"]}\n'

FOREIGN = "the volume belongs to another user"
OUTSIDE = "the volume is not in an image of the caller's own store, initialised by root"
NOT_A_SUBVOLUME = "the volume is not a BTRFS subvolume"
NOT_A_DIRECTORY = "opening the volume: Not a directory (os error 20)"
IN_A_NAMESPACE = "drax has to be called outside of user namespaces"
NO_SETUID = "missing the setuid bit on drax"
BAD_LIMIT = "--disk-limit-bytes has to be a number from 1 to 9223372036854775807"


def tool(*argv: str | Path) -> str:
    """Run a program of the system as root."""
    done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: {done.stdout}"
    return done.stdout


@dataclass
class User:
    """A temporary account."""

    name: str
    uid: int
    gid: int

    def run(self, *argv: str | Path, cwd: str | Path = "/", **options: object) -> subprocess.CompletedProcess[str]:
        """Run a program as this user."""
        return subprocess.run(list(map(str, argv)), cwd=cwd, text=True, **self.options(), **options)  # type: ignore[call-overload]

    def start(self, *argv: str | Path) -> subprocess.Popen[str]:
        """Start a program as this user."""
        return subprocess.Popen(list(map(str, argv)), cwd="/", text=True, **self.options())  # type: ignore[call-overload]

    def options(self) -> dict[str, object]:
        """Arguments for `subprocess`."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return {"user": self.uid, "group": self.gid, "extra_groups": [], **pipes}

    def owns(self, *paths: Path) -> None:
        """Give it files."""
        for path in paths:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


@dataclass
class Machine:
    """drax as installed, its user, a file system, and a store of that user on it."""

    drax: Path
    user: User
    mount: Path
    mode: str
    store: Path

    def call(self, *argv: str | Path, drax: Path | None = None, **options: object) -> tuple[int, str]:
        """Exit status and standard output of drax called by the user. Standard error has to be empty."""
        done = self.user.run(drax or self.drax, *argv, **options)
        assert done.stderr == ""
        return done.returncode, done.stdout

    def limits(self, volume: str | Path, limit: int = LIMIT, *flags: str, **options: object) -> None:
        """Have a limit set."""
        assert self.call("limit", "--volume-path", volume, "--disk-limit-bytes", str(limit), *flags, **options) == (0, "")

    def refuses(self, volume: str | Path, text: str, limit: int | str = LIMIT, **options: object) -> None:
        """Neither `limit` nor `destroy` changes anything, and `limit` says why."""
        before = self.groups()
        assert self.call("limit", "--volume-path", volume, "--disk-limit-bytes", str(limit), **options) == (1, text + "\n")
        self.call("destroy", "--volume-path", volume, **options)
        assert self.groups() == before

    def groups(self) -> dict[str, tuple[int, int, int]]:
        """Every quota group of the file system, with flags, max_referenced and max_exclusive."""
        folder = Path("/sys/fs/btrfs") / _core.uuid(self.mount) / "qgroups"
        names = ("limit_flags", "max_referenced", "max_exclusive")
        found = {}
        for group in folder.glob("[0-9]*_*"):
            try:
                flags, referenced, exclusive = (int((group / name).read_text(), 0) for name in names)
            except FileNotFoundError:
                continue  # of a deleted subvolume: the kernel has just finished it
            # Beside the limits that are on, the flags hold the mark by which drax knows its groups.
            found[group.name] = (flags & 3, referenced if flags & 1 else 0, exclusive if flags & 2 else 0)
        assert found
        return found

    def group(self, volume: Path, level: int = 0) -> tuple[int, int, int] | None:
        """Limits of a volume's group; None where there is no such group."""
        return self.groups().get(f"{level}_{number(volume)}")

    def make_image(self, name: str = "one", volume: str = "rootfs", owner: int | None = None) -> Path:
        """An image of the user's store, as the driver makes it."""
        image = self.store / "images" / name
        image.mkdir(exist_ok=True)
        self.user.owns(image)
        return self.make_subvolume(image / volume, owner)

    def make_subvolume(self, path: Path, owner: int | None = None) -> Path:
        """A subvolume, by default of the user's."""
        mounts.tool("btrfs", "subvolume", "create", path)
        os.chown(path, self.user.uid if owner is None else owner, -1)
        path.chmod(0o755)
        return path

    def write(self, path: Path, size: int) -> int:
        """Let the user write so many bytes; gives how many came to the disk."""
        done = self.user.run("dd", "if=/dev/zero", f"of={path}", "bs=64k", f"count={size >> 16}", "conv=fsync", env={"LC_ALL": "C"})
        assert done.returncode == 0 or "Disk quota exceeded" in done.stderr, done.stderr
        mounts.tool("btrfs", "filesystem", "sync", self.mount)
        return path.stat().st_blocks * 512 if path.exists() else 0


def existing(mount: Path) -> set[int]:
    """Ids of all subvolumes, also of those that are deleted and not yet gone."""
    listed = mounts.tool("btrfs", "subvolume", "list", mount) + mounts.tool("btrfs", "subvolume", "list", "-d", mount)
    return {int(line.split()[1]) for line in listed.splitlines()}


def number(volume: Path) -> int:
    """Id of a subvolume."""
    return int(mounts.tool("btrfs", "inspect-internal", "rootid", volume))


def write_namespace(store: Path, text: str = NAMESPACE) -> Path:
    """What `init-store` leaves in a store."""
    file = store / "meta" / "namespace.json"
    file.write_text(text)
    file.chmod(0o755)
    return file


def make_store(path: Path, user: User) -> Path:
    """A store of the user's, initialised by root."""
    for folder in (path, path / "images", path / "volumes", path / "meta"):
        folder.mkdir()
        user.owns(folder)
    path.chmod(0o700)
    write_namespace(path)
    return path


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory of root's that everybody may walk. Nothing below it stays mounted."""
    assert os.geteuid() == 0, "root is required: these tests mount file systems and add an account"
    path = Path(tempfile.mkdtemp(prefix="drax-tests-")).resolve()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    """A temporary account."""
    name = f"drax{os.getpid()}"
    tool("useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", name)
    entry = pwd.getpwnam(name)
    yield User(name, entry.pw_uid, entry.pw_gid)
    tool("userdel", name)


@pytest.fixture(scope="module")
def plain(base: Path) -> Path:
    """A copy of drax without any privilege."""
    assert DRAX.is_file(), f"{DRAX} is missing: build it, or name it with DRAX_BIN"
    copy = base / "drax-plain"
    shutil.copyfile(DRAX, copy)
    copy.chmod(0o755)
    return copy


@pytest.fixture(scope="module")
def drax(base: Path, plain: Path) -> Path:
    """The setuid copy of drax."""
    copy = base / "drax"
    shutil.copyfile(plain, copy)
    copy.chmod(0o4755)
    assert not os.statvfs(copy).f_flag & os.ST_NOSUID, f"{copy} is on a file system without setuid"
    return copy


@pytest.fixture(scope="module")
def capable(base: Path, plain: Path) -> Path:
    """A copy with the file capability."""
    copy = base / "drax-capable"
    shutil.copyfile(plain, copy)
    copy.chmod(0o755)
    tool("setcap", "cap_sys_admin+ep", copy)
    return copy


@pytest.fixture(scope="module", params=["simple", "full"])
def filesystem(request: pytest.FixtureRequest, base: Path) -> Iterator[tuple[Path, str]]:
    """A BTRFS with quotas."""
    with mounted(base, request.param) as mount:
        _core.enable_quota(mount, request.param == "simple")
        assert _core.accounting(mount) == request.param
        yield mount, request.param


@contextmanager
def mounted(base: Path, name: str) -> Iterator[Path]:
    """A new BTRFS."""
    image, mount = base / f"{name}.btrfs", base / name
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    tool("mkfs.btrfs", "--quiet", image)
    mount.mkdir()
    tool("mount", "-t", "btrfs", "-o", "loop,user_subvol_rm_allowed", image, mount)
    try:
        yield mount
    finally:
        tool("umount", mount)
        image.unlink()


@pytest.fixture
def machine(drax: Path, user: User, filesystem: tuple[Path, str]) -> Iterator[Machine]:
    """All of it, with a fresh store."""
    mount, mode = filesystem
    store = make_store(Path(tempfile.mkdtemp(prefix="s", dir=mount)) / "store", user)
    store.parent.chmod(0o755)
    yield Machine(drax, user, mount, mode, store)


about_simple = pytest.mark.parametrize("filesystem", ["simple"], indirect=True)


# What it is for.


@pytest.mark.parametrize("install", ["drax", "capable"])
@pytest.mark.parametrize("name", ["rootfs", "snapshot", "rootfs.unlimited"])
def test_limits_an_image(machine: Machine, install: str, name: str, request: pytest.FixtureRequest) -> None:
    volume = machine.make_image(volume=name)
    others = machine.groups()
    machine.limits(volume, drax=request.getfixturevalue(install))
    assert machine.group(volume) == (1, LIMIT, 0)
    assert machine.group(volume, 1) == ((1, LIMIT, 0) if machine.mode == "simple" else None)
    own = {f"0_{number(volume)}", f"1_{number(volume)}"}
    assert {key: value for key, value in machine.groups().items() if key not in own} == {k: v for k, v in others.items() if k not in own}
    assert LIMIT - MIB < machine.write(volume / "data", 2 * LIMIT) <= LIMIT


def test_limits_what_is_exclusive(machine: Machine) -> None:
    volume = machine.make_image()
    machine.limits(volume, LIMIT, "--exclude-image-from-quota", "--btrfs-bin=/no/such")
    assert machine.group(volume) == (2, 0, LIMIT)
    assert machine.group(volume, 1) in ((2, 0, LIMIT), None)
    assert machine.write(volume / "data", 2 * LIMIT) <= LIMIT


def test_limits_again(machine: Machine) -> None:
    volume = machine.make_image()
    machine.limits(volume)
    machine.limits(volume, 2 * LIMIT)
    assert machine.group(volume) == (1, 2 * LIMIT, 0)
    assert machine.group(volume, 1) in ((1, 2 * LIMIT, 0), None)
    assert 2 * LIMIT - MIB < machine.write(volume / "data", 3 * LIMIT) <= 2 * LIMIT


def test_limits_that_root_keeps_to_itself(machine: Machine) -> None:
    """`init-store --limits-by root`: the owner may set a first limit, and the same once more, and change or lift none."""
    volume, other = machine.make_image(), machine.make_image("two")
    os.setxattr(machine.store, "trusted.grootfs.limits", b"root")
    try:
        for _ in range(2):
            machine.limits(volume)
        for limit in (LIMIT + 1, LIMIT - 1, 2**63 - 1):
            machine.refuses(volume, "limits that are set in this store may be changed by root only", limit)
        assert machine.group(volume) == (1, LIMIT, 0)
        machine.limits(other, 2 * LIMIT)
        code = f"import os; os.removexattr({str(machine.store)!r}, 'trusted.grootfs.limits')"
        assert "PermissionError" in machine.user.run(PYTHON, "-c", code).stderr
    finally:
        os.removexattr(machine.store, "trusted.grootfs.limits")
    machine.limits(volume, 3 * LIMIT)


def test_sets_a_limit_too_small_for_the_bookkeeping(machine: Machine) -> None:
    volume = machine.make_image()
    machine.limits(volume, 1)
    machine.limits(volume, 2)
    assert machine.group(volume) == (1, 2, 0)
    machine.limits(volume, LIMIT)
    assert machine.write(volume / "data", MIB) == MIB


@about_simple
def test_charges_nested_subvolumes(machine: Machine) -> None:
    volume = machine.make_image()
    machine.limits(volume)
    nested = volume / "nested"
    assert machine.user.run("btrfs", "subvolume", "create", nested).returncode == 0
    assert machine.write(volume / "data", LIMIT // 2) == LIMIT // 2
    assert machine.write(nested / "data", LIMIT) <= LIMIT // 2


def test_stats_need_no_privilege(machine: Machine, plain: Path) -> None:
    volume = machine.make_image()
    machine.limits(volume)
    machine.write(volume / "data", MIB)
    code, said = machine.call("stats", "--volume-path", volume, "--force-sync", drax=plain)
    assert code == 0
    assert re.fullmatch(r'\{"disk_usage":\{"total_bytes_used":\d+,"exclusive_bytes_used":\d+\}\}\n', said)
    usage = json.loads(said)["disk_usage"]
    assert usage["total_bytes_used"] >= usage["exclusive_bytes_used"]
    assert MIB <= usage["exclusive_bytes_used"] < MIB + 256 * 1024
    assert machine.call("stats", "--volume-path", volume) == (0, said)


def test_destroy_removes_the_enclosing_group(machine: Machine) -> None:
    volume = machine.make_image()
    machine.limits(volume)
    nested, gone = volume / "nested", volume / "gone"
    for path in (nested, nested / "deeper", gone):
        assert machine.user.run("btrfs", "subvolume", "create", path).returncode == 0
    machine.write(gone / "data", MIB)
    lost = number(gone)
    mounts.tool("btrfs", "subvolume", "delete", gone)
    for _ in range(2):
        assert machine.call("destroy", "--volume-path", volume) == (0, "")
        assert machine.group(volume, 1) is None
        assert machine.group(volume) == (1, LIMIT, 0)
        assert (nested / "deeper").is_dir()
    # A limit may follow: the group is made anew.
    machine.limits(volume)
    assert machine.call("destroy", "--volume-path", volume) == (0, "")
    deleted = [lost, number(volume)]
    for path in (nested / "deeper", nested, volume):
        mounts.tool("btrfs", "subvolume", "delete", path)
    # Groups that the kernel removes later would look like changes to other tests.
    while any(ident in existing(machine.mount) for ident in deleted):
        mounts.tool("btrfs", "filesystem", "sync", machine.mount)


@about_simple
def test_destroy_has_many_members(machine: Machine) -> None:
    volume = machine.make_image()
    machine.limits(volume)
    for index in range(300):  # one search of the kernel gives 124
        mounts.tool("btrfs", "subvolume", "create", volume / f"nested{index}")
    assert machine.call("destroy", "--volume-path", volume) == (0, "")
    assert machine.group(volume, 1) is None


def test_follows_links_above_the_volume(machine: Machine, base: Path) -> None:
    volume = machine.make_image()
    link = base / f"link-{machine.mode}"
    link.symlink_to(machine.store)
    machine.limits(link / "images" / "one" / "rootfs")
    assert machine.group(volume) == (1, LIMIT, 0)
    machine.limits("rootfs/", 2 * LIMIT, cwd=volume.parent)
    assert machine.group(volume) == (1, 2 * LIMIT, 0)


def test_root_needs_no_bit_and_no_store(machine: Machine, plain: Path) -> None:
    volume = machine.make_subvolume(machine.store.parent / "somewhere", owner=4242)
    for arguments in (["limit", "--disk-limit-bytes", str(LIMIT)], ["destroy"]):
        assert tool(plain, *arguments, "--volume-path", volume) == ""
    assert machine.group(volume) == (1, LIMIT, 0)
    assert machine.group(volume, 1) is None


def test_a_file_system_without_quotas(drax: Path, user: User, base: Path) -> None:
    with mounted(base, "off") as mount:
        machine = Machine(drax, user, mount, "off", make_store(mount / "store", user))
        volume = machine.make_image()
        said = machine.call("limit", "--volume-path", volume, "--disk-limit-bytes", "1000000")
        assert said == (1, "unable to limit requested quota group: quota not enabled\n")
        assert machine.call("destroy", "--volume-path", volume) == (0, "")
        assert machine.call("stats", "--volume-path", volume) == (1, "qgroup usage: can't list qgroups: quotas not enabled\n")


# Arguments.


@pytest.mark.parametrize(
    "limit", ["0", "-1", "+5", "", "1k", "1e9", "0x10", " 1", "9223372036854775808", "18446744073709551615", "9" * 4000]
)
def test_refuses_numbers(machine: Machine, limit: str) -> None:
    volume = machine.make_image()
    machine.limits(volume)
    machine.call("destroy", "--volume-path", volume)
    machine.refuses(volume, BAD_LIMIT, limit=limit)


def test_says_what_it_takes(machine: Machine) -> None:
    for arguments in ([], ["limit"], ["help"], ["--help"], ["destroy", "--volume-path"], ["limit", "--no-such"]):
        code, said = machine.call(*arguments)
        assert code == 1
        assert said.startswith("usage: drax limit --volume-path")
    assert machine.call("list") == (1, "missing path argument\n")
    assert machine.call("list", "/") == (1, "drax list is not needed: nested subvolumes are found without privilege\n")
    code, said = machine.call("--version")
    assert code == 0
    assert re.fullmatch(r"drax version \d+\.\d+\.\d+\n", said)


def test_no_program_name_at_all(machine: Machine) -> None:
    # pkexec read its environment as arguments (CVE-2021-4034).
    script = "import ctypes, sys; ctypes.CDLL(None).execve(sys.argv[1].encode(), (ctypes.c_char_p * 1)(), (ctypes.c_char_p * 1)())"
    done = machine.user.run(PYTHON, "-c", script, machine.drax)
    assert (done.returncode, done.stdout[:11], done.stderr) == (1, "usage: drax", "")


# Whose volume it is.


@pytest.mark.parametrize("owner", [0, 4242])
def test_refuses_a_foreign_volume(machine: Machine, owner: int) -> None:
    machine.refuses(machine.make_image(owner=owner), FOREIGN)


def test_refuses_a_foreign_store(machine: Machine) -> None:
    machine.store.chmod(0o755)
    for number_of, path in enumerate((machine.store, machine.store / "images", machine.store / "images" / "one")):
        volume = machine.make_image("one", f"rootfs{number_of}")
        os.chown(path, 4242, -1)
        machine.refuses(volume, OUTSIDE)
        machine.user.owns(path)
        machine.limits(volume)


def test_refuses_what_the_caller_cannot_reach(machine: Machine) -> None:
    volume = machine.make_image()
    machine.store.parent.chmod(0o700)
    machine.refuses(volume, "opening the volume: Permission denied (os error 13)")
    machine.store.parent.chmod(0o755)
    machine.limits(volume)


# Where it is.


def test_refuses_a_link(machine: Machine) -> None:
    volume = machine.make_image()
    link = volume.parent / "link"
    link.symlink_to(volume)
    machine.user.owns(link)
    for path in (link, f"{link}/", f"{link}///"):
        machine.refuses(path, NOT_A_DIRECTORY)


def test_refuses_what_is_no_subvolume(machine: Machine) -> None:
    volume = machine.make_image()
    folder, file, pipe = volume / "folder", volume / "file", volume / "pipe"
    folder.mkdir()
    file.write_text("")
    os.mkfifo(pipe)
    machine.user.owns(folder, file, pipe)
    machine.refuses(folder, NOT_A_SUBVOLUME)
    machine.refuses(file, NOT_A_DIRECTORY)
    machine.refuses(pipe, NOT_A_DIRECTORY)
    machine.refuses(volume / "missing", "opening the volume: No such file or directory (os error 2)")
    machine.refuses("", "opening the volume: No such file or directory (os error 2)")


def test_refuses_other_file_systems(machine: Machine, base: Path) -> None:
    outside = base / f"outside-{machine.mode}"
    outside.mkdir()
    machine.user.owns(outside)
    for path in (outside, "/proc/self", "/sys/fs/btrfs", "/dev/shm"):
        machine.refuses(path, NOT_A_DIRECTORY if path == "/proc/self" else "the volume is not on a BTRFS file system")


def test_refuses_the_top_level(machine: Machine) -> None:
    machine.user.owns(machine.mount)
    try:
        machine.refuses(machine.mount, "the top level of a file system is no volume")
    finally:
        os.chown(machine.mount, 0, 0)


def test_refuses_a_home_outside_of_stores(machine: Machine) -> None:
    """An administrator limits a home; its user may not lift that."""
    home = machine.make_subvolume(machine.store.parent / "home")
    tool("btrfs", "qgroup", "limit", str(LIMIT), home)
    assert machine.group(home) == (1, LIMIT, 0)
    machine.refuses(home, OUTSIDE, limit=1 << 40)
    inside = machine.make_subvolume(home / "inside")
    machine.refuses(inside, OUTSIDE)


@pytest.mark.parametrize("place", ["rootfs", "volumes/one", "images/one", "images/one/deep/rootfs", "pictures/one/rootfs", "meta/x/rootfs"])
def test_refuses_other_places_of_a_store(machine: Machine, place: str) -> None:
    path = machine.store / place
    for folder in reversed(path.relative_to(machine.store).parents[:-1]):
        (machine.store / folder).mkdir(exist_ok=True)
        machine.user.owns(machine.store / folder)
    machine.refuses(machine.make_subvolume(path), OUTSIDE)


def test_refuses_images_behind_a_link(machine: Machine) -> None:
    """`images` has to be the directory itself, not a link to where the volume is."""
    volume = machine.make_image()
    (machine.store / "images").rename(machine.store / "pictures")
    (machine.store / "images").symlink_to("pictures")
    machine.refuses(machine.store / "pictures" / "one" / "rootfs", OUTSIDE)
    machine.refuses(machine.store / "images" / "one" / "rootfs", OUTSIDE)
    assert not volume.is_symlink()


def forge_nothing(_: Machine, file: Path) -> None:
    file.unlink()


def forge_own(machine: Machine, file: Path) -> None:
    file.unlink()
    machine.user.owns(write_namespace(machine.store))


def forge_hard_link(machine: Machine, file: Path) -> None:
    other = machine.store.parent / "other-namespace.json"
    file.rename(other)
    os.link(other, file)


def forge_link(machine: Machine, file: Path) -> None:
    other = machine.store.parent / "other-namespace.json"
    file.rename(other)
    file.symlink_to(other)


def forge_meta_link(machine: Machine, file: Path) -> None:
    file.parent.rename(machine.store / "other-meta")
    file.parent.symlink_to("other-meta")


def forge_other_file(machine: Machine, file: Path) -> None:
    write_namespace(machine.store, '{"disk":"root wrote this for something else"}')
    assert file.stat().st_uid == 0


def forge_short_file(machine: Machine, _: Path) -> None:
    write_namespace(machine.store, '{"uid-mapp')


def forge_writable(_: Machine, file: Path) -> None:
    file.chmod(0o775)


def forge_pipe(_: Machine, file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o644)


def forge_folder(_: Machine, file: Path) -> None:
    file.unlink()
    file.mkdir()


def forge_mount(machine: Machine, file: Path) -> None:
    other = machine.store.parent / "other-namespace.json"
    other.write_text(NAMESPACE)
    tool("mount", "--bind", other, file)


@pytest.mark.parametrize("forge", [value for name, value in sorted(globals().items()) if name.startswith("forge_")])
def test_refuses_a_store_that_root_has_not_initialised(machine: Machine, forge: object) -> None:
    volume = machine.make_image()
    forge(machine, machine.store / "meta" / "namespace.json")  # type: ignore[operator]
    try:
        machine.refuses(volume, OUTSIDE)
    finally:
        if forge is forge_mount:
            tool("umount", machine.store / "meta" / "namespace.json")


# Groups that only look like ours.


def group(machine: Machine, *arguments: str) -> None:
    """Let an administrator work on groups."""
    tool("btrfs", "qgroup", *arguments, machine.mount)


@about_simple
@pytest.mark.parametrize("members", [[], ["foreign"], ["foreign", "own"], ["own", "above"]])
def test_leaves_an_administrators_group_alone(machine: Machine, members: list[str]) -> None:
    """Ids of subvolumes count up: a user can wait for its subvolume to get the number of somebody's group."""
    volume = machine.make_image()
    foreign = machine.make_subvolume(machine.store.parent / "foreign", owner=4242)
    ident = f"1/{number(volume)}"
    group(machine, "create", ident)
    group(machine, "limit", str(LIMIT), ident)
    for member in members:
        if member == "above":
            group(machine, "create", f"2/{number(volume)}")
            group(machine, "assign", "--no-rescan", ident, f"2/{number(volume)}")
        else:
            group(machine, "assign", "--no-rescan", f"0/{number(foreign if member == 'foreign' else volume)}", ident)
    machine.refuses(volume, f"quota group {ident} was not made by drax", limit=1 << 40)
    assert machine.call("destroy", "--volume-path", volume) == (1, f"quota group {ident} was not made by drax\n")
    assert machine.group(volume, 1) == (1, LIMIT, 0)
    # The members are still charged to it.
    for member in set(members) - {"above"}:
        before = int(usage_of(machine, volume, 1))
        machine.write((foreign if member == "foreign" else volume) / "data", MIB) if member == "own" else root_writes(machine, foreign)
        assert usage_of(machine, volume, 1) >= before + MIB


def usage_of(machine: Machine, volume: Path, level: int) -> int:
    """Counter of a group."""
    mounts.tool("btrfs", "filesystem", "sync", machine.mount)
    return int((Path("/sys/fs/btrfs") / _core.uuid(machine.mount) / "qgroups" / f"{level}_{number(volume)}" / "referenced").read_text())


def root_writes(machine: Machine, volume: Path) -> None:
    """A MiB of somebody else's."""
    (volume / "data").write_bytes(bytes(MIB))
    mounts.tool("btrfs", "filesystem", "sync", machine.mount)


@about_simple
def test_adds_to_groups_without_leaving_others(machine: Machine) -> None:
    """A volume that is in an administrator's group stays in it, after `limit` and after `destroy`."""
    volume = machine.make_image()
    ident = f"1/{number(volume) + 100000}"
    group(machine, "create", ident)
    group(machine, "limit", str(LIMIT), ident)
    group(machine, "assign", "--no-rescan", f"0/{number(volume)}", ident)
    machine.limits(volume, 1 << 40)
    assert machine.write(volume / "data", 2 * LIMIT) <= LIMIT
    assert machine.call("destroy", "--volume-path", volume) == (0, "")
    assert machine.write(volume / "more", 2 * LIMIT) <= MIB


def test_attributes_mean_nothing(machine: Machine) -> None:
    """What the owner writes on its image, and flags and properties that it can set, neither lead drax anywhere nor stop it."""
    volume = machine.make_image()
    foreign = machine.make_image("two", owner=4242)
    before = machine.groups()
    for path in (volume, volume.parent, machine.store):
        for name, value in (("limit", b"1"), ("image-size", b"-1"), ("idmapped", b"1"), ("uncounted", os.fsencode(foreign))):
            os.setxattr(path, f"user.grootfs.{name}", value)
    tool("btrfs", "property", "set", volume, "ro", "true")
    machine.limits(volume)
    assert machine.group(volume) == (1, LIMIT, 0)
    assert machine.call("destroy", "--volume-path", volume) == (0, "")
    own = {f"0_{number(volume)}", f"1_{number(volume)}"}
    assert {k: v for k, v in machine.groups().items() if k not in own} == {k: v for k, v in before.items() if k not in own}


# Between check and use.

SWAP = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
one, other = (path.encode() for path in sys.argv[1:])
sys.stdout.write("ready\\n"); sys.stdout.flush()
while True:
    if libc.renameat2(-100, one, -100, other, 2):
        sys.exit(f"renameat2: {ctypes.get_errno()}")
"""


@contextmanager
def swapping(user: User, one: Path, other: Path) -> Iterator[None]:
    """Let the user exchange two names all the time."""
    process = user.start(PYTHON, "-c", SWAP, one, other)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read() if process.stderr else ""
        yield
        assert process.poll() is None, process.communicate()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("what", ["volume", "image", "images", "store", "link"])
def test_swapped_between_check_and_use(machine: Machine, what: str) -> None:
    """The path names the user's volume and a foreign one in turns. Whatever drax meets, only the former gets limits."""
    own = machine.make_image("one")
    if what == "volume":
        foreign = machine.make_image("one", "foreign", owner=4242)
        one, other, path = own, foreign, own
    elif what == "image":
        foreign = machine.make_image("two", owner=4242)
        one, other, path = own.parent, foreign.parent, own
    elif what in ("images", "store"):
        # The other one is a copy in which the image belongs to somebody else.
        one = machine.store / "images" if what == "images" else machine.store
        other = one.with_name("other")
        image = other / own.parent.relative_to(one)
        for folder in [*reversed(image.relative_to(other.parent).parents[:-1]), image.relative_to(other.parent)]:
            (other.parent / folder).mkdir()
            machine.user.owns(other.parent / folder)
        machine.user.owns(other.parent)
        foreign = machine.make_subvolume(image / "rootfs", owner=4242)
        path = own
    else:
        foreign = machine.make_image("two", owner=4242)
        one, other = machine.store / "link", machine.store / "other"
        one.symlink_to(own.parent)
        other.symlink_to(foreign.parent)
        path = one / "rootfs"
    own_id, foreign_id = number(own), number(foreign)
    before = machine.groups()
    met: dict[tuple[int, str], int] = {}
    with swapping(machine.user, one, other):
        begun = time.monotonic()
        limit = LIMIT
        # At least so long, and until the caller's own was met: on a busy machine an exchange comes within most calls.
        while time.monotonic() < begun + 3 or (met.get((0, ""), 0) <= 5 and time.monotonic() < begun + 60):
            limit += 4096
            said = machine.call("limit", "--volume-path", path, "--disk-limit-bytes", str(limit))
            met[said] = met.get(said, 0) + 1
            machine.call("destroy", "--volume-path", path)
    # The store may also look odd in the middle of an exchange of its directories.
    assert set(met) <= {(0, ""), (1, FOREIGN + "\n"), (1, OUTSIDE + "\n")}, met
    assert met[0, ""] > 5, met
    assert met[1, FOREIGN + "\n"] > 5, met
    after = machine.groups()
    assert after[f"0_{foreign_id}"] == UNLIMITED
    assert f"1_{foreign_id}" not in after
    ours = {f"0_{own_id}", f"1_{own_id}"}
    assert {k: v for k, v in after.items() if k not in ours} == {k: v for k, v in before.items() if k not in ours}


PTRACE_SYSCALL, PTRACE_SETOPTIONS, PTRACE_GET_SYSCALL_INFO = 24, 0x4200, 0x420E
QGROUP_CREATE, QGROUP_LIMIT, QGROUP_ASSIGN = 0x4010942A, 0x8030942B, 0x40189429
CHANGES = (QGROUP_CREATE, QGROUP_LIMIT)


@contextmanager
def held_before(requests: tuple[int, ...], argv: list[str | Path], user: User, nth: int = 1) -> Iterator[Callable[[], int]]:
    """Start a program as the user and stop it where it enters the nth of these ioctls. Root's debugger does not take
    the setuid bit away. Gives a function that lets it go on and gives its exit status."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ptrace(request: int, data: int | ctypes.Array[ctypes.c_char], size: int = 0) -> None:
        address = ctypes.addressof(data) if isinstance(data, ctypes.Array) else data
        assert libc.ptrace(request, child, size, address) >= 0, os.strerror(ctypes.get_errno())

    child = os.fork()
    if child == 0:
        libc.ptrace(0, 0, None, None)  # TRACEME
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        os.execv(argv[0], list(map(str, argv)))
    try:
        assert os.WIFSTOPPED(os.waitpid(child, 0)[1])
        ptrace(PTRACE_SETOPTIONS, 1 | 0x100000)  # TRACESYSGOOD, EXITKILL
        while True:
            ptrace(PTRACE_SYSCALL, 0)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSTOPPED(status), status
            info = ctypes.create_string_buffer(88)
            ptrace(PTRACE_GET_SYSCALL_INFO, info, len(info))
            # struct ptrace_syscall_info: the operation (1: entry), then at 24 the call's number and arguments.
            if info.raw[0] == 1 and struct.unpack_from("=3Q", info, 24)[2] in requests:
                nth -= 1
                if nth == 0:
                    break

        def go_on() -> int:
            libc.ptrace(17, child, None, None)  # DETACH
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        yield go_on
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step."""
    assert ctypes.CDLL(None).renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


def test_swapped_exactly_between_check_and_use(machine: Machine) -> None:
    """The same without luck: a debugger of root's holds drax before its first change and the names are exchanged."""
    own = machine.make_image("one")
    foreign = machine.make_image("one", "foreign", owner=4242)
    before = machine.groups()
    own_id, foreign_id = number(own), number(foreign)
    argv = [machine.drax, "limit", "--volume-path", own, "--disk-limit-bytes", str(LIMIT)]
    with held_before(CHANGES, argv, machine.user) as go_on:
        exchange(own, foreign)
        assert go_on() == 0
    after = machine.groups()
    assert after[f"0_{foreign_id}"] == UNLIMITED
    assert after[f"0_{own_id}"] == (1, LIMIT, 0)
    ours = {f"0_{own_id}", f"1_{own_id}"}
    assert {k: v for k, v in after.items() if k not in ours} == {k: v for k, v in before.items() if k not in ours}
    assert number(own) == foreign_id


# What the caller leaves behind for it.


def test_missing_bit(machine: Machine, plain: Path) -> None:
    volume = machine.make_image()
    machine.refuses(volume, NO_SETUID, drax=plain)
    assert machine.call("destroy", "--volume-path", volume, drax=plain) == (1, NO_SETUID + "\n")


def test_privilege_that_the_caller_has_renounced(machine: Machine) -> None:
    volume = machine.make_image()
    before = machine.groups()
    argv = ["limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
    done = machine.user.run("setpriv", "--no-new-privs", machine.drax, *argv)
    assert (done.returncode, done.stdout) == (1, NO_SETUID + "\n")
    assert machine.groups() == before


@pytest.mark.parametrize("install", ["drax", "capable"])
@pytest.mark.parametrize("flags", [["-U"], ["-Ur"], ["-Urm"], ["-Urmpf"]])
def test_refuses_inside_a_user_namespace(machine: Machine, install: str, flags: list[str], request: pytest.FixtureRequest) -> None:
    volume = machine.make_image()
    drax = request.getfixturevalue(install)
    before = machine.groups()
    for argv in (["limit", "--disk-limit-bytes", str(LIMIT)], ["destroy"]):
        done = machine.user.run("unshare", *flags, drax, *argv, "--volume-path", volume)
        assert (done.returncode, done.stdout, done.stderr) == (1, IN_A_NAMESPACE + "\n", "")
    assert machine.groups() == before


def test_mounts_of_a_user_namespace(machine: Machine) -> None:
    """The user binds its home into an image in a namespace of its own, and comes in from outside by /proc/PID/root."""
    home = machine.make_subvolume(machine.store.parent / "home")
    tool("btrfs", "qgroup", "limit", str(LIMIT), home)
    image = machine.make_image().parent
    point = image / "point"
    point.mkdir()
    machine.user.owns(point)
    process = machine.user.start("unshare", "-Urm", "sh", "-c", f"mount --bind {home} {point} && echo ready && exec sleep 60")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        inside = Path(f"/proc/{process.pid}/root{point}")
        assert number(inside) == number(home)
        machine.refuses(inside, "opening the volume: Too many levels of symbolic links (os error 40)")
        machine.refuses("point", OUTSIDE, cwd=inside.parent)
        machine.refuses(".", OUTSIDE, cwd=inside)
    finally:
        process.kill()
        process.communicate()
    assert machine.group(home) == (1, LIMIT, 0)


def test_environment(machine: Machine, plain: Path, base: Path) -> None:
    """A library of the user's is loaded into its own programs, and never into drax; neither is anything else used."""
    tricks = Path(tempfile.mkdtemp(dir=base))
    source, library, marker = tricks / "trap.c", tricks / "trap.so", tricks / "marks" / "loaded"
    marker.parent.mkdir()
    marker.parent.chmod(0o777)
    tricks.chmod(0o755)
    source.write_text(
        f'#include <fcntl.h>\n__attribute__((constructor)) void trap(void) {{ open("{marker}", O_CREAT | O_WRONLY, 0666); }}\n'
    )
    tool("cc", "-shared", "-fPIC", "-o", library, source)
    for name in ("btrfs", "sh", "drax"):
        program = tricks / name
        program.write_text(f"#!/bin/sh\necho > {marker}\n")
        program.chmod(0o755)
    hostile = {
        "LD_PRELOAD": str(library),
        "LD_AUDIT": str(library),
        "LD_LIBRARY_PATH": str(tricks),
        "PATH": str(tricks),
        "GLIBC_TUNABLES": "glibc.malloc.mxfast=glibc.malloc.mxfast=A",  # CVE-2023-4911
        "LOCPATH": str(tricks),
        "LC_ALL": "xx_XX",
        "RUST_BACKTRACE": "full",
        "RUST_MIN_STACK": "-1",
        "MALLOC_CHECK_": "3",
        "A" * 1000: "B" * 100_000,
    }
    volume = machine.make_image()
    machine.user.run(plain, "--version", env=hostile)
    assert marker.exists(), "the trap does not work"
    marker.unlink()
    machine.limits(volume, env=hostile)
    assert machine.group(volume) == (1, LIMIT, 0)
    assert machine.call("destroy", "--volume-path", volume, env=hostile) == (0, "")
    assert not marker.exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(machine: Machine, closed: str) -> None:
    """With descriptor 1 closed the volume would become standard output."""
    volume = machine.make_image()
    done = machine.user.run(
        "sh", "-c", f'exec "$0" "$@" {closed}', machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", LIMIT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.group(volume) == (1, LIMIT, 0)


def test_standard_output_that_takes_nothing(machine: Machine) -> None:
    volume = machine.make_image()
    done = machine.user.run("sh", "-c", 'exec "$0" stats --volume-path "$1" >/dev/full', machine.drax, volume)
    assert (done.returncode, done.stderr) == (1, "")


FEW_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("files", [0, 3, 4])
def test_too_few_descriptors(machine: Machine, files: int) -> None:
    """A refusal, not a half-done change."""
    volume = machine.make_image()
    before = machine.groups()
    argv = [machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
    assert machine.user.run(PYTHON, "-c", FEW_FILES, files, *argv).returncode != 0
    assert machine.groups() == before


TIGHT = """
import os, resource, sys
name, value = sys.argv[1], int(sys.argv[2])
resource.setrlimit(getattr(resource, name), (value, value))
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RLIMIT_AS", 1 << 20),
        ("RLIMIT_AS", 4 << 20),
        ("RLIMIT_DATA", 0),
        ("RLIMIT_STACK", 0),
        ("RLIMIT_STACK", 16 << 10),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_MEMLOCK", 0),
        ("RLIMIT_SIGPENDING", 0),
        ("RLIMIT_CORE", resource.RLIM_INFINITY),
    ],
)
def test_resource_limits(machine: Machine, name: str, value: int) -> None:
    """All is done or nothing; with what is left to it afterwards as with plenty."""
    volume = machine.make_image()
    before = machine.groups()
    argv = [machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
    done = machine.user.run(PYTHON, "-c", TIGHT, name, value, *argv)
    assert "panicked" not in done.stdout + done.stderr, done
    if done.returncode == 0:
        assert machine.group(volume) == (1, LIMIT, 0)
        assert machine.group(volume, 1) == ((1, LIMIT, 0) if machine.mode == "simple" else None)
    else:
        assert machine.groups() == before
    machine.limits(volume)


SIGNALLED = """
import os, signal, sys
how = sys.argv[1]
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    if how == "ignored":
        signal.signal(number, signal.SIG_IGN)
if how == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals)
    os.kill(os.getpid(), signal.SIGTERM)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_signals_that_the_caller_ignores_or_blocks(machine: Machine, how: str) -> None:
    volume = machine.make_image()
    argv = [machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
    done = machine.user.run(PYTHON, "-c", SIGNALLED, how, *argv)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.group(volume) == (1, LIMIT, 0)


TIMED = """
import os, signal, sys
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_timer_of_the_caller_ends_it(machine: Machine) -> None:
    """A timer goes on in the program that is started. Whatever moment it ends that at: no group but the volume's own is touched, and
    the limits that are there are those that were asked for."""
    before = machine.groups()
    ends = set()
    own = set()
    for step, delay in enumerate([1e-6, *(0.0002 * (step + 1) for step in range(60)), 60]):
        volume = machine.make_image("one", f"rootfs{step}")
        own |= {f"0_{number(volume)}", f"1_{number(volume)}"}
        argv = [machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
        ends.add(machine.user.run(PYTHON, "-c", TIMED, delay, *argv).returncode)
        assert machine.group(volume) in (UNLIMITED, (1, LIMIT, 0))
        assert machine.group(volume, 1) in (None, UNLIMITED, (1, LIMIT, 0))
    assert ends == {0, -signal.SIGALRM}
    assert {k: v for k, v in machine.groups().items() if k not in own} == {k: v for k, v in before.items() if k not in own}


@pytest.mark.parametrize("path", ["/", ".", "..", "x/" * 3000, "/dev/zero", "/proc/self/fd/0", "a\nb", "\u202e"])
def test_paths_of_nothing(machine: Machine, path: str) -> None:
    before = machine.groups()
    for argv in (["limit", "--disk-limit-bytes", str(LIMIT)], ["destroy"]):
        code, said = machine.call(*argv, "--volume-path", path)
        assert code == 1 and said.count("\n") == 1, said
    assert machine.groups() == before


def test_what_it_holds_while_it_works(machine: Machine) -> None:
    """In front of its first change: the caller's ids, one capability, no core, no new privileges, no foreign descriptors."""
    volume = machine.make_image()
    argv = [machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
    inherited, other_end = os.pipe()
    os.set_inheritable(inherited, True)
    name = os.readlink(f"/proc/self/fd/{inherited}")
    with held_before(CHANGES, argv, machine.user) as go_on:
        os.close(inherited)
        os.close(other_end)
        (process,) = (path for path in Path("/proc").glob("[0-9]*") if is_running(path, machine.drax))
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        assert status["Uid"].split() == [str(machine.user.uid)] * 4
        assert status["Gid"].split() == [str(machine.user.gid)] * 4
        admin = f"{1 << 21:016x}"
        assert [status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [admin, admin, "0" * 16, "0" * 16]
        assert (status["NoNewPrivs"], status["Threads"]) == ("1", "1")
        assert re.search(r"Max core file size\s+0\s+0", (process / "limits").read_text())
        assert (process / "environ").stat().st_uid == 0, "dumpable"
        assert name not in [os.readlink(path) for path in (process / "fd").iterdir()]
        assert go_on() == 0


def is_running(process: Path, program: Path) -> bool:
    """Whether a process runs this program."""
    try:
        return (process / "exe").resolve() == program
    except OSError:
        return False


def test_killed_before_its_first_change(machine: Machine) -> None:
    volume = machine.make_image()
    before = machine.groups()
    argv = [machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
    with held_before(CHANGES, argv, machine.user):
        pass
    assert machine.groups() == before
    machine.limits(volume)


@about_simple
def test_takes_back_what_it_began(machine: Machine) -> None:
    """A step fails after the making of the group: an administrator is faster with the next one."""
    volume = machine.make_image()
    before = machine.groups()
    argv = [machine.drax, "limit", "--volume-path", volume, "--disk-limit-bytes", str(LIMIT)]
    with held_before((QGROUP_LIMIT,), argv, machine.user) as go_on:
        group(machine, "assign", "--no-rescan", f"0/{number(volume)}", f"1/{number(volume)}")
        assert go_on() == 1
    assert machine.groups() == before
    machine.limits(volume)


@about_simple
def test_destroy_killed_half_way(machine: Machine) -> None:
    volume = machine.make_image()
    machine.limits(volume)
    mounts.tool("btrfs", "subvolume", "create", volume / "nested")
    with held_before((QGROUP_ASSIGN,), [machine.drax, "destroy", "--volume-path", volume], machine.user, nth=2):
        pass
    assert machine.group(volume, 1) is not None
    assert machine.call("destroy", "--volume-path", volume) == (0, "")
    assert machine.group(volume, 1) is None
