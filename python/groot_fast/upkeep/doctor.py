"""`doctor`: what of this machine, this user and this store keeps images from being made, each with its cure.

A check looks and never changes anything. It gives a `Finding`, or None where it does not apply.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable

from groot_fast import _core
from groot_fast.config import Settings
from groot_fast.errors import GrootError
from groot_fast.idmap import Ranges
from groot_fast.place import find_tool
from groot_fast.upkeep import sysfs
from groot_fast.upkeep.backing import Site

OK, WARN, BROKEN = "ok", "warn", "broken"

OLDEST_KERNEL, ADVISED_KERNEL = (5, 15), (6, 7)
FEWEST_FILES = 1024
"""Open files: a pull holds some dozens of connections, files and directory handles at once."""
LOW_SPACE = 0.05
LOW_UNALLOCATED = 256 << 20
"""Bytes: the most that BTRFS takes at once when it needs room for metadata."""
FULL_METADATA = 0.9


class Finding:
    """The outcome of one check; ``cure`` is what to do about it."""

    __slots__ = ("cure", "name", "state", "text")

    def __init__(self, name: str, state: str, text: str, cure: str = "") -> None:
        self.name = name
        self.state = state
        self.text = text
        self.cure = cure

    def as_json(self) -> dict[str, object]:
        """The finding for ``--json``."""
        return {"check": self.name, "state": self.state, "text": self.text, **({"cure": self.cure} if self.cure else {})}


class Patient:
    """What is examined: the settings, the caller, and the store as far as there is one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = settings.store
        self.is_root = os.geteuid() == 0
        self.is_store = False
        self.owner: tuple[int, int] | None = None
        self.uids: Ranges = []
        self.gids: Ranges = []
        self.trouble: GrootError | None = None
        self.opened: _core.Store | None = None
        self.site: Site | None = None
        self.may_write = False
        try:
            self.site = Site(self.store)
            self.is_store = _core.Store.is_initialised(self.store)
            if self.is_store:
                opened = self.opened = _core.Store.open(self.store, drax=settings.drax_bin)
                self.owner, self.uids, self.gids = opened.owner, opened.uids, opened.gids
                self.may_write = opened.may_write()
        except GrootError as error:
            self.is_store = True
            self.trouble = error
        self.uuid = ""
        if os.path.isdir(self.store):
            try:
                self.uuid = _core.uuid(self.store)
            except OSError:
                pass
        self.accounting = _core.accounting(self.store) if self.uuid else None

    def number(self, name: str) -> int | None:
        """A number that BTRFS shows of the file system, below ``/sys/fs/btrfs/<uuid>``."""
        return sysfs.read_number(self.uuid, name)


def examine(settings: Settings) -> list[Finding]:
    """All findings that apply."""
    patient = Patient(settings)
    found = [check(patient) for check in CHECKS]
    return [finding for finding in found if finding is not None]


def _kernel(_: Patient) -> Finding:
    release = os.uname().release
    parts = release.split("-")[0].split(".")
    version = tuple(int(part) if part.isdecimal() else 0 for part in parts[:2])
    if version < OLDEST_KERNEL:
        return Finding("kernel", BROKEN, f"Linux {release}", "Linux 5.15 is the oldest that is supported")
    if version < ADVISED_KERNEL:
        return Finding("kernel", WARN, f"Linux {release} has no simple quotas", "Linux 6.7 and newer have them; full accounting is slow")
    return Finding("kernel", OK, f"Linux {release}")


def _store(patient: Patient) -> Finding:
    if patient.trouble is not None:
        cure = patient.trouble.hint or f"restore {patient.store}/meta/namespace.json"
        return Finding("store", BROKEN, str(patient.trouble), cure)
    if not os.path.isdir(patient.store):
        return Finding("store", BROKEN, f"{patient.store} is not there", "`grootfs init-store` as root makes it")
    if not patient.uuid:
        cure = "`grootfs init-store --store-size-bytes N` keeps the store in a file; after a reboot it also mounts that file again"
        return Finding("store", BROKEN, f"{patient.store} is not on BTRFS", cure)
    if not patient.is_store:
        return Finding("store", BROKEN, f"{patient.store} is no store, or folders are missing", "`grootfs init-store` as root makes them")
    if not patient.may_write:
        owner = patient.owner
        cure = f"run as user id {owner[0]}, the store's owner" if owner else "run as root, or make a store of your own (docs/rootless.md)"
        return Finding("store", BROKEN, f"{patient.store} may not be written by this user", cure)
    return Finding("store", OK, patient.store)


def _mount(patient: Patient) -> Finding | None:
    options = _mount_options(patient.store) if patient.uuid else None
    if options is None:
        return None
    where = f"the file system of {patient.store}"
    if "ro" in options:
        return Finding("mount options", BROKEN, f"{where} is mounted read-only", "see `dmesg`; `mount -o remount,rw` if it is healthy")
    if "user_subvol_rm_allowed" not in options and (patient.owner or not patient.is_root):
        cure = "mount -o remount,user_subvol_rm_allowed (and in /etc/fstab): without it an ordinary user cannot delete images"
        return Finding("mount options", BROKEN, f"{where} is mounted without user_subvol_rm_allowed", cure)
    return Finding("mount options", OK, ",".join(options))


def _loop(patient: Patient) -> Finding | None:
    device = patient.site.device() if patient.site is not None and patient.uuid else None
    if device is None:
        return None
    with open(f"/sys/block/{os.path.basename(device)}/loop/dio", encoding="ascii") as shown:
        direct = shown.read().strip() == "1"
    if direct:
        return Finding("loop device", OK, f"{device} writes past the host's page cache")
    cure = "`grootfs init-store` as root changes that where the file system below has direct I/O"
    return Finding("loop device", WARN, f"{device} writes through the host's page cache: every byte is in memory twice", cure)


def _size(patient: Patient) -> Finding | None:
    """Whether the store is as large as it is configured to be."""
    configured, there = patient.settings.store_size, patient.site.file_bytes() if patient.site is not None else None
    if there is None or not configured or not patient.uuid:
        return None
    status = os.statvfs(patient.store)
    system = status.f_blocks * status.f_frsize
    text = f"{patient.site.file if patient.site else ''} has {there} bytes, the file system in it {system}, configured are {configured}"
    if there < configured or system < min(there, configured):
        return Finding("store size", WARN, text, "`grootfs init-store` as root makes it grow, while it is in use")
    if there > configured:
        return Finding("store size", WARN, text, "raise `init.store_size_bytes`; `grootfs init-store` says what a smaller one takes")
    return Finding("store size", OK, f"{there} bytes, as configured")


def _quotas(patient: Patient) -> Finding | None:
    if not patient.uuid:
        return None
    if patient.accounting is None:
        text = "nobody counts: disk limits and stats fail"
        return Finding("quotas", BROKEN, text, "`grootfs migrate --quota simple` as root turns accounting on")
    if patient.number("qgroups/inconsistent"):
        cure = f"btrfs quota rescan {patient.store}"
        return Finding("quotas", BROKEN, "the counters are inconsistent: limits and stats cannot be trusted", cure)
    if patient.accounting == "full":
        cure = "`grootfs migrate --quota simple` (Linux 6.7; older kernels cannot mount the store afterwards)"
        return Finding("quotas", WARN, "full accounting: slow once there are hundreds of images", cure)
    return Finding("quotas", OK, "simple accounting")


def _drax(patient: Patient) -> Finding | None:
    found = shutil.which(patient.settings.drax_bin)
    if patient.is_root:
        return None
    need = "limits need it under full accounting" if patient.accounting == "full" else "without it subvolumes made inside are not charged"
    state = BROKEN if patient.accounting == "full" else WARN
    if found is None:
        return Finding("drax", state, f"not found; {need}", "`make install` puts it in place; or give its path with --drax-bin")
    if not is_privileged(found):
        return Finding("drax", state, f"{found} has no privilege; {need}", f"chown root {found} && chmod u+s {found}")
    return Finding("drax", OK, found)


def _mapper(name: str, setting: Callable[[Settings], str]) -> Callable[[Patient], Finding | None]:
    def check(patient: Patient) -> Finding | None:
        if patient.is_root or not (patient.uids or patient.gids):
            return None  # root translates ids itself
        found = shutil.which(setting(patient.settings))
        if found is None:
            return Finding(name, BROKEN, "not found: layers cannot be unpacked", "install the package uidmap")
        if not is_privileged(found):
            cure = f"chown root {found} && chmod u+s {found}, or give it the file capability cap_set{name[3:6]}"
            return Finding(name, BROKEN, f"{found} has no privilege: layers cannot be unpacked", cure)
        return Finding(name, OK, found)

    return check


def _subordinate_ids(patient: Patient) -> Finding | None:
    owner = patient.owner
    if owner is None:
        return None
    for path, own, mappings in (("/etc/subuid", owner[0], patient.uids), ("/etc/subgid", owner[1], patient.gids)):
        allowed = [(start, count) for who, start, count in _core.read_ranges(path) if who in (str(owner[0]), _user_name(owner[0]))]
        for inside, host, size in mappings:
            if not _is_allowed(host, size, own, allowed):
                cure = f"add `{_user_name(owner[0])}:{host}:{size}` to {path}"
                text = f"{path} does not allow the store's mapping {inside}:{host}:{size}"
                return Finding("subordinate ids", BROKEN, text, cure)
    return Finding("subordinate ids", OK, "allowed by /etc/subuid and /etc/subgid")


def _is_allowed(host: int, size: int, own: int, allowed: list[tuple[int, int]]) -> bool:
    if size == 1 and host == own:
        return True
    return any(start <= host and host + size <= start + count for start, count in allowed)


def is_privileged(path: str) -> bool:
    """Whether a program has root's setuid bit or a file capability."""
    status = os.stat(path)
    if status.st_mode & stat.S_ISUID and status.st_uid == 0:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _open_files(_: Patient) -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < FEWEST_FILES:
        return Finding("open files", WARN, f"at most {limit}", f"`ulimit -n {FEWEST_FILES}`; LimitNOFILE= in a systemd unit")
    return Finding("open files", OK, "no limit" if limit == resource.RLIM_INFINITY else f"at most {limit}")


def _mkfs(patient: Patient) -> Finding | None:
    if not patient.is_root or patient.is_store:
        return None
    found = find_tool("mkfs.btrfs", patient.settings.btrfs_progs_path)
    if found is None:
        return Finding("mkfs.btrfs", WARN, "not found; `init-store --store-size-bytes` needs it", "install btrfs-progs")
    return Finding("mkfs.btrfs", OK, os.path.normpath(found))


def _space(patient: Patient) -> Finding | None:
    if not patient.uuid:
        return None
    status = os.statvfs(patient.store)
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    text = f"{free >> 20} MiB of {size >> 20} MiB free"
    cure = "`grootfs clean` frees unused layers; `grootfs stats --store` says who has the rest"
    if patient.opened is not None:
        _, _, available, below, _ = patient.opened.space()
        if below is not None and available < free and patient.site is not None:
            file = patient.site.file
            text = f"{available >> 20} MiB of {size >> 20} MiB: the file system of {file} has no more ({free >> 20} MiB free above)"
            cure = f"make room beside {file}, or `grootfs clean`: the file takes blocks when the store writes"
        free = available
    if free == 0:
        return Finding("free space", BROKEN, text, cure)
    return Finding("free space", WARN, text, cure) if free < size * LOW_SPACE else Finding("free space", OK, text)


def _metadata(patient: Patient) -> Finding | None:
    total, used = (patient.number(f"allocation/metadata/{name}") for name in ("total_bytes", "bytes_used"))
    kinds = [patient.number(f"allocation/{kind}/disk_total") or 0 for kind in ("data", "metadata", "system")]
    size = sysfs.device_bytes(patient.uuid)
    if not total or used is None or not size:
        return None
    unallocated = max(size - sum(kinds), 0)
    text = f"{used >> 20} MiB of {total >> 20} MiB used, {unallocated >> 20} MiB of the device not allocated"
    if used > total * FULL_METADATA and unallocated < LOW_UNALLOCATED:
        cure = f"`grootfs clean`, then `btrfs balance start -dusage=50 {patient.store}` gives half-empty data space back"
        return Finding("metadata space", BROKEN if used > total * 0.98 else WARN, text, cure)
    return Finding("metadata space", OK, text)


def _threshold(patient: Patient) -> Finding | None:
    threshold = patient.settings.threshold
    if not threshold or not patient.uuid:
        return None
    status = os.statvfs(patient.store)
    size = status.f_blocks * status.f_frsize
    reach = patient.opened.reach() if patient.opened is not None else size
    if threshold > reach:
        text = f"{threshold} bytes of layers are more than the disk can hold ({reach}): clean starts when less than 5 % of it are free"
        return Finding("clean threshold", WARN, text, "lower `clean.threshold_bytes`")
    return Finding("clean threshold", OK, f"clean starts at {threshold >> 20} MiB of layers")


def _configuration(patient: Patient) -> Finding | None:
    """Keys that nothing reads: of somebody else, or misspelt."""
    files = [path for path in (patient.settings.site_file, patient.settings.config) if path]
    if not files:
        return None
    unknown = [f"{path}: {', '.join(keys)}" for path in files if (keys := _core.unknown_keys(path))]
    if unknown:
        return Finding("configuration", WARN, f"keys that nothing reads: {'; '.join(unknown)}", "correct their spelling, or leave them out")
    return Finding("configuration", OK, f"{' and '.join(files)}, compatibility {patient.settings.rules.word}")


CHECKS: tuple[Callable[[Patient], Finding | None], ...] = (
    _kernel,
    _configuration,
    _store,
    _mount,
    _loop,
    _quotas,
    _drax,
    _mapper("newuidmap", lambda settings: settings.newuidmap_bin),
    _mapper("newgidmap", lambda settings: settings.newgidmap_bin),
    _subordinate_ids,
    _open_files,
    _mkfs,
    _size,
    _space,
    _metadata,
    _threshold,
)


def _mount_options(path: str) -> list[str] | None:
    """Options of the mount that ``path`` is on: those of the mount point and those of the file system."""
    place = os.path.realpath(path)
    best: tuple[int, list[str]] | None = None
    for point, _, _, options in _core.mounts():
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        # The longest mount point above the path, and of several at one place the last, is the one that is seen.
        if inside and (best is None or len(point) >= best[0]):
            best = len(point), options
    return None if best is None else list(dict.fromkeys(best[1]))
