"""Authorisation: F1, F2, F3, F9, F10 and that no secret leaves its place."""

from __future__ import annotations

import asyncio
import json
import ssl
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_registry import PASSWORD, USERNAME, Authority, FakeRegistry, Fault, Image, basic
from groot_fast._core import parse_challenges
from groot_fast.errors import RegistryError
from groot_fast.sources.registry import RegistryClient, RegistryOptions, parse_reference

LAYERS = [b"layer one", b"layer two"]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server context for 127.0.0.1, and a directory that holds its authority as ca.pem."""
    directory = tmp_path_factory.mktemp("certs")
    return Authority(directory).server_context(), directory


def options(fake: FakeRegistry, **more: Any) -> RegistryOptions:
    more.setdefault("insecure_registries", (fake.addr,))
    return RegistryOptions(username=USERNAME, password=PASSWORD, **more)


def pull(image: Image, opts: RegistryOptions) -> list[bytes]:
    async def one(client: RegistryClient, digest: str) -> bytes:
        return b"".join([chunk async for chunk in client.stream(digest, 9)])

    async def run() -> list[bytes]:
        async with RegistryClient(parse_reference(image.url), opts) as client:
            await client.manifest()
            return await asyncio.gather(*(one(client, digest) for digest in image.layers))

    return asyncio.run(run())


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_pull_with_credentials(auth: str) -> None:
    with FakeRegistry(auth=auth) as fake:
        assert pull(fake.add("team/app", LAYERS), options(fake)) == LAYERS
        assert len(fake.gets("/token")) == (1 if auth == "bearer" else 0)
        assert "Authorization" not in fake.seen[0].headers


def test_the_token_request() -> None:
    with FakeRegistry(auth="bearer") as fake:
        pull(fake.add("team/app", LAYERS), options(fake))
        (seen,) = fake.gets("/token")
        query = parse_qs(urlsplit(seen.path).query)
        assert query == {"account": [USERNAME], "service": ["fake"], "scope": ["repository:team/app:pull"]}
        assert seen.headers["Authorization"] == basic()


@pytest.mark.parametrize(("username", "password"), [("", ""), (USERNAME, "wrong"), (USERNAME, ""), ("other", PASSWORD)])
def test_texts_for_wrong_credentials(username: str, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with FakeRegistry(auth="basic") as fake:
        image = fake.add("app", LAYERS)
        opts = RegistryOptions(insecure_registries=(fake.addr,), username=username, password=password)
        with pytest.raises(RegistryError) as caught:
            pull(image, opts)
        assert str(caught.value) == f"{image.url} does not exist or you do not have permissions to see it."
    with FakeRegistry(auth="bearer") as fake:
        image = fake.add("app", LAYERS)
        opts = RegistryOptions(insecure_registries=(fake.addr,), username=username, password=password)
        with pytest.raises(RegistryError) as caught:
            pull(image, opts)
        assert str(caught.value) == "unable to retrieve auth token: invalid username/password"
        assert fake.gets("/blobs/") == []


def test_an_identity_token_is_posted(tmp_path: Path) -> None:
    with FakeRegistry(auth="bearer") as fake:
        fake.identity_token = "refresh-secret"
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {fake.addr: {"identitytoken": "refresh-secret"}}}))
        opts = RegistryOptions(insecure_registries=(fake.addr,), auth_file=config)
        assert pull(fake.add("team/app", LAYERS), opts) == LAYERS
        (seen,) = fake.gets("/token")
        form = parse_qs(seen.body.decode())
        assert seen.method == "POST"
        assert form["grant_type"] == ["refresh_token"]
        assert form["refresh_token"] == ["refresh-secret"]
        assert form["scope"] == ["repository:team/app:pull"]
        assert "refresh-secret" not in seen.path
        fake.fault("/token", Fault(status=307, headers={"Location": f"http://{fake.addr}/token2"}))
        with pytest.raises(RegistryError, match="redirected a token request"):
            pull(fake.add("team/app", LAYERS), opts)
        assert fake.gets("/token2") == []


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.1:9/token",
        "https://127.0.0.1:9/token",
        "https://127.1:9/token",
        "https://2130706433/token",
        "https://localhost:9/token",
        "https://0.0.0.0/token",
        "https://[::]/token",
        "https://[::1]/token",
        "https://[::ffff:127.0.0.1]/token",
        "https://[64:ff9b::7f00:1]/token",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/token",
        "https://192.168.1.1/token",
        "https://100.64.0.1/token",
        "https://[fd00::1]/token",
        "https://[fe80::1]/token",
        "file:///etc/passwd",
        "ftp://203.0.113.1/",
        "https://user:pw@203.0.113.1/",
        "https://",
        "/token",
        "",
        "https://203.0.113.1:99999/",
        "https://[::1/",
    ],
)
def test_F1_a_realm_that_only_this_machine_can_reach(realm: str, tls: tuple[ssl.SSLContext, Path]) -> None:
    context, certs = tls
    with FakeRegistry(auth="bearer", tls=context) as fake:
        fake.realm = realm
        (certs / fake.addr).mkdir(exist_ok=True)
        (certs / fake.addr / "ca.crt").write_bytes((certs / "ca.pem").read_bytes())
        with pytest.raises(RegistryError) as caught:
            pull(fake.add("app", LAYERS), options(fake, insecure_registries=(), certs_dirs=(certs,), attempts=1))
        assert "refusing" in str(caught.value) or "malformed URL" in str(caught.value)
        assert [seen.path for seen in fake.seen] == ["/v2/"]


def test_F1_the_same_host_and_port_is_allowed(tls: tuple[ssl.SSLContext, Path]) -> None:
    context, certs = tls
    with FakeRegistry(auth="bearer", tls=context) as fake:
        (certs / fake.addr).mkdir(exist_ok=True)
        (certs / fake.addr / "ca.crt").write_bytes((certs / "ca.pem").read_bytes())
        assert pull(fake.add("app", LAYERS), options(fake, insecure_registries=(), certs_dirs=(certs,))) == LAYERS


@pytest.mark.parametrize("target", ["https://169.254.169.254/", "https://0.0.0.0/", "ftp://127.0.0.1/"])
def test_F2_a_token_server_that_redirects_to_a_forbidden_address(target: str) -> None:
    with FakeRegistry(auth="bearer") as fake:
        fake.fault("/token", Fault(status=307, headers={"Location": target}))
        with pytest.raises(RegistryError, match="refusing"):
            pull(fake.add("app", LAYERS), options(fake))


def test_F2_a_redirected_token_request_leaves_the_password_behind() -> None:
    with FakeRegistry(auth="bearer") as fake, FakeRegistry() as other:
        fake.fault("/token", Fault(status=307, headers={"Location": f"http://{other.addr}/token"}))
        with pytest.raises(RegistryError, match="invalid username/password"):
            pull(fake.add("app", LAYERS), options(fake))
        (seen,) = other.seen
        assert "Authorization" not in seen.headers


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_F3_credentials_are_not_sent_to_another_host(auth: str) -> None:
    with FakeRegistry(auth=auth) as fake, FakeRegistry() as other:
        image = fake.add("app", LAYERS)
        other.add("app", LAYERS)
        for digest in image.layers:
            location = f"http://{other.addr}/v2/app/blobs/{digest}?signature=abc%2Fdef%3d"
            fake.fault(digest, Fault(status=307, headers={"Location": location}))
        assert pull(image, options(fake)) == LAYERS
        assert len(other.seen) == 2
        assert not any("Authorization" in seen.headers for seen in other.seen)
        assert all(seen.path.endswith("?signature=abc%2Fdef%3d") for seen in other.seen)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_F3_a_challenge_of_another_host_is_not_answered(auth: str) -> None:
    with FakeRegistry(auth=auth) as fake, FakeRegistry(auth="bearer") as other:
        image = fake.add("app", LAYERS)
        other.add("app", LAYERS)
        location = f"http://{other.addr}/v2/app/blobs/{image.layers[0]}"
        fake.fault(image.layers[0], Fault(status=307, headers={"Location": location}))
        with pytest.raises(RegistryError, match="fetching blob 401"):
            pull(image, options(fake))
        assert other.gets("/token") == []
        assert not any("Authorization" in seen.headers for seen in other.seen)


def test_F10_a_token_that_expires_in_the_middle_is_renewed_once() -> None:
    with FakeRegistry(auth="bearer") as fake:
        image = fake.add("app", LAYERS)

        def revoke(_: object) -> bool:
            fake.revoke()
            return False

        fake.fault("/blobs/", Fault(hook=revoke), times=1)
        assert pull(image, options(fake)) == LAYERS
        assert 2 <= len(fake.gets("/token")) <= 3

        fake.fault("/blobs/", Fault(hook=revoke))
        with pytest.raises(RegistryError, match="do not have permissions"):
            pull(image, options(fake))
        assert len(fake.gets(image.layers[0])) <= 6


@pytest.mark.parametrize("life", [0, -5, None, "soon", 5, True, 1e300])
def test_F10_odd_lifetimes_count_as_a_minute_or_more(life: object) -> None:
    with FakeRegistry(auth="bearer") as fake:
        fake.token_reply = {"expires_in": life}
        assert pull(fake.add("app", LAYERS), options(fake)) == LAYERS
        assert len(fake.gets("/token")) == 1


def test_F10_an_expired_token_is_replaced_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("groot_fast.sources.registry.auth.time.monotonic", lambda: now[0])

    async def run(fake: FakeRegistry, image: Image) -> None:
        async with RegistryClient(parse_reference(image.url), options(fake)) as client:
            await client.manifest()
            now[0] += 50
            await client.manifest()
            assert len(fake.gets("/token")) == 1
            now[0] += 10
            await client.manifest()
            assert len(fake.gets("/token")) == 2

    with FakeRegistry(auth="bearer") as fake:
        fake.token_reply = {"expires_in": 1}
        asyncio.run(run(fake, fake.add("app", LAYERS)))
        assert all(seen.headers.get("Authorization") for seen in fake.gets("/manifests/"))


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"",
        b'{"token":5}',
        b'{"token":""}',
        b'{"token":"a b"}',
        b'{"token":"a\\r\\nX: y"}',
        b'{"token":"\xff"}',
    ],
)
def test_F10_replies_without_a_usable_token(body: bytes) -> None:
    with FakeRegistry(auth="bearer") as fake:
        fake.fault("/token", Fault(body=body))
        with pytest.raises(RegistryError, match="unable to retrieve auth token"):
            pull(fake.add("app", LAYERS), options(fake))


def test_F10_access_token_is_as_good_as_token() -> None:
    with FakeRegistry(auth="bearer") as fake:
        fake.tokens.add("given")
        fake.fault("/token", Fault(body=b'{"access_token":"given"}'))
        assert pull(fake.add("app", LAYERS), options(fake)) == LAYERS


def test_F5_a_token_body_without_end() -> None:
    with FakeRegistry(auth="bearer") as fake:
        fake.fault("/token", Fault(endless=True))
        with pytest.raises(Exception, match="token reply is larger than the limit"):
            pull(fake.add("app", LAYERS), options(fake))
        assert fake.sent_bytes("/token") < 32 * 1024 * 1024


def test_F8_a_token_server_that_fails_twice() -> None:
    with FakeRegistry(auth="bearer") as fake:
        fake.fault("/token", Fault(status=500), times=2)
        assert pull(fake.add("app", LAYERS), options(fake)) == LAYERS


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ("Basic realm=x", [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a/b:pull,push repository:c:pull"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://a/t?x=1,2",
                        "service": "s",
                        "scope": "repository:a/b:pull,push repository:c:pull",
                    },
                )
            ],
        ),
        ("Bearer realm=https://a/t,service=s", [("bearer", {"realm": "https://a/t", "service": "s"})]),
        (
            'Basic realm="a", Bearer realm="b"',
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})],
        ),
        ('BEARER Realm = "b"', [("bearer", {"realm": "b"})]),
        ('Basic realm="a\\"b"', [("basic", {"realm": 'a"b'})]),
        (", ,Basic,", [("basic", {})]),
    ],
)
def test_F9_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        'Basic realm="a',
        'Basic realm="a\\',
        "Basic realm=\0",
        'Basic realm="a",realm="a"',
        "=x",
        'Basic "x"',
        "x" * 20_000,
    ],
)
def test_F9_malformed_challenges(header: str) -> None:
    with pytest.raises(RegistryError, match="malformed authentication challenge"):
        parse_challenges(header)


TEXT = st.characters(exclude_categories=["Cs"])


@given(st.text(TEXT, max_size=200) | st.text(alphabet='Bearer Basic="\\,realm', max_size=60))
def test_F9_any_header_is_parsed_or_a_registry_error(header: str) -> None:
    try:
        found = parse_challenges(header)
    except RegistryError as error:
        assert str(error).isprintable()
    else:
        assert all(scheme and scheme == scheme.lower() for scheme, _ in found)


NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]))


@given(st.dictionaries(NAMES, VALUES))
def test_F9_quoted_values_come_back(parameters: dict[str, str]) -> None:
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in parameters.items()}
    header = "Bearer " + ",".join(f'{name}="{value}"' for name, value in escaped.items())
    if len(header) <= 16 * 1024:
        assert parse_challenges(header) == [("bearer", parameters)]


@pytest.mark.parametrize("challenge", ["Digest realm=x\xff", "Negotiate", "x" * 1_000_000, 'Bearer realm="'])
def test_F9_challenges_that_cannot_be_answered(challenge: str) -> None:
    with FakeRegistry() as fake:
        fake.fault("/v2/", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        with pytest.raises(RegistryError) as caught:
            pull(fake.add("app", LAYERS), options(fake))
        assert "refused" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("where", ["/v2/", "/token", "/manifests/", "/blobs/"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401, body=f"{PASSWORD} {basic()}".encode()),
        Fault(status=403),
        Fault(status=418),
        Fault(cut_after=1),
        Fault(body=b"\0", status=200),
        Fault(status=307, headers={"Location": f"ftp://{USERNAME}:{PASSWORD}@h/{PASSWORD}?{PASSWORD}"}),
        Fault(headers={"Content-Length": "nonsense"}),
        Fault(headers={"X": "y" * 100_000}),
    ],
    ids=["401", "403", "418", "cut", "garbage", "redirect", "length", "header"],
)
def test_no_secret_in_any_error(auth: str, where: str, fault: Fault) -> None:
    with FakeRegistry(auth=auth) as fake:
        image = fake.add("app", LAYERS)
        fake.fault(where, fault)
        opts = options(fake, attempts=2)
        shown = [repr(opts)]
        try:
            got = pull(image, opts)
            shown.append(repr(got))
        except Exception as error:  # whatever its class, it is printed somewhere
            shown += [str(error), repr(error), str(getattr(error, "hint", "")), *traceback.format_exception(error)]
        for secret in (PASSWORD, basic()[6:], "-secret"):
            assert not any(secret in text for text in shown)
