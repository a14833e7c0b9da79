"""E and F through the command: hostile registries beside a sentinel. What each part of the client does about them is in
tests/unit/test_registry_*.py; here the whole command comes to its end, and nothing stays and nothing outside is touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_registry import OCI_INDEX, OCI_MANIFEST, FakeRegistry, Fault, Image, sha256
from support.archive import Archive, Layer
from support.attack import Sentinel
from support.command import MIB, Store
from support.tree import Tree, photograph

LAYER = Layer(Archive().file("f", "x" * 100_000).tar)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry on loopback."""
    with FakeRegistry() as made:
        yield made


@pytest.fixture
def sentinel(scratch: Path) -> Sentinel:
    """A tree beside the store."""
    return Sentinel(scratch / "sentinel")


def publish(registry: FakeRegistry, config: dict[str, Any] | None = None) -> Image:
    """An image of one layer."""
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{LAYER.diff_id}"]}}
    return registry.add("app", [LAYER.blob], config=json.dumps({**document, **(config or {})}).encode())


def manifest(image: Image, **changes: object) -> bytes:
    """The manifest with other members."""
    return json.dumps({**json.loads(image.manifest), **changes}).encode()


def replace(kind: str, **changes: object) -> Callable[[FakeRegistry, Image], None]:
    """Serve a manifest with other members under the tag."""
    return lambda registry, image: (registry.put("app", "latest", manifest(image, **changes), kind), None)[1]


def entry(**changes: object) -> dict[str, object]:
    """The descriptor of the layer with other members."""
    return {"mediaType": "layer", "digest": sha256(LAYER.blob), "size": len(LAYER.blob), **changes}


def raw(body: bytes, kind: str = OCI_MANIFEST) -> Callable[[FakeRegistry, Image], None]:
    """Serve these bytes as the manifest."""
    return lambda registry, image: (registry.put("app", "latest", body, kind), None)[1]


def fault(part: str, **fields: Any) -> Callable[[FakeRegistry, Image], None]:
    """Apply a fault to requests with ``part`` in their path; ``LAYER`` is the layer's digest."""
    return lambda registry, image: registry.fault(image.layers[0] if part == "LAYER" else part, Fault(**fields))


CASES: dict[str, Callable[[FakeRegistry, Image], None]] = {
    "E1 manifest and index in one": replace(OCI_MANIFEST, manifests=[]),
    "E2 digest that is a path": replace(OCI_MANIFEST, layers=[entry(digest="sha256:../../sentinel/secret")]),
    "E2 unknown algorithm": replace(OCI_MANIFEST, layers=[entry(digest="md5:" + "0" * 32)]),
    "E2 digest in upper case": replace(OCI_MANIFEST, layers=[entry(digest=sha256(LAYER.blob).upper())]),
    "E3 other bytes": fault("LAYER", body=LAYER.blob[:-1] + b"x"),
    "E3 more bytes": fault("LAYER", body=LAYER.blob + b"x"),
    "E3 size that is too small": replace(OCI_MANIFEST, layers=[entry(size=len(LAYER.blob) - 1)]),
    "E4 more layers than diff ids": replace(OCI_MANIFEST, layers=[entry(), entry()]),
    "E4 ten thousand layers": replace(OCI_MANIFEST, layers=[entry()] * 10_000),
    "E5 deep": raw(b"[" * 100_000),
    "E5 huge": raw(b'{"schemaVersion": 2, "x": "' + b"y" * (8 * MIB) + b'"}'),
    "E5 no text": raw(b"\xff\xfe{}"),
    "E6 index without our platform": raw(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode(), OCI_INDEX),
    "E7 schema 1": raw(b'{"schemaVersion": 1, "fsLayers": [], "history": []}', "application/vnd.docker.distribution.manifest.v1+json"),
    "E8 foreign layer of this machine": replace(
        OCI_MANIFEST,
        layers=[
            entry(
                mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                digest="sha256:" + "1" * 64,
                urls=["http://127.0.0.1:1/x"],
            )
        ],
    ),
    "E9 negative size": replace(OCI_MANIFEST, layers=[entry(size=-1)]),
    "E9 size beyond all": replace(OCI_MANIFEST, layers=[entry(size=2**63)]),
    "E10 tag whose digest header is another": fault("/manifests/", headers={"Docker-Content-Digest": "sha256:" + "0" * 64}),
    "F4 redirect loop": fault("/blobs/", status=307, headers={"Location": "/v2/app/blobs/sha256:" + "0" * 64}),
    "F4 redirect to a file": fault("/blobs/", status=307, headers={"Location": "file:///etc/passwd"}),
    "F5 endless manifest": fault("/manifests/", endless=True),
    "F5 endless layer": fault("LAYER", endless=True),
    "F5 endless error": fault("/manifests/", status=500, endless=True),
    "F9 challenge that is none": fault("/v2/", status=401, headers={"WWW-Authenticate": 'Bearer realm="'}),
    "F10 token server that is no address": fault("/v2/", status=401, headers={"WWW-Authenticate": 'Bearer realm="gopher://x"'}),
}


@pytest.mark.parametrize("case", CASES)
def test_E_and_F_hostile_answers(shared_store: Store, registry: FakeRegistry, sentinel: Sentinel, case: str) -> None:
    image = publish(registry)
    CASES[case](registry, image)
    before = everything(shared_store)
    result = shared_store.run("create", "--insecure-registry", registry.addr, image.url, "hostile")
    result.failed()
    sentinel.check()
    assert everything(shared_store) == before
    assert all("sentinel" not in seen.path for seen in registry.seen), "the text of a digest became part of a request"


@pytest.mark.parametrize(
    "config", [{"config": {"Env": 5}}, {"config": {"Volumes": ["/x"]}}, {"rootfs": {"diff_ids": "x"}}, {"config": {"WorkingDir": {}}}]
)
def test_E11_configurations_of_other_types(shared_store: Store, registry: FakeRegistry, sentinel: Sentinel, config: dict[str, Any]) -> None:
    image = publish(registry, config)
    before = everything(shared_store)
    result = shared_store.run("create", "--insecure-registry", registry.addr, image.url, "hostile")
    if result.code == 0:
        shared_store.delete("hostile")
        shared_store.clean()
    else:
        result.failed()
    sentinel.check()
    assert set(everything(shared_store)) <= set(before) | {"meta/sources"}


@pytest.mark.parametrize(
    "reference",
    [
        "docker:///a//b",
        "docker:///App",
        "docker:///a@sha256:x@sha256:y",
        "docker:///../x",
        "docker:///a b",
        "docker://u:p@h/x",
        "docker:///-x",
    ],
)
def test_E12_references(shared_store: Store, sentinel: Sentinel, reference: str) -> None:
    before = everything(shared_store)
    shared_store.run("create", reference, "hostile").failed()
    sentinel.check()
    assert everything(shared_store) == before


def everything(store: Store) -> Tree:
    """What is in the store, but for lock files, which come and go, downloads that can be continued, and times of folders."""
    tree = photograph(store.path)
    return {path: node._replace(mtime=0) for path, node in tree.items() if not path.startswith(("locks/", "tmp/blob-"))}
