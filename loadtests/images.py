"""Images of our own making: small OCI layouts, the same bytes for the same seed, and new versions of them.

Every app stands on one of a few shared stacks (as droplets on a root file system do) and has a layer of its own. A push
replaces only that top layer. Blobs of a stack are hard links, so hundreds of apps take little space.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import secrets
import tarfile
from pathlib import Path

from loadtests.plan import App

STACK_FILES = 2000
"""Paths of a stack. So many that a volume's tree has height 1 and a full root node: the dear case (docs/load.md)."""

APP_FILES = 60
APPS_PER_STACK = 8
FILE_BYTES = (200, 6000)
PUSHED_FILES = 20

TAG = "latest"
JSON = dict[str, object]


def make_apps(folder: Path, count: int, seed: int) -> tuple[App, ...]:
    """Write ``count`` layouts below ``folder``."""
    apps = []
    for number in range(count):
        layout = folder / f"app-{number:03}"
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        if number % APPS_PER_STACK == 0:
            stack = _write_layer(blobs, _files(f"{seed}/stack/{number // APPS_PER_STACK}", "usr/lib/stack", STACK_FILES))
            stack_blob = _blob(layout, stack)
        else:
            os.link(stack_blob, _blob(layout, stack))
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        _publish(layout, [stack, _write_layer(blobs, _files(f"{seed}/app/{number}", "app", APP_FILES))])
        apps.append(App(layout.name, str(layout)))
    return tuple(apps)


def push(app: App, version: str) -> None:
    """Publish a new version of an app: another top layer. Only for layouts of `make_apps`.

    The index is replaced by renaming, so that a create sees one version or the other, whole. Earlier blobs stay: a create
    that has just read the old index still needs them.
    """
    layout = Path(app.layout)
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]).read_text())
    config = json.loads(_blob(layout, manifest["config"]).read_text())
    stack = {**manifest["layers"][0], "diff_id": config["rootfs"]["diff_ids"][0]}
    top = _write_layer(layout / "blobs" / "sha256", _files(f"{app.name}/{version}", "app/pushed", PUSHED_FILES))
    _publish(layout, [stack, top])


def volume_of(app: App) -> str:
    """Name of the volume that holds all of the newest version (docs/contract.md, section 9.5)."""
    layout = Path(app.layout)
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]).read_text())
    config = json.loads(_blob(layout, manifest["config"]).read_text())
    name = ""
    for diff_id in (text.removeprefix("sha256:") for text in config["rootfs"]["diff_ids"]):
        name = hashlib.sha256(f"{name} {diff_id}".encode()).hexdigest() if name else diff_id
    return name


def image_bytes(app: App) -> int:
    """Bytes of an image's layers as they lie in its layout."""
    layout = Path(app.layout)
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]).read_text())
    return sum(int(layer["size"]) for layer in manifest["layers"])


def _blob(layout: Path, descriptor: JSON) -> Path:
    return layout / "blobs" / "sha256" / str(descriptor["digest"]).removeprefix("sha256:")


def _files(seed: str, folder: str, count: int) -> bytes:
    """An uncompressed archive of ``count`` files, spread over directories of 50."""
    source = random.Random(seed)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(count):
            if number % 50 == 0:
                below = tarfile.TarInfo(f"{folder}/{number // 50:03}")
                below.type, below.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(below)
            # Half of it compresses, half does not, about as programs do.
            size = source.randint(*FILE_BYTES)
            data = source.randbytes(size // 2) + bytes(size - size // 2)
            entry = tarfile.TarInfo(f"{folder}/{number // 50:03}/file-{number:05}")
            entry.size, entry.mode, entry.mtime = size, 0o644, 1_700_000_000
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _write_layer(blobs: Path, archive: bytes) -> JSON:
    descriptor = _put(blobs, gzip.compress(archive, compresslevel=1, mtime=0), "layer.v1.tar+gzip")
    return {**descriptor, "diff_id": f"sha256:{hashlib.sha256(archive).hexdigest()}"}


def _publish(layout: Path, layers: list[JSON]) -> None:
    blobs = layout / "blobs" / "sha256"
    config: JSON = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/app/run"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"] for layer in layers]},
    }
    manifest: JSON = {
        "schemaVersion": 2,
        "config": _put(blobs, json.dumps(config).encode(), "config.v1+json"),
        "layers": [{key: value for key, value in layer.items() if key != "diff_id"} for layer in layers],
    }
    entry = {
        **_put(blobs, json.dumps(manifest).encode(), "manifest.v1+json"),
        "annotations": {"org.opencontainers.image.ref.name": TAG},
    }
    fresh = layout / f"index.json.{secrets.token_hex(4)}"
    fresh.write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    fresh.rename(layout / "index.json")


def _put(blobs: Path, data: bytes, media_type: str) -> JSON:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}
