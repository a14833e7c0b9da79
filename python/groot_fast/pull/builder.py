"""Which volumes of an image are missing, and building them from the bottom up (contract, section 9.6).

The missing ones are locked from the top of the image downwards, until one is found that exists: whatever is below that
one is not needed. Layers that another process is building are waited for and then used. The base is locked too, shared,
and so is all below it, so that no clean takes away what the image is made of before it has its record.
"""

from __future__ import annotations

import errno
import time

from groot_fast import interrupts
from groot_fast._core import Spool
from groot_fast.errors import BadBlob, BadLayer, Cancelled, GrootError, SourceError, StoreError
from groot_fast.pull.blobs import open_here
from groot_fast.store import locks, records
from groot_fast.store.volumes import Volume, destroy_incomplete, incomplete_name
from groot_fast.telemetry.metrics import NANOS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from groot_fast._core import Blob, Image, Layer
    from groot_fast.drivers import Driver
    from groot_fast.pull.admission import Admission
    from groot_fast.pull.blobs import Blobs
    from groot_fast.store.layout import Store
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics
    from groot_fast.telemetry.progress import Listener

BUILD_DEADLINE = 3600.0
"""Seconds to wait for another process that pulls and unpacks the same layer."""
ATTEMPTS = 10
"""How often to plan again because a base volume went away between planning and locking."""


class Builder:
    """Makes the volumes of images in one store. ``content`` is the bytes of files in the layers it has built."""

    def __init__(self, store: Store, driver: Driver, log: Logger, progress: Listener, metrics: Metrics, admission: Admission) -> None:
        self._store = store
        self._driver = driver
        self._log = log
        self._progress = progress
        self._metrics = metrics
        self._admission = admission
        self.content = 0

    def volume_of(self, image: Image, blobs: Blobs) -> Volume:
        """The volume with the whole image, locked against clean. The caller publishes and releases it.

        Raises SourceError and its kin, StoreError, OSError. Layers that were complete stay as volumes.
        """
        for _ in range(ATTEMPTS):
            plan = self._plan(image)
            if plan is not None:
                return self._build(plan, blobs)
        raise StoreError("the base volumes of the image were removed again and again while it was created")

    def existing(self, image: Image) -> Volume | None:
        """The volume with the whole image if it is there, locked against clean. Raises StoreError."""
        return self._lock_existing(image.layers) if self._exists(image.layers[-1]) else None

    def _lock_existing(self, layers: list[Layer]) -> Volume | None:
        """The volume of the last layer, which was just seen, locked with all below it; None where it went away meanwhile."""
        held: list[locks.Lock] = []
        try:
            top = layers[-1]
            # Its builder may still be holding it for a moment.
            held.append(locks.lock(self._store, top.chain_id, shared=True, deadline=BUILD_DEADLINE))
            if not self._exists(top):
                _release(held)
                return None
            for layer in reversed(layers[:-1]):
                own = locks.try_lock(self._store, layer.chain_id, shared=True)
                if own is None and self._exists(layer):
                    own = locks.lock(self._store, layer.chain_id, shared=True, deadline=BUILD_DEADLINE)
                # Else somebody builds it anew: an older clean took it, and this image does not need it.
                if own is not None:
                    held.append(own)
            return Volume(self._store, top.chain_id, self._store.volume(top.chain_id), held)
        except BaseException:
            _release(held)
            raise

    def _plan(self, image: Image) -> _Plan | None:
        """What to build, everything locked. None where the store changed meanwhile and planning has to start again."""
        held: list[locks.Lock] = []
        try:
            for depth, layer in enumerate(reversed(image.layers)):
                if self._exists(layer):
                    base = self._lock_existing(image.layers[: len(image.layers) - depth])
                    if base is None:
                        _release(held)
                        return None
                    return _Plan(base, image.layers[len(image.layers) - depth :], held)
                self._admission.step_aside()
                # Somebody may be building it: then all who wait go on together as soon as it is there.
                own = locks.lock_unless(self._store, layer.chain_id, self._appearance_of(layer), deadline=BUILD_DEADLINE)
                if own is not None:
                    held.append(own)
                if own is None or self._exists(layer):
                    _release(held)
                    return None
                own.report(self._metrics, locks.EXCLUSIVE)
            return _Plan(None, image.layers, held)
        except BaseException:
            _release(held)
            raise

    def _exists(self, layer: Layer) -> bool:
        return self._driver.is_volume(self._store.volume(layer.chain_id))

    def _appearance_of(self, layer: Layer) -> Callable[[], bool]:
        return lambda: self._exists(layer)

    def _build(self, plan: _Plan, blobs: Blobs) -> Volume:
        below = plan.base
        try:
            if plan.missing:
                with self._admission:
                    blobs.start([layer for layer in plan.missing if not layer.is_empty])
                    for layer in plan.missing:
                        below = self._build_one(layer, below, plan.held, blobs)
            assert below is not None  # an image has layers
            return below
        except BaseException:
            if below is not None:
                # Complete, so it is valid cache for the next attempt.
                below.publish(durable=False)
                below.release()
            raise
        finally:
            _release(plan.held)

    def _build_one(self, layer: Layer, below: Volume | None, held: list[locks.Lock], blobs: Blobs) -> Volume:
        asked = time.monotonic_ns()
        blob = open_here(layer) if layer.is_empty else blobs.open(layer)
        if not isinstance(blob, Spool):
            # A file that is here; downloads report their own time.
            self._metrics.send("DownloadTime", time.monotonic_ns() - asked, NANOS)
        path = self._store.volume(incomplete_name(layer.chain_id))
        try:
            try:
                self._driver.make_volume(path, below.path if below else None)
            except OSError as error:
                if error.errno == errno.ENOENT and below is not None:
                    raise StoreError(f"volume {below.chain_id} went away while it was in use") from None
                raise
            if below is not None:
                # The snapshot wrote the data of the volume below: it may be seen now.
                below.publish(durable=True)
            self._unpack(layer, blob, path, below, blobs)
        except BaseException as error:
            cause = error.__cause__ or error
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
            destroy_incomplete(self._store, self._driver, path, layer.chain_id, full=full)
            raise
        del blob  # what is left of it is for `done` to take apart
        if not layer.is_empty:
            blobs.done(layer)
        return Volume(self._store, layer.chain_id, path, [held.pop(), *(below.give_locks() if below else [])])

    def _unpack(self, layer: Layer, blob: str | Blob | Spool, path: str, below: Volume | None, blobs: Blobs) -> None:
        log = self._log.session("unpacking-layer", layer=layer.name, chainID=layer.chain_id)
        start = time.monotonic_ns()
        log.info("starting")
        self._progress.unpacking(layer.name)
        try:
            listing = records.new_listing(self._store, layer.chain_id, below.chain_id if below else None)
            with interrupts.Waiting():
                unpacked = self._driver.operations.unpack(path, layer, blob, listing)
        except (GrootError, OSError) as error:
            raise self._explain(layer, error, blobs.failure(layer)) from error
        content, removed, entries, left_out, notes = unpacked
        for note in notes:
            log.info("note", note=note)
        if left_out:
            log.info("left-out", entries=left_out)
        self._progress.unpacked(layer.name, content)
        self._metrics.send("UnpackTime", time.monotonic_ns() - start, NANOS)
        self.content += content
        self._admission.built(content)
        log.info("ending", entries=entries, bytes=content, duration=time.monotonic_ns() - start)
        records.write_size(self._store, layer.chain_id, self._size(below, content, removed))

    def _size(self, below: Volume | None, content: int, removed: int) -> records.VolumeSize:
        if below is None:
            return records.VolumeSize(content, max(content - removed, 0))
        base = records.read_size(self._store, below.chain_id)
        if base is None or base.tree is None:
            return records.VolumeSize(content, None)
        return records.VolumeSize(content, max(base.tree + content - removed, 0))

    def _explain(self, layer: Layer, error: Exception, reason: Exception | None) -> Exception:
        """The error with the chain of prefixes that callers of the original match on (contract, section 7.4)."""
        if isinstance(error, Cancelled):
            return error
        if reason is not None:
            hint = reason.hint if isinstance(reason, GrootError) else None
            return SourceError(f"streaming blob `{layer.name}`: {reason}", hint=hint)
        if isinstance(error, BadBlob):
            return BadBlob(f"streaming blob `{layer.name}`: {error}")
        text = f"unpacking layer `{layer.name}`: "
        if isinstance(error, GrootError):
            return type(error)(text + str(error), hint=error.hint)
        assert isinstance(error, OSError)
        hint = "the store is full: `grootfs clean` frees unused layers" if error.errno == errno.ENOSPC else None
        return BadLayer(text + str(error.strerror), hint=hint)


class _Plan:
    """Layers to build, bottom first; their locks, top first; and the volume below them."""

    __slots__ = ("base", "held", "missing")

    def __init__(self, base: Volume | None, missing: list[Layer], held: list[locks.Lock]) -> None:
        self.base = base
        self.missing = missing
        self.held = held


def _release(held: list[locks.Lock]) -> None:
    while held:
        held.pop().release()
