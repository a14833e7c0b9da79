"""Records with anything in them: they read as what they say, or as missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast.idmap import Mappings
from groot_fast.store import records
from groot_fast.store.layout import FOLDERS, Store

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Size", "TreeSize", "x"]), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.binary(max_size=100) | VALUES.map(lambda value: json.dumps(value).encode())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("store")
    for name in FOLDERS:
        (path / name).mkdir()
    return Store(str(path), Mappings([], []))


@given(body=BODIES)
def test_any_size_record(store: Store, body: bytes) -> None:
    Path(records.size_path(store, "a")).write_bytes(body)
    size = records.read_size(store, "a")
    assert size is None or (size.layer >= 0 and (size.tree is None or size.tree >= 0))
    assert records.tree_size(store, ["a"]) >= 0


@given(body=BODIES)
def test_any_record_of_an_image(store: Store, body: bytes) -> None:
    (Path(store.path) / "meta/dependencies/image:i.json").write_bytes(body)
    found = records.read_dependencies(store, "i")
    assert found is None or all(isinstance(name, str) for name in found)
    assert records.Dependencies(store).volumes() == set(found or [])


def test_a_source_that_the_disk_does_not_give_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), Mappings([], []))
    sources = tmp_path / "meta" / "sources"
    sources.mkdir(parents=True)
    for name in ("whole", "damaged"):
        (sources / f"{name}.json").write_text('{"image": "x", "volumes": ["a"]}' if name == "whole" else "{")
    monkeypatch.setattr(records, "_read_bytes", lambda path: None)
    records.prune_sources(store, set())
    assert len(list(sources.iterdir())) == 2
    monkeypatch.undo()
    records.prune_sources(store, {"a"})
    assert [path.name for path in sources.iterdir()] == ["whole.json"]
