"""Each row of the table in docs/newest.md: where the newest original (2026) differs, and what we do with ``compatibility: newest``.

A row that Python does is asked of the program that has it; those of hot commands are asked of both ways, native and Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fake_registry import Authority, FakeRegistry, Fault
from groot_fast.config import load
from support import mounts
from support.accounts import User
from support.archive import Archive, Layer
from support.command import COMMAND, MIB, REPOSITORY, Grootfs, Result, Store, new_id, wait_for
from support.metron import Agent

Image = Callable[..., str]
NEWEST = ("--compatibility", "newest")
NOISE = os.urandom(MIB)
APP = Archive().dir("etc").file("etc/passwd", "root:x:0:0::/:/bin/sh\n").file("blob", NOISE)
RUNTIME = {"Env": ["PATH=/bin"], "Volumes": {"/etc/foo": {}}}
TABLE = (REPOSITORY / "docs" / "newest.md").read_text()


@pytest.fixture(params=["native", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who does a hot command: with a collector of traces Python does all of them."""
    if request.param == "python":
        start = subprocess.Popen

        def traced(*args: object, **keywords: object) -> object:
            if isinstance(keywords.get("env"), dict):
                keywords["env"] = {**keywords["env"], "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}  # type: ignore[dict-item]
            return start(*args, **keywords)  # type: ignore[call-overload]

        monkeypatch.setattr(subprocess, "Popen", traced)
    return str(request.param)


@pytest.fixture
def newest(store: Store) -> Store:
    """A store, asked as today's cells ask."""
    return Store(store.path, *NEWEST)


@pytest.fixture
def agent() -> Iterator[Agent]:
    opened = Agent()
    yield opened
    opened.close()


def create(store: Store, image: str | Path, *flags: str, image_id: str = "") -> dict[str, object]:
    """Make an image; gives the specification."""
    result = store.run("create", *flags, image, image_id or new_id()).ok()
    assert result.out.count("\n") == 1 and result.out.endswith("\n")
    spec = json.loads(result.out)
    assert isinstance(spec, dict)
    return spec


def values(agent: Agent) -> dict[str, float]:
    """The last value of each metric."""
    return {event.name: event.fields[2] for event in agent.take() if event.kind == "value"}


def refused(result: Result) -> str:
    """Insist on a failure in exactly one line on stdout; gives it."""
    assert result.code == 1 and result.err == "" and result.out.count("\n") == 1, result
    return result.message


def test_the_table_and_the_tests_are_the_same() -> None:
    """Each row names its test, and each test of a row is named."""
    rows = re.findall(r"^\| (C\d+) \|.*\| `(test_c\d+_\w+)` \|$", TABLE, re.MULTILINE)
    assert [row for row, _ in rows] == [f"C{number}" for number in range(1, 28)]
    tests = sorted(name for name in globals() if re.match(r"test_c\d+_", name))
    assert sorted(name for _, name in rows) == tests
    assert all(name.startswith(f"test_{row.lower()}_") for row, name in rows)


def test_c1_create_prints_json(newest: Store, image: Image, way: str) -> None:
    url = image(APP)
    for image_id in ("cold", "warm"):
        spec = create(newest, url, image_id=image_id)
        assert spec["root"] == {"path": str(newest.rootfs(image_id))}
    assert Store(newest.path).create(url)


def test_c2_what_a_rewritten_file_loses_is_in_the_site_file(store: Store, scratch: Path, image: Image) -> None:
    """A caller's file without a key of ours; the program's own place says it, and so does what is installed nowhere."""
    prefix = scratch / "prefix"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(COMMAND, prefix / "bin" / "grootfs")
    (prefix / "lib").symlink_to(REPOSITORY / "build" / "lib")
    site = prefix / "etc" / "grootfs" / "defaults.yml"
    site.parent.mkdir(parents=True)
    site.write_text("compatibility: newest\nlog_level: info\n")
    config = scratch / "grootfs_config.yml"
    config.write_text(f"store: {store.path}\n")

    def run(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = str(prefix / "bin" / "grootfs")
        environment = {"PATH": os.environ["PATH"], **variables}
        return subprocess.run([program, *argv], capture_output=True, text=True, check=False, env=environment)

    url = image(APP)
    for image_id in ("cold", "warm"):
        done = run("--config", str(config), "create", url, image_id)
        assert json.loads(done.stdout)["root"]["path"] == str(store.rootfs(image_id)), done
        assert '"level":"info"' in done.stderr
    assert run("create", url, "c", GROOTFS_CONFIG=str(config)).stdout.startswith("{")
    assert run("create", url, "d", GROOTFS_STORE=str(store.path)).stdout.startswith("{")
    assert run("--config", str(config), "create", url, "e", GROOTFS_COMPATIBILITY="none").stdout == f"{store.image('e')}\n"
    assert run("--config", str(config), "create", url, "f", GROOTFS_DEFAULTS="/dev/null").stdout == f"{store.image('f')}\n"
    config.write_text(f"store: {store.path}\ncompatibility: blog\n")
    assert run("--config", str(config), "create", url, "g").stdout == f"{store.image('g')}\n"
    site.chmod(0o666)
    done = run("--config", str(config), "list")
    assert done.returncode == 1 and done.stdout.startswith(f"site file {site} is not used: others can write it\n")


def test_c3_volumes_are_not_mounts(newest: Store, image: Image, way: str) -> None:
    url = image(APP, runtime=RUNTIME)
    for image_id in ("cold", "warm"):
        spec = create(newest, url, image_id=image_id)
        assert "mounts" not in spec
        assert sorted(os.listdir(newest.image(image_id))) == ["image.json", "rootfs"]
    assert list(create(newest, url, "--without-mount")["mounts"][0]) == ["destination", "source", "options"]  # type: ignore[index]
    # Another era, on the same store, has them.
    assert "vol-" in Store(newest.path).run("create", "--json", url, "other").ok().out


def test_c4_thresholds_count_committed_limits(newest: Store, image: Image, way: str) -> None:
    create(newest, image(APP), "--disk-limit-size-bytes", "300000000", "--exclude-image-from-quota")
    unused = image(Archive().file("unused", NOISE))
    create(newest, unused, image_id="unused")
    newest.delete("unused")
    assert len(newest.volumes()) == 2
    threshold = ("--threshold-bytes", "100000000")
    assert Store(newest.path).run("clean", *threshold).ok().out == "threshold not reached: skipping clean\n"
    assert newest.run("clean", "--threshold-bytes", "400000000").ok().out == "threshold not reached: skipping clean\n"
    assert json.loads(newest.run("stats", "--store").ok().out)["is_above_threshold"] is None
    assert newest.run("clean", *threshold).ok().out == "clean completed\n"
    assert len(newest.volumes()) == 1


def test_c5_clean_on_create_is_a_process_of_its_own(newest: Store, image: Image, scratch: Path, way: str) -> None:
    log = scratch / "clean.log"
    url, unused = image(APP), image(Archive().file("unused", NOISE))
    create(newest, url)
    create(newest, unused, image_id="unused")
    newest.delete("unused")
    create(newest, url, "--with-clean", "--clean-log-file", str(log))
    wait_for(lambda: len(newest.volumes()) == 1, "the clean", pause=0.01)
    wait_for(lambda: "grootfs.clean.groot-cleaning.ending" in log.read_text(), "its end", pause=0.01)
    # It cannot fail the create: here it cannot even open its log.
    result = newest.run("create", "--with-clean", "--clean-log-file", "/no/such/log", url, "made").ok()
    assert json.loads(result.out)["root"]["path"] == str(newest.rootfs("made"))


def test_c6_the_log_of_that_clean_has_a_file(store: Store, image: Image, scratch: Path, way: str) -> None:
    url = image(APP)
    for era in ("newest", "none"):
        log, config = scratch / f"{era}.log", scratch / f"{era}.yml"
        config.write_text(f"store: {store.path}\nlog_level: info\ncreate: {{with_clean: true, clean_log_file: {log}}}\n")
        result = Grootfs("--config", str(config), "--compatibility", era).run("create", url, new_id()).ok()
        assert "groot-cleaning" not in result.err and "groot-creating" in result.err
        wait_for(lambda log=log: log.exists() and "groot-cleaning.ending" in log.read_text(), "the clean's log", pause=0.01)


def test_c7_direct_io_is_on_or_off(scratch: Path) -> None:
    store = Store(scratch / "store", *NEWEST)

    def direct() -> str:
        device = mounts.device_of(store.path)
        return Path(f"/sys/block/{Path(device).name}/loop/dio").read_text().strip()

    store.init("--with-direct-io", size=512 * MIB).ok()
    assert direct() == "1"
    store.init(size=512 * MIB).ok()
    assert direct() == "0"
    config = scratch / "c.yml"
    config.write_text(f"store: {store.path}\ninit: {{with_direct_io: true, store_size_bytes: {512 * MIB}}}\n")
    Grootfs("--config", str(config), *NEWEST).run("init-store").ok()
    assert direct() == "1"
    # In the other eras it is on unless it is turned off.
    Grootfs("--config", str(config)).run("init-store", "--with-direct-io=false").ok()
    assert direct() == "0"
    Store(store.path).init(size=512 * MIB).ok()
    assert direct() == "1"


def test_c8_the_log_has_words_and_dates(newest: Store, image: Image, way: str) -> None:
    url = image(APP)
    result = newest.run("create", url, "a").ok()
    assert result.err == ""
    told = Store(newest.path, *NEWEST, "--log-level", "info")
    for argv in (["create", url, "b"], ["delete", "b"], ["list"], ["stats", "a"]):
        lines = [json.loads(line) for line in told.run(*argv).ok().err.splitlines() if "-traces" not in line]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{9}Z", line["timestamp"]) and line["level"] == "info" for line in lines)
        # The commands themselves say nothing at this level.
        assert not any(re.fullmatch(r"grootfs\.[a-z]+\.(starting|ending)", line["message"]) for line in lines)
        assert bool(lines) == (argv != ["list"])


def test_c9_stats_have_the_limit_and_what_is_committed(newest: Store, image: Image, way: str) -> None:
    url = image(APP)
    size = MIB + len("root:x:0:0::/:/bin/sh\n")
    for flags, limit in ((), 0), (("10000000", "--exclude-image-from-quota"), 10000000), (("10000000",), 10000000 - size):
        image_id = new_id()
        create(newest, url, *(["--disk-limit-size-bytes", *flags] if flags else []), image_id=image_id)
        usage = json.loads(newest.run("stats", image_id).ok().out)["disk_usage"]
        assert list(usage) == ["total_bytes_used", "exclusive_bytes_used", "quota_size_bytes", "committed_space_bytes"]
        assert (usage["quota_size_bytes"], usage["committed_space_bytes"]) == (limit, limit + size)
    assert set(json.loads(Store(newest.path).run("stats", image_id).ok().out)["disk_usage"]) == {"total_bytes_used", "exclusive_bytes_used"}


def test_c10_used_layers_size(newest: Store, image: Image, agent: Agent, way: str) -> None:
    told = Store(newest.path, *NEWEST, "--metron-endpoint", agent.endpoint)
    create(told, image(APP), image_id="a")
    create(told, image(Archive().file("other", bytes(1000))), image_id="b")
    size = MIB + len("root:x:0:0::/:/bin/sh\n")
    seen = values(agent)
    assert (seen["UsedLayersSize"], seen["UnusedLayersSize"]) == (size + 1000, 0)
    told.delete("b")
    seen = values(agent)
    assert (seen["UsedLayersSize"], seen["UnusedLayersSize"]) == (size, 1000)
    told.clean()
    seen = values(agent)
    assert (seen["UsedLayersSize"], seen["UnusedLayersSize"]) == (size, 0)


def test_c11_used_backing_store(newest: Store, image: Image, agent: Agent, way: str) -> None:
    told = Store(newest.path, *NEWEST, "--metron-endpoint", agent.endpoint)
    create(told, image(APP))
    status = os.statvfs(newest.path)
    seen = values(agent)
    assert 0 < seen["UsedBackingStoreInBytes"] <= status.f_blocks * status.f_frsize and "StoreUsage" not in seen
    create(Store(newest.path, *NEWEST, "--compatibility", "btrfs", "--metron-endpoint", agent.endpoint), image(APP))
    assert "StoreUsage" in values(agent)


def test_c12_downloaded_layers_is_a_gauge(newest: Store, image: Image, agent: Agent, scratch: Path, way: str) -> None:
    file = scratch / "metrics.prom"
    told = Store(newest.path, *NEWEST, "--metron-endpoint", agent.endpoint, "--metrics-file", str(file))
    size = MIB + len("root:x:0:0::/:/bin/sh\n")
    url = image(APP)
    for _ in range(2):
        create(told, url)
        assert values(agent)["DownloadedLayersSizeInBytes"] == size
    # For Prometheus it is a counter of what was unpacked.
    assert f'grootfs_unpacked_bytes_total{{store="{newest.path}"}} {size}\n' in file.read_text()


def test_c13_committed_quota_is_what_was_applied(newest: Store, image: Image, agent: Agent, way: str) -> None:
    url = image(APP)
    size = MIB + len("root:x:0:0::/:/bin/sh\n")
    create(newest, url, "--disk-limit-size-bytes", "50000000", "--exclude-image-from-quota")
    create(Store(newest.path, *NEWEST, "--metron-endpoint", agent.endpoint), url, "--disk-limit-size-bytes", "60000000")
    assert values(agent)["CommittedQuotaInBytes"] == 110000000 - size
    Store(newest.path, "--metron-endpoint", agent.endpoint).create(url)
    assert values(agent)["CommittedQuotaInBytes"] == 110000000


def test_c14_errors_before_a_command_are_one_line(newest: Store) -> None:
    assert refused(newest.run("clean", "--threshold-bytes", "-1")) == "invalid argument: clean threshold cannot be negative"
    assert refused(newest.run("create", "--disk-limit-size-bytes", "-5", "a", "b")) == "invalid argument: disk limit cannot be negative"
    text = "invalid config path: open /no/such: no such file or directory"
    assert refused(Store(newest.path, *NEWEST, "--config", "/no/such").run("list")) == text
    assert refused(Store(newest.path, *NEWEST, "--log-file", "/no/such/log").run("list")) == "open /no/such/log: no such file or directory"


def test_c15_no_hints_on_stdout(newest: Store, scratch: Path) -> None:
    directory = scratch / "ca"
    directory.mkdir()
    with FakeRegistry(tls=Authority(directory).server_context()) as fake:
        url = fake.add("x", [b"layer"]).url
        text = "This registry is insecure. To pull images from this registry, please use the --insecure-registry option."
        assert refused(newest.run("create", url, "y")) == text
        # The log has them.
        result = Store(newest.path, *NEWEST, "--log-level", "error").run("create", url, "y")
        assert result.out == f"{text}\n" and '"hint":"or put the certificate' in result.err


def test_c16_sizes_that_differ(newest: Store, image: Image) -> None:
    layer = Layer(APP.tar)
    actual = len(layer.blob)
    for size in (actual - 10, actual + 10):
        text = refused(newest.run("create", image(Layer(APP.tar, size=size)), "b"))
        assert text.endswith(f"layer size is different from the value in the manifest; expected: {size}, actual {actual}")


def test_c17_unpacking_stops_at_the_limit(newest: Store, image: Image) -> None:
    small, large = Archive().file("small", bytes(1000)), Archive().file("large", bytes(4 * MIB))
    url = image(small, large)
    text = refused(newest.run("create", "--disk-limit-size-bytes", str(2 * MIB), url, "b"))
    assert text.endswith("uncompressed layer size exceeds quota")
    # What was whole stays, what was not does not.
    assert len(newest.volumes()) == 1
    create(newest, url, "--disk-limit-size-bytes", str(5 * MIB))
    create(newest, url, "--disk-limit-size-bytes", str(2 * MIB), "--exclude-image-from-quota")


def test_c18_a_repository_that_is_not_there(newest: Store) -> None:
    with FakeRegistry() as fake:
        fake.fault("/v2/x/y/manifests", Fault(status=401, body=b'{"errors":[{"code":"UNAUTHORIZED"}]}'))
        flags = ("--insecure-registry", fake.addr)
        text = refused(newest.run("create", *flags, f"docker://{fake.addr}/x/y", "x"))
        assert text.endswith(f"reading manifest latest in {fake.addr}/x/y: requested access to the resource is denied")
        older = Store(newest.path).run("create", *flags, f"docker://{fake.addr}/x/y", "x")
        assert older.message.endswith("does not exist or you do not have permissions to see it.")


def test_c19_schema_1_is_refused_in_so_many_words(newest: Store) -> None:
    """Ours differs: see the table."""
    with FakeRegistry() as fake:
        manifest = {"schemaVersion": 1, "name": "x", "tag": "latest", "fsLayers": [], "history": [], "signatures": []}
        fake.manifests["x", "latest"] = (json.dumps(manifest).encode(), "application/vnd.docker.distribution.manifest.v1+prettyjws")
        text = refused(newest.run("create", "--insecure-registry", fake.addr, f"docker://{fake.addr}/x", "x"))
        assert "schema 1 manifests are not supported" in text


def test_c20_delete_store_of_an_empty_directory(scratch: Path) -> None:
    empty = scratch / "empty"
    empty.mkdir()
    text = refused(Store(empty, *NEWEST).run("delete-store"))
    assert text == f"listing images: open {empty}/images: no such file or directory" and empty.is_dir()
    Store(empty).run("delete-store").ok()
    assert not empty.exists()


def test_c21_a_directory_is_no_image(newest: Store, scratch: Path) -> None:
    directory = scratch / "directory"
    directory.mkdir()
    Store(newest.path).create(directory)
    assert refused(newest.run("create", directory, "d")) == "invalid base image: directory provided instead of a tar file"


def test_c22_delete_of_a_path_outside(newest: Store, way: str) -> None:
    assert newest.run("delete", "/x/y").ok().out == "path `/x/y` is outside store path Skipping delete.\n"


def test_c23_stats_without_a_store(newest: Store, scratch: Path, way: str) -> None:
    for store in (Store(scratch / "none", *NEWEST), newest):
        assert refused(store.run("stats", "x")) == "Image `x` not found."
        assert store.run("delete", "x").ok().out == "Image `x` not found. Skipping delete.\n"


def test_c24_version(newest: Store) -> None:
    assert newest.run("--version").ok().out == "grootfs version 0.30.1\n"
    assert Store(newest.path).run("--version").ok().out != "grootfs version 0.30.1\n"


def test_c25_no_args(newest: Store, image: Image, way: str) -> None:
    url = image(APP, runtime={"Env": ["A=b"]})
    for image_id in ("cold", "warm"):
        assert create(newest, url, image_id=image_id)["process"] == {"user": {"uid": 0, "gid": 0}, "env": ["A=b"], "cwd": ""}


def test_c26_the_driver_of_an_old_file(store: Store, scratch: Path, image: Image) -> None:
    config = scratch / "c.yml"
    config.write_text(f"store: {store.path}\ndriver: overlay-xfs\n")
    cell = Grootfs("--config", str(config), *NEWEST)
    cell.run("init-store").ok()
    assert json.loads(cell.run("create", image(APP), "a").ok().out)
    assert cell.run("list").ok().out == f"{store.image('a')}\n"
    assert Grootfs("--config", str(config)).run("init-store").failed().message == "filesystem driver not supported: overlay-xfs"


def test_c27_a_store_of_the_other_file_system(scratch: Path) -> None:
    """Not used, and not touched: what to do is in docs/newest.md."""
    store = Store(scratch / "store", *NEWEST)
    content = b"XFSB" + os.urandom(4 * MIB)
    store.backing.write_bytes(content)
    text = refused(store.init())
    assert text == f"{store.backing} exists and holds an XFS file system, not BTRFS; it was not touched"
    assert store.backing.read_bytes() == content and not store.path.exists()


def test_unknown_keys_are_the_doctor_s_business(newest: Store, scratch: Path, image: Image) -> None:
    config = scratch / "c.yml"
    config.write_text(
        f"store: {newest.path}\nlog_timestamp_format: rfc3339\ninit: {{owneruser: vcap, ownergroup: vcap}}\ncreate: {{with_claen: true}}\n"
    )
    cell = Grootfs("--config", str(config), *NEWEST)
    cell.run("create", image(APP), "a").ok()
    found = {finding["check"]: finding for finding in json.loads(cell.run("doctor", "--json").out)}
    assert found["configuration"]["state"] == "warn"
    assert found["configuration"]["text"] == f"keys that nothing reads: {config}: create.with_claen"


def test_an_example_of_the_documentation_is_a_site_file(scratch: Path) -> None:
    file = scratch / "defaults.yml"
    file.write_text(TABLE.partition("```yaml\n")[2].partition("```")[0])
    settings = load(str(file), {})
    assert settings.rules.word == "newest" and settings.json and settings.log_time_format == "rfc3339"


@pytest.mark.parametrize(
    ("era", "not_deleted", "not_measured"),
    [
        ("none", "Image `x` not found. Skipping delete.", "Image `x` not found."),
        ("blog", "image `x` was not found", "image `x` was not found"),
        ("btrfs", "Image `x` not found. Skipping delete.", "Image `x` not found. Skipping delete."),
        ("newest", "Image `x` not found. Skipping delete.", "Image `x` not found."),
    ],
)
def test_texts_of_the_eras(store: Store, era: str, not_deleted: str, not_measured: str, way: str) -> None:
    asked = Store(store.path, "--compatibility", era)
    assert asked.run("delete", "x").ok().out == f"{not_deleted}\n"
    assert asked.run("stats", "x").failed().message == not_measured


@pytest.mark.parametrize(("equal", "cleans"), [("blog", False), ("btrfs", True), ("none", True)])
def test_a_threshold_that_is_just_reached(store: Store, image: Image, equal: str, way: str, *, cleans: bool) -> None:
    store.create(image(Archive().file("f", bytes(1000))), "a")
    result = Store(store.path, "--compatibility", equal).run("clean", "--threshold-bytes", "1000").ok()
    assert (result.out == "clean completed\n") == cleans


def test_an_ordinary_user_s_store(make_store: Callable[..., Store], image: Image, user: User, way: str) -> None:
    """The same answers for the owner of a store with mappings."""
    made = make_store("--uid-mapping", f"0:{user.uid}:1", "--uid-mapping", "1:300000:65536", "--gid-mapping", f"0:{user.gid}:1",
                      "--gid-mapping", "1:300000:65536")  # fmt: skip
    store = Store(made.path, *NEWEST, uid=user.uid)
    url = image(APP, runtime=RUNTIME)
    for image_id in ("cold", "warm"):
        assert create(store, url, image_id=image_id)["root"] == {"path": str(store.rootfs(image_id))}
    assert "quota_size_bytes" in store.run("stats", "cold").ok().out
    store.delete("cold")
