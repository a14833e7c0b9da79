"""Documents: E1, E5, E6, E7 and the entries of E2 and E9 that sit in an index."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_registry import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from groot_fast.errors import BadImage, ConfigError, LimitExceeded
from groot_fast.sources.registry.document import MAX_BYTES, MAX_DEPTH, parse_document
from groot_fast.sources.registry.manifest import Kind, choose, classify
from groot_fast.sources.registry.options import Platform

DIGESTS = ["sha256:" + f"{number:064x}" for number in range(8)]
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": {}, "layers": []}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": []}


def served(document: dict[str, Any], content_type: str) -> tuple[Kind, str]:
    return classify(json.dumps(document).encode(), content_type)[:2]


@pytest.mark.parametrize(
    ("document", "content_type", "kind", "media_type"),
    [
        (MANIFEST, OCI_MANIFEST, Kind.MANIFEST, OCI_MANIFEST),
        (MANIFEST, OCI_MANIFEST + "; charset=utf-8", Kind.MANIFEST, OCI_MANIFEST),
        (MANIFEST, "", Kind.MANIFEST, OCI_MANIFEST),
        (MANIFEST | {"mediaType": DOCKER_MANIFEST}, "application/json", Kind.MANIFEST, DOCKER_MANIFEST),
        (MANIFEST | {"mediaType": DOCKER_MANIFEST}, DOCKER_MANIFEST, Kind.MANIFEST, DOCKER_MANIFEST),
        (INDEX, OCI_INDEX, Kind.INDEX, OCI_INDEX),
        (INDEX | {"mediaType": DOCKER_LIST}, DOCKER_LIST, Kind.INDEX, DOCKER_LIST),
    ],
)
def test_what_a_document_is(document: dict[str, Any], content_type: str, kind: Kind, media_type: str) -> None:
    assert served(document, content_type) == (kind, media_type)


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        (MANIFEST | INDEX, OCI_MANIFEST),
        (MANIFEST | INDEX, OCI_INDEX),
        (INDEX | {"layers": []}, OCI_INDEX),
        (INDEX | {"config": {}}, ""),
        (MANIFEST, OCI_INDEX),
        (INDEX, OCI_MANIFEST),
        (MANIFEST | {"mediaType": OCI_INDEX}, ""),
        (MANIFEST | {"mediaType": OCI_INDEX}, OCI_MANIFEST),
        (MANIFEST | {"mediaType": DOCKER_MANIFEST}, OCI_MANIFEST),
        (MANIFEST | {"fsLayers": []}, OCI_MANIFEST),
    ],
)
def test_E1_ambiguous_documents(document: dict[str, Any], content_type: str) -> None:
    with pytest.raises(BadImage, match="ambiguous manifest"):
        served(document, content_type)


@pytest.mark.parametrize(
    ("document", "content_type", "reason"),
    [
        ({}, OCI_MANIFEST, "no schemaVersion 2"),
        (MANIFEST | {"schemaVersion": 3}, OCI_MANIFEST, "no schemaVersion 2"),
        (MANIFEST | {"schemaVersion": True}, OCI_MANIFEST, "schema"),
        (MANIFEST | {"schemaVersion": "2"}, OCI_MANIFEST, "no schemaVersion 2"),
        (MANIFEST | {"mediaType": 5}, OCI_MANIFEST, "not text"),
        (MANIFEST | {"mediaType": "x/y"}, "", "unknown media type 'x/y'"),
        (MANIFEST, "text/html", "unknown media type 'text/html'"),
        ({"schemaVersion": 2, "config": {}}, OCI_MANIFEST, "neither config and layers nor manifests"),
    ],
)
def test_E1_documents_that_are_nothing(document: dict[str, Any], content_type: str, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        served(document, content_type)


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({"schemaVersion": 1, "fsLayers": [], "history": []}, "application/json"),
        (MANIFEST, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (MANIFEST | {"mediaType": "application/vnd.docker.distribution.manifest.v1+json"}, ""),
    ],
)
def test_E7_schema_1_is_refused_with_a_hint(document: dict[str, Any], content_type: str) -> None:
    with pytest.raises(BadImage, match="schema 1 manifests are not supported") as caught:
        served(document, content_type)
    assert "push the image again" in str(caught.value.hint)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"5",
        b'"x"',
        b"{",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"\xff{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"\\u0062":2}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":9223372036854775808}',
        b'{"a":-1e300}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    ],
)
def test_E5_hostile_json(body: bytes) -> None:
    with pytest.raises(BadImage):
        parse_document(body, "manifest")


def test_E5_a_document_above_the_cap_is_not_parsed() -> None:
    with pytest.raises(LimitExceeded, match="more than the limit"):
        parse_document(b" " * (MAX_BYTES + 1), "manifest")


def test_E5_the_largest_document_is_parsed_in_time() -> None:
    began = time.monotonic()
    parse_document(b'{"a":[' + b"0," * (MAX_BYTES // 2 - 8) + b"0]}", "manifest")
    assert time.monotonic() - began < 10


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text()))
def test_E5_ordinary_json_is_read_as_it_is(document: dict[str, Any]) -> None:
    assert parse_document(json.dumps(document).encode(), "x") == document
    assert parse_document(json.dumps(document, ensure_ascii=False).encode(), "x") == document


@given(st.binary(max_size=64))
def test_E5_any_bytes_are_an_object_or_a_bad_image(body: bytes) -> None:
    try:
        assert isinstance(parse_document(body, "x"), dict)
    except BadImage as error:
        assert str(error).isprintable()


def entry(number: int, platform: str | None, media_type: str = OCI_MANIFEST, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": media_type, "digest": DIGESTS[number], "size": 5}
    if platform is not None:
        found["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    return found | more


def chosen(platforms: list[str | None], wanted: str) -> int:
    index: dict[str, object] = {"manifests": [entry(number, text) for number, text in enumerate(platforms)]}
    return DIGESTS.index(choose(index, Platform.parse(wanted)).digest)


@pytest.mark.parametrize(
    ("platforms", "wanted", "expected"),
    [
        (["linux/amd64"], "linux/amd64", 0),
        (["windows/amd64", "linux/arm64", "linux/amd64"], "linux/amd64", 2),
        ([None, "linux/amd64"], "linux/amd64", 1),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64", "linux/amd64"], "linux/amd64", 0),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", 1),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v5", "linux/arm"], "linux/arm/v7", 1),
        (["linux/arm/v7"], "linux/arm", 0),
        (["linux/arm64/v8"], "linux/arm64", 0),
        (["linux/arm64"], "linux/arm64/v8", 0),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", 1),
    ],
)
def test_E6_choice_of_platform(platforms: list[str | None], wanted: str, expected: int) -> None:
    assert chosen(platforms, wanted) == expected


@pytest.mark.parametrize(
    ("platforms", "wanted", "text"),
    [
        (["linux/s390x"], "linux/amd64", "no image found in manifest list for architecture amd64, OS linux"),
        ([], "linux/amd64", "no image found in manifest list for architecture amd64, OS linux"),
        (["linux/arm/v7"], "linux/arm/v6", "for architecture arm, variant v6, OS linux"),
        (["linux/arm64/v9"], "linux/arm64/v8", "for architecture arm64, variant v8, OS linux"),
    ],
)
def test_E6_no_matching_platform_lists_what_exists(platforms: list[str | None], wanted: str, text: str) -> None:
    with pytest.raises(BadImage) as caught:
        chosen(platforms, wanted)
    assert text in str(caught.value)
    assert str(platforms[0] if platforms else "no image") in str(caught.value.hint)


@pytest.mark.parametrize(
    "manifests",
    [
        5,
        {},
        [5],
        [entry(0, "linux/amd64", digest="sha256:../../x")],
        [entry(0, "linux/amd64", digest=None)],
        [entry(0, "linux/amd64", size=-1)],
        [entry(0, "linux/amd64", size=2**63 - 1)],
        [entry(0, "linux/amd64", size=True)],
        [entry(0, "linux/amd64", size="5")],
        [entry(0, "linux/amd64", mediaType=None)],
        [entry(0, None) | {"platform": []}],
        [entry(0, None) | {"platform": {"os": 5, "architecture": "amd64"}}],
        [entry(0, "linux/amd64")] * 1025,
    ],
)
def test_E9_hostile_entries_of_an_index(manifests: object) -> None:
    with pytest.raises(BadImage):
        choose({"manifests": manifests}, Platform("linux", "amd64"))


def test_platform_spellings() -> None:
    assert Platform.parse("linux/arm/v7") == ("linux", "arm", "v7")
    assert str(Platform.parse("linux/arm64")) == "linux/arm64"
    assert Platform.of_this_machine().os == "linux"
    for text in ("", "linux", "linux/", "/a", "a/b/c/d"):
        with pytest.raises(ConfigError):
            Platform.parse(text)
