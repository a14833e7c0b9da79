"""Commands that are killed, stopped or refused at their N-th system call (`tracer`), and stores held against themselves."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from support import mounts
from support.command import COMMAND, TIMEOUT, Grootfs, Result, Store, wait_for
from support.tree import photograph

TRACER = Path(__file__).with_name("tracer.py")
SYSTEM_PYTHON = os.path.realpath(sys.executable)
"""The interpreter itself: ordinary users can run it wherever the environment of the tests is."""


class Traced(NamedTuple):
    """What the tracer saw: texts of the calls up to the one that was hit, and how the command ended."""

    result: Result
    calls: list[str]
    hit: bool
    other: Result | None = None
    """How the command ended that was run meanwhile."""

    @property
    def last(self) -> str:
        """The call that was hit."""
        return self.calls[-1] if self.calls else ""


def trace(command: Grootfs, below: Path, *argv: str | Path, at: int = 0, how: tuple[str, ...] = (), reads: bool = False) -> Traced:
    """Run a command under the tracer; ``how`` are its options for what happens, at the ``at``-th call where that matters."""
    report = below / f"trace-{os.getpid()}.json"
    options = ["--report", str(report), "--below", str(below), "--at", str(at), *how, *(["--reads"] if reads else [])]
    if command.uid is not None:
        options += ["--uid", str(command.uid), "--gid", str(pwd.getpwuid(command.uid).pw_gid)]
    argv_of_command = [COMMAND, *command.options, *map(str, argv)]
    done = subprocess.run(
        [SYSTEM_PYTHON, "-IS", TRACER, *options, "--", *argv_of_command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C.UTF-8"},
        cwd="/",
    )
    assert done.returncode == 0, done
    seen = json.loads(report.read_text())
    report.unlink()
    other = Result(("meanwhile",), seen["other"], seen["said"], "") if seen["other"] is not None else None
    out, err = (data.decode("utf-8", "surrogateescape") for data in (done.stdout, done.stderr))
    return Traced(Result(tuple(argv_of_command), seen["status"], out, err), seen["calls"], seen["hit"], other)


class Points:
    """Which calls of a command are hit: all of them, or ``sample`` of them, evenly spread."""

    def __init__(self, *, full: bool, covered: Callable[[str, int], object]) -> None:
        self.full = full
        self.covered = covered
        """To be called with a name and the count for each point that was hit."""

    def of(self, count: int, sample: int, offset: int = 0) -> Iterator[int]:
        """Numbers of calls, from 1. ``offset`` shifts the sample, so that several take different ones."""
        step = 1 if self.full or count <= sample else count / sample
        place = 1.0 if step == 1 else 1 + offset % max(int(step), 1)
        while place <= count:
            yield int(place)
            place += step


KILL = ("--kill", "tree")
STOPS = {number: ("--signal", str(int(number))) for number in (signal.SIGTERM, signal.SIGINT)}


def state(store: Store) -> dict[str, object]:
    """Everything in a store that a leak could show in, without times and without what only runs can tell apart.

    Contents of subvolumes are left to whoever knows what they should be.
    """
    entries: dict[str, object] = {}
    for folder, directories, files in os.walk(store.path):
        for name in [*directories, *files]:
            path = Path(folder) / name
            info = path.lstat()
            relative = str(path.relative_to(store.path))
            kind = "subvolume" if info.st_ino == 256 else oct(info.st_mode)
            content = path.read_bytes() if relative.startswith("meta/") and path.is_file() else b""
            entries[relative] = (kind, info.st_uid, info.st_gid, content)
        directories[:] = [name for name in directories if (Path(folder) / name).lstat().st_ino != 256]
    # Made when first needed, kept for good.
    for name in ("locks/global-groot-lock.lock", "locks/groot-gc-lock.lock", "meta/sources"):
        entries.pop(name, None)
    return {
        "entries": entries,
        "subvolumes": sorted(store.subvolumes()),
        "groups": store.groups(),
        "mounts": [str(point) for point in mounts.mounts_below(store.path)],
        "loops": mounts.loops_below(store.path.parent),
    }


def wait_until_freed(store: Store) -> None:
    """The kernel takes deleted subvolumes apart with its next commits; until then they have their quota groups."""

    def is_done() -> bool:
        mounts.tool("btrfs", "filesystem", "sync", store.path)
        return not mounts.tool("btrfs", "subvolume", "list", "-d", store.path)

    wait_for(is_done, "deleted subvolumes are freed", pause=0.01)
    # What they had is taken off the counters of their groups with the commit after that; a group that counts something stays.
    mounts.tool("btrfs", "filesystem", "sync", store.path)


def assert_same_state(actual: dict[str, object], expected: dict[str, object]) -> None:
    """Compare two states and say what differs."""
    for key, value in expected.items():
        other = actual[key]
        if isinstance(value, dict) and isinstance(other, dict):
            different = sorted(name for name in {*value, *other} if value.get(name) != other.get(name))
            assert not different, {name: (other.get(name), "expected", value.get(name)) for name in different}
        assert other == value, f"{key}: {other}, expected {value}"


def assert_volumes_whole(store: Store, trees: dict[str, object]) -> None:
    """What has a final name is a whole volume."""
    for name in store.volumes():
        if name in trees:
            assert photograph(store.path / "volumes" / name) == trees[name], name
        else:
            assert "-incomplete-" in name or name.startswith("gc."), name
