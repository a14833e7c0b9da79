"""The network side of a pull: missing layers are fetched together, each into a file that the unpacker follows.

The event loop runs in a thread of its own; the main thread builds volumes (Rust, without the GIL) and handles signals.
A download is ``tmp/blob-<digest>``: locked while it is written, so that one process in the machine fetches a given
blob; kept when the network or the user ends it, so that the next attempt goes on from there; removed when it is
unpacked or found to be bad.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

import uvloop

from groot_fast import interrupts
from groot_fast._core import Blob, Layer, Spool, Store
from groot_fast.errors import BadBlob, BadLayer, Cancelled, SourceError
from groot_fast.telemetry.lager import Logger
from groot_fast.telemetry.metrics import BYTES, NANOS, Metrics
from groot_fast.telemetry.progress import Listener

T = TypeVar("T")

PARALLEL = 8
"""Blobs fetched at once by one process."""
AHEAD = 3 << 20
"""Bytes that the blob being unpacked may be ahead of the unpacker: those are still in memory (`Spool`)."""
ENOUGH = 1 << 20
"""Bytes ahead of the unpacker from which on it, and not the network, is what the pull waits for."""
PACE = 4 << 20
"""Bytes a second for each blob whose turn has not come, then: enough to keep its connection, and no reason to have the
processor and the disk at work for what can come later just as fast."""
NICE = 10
"""How far the network stands back behind unpacking when both want the processor."""
GLANCE = 0.005
"""Seconds between looks at how far the unpacker has come."""
SAVE_EVERY = 0.5
"""Seconds between looks at what comes slowly."""
SLOW = 256 << 10
"""Bytes in that time."""
PAUSE = 0.05
"""Seconds between looks at what one waits for: another process's blob, or space."""
MAX_SPOOLED = 4 << 30
"""Bytes of blobs on disk that wait to be unpacked. Only the layer being unpacked may go beyond."""

Stream = Callable[[Layer, int], AsyncGenerator[bytes, None]]
"""Bytes of a layer from an offset on."""


class Network:
    """An event loop in a thread. ``run`` waits for a coroutine from outside of it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="network", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        # The unpacker comes first: what is fetched ahead of it only has to be there in time.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self.loop.run_forever()

    def run(self, work: Coroutine[object, object, T]) -> T:
        """The result of ``work``. A signal handler that raises ends the waiting and cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return interrupts.result(future)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what is running and end the thread."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Downloads:
    """`Blobs` over the network."""

    def __init__(self, store: Store, network: Network, stream: Stream, log: Logger, progress: Listener, metrics: Metrics) -> None:
        self._store = store
        self._network = network
        self._stream = stream
        self._log = log
        self._progress = progress
        self._metrics = metrics
        self._spools: dict[str, Future[Spool]] = {}
        self._failures: dict[str, Exception] = {}
        self._active: dict[str, Spool] = {}
        # The blob that the unpacker is at, and whether it waits for one that has not begun (another process may fetch it).
        self._reading: dict[str, Spool] = {}
        self._is_starved = False
        self._turn = asyncio.Event()
        # Layers still to be unpacked by digest, lowest first.
        self._waiting: dict[str, int] = {}
        self._resumed: set[str] = set()
        self._failed_over_content = False
        self._tidier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidier")
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Before the others are stopped: how they end then says nothing about why the pull did.
        useless = self._useless(error)
        self._network.run(self._stop())
        self._tidier.shutdown()
        for digest in useless:
            self._remove(digest)

    def _useless(self, error: BaseException | None) -> list[str]:
        """Digests of the downloads that nobody can continue. What ended for reasons of the network or the user goes on next
        time; anything else has to start again."""
        if isinstance(error, BadBlob | BadLayer):
            self._failed_over_content = True
        is_interrupted = error is None or isinstance(error, Cancelled) or (self._failures and not self._failed_over_content)
        return [] if is_interrupted else list(self._waiting)

    @property
    def is_worth_another_try(self) -> bool:
        """Whether bytes of an earlier transfer were used, and the content was wrong."""
        return self._failed_over_content and bool(self._resumed)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, layers: list[Layer]) -> None:
        """Begin to fetch, lowest layers first."""
        distinct: dict[str, Layer] = {}
        for layer in layers:
            digest = layer.digest or ""
            distinct.setdefault(digest, layer)
            self._waiting[digest] = self._waiting.get(digest, 0) + 1
        self._spools = {digest: Future() for digest in distinct}
        self._network.run(self._start(list(distinct.values())))

    async def _start(self, layers: list[Layer]) -> None:
        slots = asyncio.Semaphore(PARALLEL)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._fetch(layer, slots)) for layer in layers]
        self._tasks.append(loop.create_task(self._save_what_is_slow()))

    def open(self, layer: Layer) -> str | Blob | Spool:
        """The growing file of a layer; waits until its download has begun. Raises SourceError."""
        promise = self._spools[layer.digest or ""]
        self._unpacker_is_at({}, starved=not promise.done())
        try:
            with interrupts.Waiting():
                spool = interrupts.result(promise)
        except SourceError as error:
            raise SourceError(f"streaming blob `{layer.name}`: {error}", hint=error.hint) from error
        self._unpacker_is_at({layer.digest or "": spool})
        return spool

    def _unpacker_is_at(self, spools: dict[str, Spool], *, starved: bool = False) -> None:
        self._reading, self._is_starved = spools, starved
        self._network.loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        """Let those that are slowed down look whether it is their turn."""
        self._turn.set()
        self._turn = asyncio.Event()

    def failure(self, layer: Layer) -> Exception | None:
        """Why the download ended, if it did not succeed."""
        return self._failures.get(layer.digest or "")

    def done(self, layer: Layer) -> None:
        """Remove the file when no further layer of the image has the same bytes."""
        digest = layer.digest or ""
        self._unpacker_is_at({})
        self._waiting[digest] -= 1
        if not self._waiting[digest]:
            del self._waiting[digest]
            # Dropping hundreds of megabytes of pages takes its time; nobody has to wait for it.
            self._tidier.submit(self._forget, digest)

    def _forget(self, digest: str) -> None:
        self._remove(digest)
        # The last reference, and with it the descriptor.
        self._spools.pop(digest, None)

    def _remove(self, digest: str) -> None:
        self._store.remove_download(digest)

    async def _fetch(self, layer: Layer, slots: asyncio.Semaphore) -> None:
        digest = layer.digest or ""
        promise = self._spools[digest]
        spool: Spool | None = None
        try:
            async with slots:
                fd = await self._lock(digest, layer.size)
                try:
                    there = os.fstat(fd).st_size
                    # Through the descriptor: the file may have lost its name (see `_lock`).
                    spool = Spool(f"/proc/self/fd/{fd}", min(there, layer.size or 0))
                    if spool.written:
                        self._resumed.add(digest)
                    promise.set_result(spool)
                    self._active[digest] = spool
                    await self._transfer(layer, spool)
                finally:
                    self._active.pop(digest, None)
                    os.close(fd)
        except BaseException as error:
            reason = error if isinstance(error, Exception) else Cancelled("cancelled")
            self._failures.setdefault(digest, reason)
            if spool is not None:
                spool.fail(str(reason))
            else:
                promise.set_exception(reason)
            if not isinstance(error, Exception):
                raise

    async def _transfer(self, layer: Layer, spool: Spool) -> None:
        log = self._log.session("downloading", layer=layer.name, size=layer.size)
        begun = spool.written
        start = time.monotonic_ns()
        self._progress.fetching(layer.name, layer.size, lambda: spool.written)
        log.info("starting", offset=begun)
        try:
            async with aclosing(self._stream(layer, begun)) as chunks:
                async for chunk in chunks:
                    spool.write(chunk)
                    await self._pace(layer.digest or "", spool, len(chunk))
        except SourceError as error:
            log.error("failed", error, bytes=spool.written - begun)
            raise
        spool.finish()
        self._metrics.send("DownloadTime", time.monotonic_ns() - start, NANOS)
        self._metrics.send("DownloadedBytes", spool.written - begun, BYTES)
        log.info("ending", bytes=spool.written - begun)

    async def _save_what_is_slow(self) -> None:
        """What has come lies in memory until there is enough for the disk. Where that takes long it has to be in the file
        before, or a killed process would lose it."""
        before: dict[str, int] = {}
        while True:
            await asyncio.sleep(SAVE_EVERY)
            for digest, spool in self._active.items():
                if spool.written - before.get(digest, 0) < SLOW:
                    try:
                        spool.save()
                    except OSError:
                        pass  # the transfer meets the same trouble, and says so
                before[digest] = spool.written

    async def _pace(self, digest: str, spool: Spool, size: int) -> None:
        """Wait while this blob need not come any faster."""
        while self._is_read(digest):
            if spool.unread <= AHEAD:
                return
            await asyncio.sleep(GLANCE)
        if self._has_enough():
            turn = self._turn
            try:
                async with asyncio.timeout(size / PACE):
                    await turn.wait()
            except TimeoutError:
                pass
        while self._spooled() > MAX_SPOOLED and not self._is_read(digest):
            await asyncio.sleep(PAUSE)

    def _is_read(self, digest: str) -> bool:
        """Whether the unpacker is at this blob, or comes to it next."""
        # A list, because the unpacker's thread takes what it is done with out of the dictionary.
        return digest in self._reading or (not self._reading and digest in list(self._waiting)[:1])

    def _has_enough(self) -> bool:
        """Whether the unpacker has something to do, or is about to look for the next blob."""
        return not self._is_starved and all(spool.unread > ENOUGH for spool in self._reading.values())

    def _spooled(self) -> int:
        waiting = (self._spools[digest] for digest in list(self._waiting))
        return sum(spool.result().written for spool in waiting if spool.done() and not spool.exception())

    async def _lock(self, digest: str, size: int | None) -> int:
        """Open and lock the file; waits while another process writes it.

        The descriptor is kept while waiting. When the other process is done with the blob and removes the file, what we
        hold is still all of it, and nothing has to be fetched.
        """
        while True:
            fd = self._store.open_download(digest)
            try:
                while not _try_flock(fd):
                    await asyncio.sleep(PAUSE)
                if os.fstat(fd).st_size == size or self._store.is_download_at(digest, fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def _try_flock(fd: int) -> bool:
    """Lock what a descriptor is open on, if nobody else has it locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
