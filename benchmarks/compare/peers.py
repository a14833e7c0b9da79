"""Who takes part: GrootFS and its like, buildah, umoci, containerd. Each gives the commands of a work; `compare` runs them.

What each leaves undone when its command has ended, in a cold create:

- GrootFS: blobs, digests and diff ids are checked. The snapshot commits all layers' data; what comes after it is dirty.
- buildah: digests and diff ids are checked. Its snapshots commit the layers below; what comes after is dirty. No disk limit. Driver
  btrfs, the faster of its two.
- umoci: digests and diff ids are checked; data is written back later. One bundle, nothing is kept for a second create; no limit.
- containerd: its daemon runs already; the image is imported from a tar of the layout (it reads no layouts), unpacked, and a
  snapshot is prepared. Digests and diff ids are checked; nearly everything is flushed. No disk limit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from compare.api import ask_together, create_request
from compare.filesystem import SIZE, Filesystem, fresh, throttled
from compare.images import Image
from compare.process import Argv, Ended, Runner, Steps, one
from loadtests.throttle import Throttle

LIMIT = 10_000_000_000


class Store:
    """A place of one contestant. A method that gives None is a work that it cannot do."""

    daemon: int | None = None

    def __init__(self, who: str, filesystem: Filesystem) -> None:
        self.who = who
        self.filesystem = filesystem

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps | None:
        """Make an image of which nothing is here, from its layout or from the registry at host:port."""
        return None

    def pull(self, image: Image, image_id: str, registry: str) -> Argv | None:
        """The one command that brings an image from the registry, for many at once."""
        return None

    def warm(self, image: Image, image_id: str, *, limited: bool) -> Steps | None:
        """Make another image of which everything is here, under a disk limit or without."""
        return None

    def warm_together(self, runner: Runner, image: Image, image_ids: Sequence[str]) -> tuple[float, list[Ended]]:
        """Make many warm images at once, under a limit where there are limits; as `Runner.together`."""
        steps = [self.warm(image, name, limited=True) or self.warm(image, name, limited=False) for name in image_ids]
        return runner.together([each[0][0] for each in steps if each is not None])

    def delete(self, image_id: str) -> Steps | None:
        """Remove an image."""
        return None

    def stats(self, image_id: str) -> Steps | None:
        """Ask how much an image uses."""
        return None

    def list(self) -> Steps | None:
        """List all images."""
        return None

    def clean(self) -> Steps | None:
        """Remove layers that no image uses."""
        return None


class Peer(ABC):
    """Somebody who can be given a fresh file system."""

    name: str

    @abstractmethod
    def open(self, folder: Path) -> AbstractContextManager[Store]:
        """A fresh store below ``folder``, which is made and taken away."""


class GrootStore(Store):
    """A store of ours, or of an original."""

    def __init__(self, who: str, command: Path, path: Path) -> None:
        super().__init__(who, Filesystem(path))
        self.path = path
        self.argv = [str(command), "--store", str(path)]

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps:
        """Create."""
        if registry is not None:
            return [[self.pull(image, image_id, registry)]]
        return one(*self.argv, "create", f"oci://{image.layout}:latest", image_id)

    def pull(self, image: Image, image_id: str, registry: str) -> Argv:
        """Create."""
        return [*self.argv, "create", "--insecure-registry", registry, f"docker://{registry}/{image.name}", image_id]

    def warm(self, image: Image, image_id: str, *, limited: bool) -> Steps:
        """Create."""
        flags = ["--disk-limit-size-bytes", str(LIMIT)] if limited else []
        return one(*self.argv, "create", *flags, f"oci://{image.layout}:latest", image_id)

    def named(self, image: Image, image_id: str, registry: str, *, login: tuple[str, str] | None) -> Argv:
        """Create, with a limit, by a tag: over plain http, or with a login over TLS."""
        flags = ["--disk-limit-size-bytes", str(LIMIT)]
        flags += ["--insecure-registry", registry] if login is None else ["--username", login[0], "--password", login[1]]
        return [*self.argv, "create", *flags, f"docker://{registry}/{image.name}:latest", image_id]

    def delete(self, image_id: str) -> Steps:
        """Delete."""
        return one(*self.argv, "delete", image_id)

    def stats(self, image_id: str) -> Steps:
        """Stats."""
        return one(*self.argv, "stats", image_id)

    def list(self) -> Steps:
        """List."""
        return one(*self.argv, "list")

    def clean(self) -> Steps:
        """Clean."""
        return one(*self.argv, "clean")


class AskedStore(GrootStore):
    """A store of ours behind a server whose HTTP interface is asked for warm creates at once; all else goes by the command."""

    def __init__(self, store: GrootStore, socket: Path) -> None:
        super().__init__(store.who, Path(store.argv[0]), store.path)
        self.argv = store.argv
        self._socket = socket

    def warm_together(self, runner: Runner, image: Image, image_ids: Sequence[str]) -> tuple[float, list[Ended]]:
        """Ask."""
        url = f"oci://{image.layout}:latest"
        return ask_together(self._socket, [create_request(self.path, url, name, LIMIT) for name in image_ids])


class Groot(Peer):
    """A ``grootfs`` command. ``is_plain``: on BTRFS by mkfs's defaults, as an operator may give it, instead of its own. ``settings``
    is a configuration file."""

    def __init__(self, name: str, command: Path, *, is_plain: bool = False, settings: str = "") -> None:
        self.name = name
        self.command = command
        self.is_plain = is_plain
        self.settings = settings

    @contextmanager
    def open(self, folder: Path) -> Iterator[GrootStore]:
        """`init-store` in a file, or on what is mounted."""
        if self.is_plain:
            with fresh(folder) as filesystem:
                argv = [str(self.command), "--store", str(filesystem.point), "init-store", "--quota", "simple"]
                subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
                yield self._store(folder, filesystem.point)
            return
        folder.mkdir(parents=True)
        path = folder / "store"
        argv = [str(self.command), "--store", str(path)]
        subprocess.run([*argv, "init-store", "--store-size-bytes", str(SIZE)], check=True, stdout=subprocess.DEVNULL)
        try:
            yield self._store(folder, path)
        finally:
            subprocess.run([*argv, "delete-store"], check=True, stdout=subprocess.DEVNULL)
            shutil.rmtree(folder)

    @contextmanager
    def open_throttled(self, folder: Path) -> Iterator[tuple[GrootStore, Throttle]]:
        """The same on a volume that can be slowed down."""
        with throttled(folder) as (filesystem, throttle):
            argv = [str(self.command), "--store", str(filesystem.point), "init-store", "--quota", "simple"]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            yield self._store(folder, filesystem.point), throttle

    def _store(self, folder: Path, path: Path) -> GrootStore:
        store = GrootStore(self.name, self.command, path)
        if self.settings:
            config = folder / "settings.yml"
            config.write_text(self.settings)
            store.argv[1:1] = ["--config", str(config)]
        return store


class ServedGroot(Peer):
    """A ``grootfs serve``, asked by its HTTP interface where `AskedStore` can do that."""

    def __init__(self, name: str, command: Path, *, is_plain: bool = False) -> None:
        self.name = name
        self._groot = Groot(name, command, is_plain=is_plain)

    @contextmanager
    def open(self, folder: Path) -> Iterator[Store]:
        """A store, and a server beside it."""
        socket = folder / "socket"
        with self._groot.open(folder) as store:
            server = subprocess.Popen([str(self._groot.command), "--socket", str(socket), "serve"])
            try:
                _appears(socket)
                yield AskedStore(store, socket)
            finally:
                server.terminate()
                server.wait()


def _appears(path: Path) -> None:
    """Wait for a socket. Raises TimeoutError."""
    end = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(0.02)


class BuildahStore(Store):
    """Storage of buildah. Works that name an image by id need a `cold` before."""

    def __init__(self, who: str, filesystem: Filesystem, policy: Path, driver: str) -> None:
        super().__init__(who, filesystem)
        root = filesystem.point
        self._argv = ["buildah", "--root", f"{root}/root", "--runroot", f"{root}/run", "--storage-driver", driver]
        self._from = ["from", "--signature-policy", str(policy), "--name"]
        self._image = ""

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps:
        """Pull and make a working container."""
        if registry is not None:
            return [[self.pull(image, image_id, registry)]]
        return one(*self._argv, *self._from, image_id, f"oci:{image.layout}:latest")

    def pull(self, image: Image, image_id: str, registry: str) -> Argv:
        """Pull and make a working container."""
        return [*self._argv, *self._from, image_id, "--tls-verify=false", f"docker://{registry}/{image.name}:latest"]

    def warm(self, image: Image, image_id: str, *, limited: bool) -> Steps | None:
        """Make a working container."""
        if limited:
            return None
        if not self._image:
            done = subprocess.run([*self._argv, "images", "--quiet", "--no-trunc"], check=True, capture_output=True, text=True)
            self._image = done.stdout.split()[0]
        return one(*self._argv, *self._from, image_id, "--pull-never", self._image)

    def delete(self, image_id: str) -> Steps:
        """Remove the working container."""
        return one(*self._argv, "rm", image_id)

    def list(self) -> Steps:
        """List working containers."""
        return one(*self._argv, "containers", "--quiet")


class Buildah(Peer):
    """Debian's buildah: driver btrfs on the ground of all (see `fresh`), or, ``at_home``, overlay on ext4."""

    def __init__(self, maker: Path | None, *, at_home: bool = False) -> None:
        self.name = "buildah, overlay on ext4" if at_home else "buildah"
        self._maker = maker
        self._driver, self._kind = ("overlay", "ext4") if at_home else ("btrfs", "btrfs")

    @contextmanager
    def open(self, folder: Path) -> Iterator[BuildahStore]:
        """Empty storage, and a policy without signatures."""
        with fresh(folder, self._maker, self._kind) as filesystem:
            policy = folder / "policy.json"
            policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
            yield BuildahStore(self.name, filesystem, policy, self._driver)


class UmociStore(Store):
    """A directory for bundles."""

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps | None:
        """Unpack into a bundle."""
        if registry is not None:
            return None
        return one("umoci", "unpack", "--image", f"{image.layout}:latest", self.filesystem.point / image_id)


class Umoci(Peer):
    """Debian's umoci."""

    name = "umoci"

    def __init__(self, maker: Path | None) -> None:
        self._maker = maker

    @contextmanager
    def open(self, folder: Path) -> Iterator[UmociStore]:
        """An empty directory."""
        with fresh(folder, self._maker) as filesystem:
            yield UmociStore(self.name, filesystem)


class ContainerdStore(Store):
    """A running daemon."""

    def __init__(self, filesystem: Filesystem, socket: Path, daemon: int) -> None:
        super().__init__("containerd", filesystem)
        self.daemon = daemon
        self._argv = ["ctr", "--address", str(socket)]
        self._driver = ["--snapshotter", "btrfs"]

    def cold(self, image: Image, image_id: str, registry: str | None) -> Steps:
        """Import or pull, then prepare a snapshot."""
        if registry is not None:
            get = self.pull(image, image_id, registry)
        else:
            get = [*self._argv, "images", "import", *self._driver, "--base-name", image.name, str(image.archive())]
        return [[get], [self._prepare(image, image_id)]]

    def pull(self, image: Image, image_id: str, registry: str) -> Argv:
        """Pull; the snapshot is not in it."""
        return [*self._argv, "images", "pull", "--plain-http", *self._driver, f"{registry}/{image.name}:latest"]

    def warm(self, image: Image, image_id: str, *, limited: bool) -> Steps | None:
        """Prepare a snapshot."""
        return None if limited else [[self._prepare(image, image_id)]]

    def delete(self, image_id: str) -> Steps:
        """Remove the snapshot."""
        return one(*self._argv, "snapshots", *self._driver, "rm", image_id)

    def list(self) -> Steps:
        """List snapshots, layers included."""
        return one(*self._argv, "snapshots", *self._driver, "ls")

    def _prepare(self, image: Image, image_id: str) -> Argv:
        return [*self._argv, "snapshots", *self._driver, "prepare", image_id, f"sha256:{image.chain_id}"]


class Containerd(Peer):
    """Debian's containerd, with a root, a state and a socket of its own."""

    name = "containerd"

    def __init__(self, maker: Path | None) -> None:
        self._maker = maker

    @contextmanager
    def open(self, folder: Path) -> Iterator[ContainerdStore]:
        """A daemon on an empty root."""
        # A socket's path must be short.
        with fresh(folder, self._maker) as filesystem, tempfile.TemporaryDirectory(prefix="ctd-") as state:
            socket = Path(state) / "socket"
            lines = [
                "version = 2",
                f'root = "{filesystem.point}/root"',
                f'state = "{state}/state"',
                'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
                "[grpc]",
                f'address = "{socket}"',
            ]
            config = folder / "containerd.toml"
            config.write_text("\n".join(lines) + "\n")
            daemon = subprocess.Popen(["containerd", "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                _wait_for(["ctr", "--address", str(socket), "version"])
                yield ContainerdStore(filesystem, socket, daemon.pid)
            finally:
                daemon.terminate()
                daemon.wait()


def _wait_for(argv: Argv) -> None:
    """Until the command succeeds, at most 30 seconds."""
    end = time.monotonic() + 30
    while subprocess.run(argv, check=False, capture_output=True).returncode != 0:
        if time.monotonic() > end:
            raise TimeoutError(f"{' '.join(argv)} does not succeed")
        time.sleep(0.05)
