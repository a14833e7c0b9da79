"""OCI image layouts on disk (contract, section 9.4; OCI image spec, "Image Layout").

Only ``index.json`` and ``blobs/`` are read; the marker file is not required. As in the original, the descriptor of a
manifest in the index is not held against the manifest's bytes, unless the caller asks for that digest.
"""

from __future__ import annotations

from groot_fast import files
from groot_fast._core import sha256
from groot_fast.errors import BadImage, SourceError
from groot_fast.sources.base import Source
from groot_fast.sources.image import Image
from groot_fast.sources.manifest import (
    INDEXES,
    MAX_CONFIG,
    MAX_MANIFEST,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    as_object,
    join_image,
    parse_object,
)
from groot_fast.sources.registry.digest import parse_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast._core import Store
    from groot_fast.config import Settings
    from groot_fast.pull.blobs import Blobs
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics
    from groot_fast.telemetry.progress import Listener

PREFIX = "fetching image reference: creating image: "
REF_NAME = "org.opencontainers.image.ref.name"


class OciSource(Source):
    """``oci:///absolute/directory[:tag|@digest]``."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        path = unquote(url, url.removeprefix("oci://").split("?")[0].split("#")[0])
        path, at, digest = path.partition("@")
        if not at:
            path, _, self.tag = path.partition(":")
        else:
            self.tag = ""
        self.digest = parse_digest(digest).removeprefix("sha256:") if at else ""
        self.path = "/" + path.strip("/")
        self._image: Image
        self._settings = settings

    @property
    def name(self) -> str:
        """See `Source`."""
        return self._url

    def resolve(self) -> Image:
        """Read index, manifest and configuration. Raises SourceError, BadImage."""
        manifest = Manifest(self._manifest())
        config = self._read_blob(manifest.config.digest, MAX_CONFIG)
        actual = sha256(config)
        if actual != manifest.config.digest:
            raise BadImage(f"{PREFIX}config digest mismatch: expected: {manifest.config.digest}, actual: {actual}")
        self._image = join_image(manifest, config, validate=not self._settings.skip_layer_validation, path_of=self._blob_path)
        return self._image

    def blobs(self, store: Store, log: Logger, progress: Listener, metrics: Metrics) -> Blobs:
        """Files of the layout; layers that it only names by URL come over the network."""
        if all(files.exists(layer.path or "") or not layer.urls for layer in self._image.layers):
            return super().blobs(store, log, progress, metrics)
        from groot_fast.pull.remote_layers import RemoteLayers

        return RemoteLayers(store, self._settings, log, progress, metrics)

    def _manifest(self) -> bytes:
        if self.digest:
            body = self._read_blob(self.digest, MAX_MANIFEST)
            if sha256(body) != self.digest:
                raise BadImage(f"{PREFIX}manifest digest mismatch: expected: {self.digest}, actual: {sha256(body)}")
            return body
        entry = Descriptor(self._choose(), "index entry")
        body = self._read_blob(entry.digest, MAX_MANIFEST)
        if entry.media_type not in INDEXES:
            return body
        from groot_fast.sources.registry.manifest import choose
        from groot_fast.sources.registry.options import Platform

        nested = parse_object(body, "index", MAX_MANIFEST)
        child = choose(nested, Platform.of_this_machine())
        return self._read_blob(child.digest.removeprefix("sha256:"), MAX_MANIFEST)

    def _choose(self) -> object:
        index = parse_object(self._read(f"{self.path}/index.json", MAX_MANIFEST), "index.json", MAX_MANIFEST)
        entries = index.get("manifests")
        if not isinstance(entries, list):
            raise BadImage("index.json: manifests is not a list")
        if not self.tag:
            if len(entries) != 1:
                raise SourceError(f"{PREFIX}more than one image in oci, choose an image", hint="add `:<tag>` to the image")
            return entries[0]
        for entry in entries:
            node = as_object(entry, "index entry")
            names = node.get("annotations")
            if not isinstance(names, dict) or names.get(REF_NAME) != self.tag:
                continue
            if node.get("mediaType", OCI_MANIFEST) in (OCI_MANIFEST, *INDEXES):
                return node
        raise SourceError(f'{PREFIX}creating image source: no descriptor found for reference "{self.tag}"')

    def _blob_path(self, digest: str) -> str:
        return f"{self.path}/blobs/sha256/{digest}"

    def _read_blob(self, digest: str, most: int) -> bytes:
        return self._read(self._blob_path(digest), most)

    def _read(self, path: str, most: int) -> bytes:
        try:
            body = files.read(path, most + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceError("Image source doesn't exist", hint=f"{path} is missing") from None
        except OSError as error:
            raise SourceError(f"{PREFIX}open {path}: {(error.strerror or 'error').lower()}") from None
        if len(body) > most:
            raise BadImage(f"{path.rpartition('/')[2]} is larger than {most} bytes")
        return body


def unquote(url: str, path: str) -> str:
    """Decode the escapes of a URL's path. Raises SourceError with Go's text."""
    if "%" not in path:
        return path
    head, *parts = files.encode(path).split(b"%")
    decoded = bytearray(head)
    for part in parts:
        try:
            decoded += bytes.fromhex(part[:2].decode("ascii")) + part[2:]
            if len(part) < 2:
                raise ValueError
        except (ValueError, UnicodeDecodeError):
            bad = "%" + part[:2].decode("utf-8", "replace")
            raise SourceError(f'parse "{url}": invalid URL escape "{bad}"') from None
    return files.decode(bytes(decoded))
