"""Garden's image-plugin protocol, both eras, called exactly as guardian calls (contract, section 19)."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from groot_fast.config import load
from support.accounts import User
from support.archive import Archive
from support.command import MIB, REPOSITORY, Store, new_id
from support.guardian import Plugin, PluginError, write_preloaded

Image = Callable[..., str]
NOISE = os.urandom(5 * MIB)
APP = Archive().dir("etc").file("etc/passwd", "root:x:0:0::/:/bin/sh\n").file("blob", NOISE)
RUNTIME = {"Env": ["PATH=/bin", 'QUOTED=a "b" <c>'], "Volumes": {"/data": {}}}


class Cell(NamedTuple):
    """A cell's two stores, each with a plugin, as a deployment sets them up."""

    privileged: Plugin
    unprivileged: Plugin
    stores: tuple[Store, Store]


@pytest.fixture(params=["json", "path"])
def era(request: pytest.FixtureRequest) -> str:
    """``json``: guardian since late 2017; ``path``: guardian of March 2017."""
    return str(request.param)


@pytest.fixture
def cell(make_store: Callable[..., Store], scratch: Path, user: User, era: str) -> Cell:
    stores = make_store(), make_store("--rootless", f"{user.name}:{user.name}")
    plugins = []
    for store, owner in zip(stores, (None, user), strict=True):
        config = scratch / f"{store.path.name}.yml"
        config.write_text(
            f"store: {store.path}\ndriver: btrfs\nlog_level: error\ninit: {{store_size_bytes: {1024 * MIB}}}\n"
            f"create: {{json: {'true' if era == 'json' else 'false'}, with_clean: true, skip_layer_validation: true}}\n"
            f"clean: {{threshold_bytes: {512 * MIB}}}\n"
        )
        config.chmod(0o644)
        plugins.append(Plugin("--config", config, user=owner))
    return Cell(*plugins, stores)


@pytest.fixture(params=["privileged", "unprivileged"])
def plugin(request: pytest.FixtureRequest, cell: Cell) -> Plugin:
    """Either plugin of the cell."""
    return cell.privileged if request.param == "privileged" else cell.unprivileged


def create(plugin: Plugin, era: str, rootfs: str, handle: str, **options: object):
    return (plugin.create if era == "json" else plugin.create_2017)(rootfs, handle, **options)


def test_life_of_a_container(cell: Cell, plugin: Plugin, era: str, image: Image) -> None:
    url, handle = image(APP, runtime=RUNTIME), new_id()
    assert url.endswith(":latest")
    created = create(plugin, era, url.removesuffix(":latest") + "#latest", handle, quota=20 * MIB)
    store = cell.stores[0 if plugin is cell.privileged else 1]
    assert created.rootfs == str(store.rootfs(handle)) and (Path(created.rootfs) / "blob").read_bytes() == NOISE
    assert created.environment == RUNTIME["Env"]
    if era == "json":
        (mount,) = created.mounts
        assert (mount["destination"], mount["type"], mount["options"]) == ("/data", "bind", ["bind"])
        assert Path(mount["source"]).is_dir() and Path(mount["source"]).parent == store.image(handle)
    total, exclusive = plugin.stats(handle)
    assert 5 * MIB <= total < 6 * MIB and 0 <= exclusive < MIB
    # Garden does not know which plugin made a container: it asks both.
    for each in (cell.unprivileged, cell.privileged):
        each.destroy(handle)
        each.destroy(handle)
    assert not store.image(handle).exists() and store.list() == []


@pytest.mark.parametrize("exclusive", [True, False])
def test_scope_of_a_quota(plugin: Plugin, era: str, image: Image, *, exclusive: bool) -> None:
    created = create(plugin, era, image(APP), new_id(), quota=7 * MIB, exclusive=exclusive)
    file = Path(created.rootfs) / "more"
    with file.open("wb") as out:
        if exclusive:
            out.write(bytes(4 * MIB))
            out.flush()
            os.fsync(out.fileno())
        else:
            with pytest.raises(OSError, match=r"quota exceeded") as raised:
                out.write(bytes(4 * MIB))
                out.flush()
                os.fsync(out.fileno())
            assert raised.value.errno == 122


def test_credentials_are_plain_arguments(plugin: Plugin, era: str, image: Image) -> None:
    create(plugin, era, image(APP), new_id(), quota=20 * MIB, exclusive=True, username="user", password="--secret")


def test_what_an_operator_sees_when_create_fails(plugin: Plugin, era: str, image: Image) -> None:
    url, handle = image(APP), new_id()
    # No sizes to compare before the pull: the configuration says not to believe them.
    with pytest.raises(PluginError, match=r"(?s)^running image plugin create: .*disk limit is smaller than .*: exit status 1$"):
        create(plugin, era, url, handle, quota=1024)
    with pytest.raises(PluginError, match=r"^running image plugin create: id `a{245}` cannot be used: .* 244 bytes .*\n: exit status 1$"):
        create(plugin, era, url, "a" * 245)
    create(plugin, era, url, handle)
    with pytest.raises(PluginError, match=f"^running image plugin create: image for id `{handle}` already exists\n: exit status 1$"):
        create(plugin, era, url, handle)


def test_stats_of_an_unknown_handle(plugin: Plugin) -> None:
    with pytest.raises(PluginError, match=r"^running image plugin metrics: Image `nobody` not found\.\n: exit status 1$"):
        plugin.stats("nobody")


def test_handles_of_garden(plugin: Plugin, era: str, image: Image) -> None:
    """Cloud Foundry's handles are GUIDs with a suffix; others are whatever a client chose."""
    url = image(APP)
    for handle in ("2bf3a8d4-2a9f-4c56-5a6b-77d5-1", "executor-healthcheck-58a5cbd1", "with space", "ünïcode", "a" * 244):
        assert create(plugin, era, url, handle).rootfs.endswith(f"/{handle}/rootfs")
        assert plugin.stats(handle)[0] >= 5 * MIB
        plugin.destroy(handle)


def test_delete_without_a_store(scratch: Path) -> None:
    """A deployment that never made the second store."""
    Plugin("--store", scratch / "never", "--log-level", "error").destroy("anything")


def test_log_is_lager_json(cell: Cell, era: str, image: Image) -> None:
    """Guardian re-logs what it can parse; stdout stays the result alone."""
    plugin = Plugin(*cell.privileged.extra, "--log-level", "debug")
    out, err = plugin.call("create", *plugin.create_arguments(image(APP), "c"))
    if era == "json":
        assert json.loads(out)["root"]["path"].endswith("/c/rootfs")
    else:
        assert out == f"{cell.stores[0].image('c')}\n"
    lines = [json.loads(line) for line in err.splitlines()]
    assert len(lines) > 3
    for line in lines:
        assert line["source"] == "grootfs" and line["message"].startswith("grootfs.create.")
        assert float(line["timestamp"]) > 1e9 and line["log_level"] in (0, 1, 2, 3) and isinstance(line["data"], dict)


def test_preloaded_and_layer(cell: Cell, plugin: Plugin, era: str, scratch: Path) -> None:
    base = scratch / "cflinuxfs.tar"
    base.write_bytes(Archive().dir("home").dir("home/vcap", mode=0o755).file("bin", "sh").tar)
    store = cell.stores[0 if plugin is cell.privileged else 1]
    # The base alone first, as an app without droplet layer: both forms must share its volume.
    create(plugin, era, str(base), "plain")
    shared = store.volumes()
    assert len(shared) == 1
    url = write_preloaded(scratch / "depot" / "handle" / "image", base, Archive().dir(".").dir("app").file("app/start", "#!"))
    created = create(plugin, era, url, "layered")
    root = Path(created.rootfs)
    assert (root / "home/vcap/app/start").read_text() == "#!" and (root / "bin").read_text() == "sh"
    assert len(store.volumes()) == 2 and set(shared) < set(store.volumes())
    for handle in ("plain", "layered"):
        assert plugin.stats(handle)[0] > 0
        plugin.destroy(handle)


def test_preloaded_and_layer_needs_the_option(cell: Cell, era: str, scratch: Path) -> None:
    """Without ``skip_layer_validation`` the made-up digests are refused."""
    base = scratch / "base.tar"
    base.write_bytes(Archive().dir("home/vcap").tar)
    url = write_preloaded(scratch / "image", base, Archive().file("f", "x"))
    with pytest.raises(PluginError, match=r"running image plugin create: pulling the image: "):
        create(Plugin("--store", cell.stores[0].path), era, url, "c")


def test_capacity(cell: Cell, scratch: Path) -> None:
    assert cell.unprivileged.capacity() == 1024 * MIB
    # As the original: what the configuration says, without a look at the disk.
    assert Plugin("--store", scratch / "never").capacity() == 0
    assert cell.privileged.call("capacity") == (f'{{"capacity":{1024 * MIB}}}\n', "")


def test_example_in_the_documentation(scratch: Path) -> None:
    """docs/operating.md shows what guardian runs, and a configuration that reads as it says."""
    text = (REPOSITORY / "docs/operating.md").read_text()
    config = "/etc/grootfs/unprivileged.yml"
    plugin = Plugin("--config", config)
    shown = text.partition("What Garden then runs:")[2].partition("```sh\n")[2].partition("```")[0]
    commands = [shlex.split(line.partition(" #")[0]) for line in shown.replace("\\\n", " ").splitlines()]
    arguments = plugin.create_arguments("docker:///library/alpine#3.20", "2bf3a8d4", quota=1 << 30, exclusive=True)
    argv = [plugin.argv(*words) for words in (["create", *arguments], ["stats", "2bf3a8d4"], ["delete", "2bf3a8d4"], ["capacity"])]
    assert commands == [["grootfs", *words[1:]] for words in argv]
    file = scratch / "unprivileged.yml"
    file.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    settings = load(str(file), {})
    assert (settings.store, settings.threshold, settings.store_size) == ("/var/lib/grootfs/unprivileged", 10 << 30, 100 << 30)
    assert settings.json and settings.with_clean and settings.skip_layer_validation
