"""Registries on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compare.images import Image
from fake_registry import PASSWORD, USERNAME, Authority, FakeRegistry

CERTIFICATES = Path("/etc/docker/certs.d")


@dataclass(frozen=True)
class Registries:
    """Two that serve the same: one by plain http for everybody, one by TLS with tokens for who has the login."""

    plain: str
    guarded: str
    login: tuple[str, str] = (USERNAME, PASSWORD)


@contextmanager
def serve_both(image: Image, scratch: Path) -> Iterator[Registries]:
    """Debian's registry, and beside it the one of the tests: Debian's gives no tokens by itself."""
    keys = scratch / "keys"
    keys.mkdir()
    authority = Authority(keys)
    with serve([image], scratch) as plain, FakeRegistry(auth="bearer", tls=authority.server_context()) as guarded:
        _fill(guarded, image)
        trusted = CERTIFICATES / guarded.addr
        trusted.mkdir(parents=True)
        try:
            shutil.copy(authority.certificate, trusted / "ca.crt")
            yield Registries(plain, guarded.addr)
        finally:
            shutil.rmtree(trusted)


def _fill(registry: FakeRegistry, image: Image) -> None:
    """Put a layout's manifest and blobs into it, under the image's name."""
    blobs = image.layout / "blobs" / "sha256"
    registry.blobs.update({f"sha256:{path.name}": path.read_bytes() for path in blobs.iterdir()})
    (entry,) = json.loads((image.layout / "index.json").read_text())["manifests"]
    registry.put(image.name, "latest", registry.blobs[entry["digest"]], entry["mediaType"])


@contextmanager
def serve(images: Sequence[Image], scratch: Path) -> Iterator[str]:
    """Debian's registry with these images in it, each under its name; gives host:port."""
    folder = scratch / "registry"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        push = ["skopeo", "--insecure-policy", "copy", "-q", "--format", "oci", "--retry-times", "5", "--dest-tls-verify=false"]
        for image in images:
            subprocess.run([*push, f"oci:{image.layout}:latest", f"docker://{address}/{image.name}:latest"], check=True)
        yield address
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
