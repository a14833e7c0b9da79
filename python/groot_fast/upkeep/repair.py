"""Repair: what check can put right without touching anything that a living image uses.

`clean` and the commands that work meanwhile are held off by the same locks as ever (locks.py), and every step looks again
under its lock. What is left over is removed by the functions `clean` removes it with. What a person has to decide
(subvolumes that nobody knows, foreign files, lost limits, damaged content of an image) is never touched.
"""

from __future__ import annotations

import os

from groot_fast import _core
from groot_fast.errors import GrootError
from groot_fast.store import images, locks, records
from groot_fast.store.check import Finding, check, is_chain_id
from groot_fast.store.clean import (
    KEEP_DOWNLOADS,
    destroy_marked,
    doom,
    drop_stale_records,
    remove_lock_files,
    remove_temporary,
)
from groot_fast.store.volumes import list_volumes, record_missing_sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from groot_fast.drivers import Driver
    from groot_fast.store.layout import Store
    from groot_fast.telemetry.lager import Logger

CLEAN_DEADLINE = 30.0
"""Seconds to wait for a running clean."""
ROUNDS = 2
"""Passes: a wrong size shows only when the record is back that says what is right."""
ALONE_DEADLINE = 5.0
"""Seconds to wait for a moment without creates. They do not wait for us: the lock is only tried."""


class Repairs:
    """Repairs of one store, by kind of finding."""

    def __init__(self, store: Store, driver: Driver, log: Logger) -> None:
        self._store = store
        self._driver = driver
        self._log = log
        # With the lock that keeps creates out, so quick ones only. Destroying a volume may make its lock file anew.
        self._alone: dict[str, Callable[[list[Finding]], None]] = {
            "record-without-image": lambda _: drop_stale_records(store, log),
            "record-without-volume": lambda _: records.prune_volumes(store, set(list_volumes(store))),
            "leftover": lambda _: remove_temporary(store, True, KEEP_DOWNLOADS),
            **dict.fromkeys(
                ("stale-locks", "incomplete-volume", "damaged-content", "damaged-listing"),
                lambda _: remove_lock_files(store, set(list_volumes(store))),
            ),
        }
        self._others: dict[str, Callable[[list[Finding]], None]] = {
            "unfinished-image": lambda _: images.remove_unfinished(store, driver),
            "incomplete-volume": self._destroy,
            "damaged-content": self._destroy,
            "damaged-listing": self._destroy,
            "doomed-volume": lambda _: destroy_marked(store, driver, log, wait=True),
            "leaked-blob": lambda _: remove_temporary(store, False, KEEP_DOWNLOADS),
            "volume-without-size": self._measure,
            "damaged-size": self._measure,
            "damaged-record": self._write_records,
            "image-without-record": self._write_records,
            "wrong-image-size": self._write_sizes,
            "damaged-source": self._remove_sources,
            "stale-group": self._remove_groups,
        }

    def can(self, finding: Finding) -> bool:
        """Whether `run` would put this right."""
        if finding.kind in ("volume-without-size", "damaged-size"):
            # Others may not see all of a volume whose files belong to many ids, and would measure too little.
            return os.geteuid() == 0
        if finding.kind in ("damaged-record", "image-without-record"):
            return self._chain_of(self._image_of(finding)) is not None
        if finding.kind == "wrong-image-size":
            return self._size_of(finding.name) is not None
        if finding.kind in ("damaged-content", "damaged-listing"):
            return finding.name not in records.Dependencies(self._store).volumes()
        return finding.kind in self._alone or finding.kind in self._others

    def run(self, found: list[Finding]) -> None:
        """Put right what can be. Raises LockTimeout while a clean goes on and on; a repair that fails leaves the finding."""
        with locks.lock(self._store, locks.GARBAGE, deadline=CLEAN_DEADLINE):
            self._run(found, self._others)
            wanted = [finding for finding in found if finding.kind in self._alone]
            if wanted:
                try:
                    with locks.lock(self._store, locks.GLOBAL, deadline=ALONE_DEADLINE):
                        self._run(wanted, self._alone)
                except GrootError as error:
                    self._log.error("store-is-busy", error)

    def _run(self, found: list[Finding], repairs: dict[str, Callable[[list[Finding]], None]]) -> None:
        for kind, repair in repairs.items():
            concerned = [finding for finding in found if finding.kind == kind and self.can(finding)]
            if concerned:
                try:
                    repair(concerned)
                except (OSError, GrootError) as error:
                    self._log.error("repair-failed", error, kind=kind)

    def _destroy(self, found: list[Finding]) -> None:
        dependencies = records.Dependencies(self._store)
        used = dependencies.volumes()
        for finding in found:
            if finding.name not in used:
                doom(self._store, finding.name, dependencies, self._log)
        destroy_marked(self._store, self._driver, self._log, wait=True)

    def _measure(self, found: list[Finding]) -> None:
        record_missing_sizes(self._store)

    def _image_of(self, finding: Finding) -> str:
        return (records.recorded_image(finding.name) or "") if finding.kind == "damaged-record" else finding.name

    def _chain_of(self, image_id: str) -> list[str] | None:
        """The volumes of an image as its configuration names them, if the topmost is there; None where nothing says so."""
        chain = records.configured_volumes(self._store, image_id)
        if not chain or not all(map(is_chain_id, chain)):
            return None
        return chain if self._driver.is_volume(self._store.volume(chain[-1])) else None

    def _write_records(self, found: list[Finding]) -> None:
        for finding in found:
            image_id = self._image_of(finding)
            with _Held(self._store, image_id) as held:
                chain = self._chain_of(image_id)
                if held and chain is not None and images.image_tree(self._store, self._driver, image_id) is not None:
                    records.write_dependencies(self._store, image_id, chain)

    def _size_of(self, image_id: str) -> int | None:
        chain = records.read_dependencies(self._store, image_id)
        top = records.read_size(self._store, chain[-1]) if chain else None
        return None if top is None else top.tree

    def _write_sizes(self, found: list[Finding]) -> None:
        for finding in found:
            with _Held(self._store, finding.name) as held:
                size = self._size_of(finding.name)
                if held and size is not None:
                    os.setxattr(finding.path, images.SIZE_ATTRIBUTE, str(size).encode())

    def _remove_sources(self, found: list[Finding]) -> None:
        damaged = set(records.damaged_sources(self._store))
        for finding in found:
            if finding.path in damaged:
                os.unlink(finding.path)

    def _remove_groups(self, found: list[Finding]) -> None:
        _core.remove_stale_groups(self._store.folder("volumes"))
        wanted = {finding.path for finding in found}
        for level, ident in _core.stale_groups(self._store.folder("volumes")):
            if level == 1 and f"{self._store.path}:{level}/{ident}" in wanted:
                _core.disband_group(self._store.folder("volumes"), ident, [])


class _Held:
    """An image's directory, locked, for the time of a block; says whether nobody else has it."""

    def __init__(self, store: Store, image_id: str) -> None:
        self._path = store.image(image_id)

    def __enter__(self) -> bool:
        self._fd = images.lock_directory(self._path)
        return self._fd >= 0

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def repair(store: Store, driver: Driver, log: Logger, found: list[Finding], *, deep: bool = False, dry_run: bool) -> list[Finding]:
    """Put right what can be, and say of each finding what became of it; gives the findings. What is there afterwards is
    found by looking again. With ``dry_run`` nothing is changed. Raises LockTimeout, OSError."""
    repairs = Repairs(store, driver, log)
    if dry_run:
        for finding in found:
            if repairs.can(finding):
                finding.state = "would be repaired"
        return found
    for _ in range(ROUNDS):
        wanted = [finding for finding in found if finding.state != "repaired" and repairs.can(finding)]
        if not wanted:
            break
        repairs.run(wanted)
        left = {(finding.kind, finding.path): finding for finding in check(store, driver, deep=deep)}
        for finding in found:
            finding.state = "remains" if left.pop((finding.kind, finding.path), None) else "repaired"
        found = [*found, *left.values()]
    return found
