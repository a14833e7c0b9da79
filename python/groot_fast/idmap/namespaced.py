"""Operations on trees by a user who is root over its subordinate ids inside a user namespace alone."""

from __future__ import annotations

import errno
import posix

from groot_fast import _core
from groot_fast.idmap.operations import delete_with_nested, remove_directory, unpack_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from groot_fast._core import Layer
    from groot_fast.config import Settings
    from groot_fast.idmap import Mappings
    from groot_fast.idmap.namespace import Namespace


class Namespaced:
    """Done by a child inside a user namespace, started when it is first needed.

    Making and deleting snapshots needs no namespace as long as the root directory of the subvolume is ours, which is
    almost always so; a warm create starts no child.
    """

    def __init__(self, mappings: Mappings, settings: Settings) -> None:
        self._mappings = mappings
        self._settings = settings
        self._started: Namespace | None = None

    @property
    def _namespace(self) -> Namespace:
        if self._started is None:
            from groot_fast.idmap.namespace import Namespace

            self._started = Namespace(self._mappings, self._settings)
        return self._started

    def unpack(self, path: str, layer: Layer, blob: str | _core.Blob | _core.Spool, listing: _core.Listing) -> _core.Unpacked:
        """See `Operations`. The child gets the bytes through a descriptor: it may not be able to open the file."""
        try:
            return self._unpack(path, layer, blob, listing)
        except BaseException:
            # A child that was stopped was killed, and may have been writing this record.
            try:
                posix.unlink(listing[1])
            except OSError:
                pass
            raise

    def _unpack(self, path: str, layer: Layer, blob: str | _core.Blob | _core.Spool, listing: _core.Listing) -> _core.Unpacked:
        if isinstance(blob, str):
            return self._namespace.copy_directory(path, blob, listing)
        if isinstance(blob, _core.Blob):
            return self._namespace.unpack(path, blob.fileno(), {**unpack_arguments(layer, listing), "length": blob.length})
        return self._unpack_growing(path, blob, unpack_arguments(layer, listing))

    def verify(self, path: str, listings: list[str]) -> tuple[int, int, list[str]]:
        """See `Operations`."""
        return self._namespace.verify(path, listings)

    def _unpack_growing(self, path: str, blob: _core.Spool, arguments: dict[str, Any]) -> _core.Unpacked:
        import threading

        read, write = posix.pipe2(posix.O_CLOEXEC)

        def pump() -> None:
            try:
                blob.copy_to(write)
            except Exception:
                pass
            finally:
                posix.close(write)

        thread = threading.Thread(target=pump, name="pump", daemon=True)
        thread.start()
        try:
            return self._namespace.unpack(path, read, arguments)
        finally:
            posix.close(read)
            thread.join()

    def snapshot(self, source: str, path: str, limit: int | None, exclusive: bool) -> None:
        """See `Operations`."""
        try:
            _core.snapshot(source, path, limit=limit, exclusive=exclusive)
        except PermissionError:
            if posix.stat(source).st_uid == posix.geteuid():
                raise
            self._namespace.snapshot(source, path, limit, exclusive)

    def delete_subvolume(self, path: str) -> list[int]:
        """See `Operations`."""
        try:
            return delete_with_nested(path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise
            return self._namespace.delete_subvolume(path)

    def remove_tree(self, path: str) -> None:
        """See `Operations`."""
        try:
            remove_directory(path)
        except PermissionError:
            self._namespace.remove_tree(path)

    def close(self) -> None:
        """See `Operations`."""
        if self._started is not None:
            self._started.close()
