"""Cells that pull through what is near them: Debian's registry as a cache, and what Spegel and Dragonfly are to a client
(docs/fleet.md says where that is from)."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry, Fault, Image, sha256
from support.command import Result, Store

MakeStore = Callable[..., Store]
NAME = "registry.example"


def layer(name: str, content: bytes) -> tuple[bytes, str]:
    """A blob, and its diff id."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), 1), sha256(plain.getvalue())


LAYERS = [layer("one", os.urandom(300_000)), layer("two", b"second")]


def add(registry: FakeRegistry, repository: str = "team/app") -> Image:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in LAYERS]}}
    return registry.add(repository, [blob for blob, _ in LAYERS], config=json.dumps(config).encode())


def create(store: Store, hosts: Path, text: str, name: str) -> Result:
    """A create of the image as a cell does it whose hosts.toml says ``text``."""
    (hosts / NAME).mkdir(parents=True, exist_ok=True)
    (hosts / NAME / "hosts.toml").write_text(text)
    config = hosts / "grootfs.yml"
    config.write_text(f"metrics_file: {hosts}/metrics.prom\ncreate: {{registry_hosts_path: {hosts}}}\n")
    return store.run("--config", str(config), "create", f"docker://{NAME}/team/app", name).ok()


@contextmanager
def cache_of(origin: str, folder: Path) -> Iterator[str]:
    """Debian's registry as a pull-through cache; gives host:port."""
    assert shutil.which("docker-registry"), "docker-registry is not installed"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
        "proxy": {"remoteurl": f"http://{origin}"},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=quiet, stderr=quiet)
    try:
        end = time.monotonic() + 20
        while True:
            assert process.poll() is None and time.monotonic() < end, "docker-registry does not answer"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                    break
            time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_a_cache_asks_the_registry_once_for_all_cells(make_store: MakeStore, scratch: Path) -> None:
    with FakeRegistry() as origin, cache_of(origin.addr, scratch / "cache") as cache:
        image = add(origin)
        text = f'server = "http://{origin.addr}"\n[host."http://{cache}"]\n'
        sent = []
        for number in range(3):
            cell = make_store()
            create(cell, scratch / f"hosts-{number}", text, "app")
            assert (cell.rootfs("app") / "two").read_text() == "second"
            # It answers, and fetches what it keeps for itself.
            end = time.monotonic() + 5
            while number == 0 and origin.sent_bytes("/blobs/") < 2 * sum(len(blob) for blob, _ in LAYERS) and time.monotonic() < end:
                time.sleep(0.02)
            sent.append([origin.sent_bytes(f"/blobs/{digest}") for digest in image.layers])
        assert 0 < sent[0][0] <= 2 * len(LAYERS[0][0])
        assert sent == [sent[0]] * 3, "the other cells cost the registry nothing"


class Peers:
    """What a cell's own Spegel does: it has what some cell has, knows of which registry by ``?ns=``, answers 404 for all else, and
    cannot pass a range on."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        registry.fault("/v2/", Fault(hook=self._answer))

    def _answer(self, handler: Any) -> bool:
        path, _, query = handler.path.partition("?")
        if path != "/v2/" and (query != f"ns={NAME}" or "Range" in handler.headers):
            handler.send_error(404)
            return True
        return False


@pytest.mark.parametrize("has", ["all", "no blob", "nothing"])
def test_what_a_peer_has_comes_from_there(store: Store, scratch: Path, has: str) -> None:
    with FakeRegistry() as origin, FakeRegistry() as spegel:
        image = add(origin)
        Peers(spegel)
        if has != "nothing":
            add(spegel)
        if has == "no blob":
            for digest in image.layers:
                del spegel.blobs[digest]
        text = f'server = "http://{origin.addr}"\n[host."http://{spegel.addr}"]\ncapabilities = ["pull", "resolve"]\n'
        create(store, scratch / "hosts", text, "app")
        assert (store.rootfs("app") / "two").read_text() == "second"
        counted = f'grootfs_mirror_failures_total{{store="{store.path}"}}' in (scratch / "hosts" / "metrics.prom").read_text()
        assert counted == (has != "all")
        wanted = 0 if has == "all" else 1
        assert [len(origin.gets(f"/blobs/{digest}")) for digest in image.layers] == [wanted, wanted]


def test_dragonfly_is_told_the_registry_by_its_header(store: Store, scratch: Path) -> None:
    """dfdaemon fetches from the registry that the header names."""
    with FakeRegistry() as origin, FakeRegistry() as dfdaemon:
        add(origin)
        add(dfdaemon)
        wanted = f"http://{origin.addr}"

        def hook(handler: Any) -> bool:
            if handler.headers.get("X-Dragonfly-Registry") != wanted:
                handler.send_error(400)
                return True
            return False

        dfdaemon.fault("/v2/", Fault(hook=hook))
        host = f"http://{dfdaemon.addr}"
        text = f'server = "{wanted}"\n[host."{host}"]\ncapabilities = ["pull", "resolve"]\n'
        text += f'[host."{host}".header]\nX-Dragonfly-Registry = "{wanted}"\n'
        create(store, scratch / "hosts", text, "app")
        assert not origin.seen, "nobody went past it"
        assert not [seen for seen in dfdaemon.seen if "Authorization" in seen.headers]
    # It died: the registry itself serves.
    with FakeRegistry() as origin:
        add(origin)
        create(store, scratch / "hosts", text.replace(wanted, f"http://{origin.addr}"), "again")
        assert origin.seen
