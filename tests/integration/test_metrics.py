"""Metrics of real commands, as metron and as Prometheus get them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.archive import Archive
from support.command import MIB, REPOSITORY, Grootfs, Store
from support.metron import Agent, Event

Image = Callable[..., str]
BASE = Archive().file("base", "b" * 3000)
APP = Archive().file("app", "a" * 2000)


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.close()


@pytest.fixture
def emitting(store: Store, agent: Agent) -> Store:
    return Store(store.path, "--metron-endpoint", agent.endpoint)


def values(events: list[Event], name: str) -> list[float]:
    """Values of a metric; all have the right form and unit."""
    found = [event for event in events if event.name == name]
    for event in found:
        assert (event.kind, event.origin, set(event.fields)) == ("value", "grootfs", {1, 2, 3})
        assert event.fields[3] == (b"nanos" if name.endswith("Time") else b"bytes")
    return [event.fields[2] for event in found]


def counters(events: list[Event]) -> list[str]:
    for event in events:
        assert event.kind != "counter" or (event.origin, event.fields) == ("grootfs", {1: event.fields[1], 2: 1})
    return [event.name for event in events if event.kind == "counter"]


def test_create(emitting: Store, agent: Agent, image: Image) -> None:
    emitting.create(image(BASE, APP), "one", "--disk-limit-size-bytes", str(50 * MIB))
    events = agent.take()
    assert counters(events) == ["grootfs-create.run", "grootfs-create.run.success"]
    assert (events[0].kind, events[-1].kind) == ("counter", "counter")
    # One lock and one unpacking for each layer; the lock of the last layer is held until the image is there.
    for name, count in (
        ("ImageCreationTime", 1),
        ("ImageResolveTime", 1),
        ("ImageCommitTime", 1),
        ("SharedLockingTime", 1),
        ("ExclusiveLockingTime", 2),
        ("UnpackTime", 2),
        ("DownloadTime", 2),
    ):
        assert len(values(events, name)) == count, name
    assert len(values(events, "ExclusiveLockHoldTime")) == 2
    assert min(values(events, "ExclusiveLockHoldTime")) >= min(values(events, "UnpackTime"))
    assert len(values(events, "SharedLockHoldTime")) == len(values(events, "SharedLockingTime"))
    assert values(events, "CommittedQuotaInBytes") == [50 * MIB]
    assert values(events, "DownloadedLayersSizeInBytes") == [5000] and values(events, "UnusedLayersSize") == [0]
    assert len(values(events, "StoreUsage")) == 1


@pytest.mark.parametrize("command", ["stats", "delete", "clean"])
def test_other_commands(emitting: Store, store: Store, agent: Agent, image: Image, command: str) -> None:
    store.create(image(BASE), "one")
    emitting.run(command, *([] if command == "clean" else ["one"])).ok()
    events = agent.take()
    assert counters(events) == [f"grootfs-{command}.run", f"grootfs-{command}.run.success"]
    time = {"stats": "ImageStatsTime", "delete": "ImageDeletionTime", "clean": "ImageCleanTime"}[command]
    assert len(values(events, time)) == 1
    expected = {"stats": set(), "delete": {"UnusedLayersSize"}, "clean": {"UnusedLayersSize", "StoreUsage"}}[command]
    expected |= {"ExclusiveLockingTime", "ExclusiveLockHoldTime"} if command == "clean" else set()
    assert {event.name for event in events if event.kind == "value"} == expected | {time}


@pytest.mark.parametrize(("argv", "code"), [(["create", "/no/such.tar", "one"], 1), (["stats", "nobody"], 1), (["delete"], 1)])
def test_failures(emitting: Store, agent: Agent, argv: list[str], code: int) -> None:
    result = emitting.run(*argv).failed(code)
    events = agent.take()
    name = argv[0]
    assert counters(events) == [f"grootfs-{name}.run", f"grootfs-{name}.run.fail"]
    (error,) = [event for event in events if event.kind == "error"]
    assert error.origin == f"grootfs-error.{name}"
    assert error.fields == {1: error.origin.encode(), 2: code, 3: result.message.encode()}


def test_what_is_not_there_is_no_failure(emitting: Store, agent: Agent) -> None:
    emitting.run("delete", "nobody").ok()
    events = agent.take()
    assert counters(events) == ["grootfs-delete.run", "grootfs-delete.run.success"]
    assert values(events, "ImageDeletionTime") == [] and [event for event in events if event.kind == "error"] == []


def test_commands_that_are_not_counted(emitting: Store, agent: Agent) -> None:
    emitting.run("list").ok()
    assert agent.take() == []


def scrape(file: Path) -> dict[str, float]:
    """Samples as ``name{labels}``, as Prometheus' own parser sees them."""
    return {
        sample.name + "{" + ",".join(f'{name}="{value}"' for name, value in sample.labels.items()) + "}": sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }


def test_many_processes_add_to_one_file(store: Store, image: Image) -> None:
    file = store.path.parent / "grootfs.prom"
    counting = Store(store.path, "--metrics-file", str(file))
    url = image(BASE, APP)
    store.create(url, "first")
    running = [counting.start("create", url, f"c{i}") for i in range(16)]
    for process in running:
        counting.finish(process).ok()
    counting.run("create", url, "c0").failed()
    counting.delete("first")
    found = scrape(file)
    label = f'store="{store.path}"'
    assert found[f'grootfs_commands_total{{{label},command="create",outcome="success"}}'] == 16
    assert found[f'grootfs_commands_total{{{label},command="create",outcome="failure"}}'] == 1
    assert found[f'grootfs_commands_total{{{label},command="delete",outcome="success"}}'] == 1
    assert found[f'grootfs_command_duration_seconds_bucket{{{label},command="create",le="+Inf"}}'] == 17
    assert found[f"grootfs_image_creation_seconds_count{{{label}}}"] == 16
    assert found[f'grootfs_lock_wait_seconds_count{{{label},lock="shared"}}'] >= 16
    assert found[f"grootfs_unpacked_bytes_total{{{label}}}"] == 0
    assert 1 <= found[f"grootfs_filesystem_commits_total{{{label}}}"] < 1000


def test_file_and_endpoint_together(store: Store, agent: Agent, image: Image) -> None:
    file = store.path.parent / "grootfs.prom"
    config = store.path.parent / "c.yml"
    config.write_text(f"store: {store.path}\nmetrics_file: {file}\nmetron_endpoint: {agent.endpoint}\n")
    Grootfs("--config", str(config)).run("create", image(BASE), "one").ok()
    assert values(agent.take(), "DownloadedLayersSizeInBytes") == [3000]
    assert scrape(file)[f'grootfs_unpacked_bytes_total{{store="{store.path}"}}'] == 3000


def test_file_that_cannot_be_written_fails_nothing(store: Store, image: Image) -> None:
    counting = Store(store.path, "--metrics-file", "/nowhere/grootfs.prom")
    counting.create(image(BASE), "one")
    assert counting.stats("one")[0] >= 3000


def test_example_in_the_docs(store: Store, image: Image, scratch: Path) -> None:
    """What the page shows of the file is what its command writes."""
    page = (REPOSITORY / "docs/operating.md").read_text()
    shown = re.findall(r"^(grootfs_\w+)(\{.*\}) [0-9.]+$", page, re.M)
    assert len(shown) >= 5
    (options,) = re.findall(r"^grootfs (--metrics-file \S+) create docker:///library/alpine:3.20 my-container$", page, re.M)
    file = scratch / Path(options.split()[1]).name
    Store(store.path, options.split()[0], str(file)).create(image(BASE, APP), "my-container")
    written = scrape(file)
    for name, labels in shown:
        assert name + labels.replace("/var/lib/grootfs", str(store.path)) in written, name
    for name in re.findall(r"`(grootfs_\w+)", page):
        families = {family.name for family in text_string_to_metric_families(file.read_text())}
        stems = {name, name.removesuffix("_total")}
        assert stems & families or name in (
            "grootfs_image_deletion_seconds",
            "grootfs_image_stats_seconds",
            "grootfs_clean_seconds",
            "grootfs_used_layers_bytes",
            "grootfs_downloaded_bytes_total",
            "grootfs_cloned_bytes_total",
            "grootfs_mirror_failures_total",
        ), name
