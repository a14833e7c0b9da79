"""A registry on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compare.images import Image


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
