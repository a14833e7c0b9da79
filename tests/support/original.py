"""Stores as the original's last BTRFS release (E30) writes them, and its operations on them, by `btrfs` alone.

Written from the contract (sections 11, 13, 16, 17): nothing of the command under test is used.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import mounts
from support.archive import Layer, sha256
from support.command import Store
from support.layout import chain_ids


class Original:
    """The original at work on one store."""

    def __init__(self, path: Path, owner: tuple[int, int] | None = None) -> None:
        self.path = path
        self.owner = owner

    def init_store(self, mappings: dict[str, list[str]] | None = None) -> None:
        """Make the folders in a mounted file system (section 11.2)."""
        self._folder("meta")
        namespace = {f"{kind}-mappings": sorted((mappings or {}).get(kind, [])) for kind in ("uid", "gid")}
        (self.path / "meta/namespace.json").write_text(json.dumps(namespace, separators=(",", ":")) + "\n")
        (self.path / "meta/namespace.json").chmod(0o755)
        for name in ("images", "volumes", "meta", "locks", "tmp", "meta/dependencies"):
            self._folder(name)
        self.path.chmod(0o700)
        self._give(self.path)

    def _folder(self, name: str) -> None:
        (self.path / name).mkdir(mode=0o755, exist_ok=True)
        self._give(self.path / name)

    def _give(self, path: Path) -> None:
        if self.owner is not None:
            os.chown(path, *self.owner)

    @contextmanager
    def _locked(self, key: str, how: int) -> Iterator[None]:
        fd = os.open(self.path / "locks" / f"{key}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        self._give(self.path / "locks" / f"{key}.lock")
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    def create(self, image_id: str, *layers: Layer, limit: int = 0, exclusive: bool = False, mount: bool = True) -> Path:
        """Create; gives the tree. The files come from a stand-in for its unpacker: regular files of tests only."""
        with self._locked("global-groot-lock", fcntl.LOCK_SH):
            chain = chain_ids(list(layers))
            for layer, chain_id, parent in zip(layers, chain, [None, *chain], strict=False):
                with self._locked(chain_id, fcntl.LOCK_EX):
                    if not (self.path / "volumes" / chain_id).exists():
                        self._volume(layer, chain_id, parent)
            image = self.path / "images" / image_id
            image.mkdir(mode=0o700)
            tree = image / ("rootfs" if mount else "snapshot")
            if not mount:
                (image / "rootfs").mkdir(mode=0o755)
            mounts.tool("btrfs", "subvolume", "snapshot", self.path / "volumes" / chain[-1], tree)
            tree.chmod(0o755)
            for path in (image, tree):
                self._give(path)
            if limit:
                mounts.tool("btrfs", "qgroup", "limit", *(["-e"] if exclusive else []), str(limit), tree)
            record = self.path / "meta/dependencies" / f"image:{image_id.replace('/', '__')}.json"
            record.write_text(json.dumps(chain, separators=(",", ":")))
            self._give(record)
        return tree

    def _volume(self, layer: Layer, chain_id: str, parent: str | None) -> None:
        incomplete = self.path / "volumes" / f"{chain_id}-incomplete-{time.time_ns()}-{os.getpid()}"
        if parent is None:
            mounts.tool("btrfs", "subvolume", "create", incomplete)
        else:
            mounts.tool("btrfs", "subvolume", "snapshot", self.path / "volumes" / parent, incomplete)
        mounts.tool("tar", "--extract", "--numeric-owner", "--same-owner", "-C", incomplete, "-f", self._spool(layer))
        self._give(incomplete)
        size = self.path / "meta" / f"volume-{chain_id}"
        size.write_text(json.dumps({"Size": sum(_file_sizes(layer.tar))}, separators=(",", ":")) + "\n")
        self._give(size)
        incomplete.rename(self.path / "volumes" / chain_id)

    def _spool(self, layer: Layer) -> Path:
        spool = self.path / "tmp" / f"blob-sha256:{layer.digest}{os.urandom(4).hex()}"
        spool.write_bytes(layer.tar)
        return spool

    def delete(self, image_id: str) -> None:
        """Delete: destroys what is a subvolume, removes the rest, then the record."""
        image = self.path / "images" / image_id
        for name in ("rootfs", "snapshot"):
            if (image / name).exists() and (image / name).stat().st_ino == 256:
                mounts.tool("btrfs", "subvolume", "delete", image / name)
        shutil.rmtree(image)
        (self.path / "meta/dependencies" / f"image:{image_id}.json").unlink(missing_ok=True)

    def list(self) -> list[str]:
        """Every entry counts."""
        return sorted(os.listdir(self.path / "images"))

    def clean(self) -> None:
        """Both phases; an image without a record stops the first one silently (defect 15)."""
        with self._locked("global-groot-lock", fcntl.LOCK_EX):
            try:
                used = {
                    chain_id
                    for image_id in self.list()
                    for chain_id in json.loads((self.path / "meta/dependencies" / f"image:{image_id}.json").read_text())
                }
            except FileNotFoundError:
                used = set(os.listdir(self.path / "volumes"))
            for name in os.listdir(self.path / "volumes"):
                if name not in used and not name.startswith("gc."):
                    (self.path / "volumes" / name).rename(self.path / "volumes" / f"gc.{name}")
        for name in os.listdir(self.path / "volumes"):
            if name.startswith("gc."):
                mounts.tool("btrfs", "subvolume", "delete", self.path / "volumes" / name)
                (self.path / "meta" / f"volume-{name.removeprefix('gc.')}").unlink(missing_ok=True)


def _file_sizes(tar: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [member.size for member in archive if member.isreg()]


def make_original(
    scratch: Path, *, quota: str, size: int, mappings: dict[str, list[str]] | None = None, owner: tuple[int, int] | None = None
) -> tuple[Original, Store]:
    """An operator's file system with a store of the original in it; ``quota`` is ``full`` or ``none``."""
    path = scratch / "old"
    mounts.make_btrfs(scratch / "operator.img", path, size)
    if quota == "full":
        mounts.tool("btrfs", "quota", "enable", path)
    original = Original(path, owner)
    original.init_store(mappings)
    return original, Store(path)


def local_key(path: Path) -> str:
    """The volume of a local tar file (section 9.2)."""
    return sha256(f"{path}-{path.stat().st_mtime_ns}".encode())
