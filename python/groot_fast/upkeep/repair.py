"""Repair: what check can put right without touching anything that a living image uses.

`clean` and the commands that work meanwhile are held off by the same locks as ever (``rust/store/src/locks.rs``), and every step
looks again under its lock. What is left over is removed by the functions `clean` removes it with. What a person has to decide
(subvolumes that nobody knows, foreign files, lost limits, damaged content of an image) is never touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from groot_fast import interrupts
from groot_fast._core import GARBAGE_LOCK, GLOBAL_LOCK, KEEP_DOWNLOADS, SIZE_ATTRIBUTE, Cancel, Lock, Store
from groot_fast.errors import GrootError
from groot_fast.idmap.trees import Trees
from groot_fast.telemetry.lager import Logger
from groot_fast.upkeep.check import check
from groot_fast.upkeep.findings import Finding, is_chain_id

CLEAN_DEADLINE = 30.0
"""Seconds to wait for a running clean."""
ROUNDS = 2
"""Passes: a wrong size shows only when the record is back that says what is right."""
ALONE_DEADLINE = 5.0
"""Seconds to wait for a moment without creates. They do not wait for us: the lock is only tried."""


class Repairs:
    """Repairs of one store, by kind of finding."""

    def __init__(self, store: Store, log: Logger, cancel: Cancel) -> None:
        self._store = store
        self._log = log
        self._cancel = cancel
        # With the lock that keeps creates out, so quick ones only. Destroying a volume may make its lock file anew.
        self._alone: dict[str, Callable[[list[Finding]], None]] = {
            "record-without-image": lambda _: store.drop_stale_records(log),
            "record-without-volume": lambda _: store.prune_volumes(),
            "leftover": lambda _: store.remove_temporary(True, KEEP_DOWNLOADS),
            **dict.fromkeys(
                ("stale-locks", "incomplete-volume", "damaged-content", "damaged-listing"),
                lambda _: store.remove_lock_files(),
            ),
        }
        self._others: dict[str, Callable[[list[Finding]], None]] = {
            "unfinished-image": self._remove_unfinished,
            "incomplete-volume": self._destroy,
            "damaged-content": self._destroy,
            "damaged-listing": self._destroy,
            "doomed-volume": lambda _: self._destroy_marked(),
            "leaked-blob": lambda _: store.remove_temporary(False, KEEP_DOWNLOADS),
            "volume-without-size": self._measure,
            "damaged-size": self._measure,
            "damaged-record": self._write_records,
            "image-without-record": self._write_records,
            "wrong-image-size": self._write_sizes,
            "damaged-source": self._remove_sources,
            "stale-group": lambda _: self._remove_groups(),
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
            return finding.name not in self._store.used_volumes()
        return finding.kind in self._alone or finding.kind in self._others

    def run(self, found: list[Finding]) -> None:
        """Put right what can be. Raises LockTimeout while a clean goes on and on; a repair that fails leaves the finding."""
        with self._lock(GARBAGE_LOCK, CLEAN_DEADLINE):
            self._run(found, self._others)
            wanted = [finding for finding in found if finding.kind in self._alone]
            if wanted:
                try:
                    with self._lock(GLOBAL_LOCK, ALONE_DEADLINE):
                        self._run(wanted, self._alone)
                except GrootError as error:
                    self._log.error("store-is-busy", error)

    def _lock(self, key: str, deadline: float) -> Lock:
        with interrupts.Waiting():
            return self._store.lock(key, deadline=deadline, cancel=self._cancel)

    def _run(self, found: list[Finding], repairs: dict[str, Callable[[list[Finding]], None]]) -> None:
        for kind, repair in repairs.items():
            concerned = [finding for finding in found if finding.kind == kind and self.can(finding)]
            if concerned:
                try:
                    repair(concerned)
                except (OSError, GrootError) as error:
                    self._log.error("repair-failed", error, kind=kind)

    def _remove_unfinished(self, _: list[Finding]) -> None:
        for path, reason in self._store.remove_unfinished():
            self._log.error("removing-unfinished-image-failed", reason, path=path)

    def _destroy(self, found: list[Finding]) -> None:
        used = self._store.used_volumes()
        self._store.doom([finding.name for finding in found if finding.name not in used], self._log)
        self._destroy_marked()

    def _destroy_marked(self) -> None:
        with interrupts.Waiting():
            self._store.destroy_marked(self._log, self._cancel)

    def _measure(self, _: list[Finding]) -> None:
        with interrupts.Waiting():
            self._store.record_missing_sizes(self._cancel)

    def _image_of(self, finding: Finding) -> str:
        return finding.name.removeprefix("image:").removesuffix(".json") if finding.kind == "damaged-record" else finding.name

    def _chain_of(self, image_id: str) -> list[str] | None:
        """The volumes of an image as its configuration names them, if the topmost is there; None if nothing says so."""
        chain = self._store.configured_volumes(image_id)
        if not chain or not all(map(is_chain_id, chain)):
            return None
        return chain if self._store.has_volume(chain[-1]) else None

    def _write_records(self, found: list[Finding]) -> None:
        for finding in found:
            image_id = self._image_of(finding)
            held = self._store.lock_image(image_id)
            if held is None:
                continue
            with held:
                chain = self._chain_of(image_id)
                if chain is not None and self._store.has_image(image_id):
                    self._store.write_dependencies(image_id, chain)

    def _size_of(self, image_id: str) -> int | None:
        chain = self._store.read_dependencies(image_id)
        top = self._store.read_size(chain[-1]) if chain else None
        return None if top is None else top[1]

    def _write_sizes(self, found: list[Finding]) -> None:
        for finding in found:
            held = self._store.lock_image(finding.name)
            if held is None:
                continue
            with held:
                size = self._size_of(finding.name)
                if size is not None:
                    self._store.set_image_attribute(finding.name, SIZE_ATTRIBUTE, str(size).encode())

    def _remove_sources(self, found: list[Finding]) -> None:
        damaged = set(self._store.damaged_sources())
        for finding in found:
            if finding.name in damaged:
                self._store.remove_source(finding.name)

    def _remove_groups(self) -> None:
        self._store.remove_stale_groups()


def repair(
    store: Store, trees: Trees, log: Logger, cancel: Cancel, found: list[Finding], *, deep: bool = False, dry_run: bool
) -> list[Finding]:
    """Put right what can be, and say of each finding what became of it; gives the findings. What is there afterwards is
    found by looking again. With ``dry_run`` nothing is changed. Raises LockTimeout, OSError."""
    repairs = Repairs(store, log, cancel)
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
        left = {(finding.kind, finding.path): finding for finding in check(store, trees, deep=deep)}
        for finding in found:
            finding.state = "remains" if left.pop((finding.kind, finding.path), None) else "repaired"
        found = [*found, *left.values()]
    return found
