"""Work on trees by a user who is root over its subordinate ids inside a user namespace alone."""

from __future__ import annotations

import os
import threading
from typing import Any

from groot_fast import _core
from groot_fast._core import Blob, Layer
from groot_fast.config import Settings
from groot_fast.idmap.namespace import Namespace
from groot_fast.idmap.trees import Terms, unpack_arguments


class Namespaced:
    """Done by a child inside a user namespace, started when it is first needed.

    Making and deleting snapshots needs no namespace as long as the root directory of the subvolume is ours, which is
    almost always so; the core asks for `snapshot` and `remove` only after the kernel has refused them outside. See `Trees` for
    the others.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: _core.Store | None = None
        self._started: Namespace | None = None

    def serve(self, store: _core.Store) -> None:
        """Work on this store from now on: only when it is open its mappings are known."""
        self._store = store

    @property
    def _namespace(self) -> Namespace:
        if self._started is None:
            assert self._store is not None
            self._started = Namespace(self._store.uids, self._store.gids, self._settings)
        return self._started

    def unpack(self, volume: _core.Volume, layer: Layer, blob: str | Blob | _core.Spool, terms: Terms) -> _core.Unpacked:
        """See `Trees`. The child gets everything by descriptors: it may not be able to open the file."""
        try:
            return self._unpack(volume, layer, blob, terms)
        except BaseException:
            # A child that was stopped was killed, and may have been writing this record.
            parts = terms.listing.parts()
            if parts is not None:
                scratch, temporary = parts[1]
                try:
                    os.unlink(temporary, dir_fd=scratch)
                except OSError:
                    pass
            raise

    def _unpack(self, volume: _core.Volume, layer: Layer, blob: str | Blob | _core.Spool, terms: Terms) -> _core.Unpacked:
        if isinstance(blob, str):
            return self._namespace.copy_directory(volume.fileno(), blob, terms.listing)
        if isinstance(blob, Blob):
            arguments = {**unpack_arguments(layer, terms.most), "length": blob.length}
            return self._namespace.unpack(volume.fileno(), blob.fileno(), terms, arguments)
        return self._unpack_growing(volume.fileno(), blob, terms, unpack_arguments(layer, terms.most))

    def verify(self, root: int, listings: list[tuple[str, int]]) -> tuple[int, int, list[str]]:
        """See `Trees`."""
        return self._namespace.verify(root, listings)

    def _unpack_growing(self, root: int, blob: _core.Spool, terms: Terms, arguments: dict[str, Any]) -> _core.Unpacked:
        read, write = os.pipe2(os.O_CLOEXEC)
        cancel = _core.Cancel()

        def pump() -> None:
            try:
                blob.copy_to(write, cancel)
            except Exception:
                pass
            finally:
                os.close(write)

        thread = threading.Thread(target=pump, name="pump", daemon=True)
        thread.start()
        try:
            return self._namespace.unpack(root, read, terms, arguments)
        finally:
            # It may be waiting for bytes that do not come.
            cancel.set()
            os.close(read)
            thread.join()

    def snapshot(self, source: int, parent: int, name: str, limit: tuple[int, bool] | None) -> None:
        """For the core: snapshot a tree, given by descriptors."""
        self._namespace.snapshot(source, parent, name, limit)

    def copy(self, root: int, path: str, target: int) -> bool:
        """For the core: copy the directory at ``path`` in a tree into another directory; False if there is none."""
        return self._namespace.copy(root, path, target)

    def remove(self, parent: int, name: str) -> list[int]:
        """For the core: remove what is called ``name`` in a directory; gives the numbers of the subvolumes that went."""
        return self._namespace.remove(parent, name)

    def close(self) -> None:
        """See `Trees`."""
        if self._started is not None:
            self._started.close()
