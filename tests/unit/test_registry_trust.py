"""TLS (F15), and pulls from Debian's real registry."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from fake_registry import PASSWORD, USERNAME, Authority, FakeRegistry, sha256
from groot_fast.errors import ConfigError, RegistryError
from groot_fast.sources.registry import RegistryClient, RegistryOptions, parse_reference
from groot_fast.sources.registry.trust import Trust

INSECURE = "This registry is insecure. To pull images from this registry, please use the --insecure-registry option."
# bcrypt of PASSWORD is made by no tool of the standard library, so the real registry gets this account
REAL_USER, REAL_PASSWORD = "sapling", "leaf-and-root"
HTPASSWD = "sapling:$2b$05$CYHB6u8IVpA1Q/VNxQCF2.wz8ZEWPpNnWPhEdUVNy4Sf2DJ7WD9Wm\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def pull(url: str, opts: RegistryOptions) -> list[str]:
    """Digests of the configuration and the layers as they came."""

    async def run() -> list[str]:
        async with RegistryClient(parse_reference(url), opts) as client:
            document = json.loads((await client.manifest()).body)
            config = document["config"]
            found = [sha256(await client.blob(config["digest"], config["size"], 1_000_000))]
            for layer in document["layers"]:
                digest = hashlib.sha256()
                async for chunk in client.stream(layer["digest"], layer["size"]):
                    digest.update(chunk)
                found.append("sha256:" + digest.hexdigest())
            return found

    return asyncio.run(run())


def certs_d(directory: Path, host: str, **files: Path) -> Path:
    (directory / host).mkdir(parents=True)
    for name, source in files.items():
        shutil.copy(source, directory / host / name.replace("_", "."))
    return directory


def test_F15_unknown_authority_has_the_contracts_text(authority: Authority) -> None:
    with FakeRegistry(tls=authority.server_context()) as fake:
        image = fake.add("app", [b"layer"])
        with pytest.raises(RegistryError) as caught:
            pull(image.url, RegistryOptions())
        assert str(caught.value) == INSECURE
        assert f"certs.d/{fake.addr}" in str(caught.value.hint)
        assert fake.seen == []


def test_F15_certs_d_and_the_insecure_list_cure_it(authority: Authority, tmp_path: Path) -> None:
    with FakeRegistry(tls=authority.server_context()) as fake:
        image = fake.add("app", [b"layer"])
        expected = [image.config_digest, *image.layers]
        certs = certs_d(tmp_path, fake.addr, ca_crt=authority.certificate)
        assert pull(image.url, RegistryOptions(certs_dirs=(tmp_path / "absent", certs))) == expected
        assert pull(image.url, RegistryOptions(insecure_registries=(fake.addr,))) == expected
        with pytest.raises(RegistryError):
            pull(image.url, RegistryOptions(insecure_registries=("127.0.0.1", "127.0.0.1:2", f"x{fake.addr}")))


@pytest.mark.parametrize(
    ("subject", "days", "reason"),
    [
        ("IP:127.0.0.1", -1, "certificate has expired"),
        ("IP:127.0.0.2", 2, "IP address mismatch"),
        ("DNS:other.example", 2, "IP address mismatch"),
    ],
)
def test_F15_bad_certificates_fail_closed(authority: Authority, tmp_path: Path, subject: str, days: int, reason: str) -> None:
    context = authority.server_context(f"bad{days}", subject, days=days)
    with FakeRegistry(tls=context) as fake:
        image = fake.add("app", [b"layer"])
        certs = certs_d(tmp_path, fake.addr, ca_crt=authority.certificate)
        with pytest.raises(RegistryError, match=reason) as caught:
            pull(image.url, RegistryOptions(certs_dirs=(certs,)))
        assert caught.value.hint
        assert fake.seen == []
        assert pull(image.url, RegistryOptions(insecure_registries=(fake.addr,)))


def test_F15_client_certificates(authority: Authority, tmp_path: Path) -> None:
    context = authority.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    with FakeRegistry(tls=context) as fake:
        image = fake.add("app", [b"layer"])
        bare = certs_d(tmp_path / "bare", fake.addr, ca_crt=authority.certificate)
        with pytest.raises(RegistryError) as caught:
            pull(image.url, RegistryOptions(certs_dirs=(bare,), attempts=1))
        assert fake.seen == []
        # the alert that says so may be overtaken by the reset of the connection, so only the hint is certain
        assert "client.cert" in str(caught.value.hint)
        certificate, key = authority.issue("client")
        full = certs_d(tmp_path / "full", fake.addr, ca_crt=authority.certificate, client_cert=certificate, client_key=key)
        assert pull(image.url, RegistryOptions(certs_dirs=(full,))) == [image.config_digest, *image.layers]


def test_F15_plain_http_is_refused_with_a_hint() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", [b"layer"])
        with pytest.raises(RegistryError, match="server gave HTTP response to HTTPS client") as caught:
            pull(image.url, RegistryOptions(username=USERNAME, password=PASSWORD))
        assert f"--insecure-registry {fake.addr}" in str(caught.value.hint)
        assert fake.seen == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"ca.crt": "nonsense"}, "cannot use certificate"),
        ({"client.cert": "nonsense", "client.key": "nonsense"}, "cannot use certificate"),
        ({"client.cert": ""}, "`client.key` is missing"),
        ({"client.key": ""}, "`client.cert` is missing"),
    ],
)
def test_F15_unusable_files_in_certs_d(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    (tmp_path / "h").mkdir()
    for name, text in files.items():
        (tmp_path / "h" / name).write_text(text)
    with pytest.raises(ConfigError, match=reason):
        Trust((tmp_path,)).contexts(URL("https://h"))


def test_contexts_are_made_once_a_host(tmp_path: Path) -> None:
    trust = Trust((tmp_path,), insecure=("i:1",))

    def mode(host: str) -> ssl.VerifyMode:
        (context,) = trust.contexts(URL(f"https://{host}"))
        assert context is trust.contexts(URL(f"https://{host}"))[0]
        return context.verify_mode

    assert mode("a") == ssl.CERT_REQUIRED
    assert mode("i:1") == ssl.CERT_NONE
    assert mode("i:2") == ssl.CERT_REQUIRED


class RealRegistry:
    """Debian's docker-registry on a port of its own."""

    def __init__(
        self, directory: Path, *, tls: tuple[Path, Path] | None, auth: bool, clients: Path | None = None, upstream: str = ""
    ) -> None:
        directory.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.addr = f"127.0.0.1:{probe.getsockname()[1]}"
        self._context = ssl._create_unverified_context() if tls else None
        if clients is not None and tls is not None and self._context is not None:
            self._context.load_cert_chain(*tls)  # one of the same authority
        http: dict[str, Any] = {"addr": self.addr}
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
            "http": http,
        }
        if tls:
            http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
            if clients is not None:
                http["tls"]["clientcas"] = [str(clients)]
        if upstream:
            config["proxy"] = {"remoteurl": f"http://{upstream}"}
        self._headers = {}
        if auth:
            (directory / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "real", "path": str(directory / "htpasswd")}}
            self._headers = {"Authorization": "Basic c2FwbGluZzpsZWFmLWFuZC1yb290"}
        self._base = f"{'https' if tls else 'http'}://{self.addr}"
        (directory / "config.yml").write_text(json.dumps(config))
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def request(self, method: str, path: str, data: bytes | None = None, content_type: str = "") -> str:
        """One request; gives the Location of the reply."""
        url = path if path.startswith("http") else self._base + path
        request = urllib.request.Request(url, data, {**self._headers, "Content-Type": content_type}, method=method)
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)]
        with urllib.request.build_opener(*handlers).open(request, timeout=10) as reply:
            return str(reply.headers.get("Location", ""))

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(100):
            try:
                self.request("GET", "/v2/")
                return
            except OSError:
                assert self.process.poll() is None, "docker-registry ended"
                time.sleep(0.1)
        pytest.fail("docker-registry does not answer")

    def push(self, repo: str, layers: list[bytes]) -> list[str]:
        """Push an image as ``latest``; gives the digests of configuration and layers."""
        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        entries = []
        for blob in (config, *layers):
            location = self.request("POST", f"/v2/{repo}/blobs/uploads/", b"")
            self.request("PUT", f"{location}&digest={sha256(blob)}", blob, "application/octet-stream")
            kind = "application/vnd.oci.image.layer.v1.tar" if blob is not config else "application/vnd.oci.image.config.v1+json"
            entries.append({"mediaType": kind, "digest": sha256(blob), "size": len(blob)})
        media_type = "application/vnd.oci.image.manifest.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "config": entries[0], "layers": entries[1:]}
        self.request("PUT", f"/v2/{repo}/manifests/latest", json.dumps(document).encode(), media_type)
        return [str(entry["digest"]) for entry in entries]


@contextmanager
def real_registry(
    directory: Path, *, tls: tuple[Path, Path] | None = None, auth: bool = False, clients: Path | None = None, upstream: str = ""
) -> Iterator[RealRegistry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    registry = RealRegistry(directory, tls=tls, auth=auth, clients=clients, upstream=upstream)
    try:
        registry.wait()
        yield registry
    finally:
        registry.process.terminate()
        registry.process.wait(10)


@pytest.mark.parametrize("auth", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_the_real_registry(authority: Authority, tmp_path: Path, tls: bool, auth: bool) -> None:
    with real_registry(tmp_path, tls=authority.issue("real") if tls else None, auth=auth) as registry:
        expected = registry.push("team/app", [os.urandom(3_000_000), b"small"])
        url = f"docker://{registry.addr}/team/app"
        plain = RegistryOptions(username=REAL_USER, password=REAL_PASSWORD) if auth else RegistryOptions()
        insecure = replace(plain, insecure_registries=(registry.addr,))
        assert pull(url, insecure) == expected
        if tls:
            certs = certs_d(tmp_path / "certs", registry.addr, ca_crt=authority.certificate)
            assert pull(url, replace(plain, certs_dirs=(certs,))) == expected
        with pytest.raises(RegistryError, match="insecure" if tls else "HTTP response to HTTPS client"):
            pull(url, plain)
        with pytest.raises(RegistryError, match="manifest unknown"):
            pull(url + ":absent", insecure)
        if auth:
            wrong = replace(insecure, password="wrong")
            with pytest.raises(RegistryError, match=f"{url} does not exist or you do not have permissions to see it."):
                pull(url, wrong)


def test_the_real_registry_wants_a_client_certificate(authority: Authority, tmp_path: Path) -> None:
    with real_registry(tmp_path, tls=authority.issue("real-mutual"), clients=authority.certificate) as registry:
        expected = registry.push("app", [b"layer"])
        url = f"docker://{registry.addr}/app"
        with pytest.raises(RegistryError) as caught:
            pull(url, RegistryOptions(insecure_registries=(registry.addr,), attempts=1))
        assert f"certs.d/{registry.addr}" in str(caught.value.hint)
        certificate, key = authority.issue("real-client")
        certs = certs_d(tmp_path / "certs", registry.addr, ca_crt=authority.certificate, a_cert=certificate, a_key=key)
        assert pull(url, RegistryOptions(certs_dirs=(certs,))) == expected


def test_a_real_pull_through_cache_is_a_mirror(tmp_path: Path) -> None:
    with real_registry(tmp_path / "origin") as origin:
        expected = origin.push("team/app", [os.urandom(200_000)])
        with real_registry(tmp_path / "cache", upstream=origin.addr) as cache:
            insecure = (origin.addr, cache.addr)
            options = RegistryOptions(insecure_registries=insecure, mirrors={origin.addr: (cache.addr,)})
            assert pull(f"docker://{origin.addr}/team/app", options) == expected
            assert list((tmp_path / "cache" / "data").rglob("blobs")), "it came through the cache"


def test_the_real_registry_resumes(tmp_path: Path) -> None:
    blob = os.urandom(2_000_000)

    async def rest(registry: RealRegistry, digest: str) -> bytes:
        opts = RegistryOptions(insecure_registries=(registry.addr,))
        async with RegistryClient(parse_reference(f"docker://{registry.addr}/app"), opts) as client:
            return b"".join([chunk async for chunk in client.stream(digest, len(blob), 1_500_000)])

    with real_registry(tmp_path) as registry:
        _, digest = registry.push("app", [blob])
        assert asyncio.run(rest(registry, digest)) == blob[1_500_000:]
