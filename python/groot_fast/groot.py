"""The operations: what each command does, without argv and without printing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from groot_fast import _core, interrupts
from groot_fast.config import Settings
from groot_fast.errors import (
    Cancelled,
    GrootError,
    ImageNotFound,
    SourceError,
    StoreError,
    UsageError,
    is_out_of_space,
    line_of,
)
from groot_fast.idmap.namespaced import Namespaced
from groot_fast.idmap.trees import Direct, Trees
from groot_fast.pull.admission import Admission
from groot_fast.pull.builder import Builder
from groot_fast.sources import open_source
from groot_fast.sources.base import Source
from groot_fast.telemetry import BYTES, NANOS
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import Metrics
from groot_fast.telemetry.progress import Listener
from groot_fast.upkeep.check import check
from groot_fast.upkeep.findings import Finding
from groot_fast.upkeep.migrate import describe, migrate
from groot_fast.upkeep.repair import repair as repair_
from groot_fast.upkeep.report import Report, describe_images, describe_store
from groot_fast.upkeep.setup import delete_store, init_store

IdMaps = tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]
"""User and group mappings."""
PULL_ATTEMPTS = 3
"""How often layers are fetched whose bytes are wrong: on top of what an earlier transfer left, from a mirror, from the registry."""
FULL_HINT = "the store is full, also without unused layers: delete images, or make a larger store"


class Created:
    """A new image: its directory, and what it was made of."""

    __slots__ = ("image", "mounted", "path", "rules")

    def __init__(self, path: str, image: _core.Image, *, mounted: bool, rules: _core.Rules) -> None:
        self.rules = rules
        self.path = path
        self.image = image
        self.mounted = mounted

    def spec(self) -> str:
        """The partial runtime specification that Garden reads, as JSON (contract, section 7.3)."""
        return _core.describe_image(self.image.parts, self.path, self.mounted, self.rules)


class ImageUsage(NamedTuple):
    """What an image uses, in bytes: everything that one sees in it, and what is its own; with the limit of its own and what it may
    come to, if the rules of an era show them."""

    total: int
    exclusive: int
    limit: int | None = None
    committed: int | None = None

    def document(self) -> dict[str, int]:
        """The same under the names that `stats` prints."""
        names = ("total_bytes_used", "exclusive_bytes_used", "quota_size_bytes", "committed_space_bytes")
        return {name: value for name, value in zip(names, self, strict=True) if value is not None}


class Groot:
    """Operations on one store. Stateless between calls; any number of processes may work on the store at once.

    Without a ``log`` nothing is logged.
    """

    def __init__(
        self,
        settings: Settings,
        log: Logger | None = None,
        progress: Listener | None = None,
        metrics: Metrics | None = None,
        admission: Admission | None = None,
        cancel: _core.Cancel | None = None,
    ) -> None:
        """``cancel`` stops what is done in a thread (`interrupts.Stop`); without it signals do."""
        self._settings = settings
        self._log = log or Logger.silent()
        self._progress = progress or Listener()
        self._metrics = metrics or Metrics()
        self._admission = admission or Admission()
        self._content = 0
        self._cancel = cancel or _core.Cancel()

    @contextmanager
    def _open(self) -> Iterator[tuple[_core.Store, Trees]]:
        """The store, and what works on its trees. Raises StoreError."""
        check_driver(self._settings.driver)
        if os.geteuid() == 0:
            store = _core.Store.open(self._settings.store, drax=self._settings.drax_bin)
            yield store, Direct(store, self._cancel)
            return
        helper = Namespaced(self._settings)
        store = _core.Store.open(self._settings.store, drax=self._settings.drax_bin, helper=helper)
        helper.serve(store)
        try:
            yield store, helper if store.uids or store.gids else Direct(store, self._cancel)
        finally:
            helper.close()

    def create(self, image: str, image_id: str) -> Created:
        """Make an image; if the store is full, once more after a clean. Raises GrootError, OSError; nothing half-done stays,
        complete layers do."""
        try:
            return self._create(image, image_id)
        except (GrootError, OSError) as error:
            if not is_out_of_space(error):
                raise
            self._log.info("store-is-full", reason=line_of(error))
        # Not within the `except`: what failed holds descriptors, and these hold space.
        try:
            self.clean(everything=True)
        except Cancelled:
            raise
        except GrootError as error:
            self._log.error("failed-to-cleanup-store", error)  # it may have freed enough all the same
        try:
            return self._create(image, image_id)
        except (GrootError, OSError) as error:
            if not is_out_of_space(error):
                raise
            if isinstance(error, OSError):
                raise StoreError(line_of(error), hint=FULL_HINT) from error
            error.hint = FULL_HINT
            raise

    def _create(self, image: str, image_id: str) -> Created:
        with self._log.session("groot-creating", imageID=image_id, image=image) as log:
            source = open_source(image, self._settings, self._cancel, log)
            with self._open() as (store, trees):
                idmapped = self._check_mappings(store)
                store.check_new_image(image_id)
                with source, self._timed("ImageCreationTime"):
                    create = _Create(self, store, trees, source, image_id, idmapped, log)
                    recalled = create.recalled()
                    if recalled is not None:
                        return recalled
                    if source.is_slow:
                        self._admission.step_aside()
                    with source.turn(store, self._metrics) as answered:
                        if answered:
                            recalled = create.recalled(answered=True)
                            if recalled is not None:
                                return recalled
                        return create.resolved()

    def create_and_clean(self, image: str, image_id: str, *, program: Sequence[str] = ()) -> Created:
        """Make an image, clean if that is wanted, and report what the store holds then. Where the clean is a process of its own,
        ``program`` and its first arguments are this one's; without it the clean is done here. Raises GrootError for the image
        alone."""
        created = self.create(image, image_id)
        settings = self._settings
        if settings.with_clean and settings.rules.cleans_apart and program:
            _core.start_clean(settings.values, self._log, list(program))
        elif settings.with_clean:
            try:
                self.clean(on_create=True)
            # The image is made, and that is what was asked for: what somebody else left must not take it from the caller.
            except Cancelled:
                self._log.info("cleanup-stopped")
            except (GrootError, OSError) as error:
                self._log.error("failed-to-cleanup-store", error)
        self.report_sizes()
        return created

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Report how long a block took, whether it succeeds or not; nothing if there was nothing to work on."""
        begun = time.monotonic_ns()
        try:
            yield
        except ImageNotFound:
            raise
        except BaseException:
            self._metrics.send(name, time.monotonic_ns() - begun, NANOS)
            raise
        self._metrics.send(name, time.monotonic_ns() - begun, NANOS)

    def report_sizes(self) -> None:
        """Send what the store holds, after a create and the clean that may follow it."""
        if not self._metrics.is_active:
            return  # the sums cost a look at every record
        rules = self._settings.rules
        with self._open() as (store, _):
            self._send_usage(store)
            # The newest leaves it to the clean that it has begun.
            if not (rules.cleans_apart and self._settings.with_clean):
                self._send_layers(store)
            layers = store.measured_bytes(counts_limits=False) if rules.gauges_layers else self._content
            self._metrics.send_apart("DownloadedLayersSizeInBytes", layers, self._content, BYTES)
            committed = store.committed_bytes() if rules.measures_newly else store.committed_limits()
            self._metrics.send("CommittedQuotaInBytes", committed, BYTES)

    def _send_usage(self, store: _core.Store) -> None:
        size, free, *_ = store.space()
        self._metrics.send("UsedBackingStoreInBytes" if self._settings.rules.measures_newly else "StoreUsage", size - free, BYTES)

    def _send_layers(self, store: _core.Store) -> None:
        if self._metrics.is_active:
            unused = store.unused_bytes()
            self._metrics.send("UnusedLayersSize", unused, BYTES)
            if self._settings.rules.measures_newly:
                self._metrics.send("UsedLayersSize", store.measured_bytes(counts_limits=False) - unused, BYTES)

    def _check_mappings(self, store: _core.Store) -> IdMaps | None:
        """What the mappings given to create are for. The blog's era repeats those of the store (contract, section 12.2);
        with an idmapped mount they are those of the mount, and are returned."""
        given = _core.parse_mappings(self._settings.uid_mappings, self._settings.gid_mappings)
        if self._settings.idmapped_mount:
            if os.geteuid() != 0:
                raise UsageError("--idmapped-mount needs root")
            if store.uids or store.gids:
                raise UsageError("--idmapped-mount is for stores without mappings: this store translates ids itself")
            if not all(given):
                raise UsageError("--idmapped-mount needs --uid-mapping and --gid-mapping")
            return given
        if any(given) and (sorted(given[0]), sorted(given[1])) != (sorted(store.uids), sorted(store.gids)):
            raise UsageError("store already initialized with a different mapping")
        return None

    def delete(self, argument: str) -> str:
        """Remove an image; gives its id. Raises ImageNotFound, StoreError."""
        with self._log.session("groot-deleting", id=argument) as log:
            image_id = _core.image_id_of(self._settings.store, argument)
            with self._open_for(image_id) as (store, _):
                with self._timed("ImageDeletionTime"), interrupts.Waiting():
                    store.delete_image(image_id, self._cancel)
                self._send_layers(store)
            log.debug("deleted", id=image_id)
            return image_id

    def stats(self, argument: str) -> ImageUsage:
        """What an image uses. Raises ImageNotFound, StoreError, QuotaError."""
        with self._log.session("groot-stats", id=argument):
            image_id = _core.image_id_of(self._settings.store, argument)
            with self._open_for(image_id) as (store, _), self._timed("ImageStatsTime"):
                usage = ImageUsage(*store.image_usage(image_id))
                if self._settings.rules.shows_limits:
                    limit = store.committed_to(image_id)
                    return usage._replace(limit=limit, committed=store.image_size(image_id) + limit)
                return usage

    @contextmanager
    def _open_for(self, image_id: str) -> Iterator[tuple[_core.Store, Trees]]:
        """As `_open`; no store means no image: a caller that tidies up must not fail (contract, section 8.1)."""
        check_driver(self._settings.driver)
        if not _core.Store.is_initialised(self._settings.store):
            raise ImageNotFound(f"Image `{image_id}` not found. Skipping delete.")
        with self._open() as opened:
            yield opened

    def clean(self, *, on_create: bool = False, everything: bool = False) -> str:
        """Remove unused volumes; with ``everything`` whatever the configured conditions say. Gives ``done``, ``below threshold`` if
        none of these holds, or ``running`` if another clean is at it. Raises StoreError."""
        settings = self._settings
        command = self._log
        if on_create and settings.clean_log_file:
            command = command.in_sink(open_sink(settings.clean_log_file, settings.log_level, settings.log_time_format))
        with command.session("groot-cleaning") as log, self._open() as (store, _):
            with self._timed("ImageCleanTime"):
                outcome = store.clean(
                    conditions=(0, 0, 0) if everything else (settings.threshold, settings.clean_free, settings.clean_free_percent),
                    keep=0 if everything else settings.clean_keep,
                    rules=settings.rules,
                    ignore_images=settings.ignore_images,
                    on_create=on_create,
                    log=log,
                    metrics=self._metrics,
                    cancel=self._cancel,
                )
            if not on_create:
                # The newest measures its disk on create alone.
                if outcome != "below threshold" and not settings.rules.measures_newly:
                    self._send_usage(store)
                self._send_layers(store)
            return outcome

    def check(self, *, deep: bool = False, repair: bool = False, dry_run: bool = False) -> list[Finding]:
        """Compare the store with what it should be (with ``deep`` the content of volumes too), and with ``repair`` put right
        what no living image uses (with ``dry_run`` only say what that would be). Raises StoreError, OSError."""
        with self._log.session("groot-checking") as log, self._open() as (store, trees):
            found = check(store, trees, deep=deep)
            if repair or dry_run:
                found = repair_(store, trees, log, self._cancel, found, deep=deep, dry_run=dry_run)
            log.info("checked", found=len(found), remain=sum(finding.counts for finding in found))
            return found

    def list(self) -> list[str]:
        """Directories of all images. Raises StoreError."""
        try:
            store = _core.Store.open_any(self._settings.store)
            return [f"{self._settings.store}/images/{image_id}" for image_id in store.images()]
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise StoreError(f"Failed to retrieve list of images: failed to list store path: {reason}") from None

    def describe_images(self) -> Sequence[Report]:
        """What `list --json` prints: see `upkeep.report.describe_images`. Raises StoreError, OSError."""
        return describe_images(_core.Store.open_any(self._settings.store))

    def describe_store(self) -> Report:
        """What `stats --store` prints: see `upkeep.report.describe_store`. Raises StoreError, OSError."""
        with self._log.session("groot-store-stats"), self._open() as (store, _):
            return describe_store(store, self._settings.threshold, counts_limits=self._settings.rules.counts_limits)

    def init_store(self, *, rootless: str = "", quota: str | None = None, limits: str | None = None) -> str:
        """Make the store, or check one that is there; gives what there is to say. Raises StoreError, UsageError."""
        settings = self._settings
        with self._log.session("groot-init-store") as log:
            check_driver(settings.driver)
            if rootless:
                if settings.uid_mappings or settings.gid_mappings:
                    raise UsageError("cannot specify --rootless and --uid-mapping/--gid-mapping")
                user, colon, group = rootless.partition(":")
                if not user or not colon or not group or ":" in group:
                    raise UsageError("invalid --rootless parameter, format must be <user>:<group>")
                from groot_fast.idmap import read_subordinate

                mappings = read_subordinate(user, group)
            else:
                mappings = _core.parse_mappings(settings.uid_mappings, settings.gid_mappings)
            return init_store(
                settings.store,
                mappings,
                log,
                size=settings.store_size,
                tools=settings.btrfs_progs_path,
                quota=quota,
                direct_io=settings.direct_io,
                limits=limits,
            )

    def migrate(self, quota: str) -> str:
        """Turn on simple quotas for the store (``quota`` is ``simple``), or say what that would do (nothing given). Gives
        the text for people. Raises StoreError, OSError."""
        with self._log.session("groot-migrate") as log, self._open() as (store, _):
            return migrate(store, log, self._cancel) if quota else describe(store)

    def delete_store(self) -> None:
        """Remove the store with everything in it. Raises StoreError."""
        with self._log.session("groot-delete-store") as log:
            check_driver(self._settings.driver)
            delete_store(self._settings.store, log, self._cancel, keep_empty=self._settings.rules.keeps_empty_store)

    def record_volume_sizes(self) -> None:
        """Write the size records that are missing. Raises StoreError."""
        with self._log.session("groot-volume-sizes"), self._open() as (store, _), interrupts.Waiting():
            store.record_missing_sizes(self._cancel)


def check_driver(name: str) -> None:
    """Refuse a driver that there is none of. Raises StoreError with the original's text."""
    if name != "btrfs":
        hint = "this build keeps images on BTRFS; use `--driver btrfs`" if name == "overlay-xfs" else None
        raise StoreError(f"filesystem driver not supported: {name}", hint=hint)


class _Create:
    """One create: the image, resolved or remembered; its volume, found or built; then the image made of it."""

    def __init__(
        self, groot: Groot, store: _core.Store, trees: Trees, source: Source, image_id: str, idmapped: IdMaps | None, log: Logger
    ) -> None:
        self._groot = groot
        self._settings = groot._settings
        self._metrics = groot._metrics
        self._cancel = groot._cancel
        self._store = store
        self._trees = trees
        self._source = source
        self._image_id = image_id
        self._idmapped = idmapped
        self._log = log
        self._locked_since: list[int] = []

    def recalled(self, *, answered: bool = False) -> Created | None:
        """Create from what the store remembers of the image, without its source; None if that is not possible."""
        image = self._source.recall(self._store, answered=answered)
        if image is None:
            return None
        self._check_compressed(image)
        with self._lock():
            volume = self._store.existing_volume(image.chain_ids, image.demand, self._cancel)
            return None if volume is None else self._commit(image, volume)

    def resolved(self) -> Created:
        """Create after asking the source what the image is."""
        with self._groot._timed("ImageResolveTime"), interrupts.Waiting():
            image = self._source.resolve()
        for warning in image.warnings:
            self._log.info("warning", warning=warning)
            self._groot._progress.warn(warning)
        self._check_compressed(image)
        with self._lock():
            return self._commit(image, self._volume_of(image))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The lock that every create shares; what is held longer than that is said when it is let go."""
        with interrupts.Waiting():
            held = self._store.lock(_core.GLOBAL_LOCK, shared=True, deadline=_core.GLOBAL_DEADLINE, cancel=self._cancel)
        self._metrics.send("SharedLockingTime", held.waited, NANOS)
        since = time.monotonic_ns()
        try:
            yield
        finally:
            held.release()
            now = time.monotonic_ns()
            self._metrics.send("SharedLockHoldTime", now - since, NANOS)
            for since in self._locked_since:
                self._metrics.send("ExclusiveLockHoldTime", now - since, NANOS)

    def _check_compressed(self, image: _core.Image) -> None:
        _core.check_compressed(image.compressed_size, self._settings.disk_limit, self._settings.exclude_image)

    def _volume_of(self, image: _core.Image) -> _core.Volume:
        pulling = self._log.session("image-pulling")
        groot = self._groot
        for attempt in range(1, PULL_ATTEMPTS + 1):
            builder = Builder(self._store, self._trees, self._cancel, pulling, groot._progress, self._metrics, groot._admission)
            builder.rules = self._settings.rules
            builder.shares_content = self._settings.share_content
            builder.joins_layers = self._settings.join_small_layers
            if not self._settings.exclude_image:
                builder.limit = self._settings.disk_limit
            blobs = self._source.blobs(self._store, pulling, groot._progress, self._metrics)
            self._locked_since = builder.locked_since
            try:
                with blobs:
                    volume = builder.volume_of(image, blobs)
                groot._content = builder.content
                return volume
            except (SourceError, StoreError) as error:
                # What an earlier, interrupted transfer left may have been the reason, or a mirror.
                if attempt < PULL_ATTEMPTS and blobs.is_worth_another_try:
                    pulling.info("starting-over", reason=str(error))
                    continue
                raise type(error)(f"pulling the image: {error}", hint=error.hint) from error
        raise AssertionError("unreachable")

    def _commit(self, image: _core.Image, volume: _core.Volume) -> Created:
        settings = self._settings
        with interrupts.Committing(self._cancel):
            path = self._store.create_image(
                volume,
                self._image_id,
                image.parts,
                limit=settings.disk_limit,
                exclude_image=settings.exclude_image,
                without_mount=not settings.mount,
                without_volumes=not settings.rules.has_volumes,
                idmapped=self._idmapped,
                source=self._source.name,
                log=self._log,
                metrics=self._metrics,
                cancel=self._cancel,
            )
        return Created(path, image, mounted=settings.mount or self._idmapped is not None, rules=settings.rules)
