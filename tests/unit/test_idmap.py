"""Id mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast import idmap
from groot_fast._core import Layer
from groot_fast.errors import Cancelled, UsageError
from groot_fast.idmap import MAX_ID, Mapping, Mappings, parse_mapping, parse_mappings, read_subordinate
from groot_fast.idmap.namespaced import Namespaced


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0:1000:1", (0, 1000, 1)),
        ("1:100000:65536", (1, 100000, 65536)),
        ("007:08:9", (7, 8, 9)),
        (f"{MAX_ID}:{MAX_ID}:1", (MAX_ID, MAX_ID, 1)),
        (f"0:0:{MAX_ID + 1}", (0, 0, MAX_ID + 1)),
    ],
)
def test_accepted(text: str, numbers: tuple[int, int, int]) -> None:
    mapping = parse_mapping(text)
    assert (mapping.inside, mapping.host, mapping.size) == numbers
    assert str(mapping) == ":".join(map(str, numbers))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected EOF"),
        ("1", "unexpected EOF"),
        ("1:2", "unexpected EOF"),
        ("1:", "unexpected EOF"),
        ("a", "expected integer"),
        ("a:b:c", "expected integer"),
        ("1:2:x", "expected integer"),
        ("1:2:3:4", "expected integer"),
        ("1::3", "expected integer"),
        ("-1:2:3", "expected integer"),
        ("+1:2:3", "expected integer"),
        (" 1:2:3", "expected integer"),
        ("1:2:3\n", "expected integer"),
        ("\uff11:2:3", "expected integer"),
        ("0x1:2:3", "expected integer"),
        ("1:2:0", "ids out of range"),
        (f"{MAX_ID}:0:2", "ids out of range"),
        (f"0:{MAX_ID + 1}:1", "ids out of range"),
        (f"0:0:{1 << 64}", "ids out of range"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mapping(text)
    with pytest.raises(UsageError, match=f"parsing uid-mapping: {message}"):
        parse_mappings([text], "uid")


NUMBER = st.integers(0, MAX_ID)


@given(NUMBER, NUMBER, NUMBER)
def test_every_range_that_fits(inside: int, host: int, size: int) -> None:
    fits = size > 0 and inside + size - 1 <= MAX_ID and host + size - 1 <= MAX_ID
    try:
        mapping = parse_mapping(f"{inside}:{host}:{size}")
    except ValueError:
        assert not fits
    else:
        assert fits and mapping == Mapping(inside, host, size)


@given(st.text(alphabet="0123456789:x -", max_size=20))
def test_any_text_is_a_mapping_or_a_refusal(text: str) -> None:
    try:
        mapping = parse_mapping(text)
    except ValueError as error:
        assert str(error).startswith(("unexpected EOF", "expected integer", "ids out of range"))
    else:
        assert parse_mapping(str(mapping)) == mapping


@pytest.mark.parametrize(
    ("texts", "overlap"),
    [
        (["0:1000:1", "1:100000:65536"], False),
        (["0:1000:10", "10:2000:10"], False),
        (["0:1000:10", "9:2000:10"], True),
        (["0:1000:10", "100:1009:10"], True),
        (["0:1000:10", "0:1000:10"], True),
        (["5:100:1", "0:200:10"], True),
        ([], False),
    ],
)
def test_overlaps(texts: list[str], *, overlap: bool) -> None:
    if overlap:
        with pytest.raises(UsageError, match=f"gid mappings {texts[0]} and {texts[1]} overlap"):
            parse_mappings(texts, "gid")
    else:
        assert list(map(str, parse_mappings(texts, "gid"))) == texts


@pytest.mark.parametrize(
    ("uids", "gids", "owner"),
    [
        (["0:1000:1"], ["0:1001:1"], (1000, 1001)),
        (["1:5:9", "0:1000:1"], ["0:1001:1", "1:5:9"], (1000, 1001)),
        (["0:1000:2"], ["0:1001:1"], None),
        (["0:1000:1"], [], None),
        ([], [], None),
    ],
)
def test_owner(uids: list[str], gids: list[str], owner: tuple[int, int] | None) -> None:
    mappings = Mappings(parse_mappings(uids, "uid"), parse_mappings(gids, "gid"))
    assert mappings.owner() == owner and bool(mappings) == bool(uids or gids)


def test_subordinate_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "subuid"
    file.write_text("# comment\nroot:100000:65536\nother:5:5\n\nroot:x:1\nroot:1:0\n0:300000:10\nroot:1\nroot:-1:5\n")
    monkeypatch.setattr(idmap, "read_ranges", lambda _path, read=idmap.read_ranges: read(str(file)))
    mappings = read_subordinate("root", "root")
    assert list(map(str, mappings.uids)) == ["0:0:1", "1:100000:65536", "65537:300000:10"]
    assert mappings.owner() == (0, 0)


def test_subordinate_of_nobody_known() -> None:
    with pytest.raises(UsageError, match="error reading mappings for user 'no-such-user': no matching entries in passwd file"):
        read_subordinate("no-such-user", "root")
    with pytest.raises(UsageError, match="error reading mappings for group 'no-such-group': no matching entries in group file"):
        read_subordinate("root", "no-such-group")


def test_what_a_stopped_child_was_writing_goes(tmp_path: Path) -> None:
    """It is killed, and nobody else knows the name of the record."""
    blob, leftover = tmp_path / "blob", tmp_path / "record"
    blob.write_bytes(b"")

    class Stopped:
        def unpack(self, *_: object) -> None:
            leftover.write_bytes(b"half")
            raise Cancelled("stopped by signal 15")

    operations: Any = Namespaced(Mappings([], []), cast(Any, None))
    operations._started = Stopped()
    with pytest.raises(Cancelled):
        operations.unpack("volume", Layer(chain_id="a"), Layer(chain_id="a", path=blob).open(), ("listing", str(leftover), None, "- -"))
    assert not leftover.exists()
