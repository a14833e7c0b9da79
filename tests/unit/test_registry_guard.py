"""Where a server may send us: F4, E8, the addresses of F1, and proxies."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from fake_registry import Authority, FakeRegistry, Fault, Image, sha256
from groot_fast.errors import ConfigError, RegistryError
from groot_fast.sources.registry import ForeignLayers, RegistryClient, RegistryOptions, parse_reference
from groot_fast.sources.registry.guard import Guard, GuardedResolver, Reach, reach
from groot_fast.sources.registry.proxies import proxy_for
from groot_fast.sources.registry.stream import Position
from support.proxy import proxy

BLOB = os.urandom(100_000)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a client certificate and its authority, as for remote layers."""
    directory = tmp_path_factory.mktemp("certs")
    Authority(directory, "ca")
    (directory / "ca.crt").write_bytes((directory / "ca.pem").read_bytes())
    return directory


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, certs: Path) -> ssl.SSLContext:
    """A server that demands a client certificate; its client's pair is put into ``certs``."""
    directory = tmp_path_factory.mktemp("server")
    authority = Authority(directory)
    (certs / "server-ca.crt").write_bytes(authority.certificate.read_bytes())
    client, key = authority.issue("client")
    (certs / "client.cert").write_bytes(client.read_bytes())
    (certs / "client.key").write_bytes(key.read_bytes())
    context = authority.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    return context


def options(fake: FakeRegistry, **more: Any) -> RegistryOptions:
    return RegistryOptions(**{"insecure_registries": (fake.addr,), "attempts": 2, **more})


def stream(image: Image, opts: RegistryOptions, urls: tuple[str, ...] = ()) -> bytes:
    async def run() -> bytes:
        async with RegistryClient(parse_reference(image.url), opts) as client:
            return b"".join([chunk async for chunk in client.stream(image.layers[0], len(BLOB), urls=urls)])

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.255.0.9", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("64:ff9b::7f00:1", Reach.LOOPBACK),
        ("2002:7f00:1::", Reach.LOOPBACK),
        ("0.0.0.0", Reach.NEVER),
        ("0.1.2.3", Reach.NEVER),
        ("::", Reach.NEVER),
        ("::7f00:1", Reach.NEVER),
        ("169.254.169.254", Reach.NEVER),
        ("::ffff:169.254.169.254", Reach.NEVER),
        ("fe80::1%eth0", Reach.NEVER),
        ("224.0.0.1", Reach.NEVER),
        ("ff02::1", Reach.NEVER),
        ("240.0.0.1", Reach.NEVER),
        ("255.255.255.255", Reach.NEVER),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("2002:a00:1::", Reach.PRIVATE),
        ("168.63.129.16", Reach.NEVER),
        ("192.88.99.1", Reach.NEVER),
        ("fec0::1", Reach.PRIVATE),
        ("3fff::1", Reach.PRIVATE),
        ("8.8.8.8", Reach.PUBLIC),
        ("172.32.0.1", Reach.PUBLIC),
        ("2606:4700::1111", Reach.PUBLIC),
        ("64:ff9b::808:808", Reach.PUBLIC),
    ],
)
def test_F1_classes_of_addresses(address: str, expected: Reach) -> None:
    assert reach(address) == expected


@given(st.ip_addresses())
def test_F1_every_address_has_a_class(address: object) -> None:
    assert reach(str(address)) in Reach


def test_F1_what_a_name_resolves_to_decides() -> None:
    async def resolve(guard: Guard) -> int:
        return len(await GuardedResolver(guard).resolve("localhost", 9, socket.AF_INET))

    home = URL("https://registry.example")
    with pytest.raises(RegistryError, match="refusing to follow the registry to localhost:9: not a public address"):
        asyncio.run(resolve(Guard(home)))
    assert asyncio.run(resolve(Guard(home, trusted=("localhost:9",)))) == 1
    assert asyncio.run(resolve(Guard(home, insecure=True))) == 1
    assert asyncio.run(resolve(Guard(URL("https://localhost:9")))) == 1


def test_F1_a_private_registry_may_send_us_to_its_own_network() -> None:
    guard = Guard(URL("https://registry.corp"))
    with pytest.raises(RegistryError):
        guard.check(URL("https://10.0.0.9/blob"))
    home = URL("https://registry.corp/v2/")
    guard.check_addresses("registry.corp:443", ["10.0.0.5", "8.8.8.8"])
    guard.answered(home, "10.0.0.5")
    guard.check(URL("https://10.0.0.9/blob"))
    for address in ("127.0.0.1", "169.254.169.254"):
        with pytest.raises(RegistryError):
            guard.check(URL(f"https://{address}/blob"))
    guard.answered(URL("https://elsewhere.example/"), "8.8.8.8")
    guard.check(URL("https://10.0.0.9/blob"))


def test_F1_a_public_registry_gains_nothing_by_naming_a_private_address_of_itself() -> None:
    guard = Guard(URL("https://registry.evil"))
    guard.check_addresses("registry.evil:443", ["10.0.0.5", "8.8.8.8"])
    guard.answered(URL("https://registry.evil/v2/"), "8.8.8.8")
    with pytest.raises(RegistryError) as caught:
        guard.check(URL("https://10.0.0.9/blob"))
    assert caught.value.hint == "if this host is meant, add `10.0.0.9:443` to create.trusted_hosts"


@pytest.mark.parametrize("host", ["0xa9fea9fe", "0x7f.0xab", "0177.0.0.1", "127.1", "2130706433"])
def test_F1_addresses_in_unusual_spellings(host: str) -> None:
    with pytest.raises(RegistryError, match="refusing an address in an unusual spelling"):
        Guard(URL("https://registry.example")).check(URL(f"https://{host}/blob"))


def test_F4_redirects_are_bounded() -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", [BLOB])
        fake.fault("/blobs/", Fault(status=307, headers={"Location": f"/v2/app/blobs/{image.layers[0]}"}))
        with pytest.raises(RegistryError, match="redirected more than 10 times"):
            stream(image, options(fake))
        assert len(fake.gets("/blobs/")) == 11


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_F4_ten_redirects_are_followed(status: int) -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", [BLOB])
        fake.fault("/blobs/", Fault(status=status, headers={"Location": f"/v2/app/blobs/{image.layers[0]}"}), times=10)
        assert stream(image, options(fake)) == BLOB


def test_F4_range_and_redirects_go_together() -> None:
    with FakeRegistry() as fake, FakeRegistry() as store:
        image = fake.add("app", [BLOB])
        store.add("app", [BLOB])
        location = f"http://{store.addr}/v2/app/blobs/{image.layers[0]}"
        fake.fault("/blobs/", Fault(status=307, headers={"Location": location}))
        store.fault("/blobs/", Fault(cut_after=50_000), times=1)
        assert stream(image, options(fake)) == BLOB
        assert store.gets("/blobs/")[1].headers["Range"] == "bytes=50000-"
        assert len(fake.gets("/blobs/")) == 2  # a signed URL may have expired, so the registry is asked again


def test_F4_https_to_http_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with FakeRegistry(tls=authority.server_context()) as fake, FakeRegistry() as plain:
        image = fake.add("app", [BLOB])
        (tmp_path / fake.addr).mkdir()
        (tmp_path / fake.addr / "ca.crt").write_bytes(authority.certificate.read_bytes())
        fake.fault("/blobs/", Fault(status=307, headers={"Location": f"http://{plain.addr}/x"}))
        with pytest.raises(RegistryError, match="refusing a redirect from https to plain http"):
            stream(image, options(fake, insecure_registries=(), certs_dirs=(tmp_path,)))
        assert plain.seen == []


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://",
        "http://[::1",
        "http://h:99999/",
        "//user:pw@h/x",
        "file:///etc/passwd",
        "a b",
        "https://169.254.1.1/",
    ],
)
def test_F4_redirects_to_nowhere(location: str | None) -> None:
    with FakeRegistry() as fake:
        image = fake.add("app", [BLOB])
        fake.fault("/blobs/", Fault(status=307, headers={"Location": location}))
        with pytest.raises(RegistryError, match=r"redirect without a usable target|refusing"):
            stream(image, options(fake))
        assert len(fake.gets("/blobs/")) == 1


def test_E8_urls_are_not_asked_if_the_registry_has_the_blob() -> None:
    with FakeRegistry() as fake, FakeRegistry() as other:
        image = fake.add("app", [BLOB])
        assert stream(image, options(fake, foreign_layers=True), (f"https://{other.addr}/x",)) == BLOB
        assert other.seen == []


def without_blobs(fake: FakeRegistry) -> Image:
    """An image whose layer the registry does not have."""
    image = fake.add("app", [BLOB])
    del fake.blobs[image.layers[0]]
    return image


def test_E8_foreign_layers_are_refused_by_default() -> None:
    with FakeRegistry() as fake, FakeRegistry() as other:
        image = without_blobs(fake)
        with pytest.raises(RegistryError, match="outside the registry, which is refused"):
            stream(image, options(fake), (f"https://{other.addr}/x",))
        assert other.seen == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "https://127.0.0.1:9/x", "https://169.254.169.254/x", "file:///x", "x"])
def test_E8_foreign_layers_at_private_addresses(url: str) -> None:
    with FakeRegistry() as fake:
        image = without_blobs(fake)
        with pytest.raises(RegistryError, match=r"failed fetching external blob from all urls$"):
            stream(image, options(fake, foreign_layers=True), (url,))


def test_E8_foreign_layers_get_the_client_certificate_and_no_credentials(certs: Path, context: ssl.SSLContext) -> None:
    with FakeRegistry() as fake, FakeRegistry(tls=context) as other:
        image = without_blobs(fake)
        other.add("app", [BLOB])
        good = f"https://{other.addr}/v2/app/blobs/{image.layers[0]}"
        opts = options(fake, remote_layer_certificates=certs, username="user", password="pass")
        assert stream(image, opts, (f"https://{other.addr}/absent", good)) == BLOB
        assert not any("Authorization" in seen.headers for seen in other.seen)
        with pytest.raises(RegistryError, match=r"404 \(Not Found\): failed fetching external blob from all urls$"):
            stream(image, opts, (f"https://{other.addr}/absent",))
        with pytest.raises(RegistryError, match=r"failed fetching external blob from all urls$"):
            stream(image, options(fake, foreign_layers=True, trusted_hosts=(other.addr,)), (good,))


def test_E8_foreign_layers_of_an_oci_layout(certs: Path, context: ssl.SSLContext) -> None:
    async def run(opts: RegistryOptions, digest: str, urls: tuple[str, ...]) -> bytes:
        async with ForeignLayers(opts) as foreign:
            return b"".join([chunk async for chunk in foreign.stream(digest, len(BLOB), Position(10), urls)])

    with FakeRegistry(tls=context) as other:
        image = other.add("app", [BLOB])
        other.fault("/blobs/", Fault(cut_after=1000), times=1)
        url = f"https://{other.addr}/v2/app/blobs/{image.layers[0]}"
        opts = RegistryOptions(remote_layer_certificates=certs)
        assert asyncio.run(run(opts, image.layers[0], (url,))) == BLOB[10:]
        with pytest.raises(RegistryError, match="lists 17 urls"):
            asyncio.run(run(opts, image.layers[0], (url,) * 17))


def test_pieces_of_several_urls_are_told_and_the_one_that_broke_off_comes_last(certs: Path, context: ssl.SSLContext) -> None:
    async def run(opts: RegistryOptions, digest: str, urls: tuple[str, ...]) -> tuple[bytes, bool, bytes]:
        async with ForeignLayers(opts) as foreign:
            position = Position()
            first = b"".join([chunk async for chunk in foreign.stream(digest, len(BLOB), position, urls)])
            return first, position.is_joined, b"".join([chunk async for chunk in foreign.stream(digest, len(BLOB), Position(), urls)])

    with FakeRegistry(tls=context) as other:
        image = other.add("app", [BLOB])
        other.fault("/bad", Fault(status=200, body=bytes(len(BLOB)), cut_after=1000), times=1)
        other.fault("/bad", Fault(status=404))
        urls = (f"https://{other.addr}/v2/app/blobs/{image.layers[0]}?/bad", f"https://{other.addr}/v2/app/blobs/{image.layers[0]}")
        joined = bytes(1000) + BLOB[1000:]
        opts = RegistryOptions(remote_layer_certificates=certs, attempts=1)
        assert asyncio.run(run(opts, image.layers[0], urls)) == (joined, True, BLOB)


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("https://h/", {}, None),
        ("https://h/", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://h/", {"https_proxy": "p:3128"}, "http://p:3128"),
        ("https://h/", {"HTTP_PROXY": "http://p"}, None),
        ("http://h/", {"HTTP_PROXY": "http://p"}, "http://p"),
        ("http://h/", {"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}, None),
        ("https://127.0.0.1/", {"HTTPS_PROXY": "http://p"}, None),
        ("https://[::1]/", {"HTTPS_PROXY": "http://p"}, None),
        ("https://localhost:5000/", {"HTTPS_PROXY": "http://p"}, None),
        ("https://h/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "*"}, None),
        ("https://h/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "a, H"}, None),
        ("https://x.h/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "h"}, None),
        ("https://x.h/", {"HTTPS_PROXY": "http://p", "no_proxy": ".h"}, None),
        ("https://h/", {"HTTPS_PROXY": "http://p", "NO_PROXY": ".h"}, "http://p"),
        ("https://xh/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "h"}, "http://p"),
        ("https://h:5000/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "h:5000"}, None),
        ("https://h:5001/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "h:5000"}, "http://p"),
        ("https://10.1.2.3/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://11.1.2.3/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8,x/y"}, "http://p"),
        ("https://10.1.2.3/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "2.3"}, "http://p"),
    ],
)
def test_proxies_from_the_environment(url: str, environ: dict[str, str], expected: str | None) -> None:
    found = proxy_for(URL(url), environ)
    assert found == (None if expected is None else URL(expected))


@pytest.mark.parametrize("value", ["socks5://user:hunter2@h", "http://user:hunter2@", "http://user:hunter2@h:99999"])
def test_an_unusable_proxy_is_an_error_without_its_password(value: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY is not the URL of an http proxy") as caught:
        proxy_for(URL("https://h/"), {"HTTPS_PROXY": value})
    assert "hunter2" not in str(caught.value)


def test_a_proxy_on_a_private_address_is_used_and_gets_only_its_own_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(407) as (address, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://proxyuser:hunter2@{address}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        image = Image("docker://registry.invalid/app", b"", b"", (sha256(b""),))
        opts = RegistryOptions(attempts=1, username="user", password="registry-secret")
        with pytest.raises(RegistryError) as caught:
            stream(image, opts)
        assert "the proxy refused to connect to registry.invalid:443: status 407" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert heads[0].startswith(b"CONNECT registry.invalid:443 ")
        assert b"Proxy-Authorization: Basic cHJveHl1c2VyOmh1bnRlcjI=" in heads[0]
        assert b"registry-secret" not in b"".join(heads)
