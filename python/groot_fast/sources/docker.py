"""``docker://``: an image in a registry. The network is only imported when it is needed."""

from __future__ import annotations

import os
import time

from groot_fast import interrupts
from groot_fast._core import MAX_CONFIG, Image, Layer, sha256
from groot_fast.config import CACHED, MISSING, NEVER
from groot_fast.errors import GrootError, LockTimeout, RegistryError, SourceError
from groot_fast.sources.base import Source, Turn
from groot_fast.sources.registry.reference import parse_reference
from groot_fast.telemetry.metrics import NANOS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from groot_fast._core import Lock, Manifest, Store
    from groot_fast.config import Settings
    from groot_fast.pull.downloads import Downloads, Network
    from groot_fast.sources.registry.client import RegistryClient
    from groot_fast.sources.registry.credentials import Credential
    from groot_fast.sources.verification import Proofs
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
    not ask again. A storm of creates of one image thus costs one request and one start of the network.

    ``verify`` asks only whether the caller may have what the store remembers; it is called in the turn, and says whether it asked.
    """

    def __init__(self, store: Store, key: str, metrics: Metrics, verify: Callable[[], bool]) -> None:
        self._store = store
        self._verify = verify
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
            return self._verify()  # a slow registry, or a large image: ask for ourselves, its layers are waited for anyway
        self._metrics.send("PullLockingTime", self._lock.waited, NANOS)
        self._held_since = time.monotonic_ns()
        boot, _, asked = self._lock.read_note().partition(" ")
        if boot == _boot() and asked.isdecimal() and int(asked) >= self._begun:
            return True
        try:
            return self._verify()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

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

    def __init__(self, url: str, settings: Settings, log: Logger) -> None:
        try:
            self._reference = parse_reference(url)
        except SourceError as error:
            raise SourceError(PREFIX + str(error), hint=error.hint) from None
        self._settings = settings
        self._log = log
        self._proofs: Proofs | None = None
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
        """See `Source`. A digest says all there is to say; a tag is only taken from memory when the policy allows. But what a
        registry guards is for those who could have pulled it now, so that it is asked even then (see `turn`), unless the
        operator says otherwise: not at all, or not as long as there is a proof."""
        if self._settings.image_verification == CACHED:
            from groot_fast.sources.verification import Proofs

            self._proofs = Proofs(store, self._settings.verification_lifetime)
        if answered or (self._means_what_is_here and self._may_have_it()):
            parts = store.recall(self.name)
            return None if parts is None else Image.recalled(parts)
        return None

    @property
    def _means_what_is_here(self) -> bool:
        """Whether the name stands for what the store remembers it by, whatever the registry has under it now."""
        return self._reference.digest is not None or self._settings.pull_policy == MISSING

    def _may_have_it(self) -> bool:
        if self._proofs is None:
            return self._settings.image_verification == NEVER
        import asyncio

        return self._proofs.has(self._reference, asyncio.run(self._credential()))

    async def _credential(self) -> Credential:
        """What the caller shows the registry itself. Raises ConfigError."""
        from groot_fast.sources.registry.credentials import Credential, CredentialFinder

        settings = self._settings
        if settings.username or settings.password:
            return Credential(settings.username, settings.password)
        finder = CredentialFinder(self._auth_file, self._log)
        return await finder.find(self._reference.registry, self._reference.repository)

    @property
    def _auth_file(self) -> Path | None:
        from pathlib import Path

        return Path(self._settings.auth_file) if self._settings.auth_file else None

    def turn(self, store: Store, metrics: Metrics) -> Turn:
        """See `Source`. Who asks with other credentials or another trust asks something else."""
        settings = self._settings
        question = [
            self.name,
            settings.username,
            settings.password,
            str(os.geteuid()),
            settings.auth_file,
            *(os.environ.get(name, "") for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "HOME")),
            *sorted(settings.insecure_registries),
        ]
        key = f"pull-{sha256(chr(0).join(question).encode(errors='surrogateescape'))}"
        self._queue = _Queue(store, key, metrics, lambda: self._verify(store))
        return self._queue

    def _verify(self, store: Store) -> bool:
        """Ask the registry for the manifest if the store has the rest: that it answers is all that is wanted."""
        if not self._means_what_is_here or store.recall(self.name) is None:
            return False
        network, client = self._connect()
        self._asking()
        try:
            network.run(self._manifest(client))
        except GrootError as error:
            raise self._explain(error) from error
        return True

    def _asking(self) -> None:
        if self._queue is not None:
            self._queue.asking()

    def _connect(self) -> tuple[Network, RegistryClient]:
        """The network, started when it is first needed."""
        if self._network is None or self._client is None:
            from pathlib import Path

            from groot_fast.pull.downloads import Network
            from groot_fast.sources.registry.client import RegistryClient
            from groot_fast.sources.registry.options import RegistryOptions

            settings = self._settings
            certificates = settings.remote_layer_certificates
            options = RegistryOptions(
                insecure_registries=tuple(settings.insecure_registries),
                username=settings.username,
                password=settings.password,
                auth_file=self._auth_file,
                trusted_hosts=tuple(settings.trusted_hosts),
                response_timeout=settings.response_timeout,
                log=self._log,
                platform=settings.platform,
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
        self._asking()
        try:
            return network.run(self._resolve(client))
        except GrootError as error:
            raise self._explain(error) from error

    async def _resolve(self, client: RegistryClient) -> Image:
        manifest = await self._manifest(client)
        digest, size = manifest.config
        return manifest.join(await client.blob(digest, size, MAX_CONFIG), self._settings.platform)

    async def _manifest(self, client: RegistryClient) -> Manifest:
        manifest = await client.manifest()
        if self._proofs is not None:
            try:
                self._proofs.keep(self._reference, await self._credential())
            except (OSError, GrootError) as error:
                self._log.error("proof-not-kept", error)  # the registry is asked again next time
        return manifest

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
            # What a registry must have comes from there, whatever else the manifest lists.
            urls = tuple(layer.urls) if layer.is_foreign else ()
            return client.stream(f"sha256:{layer.digest}", layer.size, offset, urls)

        return Downloads(store, network, stream, log, progress, metrics)
