"""`drax` by the name `tardis`: what the pre-start script of Garden's release asks before Garden may start (docs/newest.md)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import mounts
from support.accounts import User
from support.command import MIB, REPOSITORY, Store

DRAX = Path(os.environ.get("DRAX_BIN", REPOSITORY / "build" / "bin" / "drax"))


@pytest.fixture
def tardis(scratch: Path) -> Path:
    link = scratch / "tardis"
    link.symlink_to(DRAX)
    return link


def limit(tardis: Path, directory: Path, size: int = 102400, **options: object) -> tuple[int, str]:
    """As pre-start calls it; exit status and what it said."""
    argv = [tardis, "--log-timestamp-format", "rfc3339", "limit", "--disk-limit-bytes", str(size), "--image-path", directory]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("quota", ["simple", "full"])
def test_a_store_whose_limits_hold(make_store: Callable[..., Store], tardis: Path, quota: str) -> None:
    store = make_store("--quota", quota)
    directory = store.image("xfs_test")
    directory.mkdir()
    before = store.subvolumes()
    for size in (102400, 1, 10 * MIB, 1 << 50):
        assert limit(tardis, directory, size) == (0, "")
    assert list(directory.iterdir()) == [] and store.subvolumes() == before
    directory.rmdir()
    assert store.list() == []


def test_where_no_limit_would_hold(scratch: Path, tardis: Path) -> None:
    plain = scratch / "plain"
    plain.mkdir()
    assert limit(tardis, plain) == (1, f"{plain} is not on a BTRFS file system: no limit would hold\n")
    mounts.make_btrfs(scratch / "file", scratch / "btrfs", 256 * MIB)
    assert limit(tardis, scratch / "btrfs") == (1, "unable to limit requested quota group: quota not enabled\n")
    assert limit(tardis, scratch / "nothing") == (1, "opening the directory: No such file or directory (os error 2)\n")
    assert limit(tardis, scratch / "btrfs", 0)[0] == 1


def test_only_root_is_answered(store: Store, scratch: Path, user: User) -> None:
    helper = scratch / "helper" / "tardis"
    helper.parent.mkdir()
    helper.write_bytes(DRAX.read_bytes())
    helper.chmod(0o4755)
    assert limit(helper, scratch, user=user.uid, group=user.gid, extra_groups=[]) == (
        1,
        "tardis limit: only root can try whether limits hold\n",
    )


def test_anything_else_is_the_original_s_own(tardis: Path) -> None:
    for argv in (["stats", "--volume-path", "/"], ["handle-opqwhiteouts", "--opaque-path", "/"], []):
        done = subprocess.run([tardis, *argv], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "") and done.stdout.startswith("usage: tardis ")
