"""How fast blobs come: as fast as they are unpacked, and those behind them slowly while the unpacker has enough."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from time import sleep

import pytest

from groot_fast._core import Blob, Layer, Spool
from groot_fast.pull.downloads import AHEAD, Downloads, Network
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import Metrics
from groot_fast.telemetry.progress import Listener
from support.command import MIB, wait_for
from support.plain import plain_store

SIZE = 24 * MIB
CHUNK = bytes(256 << 10)
LAYERS = [Layer(chain_id=name, size=SIZE, digest=hashlib.sha256(name.encode()).hexdigest()) for name in ("low", "high")]


async def stream(layer: Layer, offset: int) -> AsyncGenerator[bytes, None]:
    """A network without limits."""
    for _ in range(offset, SIZE, len(CHUNK)):
        yield CHUNK


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    (tmp_path / "tmp").mkdir()
    network = Network()
    try:
        yield Downloads(plain_store(tmp_path), network, stream, Logger(open_sink(None, None), "test"), Listener(), Metrics())
    finally:
        network.close()


def read(blob: str | Blob | Spool) -> int:
    """Read a blob to its end; gives the bytes."""
    assert isinstance(blob, Spool)
    ours, theirs = os.pipe()

    def copy() -> None:
        blob.copy_to(theirs)
        os.close(theirs)

    thread = threading.Thread(target=copy)
    thread.start()
    with open(ours, "rb") as pipe:
        size = sum(len(data) for data in iter(lambda: pipe.read(1 << 16), b""))
    thread.join()
    return size


def test_what_is_not_read_is_held_back(downloads: Downloads) -> None:
    low, high = LAYERS
    with downloads:
        downloads.start(LAYERS)
        first = downloads.open(low)
        assert isinstance(first, Spool)
        wait_for(lambda: first.written > AHEAD, "some is fetched ahead")
        sleep(0.3)
        assert AHEAD < first.unread <= AHEAD + len(CHUNK)
        assert read(first) == SIZE
        downloads.done(low)
        assert read(downloads.open(high)) == SIZE
        downloads.done(high)


def test_those_behind_come_at_once_while_the_unpacker_waits_for_another_process(downloads: Downloads, tmp_path: Path) -> None:
    low, high = LAYERS
    other = os.open(tmp_path / "tmp" / f"blob-{low.digest}", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    sizes: list[int] = []
    with downloads:
        downloads.start(LAYERS)
        unpacker = threading.Thread(target=lambda: sizes.append(read(downloads.open(low))))
        unpacker.start()
        wait_for(lambda: (tmp_path / "tmp" / f"blob-{high.digest}").stat().st_size == SIZE, "all of the other blob", timeout=4)
        os.close(other)
        unpacker.join()
        assert sizes == [SIZE]
        downloads.done(low)
        assert read(downloads.open(high)) == SIZE
        downloads.done(high)
