"""Tar files on this machine, whose names and times may say less than one thinks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.archive import Archive
from support.command import COMMAND, MIB, Store, wait_for


def write(path: Path, content: str, time: float = 1_700_000_000) -> Path:
    """A tar file with one file, and this time of modification."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Archive().file("who", content.encode()).tar)
    os.utime(path, (time, time))
    return path


def create(store: Store, image: str, image_id: str, cwd: Path, stdin: Path | None = None) -> str:
    """What is in the image that this gives."""
    argv = [COMMAND, "--store", str(store.path), "create", image, image_id]
    with open(stdin or os.devnull, "rb") as file:
        done = subprocess.run(argv, cwd=cwd, stdin=file, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return (store.rootfs(image_id) / "who").read_text()


def a_link_that_moves(store: Store, directory: Path) -> list[str]:
    """As `nix-build` leaves it: everything below has the same time."""
    link = directory / "result"
    found = []
    for name in ("one", "two"):
        target = write(directory / name / "i.tar", name, 1)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        found.append(create(store, str(link), name, directory))
    return found


def a_relative_path(store: Store, directory: Path) -> list[str]:
    """The same path from two directories."""
    return [create(store, "i.tar", name, write(directory / name / "i.tar", name).parent) for name in ("one", "two")]


def standard_input(store: Store, directory: Path) -> list[str]:
    """The same path for whatever is behind it."""
    return [create(store, "/dev/stdin", name, directory, write(directory / f"{name}.tar", name)) for name in ("one", "two")]


def a_time_put_back(store: Store, directory: Path) -> list[str]:
    """As `cp -p`, `rsync -t` and unpacking an archive do, in the same file."""
    path = directory / "i.tar"
    return [create(store, str(write(path, name)), name, directory) for name in ("one", "two")]


@pytest.mark.parametrize("case", [a_link_that_moves, a_relative_path, standard_input, a_time_put_back])
def test_a_file_is_not_taken_for_another_one(store: Store, scratch: Path, case: Callable[[Store, Path], list[str]]) -> None:
    assert case(store, scratch) == ["one", "two"]
    assert (store.rootfs("one") / "who").read_text() == "one", "an image keeps what it was made of"
    assert store.run("check", "--deep").ok().out == "nothing found\n"


def test_a_file_that_stays_is_unpacked_once(store: Store, scratch: Path) -> None:
    path = write(scratch / "i.tar", "one")
    create(store, str(path), "a", scratch)
    before = {name: (store.path / "volumes" / name).stat().st_ino for name in store.volumes()}
    stamps = {name: os.stat(store.path / "meta" / f"volume-{name}").st_mtime_ns for name in before}
    create(store, str(path), "b", scratch)
    assert {name: os.stat(store.path / "meta" / f"volume-{name}").st_mtime_ns for name in store.volumes()} == stamps


def test_a_volume_that_does_not_say_of_which_file_it_is_serves(store: Store, scratch: Path) -> None:
    """The original's, and those of older releases."""
    path = write(scratch / "i.tar", "one")
    create(store, str(path), "a", scratch)
    (name,) = store.volumes()
    record = store.path / "meta" / f"volume-{name}"
    assert "File" in record.read_text()
    record.write_text('{"Size": 3}\n')
    create(store, str(path), "b", scratch)
    assert record.read_text() == '{"Size": 3}\n'


def test_a_file_that_changes_while_it_is_read(store: Store, scratch: Path) -> None:
    """Replaced after it was looked at, or written on: nothing of it becomes an image, and the next create takes what is there."""
    path = scratch / "i.tar"
    path.write_bytes(Archive().file("who", b"one").file("big", os.urandom(60 * MIB)).tar)
    process = store.start("create", path, "a")
    wait_for(lambda: any("incomplete" in name for name in store.volumes()), "the volume is being made")
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    refused = store.finish(process)
    assert refused.code == 1 and "the file was replaced or changed meanwhile" in refused.message, refused
    assert store.volumes() == [] and not store.image("a").exists()
    assert (store.create(path, "a") / "who").read_text() == "one"


def test_a_directory_with_the_store_in_it(store: Store) -> None:
    for path in (store.path, store.path.parent, store.path.parent / ".." / store.path.parent.name):
        assert store.refuse(path, "").message == f"{path} holds the store {store.path}"
