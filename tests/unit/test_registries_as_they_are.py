"""What registries, mirrors, proxies and their operators do in the field; one test a kind."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import ssl
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fake_registry import OCI_INDEX, OCI_MANIFEST, Authority, FakeRegistry, Fault, Image, sha256
from groot_fast.errors import BadBlob, ConfigError, GrootError, RegistryError
from groot_fast.sources.registry import RegistryClient, RegistryOptions, parse_reference
from groot_fast.sources.registry.coding import undo_coding
from groot_fast.telemetry.lager import Logger, open_sink
from support.proxy import proxy

LAYERS = [os.urandom(5000), b"layer two"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own files are no part of a test."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def trusting(*registries: FakeRegistry, **more: Any) -> RegistryOptions:
    more.setdefault("attempts", 2)
    more.setdefault("insecure_registries", tuple(registry.addr for registry in registries))
    return RegistryOptions(**more)


def pull(url: str, options: RegistryOptions) -> list[bytes]:
    """Configuration and layers, each layer checked as the unpacker would, and asked for again once."""

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
        async with RegistryClient(parse_reference(url), options) as client:
            document = json.loads((await client.manifest()).body)
            config = document["config"]
            first = await client.blob(config["digest"], config["size"], 1_000_000)
            rest = await asyncio.gather(*(layer(client, entry["digest"], entry["size"]) for entry in document["layers"]))
            return [first, *rest]

    return asyncio.run(run())


def refused(url: str, options: RegistryOptions) -> GrootError:
    with pytest.raises(GrootError) as caught:
        pull(url, options)
    assert str(caught.value).isprintable()
    return caught.value


def logging(path: Path) -> Logger:
    return Logger(open_sink(str(path), "debug"), "test")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- trust -------------------------------------------------------------------------------


def put(base: Path, name: str, **files: Path) -> Path:
    (base / name).mkdir(parents=True)
    for file, source in files.items():
        shutil.copy(source, base / name / file.replace("_", "."))
    return base


@pytest.mark.parametrize(
    ("image", "name"),
    [("127.0.0.21", "127.0.0.21"), ("127.0.0.21", "127.0.0.21:443"), ("127.0.0.21:443", "127.0.0.21:443")],
)
def test_certificates_of_a_registry_on_the_default_port(authority: Authority, tmp_path: Path, image: str, name: str) -> None:
    with FakeRegistry(tls=authority.server_context("default", "IP:127.0.0.21"), host="127.0.0.21", port=443) as fake:
        fake.add("app", LAYERS)
        certs = put(tmp_path, name, ca_crt=authority.certificate)
        assert pull(f"docker://{image}/app", RegistryOptions(certs_dirs=(certs,)))[1:] == LAYERS
        hint = refused(f"docker://{image}/app", RegistryOptions()).hint
        assert hint is not None and hint.endswith(f"certs.d/{image}/ca.crt")


def test_an_insecure_registry_on_the_default_port(authority: Authority) -> None:
    with FakeRegistry(tls=authority.server_context("default2", "IP:127.0.0.99"), host="127.0.0.22", port=443) as fake:
        fake.add("app", LAYERS)
        for image in ("127.0.0.22", "127.0.0.22:443"):
            assert pull(f"docker://{image}/app", RegistryOptions(insecure_registries=(image,)))[1:] == LAYERS
        refused("docker://127.0.0.22/app", RegistryOptions(insecure_registries=("127.0.0.22:443",)))


def test_upper_case_and_long_ipv6_are_the_same_place(authority: Authority, tmp_path: Path) -> None:
    with FakeRegistry(tls=authority.server_context("upper", "DNS:localhost")) as fake:
        fake.add("app", LAYERS)
        port = fake.addr.rpartition(":")[2]
        for name, image in (("LOCALHOST", "LOCALHOST"), ("localhost", "LocalHost")):
            certs = put(tmp_path / name, f"{name}:{port}", ca_crt=authority.certificate)
            assert pull(f"docker://{image}:{port}/app", RegistryOptions(certs_dirs=(certs,)))[1:] == LAYERS
        options = RegistryOptions(insecure_registries=(f"LOCALHOST:{port}",))
        assert pull(f"docker://localhost:{port}/app", options)[1:] == LAYERS
    with FakeRegistry(tls=authority.server_context("six", "IP:::1"), host="::1") as fake:
        fake.add("app", LAYERS)
        port = fake.addr.rpartition(":")[2]
        long = f"docker://[0:0:0:0:0:0:0:1]:{port}/app"
        certs = put(tmp_path / "six", f"[::1]:{port}", ca_crt=authority.certificate)
        assert pull(long, RegistryOptions(certs_dirs=(certs,)))[1:] == LAYERS
        assert pull(long, RegistryOptions(insecure_registries=(f"[::1]:{port}",)))[1:] == LAYERS


def test_a_blob_store_on_the_default_port_has_its_own_certificates(authority: Authority, tmp_path: Path) -> None:
    tls = authority.server_context("blobs", "IP:127.0.0.1,IP:127.0.0.23")
    with FakeRegistry(tls=tls) as fake, FakeRegistry(tls=tls, host="127.0.0.23", port=443) as store:
        image = fake.add("app", LAYERS)
        store.add("app", LAYERS)
        location = f"https://127.0.0.23/v2/app/blobs/{image.layers[0]}"
        fake.fault(image.layers[0], Fault(status=307, headers={"Location": location}))
        put(tmp_path, fake.addr, ca_crt=authority.certificate)
        certs = put(tmp_path, "127.0.0.23", ca_crt=authority.certificate)
        options = RegistryOptions(certs_dirs=(certs,), trusted_hosts=("127.0.0.23",))
        assert pull(image.url, options)[1:] == LAYERS
        failure = refused(image.url, replace(options, trusted_hosts=()))
        assert "add `127.0.0.23:443` to create.trusted_hosts" in str(failure.hint)


@pytest.mark.parametrize("anchor", ["intermediate", "leaf"])
def test_an_intermediate_or_the_leaf_is_trusted_for_itself(authority: Authority, tmp_path: Path, anchor: str) -> None:
    middle = authority.below(f"middle-{anchor}")
    tls = middle.server_context(f"below-{anchor}")
    with FakeRegistry(tls=tls) as fake:
        url = fake.add("app", LAYERS).url
        source = middle.certificate if anchor == "intermediate" else middle.certificate.parent / f"below-{anchor}.cert"
        certs = put(tmp_path, fake.addr, ca_crt=source)
        assert pull(url, RegistryOptions(certs_dirs=(certs,)))[1:] == LAYERS


@pytest.mark.parametrize("right", ["a", "b"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_each_client_certificate_is_tried(authority: Authority, tmp_path: Path, right: str, version: ssl.TLSVersion) -> None:
    stranger = Authority(tmp_path, "stranger")
    context = authority.server_context(f"pairs-{right}-{version}")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    context.load_verify_locations(authority.certificate)
    with FakeRegistry(tls=context) as fake:
        url = fake.add("app", LAYERS).url
        good = authority.issue(f"client-{right}-{version}")
        bad = stranger.issue("client")
        first, second = (good, bad) if right == "a" else (bad, good)
        files = {"ca_crt": authority.certificate, "a_cert": first[0], "a_key": first[1], "b_cert": second[0], "b_key": second[1]}
        certs = put(tmp_path / "certs", fake.addr, **files)
        assert pull(url, RegistryOptions(certs_dirs=(certs,), attempts=1))[1:] == LAYERS


@pytest.mark.parametrize("status", [400, 404, 405, 503])
def test_http_is_tried_when_another_program_has_443(authority: Authority, status: int) -> None:
    tls = authority.server_context(f"other-{status}")
    with FakeRegistry(tls=tls, host="127.0.0.24", port=443) as other, FakeRegistry(host="127.0.0.24", port=80) as fake:
        fake.add("app", LAYERS)
        other.fault("/", Fault(status=status, headers={"Content-Type": "text/html"}, body=b"<html>"))
        assert pull("docker://127.0.0.24/app", RegistryOptions(insecure_registries=("127.0.0.24",)))[1:] == LAYERS
        fake.fault("/", Fault(status=500))
        assert f"status {status}" in str(refused("docker://127.0.0.24/app", RegistryOptions(insecure_registries=("127.0.0.24",))))
    refused("docker://127.0.0.24/app", RegistryOptions(insecure_registries=("127.0.0.24:443",), attempts=1))


def test_every_file_of_ssl_cert_dir_counts(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = put(tmp_path, "dir", any_name=authority.certificate) / "dir"
    (directory / "README").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}/absent:{directory}")
    with FakeRegistry(tls=authority.server_context("certdir")) as fake:
        assert pull(fake.add("app", LAYERS).url, RegistryOptions())[1:] == LAYERS


# -- exchanges ---------------------------------------------------------------------------


def compressing(fake: FakeRegistry, encode: Any, coding: str) -> Any:
    """A hook that sends what there is in a coding, whatever was asked for."""

    def hook(handler: Any) -> bool:
        status, headers, body = handler._answer(b"")
        packed = encode(body)
        handler.send_response(status)
        for name, value in {**headers, "Content-Encoding": coding, "Content-Length": str(len(packed))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(packed)
        return True

    return hook


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("gzip", bytes)])
@pytest.mark.parametrize("part", ["/manifests/", "/v2/", "/token", "config"])
def test_a_declared_coding_of_small_bodies_is_undone(coding: str, encode: Any, part: str) -> None:
    with FakeRegistry() as fake:
        config = json.dumps({"os": "linux", "filler": "x" * 500}).encode()
        image = fake.add("app", LAYERS, config=config)
        if part == "/token":
            fake.auth = "bearer"
            fake.token_reply = {"filler": "x" * 500}
        fake.fault(image.config_digest if part == "config" else part, Fault(hook=compressing(fake, encode, coding)))
        if part == "/v2/":
            fake._faults[0] = ("/v2/", fake._faults[0][1], [1])  # the ping alone
        options = trusting(fake, username="sapling", password="leaf-and-root-and-Kafkaesque")
        assert pull(image.url, options)[0] == config
        assert {seen.headers["Accept-Encoding"] for seen in fake.seen} == {"identity"}


def test_a_coding_has_bounds() -> None:
    with pytest.raises(GrootError, match="larger than the limit of 1000 bytes"):
        undo_coding(gzip.compress(b"\0" * 10_000_000), "gzip", 1000, "manifest")
    with pytest.raises(RegistryError, match="not in the coding it was declared"):
        undo_coding(b"\x1f\x8bnonsense", "gzip", 1000, "manifest")
    with pytest.raises(RegistryError, match="ended early"):
        undo_coding(gzip.compress(os.urandom(100))[:-20], "gzip", 1000, "manifest")
    with pytest.raises(RegistryError, match="a coding that was not asked for"):
        undo_coding(b"x", "br\n", 1000, "manifest")


def test_a_server_may_think_before_its_first_byte() -> None:
    assert RegistryOptions().response_timeout >= 120

    def think(_: Any) -> bool:
        time.sleep(1)
        return False

    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault("/manifests/", Fault(hook=think))
        assert pull(image.url, trusting(fake, connect_timeout=0.3, response_timeout=5))[1:] == LAYERS
        failure = refused(image.url, trusting(fake, connect_timeout=0.3, response_timeout=0.3, attempts=1))
        assert "did not answer in time" in str(failure)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_of_few_connections_starves_nobody(workers: int) -> None:
    layers = [bytes([number]) * 50 for number in range(20)]
    with FakeRegistry(workers=workers) as fake:
        url = fake.add("app", layers).url
        began = time.monotonic()
        assert pull(url, trusting(fake, stall_timeout=20))[1:] == layers
        assert time.monotonic() - began < 10, "idle connections kept it waiting for minutes"


def test_a_proxy_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(503) as (address, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        failure = refused("docker://registry.invalid/app", RegistryOptions(attempts=3))
        assert "the proxy refused to connect to registry.invalid:443: status 503" in str(failure)
        assert len(heads) == 3


def test_a_pull_through_a_proxy_that_is_busy_at_first(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = authority.server_context("proxied", "DNS:registry.test")
    with FakeRegistry(tls=tls) as fake, proxy(503, 200, behind=fake.addr) as (address, heads):
        fake.add("app", LAYERS)
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        certs = put(tmp_path, "registry.test", ca_crt=authority.certificate)
        assert pull("docker://registry.test/app", RegistryOptions(certs_dirs=(certs,)))[1:] == LAYERS
        assert len(heads) >= 2 and all(head.startswith(b"CONNECT registry.test:443 ") for head in heads)


def test_a_proxy_login_with_an_empty_password_is_sent_and_407_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(407) as (address, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:@{address}")
        failure = refused("docker://registry.invalid/app", RegistryOptions(attempts=2))
        assert failure.hint == "check user and password in HTTPS_PROXY or HTTP_PROXY"
        assert len(heads) == 1 and b"Proxy-Authorization: Basic dXNlcjo=" in heads[0]


def test_each_exchange_is_a_line_of_the_debug_log_without_secrets(tmp_path: Path) -> None:
    log = logging(tmp_path / "log")
    with FakeRegistry(auth="bearer") as fake, FakeRegistry() as store:
        image = fake.add("app", LAYERS)
        store.add("app", LAYERS)
        location = f"http://{store.addr}/v2/app/blobs/{image.layers[0]}?signature=hunter2"
        fake.fault(image.layers[0], Fault(status=307, headers={"Location": location}))
        pull(image.url, trusting(fake, log=log, username="sapling", password="leaf-and-root-and-Kafkaesque"))
        told = [line["data"] for line in lines(tmp_path / "log") if line["message"] == "test.exchange"]
        assert len(told) == len(fake.seen) + len(store.seen) + 1, "and the one by https"
        assert {entry["host"] for entry in told} == {fake.addr, store.addr}
        assert {entry["method"] for entry in told} == {"GET"}
        assert {entry["status"] for entry in told} > {200, 401, 307}
        text = (tmp_path / "log").read_text()
        assert not [secret for secret in ("hunter2", "signature", "tok-", "Kafkaesque", "token?") if secret in text]


# -- authorisation -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ("repository:team/app:pull", "repository:team/app:pull"),
        ("repository:team/app:pull,push", "repository:team/app:pull"),
        ("aws", "aws"),
    ],
)
def test_the_scope_of_the_challenge_is_asked_for_when_ours_is_refused(named: str, wanted: str) -> None:
    scopes: list[str] = []

    def gate(handler: Any) -> bool:
        parts = urlsplit(handler.path)
        if parts.path == "/token":
            scopes.extend(parse_qs(parts.query)["scope"])
            body = json.dumps({"token": scopes[-1].replace("/", "-").replace(":", "-")}).encode()
            handler.send_response(200)
        elif handler.headers.get("Authorization") == f"Bearer {wanted.replace('/', '-').replace(':', '-')}" or parts.path == "/v2/":
            return False
        else:
            body = b""
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", f'Bearer realm="http://{fake.addr}/token",service="s",scope="{named}"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    with FakeRegistry() as fake:
        url = fake.add("docker-remote/team/app", LAYERS).url
        fake.fault("/", Fault(hook=gate))
        assert pull(url, trusting(fake))[1:] == LAYERS
        assert scopes == ["repository:docker-remote/team/app:pull", wanted]


def test_a_helper_that_fails_is_named_to_whoever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "broken"}')
    (tmp_path / "docker-credential-broken").write_text("#!/bin/sh\necho hunter2; exit 1\n")
    (tmp_path / "docker-credential-broken").chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with FakeRegistry(auth="basic") as fake:
        failure = refused(fake.add("app", LAYERS).url, trusting(fake))
        assert "credential helper `docker-credential-broken` failed with status 1" in str(failure.hint)
        assert "hunter2" not in str(failure.hint)


# -- mirrors -----------------------------------------------------------------------------

MIRROR_FAULTS = {
    "a login page": ("/manifests/", Fault(headers={"Content-Type": "text/html"}, body=b"<html>")),
    "a login page for the ping": ("/v2/", Fault(headers={"Content-Type": "text/html"}, body=b"<html>")),
    "nothing": ("/manifests/", Fault(body=b"")),
    "schema 1": ("/manifests/", Fault(body=b'{"schemaVersion":1}')),
    "another digest": ("/manifests/", Fault(body=b'{"schemaVersion":2,"config":{},"layers":[]}')),
    "a limit": ("/manifests/", Fault(status=429, headers={"Retry-After": "50"})),
    "no blobs": ("/blobs/", Fault(status=500)),
    "wrong blobs": ("/blobs/", Fault(body=bytes(5000))),
    "short blobs": ("/blobs/", Fault(body=b"")),
    "a coding": ("/manifests/", Fault(headers={"Content-Encoding": "br"})),
}


@pytest.mark.parametrize("fault", MIRROR_FAULTS)
def test_a_mirror_that_is_of_no_use_is_passed_over_and_logged(fault: str, tmp_path: Path) -> None:
    log = logging(tmp_path / "log")
    with FakeRegistry() as fake, FakeRegistry() as mirror:
        image = fake.add("app", LAYERS)
        mirror.add("app", LAYERS)
        mirror.fault(*MIRROR_FAULTS[fault])
        began = time.monotonic()
        assert pull(image.url, trusting(fake, mirror, mirrors={fake.addr: (mirror.addr,)}, log=log))[1:] == LAYERS
        assert time.monotonic() - began < 20
        assert fake.seen and mirror.seen
        told = [line["data"] for line in lines(tmp_path / "log") if line["message"] == "test.mirror-failed"]
        assert told and {entry["mirror"] for entry in told} == {mirror.addr}


def test_a_mirror_without_our_platform_is_passed_over() -> None:
    with FakeRegistry() as fake, FakeRegistry() as mirror:
        image = fake.add("app", LAYERS)
        entry = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest)}
        for registry, architecture in ((fake, "amd64"), (mirror, "s390x")):
            entry["platform"] = {"os": "linux", "architecture": architecture}
            registry.put(
                "app", "latest", json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode(), OCI_INDEX
            )
        options = trusting(fake, mirror, mirrors={fake.addr: (mirror.addr,)}, platform="linux/amd64")
        assert pull(image.url, options)[1:] == LAYERS


@pytest.mark.parametrize("form", ["{}", "{}/", "http://{}", "http://{}/", "{}/hub/proxy", "http://{}/hub/proxy/", " {}"])
def test_forms_of_a_mirrors_address(form: str) -> None:
    with FakeRegistry() as fake, FakeRegistry() as mirror:
        fake.add("team/app", LAYERS)
        for repository in ("team/app", "hub/proxy/team/app"):
            mirror.add(repository, LAYERS)
        insecure = (fake.addr,) if "http://" in form else (fake.addr, mirror.addr)
        options = trusting(mirrors={fake.addr.upper(): (form.format(mirror.addr),)}, insecure_registries=insecure)
        assert pull(fake.url("team/app"), options)[1:] == LAYERS
        assert fake.seen == []
        wanted = "/v2/hub/proxy/team/app/manifests/latest" if "hub" in form else "/v2/team/app/manifests/latest"
        assert wanted in [seen.path.partition("?")[0] for seen in mirror.seen]


@pytest.mark.parametrize("text", ["", "ftp://h", "user:hunter2@h", "h/Upper", "h:0", "https://"])
def test_an_address_of_a_mirror_that_is_none_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError, match="an entry of create.registry_mirrors is not the address of a registry") as caught:
        RegistryClient(parse_reference("docker://h/a"), RegistryOptions(mirrors={"h": (text,)}))
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


# -- messages ----------------------------------------------------------------------------


def answer(image: Image, fake: FakeRegistry, status: int, code: str, part: str = "/manifests/") -> GrootError:
    body = json.dumps({"errors": [{"code": code, "message": "text of \x1b[31mthe server"}]}).encode()
    fake.fault(part, Fault(status=status, body=body))
    failure = refused(image.url, trusting(fake, attempts=1))
    assert "text of" not in f"{failure}{failure.hint}"
    return failure


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (429, "TOOMANYREQUESTS", "log in (docker login), wait, or use a mirror"),
        (412, "PROJECTPOLICYVIOLATION", "a policy of the registry refuses this image"),
        (403, "PROJECTPOLICYVIOLATION", "a policy of the registry refuses this image"),
        (451, "DENIED", "legal reasons"),
        (503, "UNAVAILABLE", ""),
    ],
)
def test_a_refusal_names_image_registry_and_reason(status: int, code: str, hint: str) -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        failure = answer(image, fake, status, code)
        assert f"fetching the manifest of {image.url} from {fake.addr}: unexpected status {status}" in str(failure)
        assert str(failure).endswith(f"({code})")
        assert hint in (failure.hint or "")


def test_permission_keeps_the_contracts_text_and_the_code_is_in_the_hint() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        failure = answer(image, fake, 403, "DENIED")
        assert str(failure) == f"{image.url} does not exist or you do not have permissions to see it."
        assert str(failure.hint).endswith("the registry says DENIED")


def test_what_is_unknown_is_named_in_the_hint() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        failure = refused(fake.url("app", ":absent"), trusting(fake))
        assert (str(failure), failure.hint) == ("manifest unknown", f"{fake.addr} has no `app` with the tag `absent`")
        child = {"mediaType": OCI_MANIFEST, "digest": sha256(b"gone"), "size": 4, "platform": {"os": "linux", "architecture": "amd64"}}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}
        fake.put("app", "index", json.dumps(index).encode(), OCI_INDEX)
        failure = refused(fake.url("app", ":index"), trusting(fake, platform="linux/amd64"))
        assert failure.hint == f"the index of {fake.url('app', ':index')} names {sha256(b'gone')}, which {fake.addr} does not have"
        del fake.blobs[image.config_digest]
        failure = refused(image.url, trusting(fake))
        assert failure.hint == f"{fake.addr} has the image's manifest, and not this blob of it"


@pytest.mark.parametrize("part", ["/v2/", "/manifests/"])
def test_a_login_page_is_said_to_be_one(part: str) -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", LAYERS)
        fake.fault(part, Fault(headers={"Content-Type": "text/html; charset=utf-8"}, body=b"<html>Sign in</html>"))
        failure = refused(image.url, trusting(fake))
        assert f"{fake.addr} answered with a web page" in str(failure)
        assert "a login page or a proxy" in str(failure.hint)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_alert_of_tls_is_said_to_be_one(authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.server_context(f"alert-{version}")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    context.load_verify_locations(authority.certificate)
    with FakeRegistry(tls=context) as fake:
        failure = refused(fake.add("app", LAYERS).url, trusting(fake, attempts=1))
        assert "operation not permitted" not in str(failure)
        assert f"/etc/docker/certs.d/{fake.addr}" in str(failure.hint)
