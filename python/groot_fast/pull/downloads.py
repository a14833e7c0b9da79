"""The network side of a pull: missing layers are fetched together, each into a file that the unpacker follows.

The event loop runs in a thread of its own; the main thread builds volumes (Rust, without the GIL) and handles signals.
A download is ``tmp/blob-<digest>``: locked while it is written, so that one process in the machine fetches a given
blob; kept when the network or the user ends it, so that the next attempt goes on from there; removed when it is
unpacked or found to be bad, or when the disk is full. See `blob_file` for how processes share it. What comes fast, and goes right to
the unpacker, is not written at all.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple

import uvloop

from groot_fast import interrupts
from groot_fast._core import Blob, Layer, Spool, Store
from groot_fast.errors import BadBlob, BadLayer, Cancelled, SourceError, is_out_of_space
from groot_fast.pull.blob_file import BlobFile, claim
from groot_fast.telemetry import BYTES, NANOS
from groot_fast.telemetry.lager import Logger
from groot_fast.telemetry.metrics import Metrics
from groot_fast.telemetry.progress import Listener

T = TypeVar("T")
Parameters = TypeVarTuple("Parameters")

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
"""How far the network stands back for unpacking when both want the processor."""
FAREWELL = 0.5
"""Seconds to wait for the end of the network's thread, which nobody needs any more."""
GLANCE = 0.005
"""Seconds between looks at how far the unpacker has come."""
SAVE_EVERY = 0.5
"""Seconds between looks at what comes slowly."""
SLOW = 256 << 10
"""Bytes in that time."""
PAUSE = 0.05
"""Seconds between looks at whether there is room for more."""
CHEAP = 10.0
"""Seconds that a blob may take to come again after a kill. What comes faster is not written to the disk, if it can go right to the
unpacker: that starts again as well."""
MAX_SPOOLED = 4 << 30
"""Bytes of blobs on disk that wait to be unpacked. Only the layer being unpacked may go beyond."""

Stream = Callable[[Layer, int, Callable[[], bool]], AsyncGenerator[bytes, None]]
"""Bytes of a layer from an offset on, as fast as can be while they are urgent. Raises `BadBlob` if they are wrong and come from
elsewhere the next time."""
IsJoined = Callable[[Layer], bool]
"""Whether the bytes of a layer came in several pieces, which need not be of one blob."""


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
        self.loop.close()

    def run(self, work: Coroutine[object, object, T]) -> T:
        """The result of ``work``. A signal handler that raises ends the waiting and cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return interrupts.result(future)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what is running and end the thread. It may take longer: nothing stops the resolver of the C library."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(FAREWELL)

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(eq=False)
class _Blob:
    """A blob that layers of the image still need."""

    layer: Layer
    layers: int = 0
    """How many of them."""
    promise: Future[Spool] = field(default_factory=Future)
    """Set when its download has begun."""
    file: BlobFile | None = None
    failure: Exception | None = None
    is_resumed: bool = False
    """Whether some of it was there before."""
    is_elsewhere: bool = False
    """Whether what came was wrong, and comes from elsewhere the next time."""
    is_passed_on: bool = False
    """Whether what comes goes to the unpacker alone, and not into the file."""

    @property
    def spool(self) -> Spool | None:
        """What has come, once its download has begun."""
        return self.promise.result() if self.promise.done() and not self.promise.exception() else None

    def is_wanted(self) -> bool:
        """Whether another process cannot go on without it."""
        return self.file is not None and self.file.is_wanted()

    def remove(self) -> None:
        """Take the file away."""
        if self.file is not None:
            self.file.remove()


class Downloads:
    """`Blobs` over the network. All access to the disk is made by one thread, so that a disk that stalls is not taken for a
    network that does."""

    def __init__(
        self,
        store: Store,
        network: Network,
        stream: Stream,
        log: Logger,
        progress: Listener,
        metrics: Metrics,
        is_joined: IsJoined = lambda _: False,
    ) -> None:
        self._store = store
        self._network = network
        self._stream = stream
        self._is_joined = is_joined
        self._log = log
        self._progress = progress
        self._metrics = metrics
        # By digest, lowest first.
        self._blobs: dict[str, _Blob] = {}
        # The blob that the unpacker is at, and whether it waits for one that has not begun (another process may fetch it).
        self._at: _Blob | None = None
        self._is_starved = False
        self._turn = asyncio.Event()
        self._is_worth_another_try = False
        self._failed_over_content = False
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._tidier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidier")
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Before the others are stopped: how they end then says nothing about why the pull did.
        useless = self._useless(error)
        self._network.run(self._stop())
        self._disk.shutdown()
        self._tidier.shutdown()
        for blob in useless:
            blob.remove()
        # With the last descriptors goes the space. A failure knows where it came from, so nothing here may know the failure.
        for blob in self._blobs.values():
            blob.failure = None
        self._blobs, self._at, self._tasks = {}, None, []

    def _useless(self, error: BaseException | None) -> list[_Blob]:
        """The downloads that nobody can continue. What ended for reasons of the network or the user goes on next time; anything
        else has to start again, and a full disk needs the space."""
        blobs = list(self._blobs.values())
        if is_out_of_space(error):
            return blobs
        if isinstance(error, BadBlob | BadLayer):
            self._failed_over_content = True
        self._is_worth_another_try = self._failed_over_content and any(
            blob.is_resumed or blob.is_elsewhere or self._is_joined(blob.layer) for blob in blobs
        )
        is_interrupted = error is None or isinstance(error, Cancelled) or any(blob.failure for blob in blobs)
        return [] if is_interrupted and not self._failed_over_content else blobs

    @property
    def is_worth_another_try(self) -> bool:
        """Whether the content was wrong, and what comes next time may not be: bytes of an earlier transfer were used or of a mirror,
        or pieces were joined."""
        return self._is_worth_another_try

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, layers: list[Layer]) -> None:
        """Begin to fetch, lowest layers first."""
        for layer in layers:
            self._blobs.setdefault(layer.digest or "", _Blob(layer)).layers += 1
        self._network.run(self._start(list(self._blobs.values())))

    async def _start(self, blobs: list[_Blob]) -> None:
        slots = asyncio.Semaphore(PARALLEL)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._fetch(blob, slots)) for blob in blobs]
        self._tasks.append(loop.create_task(self._save_what_is_slow()))

    def open(self, layer: Layer) -> str | Blob | Spool:
        """The growing file of a layer; waits until its download has begun. Raises SourceError, OSError."""
        blob = self._blobs[layer.digest or ""]
        self._unpacker_is_at(blob, starved=not blob.promise.done())
        try:
            with interrupts.Waiting():
                spool = interrupts.result(blob.promise)
        except SourceError as error:
            raise SourceError(f"streaming blob `{layer.name}`: {error}", hint=error.hint) from error
        self._unpacker_is_at(blob)
        return spool

    def _unpacker_is_at(self, blob: _Blob | None, *, starved: bool = False) -> None:
        self._at, self._is_starved = blob, starved
        self._network.loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        """Let those that are slowed down look whether it is their turn."""
        self._turn.set()
        self._turn = asyncio.Event()

    def failure(self, layer: Layer) -> Exception | None:
        """Why the download ended, if it did not succeed."""
        blob = self._blobs.get(layer.digest or "")
        return None if blob is None else blob.failure

    def done(self, layer: Layer) -> None:
        """Remove the file when no further layer of the image has the same bytes."""
        blob = self._blobs[layer.digest or ""]
        self._unpacker_is_at(None)
        blob.layers -= 1
        if not blob.layers:
            del self._blobs[layer.digest or ""]
            # Dropping hundreds of megabytes of pages, with the last reference, takes its time; nobody has to wait for it.
            self._tidier.submit(blob.remove)

    async def _fetch(self, blob: _Blob, slots: asyncio.Semaphore) -> None:
        layer = blob.layer
        try:
            async with slots:
                file = blob.file = await claim(self._store, layer.digest or "", layer.size, lambda: self._is_starved and self._at is blob)
                try:
                    # Through the descriptor: the file may have lost its name (see `claim`).
                    spool = Spool(f"/proc/self/fd/{file.fd}", min(file.size, layer.size or 0))
                    blob.is_resumed = spool.written > 0
                    blob.promise.set_result(spool)
                    await self._transfer_or_tell(blob, spool)
                finally:
                    file.close()
        except BaseException as error:
            if not blob.promise.done():
                blob.failure = _reason(error)
                blob.promise.set_exception(blob.failure)
            if not isinstance(error, Exception):
                raise

    async def _transfer_or_tell(self, blob: _Blob, spool: Spool) -> None:
        """Whoever reads learns how it failed when all that came is in the file."""
        try:
            await self._transfer(blob, spool)
        except BaseException as error:
            blob.failure = _reason(error)
            await self._with_disk(spool.fail, str(blob.failure))
            raise

    async def _transfer(self, blob: _Blob, spool: Spool) -> None:
        layer = blob.layer
        log = self._log.session("downloading", layer=layer.name, size=layer.size)
        begun = spool.written
        start = time.monotonic_ns()
        self._progress.fetching(layer.name, layer.size, lambda: spool.written)
        log.info("starting", offset=begun)
        try:
            async with aclosing(self._stream(layer, begun, lambda: self._is_read(blob))) as chunks:
                waited, asked = 0.0, time.monotonic()
                async for chunk in chunks:
                    waited += time.monotonic() - asked
                    if not blob.is_passed_on and len(chunk) >= spool.room and self._is_cheap(blob, spool.written - begun, waited):
                        await self._pass_on(blob, spool)
                    if len(chunk) < spool.room:
                        spool.write(chunk)
                    else:
                        await self._with_disk(spool.write, chunk)
                    await self._pace(blob, spool, len(chunk))
                    asked = time.monotonic()
        except SourceError as error:
            log.error("failed", error, bytes=spool.written - begun)
            if isinstance(error, BadBlob):
                blob.is_elsewhere = self._failed_over_content = True
            raise
        # Before readers learn that this was all: the command may be over as soon as they do.
        self._metrics.send("DownloadTime", time.monotonic_ns() - start, NANOS)
        self._metrics.send("DownloadedBytes", spool.written - begun, BYTES)
        log.info("ending", bytes=spool.written - begun)
        await self._with_disk(spool.finish)

    def _is_cheap(self, blob: _Blob, received: int, waited: float) -> bool:
        """Whether a blob need not be in a file: it goes to one layer, which is being unpacked, nobody else waits for it, and at the
        rate of the bytes ``received`` in ``waited`` seconds it comes again soon."""
        size = blob.layer.size
        if size is None or blob.layers > 1 or not self._is_read(blob) or blob.is_wanted():
            return False
        return size * waited <= CHEAP * received

    async def _pass_on(self, blob: _Blob, spool: Spool) -> None:
        # What is in the file is read through descriptors that are open. Nobody could go on from there, so nobody may find it.
        assert blob.file is not None
        await self._with_disk(blob.file.let_go)
        blob.is_passed_on = True
        spool.pass_on()

    async def _with_disk(self, work: Callable[[*Parameters], None], *arguments: *Parameters) -> None:
        await self._network.loop.run_in_executor(self._disk, work, *arguments)

    async def _save_what_is_slow(self) -> None:
        """What has come lies in memory until there is enough for the disk. Where that takes long it has to be in the file
        before, or a killed process would lose it."""
        before: dict[str, int] = {}
        while True:
            await asyncio.sleep(SAVE_EVERY)
            for digest, blob in list(self._blobs.items()):
                spool = blob.spool
                if spool is None or blob.file is None or blob.file.fd < 0:
                    continue
                if spool.written - before.get(digest, 0) < SLOW:
                    try:
                        await self._with_disk(spool.save)
                    except OSError:
                        pass  # the transfer meets the same trouble, and says so
                before[digest] = spool.written

    async def _pace(self, blob: _Blob, spool: Spool, size: int) -> None:
        """Wait while this blob need not come any faster, neither for us nor for another process."""
        while self._is_read(blob):
            if spool.unread <= AHEAD or blob.is_wanted():
                return
            await asyncio.sleep(GLANCE)
        if self._has_enough() and not blob.is_wanted():
            turn = self._turn
            try:
                async with asyncio.timeout(size / PACE):
                    await turn.wait()
            except TimeoutError:
                pass
        # Who waits for us may hold what we wait for: then nobody may stand.
        while self._spooled() > MAX_SPOOLED and not (self._is_starved or self._is_read(blob) or blob.is_wanted()):
            await asyncio.sleep(PAUSE)

    def _is_read(self, blob: _Blob) -> bool:
        """Whether the unpacker is at this blob, or comes to it next."""
        at = self._at
        # A list, because the unpacker's thread takes what it is done with out of the dictionary.
        return blob is at or (at is None and blob in list(self._blobs.values())[:1])

    def _has_enough(self) -> bool:
        """Whether the unpacker has something to do, or is about to look for the next blob."""
        spool = self._at.spool if self._at is not None else None
        return not self._is_starved and (spool is None or spool.unread > ENOUGH)

    def _spooled(self) -> int:
        blobs = list(self._blobs.values())
        return sum(blob.spool.written for blob in blobs if blob.spool is not None and not blob.is_passed_on)


def _reason(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else Cancelled("cancelled")
