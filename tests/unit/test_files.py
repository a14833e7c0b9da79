"""`groot_fast.files` answers as `os.path` does, and reads to the end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast import files

QUESTIONS = (
    (files.exists, os.path.exists),
    (files.is_present, os.path.lexists),
    (files.is_directory, os.path.isdir),
    (files.is_file, os.path.isfile),
    (files.is_own_directory, lambda path: os.path.isdir(path) and not os.path.islink(path)),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "file", "missing"):
        (tmp_path / f"to-{name}").symlink_to(name)
    (tmp_path / "to-itself").symlink_to("to-itself")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["directory", "file", "pipe", "missing", "to-directory", "to-file", "to-missing", "to-itself", "file/below", "to-directory/../file"],
)
def test_same_answers(tree: Path, name: str) -> None:
    path = str(tree / name)
    assert [ours(path) for ours, _ in QUESTIONS] == [theirs(path) for _, theirs in QUESTIONS]


@pytest.mark.parametrize("path", ["", "\0", "a\0b", "x" * 5000])
def test_what_is_no_path(path: str) -> None:
    assert not any(ours(path) for ours, _ in QUESTIONS)


def test_real_path(tree: Path) -> None:
    for name in ("directory", "file", "to-directory", "to-directory/../file", "."):
        path = f"{tree}/{name}"
        assert files.real_path(path) == os.path.realpath(path), name
    assert files.real_path(f"{tree}/missing") == f"{tree}/missing"


@given(st.binary())
def test_names_that_are_no_text(name: bytes) -> None:
    assert files.encode(files.decode(name)) == name


@pytest.mark.parametrize("size", [0, 1, files.FIRST_READ - 1, files.FIRST_READ, files.FIRST_READ + 1, 5 * files.FIRST_READ + 7])
@pytest.mark.parametrize("most", [0, 1, files.FIRST_READ, 1 << 20])
def test_read(tmp_path: Path, size: int, most: int) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert files.read(str(tmp_path / "f"), most) == content[:most]


def test_a_pipe_is_read_to_its_end(tree: Path) -> None:
    """A configuration may come from `<(...)`, piece by piece."""

    def fill() -> None:
        with open(tree / "pipe", "wb", buffering=0) as pipe:
            for _ in range(50):
                pipe.write(b"x" * 1000)

    writer = threading.Thread(target=fill)
    writer.start()
    assert files.read(str(tree / "pipe"), 1 << 20) == b"x" * 50_000
    writer.join()


def test_flags(tree: Path) -> None:
    with pytest.raises(OSError):
        files.read(str(tree / "to-file"), 10, os.O_NOFOLLOW)
    with pytest.raises(IsADirectoryError):
        files.read(str(tree / "directory"), 10)


def test_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROOTFS_TEST", "\udcff/x")
    assert files.variable("GROOTFS_TEST") == "\udcff/x"
    monkeypatch.delenv("GROOTFS_TEST")
    assert files.variable("GROOTFS_TEST") == ""
