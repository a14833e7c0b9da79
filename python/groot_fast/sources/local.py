"""A tar file or a directory on this machine as a one-layer image (contract, section 9.2)."""

from __future__ import annotations

import os
import stat

from groot_fast._core import Cancel, Image, fingerprint, sha256
from groot_fast.errors import SourceError
from groot_fast.sources.base import Source


class LocalSource(Source):
    """A path. A tar file is known by its path and time, a directory by the metadata of everything in it."""

    def __init__(self, path: str, cancel: Cancel) -> None:
        self.path = path
        self._cancel = cancel

    @property
    def name(self) -> str:
        """See `Source`."""
        return self.path

    @property
    def is_slow(self) -> bool:
        """See `Source`: everything in a directory is looked at."""
        return os.path.isdir(self.path)

    def resolve(self) -> Image:
        """Look at the path; nothing is unpacked yet. Raises SourceError."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            reason = (error.strerror or "error").lower()
            raise SourceError(f"fetching image timestamp: stat {self.path}: {reason}") from None
        except ValueError:
            raise SourceError(f"fetching image timestamp: stat {self.path!r}: invalid path") from None
        if stat.S_ISDIR(found.st_mode):
            key = f"{os.path.abspath(self.path)}-{fingerprint(self.path, self._cancel)}"
            return Image.of_directory(sha256(os.fsencode(key)), self.path)
        return Image.of_file(sha256(os.fsencode(f"{self.path}-{found.st_mtime_ns}")), self.path)
