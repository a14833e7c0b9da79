"""Images as builders and tools leave them: layouts, archives and registries give the same trees by the same rules.

The rules themselves have their tests beside them (``rust/image``); here they meet the command, as root and as an ordinary user.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fake_registry import DOCKER_MANIFEST, OCI_INDEX, FakeRegistry, sha256
from support.accounts import User
from support.archive import Archive, Layer, layers_of
from support.command import Store, new_id
from support.layout import BASE_DIRECTORY, CONFIG, MANIFEST, write_layout
from support.tree import Node, Tree, names, photograph

ALPHA, BETA = (Archive().dir("d").file(f"d/{name}", name) for name in ("alpha", "beta"))


@pytest.fixture(scope="module", params=["root", "user"])
def store(request: pytest.FixtureRequest, shared_store: Store, module_scratch: Path, user: User) -> Store:
    """As root, and as an ordinary user on a store of its own."""
    if request.param == "root":
        return shared_store
    own = Store(module_scratch / "own")
    own.init("--rootless", f"{user.name}:{user.name}").ok()
    return Store(own.path, uid=user.uid)


@pytest.fixture
def place(module_scratch: Path) -> Path:
    """A new directory that every user may read."""
    path = module_scratch / new_id()
    path.mkdir()
    return path


class Documents:
    """Blobs of images, to be served by a registry or written as a layout."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.types: dict[str, str] = {}

    def add(self, body: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """A descriptor of a blob."""
        self.blobs[sha256(body)] = body
        self.types[sha256(body)] = media_type
        return {"mediaType": media_type, "digest": sha256(body), "size": len(body), **more}

    def image(self, *archives: Archive, architecture: str = "amd64", media_type: str = MANIFEST, **layer: Any) -> dict[str, Any]:
        """An image of these layers."""
        layers = layers_of(archives)
        config: dict[str, Any] = {"os": "linux", "architecture": architecture}
        config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{one.diff_id}" for one in layers]}
        return self.manifest(
            self.add(json.dumps(config).encode(), CONFIG), *(self.add(one.blob, one.media_type, **layer) for one in layers), kind=media_type
        )

    def manifest(self, config: dict[str, Any], *layers: dict[str, Any], kind: str = MANIFEST) -> dict[str, Any]:
        """A manifest."""
        return self.add(json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}).encode(), kind)

    def index(self, *entries: dict[str, Any]) -> dict[str, Any]:
        """An index."""
        return self.add(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode(), OCI_INDEX)

    def write(self, path: Path, *entries: dict[str, Any]) -> str:
        """As a layout with these entries."""
        (path / "blobs" / "sha256").mkdir(parents=True)
        for digest, body in self.blobs.items():
            (path / "blobs" / "sha256" / digest[7:]).write_bytes(body)
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return f"oci://{path}"

    def serve(self, registry: FakeRegistry, entry: dict[str, Any]) -> str:
        """In a registry, with this document under a tag."""
        registry.blobs.update(self.blobs)
        for digest, body in self.blobs.items():
            registry.put("app", digest, body, self.types[digest])
        registry.put("app", "t", self.blobs[entry["digest"]], entry["mediaType"])
        return registry.url("app", ":t")


def on(architecture: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with a platform."""
    return {**entry, "platform": {"os": "linux", "architecture": architecture}}


def made(store: Store, url: str, *flags: str) -> list[str]:
    """Names in the tree of an image."""
    image_id = new_id()
    tree = names(store.create(url, image_id, *flags))
    store.delete(image_id)
    return tree


@pytest.fixture
def documents() -> Documents:
    """None yet."""
    return Documents()


def everywhere(documents: Documents, entry: dict[str, Any], place: Path, registry: FakeRegistry) -> list[tuple[str, list[str]]]:
    """(URL, options) of the image in a layout and in a registry."""
    return [
        (documents.write(place / "layout", entry), []),
        (documents.serve(registry, entry), ["--insecure-registry", registry.addr]),
    ]


def test_nested_indexes_and_neighbours_of_other_kinds(store: Store, place: Path, documents: Documents) -> None:
    neighbours: list[Any] = [
        {"mediaType": MANIFEST, "digest": "sha512:" + "a" * 128, "size": 7, "platform": {"os": "linux", "architecture": "s390x"}},
        {"mediaType": "application/vnd.example", "digest": "sha256:" + "a" * 64, "size": 5 << 30},
        on("unknown", documents.image(BETA)),
        5,
    ]
    inner = documents.index(*neighbours, on("arm64", documents.image(BETA, architecture="arm64")), on("amd64", documents.image(ALPHA)))
    with FakeRegistry() as registry:
        for url, flags in everywhere(documents, documents.index(inner), place, registry):
            assert made(store, url, *flags, "--platform", "linux/amd64") == ["d", "d/alpha"]
            assert made(store, url, *flags, "--platform", "linux/arm64") == ["d", "d/beta"]
            refused = store.refuse(url, "", *flags, "--platform", "linux/riscv64")
            assert "no image found in manifest list for architecture riscv64, OS linux" in refused.out
            assert "linux/amd64, linux/arm64" in refused.out


def test_a_single_image_of_another_platform(store: Store, place: Path, documents: Documents) -> None:
    entry = documents.image(ALPHA, architecture="s390x")
    with FakeRegistry() as registry:
        for url, flags in everywhere(documents, entry, place, registry):
            assert made(store, url, *flags) == ["d", "d/alpha"]
            assert "holds: linux/s390x" in store.refuse(url, "", *flags, "--platform", "linux/amd64").out
            logged = store.run("--log-level", "info", "create", *flags, url, new_id()).ok().err
            assert "the image is for linux/s390x by its own configuration, not for linux/amd64" in logged


def test_docker_manifests_and_images_without_layers(store: Store, place: Path, documents: Documents) -> None:
    with FakeRegistry() as registry:
        for url, flags in everywhere(documents, documents.image(ALPHA, media_type=DOCKER_MANIFEST), place, registry):
            assert made(store, url, *flags) == ["d", "d/alpha"]
    documents = Documents()
    with FakeRegistry() as registry:
        for url, flags in everywhere(documents, documents.image(), place / "empty", registry):
            assert made(store, url, *flags) == []


def test_urls_of_an_ordinary_layer_are_not_asked(store: Store, documents: Documents) -> None:
    with FakeRegistry() as registry:
        url = documents.serve(registry, documents.image(ALPHA, urls=["https://127.0.0.1:9/nobody"]))
        assert made(store, url, "--insecure-registry", registry.addr) == ["d", "d/alpha"]


def test_an_artifact_is_called_one(store: Store, place: Path, documents: Documents) -> None:
    entry = documents.manifest(documents.add(b"{}", "application/vnd.oci.empty.v1+json"), documents.add(b"chart", "application/x"))
    with FakeRegistry() as registry:
        for url, flags in everywhere(documents, entry, place, registry):
            assert "an artifact of type 'application/vnd.oci.empty.v1+json'" in store.refuse(url, "", *flags).out


@pytest.mark.parametrize("name", ["a@b", "mod@v1.0.0"])
def test_signs_in_names(store: Store, place: Path, documents: Documents, name: str) -> None:
    image = documents.image(ALPHA)
    image["annotations"] = {"org.opencontainers.image.ref.name": "x@y"}
    url = documents.write(place / name, image)
    for tail in ("", ":x@y", f"@{image['digest']}", f":x@y@{image['digest']}"):
        assert made(store, url + tail) == ["d", "d/alpha"]
    assert made(store, url.replace("@", "%40")) == ["d", "d/alpha"]


# -- what lies in the place of a blob --------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--skip-layer-validation"]])
def test_a_directory_in_the_place_of_a_blob(store: Store, place: Path, flags: list[str]) -> None:
    """It was copied in, setuid files included, and published under the name of the true layer."""
    good = Archive().file(f"good-{new_id()}", "good")
    bad = write_layout(place / "bad", good)
    (blob,) = (path for path in (place / "bad/blobs/sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b")
    blob.unlink()
    blob.mkdir(mode=0o755)
    (blob / "evil").write_text("evil")
    (blob / "evil").chmod(0o4755)
    before = store.volumes()
    assert "is a directory" in store.refuse(bad, "", *flags).out
    assert store.volumes() == before
    assert "evil" not in made(store, write_layout(place / "good", good))


def test_a_pipe_in_the_place_of_a_blob_holds_nobody(store: Store, place: Path) -> None:
    url = write_layout(place / "layout", Archive().file(new_id()))
    (blob,) = (path for path in (place / "layout/blobs/sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b")
    blob.unlink()
    os.mkfifo(blob, 0o644)
    assert "not a regular file" in store.refuse(url).out


def test_a_blob_may_be_a_link_to_a_file(store: Store, place: Path) -> None:
    url = write_layout(place / "layout", ALPHA)
    for blob in list((place / "layout/blobs/sha256").iterdir()):
        blob.rename(place / blob.name)
        blob.symlink_to(place / blob.name)
    assert made(store, url) == ["d", "d/alpha"]


# -- base directories --------------------------------------------------------------


def test_a_layer_below_another_directory_is_another_volume(store: Store, place: Path) -> None:
    base = Archive().dir("home").dir("home/vcap").dir("srv")
    droplet = Archive().file(f"run-{new_id()}")
    trees = []
    for where in ("/home/vcap", "/srv", "/", None):
        layer = Layer(droplet.tar, annotations={BASE_DIRECTORY: where} if where else {})
        trees.append([name for name in made(store, write_layout(place / new_id(), base, layer)) if "run-" in name])
    assert [tree[0].rpartition("/")[0] for tree in trees] == ["home/vcap", "srv", "", ""]


# -- archives -----------------------------------------------------------------------


def test_an_archive_of_images_by_its_path(store: Store, place: Path) -> None:
    """`docker save` by hand: one image, then two."""
    members: dict[str, bytes] = {}
    listed = []
    for tag, archive in (("x:1", ALPHA), ("x:2", BETA)):
        (layer,) = layers_of((archive,))
        config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [f"sha256:{layer.diff_id}"]}}).encode()
        members[f"{tag}.json"], members[f"{tag}/layer.tar"] = config, archive.tar
        listed.append({"Config": f"{tag}.json", "RepoTags": [tag], "Layers": [f"{tag}/layer.tar"]})
        saved = Archive()
        for name, body in members.items():
            saved.file(name, body)
        (place / f"{len(listed)}.tar").write_bytes(saved.file("manifest.json", json.dumps(listed)).tar)
    assert made(store, str(place / "1.tar")) == made(store, f"docker-archive:{place}/2.tar:x:1") == ["d", "d/alpha"]
    assert made(store, f"docker-archive:{place}/2.tar:x:2") == ["d", "d/beta"]
    refused = store.refuse(str(place / "2.tar")).out
    assert "more than one image" in refused and "x:1, x:2" in refused
    (place / "plain.tar").write_bytes(ALPHA.tar)
    assert "is no archive of an image" in store.refuse(f"docker-archive:{place}/plain.tar").out
    assert made(store, str(place / "plain.tar")) == ["d", "d/alpha"]


def test_a_layer_in_an_archive_is_verified(store: Store, place: Path) -> None:
    (layer,) = layers_of((Archive().file(new_id()),))
    config = json.dumps({"rootfs": {"diff_ids": [f"sha256:{layer.diff_id}"]}})
    listed = json.dumps([{"Config": "c", "RepoTags": [], "Layers": ["l"]}])
    saved = Archive().file("c", config).file("l", Archive().file("evil").tar).file("manifest.json", listed)
    (place / "a.tar").write_bytes(saved.tar)
    assert "diffID digest mismatch" in store.refuse(str(place / "a.tar")).out


# -- tools -------------------------------------------------------------------------


def run(*argv: str | Path) -> None:
    """A tool that Debian has."""
    subprocess.run(list(map(str, argv)), check=True, capture_output=True)


@pytest.fixture(scope="module")
def source(module_scratch: Path) -> str:
    """An image with what trees are made of, in two layers."""
    lower = (
        Archive().dir("usr", mode=0o755).file("usr/f", "content", mode=0o4755, uid=7, gid=8).symlink("s", "usr/f").link("usr/h", "usr/f")
    )
    upper = Archive().file("usr/new", "new").whiteout("s").dir("usr/empty", mode=0o1777)
    return write_layout(module_scratch / "source", lower, upper).removeprefix("oci://")


def test_copies_that_skopeo_writes(store: Store, source: str, place: Path) -> None:
    """One tree, whatever tool, format and compression."""
    image_id = new_id()
    expected = photograph(store.create(f"oci://{source}", image_id))
    store.delete(image_id)
    copies = [
        (["--dest-compress-format", "gzip"], f"oci:{place}/gzip:t", f"oci://{place}/gzip:t"),
        (["--dest-compress-format", "zstd"], f"oci:{place}/zstd:t", f"oci://{place}/zstd:t"),
        (["--dest-compress-format", "zstd:chunked"], f"oci:{place}/chunked:t", f"oci://{place}/chunked:t"),
        (["--format", "v2s2"], f"docker-archive:{place}/docker.tar:x:y", f"{place}/docker.tar"),
        ([], f"oci-archive:{place}/oci.tar:t", f"oci-archive:{place}/oci.tar:t"),
        ([], f"oci-archive:{place}/unnamed.tar", f"{place}/unnamed.tar"),
    ]
    for flags, target, url in copies:
        run("skopeo", "copy", "--insecure-policy", *flags, f"oci:{source}", target)
        if store.uid is not None:
            run("chmod", "-R", "a+rX", place)
        store.clean()  # made anew, not taken from what is there
        image_id = new_id()
        assert photograph(store.create(url, image_id)) == expected, url
        store.delete(image_id)


def test_copies_that_buildah_writes(store: Store, source: str, place: Path) -> None:
    """From its own storage: layers that it has made anew."""
    image_id = new_id()
    expected = photograph(store.create(f"oci://{source}", image_id))
    store.delete(image_id)
    buildah: list[str | Path] = ["buildah", "--root", place / "root", "--runroot", place / "run", "--storage-driver", "vfs"]
    name = subprocess.run([*buildah, "pull", f"oci:{source}"], check=True, capture_output=True, text=True).stdout.strip()
    for target, url in (
        (f"oci:{place}/layout:t", f"oci://{place}/layout:t"),
        (f"oci-archive:{place}/oci.tar:t", f"{place}/oci.tar"),
        (f"docker-archive:{place}/docker.tar:x:y", f"docker-archive:{place}/docker.tar:x:y"),
    ):
        run(*buildah, "push", name, target)
        if store.uid is not None:
            run("chmod", "-R", "a+rX", place)
        store.clean()
        image_id = new_id()
        assert comparable(photograph(store.create(url, image_id))) == comparable(expected), url
        store.delete(image_id)


def comparable(tree: Tree) -> dict[str, Node]:
    """Without times of directories, which buildah's storage does not keep."""
    return {path: node._replace(mtime=0) if node.kind == "directory" else node for path, node in tree.items()}


@pytest.mark.parametrize("tool", ["gnu", "oldgnu", "pax", "ustar", "v7", "bsdtar", "python"])
def test_archives_of_one_tree_by_many_writers(store: Store, place: Path, tool: str) -> None:
    tree = place / "tree"
    (tree / "d/e").mkdir(parents=True)
    (tree / "d/f").write_text("content")
    (tree / "d/f").chmod(0o754)
    os.link(tree / "d/f", tree / "h")
    (tree / "s").symlink_to("d/f")
    for path in (tree / "d/f", tree / "d/e", tree / "d", tree):
        os.utime(path, (1_400_000_000, 1_400_000_000))
    os.utime(tree / "s", (1_400_000_000, 1_400_000_000), follow_symlinks=False)
    made_by = place / "made.tar"
    if tool == "bsdtar":
        run("bsdtar", "-cf", made_by, "-C", tree, ".")
    elif tool == "python":
        with tarfile.open(made_by, "w") as archive:
            archive.add(tree, ".")
    else:
        run("tar", f"--format={tool}", "-cf", made_by, "-C", tree, ".")
    (place / "expected").mkdir()
    run("tar", "-xpf", made_by, "-C", place / "expected")
    image_id = new_id()
    rootfs = store.create(str(made_by), image_id)
    ours, theirs = photograph(rootfs), photograph(place / "expected")
    if store.uid is None:
        assert ours == theirs
    else:
        assert list(ours) == list(theirs)
    store.delete(image_id)
    shutil.rmtree(tree)


def test_a_platform_is_part_of_what_is_remembered(store: Store, place: Path, documents: Documents) -> None:
    """By who unpacks an image, and by who finds it unpacked."""
    url = documents.write(place / "layout", documents.index(on("amd64", documents.image(ALPHA))))
    for _ in range(2):
        made(store, url, "--platform", "linux/amd64")
    remembered = (json.loads(record.read_text())["image"] for record in (store.path / "meta" / "sources").iterdir())
    assert [name for name in remembered if name.startswith(url)] == [f"{url} linux/amd64"]
