"""Sources that the disk refuses something."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from groot_fast._core import Cancel
from groot_fast.errors import SourceError
from groot_fast.idmap import Mappings
from groot_fast.sources.docker import _Queue
from groot_fast.sources.local import LocalSource
from groot_fast.store.layout import Store
from groot_fast.telemetry.metrics import Metrics


def test_a_directory_is_known_by_what_is_in_it_whatever_a_second_look_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("x")
    known = LocalSource(str(tmp_path), Cancel()).resolve().chain_ids
    monkeypatch.setattr("os.path.isdir", lambda path: False)
    assert LocalSource(str(tmp_path), Cancel()).resolve().chain_ids == known


def test_a_note_that_cannot_be_written_fails_no_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locks").mkdir()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("posix.pwrite", refuse)
    queue = _Queue(Store(str(tmp_path), Mappings([], [])), "pull-x", Metrics(), lambda: False)
    with queue as answered:
        assert not answered
        queue.asking()


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("registry.example:5000/app:v1", "for an image in a registry write docker://registry.example:5000/app:v1"),
        ("registry.example/app", "for an image in a registry write docker://registry.example/app"),
        ("docker:/registry.example/app", "for an image in a registry write docker://registry.example/app"),
        ("docker:host/app", "for an image in a registry write docker://host/app"),
        ("user:hunter2@registry.example/app", None),
        ("some/directory", None),
        ("/absolute/v1.tar", None),
        ("./a.b/file.tar", None),
    ],
)
def test_a_forgotten_scheme_has_a_hint(argument: str, hint: str | None) -> None:
    with pytest.raises(SourceError, match=r"^fetching image timestamp: stat ") as caught:
        LocalSource(argument, Cancel()).resolve()
    assert caught.value.hint == hint
