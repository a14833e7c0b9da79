"""How fast blobs come: as fast as they are unpacked, and those behind them slowly while nobody waits for them."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from groot_fast._core import Blob, Cancel, Layer, Spool, Store
from groot_fast.errors import SourceError, is_out_of_space
from groot_fast.pull import blob_file
from groot_fast.pull import downloads as module
from groot_fast.pull.blob_file import BlobFile
from groot_fast.pull.downloads import AHEAD, Downloads, Network
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import Metrics
from groot_fast.telemetry.progress import Listener
from support.command import MIB, wait_for
from support.plain import plain_store

SIZE = 24 * MIB
CHUNK = bytes(256 << 10)
LAYERS = [Layer(chain_id=name, size=SIZE, digest=hashlib.sha256(name.encode()).hexdigest()) for name in ("low", "high")]


async def stream(layer: Layer, offset: int, _: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """A network without limits."""
    for _ in range(offset, SIZE, len(CHUNK)):
        yield CHUNK


@pytest.fixture
def make_downloads(tmp_path: Path) -> Iterator[Callable[[], Downloads]]:
    """Makes what two processes have of one store: locks of open files keep them apart within one process, too."""
    (tmp_path / "tmp").mkdir()
    networks: list[Network] = []

    def make() -> Downloads:
        networks.append(Network())
        return Downloads(plain_store(tmp_path), networks[-1], stream, Logger(open_sink(None, None), "test"), Listener(), Metrics())

    yield make
    for network in networks:
        network.close()


@pytest.fixture
def downloads(make_downloads: Callable[[], Downloads]) -> Downloads:
    """One of them."""
    return make_downloads()


def read(blob: str | Blob | Spool) -> int:
    """Read a blob to its end; gives the bytes."""
    assert isinstance(blob, Spool)
    ours, theirs = os.pipe()

    def copy() -> None:
        blob.copy_to(theirs, Cancel())
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


def test_what_comes_fast_goes_to_the_unpacker_alone(make_downloads: Callable[[], Downloads], tmp_path: Path) -> None:
    low, high = LAYERS
    with make_downloads() as one, make_downloads() as other:
        one.start(LAYERS)
        first = one.open(low)
        assert isinstance(first, Spool)
        wait_for(lambda: first.written > AHEAD, "some is fetched ahead")
        assert [name for name in os.listdir(tmp_path / "tmp") if low.digest and low.digest in name] == [], "nobody goes on from there"
        other.start([low])
        assert read(other.open(low)) == SIZE, "who needs it too fetches it"
        other.done(low)
        assert read(first) == SIZE
        one.done(low)
        assert read(one.open(high)) == SIZE
        one.done(high)
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize("why", ["it would take long to come again", "two layers of the image have it"])
def test_what_is_needed_again_is_in_the_file(why: str, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, _ = LAYERS
    if why.startswith("it would"):
        monkeypatch.setattr(module, "CHEAP", 0)
    layers = [low] if why.startswith("it would") else [low, low]
    with downloads:
        downloads.start(layers)
        for _ in layers:
            assert read(downloads.open(low)) == SIZE
        assert (tmp_path / "tmp" / f"blob-{low.digest}").stat().st_size == SIZE
        for _ in layers:
            downloads.done(low)


class Reader(threading.Thread):
    """An unpacker that only counts; ``sizes`` are those of the blobs it has read to their ends."""

    def __init__(self, downloads: Downloads, layers: list[Layer]) -> None:
        super().__init__(daemon=True)
        self.sizes: list[int] = []
        self._downloads = downloads
        self._layers = layers
        self.start()

    def run(self) -> None:
        """Read all layers."""
        for layer in self._layers:
            self.sizes.append(read(self._downloads.open(layer)))
            self._downloads.done(layer)


def test_a_blob_comes_at_once_when_another_process_cannot_go_on_without_it(
    make_downloads: Callable[[], Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACE", 1 << 20)  # all of it in 24 seconds
    low, high = LAYERS
    with make_downloads() as busy, make_downloads() as small:
        busy.start(LAYERS)
        busy.open(low)  # and its unpacking takes its time
        wait_for(lambda: busy._blobs[high.digest or ""].promise.done(), "the busy one has begun with the other blob")
        small.start([high])
        reader = Reader(small, [high])
        reader.join(10)
        assert reader.sizes == [SIZE]


def test_pulls_that_wait_for_each_other_come_to_an_end(make_downloads: Callable[[], Downloads], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fetches what the other one needs first, and neither has room for more."""
    monkeypatch.setattr(module, "MAX_SPOOLED", MIB)
    low, high = LAYERS
    crossed = threading.Event()
    claims: list[str] = []

    async def claim(store: Store, digest: str, *rest: Any) -> BlobFile:
        claims.append(digest)
        while digest == low.digest and claims.count(digest) == 1 and not crossed.is_set():
            await asyncio.sleep(0.01)
        return await blob_file.claim(store, digest, *rest)

    monkeypatch.setattr(module, "claim", claim)
    with make_downloads() as one, make_downloads() as other:
        one.start([low, high])
        wait_for(lambda: one._blobs[high.digest or ""].promise.done(), "one has the high blob")
        other.start([high, low])
        wait_for(lambda: other._blobs[low.digest or ""].promise.done(), "the other has the low blob")
        readers = [Reader(one, [low, high]), Reader(other, [high, low])]
        crossed.set()
        for reader in readers:
            reader.join(10)
            assert reader.sizes == [SIZE, SIZE]


def test_a_blob_whose_process_stands_still_is_fetched_again(downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_file, "STANDSTILL", 0.3)
    low, _ = LAYERS
    theirs = tmp_path / "tmp" / f"blob-{low.digest}"
    with theirs.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with downloads:
            downloads.start([low])
            reader = Reader(downloads, [low])
            reader.join(10)
            assert reader.sizes == [SIZE]
    assert os.listdir(tmp_path / "tmp") == [theirs.name], "ours had no name, and theirs is still theirs"


def test_a_disk_that_stalls_does_not_hold_up_the_network(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every deadline for a server would pass meanwhile."""

    class Stalling:
        def __init__(self, path: str, written: int) -> None:
            self._spool = Spool(path, written)

        def write(self, data: bytes) -> None:
            if len(data) >= self._spool.room:
                sleep(0.3)
            self._spool.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._spool, name)

    monkeypatch.setattr(module, "Spool", Stalling)
    monkeypatch.setattr(module, "CHEAP", 0)
    pauses: list[float] = []

    async def look_at_the_clock() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - last)
            last += pauses[-1]

    low, _ = LAYERS
    with downloads:
        asyncio.run_coroutine_threadsafe(look_at_the_clock(), downloads._network.loop)
        downloads.start([low])
        blob: Any = downloads.open(low)
        wait_for(lambda: blob.written > 2 * MIB, "two stalls")
    assert max(pauses) < 0.25


def test_an_error_that_is_its_own_cause() -> None:
    error = SourceError("manifest unknown")
    error.__cause__ = error
    assert not is_out_of_space(error)
    error.__cause__ = SourceError("streaming blob")
    error.__cause__.__cause__ = OSError(errno.EDQUOT, "quota")
    assert is_out_of_space(error)


def test_what_is_spooled_is_counted_while_blobs_go(
    make_downloads: Callable[[], Downloads], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By the network's thread, while the unpacker's takes out what it is done with."""
    # Threads take turns often: they meet in more places, and one that counts all the time does not keep the others waiting.
    usual = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(usual))
    sys.setswitchinterval(1e-5)
    layers = [Layer(chain_id=str(i), size=10, digest=hashlib.sha256(bytes([i])).hexdigest()) for i in range(250)]
    counted: list[int] = []

    async def ten_bytes(_layer: Layer, _offset: int, _is_urgent: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        yield bytes(10)

    async def count() -> None:
        while True:
            counted.append(downloads._spooled())
            await asyncio.sleep(0)

    downloads = make_downloads()
    monkeypatch.setattr(downloads, "_stream", ten_bytes)
    with downloads:
        downloads.start(layers)
        counting = asyncio.run_coroutine_threadsafe(count(), downloads._network.loop)
        reader = Reader(downloads, layers)
        reader.join(20)
        assert reader.sizes == [10] * len(layers)
        assert not counting.done() and len(counted) > 10
        counting.cancel()
