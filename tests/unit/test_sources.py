"""Sources that the disk refuses something."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from groot_fast._core import Cancel
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
