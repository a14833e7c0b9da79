"""Commands that are interrupted at their N-th store-changing system call, for every N (`--full`) or a sample of them.

Killed with all its processes, killed alone, stopped by a signal, or refused that one call: after each the same checks.
Nobody sees half an image, the next command works, the id can be used again, and after delete and clean the store is
what it was: no file, subvolume, quota group, mount or loop device more or less.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from fake_registry import FakeRegistry
from support import mounts
from support.accounts import User
from support.archive import Archive, compress, layers_of
from support.command import MIB, Store
from support.interruption import KILL, STOPS, Points, Traced, assert_same_state, assert_volumes_whole, state, trace, wait_until_freed
from support.layout import chain_ids, write_layout
from support.tree import Tree, assert_same, photograph

LIMIT = ("--disk-limit-size-bytes", str(100 * MIB))
STACK = [
    Archive()
    .dir(".")
    .dir("d")
    .file("d/a", "a" * 5000)
    .file("d/b", "b")
    .file("owned", "x", uid=7, gid=8)
    .symlink("s", "d/a")
    .link("h", "d/a"),
    Archive().pax({"SCHILY.xattr.user.k": "v"}).file("attributed", "y").dir("gone").file("gone/x", "x").dir("opaque").file("opaque/o", "o"),
    Archive().whiteout("d/b").whiteout("gone").opaque("opaque").file("opaque/new", "n").file("top", os.urandom(70_000)),
]
LAYERS = layers_of(tuple(STACK))
CHAIN = chain_ids(LAYERS)
JUNK = [Archive().file("junk", "1"), Archive().file("junk", "2").file("more", "3")]


@dataclass
class Case:
    """A command on a store: how to come to where it starts, what may be seen after it, and what it is called again for."""

    store: Store
    argv: tuple[str, ...]
    prepare: Callable[[], object] = lambda: None
    images: dict[str, Tree] = field(default_factory=dict)
    always: frozenset[str] = frozenset()
    volumes: dict[str, Tree] = field(default_factory=dict)
    tree: str = "rootfs"

    @property
    def below(self) -> Path:
        """Everything the command has to do with."""
        return self.store.path.parent

    def trace(self, at: int = 0, how: tuple[str, ...] = (), *, reads: bool = False) -> Traced:
        """Run the command under the tracer."""
        return trace(self.store, self.below, *self.argv, at=at, how=how, reads=reads)

    def examine(self) -> None:
        """What others may see, at any moment."""
        listed = set(self.store.list())
        assert self.always <= listed <= set(self.images), listed
        for image_id in listed:
            assert_same(photograph(self.store.image(image_id) / self.tree_of(image_id)), self.images[image_id])
            total, own = self.store.stats(image_id)
            assert total >= own >= 0
        assert_volumes_whole(self.store, self.volumes)

    def tree_of(self, image_id: str) -> str:
        """Which directory of the image has its files."""
        return self.tree if image_id == "victim" else "rootfs"

    def repeat(self) -> None:
        """The same command again, undisturbed."""
        if self.argv[0] == "create" and "victim" in self.store.list():
            assert "already exists" in self.store.run(*self.argv).failed().message
            self.store.delete("victim")
        self.store.run(*self.argv).ok()
        self.examine()
        assert ("victim" in self.store.list()) == (self.argv[0] == "create")

    def restore(self) -> None:
        """Back to the start: delete what came, clean."""
        for image_id in set(self.store.list()) - self.always:
            self.store.delete(image_id)
        self.store.clean()
        # Groups of what the kernel was still taking apart are left to the next clean; ordinary users may not remove any.
        wait_until_freed(self.store)
        Store(self.store.path).clean()

    def assert_clean(self, pristine: dict[str, object]) -> None:
        """A clean alone removes all that is of nobody."""
        self.store.clean()
        if "victim" not in self.store.list():
            self.restore()
            assert_same_state(state(self.store), pristine)


# -- cases ------------------------------------------------------------------------------


class Stage:
    """What the cases are made from."""

    def __init__(self, scratch: Path, make_store: Callable[..., Store], user: User | None = None) -> None:
        self.scratch = scratch
        self.make_store = make_store
        self.user = user
        self.url = write_layout(scratch / "layout", *LAYERS)
        self.base = write_layout(scratch / "base", LAYERS[0])

    def case(self, *argv: str, store: Store | None = None, keeper: str = "", tree: str = "rootfs") -> Case:
        """A case whose trees are learnt from an undisturbed create of the whole image."""
        store = store or self.make_store(size=256 * MIB)
        victim = photograph(store.create(self.url, "victim"))
        volumes = {name: photograph(store.path / "volumes" / name) for name in store.volumes()}
        store.delete("victim")
        images = {"victim": victim}
        if keeper:
            images["keeper"] = photograph(store.create(keeper, "keeper"))
        store.clean()
        return Case(store, argv, images=images, always=frozenset({"keeper"} & set(images)), volumes=volumes, tree=tree)

    def create(self, *flags: str, **options: str) -> Case:
        """A create of the image."""
        return self.case("create", *flags, self.url, "victim", **options)  # type: ignore[arg-type]


def cold(stage: Stage) -> Case:
    return stage.create(*LIMIT)


def cached_base(stage: Stage) -> Case:
    return stage.create(keeper=stage.base)


def warm(stage: Stage) -> Case:
    return stage.create(*LIMIT, keeper=stage.url)


def full_accounting(stage: Stage) -> Case:
    store = stage.make_store("--quota", "full", size=256 * MIB)
    return stage.case("create", *LIMIT, stage.url, "victim", store=store, keeper=stage.url)


def without_mount(stage: Stage) -> Case:
    return stage.create("--without-mount", keeper=stage.url, tree="snapshot")


def idmapped_mount(stage: Stage) -> Case:
    mappings = ("--uid-mapping", "0:1000000:65536", "--gid-mapping", "0:1000000:65536")
    return stage.create("--idmapped-mount", *mappings, keeper=stage.url, tree="snapshot")


def from_a_tar(stage: Stage) -> Case:
    case = stage.create()
    file = stage.scratch / "layer.tar"
    file.write_bytes(LAYERS[0].tar)
    return _learn(case, str(file))


def from_a_directory(stage: Stage) -> Case:
    case = stage.create()
    folder = stage.scratch / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("x" * 9000)
    (folder / "link").symlink_to("sub")
    return _learn(case, str(folder))


def _learn(case: Case, image: str) -> Case:
    """The case with another image."""
    case.argv = ("create", image, "victim")
    case.images = {"victim": photograph(case.store.create(image, "victim"))}
    case.volumes = {name: photograph(case.store.path / "volumes" / name) for name in case.store.volumes()}
    case.store.delete("victim")
    case.store.clean()
    return case


def with_clean(stage: Stage) -> Case:
    case = stage.create("--with-clean", *LIMIT, keeper=stage.base)
    case.prepare = lambda: leave_junk(case, stage)
    return case


def delete(stage: Stage) -> Case:
    case = stage.case("delete", "victim", keeper=stage.base)
    case.prepare = lambda: case.store.create(stage.url, "victim", *LIMIT)
    return case


def delete_without_mount(stage: Stage) -> Case:
    case = stage.case("delete", "victim", tree="snapshot")
    case.prepare = lambda: case.store.run("create", "--without-mount", *LIMIT, stage.url, "victim").ok()
    return case


def clean(stage: Stage) -> Case:
    case = stage.case("clean", keeper=stage.base)
    case.prepare = lambda: leave_junk(case, stage)
    return case


def leave_junk(case: Case, stage: Stage) -> None:
    """Unused volumes, and what interrupted commands leave."""
    store = case.store
    folder = stage.scratch / "junk"
    if not folder.exists():
        write_layout(folder, *JUNK)
    for name in chain_ids(layers_of(tuple(JUNK))):
        case.volumes.setdefault(name, {})
    store.create(f"oci://{folder}:latest", "junk")
    case.volumes |= {name: photograph(store.path / "volumes" / name) for name in store.volumes()}
    store.delete("junk")
    digest = hashlib.sha256(b"dead").hexdigest()
    for name in (f"{digest}-incomplete-1-2", f"gc.{digest}"):
        mounts.tool("btrfs", "subvolume", "create", store.path / "volumes" / name)
        (store.path / "volumes" / name / "file").write_text("left")
    for name in (f"tmp/blob-{digest}", "tmp/record-1-0", f"locks/{digest}.lock", f"meta/volume-{digest}"):
        (store.path / name).write_text("")
    (store.path / "meta" / "dependencies" / "image:half.json").write_text(f'["{digest}"]')
    store.image("half").mkdir()
    (store.image("half") / "image.json").write_text("{}")


def rootless_create(stage: Stage) -> Case:
    return stage.case("create", *LIMIT, stage.url, "victim", store=_users_store(stage))


def rootless_delete(stage: Stage) -> Case:
    case = stage.case("delete", "victim", store=_users_store(stage))
    case.prepare = lambda: case.store.create(stage.url, "victim", *LIMIT)
    return case


def _users_store(stage: Stage) -> Store:
    assert stage.user is not None
    store = stage.make_store("--rootless", f"{stage.user.name}:{stage.user.name}", size=256 * MIB)
    return Store(store.path, uid=stage.user.uid)


CASES: dict[str, Callable[[Stage], Case]] = {
    case.__name__: case
    for case in (
        cold,
        cached_base,
        warm,
        full_accounting,
        without_mount,
        idmapped_mount,
        from_a_tar,
        from_a_directory,
        with_clean,
        delete,
        delete_without_mount,
        clean,
    )
}
ROOTLESS: dict[str, Callable[[Stage], Case]] = {case.__name__: case for case in (rootless_create, rootless_delete)}
SAMPLE = 4
"""Calls of a command that are hit where not all are."""


def each_with_one_of(names: Iterable[str], others: Iterable[object]) -> list[ParameterSet]:
    """All pairs in a full run; else each name with one of the others in turn."""
    choices = list(others)
    pairs = [(place, name, turn, other) for place, name in enumerate(names) for turn, other in enumerate(choices)]
    return [pytest.param(name, other, marks=() if place % len(choices) == turn else pytest.mark.full) for place, name, turn, other in pairs]


@contextmanager
def hit(at: int, count: int, traced: Traced) -> Iterator[None]:
    """Name the call in what fails."""
    try:
        yield
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        raise AssertionError(f"after call {at} of {count} ({traced.last}), {traced.result}: {error}") from error


@pytest.fixture
def stage(scratch: Path, make_store: Callable[..., Store]) -> Stage:
    return Stage(scratch, make_store)


@pytest.fixture
def rootless_stage(scratch: Path, make_store: Callable[..., Store], user: User) -> Stage:
    return Stage(scratch, make_store, user)


def measure(case: Case) -> tuple[int, dict[str, object]]:
    """Calls of an undisturbed run, and the state that the store comes back to."""
    case.prepare()
    whole = case.trace()
    whole.result.ok()
    case.examine()
    case.restore()
    pristine = state(case.store)
    return len(whole.calls), pristine


def kill_everywhere(case: Case, points: Points, name: str, how: tuple[str, ...] = KILL) -> None:
    count, pristine = measure(case)
    for i, at in enumerate(points.of(count, SAMPLE, len(name))):
        case.prepare()
        traced = case.trace(at, how)
        with hit(at, count, traced):
            if "tree" in how and traced.hit:
                assert traced.result.code == -signal.SIGKILL
            case.examine()
            if i % 2:
                case.assert_clean(pristine)
            case.repeat()
            case.restore()
            assert_same_state(state(case.store), pristine)
        points.covered(f"killed, {name}", count)


@pytest.mark.parametrize("name", CASES)
def test_killed(stage: Stage, points: Points, name: str) -> None:
    kill_everywhere(CASES[name](stage), points, name)


def test_killed_while_quota_groups_are_made(stage: Stage, points: Points) -> None:
    """Also before a group has the mark by which `clean` knows it: what was begun is known by the image's directory."""
    case = warm(stage)
    count, pristine = measure(case)
    case.prepare()
    calls = case.trace().calls
    case.restore()
    groups = [at for at, call in enumerate(calls, 1) if call.startswith(("ioctl 0x94:0x29", "ioctl 0x94:0x2a", "ioctl 0x94:0x2b"))]
    assert len(groups) == 4, calls
    for at in groups:
        traced = case.trace(at, KILL)
        with hit(at, count, traced):
            case.restore()
            assert_same_state(state(case.store), pristine)
        points.covered("killed, quota groups", len(groups))


@pytest.mark.parametrize(("name", "victim"), each_with_one_of(ROOTLESS, ["tree", "main", "caller"]))
def test_killed_as_a_user(rootless_stage: Stage, points: Points, name: str, victim: str) -> None:
    """The child in the user namespace goes with its parent, and its death is no more than an error."""
    kill_everywhere(ROOTLESS[name](rootless_stage), points, f"{name} ({victim})", ("--kill", victim))


@pytest.fixture
def registry_case(stage: Stage) -> Iterator[Case]:
    with FakeRegistry() as fake:
        config = b'{"os":"linux","rootfs":{"type":"layers","diff_ids":[%s]}}' % b",".join(
            b'"sha256:%s"' % layer.diff_id.encode() for layer in LAYERS
        )
        image = fake.add("team/app", [compress(layer.tar, "gzip") for layer in LAYERS], config=config)
        case = stage.case("create", *LIMIT, "--insecure-registry", fake.addr, image.url, "victim")
        yield case


def test_killed_while_pulling(registry_case: Case, points: Points) -> None:
    """Fetching and unpacking go on at once, so the N-th call is not always the same one."""
    case = registry_case
    count, pristine = measure(case)
    for i, at in enumerate(points.of(count, 2 * SAMPLE)):
        traced = case.trace(at, KILL)
        with hit(at, count, traced):
            case.examine()
            if i % 2:
                case.assert_clean(pristine)
            case.repeat()
            case.restore()
            assert_same_state(state(case.store), pristine)
        points.covered("killed, docker", count)


# -- stopped ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), each_with_one_of(CASES, STOPS))
def test_stopped(stage: Stage, points: Points, name: str, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end a command with 130, or come too late; nothing is left that a create does not want to find."""
    stop_everywhere(CASES[name](stage), points, name, number)


@pytest.mark.parametrize(("name", "number"), each_with_one_of(ROOTLESS, STOPS))
def test_stopped_as_a_user(rootless_stage: Stage, points: Points, name: str, number: signal.Signals) -> None:
    stop_everywhere(ROOTLESS[name](rootless_stage), points, name, number)


@pytest.mark.parametrize("number", STOPS)
def test_stopped_while_pulling(registry_case: Case, points: Points, number: signal.Signals) -> None:
    stop_everywhere(registry_case, points, "docker", number)


def stop_everywhere(case: Case, points: Points, name: str, number: signal.Signals) -> None:
    count, pristine = measure(case)
    for at in points.of(count, SAMPLE, len(name) + number):
        case.prepare()
        traced = case.trace(at, STOPS[number])
        with hit(at, count, traced):
            result = traced.result
            assert result.err == "" and result.code in (0, 130), result
            assert result.code == 0 or result.out == f"stopped by signal {int(number)}\n", result
            case.examine()
            if case.argv[0] == "create" and "--with-clean" not in case.argv:
                assert_nothing_half_done(case.store, made=result.code == 0)
            case.repeat()
            case.restore()
            assert_same_state(state(case.store), pristine)
        points.covered(f"stopped by {number.name}, {name}", count)


def assert_nothing_half_done(store: Store, *, made: bool) -> None:
    """Behind an interrupted create there are whole layers, downloads that can go on, and lock files."""
    assert made == ("victim" in store.list())
    assert made == os.path.lexists(store.image("victim")) == store.record("victim").exists()
    assert [name for name in store.temporary() if not name.startswith("blob-")] == []
    known = set(store.volumes())
    assert not [name for name in known if "-incomplete-" in name or name.startswith("gc.")]
    sizes = {name.removeprefix("volume-") for name in os.listdir(store.path / "meta") if name.startswith("volume-")}
    assert sizes <= known, sizes - known


# -- refused ------------------------------------------------------------------------------

REFUSALS = {
    "EIO": (errno.EIO, False),
    "ENOSPC": (errno.ENOSPC, False),
    "EIO from there on": (errno.EIO, True),
    "EROFS from there on": (errno.EROFS, True),
}


@pytest.mark.parametrize(("name", "refusal"), each_with_one_of(CASES, REFUSALS))
def test_refused(stage: Stage, points: Points, name: str, refusal: str) -> None:
    """A call that changes something fails: one clear line or a right result, and nothing that `clean` does not remove."""
    refuse_everywhere(CASES[name](stage), points, name, refusal, reads=False)


@pytest.mark.parametrize(("name", "refusal"), each_with_one_of(CASES, ["EIO", "EIO from there on"]))
def test_refused_to_read(stage: Stage, points: Points, name: str, refusal: str) -> None:
    """As `test_refused`, for calls that only look: a store that cannot be read is not a store with nothing in it."""
    refuse_everywhere(CASES[name](stage), points, name, refusal, reads=True)


@pytest.mark.parametrize(("name", "refusal"), each_with_one_of(ROOTLESS, ["EIO", "ENOSPC"]))
def test_refused_as_a_user(rootless_stage: Stage, points: Points, name: str, refusal: str) -> None:
    refuse_everywhere(ROOTLESS[name](rootless_stage), points, name, refusal, reads=False)


@pytest.mark.parametrize("refusal", ["EIO", "ENOSPC"])
def test_refused_while_pulling(registry_case: Case, points: Points, refusal: str) -> None:
    refuse_everywhere(registry_case, points, "docker", refusal, reads=False)


def refuse_everywhere(case: Case, points: Points, name: str, refusal: str, *, reads: bool) -> None:
    number, onwards = REFUSALS[refusal]
    how = ("--errno", str(number), *(["--onwards"] if onwards else []))
    count, pristine = measure(case)
    if reads:
        case.prepare()
        count = len(case.trace(reads=True).calls)
        case.restore()
    for at in points.of(count, SAMPLE, len(name) + number):
        case.prepare()
        traced = case.trace(at, how, reads=reads)
        with hit(at, count, traced):
            if traced.result.code != 0:
                traced.result.failed()
            case.examine()
            if case.argv[0] == "create":
                # Reported is what is there, unless nothing could be taken back, or the image was made and the clean failed.
                made = "victim" in case.store.list()
                assert made or traced.result.code != 0
                assert not made or traced.result.code == 0 or onwards or "--with-clean" in case.argv
            case.repeat()
            case.restore()
            assert_same_state(state(case.store), pristine)
        points.covered(f"{refusal}{' for looks' if reads else ''}, {name}", count)


# -- stores themselves ----------------------------------------------------------------------


class Bare:
    """A store that comes and goes."""

    def __init__(self, scratch: Path) -> None:
        self.store = Store(scratch / "bare")
        self.scratch = scratch
        self.url = write_layout(scratch / "layout", *JUNK)

    def init(self) -> tuple[str, ...]:
        """The command that makes it."""
        return ("init-store", "--store-size-bytes", str(128 * MIB), "--uid-mapping", "0:5000:1", "--gid-mapping", "0:5000:1")

    def fill(self) -> None:
        """Make it, with an image, an unused volume, and what an interrupted create leaves."""
        self.store.run(*self.init()).ok()
        self.store.create(self.url, "victim", *LIMIT)
        (self.store.path / "tmp" / "record-1-0").write_text("")
        mounts.tool("btrfs", "subvolume", "create", self.store.path / "volumes" / "x-incomplete-1-2")

    def assert_usable(self) -> None:
        """It is a whole store."""
        rootfs = self.store.create(self.url, "victim", *LIMIT)
        assert rootfs.stat().st_uid == 5000
        self.store.clean()
        assert self.store.list() == ["victim"]

    def assert_gone(self) -> None:
        """Nothing is left of it, in the file system, among the mounts, among the loop devices."""
        assert sorted(os.listdir(self.scratch)) == ["layout"]
        assert mounts.mounts_below(self.scratch) == [] and mounts.loops_below(self.scratch) == []


@pytest.fixture
def bare(scratch: Path) -> Bare:
    return Bare(scratch)


HOWS: dict[str, tuple[str, ...]] = {
    "killed": KILL,
    "killed alone": ("--kill", "main"),
    "child killed": ("--kill", "caller"),
    "SIGTERM": STOPS[signal.SIGTERM],
    "EIO": ("--errno", str(errno.EIO)),
    "ENOSPC from there on": ("--errno", str(errno.ENOSPC), "--onwards"),
}


def interrupt_store_command(bare: Bare, points: Points, how: str, argv: tuple[str, ...], prepare: Callable[[], None]) -> Iterator[Traced]:
    """Interrupt a command on a whole store everywhere; yields after each, before and after which nothing may be there."""
    prepare()
    whole = trace(bare.store, bare.scratch, *argv)
    whole.result.ok()
    bare.store.run("delete-store").ok()
    bare.assert_gone()
    for at in points.of(len(whole.calls), SAMPLE, len(how)):
        prepare()
        traced = trace(bare.store, bare.scratch, *argv, at=at, how=HOWS[how])
        with hit(at, len(whole.calls), traced):
            if how in ("SIGTERM", "EIO", "ENOSPC from there on"):
                assert "Traceback" not in traced.result.out and traced.result.err == ""
            yield traced
            bare.store.run("delete-store").ok()
            bare.assert_gone()
        points.covered(f"{argv[0]}, {how}", len(whole.calls))


@pytest.mark.parametrize("how", HOWS)
def test_init_store_interrupted(bare: Bare, points: Points, how: str) -> None:
    """The same command again makes the store; what it was before it failed is taken back where there was somebody to do so."""
    for traced in interrupt_store_command(bare, points, how, bare.init(), lambda: None):
        if "kill" not in how and traced.result.code != 0 and "onwards" not in " ".join(HOWS[how]):
            bare.assert_gone()
        bare.store.run(*bare.init()).ok()
        bare.assert_usable()


@pytest.mark.parametrize("how", HOWS)
def test_delete_store_interrupted(bare: Bare, points: Points, how: str) -> None:
    """The same command again finishes it."""
    for _ in interrupt_store_command(bare, points, how, ("delete-store",), bare.fill):
        pass
