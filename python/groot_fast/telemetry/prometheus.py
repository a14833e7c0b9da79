"""Metrics in a file for the node exporter's textfile collector (Prometheus text format 0.0.4).

Commands are processes that end, so what they count has to add up in the file: each one, when it is done, takes the lock
beside the file, adds its own to what is there, and puts a new file in its place by renaming. Nothing about it can fail a
command or hold it up: a lock that is not free in time, or a file that cannot be written, is a line in the log.
"""

from __future__ import annotations

import fcntl
import os
import time

from groot_fast import _core
from groot_fast.telemetry.metrics import NANOS, Metrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.telemetry.lager import Logger

    Samples = dict[str, dict[str, float]]
    """Values by family and by the rest of the sample: a suffix and the labels, as they stand in the file."""

COUNTER, GAUGE, SUMMARY, HISTOGRAM = "counter", "gauge", "summary", "histogram"

FAMILIES = {
    "grootfs_commands_total": (COUNTER, "Commands that ended, by command and outcome."),
    "grootfs_command_duration_seconds": (HISTOGRAM, "Time from the start of a command to its end."),
    "grootfs_image_creation_seconds": (SUMMARY, "Time to make an image, failures included."),
    "grootfs_image_resolve_seconds": (SUMMARY, "Time to find out what an image is made of."),
    "grootfs_image_commit_seconds": (SUMMARY, "Time to make an image of complete layers: records, snapshot and limit."),
    "grootfs_image_deletion_seconds": (SUMMARY, "Time to remove an image."),
    "grootfs_image_stats_seconds": (SUMMARY, "Time to look up what an image uses."),
    "grootfs_clean_seconds": (SUMMARY, "Time to clean."),
    "grootfs_layer_download_seconds": (SUMMARY, "Time to fetch a layer."),
    "grootfs_layer_unpack_seconds": (SUMMARY, "Time to unpack a layer."),
    "grootfs_lock_wait_seconds": (
        SUMMARY,
        "Time until a lock was there: shared, of the store; exclusive, of a layer or the store; pull, to ask a registry.",
    ),
    "grootfs_lock_hold_seconds": (SUMMARY, "Time a lock was held."),
    "grootfs_downloaded_bytes_total": (COUNTER, "Bytes of layers that came over the network."),
    "grootfs_unpacked_bytes_total": (COUNTER, "Bytes of file content in the layers that were unpacked."),
    "grootfs_store_used_bytes": (GAUGE, "Used bytes of the store's file system, as of the last create or clean."),
    "grootfs_unused_layers_bytes": (GAUGE, "Bytes of the layers that no image uses, as of the last create, delete or clean."),
    "grootfs_committed_quota_bytes": (GAUGE, "Sum of the disk limits of all images, as of the last create."),
    "grootfs_filesystem_commits_total": (COUNTER, "Commits of the store's file system since it was mounted (Linux 6.0)."),
}

VALUES = {
    "ImageCreationTime": ("grootfs_image_creation_seconds", ""),
    "ImageResolveTime": ("grootfs_image_resolve_seconds", ""),
    "ImageCommitTime": ("grootfs_image_commit_seconds", ""),
    "ImageDeletionTime": ("grootfs_image_deletion_seconds", ""),
    "ImageStatsTime": ("grootfs_image_stats_seconds", ""),
    "ImageCleanTime": ("grootfs_clean_seconds", ""),
    "DownloadTime": ("grootfs_layer_download_seconds", ""),
    "UnpackTime": ("grootfs_layer_unpack_seconds", ""),
    "SharedLockingTime": ("grootfs_lock_wait_seconds", "shared"),
    "ExclusiveLockingTime": ("grootfs_lock_wait_seconds", "exclusive"),
    "PullLockingTime": ("grootfs_lock_wait_seconds", "pull"),
    "PullLockHoldTime": ("grootfs_lock_hold_seconds", "pull"),
    "SharedLockHoldTime": ("grootfs_lock_hold_seconds", "shared"),
    "ExclusiveLockHoldTime": ("grootfs_lock_hold_seconds", "exclusive"),
    "DownloadedBytes": ("grootfs_downloaded_bytes_total", ""),
    "DownloadedLayersSizeInBytes": ("grootfs_unpacked_bytes_total", ""),
    "StoreUsage": ("grootfs_store_used_bytes", ""),
    "UnusedLayersSize": ("grootfs_unused_layers_bytes", ""),
    "CommittedQuotaInBytes": ("grootfs_committed_quota_bytes", ""),
}
"""Family and lock label of each value that goes to metron."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds in seconds: from a warm create to a large pull."""

LOCK_DEADLINE = 1.0
LOCK_PAUSE = 0.005
MAX_FILE = 1 << 20


class MetricsFile(Metrics):
    """Collects the values of one command, and adds them to the file at its end."""

    is_active = True

    def __init__(self, path: str, store: str, log: Logger) -> None:
        self._path = path
        self._store = store
        self._log = log
        self._begun = time.monotonic_ns()
        # Appending is safe from any thread.
        self._values: list[tuple[str, float]] = []
        self._ended: tuple[str, int] | None = None

    def send(self, name: str, value: float, unit: str) -> None:
        """See `Metrics`."""
        self._values.append((name, value / 1e9 if unit == NANOS else value))

    def ended(self, command: str, code: int, message: str) -> None:
        """See `Metrics`."""
        self._ended = (command, code)

    def close(self) -> None:
        """See `Metrics`."""
        try:
            lock = _lock(f"{self._path}.lock")
            try:
                samples = _read(self._path)
                self._add_to(samples)
                _replace(self._path, render(samples))
            finally:
                os.close(lock)
        except (OSError, ValueError) as error:
            self._log.error("failed-to-write-metrics-file", error, path=self._path)

    def _add_to(self, samples: Samples) -> None:
        labels = {"store": self._store}
        for name, value in self._values:
            family, lock = VALUES.get(name, ("", ""))
            if not family:
                continue
            _observe(samples, family, {**labels, "lock": lock} if lock else labels, value)
        if self._ended is not None:
            command, code = self._ended
            outcome = "failure" if code else "success"
            _observe(samples, "grootfs_commands_total", {**labels, "command": command, "outcome": outcome}, 1)
            seconds = (time.monotonic_ns() - self._begun) / 1e9
            _observe(samples, "grootfs_command_duration_seconds", {**labels, "command": command}, seconds)
        commits = commits_of(self._store)
        if commits is not None:
            # The kernel's own counter: it is set, not added to.
            samples.setdefault("grootfs_filesystem_commits_total", {})[_labels(labels)] = commits


def _observe(samples: Samples, family: str, labels: dict[str, str], value: float) -> None:
    """Add one observation to a family, in the way of its kind."""
    kind = FAMILIES[family][0]
    rows = samples.setdefault(family, {})
    if kind == GAUGE:
        rows[_labels(labels)] = value
        return
    if kind == COUNTER:
        rows[_labels(labels)] = rows.get(_labels(labels), 0) + value
        return
    if kind == HISTOGRAM:
        for bound in (*BUCKETS, None):
            key = "_bucket" + _labels({**labels, "le": "+Inf" if bound is None else f"{bound:g}"})
            rows[key] = rows.get(key, 0) + (bound is None or value <= bound)
    for suffix, more in (("_sum", value), ("_count", 1)):
        key = suffix + _labels(labels)
        rows[key] = rows.get(key, 0) + more


def _labels(labels: dict[str, str]) -> str:
    pairs = []
    for name, value in labels.items():
        # A path need not be text; the format is.
        text = os.fsencode(value).decode("utf-8", "replace").replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        pairs.append(f'{name}="{text}"')
    return "{" + ",".join(pairs) + "}"


def render(samples: Samples) -> str:
    """The text of a file."""
    lines = []
    for family, (kind, text) in FAMILIES.items():
        rows = samples.get(family)
        if rows:
            lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
            lines += [f"{family}{rest} {value:.17g}" for rest, value in rows.items()]
    return "\n".join(lines) + "\n"


def parse(text: str) -> Samples:
    """The samples of a file that `render` made. Families that are not ours are left out. Raises ValueError."""
    samples: Samples = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        sample, _, value = line.rpartition(" ")
        name = sample.partition("{")[0]
        family = next((family for family in (name, *_stems(name)) if family in FAMILIES), None)
        if family is not None:
            samples.setdefault(family, {})[sample[len(family) :]] = float(value)
    return samples


def _stems(name: str) -> list[str]:
    return [name.removesuffix(suffix) for suffix in ("_bucket", "_sum", "_count")]


def commits_of(path: str) -> int | None:
    """Commits of the file system at ``path`` since it was mounted; None where it is not BTRFS or too old (Linux 6.0)."""
    try:
        with open(f"/sys/fs/btrfs/{_core.uuid(path)}/commit_stats", encoding="ascii") as file:
            return int(file.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _lock(path: str) -> int:
    """A descriptor with the lock. Raises OSError where it is not free in time."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    end = time.monotonic() + LOCK_DEADLINE
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
            time.sleep(LOCK_PAUSE)
    except BaseException:
        os.close(fd)
        raise


def _read(path: str) -> Samples:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return {}
    if len(data) > MAX_FILE:
        raise ValueError(f"larger than {MAX_FILE} bytes")
    try:
        return parse(data.decode())
    except ValueError:
        return {}  # not from us, or damaged: counters may start anew


def _replace(path: str, text: str) -> None:
    # Not a name that the collector reads (*.prom). One writer at a time: the lock is held.
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o644)
        file.write(text.encode())
    os.rename(new, path)
