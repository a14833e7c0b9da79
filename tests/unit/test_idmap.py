"""Id mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast import _core, idmap
from groot_fast._core import Layer, parse_mappings
from groot_fast.config import Settings
from groot_fast.errors import Cancelled, StoreError, UsageError
from groot_fast.idmap import namespace, read_subordinate
from groot_fast.idmap.namespaced import Namespaced
from groot_fast.idmap.trees import Terms
from support.plain import plain_store

MAX_ID = 0xFFFF_FFFE


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
    assert parse_mappings([text], []) == ([numbers], [])


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
    with pytest.raises(UsageError, match=f"parsing uid-mapping: {message}"):
        parse_mappings([text], [])


NUMBER = st.integers(0, MAX_ID)


@given(NUMBER, NUMBER, NUMBER)
def test_every_range_that_fits(inside: int, host: int, size: int) -> None:
    fits = size > 0 and inside + size - 1 <= MAX_ID and host + size - 1 <= MAX_ID
    try:
        mappings = parse_mappings([], [f"{inside}:{host}:{size}"])
    except UsageError:
        assert not fits
    else:
        assert fits and mappings == ([], [(inside, host, size)])


@given(st.text(alphabet="0123456789:x -", max_size=20))
def test_any_text_is_a_mapping_or_a_refusal(text: str) -> None:
    try:
        ((numbers,), _) = parse_mappings([text], [])
    except UsageError as error:
        reason = str(error).removeprefix("parsing uid-mapping: ")
        assert reason.startswith(("unexpected EOF", "expected integer", "ids out of range"))
    else:
        assert parse_mappings([":".join(map(str, numbers))], []) == ([numbers], [])


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
            parse_mappings([], texts)
    else:
        assert [":".join(map(str, mapping)) for mapping in parse_mappings([], texts)[1]] == texts


def test_subordinate_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "subuid"
    file.write_text("# comment\nroot:100000:65536\nother:5:5\n\nroot:x:1\nroot:1:0\n0:300000:10\nroot:1\nroot:-1:5\n")
    read = _core.read_ranges
    monkeypatch.setattr(idmap._core, "read_ranges", lambda _path: read(str(file)))
    uids, _ = read_subordinate("root", "root")
    assert uids == [(0, 0, 1), (1, 100000, 65536), (65537, 300000, 10)]


def test_a_range_that_is_given_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "subuid"
    file.write_text("root:100000:65536\nroot:100000:65536\n0:100000:65536\n")
    read = _core.read_ranges
    monkeypatch.setattr(idmap._core, "read_ranges", lambda _path: read(str(file)))
    assert read_subordinate("root", "root")[0] == [(0, 0, 1), (1, 100000, 65536)]


@pytest.mark.parametrize("line", ["root:120000:65536", "root:0:1", "root:4294967290:10"])
def test_ranges_in_files_are_checked_as_those_of_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    file = tmp_path / "subuid"
    file.write_text(f"root:100000:65536\n{line}\n")
    read = _core.read_ranges
    monkeypatch.setattr(idmap._core, "read_ranges", lambda _path: read(str(file)))
    with pytest.raises(UsageError, match=r"ranges in /etc/subuid and /etc/subgid cannot be used: .*(overlap|out of range)"):
        read_subordinate("root", "root")


def test_subordinate_of_nobody_known() -> None:
    with pytest.raises(UsageError, match="error reading mappings for user 'no-such-user': no matching entries in passwd file"):
        read_subordinate("no-such-user", "root")
    with pytest.raises(UsageError, match="error reading mappings for group 'no-such-group': no matching entries in group file"):
        read_subordinate("root", "no-such-group")


def test_what_a_stopped_child_was_writing_goes(tmp_path: Path) -> None:
    """It is killed, and nobody else knows the name of the record."""
    store = plain_store(tmp_path)
    blob = tmp_path / "blob"
    blob.write_bytes(b"")
    listing = store.listing("a" * 64, None, goes_on=False)
    parts = listing.parts()
    assert parts is not None
    leftover = tmp_path / "tmp" / parts[1][1]

    class Stopped:
        def unpack(self, *_: object) -> None:
            leftover.write_bytes(b"half")
            raise Cancelled("stopped by signal 15")

    class Volume:
        def fileno(self) -> int:
            return 0

    trees = Namespaced(cast(Any, None))
    trees._started = cast(Any, Stopped())
    with pytest.raises(Cancelled):
        trees.unpack(cast(Any, Volume()), Layer(chain_id="a"), Layer(chain_id="a", path=blob).open(), Terms(listing))
    assert not leftover.exists()


def test_a_child_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "CHILD", "import sys; sys.stderr.write('starting\\n'); import no_such_module")
    child = namespace.Namespace([(0, 0, 1)], [(0, 0, 1)], Settings({}))
    message = r"ended unexpectedly \(exit status 1\): starting; ModuleNotFoundError: No module named 'no_such_module'$"
    with pytest.raises(StoreError, match=message):
        child.remove(0, "x")
    monkeypatch.setattr(namespace, "CHILD", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(StoreError, match=r"ended unexpectedly \(killed by signal 9\)$"):
        child.remove(0, "x")
