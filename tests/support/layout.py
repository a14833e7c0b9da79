"""OCI image layouts on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.archive import Archive, Layer, layers_of, sha256

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
BASE_DIRECTORY = "org.cloudfoundry.experimental.image.base-directory"


def chain_ids(layers: list[Layer]) -> list[str]:
    """Names of the volumes of a stack, bottom to top."""
    chain: list[str] = []
    for layer in layers:
        chain.append(sha256(f"{chain[-1]} {layer.diff_id}".encode()) if chain else layer.diff_id)
    return chain


def write_layout(path: Path, *parts: Archive | Layer | bytes, runtime: dict[str, Any] | None = None, tag: str = "latest") -> str:
    """Write an image and give its URL. Layers that lie about themselves (`Layer`) are stored as they are."""
    layers = layers_of(parts)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": runtime or {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": CONFIG, "digest": f"sha256:{sha256(config)}", "size": len(config)},
            "layers": [
                {
                    "mediaType": layer.media_type,
                    "digest": f"sha256:{layer.digest}",
                    "size": layer.size,
                    **({"annotations": layer.annotations} if layer.annotations else {}),
                }
                for layer in layers
            ],
        }
    ).encode()
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, body in [(layer.digest, layer.blob) for layer in layers] + [(sha256(body), body) for body in (config, manifest)]:
        (blobs / digest).write_bytes(body)
    entry = {
        "mediaType": MANIFEST,
        "digest": f"sha256:{sha256(manifest)}",
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"oci://{path}:{tag}"
