"""Building of volumes, with a store that fails."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from groot_fast._core import Cancel, Image, Layer
from groot_fast.pull.admission import Admission
from groot_fast.pull.blobs import LocalBlobs
from groot_fast.pull.builder import Builder
from groot_fast.telemetry.lager import Logger
from groot_fast.telemetry.metrics import Metrics
from groot_fast.telemetry.progress import Listener


class Held:
    """Something that is let go."""

    waited = 0
    chain_id = "a" * 64

    def __init__(self) -> None:
        self.is_held = True

    def release(self) -> None:
        """Let go."""
        self.is_held = False


class Failing:
    """A store with the lower volume, on which nothing can be built and nothing published."""

    def __init__(self) -> None:
        self.volume, self.lock = Held(), Held()

    def has_usable(self, chain_id: str, _validated: bool) -> bool:
        """See `_core.Store`."""
        return chain_id == Held.chain_id

    def existing_volume(self, *_: object) -> Held:
        """See `_core.Store`."""
        return self.volume

    def lock_missing(self, *_: object) -> Held:
        """See `_core.Store`."""
        return self.lock

    def make_volume(self, *_: object) -> None:
        """See `_core.Store`."""
        raise OSError(errno.EIO, "making")

    def publish(self, *_: object, durable: bool) -> None:
        """See `_core.Store`."""
        raise OSError(errno.EIO, f"publishing, {durable}")


def test_locks_are_let_go_when_publishing_fails() -> None:
    store: Any = Failing()
    trees: Any = None
    builder = Builder(store, trees, Cancel(), Logger.silent(), Listener(), Metrics(), Admission())
    layers = [Layer(chain_id=name * 64, path="/dev/null") for name in ("a", "b")]
    with pytest.raises(OSError, match="publishing"), LocalBlobs() as blobs:
        builder.volume_of(Image(layers), blobs)
    assert not store.volume.is_held and not store.lock.is_held
