"""Write an OCI layout with one layer: Debian's static busybox and a link for each of its programs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path


def main(folder: Path) -> None:
    """Make the layout at ``folder``, tag ``latest``."""
    busybox = shutil.which("busybox") or sys.exit("busybox was not found; install busybox-static")
    layer = make_layer(Path(busybox).read_bytes(), subprocess.check_output([busybox, "--list"], text=True).split())
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(gzip.compress(layer, mtime=0), "layer.v1.tar+gzip")],
    }
    entry = {
        **put(json.dumps(manifest).encode(), "manifest.v1+json"),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def make_layer(busybox: bytes, programs: list[str]) -> bytes:
    """The layer as an uncompressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
            tar.addfile(entry, io.BytesIO(data))

        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"):
            add(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755)
        add("bin/busybox", tarfile.REGTYPE, 0o755, busybox)
        for program in programs:
            if program != "busybox":
                add(f"bin/{program}", tarfile.SYMTYPE, 0o777, link="busybox")
        add("etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
        add("etc/group", tarfile.REGTYPE, 0o644, b"root:x:0:\n")
    return buffer.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
