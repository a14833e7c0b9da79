"""Layers of an OCI layout that are not in it but behind URLs (contract, section 9.4)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from groot_fast._core import Blob, Layer, Spool, Store
from groot_fast.config import Settings
from groot_fast.pull.blobs import open_here
from groot_fast.pull.downloads import Downloads, Network
from groot_fast.sources.registry.foreign import ForeignLayers
from groot_fast.sources.registry.options import RegistryOptions
from groot_fast.sources.registry.stream import Position
from groot_fast.telemetry.lager import Logger
from groot_fast.telemetry.metrics import Metrics
from groot_fast.telemetry.progress import Listener


class RemoteLayers(Downloads):
    """`Blobs` from files where they are there, from the layers' URLs where not."""

    def __init__(self, store: Store, settings: Settings, log: Logger, progress: Listener, metrics: Metrics) -> None:
        certificates = settings.remote_layer_certificates
        self._foreign = ForeignLayers(RegistryOptions(remote_layer_certificates=Path(certificates) if certificates else None))
        self._own_network = Network()
        self._positions: dict[str, Position] = {}
        super().__init__(store, self._own_network, self._stream_layer, log, progress, metrics, self._is_layer_joined)

    def _stream_layer(self, layer: Layer, offset: int, is_urgent: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        position = self._positions[layer.digest or ""] = Position(offset)
        return self._foreign.stream(f"sha256:{layer.digest}", layer.size, position, tuple(layer.urls), is_urgent)

    def _is_layer_joined(self, layer: Layer) -> bool:
        position = self._positions.get(layer.digest or "")
        return position is not None and position.is_joined

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            super().__exit__(kind, error, trace)
            self._own_network.run(self._foreign.close())
        finally:
            self._own_network.close()

    def start(self, layers: list[Layer]) -> None:
        """Begin to fetch those that are not files."""
        super().start([layer for layer in layers if not layer.is_here()])

    def open(self, layer: Layer) -> str | Blob | Spool:
        """A file, or a growing one."""
        return open_here(layer) if layer.is_here() else super().open(layer)

    def done(self, layer: Layer) -> None:
        """Files of the layout stay."""
        if not layer.is_here():
            super().done(layer)
