"""Layers, written header by header so that each field can be wrong.

`Archive` appends entries and gives the bytes; `Layer` says how they are stored. Nothing is checked or normalised.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

BLOCK = 512
T0 = 1_400_000_000
"""A modification time that is not now."""
END = bytes(2 * BLOCK)

Name = str | bytes
Number = int | bytes
"""A number, or the field as it stands in the header."""


def as_bytes(name: Name) -> bytes:
    """A name as the archive has it."""
    return name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")


def pad(data: bytes) -> bytes:
    """Fill up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def octal(value: Number, width: int) -> bytes:
    """A numeric field: octal where it fits, else base-256."""
    if isinstance(value, bytes):
        return value.ljust(width, b"\0")[:width]
    digits = b"%o" % value if value >= 0 else b"-"
    if value >= 0 and len(digits) < width:
        return digits.rjust(width - 1, b"0") + b"\0"
    return base256(value, width)


def base256(value: int, width: int) -> bytes:
    """A GNU binary field."""
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def checksum(block: bytes) -> bytes:
    """The block with its checksum made right."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def header(
    name: Name,
    typeflag: bytes = b"0",
    *,
    size: Number = 0,
    mode: Number = 0o644,
    uid: Number = 0,
    gid: Number = 0,
    mtime: Number = T0,
    link: Name = b"",
    prefix: Name = b"",
    magic: bytes = b"ustar\x0000",
    major: Number = 0,
    minor: Number = 0,
    patches: Mapping[int, bytes] | None = None,
    fix: bool = True,
) -> bytes:
    """One header block. ``patches`` overwrites bytes at offsets; ``fix=False`` leaves a checksum of zeros."""
    block = bytearray(BLOCK)
    fields = [
        (0, as_bytes(name)[:100]),
        (100, octal(mode, 8)),
        (108, octal(uid, 8)),
        (116, octal(gid, 8)),
        (124, octal(size, 12)),
        (136, octal(mtime, 12)),
        (156, typeflag),
        (157, as_bytes(link)[:100]),
        (257, magic),
        (329, octal(major, 8)),
        (337, octal(minor, 8)),
        (345, as_bytes(prefix)[:155]),
        *(patches or {}).items(),
    ]
    for offset, value in fields:
        block[offset : offset + len(value)] = value
    assert len(block) == BLOCK
    return checksum(bytes(block)) if fix else bytes(block)


def record(key: Name, value: Name) -> bytes:
    """One PAX record with the right length."""
    rest = b" " + as_bytes(key) + b"=" + as_bytes(value) + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def records(pairs: Mapping[str, Name]) -> bytes:
    """PAX records of a header."""
    return b"".join(record(key, value) for key, value in pairs.items())


class Archive:
    """A tar under construction. Every method gives the archive back, so that calls can be chained."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def raw(self, data: bytes) -> Self:
        """Bytes as they are."""
        self.parts.append(data)
        return self

    def entry(self, name: Name, typeflag: bytes = b"0", body: bytes = b"", **fields: object) -> Self:
        """A header with a body; ``size`` follows the body unless given. Long names get a PAX header."""
        pairs = {}
        if len(as_bytes(name)) > 100:
            pairs["path"] = as_bytes(name)
        link = fields.get("link", b"")
        assert isinstance(link, str | bytes)
        if len(as_bytes(link)) > 100:
            pairs["linkpath"] = as_bytes(link)
        if pairs:
            self.pax(pairs)
        fields.setdefault("size", len(body))
        return self.raw(header(name, typeflag, **fields)).raw(pad(body))  # type: ignore[arg-type]

    def file(self, name: Name, data: Name = b"", **fields: object) -> Self:
        """A regular file."""
        return self.entry(name, b"0", as_bytes(data), **fields)

    def dir(self, name: Name, **fields: object) -> Self:
        """A directory."""
        return self.entry(name, b"5", **{"mode": 0o755, **fields})

    def symlink(self, name: Name, target: Name, **fields: object) -> Self:
        """A symbolic link."""
        return self.entry(name, b"2", link=target, **{"mode": 0o777, **fields})

    def link(self, name: Name, target: Name, **fields: object) -> Self:
        """A hard link."""
        return self.entry(name, b"1", link=target, **fields)

    def whiteout(self, path: str) -> Self:
        """The marker that removes ``path``."""
        folder, slash, name = path.rpartition("/")
        return self.file(f"{folder}{slash}.wh.{name}")

    def opaque(self, folder: str = "") -> Self:
        """The marker that empties a directory."""
        return self.file(f"{folder}/.wh..wh..opq" if folder else ".wh..wh..opq")

    def pax(self, pairs: Mapping[str, Name], typeflag: bytes = b"x") -> Self:
        """A PAX header for the next entry (``g``: for all that follow)."""
        return self.extension(typeflag, records(pairs))

    def extension(self, typeflag: bytes, body: bytes, **fields: object) -> Self:
        """Any extension header (``x``, ``g``, ``L``, ``K``) with this body."""
        name = b"././@LongLink" if typeflag in b"LK" else b"PaxHeader"
        return self.entry(name, typeflag, body, **fields)

    def long_name(self, name: Name, typeflag: bytes = b"L") -> Self:
        """A GNU long name (``K``: long link) for the next entry."""
        return self.extension(typeflag, as_bytes(name) + b"\0")

    @property
    def open(self) -> bytes:
        """The bytes without an end marker."""
        return b"".join(self.parts)

    @property
    def tar(self) -> bytes:
        """The whole archive."""
        return self.open + END


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}


def compress(data: bytes, how: str) -> bytes:
    """Compressed as a layer would be."""
    if how == "gzip":
        return gzip.compress(data, compresslevel=1, mtime=0)
    return zstd_frame(data) if how == "zstd" else data


def zstd_block(data: bytes, kind: int, size: int, *, last: bool) -> bytes:
    """A block of a zstd frame: kind 0 raw, 1 one byte repeated ``size`` times."""
    return struct.pack("<I", int(last) | kind << 1 | size << 3)[:3] + data


def zstd_frame(data: bytes, *, window_log: int = 20, descriptor: int = 0, extra: bytes = b"", tail: bytes = b"") -> bytes:
    """A zstd frame of raw blocks (RFC 8878): no compressor is needed. ``extra`` follows the window, ``tail`` the blocks."""
    most = min(1 << window_log, 1 << 16)
    starts = range(0, max(len(data), 1), most)
    blocks = [zstd_block(data[i : i + most], 0, len(data[i : i + most]), last=i + most >= len(data)) for i in starts]
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor, (window_log - 10) << 3]) + extra + b"".join(blocks) + tail


def zstd_skippable(data: bytes, size: int | None = None) -> bytes:
    """A frame that readers skip."""
    return struct.pack("<II", 0x184D2A53, len(data) if size is None else size) + data


@dataclass
class Layer:
    """An archive as a layer. ``blob`` replaces the stored bytes, ``diff_id`` the hash of the archive."""

    tar: bytes
    compression: str = "gzip"
    media_type: str = ""
    blob: bytes = b""
    diff_id: str = ""
    size: int | None = None
    digest: str = ""
    annotations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blob = self.blob or compress(self.tar, self.compression)
        self.diff_id = self.diff_id or sha256(self.tar)
        self.digest = self.digest or sha256(self.blob)
        self.size = len(self.blob) if self.size is None else self.size
        self.media_type = self.media_type or MEDIA_TYPE + SUFFIX[self.compression]


def layers_of(parts: tuple[Archive | Layer | bytes, ...]) -> list[Layer]:
    """Archives, raw bytes and layers as layers."""
    return [part if isinstance(part, Layer) else Layer(part.tar if isinstance(part, Archive) else part) for part in parts]
