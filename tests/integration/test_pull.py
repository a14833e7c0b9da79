"""The pull pipeline, whole processes against a registry that counts and misbehaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fake_registry import PASSWORD, USERNAME, FakeRegistry, Fault, basic
from support.archive import Archive
from support.command import COMMAND, Store, wait_for
from support.metron import Agent
from support.pulls import blob_gets, layer, publish, trusting
from support.tree import photograph as snapshot

LAYER_BYTES = 2_000_000


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry on loopback."""
    with FakeRegistry() as made:
        yield made


def test_fifty_processes_fetch_each_blob_once(store: Store, registry: FakeRegistry) -> None:
    image = publish(registry, *(layer(f"f{i}", 200_000) for i in range(4)))
    running = [store.start("create", *trusting(registry), image.url, f"c{i}") for i in range(50)]
    for process in running:
        store.finish(process, 300).ok()
    assert blob_gets(registry, image) == [1, 1, 1, 1]
    assert len(registry.gets("/manifests/")) < 10, "who waited while the registry was asked need not ask again"
    assert len(store.list()) == 50 and store.temporary() == []


def test_metrics_of_a_pull(store: Store, registry: FakeRegistry) -> None:
    """Bytes are those that came over the network, and waiting for others that ask the same is measured, too."""
    layers = [layer("one", 50_000), layer("two", 90_000)]
    image = publish(registry, *layers)
    agent = Agent()
    try:
        Store(store.path, "--metron-endpoint", agent.endpoint).create(image.url, "one", *trusting(registry))
        sent = [(event.name, event.fields.get(2)) for event in agent.take()]
    finally:
        agent.close()
    assert sorted(value for name, value in sent if name == "DownloadedBytes") == [len(one.blob) for one in layers]
    for name, count in (("DownloadTime", 2), ("PullLockingTime", 1), ("PullLockHoldTime", 1)):
        assert len([each for each, value in sent if each == name and value > 0]) == count, name
    assert ("DownloadedLayersSizeInBytes", 140_000) in sent


def test_who_asks_with_other_credentials_asks_for_itself(store: Store) -> None:
    """An answer that one caller got is none for another, even while they wait for the same layers."""
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry, layer("big", LAYER_BYTES))

        def slow(_handler: object) -> bool:
            time.sleep(1.0)
            return False

        registry.fault(image.layers[0], Fault(hook=slow))
        good = store.start("create", *trusting(registry), "--username", USERNAME, "--password", PASSWORD, image.url, "good")
        bad = store.start("create", *trusting(registry), "--username", USERNAME, "--password", "wrong", image.url, "bad")
        store.finish(good).ok()
        assert "do not have permissions" in store.finish(bad).failed().message


def test_images_that_share_a_blob_on_other_parents_fetch_it_once(store: Store, registry: FakeRegistry) -> None:
    shared = layer("shared", LAYER_BYTES)

    def slow(_handler: object) -> bool:
        time.sleep(1.5)
        return False

    one = publish(registry, layer("one"), shared, repo="one")
    two = publish(registry, layer("two"), shared, repo="two")
    registry.fault(one.layers[1], Fault(hook=slow))
    running = [store.start("create", *trusting(registry), image.url, f"c{i}") for i, image in enumerate((one, two))]
    for process in running:
        store.finish(process).ok()
    assert (store.rootfs("c0") / "shared").read_bytes() == (store.rootfs("c1") / "shared").read_bytes()
    assert len(registry.gets(f"/blobs/{one.layers[1]}")) == 1 and store.temporary() == []


def test_layers_are_fetched_together(store: Store, registry: FakeRegistry) -> None:
    """The upper layer is asked for while the lower one is still stalled."""
    image = publish(registry, layer("low", LAYER_BYTES), layer("high"))
    registry.fault(image.layers[0], Fault(stall_after=1000), times=1)
    process = store.start("create", *trusting(registry), image.url, "c")
    try:
        wait_for(lambda: all(blob_gets(registry, image)), "requests for both layers")
    finally:
        process.kill()
        process.communicate()


def test_a_killed_pull_goes_on_where_it_was(store: Store, registry: FakeRegistry) -> None:
    big = layer("big", LAYER_BYTES)
    image = publish(registry, big)
    half = len(big.blob) // 2
    registry.fault(image.layers[0], Fault(stall_after=half), times=1)
    process = store.start("create", *trusting(registry), image.url, "c")
    partial = store.path / "tmp" / f"blob-{image.layers[0].removeprefix('sha256:')}"
    wait_for(lambda: partial.exists() and partial.stat().st_size == half, "half of the blob")
    process.kill()
    process.communicate()
    assert not store.image("c").exists()
    before = registry.sent_bytes(image.layers[0])
    store.create(image.url, "c", *trusting(registry))
    assert registry.sent_bytes(image.layers[0]) - before <= 0.55 * len(big.blob)
    assert registry.gets(f"/blobs/{image.layers[0]}")[-1].headers["Range"] == f"bytes={half}-"
    assert store.temporary() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_pull_leaves_only_what_can_go_on(store: Store, registry: FakeRegistry, number: signal.Signals) -> None:
    image = publish(registry, layer("big", LAYER_BYTES))
    registry.fault(image.layers[0], Fault(stall_after=100_000), times=1)
    process = store.start("create", *trusting(registry), image.url, "c")
    wait_for(lambda: store.temporary() and (store.path / "tmp" / store.temporary()[0]).stat().st_size == 100_000, "some bytes")
    process.send_signal(number)
    result = store.finish(process, 20)
    assert result.code == 130 and "Traceback" not in result.out + result.err
    assert os.listdir(store.path / "volumes") == [] and os.listdir(store.path / "images") == []
    assert store.temporary() == [f"blob-{image.layers[0].removeprefix('sha256:')}"]
    store.clean()
    assert store.temporary() == []


def test_what_an_earlier_transfer_left_is_not_trusted(store: Store, registry: FakeRegistry) -> None:
    """A partial blob with wrong bytes, as after a power cut, costs one more transfer and nothing else."""
    big = layer("big", LAYER_BYTES)
    image = publish(registry, big)
    partial = store.path / "tmp" / f"blob-{image.layers[0].removeprefix('sha256:')}"
    partial.write_bytes(b"\0" * 1_000_000)
    rootfs = store.create(image.url, "c", *trusting(registry))
    assert (rootfs / "big").stat().st_size == LAYER_BYTES
    assert [seen.headers.get("Range") for seen in registry.gets(f"/blobs/{image.layers[0]}")] == ["bytes=1000000-", None]


def test_a_wrong_digest_is_final_and_leaves_nothing(store: Store, registry: FakeRegistry) -> None:
    good, bad = layer("good"), layer("bad")
    image = publish(registry, good, bad)
    registry.blobs[image.layers[1]] = layer("evil").blob
    result = store.refuse(image.url, "c", *trusting(registry))
    assert "mismatch" in result.message or "in the manifest" in result.message
    assert store.temporary() == []


def test_a_transfer_that_breaks_again_and_again_is_continued(store: Store, registry: FakeRegistry) -> None:
    big = layer("big", LAYER_BYTES)
    image = publish(registry, big)
    registry.fault(image.layers[0], Fault(cut_after=400_000), times=4)
    store.create(image.url, "c", *trusting(registry))
    assert len(registry.gets(f"/blobs/{image.layers[0]}")) == 5
    assert registry.sent_bytes(image.layers[0]) <= len(big.blob) * 1.05


def test_a_digest_whose_layers_are_there_needs_its_manifest_or_nothing(store: Store, registry: FakeRegistry) -> None:
    image = publish(registry, layer("a"), layer("b"))
    url = registry.url("app", f"@{image.digest}")
    first = store.create(url, "one", *trusting(registry))
    registry.seen.clear()
    second = store.create(url, "two", *trusting(registry))
    assert [(seen.method, seen.path) for seen in registry.seen] == [("HEAD", f"/v2/app/manifests/{image.digest}")]
    assert snapshot(first) == snapshot(second)
    assert (store.image("one") / "image.json").read_bytes() == (store.image("two") / "image.json").read_bytes()
    registry.seen.clear()
    spec = json.loads(store.run("create", "--json", "--image-verification", "never", url, "three").ok().out)
    assert registry.seen == []
    assert spec["process"]["env"] == ["A=b"]


def test_a_digest_whose_layers_were_cleaned_is_pulled_again(store: Store, registry: FakeRegistry) -> None:
    image = publish(registry, layer("a"))
    url = registry.url("app", f"@{image.digest}")
    store.create(url, "one", *trusting(registry))
    store.delete("one")
    store.clean()
    assert (store.create(url, "two", *trusting(registry)) / "a").exists()


def test_pull_policy(store: Store, registry: FakeRegistry) -> None:
    image = publish(registry, layer("old"))
    store.create(image.url, "one", *trusting(registry))
    publish(registry, layer("new"))
    registry.seen.clear()
    assert (store.create(image.url, "two", *trusting(registry), "--pull-policy", "missing") / "old").exists()
    assert [(seen.method, seen.path) for seen in registry.seen] == [("HEAD", "/v2/app/manifests/latest")]
    offline = ("--pull-policy", "missing", "--image-verification", "never")
    assert (store.create(image.url, "offline", *offline) / "old").exists()
    assert (store.create(image.url, "three", *trusting(registry)) / "new").exists()
    assert "neither always nor missing" in store.run("create", "--pull-policy", "never", image.url, "four").out


def test_mirrors_come_first_and_fall_through(store: Store, registry: FakeRegistry, scratch: Path) -> None:
    with FakeRegistry() as mirror:
        image = publish(registry, layer("a"))
        config = scratch / "config.yml"
        mirrors = {"create": {"insecure_registries": [registry.addr, mirror.addr], "registry_mirrors": {registry.addr: [mirror.addr]}}}
        config.write_text(json.dumps(mirrors))
        configured = Store(store.path, "--config", str(config))
        configured.create(image.url, "one")
        assert mirror.seen and registry.gets("/blobs/")
        mirror.blobs, mirror.manifests = dict(registry.blobs), dict(registry.manifests)
        registry.seen.clear()
        store.delete("one")
        store.clean()
        configured.create(image.url, "two")
        assert registry.gets("/blobs/") == []


def test_platform(store: Store, registry: FakeRegistry) -> None:
    arm = publish(registry, layer("arm"), repo="app", tag="arm")
    amd = publish(registry, layer("amd"), repo="app", tag="amd")
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.digest,
            "size": len(image.manifest),
            "platform": {"os": "linux", "architecture": name},
        }
        for image, name in ((arm, "arm64"), (amd, "amd64"))
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}).encode()
    registry.put("app", "multi", index, "application/vnd.oci.image.index.v1+json")
    url = registry.url("app", ":multi")
    assert (store.create(url, "one", "--platform", "linux/arm64", *trusting(registry)) / "arm").exists()
    assert (store.create(url, "two", "--platform", "linux/amd64", *trusting(registry)) / "amd").exists()
    refused = store.refuse(url, "three", "--platform", "linux/s390x", *trusting(registry))
    assert "no image found in manifest list for architecture s390x, OS linux" in refused.message


SECRET = "hunter2-is-secret"


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_secrets_are_nowhere(store: Store, scratch: Path, auth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the log at debug level, not in messages, not in the process list, not on disk."""
    monkeypatch.setattr("fake_registry.PASSWORD", SECRET)
    monkeypatch.setattr("fake_registry.basic", lambda *_: basic("alice", SECRET))
    with FakeRegistry(auth=auth) as registry:
        image = publish(registry, layer("big", LAYER_BYTES))
        registry.fault(image.layers[0], Fault(stall_after=1000), times=1)
        log = scratch / "log"
        logged = Store(store.path, "--log-level", "debug", "--log-file", str(log))
        credentials = ["--username", "alice", "--password", SECRET]
        process = logged.start("create", *trusting(registry), *credentials, image.url, "c")
        wait_for(lambda: blob_gets(registry, image) == [1], "the blob's request")
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.terminate()
        out, err = process.communicate()
        failed = logged.run("create", *trusting(registry), "--username", "alice", "--password", SECRET + "x", image.url, "d")
        assert failed.code == 1
        tokens = [token.encode() for token in registry.tokens]
        encoded = basic("alice", SECRET).removeprefix("Basic ").encode()
        places = [shown, out, err, failed.out.encode(), failed.err.encode(), log.read_bytes()]
        places += [path.read_bytes() for path in store.path.rglob("*") if path.is_file() and "blob-" not in path.name]
        assert b"create" in shown and b"alice" in shown and log.stat().st_size > 1000
        for secret in (SECRET.encode(), encoded, *tokens):
            assert not any(secret in place for place in places)


def test_docker_config_is_used(store: Store, scratch: Path) -> None:
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry, layer("a"))
        config = {"auths": {registry.addr: {"auth": basic().removeprefix("Basic ")}}}
        (scratch / "config.json").write_text(json.dumps(config))
        assert "you do not have permissions" in store.refuse(image.url, "c", *trusting(registry)).message
        environment = {**os.environ, "DOCKER_CONFIG": str(scratch)}
        argv = [COMMAND, "--store", str(store.path), "create", *trusting(registry), image.url, "c"]
        done = subprocess.run(argv, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done


@pytest.fixture
def real_registry(scratch: Path) -> Iterator[str]:
    """Debian's registry on loopback; gives host:port."""
    binary = shutil.which("docker-registry") or pytest.fail("docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = scratch / "registry.yml"
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(scratch / "registry")}},
                "http": {"addr": address},
            }
        )
    )
    process = subprocess.Popen([binary, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host, port = address.split(":")

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    try:
        wait_for(answers, "the registry")
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_a_real_registry(store: Store, real_registry: str, image: Callable[..., str], form: str) -> None:
    layout = image(Archive().dir("d").file("d/one", "1"), Archive().whiteout("d/one").file("d/two", "2"))
    source = layout.replace("oci://", "oci:", 1)
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--format", form, "--dest-tls-verify=false"]
    subprocess.run([*copy, source, f"docker://{real_registry}/some/app:v1"], check=True)
    pulled = store.create(f"docker://{real_registry}/some/app:v1", "pulled", "--insecure-registry", real_registry)
    direct = store.create(layout, "direct")
    assert snapshot(pulled) == snapshot(direct)


def test_memory_does_not_follow_the_layer(store: Store, registry: FakeRegistry) -> None:
    image = publish(registry, layer("big", 200_000_000))
    process = store.start("create", *trusting(registry), image.url, "c")
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))])
        time.sleep(0.01)
    store.finish(process).ok()
    assert 0 < peak < 100 * 1024, f"{peak} KB"


def test_F12_links_to_other_pages_are_not_followed(store: Store, registry: FakeRegistry) -> None:
    """Nothing we ask for comes in pages, so a `Link` header leads nowhere."""
    with FakeRegistry() as elsewhere:
        image = publish(registry, layer("a"))
        link = f'<http://{elsewhere.addr}/v2/app/blobs/next>; rel="next"'
        registry.fault("/", Fault(headers={"Link": link}))
        assert (store.create(image.url, "c", *trusting(registry)) / "a").exists()
        assert elsewhere.seen == []
