"""Sources that the disk refuses something."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from groot_fast._core import Cancel
from groot_fast.config import Settings
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

    queue, lock = _Queue(plain_store(tmp_path), "pull-x", Metrics()), Refusing()
    with queue as answered:
        assert not answered
        queue.asking()
        assert queue._lock is not None
        queue._lock.release()
        queue._lock = lock  # type: ignore[assignment]
    assert lock.released
