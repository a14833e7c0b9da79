"""``docker://``: an image in a registry. The network is only imported when it is needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from groot_fast import _core, interrupts
from groot_fast._core import MAX_CONFIG, Image, Layer, Question
from groot_fast.config import CACHED, MISSING, NEVER
from groot_fast.errors import GrootError, RegistryError, SourceError
from groot_fast.sources.base import Source, Turn
from groot_fast.sources.registry.reference import parse_reference
from groot_fast.telemetry import COUNT, NANOS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from groot_fast._core import Manifest, Store
    from groot_fast.config import Settings
    from groot_fast.pull.downloads import Downloads, Network
    from groot_fast.sources.registry.client import RegistryClient
    from groot_fast.sources.registry.credentials import Credential
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics
    from groot_fast.telemetry.progress import Listener

    Answer = tuple[str, list[tuple[str, str, int | None, float]], list[tuple[str, str]]]

PREFIX = "fetching image reference: creating image: "
BARE = ("manifest unknown", "This registry is insecure.")
"""Messages that stand alone (contract, section 7.4)."""


class _Queue(Turn):
    """A turn to ask the registry. A storm of creates of one image costs one request.

    ``verify`` asks only whether the caller may have what the store remembers; it is called in the turn, and says whether it asked.
    ``is_remembered`` says whether the store has the answer: who waits takes it from there.
    """

    def __init__(
        self, store: Store, question: str, metrics: Metrics, verify: Callable[[], bool], is_remembered: Callable[[], bool]
    ) -> None:
        self._store = store
        self._question = question
        self._verify = verify
        self._is_remembered = is_remembered
        self._metrics = metrics
        self._held_since = 0
        self._turn: _core.Turn | None = None

    def __enter__(self) -> bool:
        with interrupts.Waiting():
            self._turn = self._store.turn(self._question, interrupts.cancel())
        self._held_since = time.monotonic_ns()
        if self._turn.waited is not None:
            self._metrics.send("PullLockingTime", self._turn.waited, NANOS)
        try:
            return self._turn.answered or self._verify()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def asking(self) -> None:
        """The registry is asked from now on. Whoever was there before gets this answer."""
        if self._turn is not None:
            self._turn.asking()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._turn is not None:
            self._turn.end(kind is None and self._is_remembered())
            if self._turn.waited is not None:
                self._metrics.send("PullLockHoldTime", time.monotonic_ns() - self._held_since, NANOS)


class DockerSource(Source):
    """An image in a registry. Holds connections from `resolve` to the end of its ``with`` block."""

    def __init__(self, url: str, settings: Settings, log: Logger) -> None:
        try:
            self._reference = parse_reference(url)
        except SourceError as error:
            raise SourceError(PREFIX + str(error), hint=error.hint) from None
        self._settings = settings
        self._log = log
        self._store: Store | None = None
        self._network: Network | None = None
        self._client: RegistryClient | None = None
        self._queue: _Queue | None = None
        self._metrics: Metrics | None = None
        self._resolved: Image | None = None

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
        self._store = store
        if answered or (self._means_what_is_here and self._may_have_it(store)):
            parts = store.recall(self.name)
            return None if parts is None else Image.recalled(parts)
        return None

    @property
    def _means_what_is_here(self) -> bool:
        """Whether the name stands for what the store remembers it by, whatever the registry has under it now."""
        return self._reference.digest is not None or self._settings.pull_policy == MISSING

    def _may_have_it(self, store: Store) -> bool:
        if self._settings.image_verification != CACHED:
            return self._settings.image_verification == NEVER
        return store.has_proof(interrupts.run(self._shown()), self._settings.verification_lifetime)

    async def _shown(self) -> list[str]:
        """What a proof is about. Raises ConfigError."""
        credential = await self._credential()
        return [self._reference.registry.lower(), self._reference.repository, *credential.parts()]

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
        question = Question(
            self._reference.text,
            login=(settings.username, settings.password),
            auth_file=self._auth_file,
            insecure_registries=settings.insecure_registries,
            trusted_hosts=settings.trusted_hosts,
            mirrors=list(settings.registry_mirrors.items()),
            hosts_directory=settings.registry_hosts,
            response_timeout=settings.response_timeout,
        )
        self._metrics = metrics
        key = question.key(self.name)
        self._queue = _Queue(store, key, metrics, lambda: self._verify(store, question), lambda: self._is_remembered(store))
        return self._queue

    def _verify(self, store: Store, question: Question) -> bool:
        """Ask the registry whether what the store remembers is what the name means, and whether this caller may have it. The core
        asks if that is plain, else the client does."""
        remembered = store.recall(self.name)
        if remembered is None:
            return False
        self._asking()
        with interrupts.Waiting():
            answer = question.ask(interrupts.cancel())
        if answer is not None:
            self._report(answer)
            if not self._means_what_is_here and remembered[-1] != answer[0]:
                return False  # the name was moved
            if self._settings.image_verification == CACHED:
                self._keep_proof(interrupts.run(self._shown()))
            return True
        if not self._means_what_is_here:
            return False
        network, client = self._connect()
        try:
            network.run(self._manifest(client))
        except GrootError as error:
            raise self._explain(error) from error
        return True

    def _is_remembered(self, store: Store) -> bool:
        """Whether the store has what the registry said. If it could not be written, an older image may be under the name."""
        if self._resolved is None:
            return True
        remembered, found = store.recall(self.name), self._resolved.parts
        return remembered is not None and (remembered[0], remembered[-1]) == (found[0], found[-1])

    def _report(self, answer: Answer) -> None:
        _, exchanges, failed_mirrors = answer
        for method, host, status, seconds in exchanges:
            self._log.debug("exchange", method=method, host=host, status=status or "no reply", seconds=round(seconds, 4))
        for mirror, reason in failed_mirrors:
            self._log.error("mirror-failed", reason, mirror=mirror, registry=self._reference.registry)

    def _keep_proof(self, shown: list[str]) -> None:
        if self._store is None:
            return
        try:
            self._store.keep_proof(shown, self._settings.verification_lifetime)
        except (OSError, GrootError) as error:
            self._log.error("proof-not-kept", error)  # the registry is asked again next time

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
                quotes_refusals=settings.rules.quotes_refusals,
                platform=settings.platform,
                mirrors={host: tuple(mirrors) for host, mirrors in settings.registry_mirrors.items()},
                hosts_directory=Path(settings.registry_hosts),
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
            if self._client.mirror_failures and self._metrics is not None:
                self._metrics.send("MirrorFailures", self._client.mirror_failures, COUNT)

    def resolve(self) -> Image:
        """Fetch manifest and configuration. Raises SourceError and its kin with the contract's texts."""
        network, client = self._connect()
        self._asking()
        try:
            self._resolved = network.run(self._resolve(client))
        except GrootError as error:
            raise self._explain(error) from error
        return self._resolved

    async def _resolve(self, client: RegistryClient) -> Image:
        manifest = await self._manifest(client)
        digest, size = manifest.config
        return manifest.join(await client.blob(digest, size, MAX_CONFIG), self._settings.platform)

    async def _manifest(self, client: RegistryClient) -> Manifest:
        manifest = await client.manifest()
        if self._settings.image_verification == CACHED:
            self._keep_proof(await self._shown())
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

        def stream(layer: Layer, offset: int, is_urgent: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
            # What a registry must have comes from there, whatever else the manifest lists.
            urls = tuple(layer.urls) if layer.is_foreign else ()
            return client.stream(f"sha256:{layer.digest}", layer.size, offset, urls, is_urgent)

        def is_joined(layer: Layer) -> bool:
            return client.is_joined(f"sha256:{layer.digest}")

        return Downloads(store, network, stream, log, progress, metrics, is_joined)
