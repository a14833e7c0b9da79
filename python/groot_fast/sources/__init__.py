"""Where images come from: registry, OCI layout, tar file, directory.

``open_source`` picks a `Source` by the form of the argument (contract, section 9.1).

base.py the interface, oci.py, local.py, docker.py and the client below registry/. What an image is, the core knows
(``rust/image``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from groot_fast._core import archive_path
from groot_fast.errors import SourceError

if TYPE_CHECKING:
    from groot_fast._core import Cancel
    from groot_fast.config import Settings
    from groot_fast.sources.base import Source
    from groot_fast.telemetry.lager import Logger


def open_source(image: str, settings: Settings, cancel: Cancel, log: Logger) -> Source:
    """The source for an image argument. Raises SourceError for what cannot be understood; does no I/O."""
    scheme, separator, _ = image.partition("://")
    if not separator or archive_path(image) is not None:
        from groot_fast.sources.local import LocalSource

        return LocalSource(image, settings, cancel)
    if scheme == "oci":
        from groot_fast.sources.oci import OciSource

        return OciSource(image, settings)
    if scheme == "docker":
        from groot_fast.sources.docker import DockerSource

        return DockerSource(image, settings, log)
    if scheme.lower() in ("http", "https"):
        hint = "an image in a registry is written docker://host/name:tag"
        raise SourceError(f"unsupported image source: {scheme}://", hint=hint)
    raise SourceError(
        f"unsupported image source: {scheme}://",
        hint="use docker://host/name:tag, oci:///directory:tag, docker-archive:FILE, oci-archive:FILE, or a path",
    )
