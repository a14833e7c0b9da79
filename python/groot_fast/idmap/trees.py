"""Work on trees whose files may belong to any id of the store.

Two implementations of one set of operations: `Direct` for root, who may do anything and translates ids itself, and
`Namespaced` (`namespaced.py`) for the store's owner, who is root over its subordinate ids only inside a user namespace. Which
one it is depends on the caller alone and is decided once; nothing else in the package asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from groot_fast import _core
from groot_fast._core import Blob, Layer


@dataclass
class Terms:
    """How a layer is unpacked."""

    listing: _core.Listing
    """Where what it did is noted."""
    neighbours: _core.Neighbours | None = None
    """Volumes whose files are cloned."""
    most: int | None = None
    """Bytes of content that it may have, if that has a bound."""


class Trees(Protocol):
    """What the pull and `check --deep` need done to trees."""

    def unpack(self, volume: _core.Volume, layer: Layer, blob: str | Blob | _core.Spool, terms: Terms) -> _core.Unpacked:
        """Unpack a layer (or, if ``blob`` is a path, copy that directory) into a volume. Raises BadLayer and its kin, OSError."""

    def verify(self, root: int, listings: list[tuple[str, int]]) -> tuple[int, int, list[str]]:
        """Compare a volume with its listings (`_core.verify`)."""

    def close(self) -> None:
        """End helper processes."""


class Direct:
    """Done by this process, with ids translated by arithmetic."""

    def __init__(self, store: _core.Store, cancel: _core.Cancel) -> None:
        self._ids: dict[str, Any] = {"uids": store.uids, "gids": store.gids}
        self._cancel = cancel

    def unpack(self, volume: _core.Volume, layer: Layer, blob: str | Blob | _core.Spool, terms: Terms) -> _core.Unpacked:
        """See `Trees`."""
        if isinstance(blob, str):
            return _core.copy_directory(volume.fileno(), blob, listing=terms.listing, cancel=self._cancel, **self._ids)
        arguments = {**unpack_arguments(layer, terms.most), **self._ids}
        return _core.unpack(volume.fileno(), blob, listing=terms.listing, neighbours=terms.neighbours, cancel=self._cancel, **arguments)

    def verify(self, root: int, listings: list[tuple[str, int]]) -> tuple[int, int, list[str]]:
        """See `Trees`."""
        return _core.verify(root, listings, cancel=self._cancel, **self._ids)

    def close(self) -> None:
        """See `Trees`."""


def unpack_arguments(layer: Layer, most: int | None) -> dict[str, Any]:
    """What `_core.unpack` wants to know about a layer."""
    return {
        "digest": layer.digest if layer.is_verified else None,
        "size": layer.size,
        "diff_id": layer.diff_id,
        "media_type": layer.media_type,
        "base": layer.base_directory,
        "max_content": most,
    }
