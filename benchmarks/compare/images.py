"""Images in OCI layouts: what is in them, and the forms that some peers need."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BLOCK = 4096


@dataclass(frozen=True)
class Size:
    """Of the regular files in all layers: bytes of content, and bytes in whole blocks of 4 KiB, as `du` counts."""

    content: int
    blocks: int


@dataclass(frozen=True)
class Layer:
    """A blob and the hex digest of the archive in it."""

    blob: Path
    media_type: str
    size: int
    diff_id: str

    @property
    def digest(self) -> str:
        """Hex digest of the blob."""
        return self.blob.name


class Image:
    """The image with tag ``latest`` of an OCI layout directory. ``scratch`` takes derived files, once."""

    def __init__(self, layout: Path, scratch: Path) -> None:
        self.layout = layout
        self.name = layout.name
        self._scratch = scratch / "images" / layout.name

    @cached_property
    def layers(self) -> list[Layer]:
        """Bottom to top."""
        index = json.loads((self.layout / "index.json").read_bytes())
        manifest = json.loads(self._blob(index["manifests"][0]["digest"]).read_bytes())
        ids = json.loads(self._blob(manifest["config"]["digest"]).read_bytes())["rootfs"]["diff_ids"]
        return [
            Layer(self._blob(layer["digest"]), layer["mediaType"], layer["size"], diff_id.removeprefix("sha256:"))
            for layer, diff_id in zip(manifest["layers"], ids, strict=True)
        ]

    @property
    def chain_id(self) -> str:
        """Hex chain id of the whole image (OCI image-spec, config.md)."""
        chain = self.layers[0].diff_id
        for layer in self.layers[1:]:
            chain = hashlib.sha256(f"sha256:{chain} sha256:{layer.diff_id}".encode()).hexdigest()
        return chain

    @property
    def volume(self) -> str:
        """Name of the volume with the whole image in a store of GrootFS: as a chain id, but without the algorithm's name."""
        chain = self.layers[0].diff_id
        for layer in self.layers[1:]:
            chain = hashlib.sha256(f"{chain} {layer.diff_id}".encode()).hexdigest()
        return chain

    def tars(self) -> list[Path]:
        """The layers without compression."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        files = []
        for layer in self.layers:
            file = self._scratch / f"{layer.diff_id}.tar"
            files.append(file)
            if not file.exists():
                new = file.with_suffix(".new")
                with new.open("wb") as out:
                    subprocess.run(decompressor(layer), check=True, stdout=out)
                new.rename(file)
        return files

    def archive(self) -> Path:
        """The layout as one tar."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        file = self._scratch / "layout.tar"
        if not file.exists():
            new = file.with_suffix(".new")
            subprocess.run(["tar", "-cf", new, "-C", self.layout, "."], check=True)
            new.rename(file)
        return file

    @cached_property
    def size(self) -> Size:
        """What unpacking writes at least."""
        content = blocks = 0
        for file in self.tars():
            with tarfile.open(file) as tar:
                for entry in tar:
                    if entry.isreg():
                        content += entry.size
                        blocks += -(-entry.size // BLOCK) * BLOCK
        return Size(content, blocks)

    def read(self) -> None:
        """Read everything once, so that it is in the page cache."""
        files = [layer.blob for layer in self.layers] + ([*self._scratch.iterdir()] if self._scratch.exists() else [])
        for file in files:
            with file.open("rb", buffering=0) as data:
                while data.read(1 << 20):
                    pass

    def _blob(self, digest: str) -> Path:
        return self.layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def decompressor(layer: Layer) -> list[str]:
    """The fastest program of Debian that writes the layer's archive to its output."""
    if layer.media_type.endswith("zstd"):
        return ["zstd", "-dcq", str(layer.blob)]
    if layer.media_type.endswith("gzip"):
        return ["igzip", "-dc", str(layer.blob)]
    return ["cat", str(layer.blob)]
