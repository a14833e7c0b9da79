"""Where the bytes of layers come from while volumes are built."""

from __future__ import annotations

from typing import Protocol

from groot_fast._core import Blob, Layer, Spool
from groot_fast.errors import SourceError


class Blobs(Protocol):
    """Access to the blobs of one image, used as a context manager around the building of its volumes."""

    @property
    def is_worth_another_try(self) -> bool:
        """Whether the building failed over bytes that a fresh fetch may not have."""

    def start(self, layers: list[Layer]) -> None:
        """These layers will be opened, in this order; begin to fetch them."""

    def open(self, layer: Layer) -> str | Blob | Spool:
        """The bytes of a layer: a complete file, or one that is still growing, or the path of a directory to copy.
        Raises SourceError."""

    def failure(self, layer: Layer) -> Exception | None:
        """Why fetching a layer ended, where that is the reason for what the unpacker said."""

    def done(self, layer: Layer) -> None:
        """The layer is unpacked; its bytes are no longer needed."""

    def __enter__(self) -> Blobs: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


def open_here(layer: Layer) -> str | Blob:
    """The bytes of a layer that is on this machine. What is a directory is decided by the source, never by what lies in the
    place of a blob: that would get in unverified. Raises SourceError."""
    if layer.directory is not None:
        return layer.directory
    try:
        return layer.open()
    except OSError as error:
        raise SourceError(f"streaming blob `{layer.name}`: {error.strerror}") from None


class LocalBlobs:
    """Layers that are files on this machine."""

    is_worth_another_try = False

    def __enter__(self) -> LocalBlobs:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, layers: list[Layer]) -> None:
        """Nothing to begin."""

    def open(self, layer: Layer) -> str | Blob:
        """A regular file, or the directory that the source says the layer is. Raises SourceError."""
        return open_here(layer)

    def failure(self, layer: Layer) -> None:
        """Reading a file has no reason of its own."""

    def done(self, layer: Layer) -> None:
        """Somebody else's file: it stays."""
