"""The small files below ``meta/``: what an image is made of, how large a volume is, which name gave which volumes.

One damaged record never stops anything: it reads as missing, and `clean` goes on.
"""

from __future__ import annotations

import posix

from groot_fast import files
from groot_fast._core import Image, Layer, chain_ids, format_json, parse_json, sha256, write_record
from groot_fast.errors import SourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from groot_fast._core import Listing
    from groot_fast.store.layout import Store

MAX_RECORD = 1 << 20
DEPENDENCIES = "meta/dependencies"
SOURCES = "meta/sources"
SIZE = "volume-"
LISTING = "listing-"
HEAD = 256
"""Bytes of a listing's first line, at most."""


def _write(store: Store, path: str, value: object, *, end: str = "") -> None:
    data = (format_json(value) + end).encode()
    write_record(path, store.temporary("record"), data, mode=0o644, owner=store.owner)


def read(path: str) -> object:
    """The JSON in a record; None where there is no usable one."""
    data = _read_bytes(path)
    return None if data is None else _parse(data)


def _read_bytes(path: str, most: int = MAX_RECORD) -> bytes | None:
    """The start of a record, ``most`` bytes of it; None where it cannot be read."""
    try:
        # Neither a pipe under the name of a record may hold us, nor a link lead us elsewhere.
        return files.read(path, most, posix.O_NOFOLLOW | posix.O_NONBLOCK)
    except OSError:
        return None


def _parse(data: bytes) -> object:
    try:
        return parse_json(data)
    except ValueError:
        return None


def _remove(path: str) -> None:
    """Remove a record. Missing is fine, and so is something that is none."""
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        try:
            posix.rmdir(path)
        except OSError:
            pass


def _strings(value: object) -> list[str] | None:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None


# -- images ------------------------------------------------------------------


def dependency_path(store: Store, image_id: str) -> str:
    """The file with the volumes of an image."""
    return store.folder(f"{DEPENDENCIES}/image:{image_id}.json")


def write_dependencies(store: Store, image_id: str, chain_ids: list[str]) -> None:
    """Record the volumes of an image, bottom to top (contract, section 11.3)."""
    _write(store, dependency_path(store, image_id), chain_ids)


def read_dependencies(store: Store, image_id: str) -> list[str] | None:
    """The volumes of an image; None where there is no usable record."""
    return _strings(read(dependency_path(store, image_id)))


def configured_volumes(store: Store, image_id: str) -> list[str] | None:
    """The volumes of an image as its configuration names them; None where it does not say any."""
    document: Any = read(f"{store.image(image_id)}/image.json")
    try:
        return chain_ids(document["rootfs"]["diff_ids"])
    except (LookupError, TypeError, SourceError):
        return None


def remove_dependencies(store: Store, image_id: str) -> None:
    """Forget the volumes of an image. Missing is fine."""
    _remove(dependency_path(store, image_id))


def recorded_images(store: Store) -> list[str]:
    """Ids of all images that have a record."""
    images = map(recorded_image, posix.listdir(store.folder(DEPENDENCIES)))
    return [image_id for image_id in images if image_id is not None]


def recorded_image(name: str) -> str | None:
    """Id of the image whose record has this name; None where it is the name of something else."""
    if name.startswith("image:") and name.endswith(".json"):
        return name[len("image:") : -len(".json")]
    return None


class Dependencies:
    """The records of all images, kept up to date. A record is replaced, never changed, and BTRFS gives no inode number twice,
    so each inode is read once. A cell runs thousands of images of a few stacks: each stack is parsed once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, bytes] = {}
        self._parsed: dict[bytes, list[str]] = {}

    def volumes(self) -> set[str]:
        """Volumes that the records name now, and for an image whose record cannot be used its configuration. Where that says
        nothing either, the image uses nothing: its tree does not depend on its volumes, so the worst is that they are pulled
        again (contract, defect 15). Raises OSError."""
        known: dict[int, bytes] = {}
        with posix.scandir(self._store.folder(DEPENDENCIES)) as entries:
            for entry in entries:
                image_id = recorded_image(entry.name)
                if image_id is not None:
                    inode = entry.inode()
                    known[inode] = self._known[inode] if inode in self._known else self._stack(image_id, entry.path)
        self._known = known
        return {chain_id for data in set(known.values()) for chain_id in self._parsed[data]}

    def _stack(self, image_id: str, path: str) -> bytes:
        """What an image's record holds, or what it should hold; a key of ``_parsed``."""
        data = _read_bytes(path) or b""
        if data not in self._parsed:
            volumes = _strings(_parse(data))
            if volumes is None:
                volumes = configured_volumes(self._store, image_id) or []
                data = format_json(volumes).encode()
            self._parsed[data] = volumes
        return data


# -- volumes -----------------------------------------------------------------


class VolumeSize:
    """Bytes of file content: of the layer itself, and of the whole tree in its volume."""

    __slots__ = ("layer", "tree")

    def __init__(self, layer: int, tree: int | None) -> None:
        self.layer = layer
        self.tree = tree


def size_path(store: Store, chain_id: str) -> str:
    """The file with a volume's size."""
    return store.folder(f"meta/{SIZE}{chain_id}")


def write_size(store: Store, chain_id: str, size: VolumeSize) -> None:
    """Record the size of a volume."""
    value = {"Size": size.layer} if size.tree is None else {"Size": size.layer, "TreeSize": size.tree}
    _write(store, size_path(store, chain_id), value, end="\n")


def read_size(store: Store, chain_id: str) -> VolumeSize | None:
    """The size of a volume; None where there is no usable record. ``tree`` is None in records of the original."""
    value = read(size_path(store, chain_id))
    if not isinstance(value, dict):
        return None
    layer, tree = value.get("Size"), value.get("TreeSize")
    if not isinstance(layer, int) or layer < 0:
        return None
    return VolumeSize(layer, tree if isinstance(tree, int) and tree >= 0 else None)


def tree_size(store: Store, chain_ids: list[str]) -> int:
    """Bytes of all files in an image. Where the original made the top volume, the sum of its layers (an upper bound)."""
    top = read_size(store, chain_ids[-1]) if chain_ids else None
    if top is not None and top.tree is not None:
        return top.tree
    sizes = [read_size(store, chain_id) for chain_id in chain_ids]
    return sum(size.layer for size in sizes if size is not None)


def listing_path(store: Store, chain_id: str) -> str:
    """The file with the listing of what a layer did (``rust/core/src/listing.rs``)."""
    return store.folder(f"meta/{LISTING}{chain_id}")


class ListingHead:
    """First line of a listing: its id, and chain id and listing's id of what its volume was built on (None for nothing)."""

    __slots__ = ("ident", "parent", "parent_ident")

    def __init__(self, ident: str, parent: str | None, parent_ident: str | None) -> None:
        self.ident = ident
        self.parent = parent
        self.parent_ident = parent_ident


def read_listing_head(store: Store, chain_id: str) -> ListingHead | None:
    """The head of a volume's listing; None where there is no usable one."""
    data = _read_bytes(listing_path(store, chain_id), HEAD)
    if data is None:
        return None
    head, end, _ = data.partition(b"\n")
    parts = head.decode("ascii", "replace").split(" ")
    if not end or len(parts) != 5 or parts[:2] != ["groot-listing", "1"]:
        return None
    ident, parent, parent_ident = parts[2:]
    if set("".join(parts[2:])) - set("0123456789abcdef-"):
        return None  # no name for a volume
    return ListingHead(ident, None if parent == "-" else parent, None if parent_ident == "-" else parent_ident)


def new_listing(store: Store, chain_id: str, below: str | None) -> Listing:
    """Where the core is to write the listing of a layer that is unpacked over the volume ``below``."""
    head = read_listing_head(store, below) if below is not None else None
    parent = f"{below or '-'} {head.ident if head is not None else '-'}"
    return (listing_path(store, chain_id), store.temporary("record"), store.owner, parent)


def remove_volume(store: Store, chain_id: str) -> None:
    """Forget size and content of a volume. Missing is fine."""
    for path in (size_path(store, chain_id), listing_path(store, chain_id)):
        _remove(path)


def recorded_volume(name: str) -> str | None:
    """Chain id of the volume whose record has this name; None where it is the name of something else."""
    for kind in (SIZE, LISTING):
        if name.startswith(kind):
            return name.removeprefix(kind)
    return None


def prune_volumes(store: Store, volumes: set[str]) -> None:
    """Drop the records of volumes that are gone. Only while nobody builds any: the records come before the volume."""
    for name in posix.listdir(store.folder("meta")):
        chain_id = recorded_volume(name)
        if chain_id is not None and chain_id not in volumes:
            remove_volume(store, chain_id)


# -- names of images -----------------------------------------------------------


def _source_path(store: Store, image: str) -> str:
    return store.folder(f"{SOURCES}/{sha256(files.encode(image))}.json")


def write_source(store: Store, name: str, image: Image) -> None:
    """Record what an image name stood for, unless that is what the record already says.

    For `clean --ignore-image`, and for pulls that need not ask the registry. It need not be there after a crash.
    """
    path = _source_path(store, name)
    value = {
        "image": name,
        "volumes": image.chain_ids,
        "compressed": image.compressed_size,
        "config": image.config.decode("utf-8", "replace") if len(image.config) <= MAX_RECORD // 4 else None,
        "env": image.env,
        "declared": image.volumes,
    }
    if read(path) == value:
        return
    folder = store.folder(SOURCES)
    if not files.is_directory(folder):
        try:
            store.make_directory(folder, 0o755)
        except FileExistsError:
            pass
    _write(store, path, value)


def read_source(store: Store, name: str) -> list[str]:
    """The volumes an image name stood for when it was last created."""
    value = read(_source_path(store, name))
    return (_strings(value.get("volumes")) or []) if isinstance(value, dict) else []


def recall_image(store: Store, name: str) -> Image | None:
    """The image a name stood for when it was last created, as far as it can be used without its source: its layers have
    names and no bytes. None where the record does not say everything."""
    value = read(_source_path(store, name))
    if not isinstance(value, dict) or value.get("image") != name:
        return None
    volumes, env, declared = (_strings(value.get(key)) for key in ("volumes", "env", "declared"))
    config, compressed = value.get("config"), value.get("compressed")
    if not volumes or env is None or declared is None or not isinstance(config, str) or not isinstance(compressed, int):
        return None
    layers = [Layer(chain_id=chain_id, size=0) for chain_id in volumes[:-1]]
    return Image([*layers, Layer(chain_id=volumes[-1], size=compressed)], config.encode(), env, declared)


def damaged_sources(store: Store) -> list[str]:
    """Paths below ``meta/sources`` that are no such record."""
    try:
        names = sorted(posix.listdir(store.folder(SOURCES)))
    except FileNotFoundError:
        return []
    paths = [store.folder(f"{SOURCES}/{name}") for name in names]
    return [path for path in paths if not _is_source(path) and files.is_present(path)]


def _is_source(path: str) -> bool:
    value = read(path)
    return isinstance(value, dict) and isinstance(value.get("image"), str) and _strings(value.get("volumes")) is not None


def prune_sources(store: Store, volumes: set[str]) -> None:
    """Drop the records of names none of whose volumes exist any more."""
    try:
        names = posix.listdir(store.folder(SOURCES))
    except FileNotFoundError:
        return
    for name in names:
        path = store.folder(f"{SOURCES}/{name}")
        data = _read_bytes(path)
        if data is None and files.is_file(path):
            continue  # the disk refuses to read it now, which says nothing of what it holds
        value = None if data is None else _parse(data)
        kept = _strings(value.get("volumes")) if isinstance(value, dict) else None
        if not kept or not volumes.intersection(kept):
            _remove(path)
