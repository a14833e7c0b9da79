"""Where the bytes of layers come from while volumes are built."""

from __future__ import annotations

import os
from typing import Protocol

from groot_fast._core import Spool
from groot_fast.errors import SourceError
from groot_fast.sources.image import Layer


class Blobs(Protocol):
    """Access to the blobs of one image, used as a context manager around the building of its volumes."""

    @property
    def is_worth_another_try(self) -> bool:
        """Whether the building failed over bytes that a fresh fetch may not have."""

    def start(self, layers: list[Layer]) -> None:
        """These layers will be opened, in this order; begin to fetch them."""

    def open(self, layer: Layer) -> str | Spool:
        """The bytes of a layer: a complete file, or one that is still growing. Raises SourceError."""

    def failure(self, layer: Layer) -> Exception | None:
        """Why fetching a layer ended, where that is the reason for what the unpacker said."""

    def done(self, layer: Layer) -> None:
        """The layer is unpacked; its bytes are no longer needed."""

    def __enter__(self) -> Blobs: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


class LocalBlobs:
    """Layers that are files on this machine."""

    is_worth_another_try = False

    def __enter__(self) -> LocalBlobs:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, layers: list[Layer]) -> None:
        """Nothing to begin."""

    def open(self, layer: Layer) -> str:
        """The path, if there is something. Raises SourceError."""
        path = layer.path or ""
        if not os.path.exists(path):
            raise SourceError(f"streaming blob `{layer.name}`: open {path}: no such file or directory")
        return path

    def failure(self, layer: Layer) -> None:
        """Reading a file has no reason of its own."""

    def done(self, layer: Layer) -> None:
        """Somebody else's file: it stays."""
