"""C: how the archive is cut into entries. Malformed is refused, never guessed at."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_fast.errors import BadLayer, GrootError
from support.archive import BLOCK, END, T0, Archive, Layer, base256, checksum, header, octal, pad, record, records
from support.attack import Attack, apply
from support.command import MIB, new_id
from support.model import Model, Unusable
from support.mounts import tool
from support.tree import assert_same, names, photograph

NESTED = Archive().file("smuggled", "evil").symlink("s", "/etc").tar


# -- C1, C2: which size counts ---------------------------------------------------


def test_C1_pax_size_over_a_header_size_of_zero(attack: Attack) -> None:
    body = pad(NESTED)
    archive = Archive().pax({"size": str(len(body))}).raw(header("outer", size=0)).raw(body).file("after", "x")
    rootfs = attack.contained(archive)
    assert names(rootfs) == ["after", "outer"] and (rootfs / "outer").read_bytes() == body


@pytest.mark.parametrize("said", [1, 512, 513, 1 << 20, (1 << 33) - 1])
def test_C2_pax_size_over_another_header_size(attack: Attack, said: int) -> None:
    body = NESTED + b"tail"
    archive = Archive().pax({"size": str(len(body))}).raw(header("outer", size=said)).raw(pad(body)).file("after", "x")
    rootfs = attack.contained(archive)
    assert names(rootfs) == ["after", "outer"] and (rootfs / "outer").read_bytes() == body


def test_C2_pax_size_of_zero_over_a_header_size(attack: Attack) -> None:
    """The bytes that the header promises are the next header then; here they are none."""
    attack.refused(Archive().pax({"size": "0"}).raw(header("outer", size=512)).raw(b"x" * 512).file("after"), match="invalid tar header")
    rootfs = attack.contained(Archive().pax({"size": "0"}).raw(header("outer", size=512)).file("after", "x"))
    assert names(rootfs) == ["after", "outer"] and (rootfs / "outer").stat().st_size == 0


@pytest.mark.parametrize("value", ["-1", "+5", " 5", "5 ", "0x5", "5.0", "", "1e3", str(1 << 63), str(1 << 64), "9" * 40, "\uff15"])
def test_C2_pax_size_that_is_no_size(attack: Attack, value: str) -> None:
    attack.refused(Archive().pax({"size": value}).file("f", "12345"), match="PAX header: `size` is not a number")


# -- C3: malformed records ------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"5 a=b\n",  # too short
        b"7 a=b\n",  # too long
        b"6 a=b",  # no newline
        b"6 a=bx\n",
        b"5 ab\n",  # no equals sign
        b"4 =\n",  # no key
        b"5 =b\n",
        b"0 a=b\n",
        b"0\n",
        b"06 a=b\n",
        b"-6 a=b\n",
        b"+6 a=b\n",
        b" 6 a=b\n",
        b"6a=b\n",
        b"x a=b\n",
        b"99999999999999999999 a=b\n",
        b"18446744073709551615 a=b\n",
        b"18446744073709551622 a=b\n",
        b"6 a=b\n\0\0",
        b"6 a=b\n6 a=b",
        b"\n",
        b"6\ta=b\n",
        b"8 a\0c=b\n",
        record("comment", "x") + b"junk",
    ],
)
def test_C3_malformed_record(attack: Attack, body: bytes) -> None:
    attack.refused(Archive().extension(b"x", body).long_name("hidden").file("f"), match="PAX header: malformed record")
    attack.refused(Archive().extension(b"g", body).file("f"), match="PAX header: malformed record", core=False)


def test_C3_record_hidden_in_the_padding(attack: Attack) -> None:
    """Some readers look for records up to the end of the block."""
    body = record("comment", "x")
    hidden = (body + record("path", "other")).ljust(512, b"\0")
    attack.refused(Archive().raw(header("PaxHeader", b"x", size=len(body))).raw(hidden).file("f", "x"), match="PAX|padding|extension")


def test_C3_unknown_keys_and_strange_values_are_fine(attack: Attack) -> None:
    archive = Archive().pax({"VENDOR.key": b"\xff=\n\0", "comment": "line\nbreak", "atime": "nonsense", "path": "real"}).file("f", "x")
    assert names(attack.contained(archive)) == ["real"]


def test_C3_empty_value_takes_an_override_back(attack: Attack) -> None:
    assert names(attack.contained(Archive().pax({"path": ""}).file("f", "x"))) == ["f"]


# -- C4, C5: which entry a header belongs to ------------------------------------------


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (Archive().pax({"path": "a"}).pax({"path": "b"}).file("f"), "PAX header without an entry of its own"),
        (Archive().long_name("a").long_name("b").file("f"), "long name without an entry of its own"),
        (Archive().long_name("a", b"K").long_name("b", b"K").symlink("f", "x"), "long link without an entry of its own"),
        (Archive().pax({"path": "a"}).pax({"comment": "b"}, b"g").file("f"), "extension header before a global one"),
        (Archive().long_name("a").pax({"comment": "b"}, b"g").file("f"), "extension header before a global one"),
        (Archive().pax({"path": "a"}).long_name("b").file("f"), "name given by GNU and by PAX headers"),
        (Archive().long_name("b").pax({"path": "a"}).file("f"), "name given by GNU and by PAX headers"),
        (Archive().pax({"linkpath": "a"}).long_name("b", b"K").symlink("f", "x"), "link target given by GNU and by PAX headers"),
        (Archive().file("f").pax({"path": "a"}), "ends after an extension header"),
        (Archive().file("f").long_name("a"), "ends after an extension header"),
        (Archive().pax({"path": "a"}).raw(END).file("f"), "ends after an extension header"),
    ],
)
def test_C4_orphans_and_duplicates(attack: Attack, archive: Archive, message: str) -> None:
    attack.refused(archive, match=message)


@pytest.mark.parametrize("archive", [Archive().file("f").pax({"path": "a"}), Archive().file("f").long_name("a")])
def test_C4_pending_header_at_an_end_without_marker(attack: Attack, archive: Archive) -> None:
    attack.refused(archive.open, match="ends after an extension header")


def test_C4_pax_and_gnu_for_different_fields(attack: Attack) -> None:
    archive = Archive().long_name("n" * 150).pax({"mtime": "5", "size": "3"}).file("f", "abc")
    archive.pax({"path": "s"}).long_name("t" * 150, b"K").symlink("x", "y")
    rootfs = attack.contained(archive)
    assert names(rootfs) == ["n" * 150, "s"] and os.readlink(rootfs / "s") == "t" * 150


def test_C4_header_reaches_only_the_next_entry(attack: Attack) -> None:
    archive = Archive().pax({"path": "a", "uid": "7", "mtime": "5", "size": "1", "SCHILY.xattr.user.x": "y"}).file("x", "1").file("b", "22")
    tree = photograph(attack.contained(archive))
    assert (tree["a"].owner, tree["a"].mtime, tree["a"].size, tree["a"].xattrs) == ((7, 0), 5 * 10**9, 1, (("user.x", b"y"),))
    assert (tree["b"].owner, tree["b"].mtime, tree["b"].size, tree["b"].xattrs) == ((0, 0), T0 * 10**9, 2, ())


def test_C4_header_is_not_named_by_another_header(attack: Attack) -> None:
    """A long name does not rename the PAX header after it."""
    assert names(attack.contained(Archive().long_name("real").pax({"uid": "7"}).file("f", "x"))) == ["real"]


@pytest.mark.parametrize(
    "key",
    ["path", "linkpath", "size", "uid", "gid", "mtime", "SCHILY.xattr.user.x", "GNU.sparse.major", "GNU.sparse.name", "GNU.sparse.map"],
)
def test_C5_global_header_that_touches_entries(attack: Attack, key: str) -> None:
    attack.refused(Archive().file("before").pax({key: "1"}, b"g").file("f", "x"), match=f"global header sets `{key}`")


def test_C5_harmless_global_headers(attack: Attack) -> None:
    archive = (
        Archive()
        .pax({"comment": "0" * 40, "hdrcharset": "BINARY"}, b"g")
        .file("f", "x")
        .pax({"VENDOR.x": "y"}, b"g")
        .pax({"uid": "3"})
        .file("g")
    )
    tree = photograph(attack.contained(archive))
    assert sorted(tree) == [".", "f", "g"] and tree["g"].owner == (3, 0)


# -- C6: sparse files --------------------------------------------------------------


Map = list[tuple[int, int]]


def gnu_sparse(name: str, regions: Map, real: int, *, data: bytes | None = None) -> Archive:
    """Old GNU: four regions in the header, 21 in each block after it."""
    body = b"".join(bytes([65 + i % 26]) * length for i, (_, length) in enumerate(regions)) if data is None else data
    slots = b"".join(octal(offset, 12) + octal(length, 12) for offset, length in regions)
    more = [slots[i : i + 504] for i in range(96, len(slots), 504)]
    blocks = [part.ljust(504, b"\0") + bytes([part is not more[-1]]) + bytes(7) for part in more]
    patches = {386: slots[:96], 482: bytes([bool(more)]), 483: octal(real, 12)}
    head = header(name, b"S", size=len(body), magic=b"ustar  \0", patches=patches)
    return Archive().raw(head).raw(b"".join(blocks)).raw(pad(body))


def pax_sparse(version: str, name: str, regions: Map, real: int, *, data: bytes | None = None, **changes: str) -> Archive:
    """GNU's three formats in PAX headers."""
    body = b"".join(bytes([65 + i % 26]) * length for i, (_, length) in enumerate(regions)) if data is None else data
    if version == "1.0":
        text = "".join(f"{number}\n" for number in [len(regions), *(n for region in regions for n in region)])
        keys = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": str(real)}
        return Archive().pax({**keys, **changes}).file("GNUSparseFile.0/f", pad(text.encode()) + body)
    keys = {"GNU.sparse.size": str(real), "GNU.sparse.numblocks": str(len(regions)), "GNU.sparse.name": name, **changes}
    parts = records(keys)
    if version == "0.1" and regions:
        parts += record("GNU.sparse.map", ",".join(f"{offset},{length}" for offset, length in regions))
    else:
        parts += b"".join(record("GNU.sparse.offset", str(o)) + record("GNU.sparse.numbytes", str(n)) for o, n in regions)
    return Archive().extension(b"x", parts).file("GNUSparseFile.0/f", body)


WRITERS: dict[str, Callable[..., Archive]] = {
    "gnu": gnu_sparse,
    **{version: lambda *a, version=version, **k: pax_sparse(version, *a, **k) for version in ("0.0", "0.1", "1.0")},
}
every_format = pytest.mark.parametrize("version", WRITERS)


@every_format
@pytest.mark.parametrize("count", [0, 1, 4, 5, 25, 26, 60])
def test_C6_sparse_files_keep_their_holes(attack: Attack, version: str, count: int) -> None:
    regions = [(i * 65536 + 4096, 4096) for i in range(count)]
    real = 65 * 65536
    rootfs = attack.contained(WRITERS[version]("holes", regions, real).file("after", "x"))
    expected = bytearray(real)
    for i, (offset, length) in enumerate(regions):
        expected[offset : offset + length] = bytes([65 + i % 26]) * length
    assert names(rootfs) == ["after", "holes"]
    assert (rootfs / "holes").read_bytes() == expected
    assert (rootfs / "holes").stat().st_blocks * 512 <= count * 4096


@every_format
@pytest.mark.parametrize("real", [1 << 40, (1 << 63) - 1])
def test_C6_huge_file_of_holes(attack: Attack, version: str, real: int) -> None:
    rootfs = attack.contained(WRITERS[version]("holes", [(0, 5), ((1 << 40) - 5, 5)], real), core=False)
    info = (rootfs / "holes").stat()
    assert info.st_size == real and info.st_blocks * 512 <= 65536


@every_format
@pytest.mark.parametrize(
    ("regions", "real", "data", "message"),
    [
        ([(0, 600), (512, 100)], 2000, None, "regions overlap or lie outside the file"),
        ([(512, 100), (0, 100)], 2000, None, "regions overlap or lie outside the file"),
        ([(1950, 100)], 2000, None, "regions overlap or lie outside the file"),
        ([(0, 100)], 2000, b"x" * 101, "regions hold 100 bytes, the archive has 101"),
        ([(0, 100)], 2000, b"x" * 99, "regions hold 100 bytes, the archive has 99"),
        ([], 2000, b"x", "regions hold 0 bytes, the archive has 1"),
    ],
)
def test_C6_maps_that_do_not_fit(attack: Attack, version: str, regions: Map, real: int, data: bytes | None, message: str) -> None:
    attack.refused(WRITERS[version]("f", regions, real, data=data), match=message)


def test_C6_too_many_regions(attack: Attack) -> None:
    many = (1 << 18) + 1
    attack.refused(gnu_sparse("f", [(i, 0) for i in range(many)], many), match="sparse file with more than 262144 regions")
    attack.refused(pax_sparse("1.0", "f", [(0, 0)] * many, 1), match="sparse file with more than 262144 regions")
    promised = pad(b"99999999999999\n0\n0\n")
    keys = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"}
    attack.refused(Archive().pax(keys).file("f", promised), match="sparse file with more than 262144 regions")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (pax_sparse("0.1", "f", [(0, 5)], 9, **{"GNU.sparse.numblocks": "2"}), "another length than announced"),
        (pax_sparse("1.0", "f", [(0, 5)], 9, **{"GNU.sparse.major": "2"}), "newer than 1.0"),
        (pax_sparse("1.0", "f", [(0, 5)], 9, **{"GNU.sparse.minor": "1"}), "newer than 1.0"),
        (pax_sparse("1.0", "f", [(0, 5)], 9, **{"GNU.sparse.realsize": "-1"}), "`realsize` is not a number"),
        (pax_sparse("1.0", "f", [(0, 5)], 9, **{"GNU.sparse.name": "a\0b"}), "contains a NUL"),
        (pax_sparse("1.0", "f", [(0, 5)], 9, **{"GNU.sparse.other": "1"}), "unknown key `GNU.sparse.other`"),
        (Archive().pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}).file("f", pad(b"0\n")), "sparse file without its size"),
        (Archive().pax({"GNU.sparse.map": "0,5,7", "GNU.sparse.size": "9"}).file("f", "12345"), "odd number of values"),
        (Archive().pax({"GNU.sparse.offset": "0", "GNU.sparse.size": "9"}).file("f"), "offset without GNU.sparse.numbytes"),
        (Archive().pax({"GNU.sparse.numbytes": "0", "GNU.sparse.size": "9"}).file("f"), "numbytes without its offset"),
        (Archive().pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"}).file("f", pad(b"x\n")), "malformed"),
        (
            Archive().pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"}).file("f", b"1\n0\n"),
            "longer than the data",
        ),
        (Archive().pax({"GNU.sparse.realsize": "5"}).raw(gnu_sparse("f", [(0, 5)], 5).open), "given by GNU and by PAX"),
        (gnu_sparse("f", [(0, 5)], 1 << 63), "size is out of range"),
        (pax_sparse("1.0", "f", [(0, 5)], 1 << 63), "`realsize` is not a number"),
    ],
)
def test_C6_malformed_maps(attack: Attack, archive: Archive, message: str) -> None:
    attack.refused(archive, match=message)


def test_C6_sparse_name_cannot_leave(attack: Attack) -> None:
    rootfs = attack.contained(pax_sparse("1.0", f"{attack.sentinel.up}/secret", [(0, 5)], 5))
    assert (rootfs / str(attack.sentinel.path)[1:] / "secret").read_bytes() == b"AAAAA"


# -- C7: bounds on extension headers -------------------------------------------------------


@pytest.mark.parametrize("typeflag", [b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("size", [(1 << 20) + 1, 2 << 30, (1 << 33) - 1])
def test_C7_huge_extension_header(attack: Attack, typeflag: bytes, size: int) -> None:
    archive = Archive().raw(header("././@LongLink", typeflag, size=size)).raw(b"n" * 4096)
    attack.refused(archive.open, match=f"extension header of {size} bytes")


def test_C7_thousands_of_extension_headers(attack: Attack) -> None:
    for typeflag in (b"x", b"L", b"K"):
        attack.refused(
            Archive().raw(Archive().extension(typeflag, record("a", "b")).open * 10_000).file("f"), match="PAX header|long name|long link"
        )


def test_C7_thousands_of_global_headers(attack: Attack) -> None:
    rootfs = attack.contained(Archive().raw(Archive().pax({"comment": "x"}, b"g").open * 10_000).file("f", "x"))
    assert names(rootfs) == ["f"]


# -- C8: content where none belongs ---------------------------------------------------------


@pytest.mark.parametrize("typeflag", [b"1", b"2", b"3", b"4", b"5", b"6"])
@pytest.mark.parametrize("pax", [False, True])
def test_C8_size_of_something_that_is_no_file(attack: Attack, typeflag: bytes, *, pax: bool) -> None:
    """It means nothing, as for Go's readers: bazel, rpm and Rust builders leave one there. A body is no header."""

    def archive() -> Archive:
        start = Archive().file("x")
        if pax:
            return start.pax({"size": "512"}).raw(header("p", typeflag, link="x"))
        return start.raw(header("p", typeflag, size=512, link="x"))

    rootfs = attack.contained(archive().file("after", "y"))
    assert "after" in names(rootfs) and (rootfs / "after").read_text() == "y"
    attack.refused(archive().raw(pad(b"a body")).file("after"), match="invalid tar header")


# -- C9: headers and ends ---------------------------------------------------------------------


@pytest.mark.parametrize("field", [b"0000000\0", b"        ", b"999999\0 ", b"\xff" * 8, b"-000001\0"])
def test_C9_bad_checksum(attack: Attack, field: bytes) -> None:
    attack.refused(Archive().file("ok").raw(header("f", patches={148: field}, fix=False)), match="invalid tar header")


@pytest.mark.parametrize("offset", [0, 50, 100, 124, 156, 157, 257, 300, 345, 511])
def test_C9_any_flipped_bit_breaks_the_checksum(attack: Attack, offset: int) -> None:
    block = bytearray(header("f", size=0))
    block[offset] ^= 0x04
    attack.refused(Archive().raw(bytes(block)), match="invalid tar header")


def test_C9_checksum_of_signed_bytes(attack: Attack) -> None:
    """Old writers summed signed bytes."""
    block = bytearray(header(b"\xff\xfe"))
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]) - 512)
    assert os.listdir(os.fsencode(attack.contained(Archive().raw(bytes(block))))) == [b"\xff\xfe"]


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (bytes(512) + Archive().file("g").tar, "data after a zero block"),
        (bytes(1024) + Archive().file("g").tar, "data after the end of the archive"),
        (bytes(1024) + b"x", "data after the end of the archive"),
        (bytes(10240) + b"\1" + bytes(511), "data after the end of the archive"),
        (bytes(512) + b"x", "unexpected EOF|data after"),
        (b"x", "unexpected EOF"),
        (b"x" * 512, "invalid tar header"),
        (bytes(100), "unexpected EOF"),
        (bytes(65 * MIB), "too many zeros after the end"),
    ],
)
def test_C9_ends_that_are_refused(attack: Attack, end: bytes, message: str) -> None:
    attack.refused(Archive().file("f", "x").open + end, match=message)


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(1025), bytes(10240), bytes(MIB)])
def test_C9_ends_that_are_fine(attack: Attack, end: bytes) -> None:
    assert names(attack.contained(Archive().file("f", "x").open + end)) == ["f"]


def test_C9_missing_padding_of_the_last_entry(attack: Attack) -> None:
    assert (attack.contained(header("f", size=5) + b"12345") / "f").read_bytes() == b"12345"


@pytest.mark.parametrize("offset", [100, 108, 116, 124, 136])
@pytest.mark.parametrize("value", [b"0000008\0", b"-000001\0", b"0x00001\0", b"1 1\0\0\0\0\0", b"abc\0\0\0\0\0", b"+000001\0"])
def test_C9_numbers_that_are_none(attack: Attack, offset: int, value: bytes) -> None:
    width = 8 if offset < 124 else 12
    field = value.rjust(width, b"0") if offset >= 124 else value
    attack.refused(Archive().raw(header("f", patches={offset: field})), match="is not a number")


@pytest.mark.parametrize("field", [b"\0" + b"0" * 8 + b"5\0\0", b"\0\0     00012\0", b"0\0000000005\0"])
def test_C9_numbers_that_readers_disagree_on(attack: Attack, field: bytes) -> None:
    """Some stop at the first NUL, some skip it: the size is 0 to one and 5 to another."""
    attack.refused(Archive().raw(header("f", patches={124: field.ljust(12, b"\0")[:12]})).raw(pad(b"12345")), match="is not a number")


@pytest.mark.parametrize("value", [base256(-1, 12), base256(-512, 12), b"\x80" + b"\0" * 3 + b"\xff" * 8, b"\x80" + b"\xff" * 11])
def test_C9_binary_sizes_out_of_range(attack: Attack, value: bytes) -> None:
    attack.refused(Archive().raw(header("f", size=value)), match="negative size|size is out of range")


# -- C10: cut archives ----------------------------------------------------------------------------


WHOLE = (
    Archive()
    .dir("d")
    .file("d/f", "x" * 700)
    .pax({"path": "n" * 120, "mtime": "5.5"})
    .file("s", "y")
    .long_name("m" * 130)
    .symlink("x", "d/f")
    .link("h", "d/f")
)


def test_C10_cut_at_every_block_and_elsewhere(attack: Attack) -> None:
    """What is cut between entries is a shorter archive; what is cut inside of one is refused, whoever looks."""
    tar = WHOLE.open
    assert len(names(attack.contained(tar))) == 5
    between = [0]
    for part in (Archive().dir("d"), Archive().file("d/f", "x" * 700), Archive().pax({"path": "n" * 120, "mtime": "5.5"}).file("s", "y")):
        between.append(between[-1] + len(part.open))
    between += [len(tar) - BLOCK, len(tar)]
    generator = random.Random(5)
    for cut in [*range(0, len(tar), BLOCK), *sorted(generator.sample(range(len(tar)), 60))]:
        root = attack.scratch / new_id()
        fine = cut in between or any(low <= cut <= high for low, high in padding_of(tar))
        try:
            apply(root, Layer(tar[:cut], "none"))
        except BadLayer as error:
            assert not fine, f"cut at {cut}: {error}"
            assert "unexpected EOF" in str(error) or "ends after an extension header" in str(error), f"cut at {cut}: {error}"
        else:
            assert fine, f"cut at {cut} was not noticed"


def padding_of(tar: bytes) -> list[tuple[int, int]]:
    """Where content has ended and its padding has not."""
    ranges = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if member.isreg() and member.size:
                end = member.offset_data + member.size
                ranges.append((end, end + -end % BLOCK))
    return ranges


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 700, 1023])
def test_C10_cut_content_is_not_published(attack: Attack, keep: int) -> None:
    attack.refused(Archive().file("ok", "x"), (Archive().file("f", "x" * 1024).open)[: 512 + keep], match="unexpected EOF")


@pytest.mark.parametrize("size", [(1 << 63) - 1, (1 << 62), 1 << 40, (1 << 33) - 1])
def test_C10_huge_size_with_a_short_body(attack: Attack, size: int) -> None:
    attack.refused(Archive().raw(header("f", size=size)).raw(b"short"), match="unexpected EOF|out of range|file too large")
    attack.refused(Archive().pax({"size": str(size)}).raw(header("f")).raw(b"short"), match="unexpected EOF|out of range|file too large")


# -- C11: types --------------------------------------------------------------------------------


@pytest.mark.parametrize("typeflag", [b"0", b"\0", b"7"])
@pytest.mark.parametrize("magic", [b"ustar\x0000", b"ustar  \0", b"\0" * 8])
def test_C11_regular_files(attack: Attack, typeflag: bytes, magic: bytes) -> None:
    assert (attack.contained(Archive().entry("f", typeflag, b"data", magic=magic)) / "f").read_bytes() == b"data"


@pytest.mark.parametrize(
    "typeflag",
    [*[bytes([flag]) for flag in range(1, 256) if flag not in b"01234567xgLKSV"][::7], b"8", b"9", b"D", b"M", b"N", b"X", b"A", b"I"],
)
def test_C11_unknown_types(attack: Attack, typeflag: bytes) -> None:
    attack.refused(Archive().file("ok").entry("f", typeflag, b"data"), match="`f`: unknown entry type")


def test_C11_prefix_counts_only_in_posix_headers(attack: Attack) -> None:
    archive = (
        Archive()
        .raw(header("f", prefix="p/q"))
        .raw(header("g", prefix="p/q", magic=b"ustar  \0"))
        .raw(header("h", prefix="p", magic=b"\0" * 8))
    )
    assert names(attack.contained(archive)) == ["g", "h", "p", "p/q", "p/q/f"]


def test_C11_volume_label_is_no_entry(attack: Attack) -> None:
    assert names(attack.contained(Archive().entry("label", b"V").file("f", "x").entry("label", b"V", b"with content"))) == ["f"]


def test_C11_extension_type_with_a_hostile_name(attack: Attack) -> None:
    body = record("comment", "x")
    archive = Archive().entry("../../../sentinel/secret", b"x", body, link="/etc").file("f", "x")
    assert names(attack.contained(archive)) == ["f"]


# -- C12: many ----------------------------------------------------------------------------------


def repeated(chunk: bytes, times: int, rest: bytes) -> Layer:
    """A layer with a chunk that is repeated, as gzip members: large unpacked, small here."""
    digest = hashlib.sha256()
    for _ in range(times):
        digest.update(chunk)
    digest.update(rest)
    return Layer(b"", blob=gzip.compress(chunk, 6, mtime=0) * times + gzip.compress(rest, 6, mtime=0), diff_id=digest.hexdigest())


def test_C12_more_entries_than_the_bound(attack: Attack) -> None:
    """Four million entries that cost no inode: two gigabytes of headers from a few kilobytes."""
    chunk = header("null", b"3") * 10_000
    attack.refused(repeated(chunk, 401, END), match="more than 4000000 entries in one layer", core=False)


@pytest.mark.parametrize("count", [100_000, *([1_000_000] if os.environ.get("GROOT_FULL") else [])])
def test_C12_many_files(attack: Attack, count: int) -> None:
    """A million with GROOT_FULL=1. Memory grows with the names of one layer: some ten bytes for each."""
    archive = Archive().raw(b"".join(header(f"d{i % 100}/{i}") for i in range(count)))
    url = attack.layout(archive)
    result, peak = attack.store.finish_measured(attack.store.start("create", url, "many"))
    result.ok()
    attack.sentinel.check()
    assert 1 << 20 < peak < (100 << 20) + 40 * count
    rootfs = attack.store.rootfs("many")
    assert sum(len(os.listdir(rootfs / f"d{i}")) for i in range(100)) == count
    attack.store.delete("many")


def test_C12_more_links_than_btrfs_holds(attack: Attack) -> None:
    archive = Archive().file("f", "x")
    for i in range(65_600):
        archive.raw(header(f"l{i}", b"1", link="f"))
    attack.refused(archive, match="link `f` `l6[0-9]*`: too many links", core=False)


@pytest.mark.parametrize("depth", [500, 1500])
def test_C12_deep_directories(attack: Attack, depth: int) -> None:
    deep = "d/" * depth
    rootfs = attack.contained(
        Archive().file(f"{deep}f", "x").dir(deep, mode=0o711), Archive().file(f"{deep}g", "y"), Archive().whiteout("d"), core=False
    )
    assert names(rootfs) == []


def test_C12_deeper_than_a_removal_follows(attack: Attack) -> None:
    """Names are at most 4096 bytes long, but a link can lead down half of the way."""
    half = "d/" * 1500
    lower = Archive().dir(half).symlink("l", half[:-1]).dir("l/" + half)
    attack.refused(lower, Archive().whiteout("d"), match="nested too deeply|deeper than", core=False)


# -- C13, C14 ------------------------------------------------------------------------------------


def test_C13_same_path_a_thousand_times(attack: Attack) -> None:
    archive = Archive().file("other", "other")
    kinds = [
        lambda i: archive.file("p", f"{i}" * 100),
        lambda i: archive.dir("p").file("p/child", f"{i}"),
        lambda _: archive.symlink("p", "/etc"),
        lambda _: archive.link("p", "other"),
    ]
    for i in range(1000):
        kinds[i % 4](i)
    rootfs = attack.contained(archive.file("p", "last"))
    assert names(rootfs) == ["other", "p"] and (rootfs / "p").read_text() == "last" and (rootfs / "other").stat().st_nlink == 1


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("tar", [END, b"", bytes(512), bytes(10240), Archive().whiteout("gone").opaque("d").tar])
def test_C14_layers_without_entries(attack: Attack, tar: bytes, compression: str) -> None:
    rootfs = attack.contained(Archive().file("kept", "x").file("gone").file("d/gone"), Layer(tar, compression))
    assert names(rootfs) == (["d", "kept"] if b".wh." in tar else ["d", "d/gone", "gone", "kept"])
    assert names(attack.contained(Layer(tar, compression))) == []


# -- C15: a second reader ----------------------------------------------------------------------------


NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/e/f", "./a", "/d/x", "a/", "../b", "n" * 120, "d/" + "m" * 110])
TYPES = st.sampled_from([b"0", b"0", b"0", b"\0", b"7", b"5", b"5", b"2", b"1"])
MAGIC = st.sampled_from([b"ustar\x0000", b"ustar  \0", b"\0" * 8])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Entries with extension headers of all kinds, and now and then a wrong byte with a right checksum."""
    archive = Archive()
    for _ in range(draw(st.integers(1, 6))):
        name, typeflag, magic = draw(NAMES), draw(TYPES), draw(MAGIC)
        body = draw(st.binary(max_size=1100)) if typeflag in b"07\0" else b""
        link = draw(NAMES) if typeflag in b"12" else ""
        fields: dict[str, object] = {
            "size": len(body),
            "magic": magic,
            "mode": draw(st.integers(0, 0o7777)),
            "uid": draw(st.integers(0, 70000)),
        }
        pax: dict[str, str] = {}
        for key, value in (("path", name), ("linkpath", link)):
            how = draw(st.sampled_from(["", "", "pax", "gnu"])) if len(value) <= 100 else draw(st.sampled_from(["pax", "gnu"]))
            if how == "gnu" and value:
                archive.long_name(value, b"L" if key == "path" else b"K")
            elif how == "pax" and value:
                pax[key] = value
        if draw(st.booleans()):
            pax |= draw(
                st.fixed_dictionaries(
                    {}, optional={"mtime": st.sampled_from(["5", "5.25", "-1.5"]), "uid": st.just("77"), "comment": st.text(max_size=9)}
                )
            )
        if draw(st.integers(0, 4)) == 0:
            pax["size"] = str(len(body))
            fields["size"] = draw(st.sampled_from([0, 1, 512, 100_000]))
        if pax:
            archive.pax(pax)
        archive.raw(header(name, typeflag, link=link, **fields)).raw(pad(body))  # type: ignore[arg-type]
    tar = bytearray(archive.open)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(tar) - 1))
        start = at - at % BLOCK
        is_header = tar[start + 257 : start + 262] == b"ustar"
        # Not in padding, where Python looks for records.
        if is_header or tar[at] != 0:
            tar[at] = draw(st.sampled_from([0, 0x20, 0x30, 0x37, 0x2F, 0xFF, 0x80]))
        # Not in numbers: Python refuses some that are merely strange.
        if is_header and (at - start < 100 or 124 <= at - start < 136 or 156 <= at - start < 329 or at - start >= 345):
            tar[start : start + BLOCK] = checksum(bytes(tar[start : start + BLOCK]))
    return bytes(tar) + draw(st.sampled_from([END, END, bytes(512), b"", bytes(4096)]))


def read_by_python(tar: bytes) -> Model:
    """The tree as Python's tarfile reads the archive and the model applies it."""
    model = Model()
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as archive:
        layer = model.layer(set())
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() and not member.islnk() else None
            mtime = int(Decimal(str(member.pax_headers.get("mtime", member.mtime))) * 10**9)
            layer.add(
                member.name or ".",
                {"5": "directory", "2": "symlink", "1": "link"}.get(member.type.decode(), "file"),
                stream.read() if stream else b"",
                link=member.linkname,
                mode=member.mode & 0o7777,
                owner=(member.uid, member.gid),
                mtime=mtime,
            )
    return model


@settings(max_examples=400)
@given(archives())
def test_C15_same_tree_as_another_reader_or_refused(tmp_path_factory: pytest.TempPathFactory, tar: bytes) -> None:
    root = tmp_path_factory.mktemp("c15") / "root"
    try:
        apply(root, Layer(tar, "none"))
    except GrootError as error:
        assert str(error)
        return
    except OSError as error:
        assert error.strerror
        return
    try:
        model = read_by_python(tar)
    except (tarfile.TarError, Unusable, ValueError) as error:
        pytest.fail(f"accepted what the other reader refuses: {error!r}")
    model.assert_equals(photograph(root))


def test_C15_archives_of_gnu_tar_and_of_python(attack: Attack, scratch: Path) -> None:
    """Every format that the two common writers know, read back the same."""
    source = scratch / "source"
    (source / "d" / ("n" * 120)).mkdir(parents=True)
    (source / "d" / ("n" * 120) / ("f" * 120)).write_bytes(os.urandom(3000))
    (source / "empty").touch()
    (source / "s").symlink_to("t" * 150)
    os.link(source / "empty", source / "h")
    with (source / "holes").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (source / "d").chmod(0o2750)
    os.chown(source / "empty", 70000, 70001)
    for path in ("d/" + "n" * 120, "d", "empty", "holes", "."):
        os.utime(source / path, (T0, T0))
    tars = []
    for options in (["--format=gnu"], ["--format=pax"], ["--format=gnu", "--sparse"], ["--format=pax", "--sparse"], ["--format=oldgnu"]):
        tool("tar", "-C", source, *options, "-cf", scratch / "made.tar", ".")
        tars.append((scratch / "made.tar").read_bytes())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(source, ".")
    tars.append(buffer.getvalue())
    expected = photograph(source)
    expected["."] = expected["."]._replace(mode=0o755)
    for tar in tars:
        actual = photograph(attack.contained(tar, core=False))
        assert_same(
            {path: node._replace(mtime=0) for path, node in actual.items()},
            {path: node._replace(mtime=0) for path, node in expected.items()},
        )
        assert [actual[path].mtime // 10**9 for path in ("d", "empty", "holes")] == [T0] * 3
