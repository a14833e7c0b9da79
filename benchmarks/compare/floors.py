"""What the same bytes or the same kernel call cost without a container tool around them.

What they leave undone: `igzip | tar` and `tar` check no digest, take whiteouts for files, keep no layers and make no snapshot;
`digest only` writes nothing; the snapshots have no limit, no record and no lock. Nothing is flushed, but a snapshot is a commit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compare.filesystem import fresh
from compare.images import Image, decompressor
from compare.peers import GrootStore, Peer, Store
from compare.process import Steps, one

PYTHON = os.path.realpath(sys.executable)


class InflateStore(Store):
    """`igzip -d | tar -x` (`zstd` where the layer is)."""

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps | None:
        """Every layer over the one before."""
        if registry is not None:
            return None
        return [[decompressor(layer), ["tar", "-x", "-C", str(self.filesystem.point)]] for layer in image.layers]


class TarStore(Store):
    """`tar -x` of archives that are not compressed."""

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps | None:
        """Every layer over the one before."""
        if registry is not None:
            return None
        return [[["tar", "-x", "-C", str(self.filesystem.point), "-f", str(file)]] for file in image.tars()]


class DigestStore(Store):
    """SHA-256 of the blobs, with the processor's instructions."""

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps | None:
        """All in one process."""
        return None if registry is not None else one("openssl", "dgst", "-sha256", *(layer.blob for layer in image.layers))


class Floor(Peer):
    """A floor of the cold create, on a file system as the others have it."""

    def __init__(self, name: str, kind: type[Store], maker: Path | None) -> None:
        self.name = name
        self._kind = kind
        self._maker = maker

    @contextmanager
    def open(self, folder: Path) -> Iterator[Store]:
        """An empty file system."""
        with fresh(folder, self._maker) as filesystem:
            yield self._kind(self.name, filesystem)


def cold_floors(maker: Path | None) -> list[Peer]:
    """The floors of a cold create."""
    kinds: list[tuple[str, type[Store]]] = [("igzip | tar", InflateStore), ("tar", TarStore), ("digest only", DigestStore)]
    return [Floor(name, kind, maker) for name, kind in kinds]


class SnapshotFloor(Store):
    """A snapshot of the same volume in the same store, each in a directory of its own; with ``python`` a process of the
    interpreter that does nothing goes before."""

    def __init__(self, store: GrootStore, program: Path, *, python: bool) -> None:
        super().__init__("python + snapshot" if python else "snapshot", store.filesystem)
        self._volumes = store.path / "volumes"
        self._folder = store.filesystem.point / ("floor-python" if python else "floor")
        self._folder.mkdir(exist_ok=True)
        self._program = program
        self._first = [[[PYTHON, "-I", "-S", "-c", "pass"]]] if python else []

    def warm(self, image: Image, image_id: str, *, limited: bool) -> Steps | None:
        """One call. The directory is made before."""
        if limited:
            return None
        folder = self._folder / image_id
        folder.mkdir()
        return [*self._first, *one(self._program, self._volumes / image.volume, folder, "rootfs")]

    def delete(self, image_id: str) -> Steps:
        """Take both away."""
        return one("sh", "-c", 'btrfs -q subvolume delete "$1/rootfs" && rmdir "$1"', "sh", self._folder / image_id)
