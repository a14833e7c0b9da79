"""Garden's side of the image-plugin protocol (contract, section 19): argv as guardian builds it, results as it reads them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from support.accounts import User
from support.archive import Archive, Layer, sha256
from support.command import COMMAND, TIMEOUT
from support.layout import BASE_DIRECTORY, CONFIG, MANIFEST


class PluginError(Exception):
    """What guardian would show to an operator."""


class Created(NamedTuple):
    """What guardian takes from a plugin's create."""

    rootfs: str
    environment: list[str]
    mounts: list[dict[str, Any]]


class Plugin:
    """One configured image plugin: its extra arguments, and the user it runs as."""

    def __init__(self, *extra: str | Path, user: User | None = None) -> None:
        self.extra = [str(argument) for argument in extra]
        self.user = user

    def argv(self, command: str, *arguments: str) -> list[str]:
        """The extra arguments come before the command."""
        return [COMMAND, *self.extra, command, *arguments]

    def call(self, command: str, *arguments: str, called: str = "") -> tuple[str, str]:
        """Run the plugin; gives stdout and stderr. Raises PluginError with guardian's text."""
        user: dict[str, Any] = {}
        if self.user is not None:
            user = {"user": self.user.uid, "group": self.user.gid, "extra_groups": []}
        environment = {"PATH": os.environ["PATH"]}
        done = subprocess.run(self.argv(command, *arguments), capture_output=True, text=True, timeout=TIMEOUT, env=environment, **user)
        if done.returncode != 0:
            raise PluginError(f"running image plugin {called or command}: {done.stdout}: exit status {done.returncode}")
        return done.stdout, done.stderr

    def create_arguments(
        self, rootfs: str, handle: str, *, quota: int = 0, exclusive: bool = False, username: str = "", password: str = ""
    ) -> list[str]:
        """Arguments of create. The first ``#`` of the URL becomes the colon of a tag."""
        arguments = []
        if quota > 0:
            arguments += ["--disk-limit-size-bytes", str(quota)]
            if exclusive:
                arguments.append("--exclude-image-from-quota")
        if username:
            arguments += ["--username", username]
        if password:
            arguments += ["--password", password]
        return [*arguments, rootfs.replace("#", ":", 1), handle]

    def create_2017(self, rootfs: str, handle: str, **options: Any) -> Created:
        """Create as of March 2017: stdout is the image's path."""
        path = self.call("create", *self.create_arguments(rootfs, handle, **options))[0].strip()
        try:
            config = json.loads(Path(path, "image.json").read_text())
        except FileNotFoundError:
            config = {}
        return Created(f"{path}/rootfs", (config.get("config") or {}).get("Env") or [], [])

    def create(self, rootfs: str, handle: str, **options: Any) -> Created:
        """Create since late 2017: the whole stdout is a runtime specification."""
        out = self.call("create", *self.create_arguments(rootfs, handle, **options))[0]
        try:
            spec = json.loads(out)
        except ValueError as error:
            raise PluginError(f"parsing image plugin create: {out}: {error}") from None
        return Created((spec.get("root") or {}).get("path", ""), (spec.get("process") or {}).get("env") or [], spec.get("mounts") or [])

    def destroy(self, handle: str) -> None:
        """Delete."""
        self.call("delete", handle, called="destroy")

    def stats(self, handle: str) -> tuple[int, int]:
        """(total, exclusive): the first JSON value on stdout, maps of unsigned integers."""
        out = self.call("stats", handle, called="metrics")[0]
        value, _ = json.JSONDecoder().raw_decode(out)
        for inner in value.values():
            for number in inner.values():
                _insist_on_unsigned(number, out)
        return value["disk_usage"]["total_bytes_used"], value["disk_usage"]["exclusive_bytes_used"]

    def capacity(self) -> int:
        """Capacity: a map of unsigned integers."""
        out = self.call("capacity")[0]
        value = json.loads(out)
        for number in value.values():
            _insist_on_unsigned(number, out)
        return int(value["capacity"])


def _insist_on_unsigned(number: object, out: str) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 64:
        raise PluginError(f"parsing stats: {out}")


class Droplet(NamedTuple):
    """A layer that is not in the layout: where it is, and what Garden calls it."""

    url: str
    digest: str


def write_preloaded(path: Path, base: Path, *tops: Archive | Droplet, directory: str = "/home/vcap") -> str:
    """The layout that Garden writes for a ``preloaded+layer`` root file system; gives the URL it passes on.

    No ``oci-layout``, no tag, sizes of 0. The base layer's digest is one of path and modification time, its blob a link
    to the tar file; a droplet has no blob; diff ids repeat the digests (contract, section 19.5).
    """
    base_digest = sha256(f"{base}-{base.stat().st_mtime_ns}".encode())
    descriptors: list[dict[str, Any]] = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{base_digest}", "size": 0}
    ]
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / base_digest).symlink_to(base)
    for top in tops:
        descriptor: dict[str, Any] = {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "size": 0,
            "annotations": {BASE_DIRECTORY: directory},
        }
        if isinstance(top, Droplet):
            descriptor |= {"digest": f"sha256:{top.digest}", "urls": [top.url]}
        else:
            upper = Layer(top.tar)
            descriptor["digest"] = f"sha256:{upper.digest}"
            (blobs / upper.digest).write_bytes(upper.blob)
        descriptors.append(descriptor)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [descriptor["digest"] for descriptor in descriptors]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": CONFIG, "digest": f"sha256:{sha256(config)}", "size": 0},
            "layers": descriptors,
        }
    ).encode()
    for body in (config, manifest):
        (blobs / sha256(body)).write_bytes(body)
    entry = {"mediaType": MANIFEST, "digest": f"sha256:{sha256(manifest)}", "size": 0}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return f"oci://{path}"
