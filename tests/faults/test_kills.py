"""Commands that are killed or stopped, at chosen moments and at random ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.archive import Archive, Layer
from support.command import Result, Store, kill, new_id, wait_for
from support.layout import chain_ids, write_layout
from support.tree import Tree, assert_same, photograph

FILES = 4000


def bulky() -> list[Layer]:
    """Three layers, of which the middle one takes a while: many files, and enough bytes to be caught writing them."""
    generator = random.Random(11)
    middle = Archive()
    for i in range(40):
        middle.dir(f"d{i}")
    for i in range(FILES):
        middle.file(f"d{i % 40}/{i}", generator.randbytes(600))
    return [
        Layer(Archive().dir(".").dir("base").file("base/f", "base").tar),
        Layer(middle.tar, "none"),
        Layer(Archive().file("top", "top").tar),
    ]


LAYERS = bulky()
CHAIN = chain_ids(LAYERS)


@pytest.fixture(scope="module")
def layout(module_scratch: Path) -> str:
    return write_layout(module_scratch / "bulky", *LAYERS)


@pytest.fixture(scope="module")
def expected(shared_store: Store, layout: str) -> Tree:
    return photograph(shared_store.create(layout, "reference"))


# -- moments ------------------------------------------------------------------------------


def exists(path: Path) -> Callable[[], bool]:
    return lambda: os.path.lexists(path)


def incomplete_of(store: Store, chain_id: str) -> Path | None:
    found = [name for name in store.volumes() if name.startswith(f"{chain_id}-incomplete-")]
    return store.path / "volumes" / found[0] if found else None


def half_unpacked(store: Store) -> bool:
    volume = incomplete_of(store, CHAIN[1])
    return volume is not None and (volume / "d20").exists()


MOMENTS: dict[str, Callable[[Store, str], object]] = {
    "lock file": lambda store, _id: exists(store.path / "locks" / f"{CHAIN[0]}.lock")(),
    "first volume": lambda store, _id: incomplete_of(store, CHAIN[0]) is not None,
    "first volume published": lambda store, _id: CHAIN[0] in store.volumes(),
    "second volume": lambda store, _id: incomplete_of(store, CHAIN[1]) is not None,
    "half unpacked": lambda store, _id: half_unpacked(store),
    "size record": lambda store, _id: exists(store.path / "meta" / f"volume-{CHAIN[1]}")(),
    "third volume": lambda store, _id: incomplete_of(store, CHAIN[2]) is not None,
    "image directory": lambda store, image_id: exists(store.image(image_id))(),
    "image record": lambda store, image_id: exists(store.record(image_id))(),
    "image.json": lambda store, image_id: exists(store.image(image_id) / "image.json")(),
    "rootfs": lambda store, image_id: exists(store.rootfs(image_id))(),
}


def interrupt(store: Store, process: subprocess.Popen[bytes], moment: Callable[[], object], number: int) -> Result:
    """Send a signal when the moment has come; the command may have been faster."""
    wait_for(lambda: moment() or process.poll() is not None, "the moment", pause=0)
    kill(process, number)
    return store.finish(process)


def assert_consistent(store: Store, image_id: str, result: Result) -> bool:
    """What others may see after a kill: the image is whole or not there, final names stand for whole volumes.

    Gives whether the image is there.
    """
    assert set(store.list()) <= {image_id}
    there = image_id in store.list()
    assert there or result.code != 0, "reported as made, and not there"
    counts = {CHAIN[0]: 1, CHAIN[1]: FILES + 1, CHAIN[2]: FILES + 2}
    for chain_id, files in counts.items():
        if chain_id in store.volumes():
            found = sum(len(names) for _, _, names in os.walk(store.path / "volumes" / chain_id))
            assert found == files, chain_id
    return there


def assert_works_again(store: Store, layout: str, image_id: str, expected: Tree) -> None:
    """The same id can be made, is right, and after delete and clean nothing at all is left."""
    assert_same(photograph(store.create(layout, image_id)), expected)
    store.delete(image_id)
    store.clean()
    assert store.volumes() == [] and store.temporary() == [] and os.listdir(store.path / "images") == []
    assert os.listdir(store.path / "meta" / "dependencies") == []
    assert sorted(os.listdir(store.path / "locks")) in (["global-groot-lock.lock", "groot-gc-lock.lock"], ["groot-gc-lock.lock"])
    assert not [name for name in os.listdir(store.path / "meta") if name.startswith("volume-")]
    assert store.subvolumes() == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_create_killed(store: Store, layout: str, expected: Tree, moment: str) -> None:
    image_id = "victim"
    process = store.start("create", layout, image_id)
    result = interrupt(store, process, lambda: MOMENTS[moment](store, image_id), signal.SIGKILL)
    if moment not in ("image.json", "rootfs", "image record", "image directory", "third volume"):
        assert result.code == -signal.SIGKILL, "the moment was missed"
    if assert_consistent(store, image_id, result):
        assert_same(photograph(store.rootfs(image_id)), expected)
        store.delete(image_id)
    assert_works_again(store, layout, image_id, expected)


def test_create_killed_at_random(store: Store, layout: str, expected: Tree) -> None:
    """Again and again in one store, so that leftovers of one meet the next."""
    generator = random.Random(3)
    for _ in range(12):
        process = store.start("create", layout, "victim")
        try:
            process.wait(generator.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            kill(process)
        if assert_consistent(store, "victim", store.finish(process)):
            store.delete("victim")
        if generator.random() < 0.3:
            store.clean()
    assert_works_again(store, layout, "victim", expected)


@pytest.mark.parametrize("moment", ["first volume", "half unpacked", "size record", "image directory"])
def test_killed_create_cleaned_before_the_next(store: Store, layout: str, expected: Tree, moment: str) -> None:
    process = store.start("create", layout, "victim")
    interrupt(store, process, lambda: MOMENTS[moment](store, "victim"), signal.SIGKILL)
    if "victim" in store.list():
        store.delete("victim")
    store.clean()
    assert store.volumes() == [] and store.temporary() == [] and os.listdir(store.path / "images") == []
    assert_works_again(store, layout, "victim", expected)


def test_one_clean_is_enough_for_an_unfinished_image(store: Store, layout: str) -> None:
    """Killed between the record of an image and its snapshot: the record must not keep the volumes for another clean."""
    rootfs = store.create(layout, "victim")
    subprocess.run(["btrfs", "subvolume", "delete", rootfs], check=True, stdout=subprocess.DEVNULL)
    assert store.record("victim").exists()
    store.clean()
    assert store.volumes() == [] and os.listdir(store.path / "images") == [] and not store.record("victim").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["first volume", "second volume", "half unpacked"])
def test_create_stopped(store: Store, layout: str, expected: Tree, number: int, moment: str) -> None:
    process = store.start("create", layout, "victim")
    result = interrupt(store, process, lambda: MOMENTS[moment](store, "victim"), number)
    assert result.code != 0 and result.code == 130, result
    assert result.out.count("\n") == 1 and f"signal {int(number)}" in result.out and result.err == "", result
    assert not os.path.lexists(store.image("victim")) and not store.record("victim").exists()
    assert store.temporary() == [] and set(store.volumes()) <= set(CHAIN[:2])
    assert not [name for name in os.listdir(store.path / "meta") if name.startswith("volume-") and name[7:] not in store.volumes()]
    assert_works_again(store, layout, "victim", expected)


def test_second_signal_does_not_stop_the_clearing_up(store: Store, layout: str, expected: Tree) -> None:
    process = store.start("create", layout, "victim")
    wait_for(lambda: half_unpacked(store), "half unpacked", pause=0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        kill(process, number)
    result = store.finish(process)
    assert result.code == 130 and result.err == "" and set(store.volumes()) <= {CHAIN[0]}, result
    assert_works_again(store, layout, "victim", expected)


def test_stopped_with_a_limit_leaves_no_quota_groups(store: Store, layout: str) -> None:
    process = store.start("create", "--disk-limit-size-bytes", str(1 << 28), layout, "victim")
    assert interrupt(store, process, lambda: half_unpacked(store), signal.SIGTERM).code == 130
    store.clean()
    assert store.groups() == set()


# -- delete and clean ----------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["started", "rootfs gone", "image.json gone", "record gone"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_delete_interrupted(store: Store, layout: str, expected: Tree, moment: str, number: int) -> None:
    store.create(layout, "victim", "--disk-limit-size-bytes", str(1 << 28))
    moments: dict[str, Callable[[], object]] = {
        "started": lambda: True,
        "rootfs gone": lambda: not store.rootfs("victim").exists(),
        "image.json gone": lambda: not (store.image("victim") / "image.json").exists(),
        "record gone": lambda: not store.record("victim").exists(),
    }
    result = interrupt(store, store.start("delete", "victim"), moments[moment], number)
    assert "Traceback" not in result.out, result
    there = "victim" in store.list()
    assert not there or result.code != 0
    if there:
        assert_same(photograph(store.rootfs("victim")), expected)
    assert store.run("delete", "victim").ok().out in ("Image victim deleted\n", "Image `victim` not found. Skipping delete.\n")
    assert not store.image("victim").exists() and not store.record("victim").exists()
    assert_works_again(store, layout, "victim", expected)


def test_clean_killed_at_random(store: Store, image: Callable[..., str]) -> None:
    """A clean that was killed anywhere is finished by the next, and what is in use stays."""
    generator = random.Random(17)
    kept = store.create(image(Archive().file("base", "x"), Archive().file("kept", "y")), "kept")
    before = photograph(kept)
    for _ in range(6):
        for i in range(5):
            store.create(image(Archive().file("base", "x"), Archive().file(f"f{i}", new_id())), f"c{i}")
        for i in range(5):
            store.delete(f"c{i}")
        process = store.start("clean")
        try:
            process.wait(generator.uniform(0, 0.03))
        except subprocess.TimeoutExpired:
            kill(process)
        store.finish(process)
        assert store.list() == ["kept"]
        assert_same(photograph(kept), before)
    store.clean()
    assert len(store.volumes()) == 2 and sorted(os.listdir(store.path / "meta")) == sorted(
        ["dependencies", "namespace.json", "sources", *(f"{kind}-{name}" for name in store.volumes() for kind in ("volume", "listing"))]
    )
    assert_same(photograph(store.create(image(Archive().file("base", "x"), Archive().file("kept", "y")))), before)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_clean_interrupted_between_marking_and_destroying(store: Store, image: Callable[..., str], number: int) -> None:
    for i in range(20):
        store.create(image(Archive().file("f", f"{i}")), "c")
        store.delete("c")
    process = store.start("clean")
    result = interrupt(store, process, lambda: any(name.startswith("gc.") for name in store.volumes()), number)
    assert "Traceback" not in result.out and result.err == "", result
    assert store.run("list").ok().out == "Store empty\n"
    store.clean()
    assert store.volumes() == [] and not [name for name in os.listdir(store.path / "meta") if name.startswith("volume-")]


def test_killed_create_does_not_hold_anything(store: Store, layout: str) -> None:
    """Locks die with their process: a clean and a create right after a kill wait for nobody."""
    process = store.start("create", layout, "victim")
    wait_for(lambda: half_unpacked(store), "half unpacked", pause=0)
    kill(process)
    store.finish(process)
    assert store.run("clean", timeout=10).ok().out == "clean completed\n"
    store.create(layout, "victim")


def test_create_with_clean_killed(store: Store, image: Callable[..., str], layout: str, expected: Tree) -> None:
    """The image is made before the clean begins, whatever happens to that."""
    for i in range(15):
        store.create(image(Archive().file("f", f"{i}")), "c")
        store.delete("c")
    process = store.start("create", "--with-clean", layout, "victim")
    interrupt(store, process, lambda: any(name.startswith("gc.") for name in store.volumes()), signal.SIGKILL)
    assert store.list() == ["victim"]
    assert_same(photograph(store.rootfs("victim")), expected)
    store.delete("victim")
    assert_works_again(store, layout, "victim", expected)
