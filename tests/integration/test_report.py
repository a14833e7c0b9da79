"""`list --json` and `stats --store`: right, and never by walking trees."""

from __future__ import annotations

import json
import os
import posix
from collections.abc import Callable
from typing import Any

import pytest

from groot_fast.config import Settings
from groot_fast.groot import Groot
from groot_fast.telemetry.lager import Logger, open_sink
from support import mounts
from support.archive import Archive
from support.command import MIB, Store

Image = Callable[..., str]
BASE = Archive().file("base", os.urandom(3 * MIB))
APP = Archive().file("app", os.urandom(2 * MIB))
OTHER = Archive().file("other", os.urandom(MIB))


def report(store: Store, *options: str) -> dict[str, Any]:
    return json.loads(store.run(*options, "stats", "--store").ok().out)


@pytest.fixture(params=["simple", "full"])
def filled(request: pytest.FixtureRequest, make_store: Callable[..., Store], image: Image) -> Store:
    """Two images on a common base, one of them limited and written to, and a layer that nobody uses."""
    store = make_store("--quota", request.param)
    store.create(image(BASE, APP), "one", "--disk-limit-size-bytes", str(100 * MIB))
    store.create(image(BASE), "two")
    store.create(image(BASE, OTHER), "gone")
    store.delete("gone")
    (store.rootfs("one") / "written").write_bytes(os.urandom(4 * MIB))
    mounts.tool("btrfs", "filesystem", "sync", store.path)
    return store


def test_store(filled: Store) -> None:
    told = report(filled)
    layers = {layer["id"]: layer for layer in told["by_layer"]}
    base, top = json.loads(filled.record("one").read_text())
    (unused,) = set(filled.volumes()) - {base, top}
    assert [(layers[name]["size_bytes"], layers[name]["images"]) for name in (base, top, unused)] == [(3 * MIB, 2), (2 * MIB, 1), (MIB, 0)]
    assert [layer["size_bytes"] for layer in told["by_layer"]] == [3 * MIB, 2 * MIB, MIB]
    assert told["layers"] == {"count": 3, "size_bytes": 6 * MIB, "unused_count": 1, "unused_bytes": MIB}
    assert told["reclaimable_bytes"] == MIB
    images = {row["id"]: row for row in told["by_image"]}
    assert [row["id"] for row in told["by_image"]] == ["one", "two"]
    for name, row in images.items():
        assert (row["total_bytes_used"], row["exclusive_bytes_used"]) == filled.stats(name)
    assert 4 * MIB <= images["one"]["exclusive_bytes_used"] < 5 * MIB and images["two"]["exclusive_bytes_used"] < MIB
    assert (images["one"]["quota_size_bytes"], images["two"]["quota_size_bytes"]) == (100 * MIB, None)
    assert told["images"] == {
        "count": 2,
        "exclusive_bytes_used": sum(row["exclusive_bytes_used"] for row in images.values()),
        "quota_size_bytes": 100 * MIB,
    }
    space = told["file_system"]
    assert space["size_bytes"] == 1024 * MIB and 10 * MIB <= space["used_bytes"] <= space["size_bytes"] - space["available_bytes"] + MIB
    filled.clean()
    after = report(filled)
    assert after["reclaimable_bytes"] == 0 and after["layers"]["count"] == 2


def test_threshold_and_downloads(filled: Store) -> None:
    (filled.path / "tmp" / f"blob-{'a' * 64}").write_bytes(bytes(5000))
    config = filled.path.parent / "c.yml"
    for threshold, above in ((6 * MIB, True), (6 * MIB + 1, False)):
        config.write_text(f"clean: {{threshold_bytes: {threshold}}}\n")
        told = report(filled, "--config", str(config))
        assert (told["threshold_bytes"], told["is_above_threshold"]) == (threshold, above)
    assert told["downloads"] == {"count": 1, "size_bytes": 5000} and told["reclaimable_bytes"] == MIB + 5000


def test_list_as_json(filled: Store, image: Image) -> None:
    one, two = json.loads(filled.run("list", "--json").ok().out)
    assert one == {
        "id": "one",
        "path": str(filled.image("one")),
        "rootfs": str(filled.rootfs("one")),
        "layers": json.loads(filled.record("one").read_text()),
        "image_size_bytes": 5 * MIB,
        "quota_size_bytes": 100 * MIB,
    }
    assert (two["id"], two["image_size_bytes"], two["quota_size_bytes"]) == ("two", 3 * MIB, None)


def test_empty_and_missing(store: Store) -> None:
    assert store.run("list", "--json").ok().out == "[]\n"
    told = report(store)
    assert (told["by_image"], told["by_layer"], told["reclaimable_bytes"]) == ([], [], 0)
    gone = Store(store.path.parent / "gone")
    assert gone.run("list", "--json").failed().message == f"no store found at {gone.path}"
    assert "not initialized" in gone.run("stats", "--store").failed().message
    assert store.run("stats", "--store", "id").failed().message == "invalid arguments - usage: stats --store"


def test_configuration_for_create_leaves_list_alone(filled: Store) -> None:
    config = filled.path.parent / "c.yml"
    config.write_text("create: {json: true}\n")
    assert filled.run("--config", str(config), "list").ok().out == f"{filled.image('one')}\n{filled.image('two')}\n"


def test_nobody_counts(scratch: Any, image: Image) -> None:
    store = Store(scratch / "own")
    mounts.make_btrfs(scratch / "own.img", store.path, 512 * MIB)
    store.init(size=None).ok()
    store.create(image(BASE), "one")
    told = report(store)
    assert told["accounting"] is None
    assert told["by_image"] == [{"id": "one", "total_bytes_used": 3 * MIB, "exclusive_bytes_used": None, "quota_size_bytes": None}]


@pytest.mark.parametrize("filled", ["simple"], indirect=True)
def test_no_tree_is_walked(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    read = os.listdir

    def forbidden(*_: object) -> None:
        raise AssertionError("a tree was walked")

    def listdir(path: str) -> list[str]:
        listed.append(path)
        return read(path)

    monkeypatch.setattr(os, "walk", forbidden)
    for module in (os, posix):
        monkeypatch.setattr(module, "scandir", forbidden)
        monkeypatch.setattr(module, "listdir", listdir)
    groot = Groot(Settings({"store": str(filled.path)}), Logger(open_sink(None, None), "test"))
    assert groot.describe_store()["reclaimable_bytes"] == MIB and len(groot.describe_images()) == 2
    # The import system lists directories too.
    of_the_store = {path.removeprefix(f"{filled.path}/") for path in listed if path.startswith(str(filled.path))}
    assert of_the_store == {"images", "volumes", "tmp"}
