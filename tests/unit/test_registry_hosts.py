"""`hosts.toml`: which hosts are asked, in which order, how, and how long a mirror may make us wait."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from fake_registry import Authority, FakeRegistry, Fault, sha256
from groot_fast.errors import BadBlob, ConfigError
from groot_fast.sources.registry import RegistryClient, RegistryOptions, parse_reference
from groot_fast.telemetry.lager import Logger, open_sink

LAYERS = [bytes(range(256)) * 2000, b"layer two"]


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own files are no part of a test."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def configure(directory: Path, registry: str, text: str) -> Path:
    (directory / registry).mkdir(parents=True, exist_ok=True)
    (directory / registry / "hosts.toml").write_text(text)
    return directory


def pull(url: str, directory: Path, **more: Any) -> list[bytes]:
    """The layers, each asked for again once if its bytes were wrong."""

    async def layer(client: RegistryClient, digest: str, size: int) -> bytes:
        async def once() -> bytes:
            return b"".join([chunk async for chunk in client.stream(digest, size)])

        try:
            got = await once()
        except BadBlob:
            got = await once()
        assert sha256(got) == digest
        return got

    async def run() -> list[bytes]:
        async with RegistryClient(parse_reference(url), RegistryOptions(hosts_directory=directory, attempts=2, **more)) as client:
            document = json.loads((await client.manifest()).body)
            await client.blob(document["config"]["digest"], document["config"]["size"], 1_000_000)
            return [await layer(client, entry["digest"], entry["size"]) for entry in document["layers"]]

    return asyncio.run(run())


def test_hosts_in_order_with_namespace_headers_and_path(tmp_path: Path) -> None:
    with FakeRegistry() as mirror, FakeRegistry() as second, FakeRegistry() as fake:
        fake.add("team/app", LAYERS)
        second.add("cache/team/app", LAYERS)
        text = (
            f'server = "http://{fake.addr}"\n'
            f'[host."http://{mirror.addr}"]\n'
            f'[host."http://{second.addr}/v2/cache"]\noverride_path = true\n'
            f'[host."http://{second.addr}/v2/cache".header]\nx-one = "1"\nx-many = ["a", "b"]\n'
        )
        assert pull("docker://registry.example/team/app", configure(tmp_path, "registry.example", text)) == LAYERS
        assert mirror.gets("/v2/team/app/manifests/latest?ns=registry.example"), "it was asked first, and had nothing"
        assert not fake.seen
        assert len(second.gets("/v2/cache/team/app/blobs/")) == 3
        for seen in second.seen:
            assert seen.path.endswith("?ns=registry.example"), "and nothing else, no ping"
            assert (seen.headers["X-One"], seen.headers["X-Many"]) == ("1", "a, b")


def test_docker_hub_has_another_name_for_itself(tmp_path: Path) -> None:
    with FakeRegistry() as mirror:
        mirror.add("library/alpine", LAYERS)
        directory = configure(tmp_path, "docker.io", f'[host."http://{mirror.addr}"]\n')
        assert pull("docker:///library/alpine", directory) == LAYERS
        assert {seen.path.partition("?")[2] for seen in mirror.seen} == {"ns=docker.io"}


def test_the_registry_itself_gets_no_namespace_and_the_callers_login(tmp_path: Path) -> None:
    with FakeRegistry(auth="basic") as fake, FakeRegistry() as mirror:
        image = fake.add("app", LAYERS)
        directory = configure(tmp_path, fake.addr, f'server = "http://{fake.addr}"\n[host."http://{mirror.addr}"]\n')
        assert pull(image.url, directory, username="sapling", password="leaf-and-root-and-Kafkaesque") == LAYERS
        assert not [seen for seen in fake.seen if "?" in seen.path]
        assert not [seen for seen in mirror.seen if "Authorization" in seen.headers]


def test_tokens_are_asked_for_when_a_host_wants_them(tmp_path: Path) -> None:
    auths = {"auths": {}}
    with FakeRegistry(auth="bearer") as mirror:
        mirror.add("app", LAYERS)
        auths["auths"] = {mirror.addr: {"username": "sapling", "password": "leaf-and-root-and-Kafkaesque"}}
        (tmp_path / "auth.json").write_text(json.dumps(auths))
        directory = configure(tmp_path, "registry.example", f'[host."http://{mirror.addr}"]\n')
        assert pull("docker://registry.example/app", directory, auth_file=tmp_path / "auth.json") == LAYERS
        assert len(mirror.gets("/token")) == 1


def test_who_only_pulls_is_not_asked_what_a_tag_means(tmp_path: Path) -> None:
    with FakeRegistry() as mirror, FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        mirror.add("app", LAYERS)
        text = f'server = "http://{fake.addr}"\n[host."http://{mirror.addr}"]\ncapabilities = ["pull"]\n'
        directory = configure(tmp_path, fake.addr, text)
        assert pull(image.url, directory) == LAYERS
        assert not mirror.gets("/manifests/") and fake.gets("/manifests/latest")
        assert len(mirror.gets("/blobs/")) == 3 and not fake.gets("/blobs/")
        mirror.seen.clear()
        assert pull(fake.url("app", f"@{image.digest}"), directory) == LAYERS
        assert mirror.gets(f"/manifests/{image.digest}") and len(mirror.gets("/blobs/")) == 3


@pytest.mark.parametrize("trust", ["ca", "skip_verify", "neither"])
def test_certificates_of_a_host(trust: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with FakeRegistry(tls=authority.server_context()) as mirror, FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        mirror.add("app", LAYERS)
        line = {"ca": f'ca = "{authority.certificate}"', "skip_verify": "skip_verify = true", "neither": ""}[trust]
        text = f'server = "http://{fake.addr}"\n[host."https://{mirror.addr}"]\n{line}\n'
        assert pull(image.url, configure(tmp_path / "hosts", fake.addr, text)) == LAYERS
        assert bool(mirror.seen) == (trust != "neither") and bool(fake.seen) == (trust == "neither")


@pytest.mark.parametrize("what", ["is dead", "says nothing", "says nothing of a blob", "stops in a blob", "gives wrong bytes"])
def test_a_mirror_never_costs(what: str, tmp_path: Path) -> None:
    with FakeRegistry() as mirror, FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        mirror.add("app", LAYERS)
        if what.startswith("says nothing"):
            part = "/blobs/" if what.endswith("blob") else "/v2/"
            mirror.fault(part, Fault(hook=lambda handler: bool(handler.fake.wait_for_the_end()) or True))
        elif what == "stops in a blob":
            mirror.fault(image.layers[0], Fault(stall_after=300_000))
        elif what == "gives wrong bytes":
            mirror.fault(image.layers[0], Fault(body=bytes(len(LAYERS[0]))))
        host = "127.0.0.1:1" if what == "is dead" else mirror.addr
        directory = configure(tmp_path / "hosts", fake.addr, f'server = "http://{fake.addr}"\n[host."http://{host}"]\n')
        sink = open_sink(str(tmp_path / "log"), "error")
        begun = time.monotonic()
        assert pull(image.url, directory, log=Logger(sink, "test")) == LAYERS
        # Far from what a registry may take; see PATIENCE.
        assert time.monotonic() - begun < 15
        assert f'"mirror":"{host}"' in (tmp_path / "log").read_text()
        if what == "stops in a blob":
            [seen] = fake.gets(image.layers[0])
            assert seen.headers["Range"].startswith("bytes=") and seen.headers["Range"] != "bytes=0-", "the same blob goes on"


def test_headers_of_a_host_go_nowhere_else(tmp_path: Path) -> None:
    with FakeRegistry() as mirror, FakeRegistry() as elsewhere:
        image = mirror.add("app", LAYERS)
        elsewhere.add("app", LAYERS)
        for digest in image.layers:
            location = f"http://{elsewhere.addr}/v2/app/blobs/{digest}"
            mirror.fault(digest, Fault(status=307, headers={"Location": location}, body=b""))
        text = f'[host."http://{mirror.addr}"]\n[host."http://{mirror.addr}".header]\nx-secret = "s"\n'
        directory = configure(tmp_path, "registry.example", text)
        assert pull("docker://registry.example/app", directory) == LAYERS
        assert all("X-Secret" in seen.headers for seen in mirror.seen)
        assert elsewhere.seen and not any("X-Secret" in seen.headers for seen in elsewhere.seen)


def test_a_file_that_makes_no_sense_is_an_error_that_names_it(tmp_path: Path) -> None:
    directory = configure(tmp_path, "registry.example", "[host.\n")
    with pytest.raises(ConfigError, match=r"^cannot use `.*/registry\.example/hosts\.toml`: line 1: "):
        pull("docker://registry.example/app", directory)
