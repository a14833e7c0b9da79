"""Manifest and configuration: what is joined, what is refused (bad-inputs, section E)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast.errors import BadImage, SourceError
from groot_fast.sources.image import chain_ids
from groot_fast.sources.manifest import MAX_CONFIG, MAX_LAYERS, Manifest, join_image
from groot_fast.sources.oci import unquote

HEX = [f"{i:064x}" for i in range(10)]


def manifest(count: int = 2, **change: Any) -> Manifest:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "config": {"mediaType": "c", "digest": f"sha256:{HEX[0]}", "size": 2},
        "layers": [{"mediaType": "tar", "digest": f"sha256:{HEX[1 + i % 3]}", "size": 10} for i in range(count)],
    }
    document.update(change)
    return Manifest(json.dumps(document).encode())


def config(diff_ids: int = 2, **runtime: Any) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": [f"sha256:{HEX[5 + i % 3]}" for i in range(diff_ids)]}, "config": runtime}).encode()


def test_join() -> None:
    image = join_image(manifest(), config(Env=["A=b"], Volumes={"/v": {}, "/a": {}}))
    assert [layer.digest for layer in image.layers] == [HEX[1], HEX[2]]
    assert [layer.diff_id for layer in image.layers] == [HEX[5], HEX[6]]
    assert (image.env, image.volumes, image.compressed_size) == (["A=b"], ["/a", "/v"], 20)


def test_skipping_validation_leaves_out_all_that_is_checked() -> None:
    image = join_image(manifest(), config(), validate=False)
    assert {(layer.digest, layer.diff_id, layer.size) for layer in image.layers} == {(None, None, None)}
    assert image.chain_ids == join_image(manifest(), config()).chain_ids


def test_known_chain_ids() -> None:
    """By the original's rule, over the digests without their prefix (contract, section 9.5)."""
    empty = ["afe200c63655576eaa5cabe036a2c09920d6aee67653ae75a9d35e0ec27205a5"]
    assert chain_ids(empty) == empty
    assert chain_ids([HEX[1], HEX[2]])[1] == _sha256(f"{HEX[1]} {HEX[2]}")


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_E4_counts_of_layers_and_diff_ids() -> None:
    with pytest.raises(BadImage, match="manifest has 2 layers, image configuration has 3 diff ids"):
        join_image(manifest(2), config(3))
    with pytest.raises(BadImage, match="manifest has 3 layers, image configuration has 2 diff ids"):
        join_image(manifest(3), config(2))
    with pytest.raises(BadImage, match="no layers"):
        join_image(manifest(0), config(0))
    with pytest.raises(BadImage, match="10000 layers, more than"):
        manifest(10_000)
    assert len(join_image(manifest(MAX_LAYERS), config(MAX_LAYERS)).layers) == MAX_LAYERS


def test_E4_duplicate_layers_are_fine() -> None:
    image = join_image(manifest(7), config(7))
    assert len(set(image.chain_ids)) == 7


@pytest.mark.parametrize("size", [-1, 1 << 63, 1.5, "1", None, True])
def test_E9_sizes(size: object) -> None:
    with pytest.raises(BadImage, match="invalid size"):
        manifest(layers=[{"digest": f"sha256:{HEX[1]}", "size": size}])


def test_E9_embedded_data_is_not_looked_at() -> None:
    layers = [{"digest": f"sha256:{HEX[1]}", "size": 3, "data": "bm90IGl0"}]
    assert join_image(manifest(layers=layers), config(1)).layers[0].digest == HEX[1]


@pytest.mark.parametrize("change", [{"manifests": []}, {"fsLayers": []}])
def test_E1_two_kinds_in_one_document(change: dict[str, object]) -> None:
    with pytest.raises(BadImage, match="ambiguous"):
        manifest(**change)


def test_E7_schema_1() -> None:
    with pytest.raises(BadImage, match="schema version 1") as caught:
        manifest(schemaVersion=1)
    assert caught.value.hint and "push the image again" in caught.value.hint


@pytest.mark.parametrize("runtime", [{"Env": 5}, {"Env": [1]}, {"Env": {"A": "b"}}, {"Volumes": ["/a"]}, {"Volumes": 1}])
def test_E11_unexpected_types(runtime: dict[str, object]) -> None:
    with pytest.raises(BadImage, match=f"image configuration: {next(iter(runtime))}"):
        join_image(manifest(), config(**runtime))


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b"", b'{"rootfs": 1}', b'{"rootfs": {"diff_ids": "x"}}', b"\xff"])
def test_E11_broken_configurations(body: bytes) -> None:
    with pytest.raises(BadImage):
        join_image(manifest(), body)


def test_E11_huge_configuration() -> None:
    with pytest.raises(BadImage, match="larger than"):
        join_image(manifest(), config(Env=["x" * MAX_CONFIG]))


def test_missing_parts_are_empty() -> None:
    body = json.dumps({"rootfs": {"diff_ids": [f"sha256:{HEX[5]}"] * 2}, "config": None}).encode()
    image = join_image(manifest(), body)
    assert (image.env, image.volumes) == ([], [])


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_document_is_read_or_refused(document: object) -> None:
    body = json.dumps(document).encode()
    for read in (Manifest, lambda data: join_image(manifest(), data)):
        with pytest.raises(SourceError):
            read(body)


@pytest.mark.parametrize(("path", "plain"), [("/a%20b", "/a b"), ("/%41", "/A"), ("/a+b", "/a+b"), ("/%C3%A4", "/ä"), ("/%ff", "/\udcff")])
def test_unquote(path: str, plain: str) -> None:
    assert unquote("oci://x", path) == plain


@pytest.mark.parametrize("path", ["/%", "/%4", "/%zz", "/a%^!"])
def test_unquote_refuses(path: str) -> None:
    with pytest.raises(SourceError, match="invalid URL escape"):
        unquote(f"oci://{path}", path)
