"""Operations on trees whose files may belong to any id of the store.

Two implementations of one set of operations: `Direct` for root, who may do anything and translates ids itself, and
`Namespaced` (`namespaced.py`) for the store's owner, who is root over its subordinate ids only inside a user namespace. Which
one it is depends on the caller alone and is decided once; nothing else in the package asks.
"""

from __future__ import annotations

import posix

from groot_fast import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from groot_fast._core import Layer
    from groot_fast.config import Settings
    from groot_fast.idmap import Mappings

    class Operations(Protocol):
        """What a driver needs done to trees."""

        def unpack(self, path: str, layer: Layer, blob: str | _core.Blob | _core.Spool, listing: _core.Listing) -> _core.Unpacked:
            """Unpack a layer (or copy a directory) into ``path``. Raises BadLayer and its kin, OSError."""

        def verify(self, path: str, listings: list[str]) -> tuple[int, int, list[str]]:
            """Hold a volume against its listings (`_core.verify`)."""

        def snapshot(self, source: str, path: str, limit: int | None, exclusive: bool) -> None:
            """Snapshot a subvolume. Raises OSError."""

        def delete_subvolume(self, path: str) -> list[int]:
            """Delete a subvolume with those in it; gives their ids. Missing is fine. Raises OSError."""

        def remove_tree(self, path: str) -> None:
            """Remove an ordinary directory with all in it. Raises OSError."""

        def close(self) -> None:
            """End helper processes."""


def open_operations(mappings: Mappings, settings: Settings, cancel: _core.Cancel) -> Operations:
    """The operations for this caller."""
    if posix.geteuid() == 0 or not mappings:
        return Direct(mappings, cancel)
    from groot_fast.idmap.namespaced import Namespaced

    return Namespaced(mappings, settings)


def delete_with_nested(path: str) -> list[int]:
    """Delete a subvolume with those in it; gives their ids. Missing is fine. Raises OSError."""
    try:
        ids = _core.subvolume_ids(path)
    except FileNotFoundError:
        return []
    _core.delete_subvolume(path)
    return ids


def remove_directory(path: str) -> None:
    """Remove an ordinary directory with all in it. Raises OSError."""
    if posix.listdir(path):
        import shutil

        shutil.rmtree(path)
    else:
        posix.rmdir(path)


class Direct:
    """Done by this process, with ids translated by arithmetic."""

    def __init__(self, mappings: Mappings, cancel: _core.Cancel) -> None:
        self._uids, self._gids = mappings.ranges()
        self._cancel = cancel

    def unpack(self, path: str, layer: Layer, blob: str | _core.Blob | _core.Spool, listing: _core.Listing) -> _core.Unpacked:
        """See `Operations`."""
        if isinstance(blob, str):
            return _core.copy_directory(path, blob, uids=self._uids, gids=self._gids, listing=listing, cancel=self._cancel)
        arguments = unpack_arguments(layer, listing)
        return _core.unpack(path, blob, **arguments, uids=self._uids, gids=self._gids, cancel=self._cancel)

    def verify(self, path: str, listings: list[str]) -> tuple[int, int, list[str]]:
        """See `Operations`."""
        return _core.verify(path, [*listings], uids=self._uids, gids=self._gids, cancel=self._cancel)

    def snapshot(self, source: str, path: str, limit: int | None, exclusive: bool) -> None:
        """See `Operations`."""
        _core.snapshot(source, path, limit=limit, exclusive=exclusive)

    def delete_subvolume(self, path: str) -> list[int]:
        """See `Operations`."""
        return delete_with_nested(path)

    def remove_tree(self, path: str) -> None:
        """See `Operations`."""
        remove_directory(path)

    def close(self) -> None:
        """See `Operations`."""


def unpack_arguments(layer: Layer, listing: _core.Listing) -> dict[str, Any]:
    """What `_core.unpack` wants to know about a layer."""
    return {
        "digest": layer.digest,
        "size": layer.size,
        "diff_id": layer.diff_id,
        "media_type": layer.media_type,
        "base": layer.base_directory,
        "max_content": None,
        "listing": listing,
    }
