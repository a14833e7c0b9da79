"""A tar file or a directory on this machine as a one-layer image (contract, section 9.2)."""

from __future__ import annotations

import os
import stat

from groot_fast._core import Cancel, fingerprint, sha256
from groot_fast.errors import SourceError
from groot_fast.sources.base import Source
from groot_fast.sources.image import Image, Layer


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
            raise SourceError(f"fetching image timestamp: stat {self.path}: {reason}", hint=_hint(self.path)) from None
        except ValueError:
            raise SourceError(f"fetching image timestamp: stat {self.path!r}: invalid path") from None
        if stat.S_ISDIR(found.st_mode):
            key = f"{os.path.abspath(self.path)}-{fingerprint(self.path, self._cancel)}"
        else:
            key = f"{self.path}-{found.st_mtime_ns}"
        return Image([Layer(chain_id=sha256(os.fsencode(key)), path=self.path)])


def _hint(path: str) -> str | None:
    """The cure for a path that is the name of an image in a registry without its scheme."""
    name = path.removeprefix("docker:").lstrip("/") if path.startswith("docker:") else path
    host = name.split("/", 1)[0]
    if "@" in host or "/" not in name or path.startswith(("/", ".")) or not (name != path or "." in host or ":" in host):
        return None
    return f"for an image in a registry write docker://{name}"
