"""Fixtures: stores on loop devices, and places for archives.

The stores need root, BTRFS and loop devices. Where one is missing the tests fail: a suite that skips what matters is
green and says nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from support import mounts
from support.accounts import User, make_account
from support.attack import Attack, beside
from support.command import MIB, Store, new_id
from support.interruption import Points
from support.layout import write_layout

# Explaining a failure runs hundreds of commands and says little about trees.
PHASES = [phase for phase in Phase if phase is not Phase.explain]
settings.register_profile("default", deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES, print_blob=True)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


COVERED = pytest.StashKey[Counter[tuple[str, int]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--full``: interrupt commands at every system call and the disk at every write, not at a sample of them. ``--steps`` and
    ``--seed``: how far the random walk over pulls goes, and which way."""
    parser.addoption("--full", action="store_true", help="hit every point of interruption, not a sample (takes an hour)")
    parser.addoption("--steps", type=int, default=25, help="steps of the random walk over pulls")
    parser.addoption("--seed", type=int, default=1, help="where it goes")


# Under `nohup` and in the background of a script these are ignored, and so they would be by the commands that are to end by them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def points(request: pytest.FixtureRequest) -> Points:
    """Which points of a command are hit."""
    covered = request.config.stash.setdefault(COVERED, Counter())
    return Points(full=request.config.getoption("--full"), covered=lambda name, count: covered.update({(name, count): 1}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many points of interruption were hit, of how many."""
    covered = config.stash.get(COVERED, Counter())
    for (name, count), hit in sorted(covered.items()):
        terminalreporter.write_line(f"{name}: {hit} of {count} points")
    if covered:
        terminalreporter.write_line(f"points of interruption: {covered.total()}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what makes file systems; leave to full runs what is theirs."""
    for item in items:
        if "scratch" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.btrfs)
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def scratch_root() -> Iterator[Path]:
    """A directory that every user may walk, for stores and what is beside them. Nothing below it stays mounted."""
    missing = mounts.missing_requirements()
    if missing:
        pytest.fail(missing, pytrace=False)
    path = Path(tempfile.mkdtemp(prefix="groot-tests-")).resolve()
    path.chmod(0o755)
    yield path
    mounts.release(path)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def module_scratch(scratch_root: Path) -> Iterator[Path]:
    """As `scratch`, for a whole module."""
    yield from _directory(scratch_root)


@pytest.fixture
def scratch(scratch_root: Path) -> Iterator[Path]:
    """A directory of one test; what was mounted below it goes away with it."""
    yield from _directory(scratch_root)


def _directory(parent: Path) -> Iterator[Path]:
    path = parent / new_id()
    path.mkdir(mode=0o755)
    yield path
    mounts.release(path)
    shutil.rmtree(path)


MakeStore = Callable[..., Store]


@pytest.fixture
def make_store(scratch: Path) -> MakeStore:
    """Makes initialised stores; takes the options of `init-store`."""

    def make(*flags: str, size: int = 1024 * MIB) -> Store:
        store = Store(scratch / f"store-{new_id()}")
        assert store.init(*flags, size=size).ok().out == ""
        return store

    return make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """A fresh store."""
    return make_store()


@pytest.fixture(scope="module")
def shared_store(module_scratch: Path) -> Store:
    """A store for a whole module: tests must not care what else is in it."""
    store = Store(module_scratch / "store")
    store.init(size=2048 * MIB).ok()
    return store


@pytest.fixture(scope="session")
def user() -> Iterator[User]:
    """An ordinary account with subordinate ids."""
    with make_account() as account:
        yield account


@pytest.fixture
def image(scratch: Path) -> Callable[..., str]:
    """Writes an image and gives its URL; takes layers from bottom to top."""

    def write(*parts: object, **options: object) -> str:
        return write_layout(scratch / new_id(), *parts, **options)  # type: ignore[arg-type]

    return write


@pytest.fixture
def attack(shared_store: Store, scratch: Path) -> Iterator[Attack]:
    """Applies hostile layers in the shared store, beside a sentinel."""
    with beside(shared_store, scratch) as prepared:
        yield prepared
