"""No image leaves the store for who could not pull it: who asks, how the image is named, and what the registry sees.

Named after SECURITY.md: the tenant of one cell who knows the name or digest of another's image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_registry import PASSWORD, USERNAME, FakeRegistry, Image, basic
from support.archive import Archive, Layer
from support.command import COMMAND, Store

ALICE = ("--username", USERNAME, "--password", PASSWORD)
BOB = ("--username", "bob", "--password", "guessed")
NOBODY: tuple[str, ...] = ()


@pytest.fixture(params=["basic", "bearer"])
def registry(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    """A registry in which only Alice may read."""
    with FakeRegistry(auth=request.param) as made:
        yield made


def publish(registry: FakeRegistry) -> Image:
    layer = Layer(Archive().file("secret", os.urandom(2000)).tar)
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}"]}}
    return registry.add("alice/app", [layer.blob], config=json.dumps(config).encode())


def names(image: Image) -> dict[str, str]:
    """The ways to name it."""
    return {"tag": image.url, "digest": f"{image.url.removesuffix(':latest')}@{image.digest}"}


def asked(registry: FakeRegistry) -> int:
    """Requests for a manifest that were answered with it."""
    return len([seen for seen in registry.gets("/manifests/") if _is_authorized(registry, seen.headers.get("Authorization", ""))])


def _is_authorized(registry: FakeRegistry, header: str) -> bool:
    return header == basic() or header.removeprefix("Bearer ") in registry.tokens


@pytest.mark.parametrize("policy", ["always", "missing"])
@pytest.mark.parametrize("named", ["tag", "digest"])
@pytest.mark.parametrize("verification", ["always", "cached", "never"])
def test_who_gets_what_alice_pulled(store: Store, registry: FakeRegistry, verification: str, named: str, policy: str) -> None:
    image = publish(registry)
    url = names(image)[named]
    options = ["--insecure-registry", registry.addr, "--pull-policy", policy, "--image-verification", verification]
    store.create(url, "first", *options, *ALICE)
    # `never` is for offline use: what is here by its digest, or by any name if the policy says so, needs no registry
    is_free = verification == "never" and (named == "digest" or policy == "missing")

    for who in (NOBODY, BOB):
        if is_free:
            registry.seen.clear()
            store.create(url, f"free-{len(who)}", *options, *who)
            assert registry.seen == []
        else:
            assert "does not exist or you do not have permissions" in store.refuse(url, "no", *options, *who).message or (
                "invalid username/password" in store.refuse(url, "no", *options, *who).message
            )
            assert "no" not in [Path(path).name for path in store.list()]

    registry.seen.clear()
    store.create(url, "second", *options, *ALICE)
    needs_no_question = is_free or (verification == "cached" and (named == "digest" or policy == "missing"))
    assert asked(registry) == (0 if needs_no_question else 1)
    assert registry.gets("/blobs/" + image.layers[0]) == [], "the layer was there"


def test_a_proof_ends(store: Store, scratch: Path) -> None:
    """With the lifetime, and at once when the clock says that it was made in the future."""
    config = scratch / "config.yml"
    config.write_text("create:\n  image_verification: cached\n  image_verification_lifetime_seconds: 100\n")
    careful = Store(store.path, "--config", str(config))
    with FakeRegistry(auth="basic") as registry:
        url = names(publish(registry))["digest"]
        options = ["--insecure-registry", registry.addr, *ALICE]
        careful.create(url, "c0", *options)
        (proof,) = [path for path in (store.path / "meta/proofs").iterdir() if path.name != "key"]
        assert proof.stat().st_mode & 0o7777 == 0o600
        for number, (age, expected) in enumerate([(50, 0), (101, 1), (-50, 1)], 1):
            os.utime(proof, (time.time() - age,) * 2)
            registry.seen.clear()
            careful.create(url, f"c{number}", *options)
            assert asked(registry) == expected, age


def test_a_proof_is_for_one_repository_and_holds_no_password(store: Store) -> None:
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry)
        registry.manifests["other/app", image.digest] = registry.manifests["alice/app", image.digest]
        options = ["--insecure-registry", registry.addr, "--image-verification", "cached", *ALICE]
        store.create(names(image)["digest"], "c1", *options)
        registry.seen.clear()
        store.create(f"docker://{registry.addr}/other/app@{image.digest}", "c2", *options)
        assert asked(registry) == 1
    files = list((store.path / "meta/proofs").iterdir())
    assert len(files) == 3
    plain = hashlib.sha256(f"{USERNAME}:{PASSWORD}".encode()).hexdigest()
    assert not any(plain in path.name or PASSWORD.encode() in path.read_bytes() for path in files)
    store.run("check").ok()


def test_an_unknown_verification_is_refused(store: Store) -> None:
    refused = store.run("create", "--image-verification", "sometimes", "docker:///a", "c")
    assert refused.code == 1
    assert "image verification `sometimes` is none of always, cached, never" in refused.out


def test_a_password_from_stdin(store: Store) -> None:
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry)

        def create(stdin: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
            argv = [COMMAND, "--store", str(store.path), "create", "--insecure-registry", registry.addr, *options, image.url, "c"]
            return subprocess.run(argv, input=stdin, capture_output=True, check=False)

        named = ("--username", USERNAME, "--password-stdin")
        assert b"exclude each other" in create(b"x\n", *named, "--password", "y").stdout
        assert b"no password came on stdin" in create(b"\n", *named).stdout
        assert create(b"wrong\n", *named).returncode == 1
        done = create(f"{PASSWORD}\r\nmore\n".encode(), *named)
        assert done.returncode == 0, done


def test_credentials_of_podman_and_an_auth_file(store: Store, scratch: Path) -> None:
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry)
        entry = {"auths": {f"{registry.addr}/alice": {"auth": basic().removeprefix("Basic ")}}}
        named, runtime = scratch / "named.json", scratch / "run" / "containers" / "auth.json"
        runtime.parent.mkdir(parents=True)
        for path in (named, runtime):
            path.write_text(json.dumps(entry))

        def create(image_id: str, *options: str, **environment: str) -> int:
            argv = [COMMAND, "--store", str(store.path), "create", "--insecure-registry", registry.addr, *options, image.url, image_id]
            clean = {"PATH": os.environ["PATH"], "HOME": str(scratch), **environment}
            return subprocess.run(argv, env=clean, capture_output=True, check=False).returncode

        assert create("c0") == 1
        assert create("c1", "--auth-file", str(named)) == 0
        assert create("c2", XDG_RUNTIME_DIR=str(scratch / "run")) == 0
        assert create("c3", REGISTRY_AUTH_FILE=str(named)) == 0
        assert create("c4", "--auth-file", str(scratch / "absent")) == 1


def test_what_needs_no_question_needs_no_python(store: Store, tmp_path: Path) -> None:
    """The program alone, without what else is installed, makes an image that the operator lets it have."""
    (tmp_path / "bin").mkdir()
    alone = Path(shutil.copy(COMMAND, tmp_path / "bin" / "grootfs"))
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry)
        registry_options = ["--insecure-registry", registry.addr, *ALICE]
        for name in names(image).values():
            store.create(name, "", *registry_options)
            store.create(name, "", "--platform", "linux/amd64", *registry_options)
    tag, digest = names(image)["tag"], names(image)["digest"]
    missing, never = ["--pull-policy", "missing"], ["--image-verification", "never"]
    for number, (options, is_free) in enumerate(
        [
            ([*never, digest], True),
            ([*never, "--platform", "linux/amd64", digest], True),
            ([*never, "--platform", "linux/arm64", digest], False),
            ([*never, *missing, tag], True),
            ([*never, tag], False),
            ([*missing, tag], False),
            (["--image-verification", "cached", digest], False),
            ([digest], False),
            ([*never, "--password-stdin", digest], False),
        ]
    ):
        argv = [alone, "--store", store.path, "create", *options, f"alone-{number}"]
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert (done.returncode == 0) == is_free, (options, done)
        assert is_free or done.stdout.startswith("cannot run "), (options, done)
