"""A tar file or a directory on this machine as a one-layer image (contract, section 9.2), or an archive of images."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from groot_fast._core import Cancel, Image, archive_path, fingerprint, resolve_archive, sha256
from groot_fast.errors import SourceError
from groot_fast.sources.base import Source

if TYPE_CHECKING:
    from groot_fast.config import Settings

_SCHEME = re.compile("://")
_HUB_NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
"""What may be an image's name, and looks like no file's."""


class LocalSource(Source):
    """A path. A tar file is known by its path and time, a directory by the metadata of everything in it, an image in an archive
    (``docker-archive:FILE[:NAME]``, ``oci-archive:FILE[:NAME]``, or the path of one) by its layers."""

    def __init__(self, image: str, settings: Settings, cancel: Cancel) -> None:
        self._image = image
        self._settings = settings
        self._cancel = cancel
        self.path = archive_path(image) or image

    @property
    def name(self) -> str:
        """See `Source`."""
        platform = self._settings.platform
        return f"{self._image} {platform}" if platform else self._image

    @property
    def is_slow(self) -> bool:
        """See `Source`: everything in a directory is looked at."""
        return os.path.isdir(self.path)

    def resolve(self) -> Image:
        """Look at the path; nothing is unpacked yet. Raises SourceError."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise self._lost(error) from None
        except ValueError:
            raise SourceError(f"fetching image timestamp: stat {self.path!r}: invalid path") from None
        if stat.S_ISDIR(found.st_mode) and not self._settings.rules.takes_directories:
            raise SourceError("invalid base image: directory provided instead of a tar file")
        if stat.S_ISDIR(found.st_mode) and self.path == self._image:
            self._check_beside_store()
            key = f"{os.path.abspath(self.path)}-{fingerprint(self.path, self._cancel)}"
            return Image.of_directory(sha256(os.fsencode(key)), self.path)
        archived = resolve_archive(self._image, self._settings.platform, not self._settings.skip_layer_validation)
        if archived is not None:
            return archived
        try:
            return Image.of_tar(self.path)
        except OSError as error:
            raise self._lost(error) from None

    def _check_beside_store(self) -> None:
        """A copy of a directory with the store in it would hold itself."""
        source, store = os.path.realpath(self.path), os.path.realpath(self._settings.store)
        if os.path.commonpath([source, store]) == source:
            raise SourceError(f"{self.path} holds the store {self._settings.store}", hint="take a directory beside the store")

    def _lost(self, error: OSError) -> SourceError:
        reason = (error.strerror or "error").lower()
        return SourceError(f"fetching image timestamp: stat {self.path}: {reason}", hint=_hint(self.path))


def _hint(path: str) -> str | None:
    """The cure for a path that is the name of an image elsewhere, without its scheme or with half of it."""
    scheme, colon, rest = path.partition(":")
    if colon and scheme == "oci" and rest.startswith("/"):
        return f"an OCI layout is written oci://{rest}"
    name = rest.lstrip("/") if colon and scheme == "docker" else path
    if "@" in name.split("/", 1)[0] or path.startswith(("/", ".")) or not name or _SCHEME.search(name):
        return None
    host, slash, _ = name.partition("/")
    if slash and (name != path or "." in host or ":" in host or host == "localhost"):
        return f"for an image in a registry write docker://{name}"
    if not slash and (name != path or _HUB_NAME.fullmatch(name)):
        return f"for an image of Docker Hub write docker:///{name}"
    return None
