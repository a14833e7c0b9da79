"""Sources that the disk refuses something."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from groot_fast._core import Cancel
from groot_fast.config import Settings
from groot_fast.errors import SourceError
from groot_fast.sources.docker import _Queue
from groot_fast.sources.local import LocalSource
from groot_fast.telemetry.metrics import Metrics
from support.plain import plain_store


def test_a_directory_is_known_by_what_is_in_it_whatever_a_second_look_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("x")
    known = LocalSource(str(tmp_path), Settings({}), Cancel()).resolve().chain_ids
    monkeypatch.setattr("os.path.isdir", lambda path: False)
    assert LocalSource(str(tmp_path), Settings({}), Cancel()).resolve().chain_ids == known


def test_a_note_that_cannot_be_written_fails_no_create(tmp_path: Path) -> None:
    class Refusing:
        released = False

        def write_note(self, _: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def release(self) -> None:
            self.released = True

    queue, lock = _Queue(plain_store(tmp_path), "pull-x", Metrics(), lambda: False), Refusing()
    with queue as answered:
        assert not answered
        queue.asking()
        assert queue._lock is not None
        queue._lock.release()
        queue._lock = lock  # type: ignore[assignment]
    assert lock.released


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
        LocalSource(argument, Settings({}), Cancel()).resolve()
    assert caught.value.hint == hint
