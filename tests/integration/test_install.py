"""`make install`: over an installation in use, below another root, failing half-way, and taken away again."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "install-files"
NOT_THERE = (1, "Store path is not initialized. Please run init-store.\n", "")
"""What Python's part of the program says of no store, without the hint that follows."""
PYTHON = ("--store", "/nowhere", "check")


def install(prefix: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = ["sh", SCRIPT, prefix, REPOSITORY / "build"]
    return subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


def call(prefix: Path) -> tuple[int, str, str]:
    done = subprocess.run([prefix / "bin" / "grootfs", *PYTHON], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.partition("\n")[0] + "\n", done.stderr


def releases(prefix: Path) -> list[str]:
    return sorted(os.listdir(prefix / "lib" / "groot_fast" / "releases"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Installed once; tests may install over it."""
    prefix = tmp_path_factory.mktemp("install") / "prefix"
    done = install(prefix)
    assert done.returncode == 0, done
    yield prefix
    shutil.rmtree(prefix)


@pytest.fixture
def copy(installed: Path, tmp_path: Path) -> Path:
    """An installation to break: nothing in it depends on where it is."""
    prefix = tmp_path / "prefix"
    shutil.copytree(installed, prefix, symlinks=True)
    return prefix


def test_every_call_sees_the_old_or_the_new(installed: Path) -> None:
    """Both languages, all the time, and each process stays with the release that it began in."""
    seen: list[tuple[int, str, str]] = []
    ended = threading.Event()

    def storm() -> None:
        while not ended.is_set():
            seen.append(call(installed))

    callers = [threading.Thread(target=storm) for _ in range(2)]
    for caller in callers:
        caller.start()
    before = os.readlink(installed / "lib" / "groot_fast" / "current")
    try:
        assert install(installed).returncode == 0
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert len(seen) > 10 and set(seen) == {NOT_THERE}
    assert os.readlink(installed / "lib" / "groot_fast" / "current") != before
    assert len(releases(installed)) == 2, "the one before stays until the next"
    assert not (installed / "lib" / "groot_fast" / before / "bin" / "drax").stat().st_mode & 0o4000
    assert (installed / "bin" / "drax").stat().st_mode & 0o7777 == 0o4755
    for file in ("share/man/man8/grootfs.8", "share/bash-completion/completions/grootfs"):
        assert (installed / file).read_text()


def test_a_failed_install_leaves_the_old(installed: Path) -> None:
    before = os.readlink(installed / "lib" / "groot_fast" / "current"), releases(installed)
    failed = install(installed, PIP_NO_INDEX="1", PIP_NO_CACHE_DIR="1")
    assert failed.returncode != 0
    assert (os.readlink(installed / "lib" / "groot_fast" / "current"), releases(installed)) == before
    assert call(installed) == NOT_THERE


def test_over_a_release_of_another_form(copy: Path) -> None:
    """An older one had its files in place."""
    home = copy / "lib" / "groot_fast"
    release = home / os.readlink(home / "current")
    (copy / "bin" / "grootfs").unlink()
    shutil.copy(release / "bin" / "grootfs", copy / "bin" / "grootfs")
    shutil.move(release / "lib" / "groot_fast" / "venv", home / "venv")
    (home / "current").unlink()
    assert call(copy) == NOT_THERE
    assert install(copy).returncode == 0
    assert (copy / "bin" / "grootfs").is_symlink() and call(copy) == NOT_THERE
    assert (home / "venv").exists(), "calls that began before may still need it"


def test_below_another_root(tmp_path: Path) -> None:
    assert install("/usr/local", DESTDIR=str(tmp_path / "root")).returncode == 0
    prefix = tmp_path / "root" / "usr" / "local"
    (tmp_path / "root").rename(tmp_path / "moved")
    prefix = tmp_path / "moved" / "usr" / "local"
    assert call(prefix) == NOT_THERE
    (prefix / "bin" / "other").write_text("")
    removed = subprocess.run(["sh", SCRIPT, "--remove", "/usr/local"], env={**os.environ, "DESTDIR": str(tmp_path / "moved")}, check=False)
    assert removed.returncode == 0
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == [prefix / "bin" / "other"]


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_an_interpreter_that_vanished_or_changed(copy: Path, tmp_path: Path, command: str) -> None:
    home = copy / "lib" / "groot_fast"
    interpreter = home.resolve() / os.readlink(home / "current") / "lib" / "groot_fast" / "venv" / "bin" / "python3"
    for path in interpreter.parent.glob("python*"):
        path.unlink()
    interpreter.symlink_to(tmp_path / "python3")
    (tmp_path / "python3.99").write_text("")
    for what, there in ((f"the Python that it was installed for is gone: {tmp_path}/python3", False), ("it is another Python now: ", True)):
        if there:
            (tmp_path / "python3").symlink_to("python3.99")
        done = subprocess.run([copy / "bin" / "grootfs", "--store", "/nowhere", command], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith(f"cannot run {interpreter}: {what}") and "hint: install groot_fast again" in done.stdout
    done = subprocess.run([copy / "bin" / "grootfs", "--store", "/nowhere", "list"], capture_output=True, text=True)
    assert done.stdout.startswith("no store found"), "what needs no Python goes on"


def test_the_site_file_of_the_prefix(copy: Path) -> None:
    """Below the prefix, where no later install takes it away; for both languages."""
    site = copy / "etc" / "grootfs" / "defaults.yml"
    site.parent.mkdir(parents=True)
    site.write_text("compatibility: newest\nlog_level: info\n")
    done = subprocess.run([copy / "bin" / "grootfs", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "grootfs version 0.30.1\n"
    code, out, err = call(copy)
    assert (code, out) == NOT_THERE[:2] and '"level":"error"' in err
