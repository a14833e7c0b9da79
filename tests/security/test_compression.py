"""D: compressed layers that bomb, lie or end early."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable

import pytest

from groot_fast.errors import BadLayer
from support.archive import MEDIA_TYPE, Archive, Layer, header, sha256, zstd_block, zstd_frame, zstd_skippable
from support.attack import Attack, apply
from support.command import MIB, Grootfs, Store, new_id
from support.tree import names

TAR = Archive().file("f", "content").tar
GIB = 1 << 30
DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def stored(blob: bytes, media_type: str = MEDIA_TYPE + "+gzip", tar: bytes = TAR) -> Layer:
    """A layer whose digest fits its bytes, whatever they are."""
    return Layer(tar, blob=blob, media_type=media_type)


# -- D1 ------------------------------------------------------------------------------


def gzip_bomb(size: int) -> bytes:
    """A file of zeros: a few thousand bytes for each megabyte."""
    zeros = gzip.compress(bytes(64 * MIB), 9, mtime=0)
    return gzip.compress(header("bomb", size=size), mtime=0) + zeros * (size // (64 * MIB)) + gzip.compress(bytes(1024), mtime=0)


def zstd_bomb(size: int) -> bytes:
    """The same with four bytes for each 128 KiB."""
    blocks = zstd_block(b"\0", 1, 1 << 17, last=False) * (size >> 17)
    return (
        zstd_frame(header("bomb", size=size))
        + b"\x28\xb5\x2f\xfd\x00\x50"
        + blocks
        + zstd_block(b"", 0, 0, last=True)
        + zstd_frame(bytes(1024))
    )


@pytest.mark.parametrize("bomb", [gzip_bomb, zstd_bomb])
def test_D1_bomb_fills_neither_memory_nor_the_store(
    make_store: Callable[..., Store], image: Callable[..., str], bomb: Callable[[int], bytes]
) -> None:
    store = make_store(size=512 * MIB)
    layer = Layer(b"", blob=bomb(2 * GIB), diff_id="0" * 64, media_type=MEDIA_TYPE + ("+gzip" if bomb is gzip_bomb else "+zstd"))
    assert len(layer.blob) < 4 * MIB
    result, peak = store.finish_measured(store.start("create", image(layer), "bomb"))
    out = result.failed().out
    assert "write `bomb`: no space left on device" in out and "hint: the store is full" in out
    assert MIB < peak < 128 * MIB
    assert store.volumes() == [] and store.temporary() == [] and store.list() == []
    # What it took is given back.
    rootfs = store.create(image(Archive().file("f", random.Random(1).randbytes(150 * MIB))))
    assert (rootfs / "f").stat().st_size == 150 * MIB


def test_D1_bomb_under_a_disk_limit(store: Store, image: Callable[..., str]) -> None:
    """The limit holds for the image, not only for what the container writes."""
    layer = Layer(header("bomb", size=256 * MIB) + bytes(256 * MIB + 1024))
    result = store.refuse(image(layer), "", "--disk-limit-size-bytes", str(100 * MIB))
    assert f"the image has {256 * MIB} bytes, the limit is {100 * MIB} bytes" in result.message


# -- D2 ------------------------------------------------------------------------------


ZSTD = MEDIA_TYPE + "+zstd"


@pytest.mark.parametrize("window_log", [10, 20, 27])
def test_D2_windows_up_to_128_mib(attack: Attack, window_log: int) -> None:
    assert names(attack.contained(stored(zstd_frame(TAR, window_log=window_log), ZSTD))) == ["f"]


@pytest.mark.parametrize("window_log", [28, 30, 31, 41])
def test_D2_larger_windows_are_refused(attack: Attack, window_log: int) -> None:
    attack.refused(stored(zstd_frame(TAR, window_log=window_log), ZSTD), match="zstd: .*(memory|[Ww]indow|[Pp]arameter|[Uu]nsupported)")


def test_D2_dictionary_is_refused(attack: Attack) -> None:
    attack.refused(stored(zstd_frame(TAR, descriptor=0x01, extra=b"\x07"), ZSTD), match="zstd: .*[Dd]ictionary")


@pytest.mark.parametrize(
    "blob",
    [
        zstd_frame(TAR[:700]) + zstd_frame(TAR[700:]),
        zstd_frame(b"") + zstd_frame(TAR) + zstd_frame(b""),
        zstd_skippable(b"note") + zstd_frame(TAR),
        zstd_frame(TAR[:512]) + zstd_skippable(bytes(100_000)) + zstd_frame(TAR[512:]) + zstd_skippable(b""),
        b"".join(zstd_frame(TAR[i : i + 7]) for i in range(0, len(TAR), 7)),
    ],
)
def test_D2_frames_follow_each_other(attack: Attack, blob: bytes) -> None:
    assert (attack.contained(stored(blob, ZSTD)) / "f").read_text() == "content"


@pytest.mark.parametrize(
    "blob",
    [
        zstd_frame(TAR) + zstd_skippable(b"short", (1 << 32) - 1),
        zstd_skippable(b"short", (1 << 32) - 1),
        zstd_frame(TAR)[:-1],
        zstd_frame(TAR)[:-600],
        zstd_frame(TAR)[:5],
        zstd_frame(TAR) + b"garbage!",
        zstd_frame(TAR) + bytes(64),
        zstd_frame(TAR, descriptor=0x04, tail=b"\0\0\0\0"),  # content checksum
        zstd_frame(TAR, descriptor=0x08),  # reserved bit
        zstd_frame(TAR[:700]) + zstd_frame(TAR[700:])[:-3],
        b"\x28\xb5\x2f\xfd\x00\x50" + struct.pack("<I", 7)[:3],  # reserved block type
    ],
)
def test_D2_damaged_frames(attack: Attack, blob: bytes) -> None:
    attack.refused(stored(blob, ZSTD), match="zstd: ")


# -- D3, D4 ------------------------------------------------------------------------------


def test_D3_members_are_joined(attack: Attack) -> None:
    for cuts in ([700], [512], [1, 2, 3, 600, 1500], list(range(10, len(TAR), 10))):
        parts = [TAR[a:b] for a, b in zip([0, *cuts], [*cuts, len(TAR)], strict=True)]
        blob = b"".join(gzip.compress(part, mtime=0) for part in parts)
        assert (attack.contained(stored(blob)) / "f").read_text() == "content"


def test_D3_optional_header_fields(attack: Attack) -> None:
    raw = zlib.compressobj(wbits=-15)
    body = raw.compress(TAR) + raw.flush()
    head = b"\x1f\x8b\x08\x1c" + bytes(6) + struct.pack("<H", 4) + b"BCAB" + b"name.tar\0" + b"comment\0"
    blob = head + body + struct.pack("<II", zlib.crc32(TAR), len(TAR))
    assert names(attack.contained(stored(blob))) == ["f"]


@pytest.mark.parametrize("tail", [b"garbage", b"\x1f", b"\x1f\x8b", b"\x1f\x8b\x08\0", b"\x1f\x8b\xff" + bytes(20), zstd_frame(TAR), TAR])
def test_D3_garbage_behind_the_last_member(attack: Attack, tail: bytes) -> None:
    attack.refused(stored(gzip.compress(TAR, mtime=0) + tail), match="gzip: ")


def test_D4_cut_anywhere(attack: Attack) -> None:
    blob = gzip.compress(TAR, mtime=0)
    for cut in range(1, len(blob)):
        with pytest.raises(BadLayer, match=r"gzip: |its first bytes"):
            apply(attack.scratch / new_id(), stored(blob[:cut]))
    attack.refused(stored(blob[:-1]), match="gzip: ")
    attack.refused(stored(blob[: len(blob) // 2]), match="gzip: ")


@pytest.mark.parametrize("at", [-8, -5, -4, -1])
def test_D4_wrong_checksum_or_length(attack: Attack, at: int) -> None:
    blob = bytearray(gzip.compress(TAR, mtime=0))
    blob[at] ^= 1
    attack.refused(stored(bytes(blob)), match="gzip: ")


def test_D4_wrong_checksum_behind_the_end_of_the_archive(attack: Attack) -> None:
    padded = TAR + bytes(MIB)
    blob = bytearray(gzip.compress(padded, mtime=0))
    blob[-8] ^= 1
    attack.refused(stored(bytes(blob), tar=padded), match="gzip: ")


def test_D4_digest_explains_a_damaged_stream(attack: Attack) -> None:
    """Where the bytes are not what the manifest promised, that is the reason, whatever the decoder makes of them."""
    good = gzip.compress(TAR, mtime=0)
    layer = Layer(TAR, blob=good[:-3] + b"xyz", digest=sha256(good))
    attack.refused(layer, match="layerID digest mismatch")
    attack.refused(
        Layer(TAR, blob=good[:-3], digest=sha256(good), size=len(good)), match="layer size is less than the value in the manifest"
    )
    attack.refused(Layer(TAR, blob=good, size=len(good) - 1), match="layer size is greater than the value in the manifest")
    attack.refused(Layer(TAR, diff_id="0" * 64), match="diffID digest mismatch: expected: 0{64}")


# -- D5, D6, D7 ----------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", [MEDIA_TYPE + "+gzip", MEDIA_TYPE + "+zstd", MEDIA_TYPE, DOCKER_GZIP, ""])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_D5_bytes_decide(attack: Attack, media_type: str, compression: str) -> None:
    layer = Layer(TAR, compression)
    layer.media_type = media_type
    assert names(attack.contained(layer)) == ["f"]


def test_D5_mismatch_is_noted_in_the_log(attack: Attack) -> None:
    url = attack.layout(Layer(Archive().file("unseen").tar, "zstd", media_type=DOCKER_GZIP))
    logged = Grootfs(*attack.store.options, "--log-level", "info").run("create", url, new_id()).ok()
    assert f"layer is Zstd although its media type is {DOCKER_GZIP}" in logged.err


@pytest.mark.parametrize("media_type", [MEDIA_TYPE + "+gzip", MEDIA_TYPE + "+zstd", DOCKER_GZIP])
@pytest.mark.parametrize("blob", [TAR, b"BZh91AY&SY" + bytes(100), b"\xfd7zXZ\0" + bytes(100), b"PK\x03\x04" + bytes(100), b""])
def test_D5_promised_compression_that_is_not_there(attack: Attack, media_type: str, blob: bytes) -> None:
    layer = stored(blob or b"\0", media_type)
    message = attack.refused(layer, match=f"expected blob to be of type {media_type.replace('+', '.')}: its first bytes are `")
    assert message.isprintable()


@pytest.mark.parametrize("media_type", [MEDIA_TYPE, ""])
def test_D5_unknown_bytes_are_no_archive(attack: Attack, media_type: str) -> None:
    layer = Layer(b"BZh91AY&SY" + bytes(1000), "none")
    layer.media_type = media_type
    attack.refused(layer, match="invalid tar header")


def test_D6_gzip_in_gzip(attack: Attack) -> None:
    once = gzip.compress(TAR, mtime=0)
    attack.refused(stored(gzip.compress(once, mtime=0), tar=once), match="unexpected EOF|invalid tar header")
    padded = once + bytes(-len(once) % 512)
    attack.refused(stored(gzip.compress(padded, mtime=0), tar=padded), match="invalid tar header")
    attack.refused(stored(zstd_frame(once), ZSTD, tar=once), match="unexpected EOF|invalid tar header")


def test_D7_hostile_deflate(attack: Attack) -> None:
    """Thousands of damaged streams: each is refused with a reason, and none brings the process down."""
    generator = random.Random(7)
    good = gzip.compress(Archive().file("f", generator.randbytes(3000) * 3).tar, mtime=0)
    refused = 0
    for i in range(1500):
        blob = bytearray(good)
        if i % 3 == 0:
            blob[10:] = generator.randbytes(generator.randrange(1, 400))
        else:
            for _ in range(generator.randrange(1, 6)):
                blob[generator.randrange(10, len(blob))] = generator.randrange(256)
        if bytes(blob) == good:
            continue
        layer = stored(bytes(blob))
        with pytest.raises(BadLayer, match=r"gzip: |diffID"):
            apply(attack.scratch / f"d7-{i % 10}", layer, diff_id="0" * 64)
        refused += 1
    assert refused > 1400


@pytest.mark.parametrize(
    "body",
    [
        b"\x07",  # reserved block type
        b"\x01\x05\x00\x00\x00hello",  # stored block whose length has a wrong complement
        b"\x05\xe0\x81\x08\x00\x00\x00\x00\x20\x7f\xeb\x0b\x00\x00",  # dynamic block without an end code
        b"\xfd\xff\xff" + bytes(30),  # more codes than there are
        b"\x4b\x04\x02\x00" * 50,
        b"\xff" * 300,
    ],
)
def test_D7_hostile_deflate_through_the_command(attack: Attack, body: bytes) -> None:
    attack.refused(stored(b"\x1f\x8b\x08" + bytes(7) + body + bytes(8)), match="gzip: ")
