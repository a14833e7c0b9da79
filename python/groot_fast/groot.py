"""The operations: what each command does, without argv and without printing."""

from __future__ import annotations

import posix
import time

from groot_fast import _core, interrupts
from groot_fast.drivers import Limit, check_driver, open_driver
from groot_fast.errors import ImageNotFound, QuotaError, SourceError, StoreError, UsageError
from groot_fast.idmap import Mappings, are_same, parse_mappings
from groot_fast.idmap.operations import Direct, open_operations
from groot_fast.pull.admission import Admission
from groot_fast.sources import open_source
from groot_fast.store import images, locks, records
from groot_fast.store.layout import Store, image_id_of, open_store
from groot_fast.telemetry.metrics import BYTES, NANOS, Metrics
from groot_fast.telemetry.progress import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from groot_fast.config import Settings
    from groot_fast.drivers import Driver
    from groot_fast.idmap.operations import Operations
    from groot_fast.sources.base import Source
    from groot_fast.sources.image import Image
    from groot_fast.store.check import Finding
    from groot_fast.store.report import Report
    from groot_fast.store.volumes import Volume
    from groot_fast.telemetry.lager import Logger

GLOBAL_DEADLINE = 60.0
"""Seconds a create waits while a clean (ours: milliseconds) holds the whole store."""


class Created:
    """A new image: its directory, and what it was made of."""

    __slots__ = ("image", "mounted", "path")

    def __init__(self, path: str, image: Image, *, mounted: bool) -> None:
        self.path = path
        self.image = image
        self.mounted = mounted

    def spec(self) -> dict[str, object]:
        """The partial runtime specification that Garden reads (contract, section 7.3)."""
        process: dict[str, object] = {"user": {"uid": 0, "gid": 0}, "args": None}
        if self.image.env:
            process["env"] = self.image.env
        process["cwd"] = ""
        spec: dict[str, object] = {"ociVersion": "", "process": process, "root": {"path": f"{self.path}/rootfs"}}
        mounts: list[dict[str, object]] = []
        if not self.mounted:
            mounts.append({"destination": "/", "source": f"{self.path}/snapshot", "options": ["bind"]})
        for volume, source in self.image.volume_sources(self.path).items():
            mounts.append({"destination": volume, "type": "bind", "source": source, "options": ["bind"]})
        if mounts:
            spec["mounts"] = mounts
        return spec


class Groot:
    """Operations on one store. Stateless between calls; any number of processes may work on the store at once."""

    def __init__(
        self,
        settings: Settings,
        log: Logger,
        progress: Listener | None = None,
        metrics: Metrics | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._progress = progress or Listener()
        self._metrics = metrics or Metrics()
        self._admission = admission or Admission()
        self._content = 0
        self._cancel = _core.Cancel()

    def create(self, image: str, image_id: str) -> Created:
        """Make an image. Raises GrootError; nothing half-done stays, complete layers do."""
        with self._log.session("groot-creating", imageID=image_id, image=image) as log:
            source = open_source(image, self._settings, self._cancel, log)
            check_driver(self._settings.driver)
            store = open_store(self._settings.store)
            idmapped = self._check_mappings(store)
            with self._driver(store) as driver:
                images.check_new_id(store, driver, image_id)
                with source, self._timed("ImageCreationTime"):
                    recalled = self._create_recalled(store, driver, source, image_id, idmapped, log)
                    if recalled is not None:
                        return recalled
                    if source.is_slow:
                        self._admission.step_aside()
                    with source.turn(store, self._metrics) as answered:
                        if answered:
                            recalled = self._create_recalled(store, driver, source, image_id, idmapped, log, answered=True)
                            if recalled is not None:
                                return recalled
                        with self._timed("ImageResolveTime"), interrupts.Waiting():
                            resolved = source.resolve()
                        self._check_compressed(resolved)
                        with self._lock(store):
                            volume = self._volume_of(store, driver, resolved, source, log)
                            return self._commit(store, driver, source, image_id, idmapped, resolved, volume)

    def _create_recalled(
        self,
        store: Store,
        driver: Driver,
        source: Source,
        image_id: str,
        idmapped: Mappings | None,
        log: Logger,
        *,
        answered: bool = False,
    ) -> Created | None:
        """Create from what the store remembers of the image, without its source; None where that is not possible."""
        image = source.recall(store, answered=answered)
        if image is None:
            return None
        from groot_fast.pull.builder import Builder

        self._check_compressed(image)
        with self._lock(store):
            volume = Builder(store, driver, log, self._progress, self._metrics, self._admission).existing(image)
            return None if volume is None else self._commit(store, driver, source, image_id, idmapped, image, volume)

    def _lock(self, store: Store) -> locks.Lock:
        held = locks.lock(store, locks.GLOBAL, shared=True, deadline=GLOBAL_DEADLINE)
        held.report(self._metrics, locks.SHARED)
        return held

    def _timed(self, name: str) -> _Timed:
        return _Timed(self._metrics, name)

    def report_sizes(self) -> None:
        """Send what the store holds, after a create and the clean that may follow it."""
        if not self._metrics.is_active:
            return  # the sums cost a look at every record
        store = open_store(self._settings.store)
        self._send_usage(store)
        self._send_unused(store)
        self._metrics.send("DownloadedLayersSizeInBytes", self._content, BYTES)
        self._metrics.send("CommittedQuotaInBytes", images.committed_limits(store), BYTES)

    def _send_usage(self, store: Store) -> None:
        file_system = posix.statvfs(store.path)
        self._metrics.send("StoreUsage", (file_system.f_blocks - file_system.f_bfree) * file_system.f_frsize, BYTES)

    def _send_unused(self, store: Store) -> None:
        if self._metrics.is_active:
            from groot_fast.store.clean import unused_bytes

            self._metrics.send("UnusedLayersSize", unused_bytes(store), BYTES)

    def _driver(self, store: Store) -> _OpenDriver:
        return _OpenDriver(self._settings, open_operations(store.mappings, self._settings, self._cancel))

    def _volume_of(self, store: Store, driver: Driver, image: Image, source: Source, log: Logger) -> Volume:
        from groot_fast.pull.builder import Builder

        pulling = log.session("image-pulling")
        for attempt in (1, 2):
            builder = Builder(store, driver, pulling, self._progress, self._metrics, self._admission)
            blobs = source.blobs(store, pulling, self._progress, self._metrics)
            try:
                with blobs:
                    volume = builder.volume_of(image, blobs)
                self._content = builder.content
                return volume
            except (SourceError, StoreError) as error:
                # Once: what an earlier, interrupted transfer left may have been the reason.
                if attempt == 1 and blobs.is_worth_another_try:
                    pulling.info("starting-over", reason=str(error))
                    continue
                raise type(error)(f"pulling the image: {error}", hint=error.hint) from error
        raise AssertionError("unreachable")

    def _commit(
        self, store: Store, driver: Driver, source: Source, image_id: str, idmapped: Mappings | None, image: Image, volume: Volume
    ) -> Created:
        try:
            size = records.tree_size(store, image.chain_ids)
            limit = self._limit(size)
            with images.Reservation(store, driver, image_id) as reservation:
                try:
                    begun = time.monotonic_ns()
                    reservation.commit(image, volume.path, limit, mount=self._settings.mount, image_size=size, idmapped=idmapped)
                    self._metrics.send("ImageCommitTime", time.monotonic_ns() - begun, NANOS)
                except QuotaError as error:
                    raise QuotaError(f"making image: creating image: {error}", hint=error.hint) from None
                except OSError as error:
                    hint = "idmapped mounts of BTRFS need Linux 5.15" if idmapped is not None else None
                    raise StoreError(f"making image: creating image: {error.strerror}", hint=hint) from None
        except BaseException:
            volume.publish(durable=False)
            volume.release()
            raise
        try:
            is_new = not volume.is_published
            volume.publish(durable=True)
            records.write_source(store, source.name, image)
            if is_new:
                _core.start_sync(store.path)  # no snapshot follows that would take the name to the disk
        except OSError as error:
            # The image is made. What is missing is made again when it is needed.
            self._log.error("caching-failed", error)
        finally:
            volume.release()
        return Created(reservation.path, image, mounted=self._settings.mount or idmapped is not None)

    def _check_mappings(self, store: Store) -> Mappings | None:
        """What the mappings given to create are for. The blog's era repeats those of the store (contract, section 12.2);
        with an idmapped mount they are those of the mount, and are returned."""
        given = Mappings(parse_mappings(self._settings.uid_mappings, "uid"), parse_mappings(self._settings.gid_mappings, "gid"))
        if self._settings.idmapped_mount:
            if posix.geteuid() != 0:
                raise UsageError("--idmapped-mount needs root")
            if store.mappings:
                raise UsageError("--idmapped-mount is for stores without mappings: this store translates ids itself")
            if not given.uids or not given.gids:
                raise UsageError("--idmapped-mount needs --uid-mapping and --gid-mapping")
            return given
        if given and not (are_same(store.mappings.uids, given.uids) and are_same(store.mappings.gids, given.gids)):
            raise StoreError("store already initialized with a different mapping")
        return None

    def _check_compressed(self, image: Image) -> None:
        limit = self._settings.disk_limit
        total = image.compressed_size
        if limit > 0 and not self._settings.exclude_image and total > limit:
            raise QuotaError(
                f"pulling the image: layers exceed disk quota {total}/{limit} bytes",
                hint="raise --disk-limit-size-bytes, or use --exclude-image-from-quota",
            )

    def _limit(self, image_size: int) -> Limit | None:
        size, exclusive = self._settings.disk_limit, self._settings.exclude_image
        if size <= 0:
            return None
        if not exclusive and size <= image_size:
            raise QuotaError(
                "making image: creating image: applying disk limits: disk limit is smaller than volume size: "
                f"the image has {image_size} bytes, the limit is {size} bytes",
                hint=f"raise --disk-limit-size-bytes above {image_size}, or use --exclude-image-from-quota",
            )
        return Limit(size, exclusive=exclusive, image_size=image_size)

    def delete(self, argument: str) -> str:
        """Remove an image; gives its id. Raises ImageNotFound, StoreError."""
        with self._log.session("groot-deleting", id=argument) as log:
            check_driver(self._settings.driver)
            image_id = image_id_of(self._settings.store, argument)
            store = self._store_of(image_id)
            with self._driver(store) as driver, self._timed("ImageDeletionTime"):
                images.delete_image(store, driver, image_id)
            self._send_unused(store)
            log.debug("deleted", id=image_id)
            return image_id

    def stats(self, argument: str) -> tuple[int, int]:
        """(all bytes, own bytes) of an image. Raises ImageNotFound, StoreError, QuotaError."""
        with self._log.session("groot-stats", id=argument):
            check_driver(self._settings.driver)
            image_id = image_id_of(self._settings.store, argument)
            store = self._store_of(image_id)
            with self._driver(store) as driver, self._timed("ImageStatsTime"):
                return images.image_usage(store, driver, image_id)

    def _store_of(self, image_id: str) -> Store:
        try:
            return open_store(self._settings.store)
        except StoreError:
            # No store, no image: a caller that tidies up must not fail (contract, section 8.1).
            raise ImageNotFound(f"Image `{image_id}` not found. Skipping delete.") from None

    def clean(self, *, on_create: bool = False) -> bool:
        """Remove unused volumes. False where the threshold is not reached. Raises StoreError."""
        from groot_fast.store.clean import clean

        with self._log.session("groot-cleaning") as log:
            check_driver(self._settings.driver)
            store = open_store(self._settings.store)
            with self._driver(store) as driver, self._timed("ImageCleanTime"):
                cleaned = clean(
                    store,
                    driver,
                    log,
                    self._metrics,
                    threshold=self._settings.threshold,
                    ignore_images=self._settings.ignore_images,
                    on_create=on_create,
                )
            if cleaned:
                self._remove_stale_groups(store, log)
            if not on_create:
                if cleaned:
                    self._send_usage(store)
                self._send_unused(store)
            return cleaned

    def _remove_stale_groups(self, store: Store, log: Logger) -> None:
        try:
            log.debug("stale-quota-groups-removed", count=_core.remove_stale_groups(store.folder("volumes")))
        except OSError as error:
            log.debug("stale-quota-groups-kept", reason=str(error.strerror))

    def check(self, *, deep: bool = False, repair: bool = False, dry_run: bool = False) -> list[Finding]:
        """Hold the store against what it should be (with ``deep`` the content of volumes too), and with ``repair`` put right
        what no living image uses (with ``dry_run`` only say what that would be). Raises StoreError, OSError."""
        from groot_fast.store.check import check
        from groot_fast.store.repair import repair as repair_

        with self._log.session("groot-checking") as log:
            check_driver(self._settings.driver)
            store = open_store(self._settings.store)
            with self._driver(store) as driver:
                found = check(store, driver, deep=deep)
                if repair or dry_run:
                    found = repair_(store, driver, log, found, deep=deep, dry_run=dry_run)
            log.info("checked", found=len(found), remain=sum(finding.counts for finding in found))
            return found

    def list(self) -> list[str]:
        """Directories of all images. Raises StoreError."""
        store = Store(self._settings.store, Mappings([], []))
        try:
            with self._driver(store) as driver:
                return [store.image(image_id) for image_id in images.list_images(store, driver)]
        except OSError as error:
            reason = (error.strerror or "error").lower()
            raise StoreError(f"Failed to retrieve list of images: failed to list store path: {reason}") from None

    def describe_images(self) -> Sequence[Report]:
        """What `list --json` prints: see `store.report.describe_images`. Raises StoreError, OSError."""
        from groot_fast.store.report import describe_images

        store = Store(self._settings.store, Mappings([], []))
        with self._driver(store) as driver:
            return describe_images(store, driver)

    def describe_store(self) -> Report:
        """What `stats --store` prints: see `store.report.describe_store`. Raises StoreError, OSError."""
        from groot_fast.store.report import describe_store

        with self._log.session("groot-store-stats"):
            check_driver(self._settings.driver)
            store = open_store(self._settings.store)
            with self._driver(store) as driver:
                return describe_store(store, driver, self._settings.threshold)

    def init_store(self, *, rootless: str = "", quota: str | None = None) -> None:
        """Make the store, or check one that is there. Raises StoreError, UsageError."""
        from groot_fast.idmap import read_subordinate
        from groot_fast.store.setup import init_store

        settings = self._settings
        with self._log.session("groot-init-store") as log:
            if rootless:
                if settings.uid_mappings or settings.gid_mappings:
                    raise UsageError("cannot specify --rootless and --uid-mapping/--gid-mapping")
                user, colon, group = rootless.partition(":")
                if not user or not colon or not group or ":" in group:
                    raise UsageError("invalid --rootless parameter, format must be <user>:<group>")
                mappings = read_subordinate(user, group)
            else:
                mappings = Mappings(parse_mappings(settings.uid_mappings, "uid"), parse_mappings(settings.gid_mappings, "gid"))
            driver = open_driver(settings, Direct(mappings, self._cancel))
            init_store(settings.store, driver, mappings, log, size=settings.store_size, tools=settings.btrfs_progs_path, quota=quota)

    def migrate(self, quota: str) -> str:
        """Turn on simple quotas for the store (``quota`` is ``simple``), or say what that would do (nothing given). Gives
        the text for people. Raises StoreError, OSError."""
        from groot_fast.store.migrate import describe, migrate

        with self._log.session("groot-migrate") as log:
            check_driver(self._settings.driver)
            store = open_store(self._settings.store)
            with self._driver(store) as driver:
                return migrate(store, driver, log) if quota else describe(store, driver)

    def delete_store(self) -> None:
        """Remove the store with everything in it. Raises StoreError."""
        from groot_fast.store.setup import delete_store

        with self._log.session("groot-delete-store"):
            delete_store(self._settings.store, open_driver(self._settings, Direct(Mappings([], []), self._cancel)))

    def record_volume_sizes(self) -> None:
        """Write the size records that are missing. Raises StoreError."""
        from groot_fast.store.volumes import record_missing_sizes

        with self._log.session("groot-volume-sizes"):
            record_missing_sizes(open_store(self._settings.store))


class _Timed:
    """Reports how long a block took, whether it succeeds or not; nothing where there was nothing to work on."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def __enter__(self) -> None:
        self._begun = time.monotonic_ns()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None or not issubclass(kind, ImageNotFound):
            self._metrics.send(self._name, time.monotonic_ns() - self._begun, NANOS)


class _OpenDriver:
    """The driver for one operation; ends the helper processes it started."""

    def __init__(self, settings: Settings, operations: Operations) -> None:
        self._settings = settings
        self._operations = operations

    def __enter__(self) -> Driver:
        return open_driver(self._settings, self._operations)

    def __exit__(self, *_: object) -> None:
        self._operations.close()
