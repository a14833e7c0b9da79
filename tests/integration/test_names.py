"""What a name means now: a create of what is there asks the registry once, and needs nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_registry import PASSWORD, USERNAME, Authority, FakeRegistry, Fault, Image, basic, sha256
from support.archive import Archive, Layer
from support.command import COMMAND, Result, Store, kill, wait_for

ALICE = ("--username", USERNAME, "--password", PASSWORD)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry for everybody."""
    with FakeRegistry() as made:
        yield made


def publish(registry: FakeRegistry, content: str = "one", repo: str = "app", tag: str = "latest") -> Image:
    """An image with this text in its only file."""
    layer = Layer(Archive().file("f", content.encode()).tar)
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}"]}}
    return registry.add(repo, [layer.blob], tag, config=json.dumps(config).encode())


class Alone:
    """The installed command without the Python program that it would hand over to."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.program = directory / "alone" / "bin" / "grootfs"
        self.program.parent.mkdir(parents=True)
        shutil.copy(COMMAND, self.program)

    def create(self, *arguments: str, **environment: str) -> Result:
        """Run a create to its end."""
        argv = [str(self.program), "--store", str(self.store.path), "create", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False)
        return Result(tuple(argv), done.returncode, done.stdout, done.stderr)


@pytest.fixture
def alone(store: Store, scratch: Path) -> Alone:
    """See the class."""
    return Alone(store, scratch)


def insecure(registry: FakeRegistry) -> tuple[str, str]:
    """The option for it."""
    return "--insecure-registry", registry.addr


@pytest.mark.parametrize("auth", ["", "basic", "bearer"])
@pytest.mark.parametrize("tls", [False, True])
def test_what_is_there_costs_one_question(alone: Alone, store: Store, scratch: Path, auth: str, tls: bool) -> None:
    with FakeRegistry(auth=auth, tls=Authority(scratch).server_context() if tls else None) as registry:
        image = publish(registry)
        options = [*insecure(registry), *(ALICE if auth else ())]
        store.create(image.url, "cold", *options)
        registry.seen.clear()
        alone.create(*options, image.url, "warm").ok()
        assert (store.rootfs("warm") / "f").read_text() == "one"
        asked = [seen for seen in registry.seen if "/manifests/" in seen.path]
        assert [seen.method for seen in asked] == ["HEAD"] * (2 if auth else 1), "once without what it did not ask for"
        assert len(registry.seen) == len(asked) + (auth == "bearer")


def test_by_digest_the_registry_must_have_it(alone: Alone, store: Store, registry: FakeRegistry) -> None:
    image = publish(registry)
    url = f"docker://{registry.addr}/app@{image.digest}"
    store.create(url, "cold", *insecure(registry))
    registry.seen.clear()
    alone.create(*insecure(registry), url, "warm").ok()
    assert [(seen.method, seen.path) for seen in registry.seen] == [("HEAD", f"/v2/app/manifests/{image.digest}")]
    del registry.manifests["app", image.digest]
    assert store.refuse(url, "gone", *insecure(registry)).message == "manifest unknown"


def test_a_name_that_was_moved(alone: Alone, store: Store, registry: FakeRegistry) -> None:
    image = publish(registry, "one")
    store.create(image.url, "a", *insecure(registry))
    publish(registry, "two")
    assert alone.create(*insecure(registry), image.url, "b").code != 0, "only Python fetches"
    store.create(image.url, "b", *insecure(registry))
    assert (store.rootfs("b") / "f").read_text() == "two"
    alone.create(*insecure(registry), image.url, "c").ok()
    assert (store.rootfs("c") / "f").read_text() == "two"
    publish(registry, "one")
    store.create(image.url, "d", *insecure(registry))
    assert (store.rootfs("d") / "f").read_text() == "one"


def test_an_index_is_known_by_its_own_digest(alone: Alone, store: Store, registry: FakeRegistry) -> None:
    image = publish(registry)
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest, "size": len(image.manifest)}
    platform = {"os": "linux", "architecture": "amd64"}
    kind = "application/vnd.oci.image.index.v1+json"
    for extra in ({}, {"annotations": {"a": "b"}}):
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": [{**entry, "platform": platform}], **extra}
        registry.put("app", "multi", json.dumps(index).encode(), kind)
        url = registry.url("app", ":multi")
        for platform_option in ((), ("--platform", "linux/amd64")):
            store.create(url, "", *platform_option, *insecure(registry))
            alone.create(*platform_option, *insecure(registry), url, f"{len(extra)}-{len(platform_option)}").ok()


def test_a_registry_cannot_claim_what_another_one_gave(store: Store, registry: FakeRegistry) -> None:
    """Who runs a registry may answer with the digest of anybody's image, and with its types."""
    private = publish(registry, "secret", "alice/app")
    store.create(private.url, "alice", *insecure(registry))
    with FakeRegistry() as hostile:
        claim = {"Docker-Content-Digest": private.digest, "Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        own = publish(hostile, "own", "alice/app")
        for url in (own.url, f"docker://{hostile.addr}/alice/app@{private.digest}"):
            hostile.fault("/manifests/", Fault(status=200, headers=claim))
            refused = store.refuse(url, "", *insecure(hostile))
            assert "manifest digest mismatch" in refused.message
            hostile.heal()
        store.create(own.url, "own", *insecure(hostile))
        hostile.fault("/manifests/", Fault(status=200, headers=claim))
        assert "manifest digest mismatch" in store.refuse(own.url, "", *insecure(hostile)).message


def test_a_storm_is_one_question(store: Store, registry: FakeRegistry) -> None:
    image = publish(registry)
    store.create(image.url, "cold", *insecure(registry))
    registry.seen.clear()

    def wait(_: object) -> bool:
        time.sleep(2)
        return False

    registry.fault("/manifests/", Fault(hook=wait))
    creates = [store.start("create", *insecure(registry), image.url, f"c{number}") for number in range(16)]
    for create in creates:
        store.finish(create).ok()
    assert len(registry.seen) <= 2, "those that came while one asked took its answer"


def test_a_registry_without_head(alone: Alone, store: Store, registry: FakeRegistry) -> None:
    def refuse(handler: object) -> bool:
        if handler.command == "HEAD":  # type: ignore[attr-defined]
            handler.send_error(405)  # type: ignore[attr-defined]
            return True
        return False

    image = publish(registry)
    store.create(image.url, "cold", *insecure(registry))
    registry.fault("/manifests/", Fault(hook=refuse))
    alone.create(*insecure(registry), image.url, "warm").ok()
    moved = publish(registry, "two")
    store.create(image.url, "moved", *insecure(registry))
    assert (store.rootfs("moved") / "f").read_text() == "two"
    assert sha256(moved.manifest) == moved.digest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_registry_that_says_nothing_holds_up_no_stop(store: Store, registry: FakeRegistry, number: int) -> None:
    image = publish(registry)
    store.create(image.url, "cold", *insecure(registry))
    registry.seen.clear()
    registry.fault("/manifests/", Fault(hook=lambda _: registry.wait_for_the_end() or True))
    create = store.start("create", *insecure(registry), image.url, "c")
    wait_for(lambda: registry.seen, "the question")
    kill(create, number)
    stopped = store.finish(create, timeout=20)
    assert stopped.code != 0 and not store.image("c").exists()
    registry.heal()
    store.create(image.url, "c", *insecure(registry))


def test_what_is_not_plain_is_done_all_the_same(store: Store, scratch: Path, registry: FakeRegistry) -> None:
    image = publish(registry)
    store.create(image.url, "cold", *insecure(registry))
    for number, (fault, times) in enumerate([(Fault(status=503), 2), (Fault(cut_after=0, length=100), 1), (Fault(status=404), 1)]):
        registry.fault("/manifests/", fault, times)
        store.run("create", *insecure(registry), image.url, f"c{number}").ok()
        registry.heal()
    with FakeRegistry(auth="basic") as private:
        image = publish(private)
        helper = scratch / "bin" / "docker-credential-test"
        helper.parent.mkdir()
        helper.write_text(f"#!/bin/sh\necho '{json.dumps({'Username': USERNAME, 'Secret': PASSWORD})}'\n")
        helper.chmod(0o755)
        (scratch / "config.json").write_text(json.dumps({"credsStore": "test"}))
        environment = {**os.environ, "DOCKER_CONFIG": str(scratch), "PATH": f"{helper.parent}:{os.environ['PATH']}"}
        for image_id in ("helped", "helped-again"):
            argv = [COMMAND, "--store", str(store.path), "create", *insecure(private), image.url, image_id]
            assert subprocess.run(argv, env=environment, capture_output=True, check=False).returncode == 0


def test_every_exchange_is_a_line_and_so_is_a_mirror_that_fails(alone: Alone, store: Store, scratch: Path) -> None:
    with FakeRegistry(auth="basic") as registry, FakeRegistry() as mirror:
        image = publish(registry)
        mirror.fault("/", Fault(status=500))
        config, log = scratch / "config.yml", scratch / "log"
        config.write_text(f"create:\n  registry_mirrors:\n    {registry.addr}: ['http://{mirror.addr}']\n")
        options = ("--config", str(config), "--log-file", str(log), "--log-level", "debug")
        Store(store.path, *options).create(image.url, "cold", *insecure(registry), *ALICE)
        log.unlink()
        argv = [str(alone.program), "--store", str(store.path), *options, "create", *insecure(registry), *ALICE, image.url, "warm"]
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        exchanges = [line["data"] for line in lines if line["message"].endswith(".exchange")]
        assert [(data["method"], data["host"], data["status"]) for data in exchanges] == [
            ("HEAD", mirror.addr, 500),
            ("HEAD", registry.addr, "no reply"),
            ("HEAD", registry.addr, 401),
            ("HEAD", registry.addr, 200),
        ]
        (failed,) = [line["data"] for line in lines if line["message"].endswith(".mirror-failed")]
        assert (failed["mirror"], failed["registry"]) == (mirror.addr, registry.addr)
        assert PASSWORD not in log.read_text() and basic() not in log.read_text()
