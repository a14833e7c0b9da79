"""OCI image layouts on disk (contract, section 9.4). What they hold is read by the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groot_fast._core import OciReference
from groot_fast.sources.base import Source

if TYPE_CHECKING:
    from groot_fast._core import Image, Store
    from groot_fast.config import Settings
    from groot_fast.pull.blobs import Blobs
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics
    from groot_fast.telemetry.progress import Listener


class OciSource(Source):
    """``oci:///absolute/directory[:tag][@digest]``."""

    def __init__(self, url: str, settings: Settings) -> None:
        """Raises SourceError, BadImage, ConfigError."""
        self._url = url
        self._reference = OciReference(url, settings.platform)
        self._image: Image
        self._settings = settings

    @property
    def name(self) -> str:
        """See `Source`."""
        platform = self._settings.platform
        return f"{self._url} {platform}" if platform else self._url

    def resolve(self) -> Image:
        """Read index, manifest and configuration. Raises SourceError, BadImage."""
        self._image = self._reference.resolve(not self._settings.skip_layer_validation)
        return self._image

    def blobs(self, store: Store, log: Logger, progress: Listener, metrics: Metrics) -> Blobs:
        """Files of the layout; layers that it only names by URL come over the network."""
        if all(layer.is_here() or not layer.urls for layer in self._image.layers):
            return super().blobs(store, log, progress, metrics)
        from groot_fast.pull.remote_layers import RemoteLayers

        return RemoteLayers(store, self._settings, log, progress, metrics)
