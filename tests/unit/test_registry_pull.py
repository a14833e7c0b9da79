"""Manifests and small blobs from the fake registry: E3, E6, E10, F5, F8, texts and mirrors."""

from __future__ import annotations

import asyncio
import json
import socket
from email.utils import formatdate
from typing import Any

import pytest

from fake_registry import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, FakeRegistry, Fault, Image, sha256
from groot_fast._core import Manifest
from groot_fast.errors import BadBlob, BadImage, LimitExceeded, RegistryError
from groot_fast.sources.registry import (
    RegistryClient,
    RegistryOptions,
    parse_reference,
)
from groot_fast.sources.registry.failures import parse_retry_after
from groot_fast.sources.registry.retry import Backoff

LAYERS = [b"layer one", b"layer two"]


def options(fake: FakeRegistry, **more: Any) -> RegistryOptions:
    more.setdefault("insecure_registries", (fake.addr,))
    return RegistryOptions(platform="linux/amd64", **more)


def manifest(url: str, opts: RegistryOptions) -> Manifest:
    async def run() -> Manifest:
        async with RegistryClient(parse_reference(url), opts) as client:
            return await client.manifest()

    return asyncio.run(run())


def blob(image: Image, opts: RegistryOptions, size: int | None = None, cap: int = 1000) -> bytes:
    async def run() -> bytes:
        async with RegistryClient(parse_reference(image.url), opts) as client:
            return await client.blob(image.config_digest, len(image.config) if size is None else size, cap)

    return asyncio.run(run())


@pytest.mark.parametrize("oci", [True, False])
def test_a_manifest_by_tag_and_by_digest(oci: bool) -> None:
    with FakeRegistry() as fake:
        image = fake.add("team/app", LAYERS, oci=oci)
        by_tag = manifest(image.url, options(fake))
        assert by_tag.body == manifest(fake.url("team/app", f"@{image.digest}"), options(fake)).body
        assert by_tag.body == image.manifest
        assert by_tag.digest == image.digest
        assert [seen.path for seen in fake.seen][:2] == ["/v2/", "/v2/team/app/manifests/latest"]


def test_headers_of_a_request() -> None:
    with FakeRegistry() as fake:
        manifest(fake.add("app", LAYERS).url, options(fake))
        headers = fake.gets("/manifests/")[0].headers
        assert headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert headers["Accept"].split(", ") == [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
        ]
        assert "Authorization" not in headers


def test_texts_of_refusals() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        with pytest.raises(RegistryError, match=r"^manifest unknown$") as caught:
            manifest(fake.url("app", ":absent"), options(fake))
        assert (caught.value.status, caught.value.codes) == (404, ("MANIFEST_UNKNOWN",))
        for status in (401, 403):
            fake.heal()
            fake.fault("/manifests/", Fault(status=status))
            with pytest.raises(RegistryError) as caught:
                manifest(image.url, options(fake))
            assert str(caught.value) == f"{image.url} does not exist or you do not have permissions to see it."
        fake.heal()
        fake.fault("/blobs/", Fault(status=404))
        with pytest.raises(RegistryError, match=r"^Invalid status code returned when fetching blob 404 \(Not Found\)$"):
            blob(image, options(fake))


def test_nobody_listening_is_refused() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound but not listening: nobody else can take the port meanwhile
        port = probe.getsockname()[1]
        for insecure in ((), (f"127.0.0.1:{port}",)):
            with pytest.raises(RegistryError) as caught:
                manifest(f"docker://127.0.0.1:{port}/a", RegistryOptions(insecure_registries=insecure, attempts=1))
            assert str(caught.value) == (f"pinging docker registry returned: dial tcp 127.0.0.1:{port}: connect: connection refused")


def test_F5_bodies_without_end_are_bounded() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(endless=True), times=1)
        with pytest.raises(LimitExceeded, match="manifest is larger than the limit"):
            manifest(image.url, options(fake))
        assert fake.sent_bytes("/manifests/") < 32 * 1024 * 1024
        fake.heal()
        fake.fault("/manifests/", Fault(status=404, endless=True))
        fake.sent.clear()
        with pytest.raises(RegistryError, match="manifest unknown"):
            manifest(image.url, options(fake))
        assert fake.sent_bytes("/manifests/") < 16 * 1024 * 1024


def test_E10_the_pinned_digest_wins() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(body=image.manifest + b" "))
        with pytest.raises(BadImage) as caught:
            manifest(fake.url("app", f"@{image.digest}"), options(fake))
        assert image.digest[7:] in str(caught.value)
        assert sha256(image.manifest + b" ")[7:] in str(caught.value)


def test_E10_a_tag_must_have_the_digest_its_reply_declares() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(body=image.manifest + b" "))
        with pytest.raises(BadImage, match="manifest digest mismatch"):
            manifest(image.url, options(fake))


def add_index(fake: FakeRegistry, tag: str, children: list[dict[str, Any]], media_type: str = OCI_INDEX) -> str:
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": children}
    return fake.put("app", tag, json.dumps(document).encode(), media_type)


def child(digest: str, body: bytes, media_type: str = OCI_MANIFEST, architecture: str = "amd64") -> dict[str, Any]:
    platform = {"os": "linux", "architecture": architecture}
    return {"mediaType": media_type, "digest": digest, "size": len(body), "platform": platform}


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_E6_an_index_leads_to_the_manifest_of_the_platform(media_type: str) -> None:
    with FakeRegistry() as fake:
        other, mine = fake.add("app", [b"arm"], "arm"), fake.add("app", [b"amd"], "amd")
        children = [child(other.digest, other.manifest, architecture="arm64"), child(mine.digest, mine.manifest)]
        add_index(fake, "multi", children, media_type)
        assert manifest(fake.url("app", ":multi"), options(fake)).digest == mine.digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 5}, "size mismatch: expected: 5, actual"),
        ({"mediaType": DOCKER_LIST}, "ambiguous manifest"),
        ({"platform": {"os": "linux", "architecture": "mips"}}, "no image found in manifest list"),
    ],
)
def test_E6_an_entry_that_does_not_fit(change: dict[str, Any], reason: str) -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        add_index(fake, "multi", [child(image.digest, image.manifest) | change])
        with pytest.raises(BadImage, match=reason):
            manifest(fake.url("app", ":multi"), options(fake))


def test_E6_nested_indexes_are_bounded() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        entry = child(image.digest, image.manifest)
        for depth in range(1, 4):
            digest = add_index(fake, f"deep{depth}", [entry])
            entry = child(digest, fake.manifests["app", digest][0], OCI_INDEX)
        assert manifest(fake.url("app", ":deep2"), options(fake)).digest == image.digest
        with pytest.raises(BadImage, match="nested more than 2 levels"):
            manifest(fake.url("app", ":deep3"), options(fake))


def test_E6_an_index_that_points_to_itself_ends() -> None:
    with FakeRegistry() as fake:
        # no document can hold its own digest, so the server lies: whatever digest is asked for, it is this index
        index = json.dumps({"schemaVersion": 2, "manifests": [child("sha256:" + "0" * 64, b"x", OCI_INDEX)]}).encode()
        fake.put("app", "loop", index, OCI_INDEX)
        fake.manifests["app", "sha256:" + "0" * 64] = (index, OCI_INDEX)
        with pytest.raises(BadImage, match="digest mismatch"):
            manifest(fake.url("app", ":loop"), options(fake))
        assert len(fake.gets("/manifests/")) == 2


def test_E3_a_small_blob_is_verified_and_fetched_again_once() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        evil = b"x" * len(image.config)
        fake.fault("/blobs/", Fault(body=evil), times=1)
        assert blob(image, options(fake)) == image.config
        assert len(fake.gets("/blobs/")) == 2
        fake.fault("/blobs/", Fault(body=evil))
        with pytest.raises(BadBlob) as caught:
            blob(image, options(fake))
        assert len(fake.gets("/blobs/")) == 4
        assert f"expected: {image.config_digest[7:]}, actual: {sha256(evil)[7:]}" in str(caught.value)


@pytest.mark.parametrize(("change", "actual"), [(-1, "more"), (1, "13")])
def test_E3_right_digest_and_wrong_size(change: int, actual: str) -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS, config=b'{"os":"lin"}x')
        size = len(image.config) + change
        with pytest.raises(BadBlob, match=f"size mismatch: expected: {size}, actual: {actual}"):
            blob(image, options(fake), size)


@pytest.mark.parametrize("size", [-1, 1001, 2**63])
def test_E9_a_size_beyond_the_cap_is_not_requested(size: int) -> None:
    with FakeRegistry() as fake:
        with pytest.raises(LimitExceeded):
            blob(fake.add("app", LAYERS), options(fake), size)
        assert fake.seen == []


def test_E2_no_request_is_made_for_a_hostile_digest() -> None:
    async def run(fake: FakeRegistry) -> None:
        async with RegistryClient(parse_reference(fake.url("app")), options(fake)) as client:
            with pytest.raises(BadImage):
                await client.blob("sha256:../../x", 5, 10)
            with pytest.raises(BadImage):
                client.stream("sha256:../../x", 5)

    with FakeRegistry() as fake:
        asyncio.run(run(fake))
        assert fake.seen == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_F8_temporary_statuses_are_tried_again(status: int) -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(status=status), times=3)
        assert manifest(image.url, options(fake)).digest == image.digest
        assert len(fake.gets("/manifests/")) == 4


def test_F8_tries_are_bounded() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(status=503))
        with pytest.raises(RegistryError, match=r"unexpected status 503 \(Service Unavailable\)") as caught:
            manifest(image.url, options(fake))
        assert caught.value.temporary
        assert len(fake.gets("/manifests/")) == 4


def test_F8_final_statuses_are_not_tried_again() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(status=400))
        with pytest.raises(RegistryError, match="unexpected status 400"):
            manifest(image.url, options(fake))
        assert len(fake.gets("/manifests/")) == 1


def test_F8_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("groot_fast.sources.registry.retry.asyncio.sleep", recorded)
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(status=429, headers={"Retry-After": "7"}), times=1)
        fake.fault("/manifests/", Fault(status=429, headers={"Retry-After": "9" * 30}), times=1)
        fake.fault("/manifests/", Fault(status=429, headers={"Retry-After": "soon"}), times=1)
        manifest(image.url, options(fake))
    assert waits[:2] == [7, 60]
    assert 0.5 < waits[2] < 2


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("0", 0, 0),
        (" 5 ", 5, 5),
        (formatdate(0, usegmt=True), 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9, 1e12),
    ],
)
def test_F8_forms_of_retry_after(text: str, low: float, high: float) -> None:
    found = parse_retry_after(text)
    assert found is not None
    assert low <= found <= high


@pytest.mark.parametrize("text", [None, "", "-5", "five", "\u0661", "Fri, 99 Dec 2020 00:00:00 GMT"])
def test_F8_unusable_retry_after(text: str | None) -> None:
    assert parse_retry_after(text) is None


def test_delays_grow() -> None:
    error = RegistryError("x", temporary=True)
    delays = [Backoff().delay(failures, error) for failures in (1, 2, 3)]
    for delay, wanted in zip(delays, (0.1, 0.32, 1.02), strict=True):
        assert 0.79 * wanted <= delay <= 1.21 * wanted


@pytest.mark.parametrize("kind", ["dead", "empty", "broken", "poisoned"])
def test_mirrors_fall_through_to_the_registry(kind: str) -> None:
    with FakeRegistry() as fake, FakeRegistry() as mirror:
        image = fake.add("app", LAYERS)
        if kind == "broken":
            mirror.fault("/v2/", Fault(status=500))
        if kind == "poisoned":
            mirror.add("app", LAYERS)
            mirror.fault("/manifests/", Fault(body=b"{}"))
        host = "127.0.0.1:1" if kind == "dead" else mirror.addr
        opts = options(fake, insecure_registries=(fake.addr, mirror.addr), mirrors={fake.addr: (host,)}, attempts=2)
        assert manifest(image.url, opts).digest == image.digest
        assert bool(mirror.seen) == (kind != "dead")


def test_a_mirror_is_asked_first_and_gets_no_credentials() -> None:
    async def run(image: Image, opts: RegistryOptions) -> bytes:
        async with RegistryClient(parse_reference(image.url), opts) as client:
            await client.manifest()
            return b"".join([chunk async for chunk in client.stream(image.layers[0], len(LAYERS[0]))])

    with FakeRegistry() as fake, FakeRegistry() as mirror:
        mirror.add("app", LAYERS)
        image = fake.add("app", LAYERS)
        insecure = (fake.addr, mirror.addr)
        opts = options(fake, insecure_registries=insecure, mirrors={fake.addr: (mirror.addr,)}, username="u", password="p")
        assert asyncio.run(run(image, opts)) == LAYERS[0]
        assert fake.seen == []
        mirror.auth = "basic"
        assert asyncio.run(run(image, opts)) == LAYERS[0]
        assert fake.gets("/blobs/")
        assert not any("Authorization" in seen.headers for seen in mirror.seen)


def test_a_blob_missing_on_the_mirror_comes_from_the_registry() -> None:
    async def run(image: Image, opts: RegistryOptions) -> bytes:
        async with RegistryClient(parse_reference(image.url), opts) as client:
            await client.manifest()
            return b"".join([chunk async for chunk in client.stream(image.layers[0], 9)])

    with FakeRegistry() as fake, FakeRegistry() as mirror:
        mirror.add("app", LAYERS)
        image = fake.add("app", LAYERS)
        mirror.fault(image.layers[0], Fault(cut_after=4), times=1)
        mirror.fault(image.layers[0], Fault(status=404))
        opts = options(fake, insecure_registries=(fake.addr, mirror.addr), mirrors={fake.addr: (mirror.addr,)})
        assert asyncio.run(run(image, opts)) == LAYERS[0]
        assert fake.gets("/blobs/")[0].headers["Range"] == "bytes=4-"
