"""Droplets as Garden sends them: layers behind URLs, client certificates, made-up sizes and diff ids (contract, section 19.5)."""

from __future__ import annotations

import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fake_registry import Authority, FakeRegistry, Fault
from support.archive import Archive, Layer
from support.command import Grootfs, Store, kill, new_id, wait_for
from support.guardian import Droplet, write_preloaded


class Blobstore:
    """An HTTPS server that wants a client certificate, and what the cell knows of it."""

    def __init__(self, fake: FakeRegistry, certificates: Path) -> None:
        self.fake = fake
        self.certificates = certificates
        self.url = f"https://{fake.addr}"

    def path(self, droplet: Droplet) -> str:
        """What is asked for."""
        return droplet.url.removeprefix(self.url)

    def droplet(self, *parts: bytes, digest: str = "", **files: str) -> Droplet:
        """Serve a droplet, by default under its own digest."""
        archive = Archive().dir(".")
        for name, content in files.items():
            archive.file(name, content)
        layer = Layer(archive.tar)
        digest = digest or layer.digest
        self.fake.blobs[f"sha256:{digest}"] = parts[0] if parts else layer.blob
        return Droplet(f"{self.url}/v2/droplets/blobs/sha256:{digest}", digest)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def blobstore(authority: Authority, scratch: Path) -> Iterator[Blobstore]:
    certificates = scratch / "certificates"
    certificates.mkdir()
    certificate, key = authority.issue(new_id())
    shutil.copy(authority.certificate, certificates / "ca.crt")
    shutil.copy(certificate, certificates / "cell.cert")
    shutil.copy(key, certificates / "cell.key")
    context = authority.server_context(new_id())
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    with FakeRegistry(tls=context) as fake:
        yield Blobstore(fake, certificates)


@pytest.fixture
def base(scratch: Path) -> Path:
    path = scratch / "base.tar"
    path.write_bytes(Archive().dir("home").dir("home/vcap").file("base", "b").tar)
    return path


class Cell:
    """A store with the configuration of a cell."""

    def __init__(self, store: Store, scratch: Path, certificates: Path, *, skip: bool = True) -> None:
        config = scratch / f"{new_id()}.yml"
        config.write_text(
            f"create:\n  skip_layer_validation: {str(skip).lower()}\n  remote_layer_client_certificates_path: {certificates}\n"
        )
        self.store = store
        self.command = Grootfs("--store", str(store.path), "--config", str(config))

    def create(self, url: str) -> dict[str, str]:
        """Make an image; gives what is in the droplets' directory."""
        image_id = new_id()
        self.command.run("create", url, image_id).ok()
        top = self.store.rootfs(image_id) / "home" / "vcap"
        return {name: (top / name).read_text() for name in sorted(os.listdir(top))}


@pytest.fixture
def cell(store: Store, scratch: Path, blobstore: Blobstore) -> Cell:
    return Cell(store, scratch, blobstore.certificates)


def test_one_and_two_droplets(cell: Cell, blobstore: Blobstore, base: Path, scratch: Path) -> None:
    one, two = blobstore.droplet(app="one"), blobstore.droplet(dep="two")
    assert cell.create(write_preloaded(scratch / "1", base, one)) == {"app": "one"}
    assert cell.create(write_preloaded(scratch / "2", base, one, two)) == {"app": "one", "dep": "two"}
    assert cell.store.temporary() == []


def test_droplets_of_several_apps_do_not_wait_for_each_other(cell: Cell, blobstore: Blobstore, base: Path, scratch: Path) -> None:
    """Downloads are known by digest: without one they would all be one file."""
    slow, fast = blobstore.droplet(app="slow"), blobstore.droplet(app="fast")
    go_on = threading.Event()

    def wait(_: Any) -> bool:
        assert go_on.wait(60)
        return False

    blobstore.fake.fault(blobstore.path(slow), Fault(hook=wait))
    urls = [write_preloaded(scratch / name, base, droplet) for name, droplet in (("slow", slow), ("fast", fast))]
    # The base is there: building it would be waited for.
    cell.create(write_preloaded(scratch / "base", base))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(cell.create, urls[0])
        wait_for(lambda: any(slow.digest in name for name in cell.store.temporary()), "the download of the slow droplet")
        assert cell.create(urls[1]) == {"app": "fast"}
        assert not first.done()
        go_on.set()
        assert first.result() == {"app": "slow"}


def test_what_a_killed_create_left_is_nobody_elses(cell: Cell, blobstore: Blobstore, base: Path, scratch: Path) -> None:
    killed, other = blobstore.droplet(app="killed" * 1000), blobstore.droplet(app="other")
    blobstore.fake.fault(blobstore.path(killed), Fault(stall_after=20))
    url = write_preloaded(scratch / "killed", base, killed)
    process = cell.command.start("create", url, "killed")
    wait_for(lambda: any(killed.digest in name for name in cell.store.temporary()), "the download")
    kill(process)
    process.communicate()
    assert cell.create(write_preloaded(scratch / "other", base, other)) == {"app": "other"}
    blobstore.fake.heal()
    assert cell.create(url) == {"app": "killed" * 1000}


def test_a_digest_is_a_name_where_nothing_is_validated(cell: Cell, blobstore: Blobstore, base: Path, scratch: Path) -> None:
    made_up = blobstore.droplet(digest="5" * 64, app="other content")
    assert cell.create(write_preloaded(scratch / "1", base, made_up)) == {"app": "other content"}
    validating = Cell(cell.store, scratch, blobstore.certificates, skip=False)
    url = write_preloaded(scratch / "2", base, blobstore.droplet(digest="6" * 64, app="third"))
    result = validating.command.run("create", url, "c").failed()
    assert result.message.startswith("pulling the image: streaming blob `sha256:")


def test_what_is_no_droplet(cell: Cell, blobstore: Blobstore, base: Path, scratch: Path) -> None:
    page = blobstore.droplet(b"<html>sorry</html>", digest="7" * 64)
    cut = blobstore.droplet(Layer(Archive().file("app", os.urandom(5000)).tar).blob[:-1000], digest="8" * 64)
    for name, droplet, why in (("page", page, "its first bytes are `<html>"), ("cut", cut, "unexpected end of data")):
        result = cell.command.run("create", write_preloaded(scratch / name, base, droplet), name).failed()
        assert why in result.message and droplet.digest in result.message
        assert not cell.store.image(name).exists()


@pytest.mark.parametrize(
    ("left", "message", "hint"),
    [
        ({}, "signed by an unknown authority", " is empty"),
        ({"ca.pem": "ca.crt"}, "signed by an unknown authority", "/ca.pem is not looked at: authorities are called *.crt"),
        ({"cell.cert": "cell.cert", "cell.key": "cell.key"}, "signed by an unknown authority", "has to have the certificate of that"),
        ({"ca.crt": "ca.crt"}, "connection", "has to have client.cert and client.key"),
        ({"ca.crt": "ca.crt", "cell.pem": "cell.cert"}, "connection", "/cell.pem is not looked at"),
    ],
)
def test_certificates_that_are_not_there(
    store: Store, blobstore: Blobstore, base: Path, scratch: Path, left: dict[str, str], message: str, hint: str
) -> None:
    """What is said is about the directory, not about registries."""
    folder = scratch / "other"
    folder.mkdir()
    for name, source in left.items():
        shutil.copy(blobstore.certificates / source, folder / name)
    url = write_preloaded(scratch / "image", base, blobstore.droplet(app="x"))
    result = Cell(store, scratch, folder).command.run("create", url, "c").failed()
    assert message in result.message and "registry is insecure" not in result.out and "certs.d" not in result.out
    assert f"\nhint: {folder}" in result.out and hint in result.out
