"""Manifest and configuration documents: parsed, checked, joined into an `Image`."""

from __future__ import annotations

from groot_fast._core import parse_json
from groot_fast.errors import BadImage
from groot_fast.sources.image import Image, Layer, chain_ids
from groot_fast.sources.registry.digest import parse_digest

MAX_MANIFEST = 4 << 20
MAX_CONFIG = 8 << 20
MAX_LAYERS = 512
"""More layers than any builder makes; each costs a commit."""

BASE_DIRECTORY = "org.cloudfoundry.experimental.image.base-directory"

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES = (OCI_INDEX, DOCKER_LIST)


class Descriptor:
    """A reference to a blob: ``digest`` is bare hex, ``size`` is never negative."""

    __slots__ = ("annotations", "digest", "media_type", "size", "urls")

    def __init__(self, value: object, what: str) -> None:
        node = as_object(value, what)
        self.digest = parse_digest(node.get("digest")).removeprefix("sha256:")
        size = node.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise BadImage(f"{what}: invalid size {size!r}")
        self.size: int = size
        media_type = node.get("mediaType", "")
        if not isinstance(media_type, str):
            raise BadImage(f"{what}: mediaType is not a string")
        self.media_type = media_type
        self.urls = tuple(as_strings(node.get("urls"), f"{what}: urls"))
        annotations = node.get("annotations")
        self.annotations = as_object(annotations, f"{what}: annotations") if annotations is not None else {}


class Manifest:
    """An image manifest (OCI image spec; Docker image manifest version 2, schema 2)."""

    def __init__(self, body: bytes) -> None:
        """Raises BadImage."""
        node = parse_object(body, "manifest", MAX_MANIFEST)
        if node.get("schemaVersion") != 2:
            raise BadImage(
                f"unsupported manifest schema version {node.get('schemaVersion')!r}",
                hint="push the image again with a current tool; schema 1 is obsolete",
            )
        # A document that is an index to one reader and a manifest to another (CVE-2021-41190).
        if "manifests" in node or "fsLayers" in node:
            raise BadImage("ambiguous manifest: it has the fields of more than one kind of document")
        self.config = Descriptor(node.get("config"), "manifest: config")
        layers = node.get("layers")
        if not isinstance(layers, list):
            raise BadImage("manifest: layers is not a list")
        if len(layers) > MAX_LAYERS:
            raise BadImage(f"manifest: {len(layers)} layers, more than {MAX_LAYERS}")
        self.layers = [Descriptor(layer, f"manifest: layer {i}") for i, layer in enumerate(layers)]


def join_image(manifest: Manifest, config: bytes, *, validate: bool = True, path_of: PathOf | None = None) -> Image:
    """Join a manifest and its configuration. ``validate=False`` leaves out size, digest and diff id of layers (what
    ``--skip-layer-validation`` means). ``path_of`` gives the local file of a blob. Raises BadImage."""
    node = parse_object(config, "image configuration", MAX_CONFIG)
    rootfs = as_object(node.get("rootfs"), "image configuration: rootfs")
    diff_ids = [
        parse_digest(diff_id).removeprefix("sha256:") for diff_id in as_strings(rootfs.get("diff_ids"), "image configuration: diff_ids")
    ]
    if len(diff_ids) != len(manifest.layers):
        raise BadImage(f"manifest has {len(manifest.layers)} layers, image configuration has {len(diff_ids)} diff ids")
    if not diff_ids:
        raise BadImage("image has no layers")
    runtime = as_object(node.get("config") or {}, "image configuration: config")
    volumes = as_object(runtime.get("Volumes") or {}, "image configuration: Volumes")
    layers = []
    for descriptor, diff_id, chain_id in zip(manifest.layers, diff_ids, chain_ids(diff_ids), strict=True):
        base = descriptor.annotations.get(BASE_DIRECTORY, "")
        if not isinstance(base, str):
            raise BadImage(f"annotation {BASE_DIRECTORY} is not a string")
        layers.append(
            Layer(
                chain_id=chain_id,
                digest=descriptor.digest if validate else None,
                diff_id=diff_id if validate else None,
                size=descriptor.size if validate else None,
                media_type=descriptor.media_type,
                urls=descriptor.urls,
                base_directory=base,
                path=path_of(descriptor.digest) if path_of else None,
            )
        )
    return Image(layers, config, as_strings(runtime.get("Env"), "image configuration: Env"), list(volumes))


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    PathOf = Callable[[str], str]


def parse_object(body: bytes, what: str, most: int) -> dict[str, object]:
    """Parse a JSON object of bounded size. Raises BadImage."""
    if len(body) > most:
        raise BadImage(f"{what} is larger than {most} bytes")
    try:
        return as_object(parse_json(body), what)
    except ValueError as error:
        raise BadImage(f"{what} is not valid JSON: {error}") from None


def as_object(value: object, what: str) -> dict[str, object]:
    """The value if it is a JSON object. Raises BadImage."""
    if not isinstance(value, dict):
        raise BadImage(f"{what} is not an object")
    return value


def as_strings(value: object, what: str) -> list[str]:
    """The value if it is a list of strings; missing and null are empty. Raises BadImage."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadImage(f"{what} is not a list of strings")
    return value
