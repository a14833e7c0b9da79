"""Make releases of images, for the work ``again``: one of an application that differs by some wheels, one of a base with some packages
upgraded.

    python -m compare.renew --images DIR

Of DIR/debian it makes DIR/debian-next, in whose first layer the files of `UPGRADED` have other content: what is in them is rotated by a
byte, so that no block of theirs is as it was. Packages themselves cannot be had in their releases of last month.

Of the layout DIR/pyapp it makes DIR/pyapp-wheels-next, which is `pyapp` up to the layer with the wheels, and DIR/pyapp-wheels, the same
with six of them one release back. What was above is left out, so that what is measured is that layer. Wheels
come through pip, as it is configured.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from compare.__main__ import NEXT
from compare.images import Image, Layer

WHEELS = {
    "Django": ("4.2.7", "4.2.6"),
    "botocore": ("1.33.13", "1.33.12"),
    "numpy": ("1.26.4", "1.26.3"),
    "pandas": ("2.1.4", "2.1.3"),
    "scipy": ("1.11.4", "1.11.3"),
    "sympy": ("1.12", "1.11.1"),
}
"""What `pyapp` asks for: the release in the image, and the one before. The ones after are other branches for four of the six, and
have 37 % of the layer's bytes in common with it instead of 74 %."""
UPGRADED = (
    "base-files",
    "gpgv",
    "libc-bin",
    "libc6",
    "libgnutls30",
    "liblzma5",
    "libpam-modules",
    "libpam-runtime",
    "libsystemd0",
    "libtasn1-6",
    "libudev1",
)
"""Packages of a Debian base that a point release upgrades: 8 % of its files and 14 % of its bytes."""
LISTS = "var/lib/dpkg/info/"
TIME = 1_700_000_000
"""Modification time of what is put in, in seconds; a build that can be repeated gives all files one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="compare.renew", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    folder = parser.parse_args(arguments).images
    if (folder / "debian").is_dir():
        with tempfile.TemporaryDirectory(prefix="groot-renew-") as scratch:
            image = Image(folder / "debian", Path(scratch))
            layer = Path(scratch) / "layer.tar"
            upgrade(image.tars()[0], layer, UPGRADED)
            write_image(folder / f"debian{NEXT}", [pack(layer), *image.layers[1:]])
    with tempfile.TemporaryDirectory(prefix="groot-renew-") as scratch:
        image = Image(folder / "pyapp", Path(scratch))
        position, site = find_wheels(image.tars(), WHEELS)
        fresh = Path(scratch) / "site"
        wanted = [f"{name}=={other}" for name, (_, other) in WHEELS.items()]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:", "--target"]
        subprocess.run([*pip, fresh, *wanted], check=True)
        layer = Path(scratch) / "layer.tar"
        replace_wheels(image.tars()[position], layer, site, WHEELS, fresh)
        write_image(folder / "pyapp-wheels", [*image.layers[:position], pack(layer)])
        write_image(folder / f"pyapp-wheels{NEXT}", image.layers[: position + 1])


def upgrade(old: Path, new: Path, packages: Iterable[str]) -> None:
    """Write the archive ``old`` anew, with other content in the files that dpkg lists for these packages. Exits if one is missing."""
    with tarfile.open(old) as before, tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as after:
        entries = {entry.name.removeprefix("./"): entry for entry in before}
        changed: set[str] = set()
        for package in packages:
            lists = [
                name for name in entries if name.startswith(LISTS) and name[len(LISTS) :].split(":")[0].removesuffix(".list") == package
            ]
            found = [name for name in lists if name.endswith(".list")]
            if not found:
                sys.exit(f"no package {package} in {old}")
            listed = before.extractfile(entries[found[0]])
            assert listed is not None  # it is a file
            changed |= {line.removeprefix("/") for line in listed.read().decode().splitlines()}
        for name, entry in entries.items():
            if not entry.isreg():
                after.addfile(entry)
                continue
            file = before.extractfile(entry)
            assert file is not None
            content = file.read()
            after.addfile(entry, io.BytesIO(content[1:] + content[:1] if name in changed else content))


def dist_info(site: PurePosixPath, name: str, release: str) -> str:
    """Path in the image of what a wheel installed."""
    return str(site / f"{name}-{release}.dist-info" / "RECORD")


def find_wheels(tars: Iterable[Path], wheels: dict[str, tuple[str, str]]) -> tuple[int, PurePosixPath]:
    """Which layer has all the wheels in their first releases, and the directory they are in. Exits where none has."""
    for position, file in enumerate(tars):
        with tarfile.open(file) as tar:
            names = {entry.name.removeprefix("./") for entry in tar}
        first, (release, _) = next(iter(wheels.items()))
        for found in (name for name in names if name.endswith(f"/{first}-{release}.dist-info/RECORD")):
            site = PurePosixPath(found).parents[1]
            if all(dist_info(site, name, old) in names for name, (old, _) in wheels.items()):
                return position, site
    sys.exit("no layer has the wheels " + ", ".join(f"{name} {old}" for name, (old, _) in wheels.items()))


def replace_wheels(old: Path, new: Path, site: PurePosixPath, wheels: dict[str, tuple[str, str]], fresh: Path) -> None:
    """Write the archive ``old`` anew, with what the wheels had in ``site`` (their RECORDs say it) replaced by what is in ``fresh``."""
    with tarfile.open(old) as before, tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as after:
        gone = set()
        for name, (release, _) in wheels.items():
            entry = next(entry for entry in before if entry.name.removeprefix("./") == dist_info(site, name, release))
            record = before.extractfile(entry)
            assert record is not None  # it is a file
            gone |= {str(site / row[0]) for row in csv.reader(record.read().decode().splitlines())}
        kept = set()
        for entry in before:
            path = entry.name.removeprefix("./")
            is_old_record = any(f"/{name}-{release}.dist-info" in path for name, (release, _) in wheels.items())
            if path not in gone and not is_old_record:
                kept.add(path)
                after.addfile(entry, before.extractfile(entry) if entry.isreg() else None)
        for file in sorted(fresh.rglob("*")):
            path = str(site / file.relative_to(fresh))
            if path in kept:
                continue
            made = after.gettarinfo(file, path)
            made.uid, made.gid, made.uname, made.gname, made.mtime = 0, 0, "", "", TIME
            if made.isreg():
                with file.open("rb") as content:
                    after.addfile(made, content)
            else:
                after.addfile(made)


def pack(tar: Path) -> Layer:
    """An archive as a layer, its blob beside it."""
    packed = tar.with_suffix(".gz")
    with packed.open("wb") as out:
        subprocess.run(["gzip", "-nc", tar], check=True, stdout=out)
    blob = packed.rename(packed.with_name(hashed(packed)))
    return Layer(blob, "application/vnd.oci.image.layer.v1.tar+gzip", blob.stat().st_size, hashed(tar))


def write_image(layout: Path, layers: Sequence[Layer]) -> None:
    """A layout with these layers, in place of what is there."""
    shutil.rmtree(layout, ignore_errors=True)
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for layer in layers:
        shutil.copyfile(layer.blob, blobs / layer.digest)
    config = {"architecture": "amd64", "os": "linux", "config": {}}
    config |= {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]}}
    manifest = {
        "schemaVersion": 2,
        "config": write_blob(blobs, "application/vnd.oci.image.config.v1+json", config),
        "layers": [{"mediaType": each.media_type, "digest": f"sha256:{each.digest}", "size": each.size} for each in layers],
    }
    described = write_blob(blobs, "application/vnd.oci.image.manifest.v1+json", manifest)
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def write_blob(blobs: Path, media_type: str, document: Mapping[str, object]) -> dict[str, object]:
    """Write a JSON blob; gives its descriptor (OCI image-spec, descriptor.md)."""
    text = json.dumps(document).encode()
    digest = hashlib.sha256(text).hexdigest()
    (blobs / digest).write_bytes(text)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(text)}


def hashed(file: Path) -> str:
    """Hex SHA-256 of a file."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


if __name__ == "__main__":
    main()
