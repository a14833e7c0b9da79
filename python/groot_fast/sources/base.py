"""What every source is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

    from groot_fast._core import Image, Store
    from groot_fast.pull.blobs import Blobs
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics
    from groot_fast.telemetry.progress import Listener


class Turn:
    """Nobody to wait for."""

    def __enter__(self) -> bool:
        return False

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        pass


class Source:
    """Something that resolves to an image and gives the bytes of its layers. A context manager around both."""

    @property
    def name(self) -> str:
        """What the store remembers the image by."""
        raise NotImplementedError

    @property
    def is_slow(self) -> bool:
        """Whether finding out what the image is may take long, whatever the store has of it."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def recall(self, store: Store, *, answered: bool = False) -> Image | None:
        """The image without looking at the source, where the store knows it and the caller does not want it looked up, or
        where it was ``answered`` a moment ago (see `turn`)."""
        return None

    def turn(self, store: Store, metrics: Metrics) -> Turn:
        """Wait for others that are asking the same source the same thing. Entering says whether one of them was answered
        while we waited: then its answer is as good as one of our own."""
        return Turn()

    def resolve(self) -> Image:
        """Find out what the image is made of; nothing is unpacked. Raises SourceError and its kin."""
        raise NotImplementedError

    def blobs(self, store: Store, log: Logger, progress: Listener, metrics: Metrics) -> Blobs:
        """Access to the layers' bytes, after `resolve`. Files on this machine unless a source knows better."""
        from groot_fast.pull.blobs import LocalBlobs

        return LocalBlobs()
