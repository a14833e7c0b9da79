"""What images are, as Python sees it: the rules have their tests beside them (``rust/image``), here are their errors, and any input."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast._core import (
    MAX_CONFIG,
    MAX_MANIFEST,
    Image,
    Index,
    Layer,
    Manifest,
    OciReference,
    chain_ids,
    parse_document,
    parse_platform,
    read_document,
)
from groot_fast.errors import BadImage, ConfigError, LimitExceeded, SourceError

HEX = [f"{i:064x}" for i in range(10)]
DIGESTS = [f"sha256:{text}" for text in HEX]
LEAVES = st.none() | st.booleans() | st.integers() | st.text()


def manifest(count: int = 2, **change: Any) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGESTS[0], "size": 2},
        "layers": [{"mediaType": "tar", "digest": DIGESTS[1 + i % 3], "size": 10} for i in range(count)],
    }
    return json.dumps(document | change).encode()


def config(diff_ids: int = 2, **runtime: Any) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": [DIGESTS[5 + i % 3] for i in range(diff_ids)]}, "config": runtime}).encode()


def join(document: bytes, configuration: bytes) -> Image:
    read = read_document(document, "")
    assert isinstance(read, Manifest)
    return read.join(configuration, "")


def test_an_image() -> None:
    image = join(manifest(), config(Env=["A=b"], Volumes={"/v": {}, "/a": {}}))
    assert [layer.digest for layer in image.layers] == [HEX[1], HEX[2]]
    assert [layer.diff_id for layer in image.layers] == [HEX[5], HEX[6]]
    assert image.chain_ids == chain_ids(DIGESTS[5:7])
    assert (image.env, image.volumes, image.compressed_size, image.warnings) == (["A=b"], ["/a", "/v"], 20, [])


def test_an_image_without_layers_has_an_empty_one() -> None:
    (layer,) = join(manifest(0), config(0)).layers
    assert layer.is_empty and layer.is_here() and os.read(layer.open().fileno(), 1) == b""


def test_errors_have_their_class_and_hint() -> None:
    with pytest.raises(BadImage, match="schema 1 manifests are not supported") as caught:
        read_document(manifest(schemaVersion=1), "")
    assert "push the image again" in str(caught.value.hint)
    with pytest.raises(LimitExceeded, match="manifest is larger than"):
        read_document(b" " * (MAX_MANIFEST + 1), "")
    with pytest.raises(LimitExceeded, match="image configuration is larger than"):
        join(manifest(), config(Env=["x" * MAX_CONFIG]))
    with pytest.raises(ConfigError, match="invalid platform `linux`"):
        parse_platform("linux")
    with pytest.raises(SourceError, match="Image source doesn't exist"):
        OciReference("oci:///nowhere/at/all", "").resolve(validate=True)
    index = read_document(json.dumps({"schemaVersion": 2, "manifests": []}).encode(), "")
    assert isinstance(index, Index)
    with pytest.raises(BadImage, match="no image found in manifest list for architecture s390x, OS linux"):
        index.choose("linux/s390x")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    assert OciReference("oci:///a%ff:t", "").path == "/a\udcff"
    with pytest.raises(SourceError, match="invalid URL escape"):
        OciReference("oci:///a%zz", "")


def test_a_layer_is_a_regular_file_unless_the_source_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("directory", "is a directory"), ("pipe", "not a regular file"), ("nothing", "no such file")):
        with pytest.raises(OSError, match=reason):
            Layer(chain_id="a", path=tmp_path / name).open()
    (layer,) = Image.of_directory("a", tmp_path).layers
    assert layer.directory == str(tmp_path)
    assert Layer(chain_id="a", path=tmp_path / "directory").directory is None


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_document_is_read_or_refused(document: object) -> None:
    body = json.dumps(document).encode()
    with pytest.raises(SourceError):
        read_document(body, "")
    with pytest.raises(SourceError):
        join(manifest(), body)


@given(st.binary(max_size=64))
def test_E5_any_bytes_are_an_object_or_a_bad_image(body: bytes) -> None:
    try:
        assert isinstance(parse_document(body, "x"), dict)
    except BadImage as error:
        assert str(error).isprintable()


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    try:
        assert OciReference(f"oci://{text}", "").path.startswith("/")
    except (SourceError, ValueError) as error:
        assert not any(unicodedata.category(letter) == "Cc" for letter in str(error))
