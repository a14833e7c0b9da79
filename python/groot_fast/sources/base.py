"""What every source is."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from groot_fast.pull.blobs import Blobs
    from groot_fast.sources.image import Image
    from groot_fast.store.layout import Store
    from groot_fast.telemetry.dropsonde import Metrics
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.progress import Listener


class Source:
    """Something that resolves to an image and gives the bytes of its layers. A context manager around both."""

    @property
    def name(self) -> str:
        """What the store remembers the image by."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def recall(self, store: Store) -> Image | None:
        """The image without looking at the source, where the store knows it and the caller does not want it looked up."""
        return None

    def resolve(self) -> Image:
        """Find out what the image is made of; nothing is unpacked. Raises SourceError and its kin."""
        raise NotImplementedError

    def blobs(self, store: Store, log: Logger, progress: Listener, metrics: Metrics) -> Blobs:
        """Access to the layers' bytes, after `resolve`. Files on this machine unless a source knows better."""
        from groot_fast.pull.blobs import LocalBlobs

        return LocalBlobs()
