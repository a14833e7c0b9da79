"""``docker://``: an image in a registry. The network is only imported when it is needed."""

from __future__ import annotations

import os
import time

from groot_fast import files, interrupts
from groot_fast._core import sha256
from groot_fast.config import MISSING
from groot_fast.errors import GrootError, LockTimeout, RegistryError, SourceError
from groot_fast.sources.base import Source, Turn
from groot_fast.sources.image import Image, Layer
from groot_fast.sources.registry.reference import parse_reference
from groot_fast.telemetry.metrics import NANOS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from groot_fast._core import Lock, Store
    from groot_fast.config import Settings
    from groot_fast.pull.downloads import Downloads, Network
    from groot_fast.sources.registry.client import RegistryClient
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics
    from groot_fast.telemetry.progress import Listener

PREFIX = "fetching image reference: creating image: "
PATIENCE = 20.0
"""Seconds to wait for others that ask the same; a pull that takes longer is not worth waiting for here."""
BARE = ("manifest unknown", "This registry is insecure.")
"""Messages that stand alone (contract, section 7.4)."""


class _Queue(Turn):
    """A lock file for one question. Whoever has it asks the registry, and leaves a note of when; who waited meanwhile need
    not ask again. A storm of creates of one image thus costs one request and one start of the network."""

    def __init__(self, store: Store, key: str, metrics: Metrics) -> None:
        self._store = store
        self._key = key
        self._metrics = metrics
        self._begun = time.monotonic_ns()
        self._asked = 0
        self._held_since = 0
        self._lock: Lock | None = None

    def __enter__(self) -> bool:
        try:
            with interrupts.Waiting():
                self._lock = self._store.lock(self._key, deadline=PATIENCE, cancel=interrupts.cancel())
        except LockTimeout:
            return False  # a slow registry, or a large image: ask for ourselves, its layers are waited for anyway
        self._metrics.send("PullLockingTime", self._lock.waited, NANOS)
        self._held_since = time.monotonic_ns()
        boot, _, asked = self._lock.read_note().partition(" ")
        return boot == _boot() and asked.isdecimal() and int(asked) >= self._begun

    def asking(self) -> None:
        """The registry is asked from now on. Whoever was there before gets this answer."""
        self._asked = time.monotonic_ns()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._lock is None:
            return
        if kind is None and self._asked:
            try:
                self._lock.write_note(f"{_boot()} {self._asked}")
            except OSError:
                pass  # the image is made; others ask for themselves
        self._lock.release()
        self._metrics.send("PullLockHoldTime", time.monotonic_ns() - self._held_since, NANOS)


def _boot() -> str:
    """Which boot this is; times of the monotonic clock mean nothing in another."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class DockerSource(Source):
    """An image in a registry. Holds connections from `resolve` to the end of its ``with`` block."""

    def __init__(self, url: str, settings: Settings) -> None:
        try:
            self._reference = parse_reference(url)
        except SourceError as error:
            raise SourceError(PREFIX + str(error), hint=error.hint) from None
        self._settings = settings
        self._network: Network | None = None
        self._client: RegistryClient | None = None
        self._queue: _Queue | None = None

    @property
    def name(self) -> str:
        """What the store remembers the image by."""
        platform = self._settings.platform
        return f"{self._reference.text} {platform}" if platform else self._reference.text

    @property
    def is_slow(self) -> bool:
        """See `Source`: a registry is asked."""
        return True

    def recall(self, store: Store, *, answered: bool = False) -> Image | None:
        """See `Source`. A digest says all there is to say; a tag is only taken from memory when the policy allows."""
        if not answered and self._reference.digest is None and self._settings.pull_policy != MISSING:
            return None
        parts = store.recall(self.name)
        return None if parts is None else Image.recalled(parts)

    def turn(self, store: Store, metrics: Metrics) -> Turn:
        """See `Source`. Who asks with other credentials or another trust asks something else."""
        settings = self._settings
        question = [
            self.name,
            settings.username,
            settings.password,
            str(os.geteuid()),
            os.environ.get("DOCKER_CONFIG", "") or os.environ.get("HOME", ""),
            *sorted(settings.insecure_registries),
        ]
        key = f"pull-{sha256(files.encode(chr(0).join(question)))}"
        self._queue = _Queue(store, key, metrics)
        return self._queue

    def _connect(self) -> tuple[Network, RegistryClient]:
        """The network, started when it is first needed."""
        if self._network is None or self._client is None:
            from pathlib import Path

            from groot_fast.pull.downloads import Network
            from groot_fast.sources.registry.client import RegistryClient
            from groot_fast.sources.registry.options import Platform, RegistryOptions

            settings = self._settings
            certificates = settings.remote_layer_certificates
            options = RegistryOptions(
                insecure_registries=tuple(settings.insecure_registries),
                username=settings.username,
                password=settings.password,
                platform=Platform.parse(settings.platform) if settings.platform else Platform.of_this_machine(),
                mirrors={host: tuple(mirrors) for host, mirrors in settings.registry_mirrors.items()},
                remote_layer_certificates=Path(certificates) if certificates else None,
            )
            self._client = RegistryClient(self._reference, options)
            self._network = Network()
        return self._network, self._client

    def __exit__(self, *_: object) -> None:
        if self._network is None or self._client is None:
            return
        try:
            self._network.run(self._client.__aexit__(None, None, None))
        finally:
            self._network.close()

    def resolve(self) -> Image:
        """Fetch manifest and configuration. Raises SourceError and its kin with the contract's texts."""
        network, client = self._connect()
        if self._queue is not None:
            self._queue.asking()
        try:
            return network.run(self._resolve(client))
        except GrootError as error:
            raise self._explain(error) from error

    async def _resolve(self, client: RegistryClient) -> Image:
        from groot_fast.sources.manifest import MAX_CONFIG, Manifest, join_image

        document = await client.manifest()
        manifest = Manifest(document.body)
        config = await client.blob(f"sha256:{manifest.config.digest}", manifest.config.size, MAX_CONFIG)
        return join_image(manifest, config)

    def _explain(self, error: GrootError) -> GrootError:
        text = str(error)
        if not isinstance(error, RegistryError) or text.startswith(BARE) or "or you do not have permissions" in text:
            return error
        return RegistryError(PREFIX + text, hint=error.hint, status=error.status, codes=error.codes)

    def blobs(self, store: Store, log: Logger, progress: Listener, metrics: Metrics) -> Downloads:
        """The layers' bytes."""
        from groot_fast.pull.downloads import Downloads

        network, client = self._connect()

        def stream(layer: Layer, offset: int) -> AsyncGenerator[bytes, None]:
            return client.stream(f"sha256:{layer.digest}", layer.size, offset, layer.urls)

        return Downloads(store, network, stream, log, progress, metrics)
