"""What a fetched document is, and which entry of an index is for this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ...errors import BadImage
from .digest import parse_digest
from .document import MAX_BYTES, parse_document
from .options import Platform

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST))

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
# what plain file servers say; the document must then speak for itself
_UNTYPED = frozenset({"", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain"})
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")


class Kind(Enum):
    """The two shapes of documents we follow."""

    MANIFEST = "manifest"
    INDEX = "index"


_KINDS = {
    OCI_MANIFEST: Kind.MANIFEST,
    DOCKER_MANIFEST: Kind.MANIFEST,
    OCI_INDEX: Kind.INDEX,
    DOCKER_LIST: Kind.INDEX,
}


@dataclass(frozen=True, slots=True)
class ManifestDocument:
    """An image manifest, exactly as served; ``digest`` is that of ``body``."""

    body: bytes = field(repr=False)
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class Child:
    """An index's entry."""

    digest: str
    size: int
    media_type: str
    platform: Platform | None


def classify(body: bytes, content_type: str) -> tuple[Kind, str, dict[str, object]]:
    """Kind, media type and content of a document served as ``content_type``.

    Raises `BadImage` when header, `mediaType` and shape do not all say the same thing (CVE-2021-41190: two clients
    must not see two images under one digest), and for schema 1.
    """
    document = parse_document(body, "manifest")
    served = content_type.split(";", 1)[0].strip().lower()
    declared = document.get("mediaType", "")
    if not isinstance(declared, str):
        raise BadImage("manifest has a mediaType that is not text")
    if served.startswith(_SCHEMA_1) or declared.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        raise BadImage(
            "schema 1 manifests are not supported",
            hint="pull and push the image again with a current docker or skopeo, which writes schema 2",
        )
    if type(document.get("schemaVersion")) is not int or document["schemaVersion"] != 2:
        raise BadImage("manifest has no schemaVersion 2")
    shape = _shape(document)
    by_shape = OCI_MANIFEST if shape is Kind.MANIFEST else OCI_INDEX
    media_type = declared or by_shape if served in _UNTYPED else served
    kind = _KINDS.get(media_type)
    if kind is None:
        raise BadImage(f"unknown media type {media_type[:128]!a}")
    if declared and declared != media_type:
        raise BadImage(f"ambiguous manifest: served as {media_type} but its mediaType is {declared[:128]!a}")
    if kind is not shape:
        raise BadImage(f"ambiguous manifest: {media_type} with the content of an image {shape.value}")
    return kind, media_type, document


def _shape(document: dict[str, object]) -> Kind:
    image = document.keys() & {"config", "layers"}
    if "fsLayers" in document or "history" in document:
        raise BadImage("ambiguous manifest: it has the content of schema 1 too")
    if "manifests" in document:
        if image:
            raise BadImage("ambiguous manifest: it has the content of both an image manifest and an index")
        return Kind.INDEX
    if len(image) != 2:
        raise BadImage("manifest has neither config and layers nor manifests")
    return Kind.MANIFEST


def choose(index: dict[str, object], wanted: Platform) -> Child:
    """The entry for ``wanted``: same variant, else one without variant, else the best older one.

    Raises `BadImage`, whose hint lists what exists. An entry that is itself an index and names no platform is taken
    when nothing else fits.
    """
    entries = index["manifests"]
    if not isinstance(entries, list) or len(entries) > 1024:
        raise BadImage("index has no usable list of manifests")
    children = [_child(entry) for entry in entries]
    usable = [child for child in children if child.media_type in _KINDS]
    ranked: list[tuple[int, Child]] = []
    for child in usable:
        if child.platform is None:
            if _KINDS[child.media_type] is Kind.INDEX:
                ranked.append((1000, child))
        elif child.platform[:2] == wanted[:2]:
            rank = _variant_rank(child.platform.variant, wanted)
            if rank is not None:
                ranked.append((rank, child))
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]  # min keeps the first of equals: the index's own order
    exist = sorted({ascii(str(child.platform))[1:-1] for child in usable if child.platform})
    variant = f", variant {wanted.variant}" if wanted.variant else ""
    raise BadImage(
        f"no image found in manifest list for architecture {wanted.architecture}{variant}, OS {wanted.os}",
        hint=f"the list holds: {', '.join(exist[:32]) or 'no image with a platform'}",
    )


def _variant_rank(offered: str | None, wanted: Platform) -> int | None:
    """Smaller is better, None is unusable."""
    variant = wanted.variant
    if wanted.architecture == "arm64":
        offered, variant = offered or "v8", variant or "v8"  # v8 is the only one there is until somebody writes v9
    if offered == variant:
        return 0
    if offered is None:
        return 1
    if variant is None:
        return 2
    if wanted.architecture == "arm" and offered in _ARM_VARIANTS and variant in _ARM_VARIANTS:
        older = _ARM_VARIANTS.index(offered) - _ARM_VARIANTS.index(variant)
        return 2 + older if older > 0 else None
    return None


def _child(entry: object) -> Child:
    if not isinstance(entry, dict):
        raise BadImage("index has an entry that is not an object")
    size, media_type, platform = entry.get("size"), entry.get("mediaType"), entry.get("platform")
    if type(size) is not int or not 0 <= size <= MAX_BYTES:
        raise BadImage("index has an entry with an invalid size")
    if not isinstance(media_type, str):
        raise BadImage("index has an entry without mediaType")
    return Child(parse_digest(entry.get("digest")), size, media_type, _platform(platform))


def _platform(value: object) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadImage("index has a platform that is not an object")
    parts = [value.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) for part in parts):
        raise BadImage("index has a platform that is not text")
    return Platform(str(parts[0]), str(parts[1]), str(parts[2]) or None)
