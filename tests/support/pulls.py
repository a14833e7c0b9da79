"""Images for `fake_registry.FakeRegistry`, and what pulls of them ask for."""

from __future__ import annotations

import json
import os

from fake_registry import FakeRegistry, Image
from support.archive import Archive, Layer


def layer(name: str, size: int = 20_000) -> Layer:
    """A layer with one incompressible file."""
    return Layer(Archive().file(name, os.urandom(size)).tar)


def publish(registry: FakeRegistry, *layers: Layer, repo: str = "app", tag: str = "latest") -> Image:
    """Serve an image of these layers."""
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{one.diff_id}" for one in layers]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"]}, "rootfs": rootfs}
    return registry.add(repo, [one.blob for one in layers], tag, config=json.dumps(config).encode())


def trusting(*registries: FakeRegistry) -> list[str]:
    """The options that let us speak plain http."""
    return [option for registry in registries for option in ("--insecure-registry", registry.addr)]


def blob_gets(registry: FakeRegistry, image: Image) -> list[int]:
    """How often each layer was asked for."""
    return [len(registry.gets(f"/blobs/{digest}")) for digest in image.layers]
