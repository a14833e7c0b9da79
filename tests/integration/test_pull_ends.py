"""How pulls end that something goes wrong with: what went wrong is what is told, and the next create works."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fake_registry import FakeRegistry, Fault
from support import mounts
from support.archive import Archive
from support.command import MIB, Store, wait_for
from support.pulls import blob_gets, layer, publish, trusting

MakeStore = Callable[..., Store]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry on loopback."""
    with FakeRegistry() as made:
        yield made


def damaged(blob: bytes) -> bytes:
    """As long, and not the same."""
    return blob[: len(blob) // 2] + bytes([blob[len(blob) // 2] ^ 1]) + blob[len(blob) // 2 + 1 :]


def test_a_layer_that_was_damaged_once_while_another_came_is_fetched_again(store: Store, registry: FakeRegistry) -> None:
    first, second = layer("a", 3_000_000), layer("b")
    image = publish(registry, first, second)
    asked_again = threading.Event()

    def see(_handler: object) -> bool:
        if blob_gets(registry, image)[0] == 2:
            asked_again.set()
        return False

    def on_its_way(_handler: object) -> bool:
        asked_again.wait(3)
        return False

    registry.fault(image.layers[0], Fault(body=damaged(first.blob)), times=1)
    registry.fault(image.layers[0], Fault(hook=see))
    registry.fault(image.layers[1], Fault(hook=on_its_way))
    assert "digest mismatch" in store.run("create", *trusting(registry), image.url, "c").failed().message
    store.create(image.url, "c", *trusting(registry))
    assert blob_gets(registry, image)[0] == 2
    assert store.temporary() == []


def test_a_pull_that_does_not_fit_leaves_the_space_to_others(make_store: MakeStore, registry: FakeRegistry) -> None:
    store = make_store(size=256 * MIB)
    big = publish(registry, layer("first", 100_000_000), layer("second", 200_000_000), repo="big")
    small = publish(registry, layer("small", 30_000_000), repo="small")
    result = store.run("create", *trusting(registry), big.url, "big").failed()
    assert "no space left on device" in result.message.lower()
    assert "hint: the store is full, also without unused layers" in result.out
    assert store.temporary() == []
    store.create(small.url, "small", *trusting(registry))


def test_a_create_that_finds_the_store_full_cleans_it_once(make_store: MakeStore, registry: FakeRegistry) -> None:
    store = make_store(size=256 * MIB)
    old = publish(registry, layer("old", 120_000_000), repo="old")
    new = publish(registry, layer("new", 120_000_000), repo="new")
    store.create(old.url, "old", *trusting(registry))
    store.delete("old")
    [volume] = store.volumes()
    store.create(new.url, "new", *trusting(registry))
    assert volume not in store.volumes(), "there was no room for both"


def test_a_warm_create_that_finds_the_store_full_tries_that_too(store: Store, image: Callable[..., str]) -> None:
    """A quota on the store's own files is used up; all layers are there."""
    url = image(Archive().file("f", b"x"))
    store.create(url, "first")
    mounts.tool("btrfs", "filesystem", "sync", store.path)
    mounts.tool("btrfs", "qgroup", "limit", "16k", "0/5", store.path)
    try:
        result = store.run("--log-level", "info", "create", url, "second")
    finally:
        mounts.tool("btrfs", "quota", "disable", store.path)
    assert result.code == 1 and "disk quota exceeded" in result.out
    assert "hint: the store is full, also without unused layers" in result.out
    assert "store-is-full" in result.err and "groot-cleaning.starting" in result.err
    store.create(url, "second")


@pytest.mark.parametrize("kind", ["changes", "joined", "wrong"])
def test_what_a_mirror_sends_wrongly_comes_from_the_registry(store: Store, registry: FakeRegistry, scratch: Path, kind: str) -> None:
    big = layer("big", 3_000_000)
    image = publish(registry, big)
    other = damaged(big.blob[: len(big.blob) // 2]) + big.blob[len(big.blob) // 2 :]
    cut = None if kind == "wrong" else 2_000_000
    with FakeRegistry() as mirror:
        mirror.blobs, mirror.manifests = dict(registry.blobs), dict(registry.manifests)
        mirror.fault(f"/blobs/{image.layers[0]}", Fault(body=other, cut_after=cut, length=len(other), headers={"ETag": '"old"'}), times=1)
        if kind == "joined":
            mirror.fault(f"/blobs/{image.layers[0]}", Fault(status=404))
        config = scratch / "config.yml"
        config.write_text(json.dumps({"create": {"registry_mirrors": {registry.addr: [mirror.addr]}}}))
        configured = Store(store.path, "--config", str(config))
        rootfs = configured.create(image.url, "c", *trusting(registry, mirror))
        assert (rootfs / "big").read_bytes() in big.tar
        assert mirror.gets(f"/blobs/{image.layers[0]}")
        assert registry.gets(f"/blobs/{image.layers[0]}")[-1].headers.get("Range") is None, "from the beginning"


def test_what_a_registry_changes_in_the_middle_is_fetched_again(store: Store, registry: FakeRegistry) -> None:
    big = layer("big", 3_000_000)
    image = publish(registry, big)
    registry.fault(image.layers[0], Fault(body=damaged(big.blob[:2_000_000]) + big.blob[2_000_000:], cut_after=2_500_000), times=1)
    store.create(image.url, "c", *trusting(registry))
    assert [seen.headers.get("Range") is None for seen in registry.gets(f"/blobs/{image.layers[0]}")] == [True, False, True]


def test_who_waits_for_an_answer_that_could_not_be_kept_asks(store: Store, registry: FakeRegistry) -> None:
    """Else the image is what the name stood for before it was moved."""
    old = publish(registry, layer("old"))
    store.create(old.url, "first", *trusting(registry))
    [record] = (store.path / "meta" / "sources").iterdir()
    mounts.tool("chattr", "+i", record)
    new = publish(registry, layer("new"))
    is_asked, may_answer = threading.Event(), threading.Event()

    def hold(_handler: object) -> bool:
        is_asked.set()
        may_answer.wait(20)
        return False

    registry.fault("/manifests/", Fault(hook=hold))
    try:
        asking = store.start("create", *trusting(registry), new.url, "asks")
        assert is_asked.wait(20)
        waiting = store.start("create", *trusting(registry), new.url, "waits")
        turn = store.path / "locks"
        wait_for(lambda: any(is_open(waiting.pid, one) for one in turn.glob("pull-*")), "the second waits for its turn", pause=0)
        may_answer.set()
        for process in (asking, waiting):
            store.finish(process).ok()
    finally:
        may_answer.set()
        mounts.tool("chattr", "-i", record)
    for image_id in ("asks", "waits"):
        assert (store.rootfs(image_id) / "new").exists(), image_id


def is_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    links = Path(f"/proc/{pid}/fd")
    try:
        return any(os.readlink(links / fd) == str(path) for fd in os.listdir(links))
    except FileNotFoundError:
        return False
