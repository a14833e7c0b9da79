"""Which volumes of an image are missing, and building them from the bottom up (contract, section 9.6).

The missing ones are locked from the top of the image downwards, until one is found that exists: whatever is below that
one is not needed. Layers that another process is building are waited for and then used. The base is locked too, shared,
and so is all below it, so that no clean takes away what the image is made of before it has its record.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field

from groot_fast import _core, interrupts
from groot_fast._core import Blob, Image, Layer
from groot_fast.errors import BadBlob, BadLayer, Cancelled, GrootError, SourceError, StoreError, is_out_of_space
from groot_fast.idmap.trees import Terms, Trees
from groot_fast.pull.admission import Admission
from groot_fast.pull.blobs import Blobs, open_here
from groot_fast.telemetry import BYTES, NANOS
from groot_fast.telemetry.lager import Logger
from groot_fast.telemetry.metrics import Metrics
from groot_fast.telemetry.progress import Listener

ATTEMPTS = 10
"""How often to plan again because a base volume went away between planning and locking."""

SMALL = 1 << 20
"""Bytes of a blob that may share a volume with its neighbours."""
MOST_LAYERS, FEWEST_LAYERS = 12, 4
"""In one volume. Another image that has some of them must unpack these again, so fewer are not worth the snapshot that is saved."""


@dataclass
class _Plan:
    """Layers to build, bottom first; their locks, top first; and the volume below them."""

    base: _core.Volume | None
    missing: list[Layer]
    held: list[_core.Lock]
    demand: _core.Demand


@dataclass
class _Made:
    """What is in a volume that is being built."""

    below: str | None
    """Chain id of the volume that it is built on."""
    tree: int
    """Bytes of all files that one sees, those of ``below`` with them: if these are not known, of its topmost layer."""
    is_tree_known: bool
    layers: int = 0
    content: int = 0
    """Bytes of the files of its layers."""
    cloned: dict[str, int] = field(default_factory=dict)
    """How many of these other volumes have."""


class Builder:
    """Makes the volumes of images in one store. ``content`` is the bytes of files in the layers it has built."""

    def __init__(
        self,
        store: _core.Store,
        trees: Trees,
        cancel: _core.Cancel,
        log: Logger,
        progress: Listener,
        metrics: Metrics,
        admission: Admission,
    ) -> None:
        self._store = store
        self._trees = trees
        self._cancel = cancel
        self._log = log
        self._progress = progress
        self._metrics = metrics
        self._admission = admission
        self.content = 0
        self.rules: _core.Rules | None = None
        """What callers of the original's releases expect, if anything."""
        self.limit = 0
        """Bytes that the image may have; 0 for any number. Whether that is looked at here is the rules' to say."""
        self.shares_content = False
        """Whether files may be cloned from other volumes that have their content."""
        self._recent = _core.Recent()
        self.joins_layers = False
        """Whether small layers that follow each other share a volume."""
        self.locked_since: list[int] = []
        """When it got the exclusive lock on each volume that it builds; the locks are let go with the volume."""

    def volume_of(self, image: Image, blobs: Blobs) -> _core.Volume:
        """The volume with the whole image, locked against clean. The caller publishes and releases it.

        Raises SourceError and its kin, StoreError, OSError. Layers that were complete stay as volumes.
        """
        for _ in range(ATTEMPTS):
            plan = self._plan(image)
            if plan is not None:
                return self._build(image, plan, blobs)
        raise StoreError("the base volumes of the image were removed again and again while it was created")

    def _plan(self, image: Image) -> _Plan | None:
        """What to build, everything locked. None if the store changed meanwhile and planning has to start again."""
        held: list[_core.Lock] = []
        try:
            for depth, layer in enumerate(reversed(image.layers)):
                below = len(image.layers) - depth
                if self._store.has_usable(layer.chain_id, image.demand):
                    with interrupts.Waiting():
                        base = self._store.existing_volume(image.chain_ids[:below], image.demand, self._cancel)
                    if base is None:
                        _release(held)
                        return None
                    return _Plan(base, image.layers[below:], held, image.demand)
                self._admission.step_aside()
                # Somebody may be building it: then all who wait go on together as soon as it is there.
                with interrupts.Waiting():
                    own = self._store.lock_missing(layer.chain_id, image.demand, self._log, self._cancel)
                if own is None:
                    _release(held)
                    return None
                held.append(own)
                self._metrics.send("ExclusiveLockingTime", own.waited, NANOS)
                self.locked_since.append(time.monotonic_ns())
            return _Plan(None, image.layers, held, image.demand)
        except BaseException:
            _release(held)
            raise

    def _build(self, image: Image, plan: _Plan, blobs: Blobs) -> _core.Volume:
        below = plan.base
        try:
            if plan.missing:
                with self._admission:
                    blobs.start([layer for layer in plan.missing if not layer.is_empty])
                    apart = [[layer] for layer in plan.missing]
                    for layers in _join_layers(plan.missing, image) if self.joins_layers else apart:
                        below = self._build_volume(layers, below, plan, blobs)
            assert below is not None  # an image has layers
            return below
        except BaseException:
            if below is not None:
                # Complete, so it is valid cache for the next attempt.
                try:
                    self._store.publish(below, durable=False)
                finally:
                    below.release()
            raise
        finally:
            _release(plan.held)

    def _build_volume(self, layers: list[Layer], below: _core.Volume | None, plan: _Plan, blobs: Blobs) -> _core.Volume:
        """The volume with ``layers`` on top of ``below``, named by the last of them."""
        name = layers[-1].chain_id
        blob = self._open(layers[0], blobs)
        try:
            volume = self._store.make_volume(name, below)
        except OSError as error:
            if error.errno == errno.ENOENT and below is not None:
                raise StoreError(f"volume {below.chain_id} went away while it was in use") from None
            raise
        try:
            if below is not None:
                # The snapshot wrote the data of the volume below: it may be seen now.
                self._store.publish(below, durable=True)
            made = self._start(below)
            for number, layer in enumerate(layers):
                if number > 0:
                    blob = self._open(layer, blobs)
                self._unpack(layer, blob, volume, made, blobs)
                file = plan.demand[1]
                if file is not None and isinstance(blob, Blob) and blob.identity != file:
                    text = f"unpacking layer `{layer.name}`: the file was replaced or changed meanwhile"
                    raise SourceError(text, hint="create again when it is whole")
            tree = max(made.tree, 0) if made.is_tree_known else None
            self._store.write_size(name, made.content, tree, plan.demand, made.cloned, made.layers)
        except BaseException as error:
            self._store.destroy_incomplete(volume, is_out_of_space(error), _core.Cancel())
            raise
        del blob  # what is left of it is for `done` to take apart
        for layer in layers:
            if not layer.is_empty:
                blobs.done(layer)
        # Those of layers without a volume of their own: whoever needs one as a base may build it now.
        for layer in layers[:-1]:
            self._store.discard_lock(layer.chain_id, plan.held.pop())
        volume.hold(plan.held.pop(), below)
        return volume

    def _open(self, layer: Layer, blobs: Blobs) -> str | Blob | _core.Spool:
        asked = time.monotonic_ns()
        blob = open_here(layer) if layer.is_empty else blobs.open(layer)
        if not isinstance(blob, _core.Spool):
            # A file that is here; downloads report their own time.
            self._metrics.send("DownloadTime", time.monotonic_ns() - asked, NANOS)
        return blob

    def _start(self, below: _core.Volume | None) -> _Made:
        if below is None:
            return _Made(None, 0, is_tree_known=True)
        layer, tree, _ = self._store.read_size(below.chain_id) or (0, None, 0)
        return _Made(below.chain_id, layer if tree is None else tree, is_tree_known=tree is not None)

    def _unpack(self, layer: Layer, blob: str | Blob | _core.Spool, volume: _core.Volume, made: _Made, blobs: Blobs) -> None:
        """Unpack a layer into the volume, and add it to what was ``made``."""
        log = self._log.session("unpacking-layer", layer=layer.name, chainID=layer.chain_id)
        start = time.monotonic_ns()
        log.info("starting")
        self._progress.unpacking(layer.name)
        try:
            listing = self._store.listing(volume.chain_id, made.below, goes_on=made.layers > 0)
            with interrupts.Waiting():
                terms = Terms(listing, self._neighbours(layer, blob, made.below), self._room(made))
                unpacked = self._trees.unpack(volume, layer, blob, terms)
        except Cancelled:
            raise
        except (GrootError, OSError) as error:
            reason = blobs.failure(layer)
            raise self._explain(layer, self._as_told(layer, blob, error), reason) from (reason or error)
        content, removed, entries, left_out, notes, cloned = unpacked
        for note in notes:
            log.info("note", note=note)
        if left_out:
            log.info("left-out", entries=left_out)
        self._progress.unpacked(layer.name, content)
        self._metrics.send("UnpackTime", time.monotonic_ns() - start, NANOS)
        if cloned:
            self._metrics.send("ClonedBytes", sum(cloned.values()), BYTES)
        self.content += content
        self._admission.built(content)
        log.info("ending", entries=entries, bytes=content, cloned=sum(cloned.values()), duration=time.monotonic_ns() - start)
        made.layers += 1
        made.content += content
        made.tree += content - removed
        for other, count in cloned.items():
            made.cloned[other] = made.cloned.get(other, 0) + count

    def _neighbours(self, layer: Layer, blob: str | Blob | _core.Spool, below: str | None) -> _core.Neighbours | None:
        """Volumes whose files this layer may share."""
        if not self.shares_content or isinstance(blob, str):
            return None
        size = layer.size
        if size is None:
            size = 0 if isinstance(blob, _core.Spool) else blob.length or os.fstat(blob.fileno()).st_size
        return self._store.neighbours(self._recent, below, size)

    def _room(self, made: _Made) -> int | None:
        """Bytes of content that may come on top of what was made, if that has a bound."""
        if self.rules is None or not self.rules.stops_at_limit or not self.limit:
            return None
        return max(self.limit - made.tree, 0)

    def _as_told(self, layer: Layer, blob: str | Blob | _core.Spool, error: Exception) -> Exception:
        """The same error, in the words of the release whose callers are served."""
        if self.rules is None or not self.rules.tells_sizes or isinstance(blob, str):
            return error
        if not isinstance(error, BadBlob) or not str(error).startswith("layer size is "):
            return error
        actual = blob.written if isinstance(blob, _core.Spool) else blob.length or os.fstat(blob.fileno()).st_size
        return BadBlob(f"layer size is different from the value in the manifest; expected: {layer.size}, actual {actual}")

    def _explain(self, layer: Layer, error: Exception, reason: Exception | None) -> Exception:
        """The error with the chain of prefixes that callers of the original match on (contract, section 7.4)."""
        if reason is not None:
            text = str(reason.strerror) if isinstance(reason, OSError) else str(reason)
            return SourceError(f"streaming blob `{layer.name}`: {text}", hint=_hint(reason))
        if isinstance(error, BadBlob):
            return BadBlob(f"streaming blob `{layer.name}`: {error}")
        text = f"unpacking layer `{layer.name}`: "
        if isinstance(error, GrootError):
            return type(error)(text + str(error), hint=error.hint)
        assert isinstance(error, OSError)
        return BadLayer(text + str(error.strerror), hint=_hint(error))


def _join_layers(missing: list[Layer], image: Image) -> list[list[Layer]]:
    """Which layers are unpacked into one volume, bottom to top: small ones that follow each other, because a volume costs a snapshot,
    which is a commit. Not the image's first, which others are made of, nor its last, which the next release changes."""
    volumes: list[list[Layer]] = []
    ends = (image.layers[0].chain_id, image.layers[-1].chain_id)
    run: list[Layer] = []
    for layer in missing:
        is_small = layer.directory is None and layer.size is not None and layer.size <= SMALL and layer.chain_id not in ends
        if run and (not is_small or len(run) == MOST_LAYERS):
            volumes += [run] if len(run) >= FEWEST_LAYERS else [[one] for one in run]
            run = []
        if is_small:
            run.append(layer)
        else:
            volumes.append([layer])
    return volumes + ([run] if len(run) >= FEWEST_LAYERS else [[one] for one in run])


def _hint(error: Exception) -> str | None:
    if is_out_of_space(error):
        return "the store is full: `grootfs clean` frees unused layers"
    return error.hint if isinstance(error, GrootError) else None


def _release(held: list[_core.Lock]) -> None:
    while held:
        held.pop().release()
