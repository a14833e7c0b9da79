"""The load test's own arithmetic: profiles of volumes, burst credits, popularity, images, figures, objectives."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path

import pytest

from loadtests import census, nvme, report, throttle
from loadtests.cli import main
from loadtests.comparison import compare
from loadtests.figures import percentile, summarise
from loadtests.images import make_apps, push
from loadtests.objectives import FOLDER, BadObjectives, Objective, judge, read_objectives
from loadtests.plan import App, Plan
from loadtests.popularity import Popularity
from loadtests.volumes import GP2_CREDITS, MIB, BadProfile, find_volume


@pytest.mark.parametrize(
    ("profile", "iops", "throughput", "burst", "bucket"),
    [
        ("unlimited", None, None, None, 0),
        ("iops:500", 500, None, None, 0),
        ("gp2:30", 100, 128 * MIB, 3000, GP2_CREDITS),
        ("gp2:100", 300, 128 * MIB, 3000, GP2_CREDITS),
        ("gp2:500", 1500, 250 * MIB, 3000, GP2_CREDITS),
        ("gp2:1000", 3000, 250 * MIB, None, 0),
        ("gp2:9999", 16000, 250 * MIB, None, 0),
        ("gp3", 3000, 125 * MIB, None, 0),
        ("gp3:16000", 16000, 125 * MIB, None, 0),
        ("gp3:4000:1000", 4000, 1000 * MIB, None, 0),
        ("io2:1000", 1000, 256 * MIB, None, 0),
        ("io2:256000", 256000, 4000 * MIB, None, 0),
        ("instance-store", 30000, None, None, 0),
    ],
)
def test_profiles(profile: str, iops: int | None, throughput: int, burst: int, bucket: int) -> None:
    volume = find_volume(profile)
    assert volume.iops == iops
    assert volume.bytes_per_second == throughput
    assert (volume.burst_iops, volume.bucket) == (burst, bucket)
    assert volume.is_limited == (profile != "unlimited")


@pytest.mark.parametrize(
    "profile", ["", "gp4", "gp2", "gp2:0", "gp2:-5", "gp2:1:2", "gp3:100", "gp3:3000:5000", "io2", "io2:99", "iops", "iops:x"]
)
def test_profiles_that_do_not_exist(profile: str) -> None:
    with pytest.raises(BadProfile):
        find_volume(profile)


def test_throttle_says_why_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(throttle, "PROGRAM", tmp_path / "groot-throttle")
    with pytest.raises(throttle.NoThrottle, match="groot-throttle` builds it"):
        throttle.Throttle(tmp_path / "file").__enter__()
    assert main(["run", "--profile", "iops:100", "--out", str(tmp_path / "out")]) == 2
    assert "builds it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "nothing is made before it is known that it can be used"


def test_popularity() -> None:
    source = Popularity(10, 1.0, "seed")
    draws = Counter(source.draw() for _ in range(20_000))
    assert set(draws) == set(range(10))
    assert 1.8 < draws[0] / draws[1] < 2.2
    assert 8.5 < draws[0] / draws[9] < 11.5
    even = Popularity(4, 0.0, "seed")
    assert all(4500 < count < 5500 for count in Counter(even.draw() for _ in range(20_000)).values())


def _layers(app: App) -> list[str]:
    layout = Path(app.layout)
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return [layer["digest"] for layer in json.loads((layout / "blobs" / "sha256" / manifest[7:]).read_text())["layers"]]


def test_images_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, two, other = (make_apps(tmp_path / name, 9, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert [_layers(app) for app in one] == [_layers(app) for app in two]
    assert _layers(one[0]) != _layers(other[0])
    assert _layers(one[0])[0] == _layers(one[7])[0], "apps share a stack"
    assert _layers(one[0])[0] != _layers(one[8])[0], "but not all of them the same"
    assert len({_layers(app)[1] for app in one}) == 9


def test_push_replaces_the_top_layer(tmp_path: Path) -> None:
    [app] = make_apps(tmp_path / "a", 1, 1)
    before = _layers(app)
    push(app, "v2")
    after = _layers(app)
    assert after[0] == before[0]
    assert after[1] != before[1]
    push(app, "v3")
    assert _layers(app)[0] == before[0]
    assert _layers(app)[1] not in (before[1], after[1])


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1, 100)])
def test_percentile(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_percentile_of_little() -> None:
    assert percentile([], 0.5) is None
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0], 0.5) == 1.0


def _plan() -> Plan:
    return Plan(
        run="r", door="command", shape="steady", command="", store="", socket="", apps=(), zipf=1, images=1, concurrency=1, limit=0,
        parallel_clean=False, threshold=0, pause=0, rate=0, push_every=0, duration=1, workers=0, journal="", seed=1,
    )  # fmt: skip


def _sample(time: float, **given: object) -> dict[str, object]:
    names = """reads writes read_bytes written_bytes in_flight queue_ms commits commit_ms commit_longest_ms qgroups subvolumes backlog
        memory slab cpu_busy cpu_all cpu_waiting server_memory server_files server_processes
        counted_reads counted_writes requests above_iops_us above_bytes_us
        aws_operations aws_volume_above_iops_us aws_volume_above_throughput_us aws_instance_above_iops_us
        aws_instance_above_throughput_us"""
    zero = dict.fromkeys(names.split(), 0)
    return {"time": 1000 + time, **zero, "quotas": "squota", "cap": None, "credits": None, **given}


def _create(start: float, seconds: float, *, cold: bool = False, error: str | None = None) -> dict[str, object]:
    return {"name": "create", "start": 1000 + start, "seconds": seconds, "cold": cold, "error": error}


def test_figures() -> None:
    journal = [_create(0, 3.0, cold=True), *(_create(second, 1.0) for second in range(1, 9)), _create(9, 0.5, error="exit 17: full")]
    samples = [
        _sample(
            second,
            writes=second * 100,
            counted_writes=second * 40,
            counted_reads=second * 20,
            above_iops_us=second * 9_000,
            commits=second,
            commit_ms=second * 20,
            commit_longest_ms=900,
            cap=200,
        )
        for second in range(11)
    ]
    # Before and after, when nothing was done: not the run's.
    samples = [_sample(-20), *samples, _sample(40, writes=10**6)]
    result = summarise(_plan(), journal, samples)
    figures = result["figures"]
    assert figures["operations"] == 10
    assert figures["failures"] == figures["create.failures"] == 1
    assert figures["create.rate"] == pytest.approx(9 / 9.5)
    assert figures["create.median_ms"] == 1000
    assert figures["create.p99_over_median"] == 3
    assert figures["create.cold.median_ms"] == 3000
    assert figures["create.warm.p99_ms"] == 1000
    assert figures["io.writes_per_create"] == pytest.approx(95), "until the last one ended"
    assert figures["volume.share_of_cap"] == pytest.approx(0.3), "reads and writes together, as they are counted"
    assert figures["volume.operations_per_create"] == pytest.approx(57)
    assert figures["volume.above_iops_us_per_create"] == pytest.approx(8_550)
    dear = summarise(_plan(), journal, samples, write_cost=2)["figures"]
    assert dear["volume.share_of_cap"] == pytest.approx(0.5)
    assert figures["commit.mean_ms"] == pytest.approx(20)
    assert figures["commit.longest_ms"] is None, "the longest was before"
    assert result["errors"] == {"create: exit #: full": 1}
    series = result["series"]
    assert len({len(values) for values in series.values()}) == 1
    assert sum(series["create_rate"]) == 9
    assert sum(series["failures"]) == 1
    assert set(series["writes_per_second"]) == {100}


def test_rates_are_of_the_time_in_which_something_was_done() -> None:
    """With a sample a second, a storm of a second has idling at both ends of what was sampled."""
    samples = [_sample(-0.5), *(_sample(at + 0.5, writes=n, counted_writes=n, cap=500) for at, n in ((0, 250), (1, 750), (2, 750)))]
    figures = summarise(_plan(), [_create(0.5, 1.0)], samples)["figures"]
    assert figures["io.writes_per_second"] == 500 and figures["io.writes"] == 500
    assert figures["volume.share_of_cap"] == 1.0
    between = summarise(_plan(), [_create(0.75, 0.5)], samples)["figures"]
    assert between["io.writes_per_second"] == 500 and between["io.writes"] == 250


def test_drift_compares_the_ends() -> None:
    samples = [_sample(second, slab=second) for second in range(41)]
    journal = [_create(second, 1.0 if second < 20 else 1.5) for second in range(40)]
    figures = summarise(_plan(), journal, samples)["figures"]
    assert figures["drift.window_seconds"] == pytest.approx(40.5 / 4)
    assert figures["drift.create_median"] == 1.5
    assert figures["growth.slab"] == 31


def test_drift_leaves_the_first_pulls_out() -> None:
    """Else a run whose pulls belong to the beginning would seem to have become faster."""
    samples = [_sample(second) for second in range(41)]
    journal = [_create(second, 1.0) for second in range(40)]
    pulls = [_create(second, 9.0, cold=True) for second in range(10) for _ in range(2)]
    assert summarise(_plan(), journal + pulls, samples)["figures"]["drift.create_median"] == 1.0


def test_objectives_that_come_with_it() -> None:
    files = sorted(FOLDER.glob("*.yml"))
    assert {file.stem for file in files} >= {"storm", "steady", "arrivals", "evacuation", "soak"}
    for file in files:
        assert any(objective.figure == "failures" and objective.value == 0 for objective in read_objectives(file))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "objectives: []",
        "objectives: [{at_most: 1}]",
        "objectives: [{figure: x}]",
        "objectives: [{figure: x, at_most: 1, at_least: 0}]",
        "objectives: [{figure: x, at_most: true}]",
        "objectives: [{figure: x, at_most: nan}]",
        "objectives: [{figure: x, atmost: 1, at_most: 1}]",
        "objectives: [{figure: x, at_most: 1, unless: 5}]",
        "objectives: [{figure: x, at_most: 1, unless: {figure: y}}]",
        "objectives: [{figure: x, at_most: 1}]\nmore: 1",
        "objectives: [",
    ],
)
def test_objectives_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "objectives.yml"
    file.write_text(text)
    with pytest.raises(BadObjectives, match=r"objectives\.yml"):
        read_objectives(file)


def test_verdict() -> None:
    objectives = [Objective("a", "at_most", 3, ""), Objective("b", "at_least", 4, ""), Objective("c", "at_most", 1, "")]
    assert [entry["passed"] for entry in judge(objectives, {"a": 3, "b": 4})] == [True, True, False]
    assert [entry["passed"] for entry in judge(objectives, {"a": 3.1, "b": 3.9, "c": None})] == [False, False, False]


def test_an_objective_may_have_an_alternative() -> None:
    waits = Objective("p99", "at_most", 3, "", Objective("share", "at_least", 1, ""))
    for p99, share, kept in ((2, 0, True), (4, 1, True), (4, 0, False), (None, None, False)):
        assert [entry["passed"] for entry in judge([waits], {"p99": p99, "share": share})] == [kept]


def _page(magic: int) -> bytes:
    """A log page as the public layout has it; constructed here, not recorded from a device."""
    histogram = struct.pack("<Q", 2) + struct.pack("<QQII", 0, 128, 7, 0) + struct.pack("<QQII", 128, 256, 3, 0)
    page = struct.pack("<II11Q", magic, 0, 10, 20, 40960, 81920, 1500, 2500, 31_000_000, 5, 6, 7, 3)
    return page.ljust(512, b"\0") + histogram.ljust(8 + 64 * 24, b"\0") + histogram.ljust(8 + 64 * 24 + 496, b"\0")


def test_log_page_of_an_ebs_volume() -> None:
    page = nvme.read_page(_page(0x3C23B510))
    assert (page.kind, page.read_ops, page.write_ops, page.read_bytes, page.write_bytes) == ("ebs", 10, 20, 40960, 81920)
    assert (page.read_us, page.write_us, page.queue_length) == (1500, 2500, 3)
    assert (page.above_iops_us, page.above_throughput_us) == (31_000_000, 5)
    assert (page.instance_above_iops_us, page.instance_above_throughput_us) == (6, 7)
    assert page.read_latency == page.write_latency == (nvme.Bin(0, 128, 7), nvme.Bin(128, 256, 3))


def test_log_page_of_an_instance_store() -> None:
    page = nvme.read_page(_page(0xEC2C0D7E))
    assert (page.kind, page.write_ops, page.instance_above_iops_us, page.read_latency) == ("instance-store", 20, 6, ())


def test_log_pages_that_are_none() -> None:
    with pytest.raises(nvme.BadPage, match="0x00000000"):
        nvme.read_page(bytes(4096))
    with pytest.raises(nvme.BadPage, match="4096 bytes, not 100"):
        nvme.read_page(_page(0x3C23B510)[:100])
    page = bytearray(_page(0x3C23B510))
    page[512:520] = struct.pack("<Q", 65)
    with pytest.raises(nvme.BadPage, match="64 bins, not 65"):
        nvme.read_page(bytes(page))


def test_only_amazons_devices_are_asked() -> None:
    assert not nvme.is_amazons("loop0")
    assert not nvme.is_amazons("no such device")


def test_what_aws_counts_becomes_figures() -> None:
    samples = [_sample(second, aws_operations=second * 10, aws_volume_above_iops_us=second * 500) for second in range(11)]
    journal = [_create(second, 1.0) for second in range(10)]
    figures = summarise(_plan(), journal, samples)["figures"]
    assert figures["aws.volume_above_iops_us_per_create"] == 500
    assert figures["aws.operations_per_create"] == 10
    assert figures["aws.instance_above_iops_us_per_create"] == 0
    assert summarise(_plan(), journal, [_sample(0), _sample(10)])["figures"]["aws.operations_per_create"] is None


def test_report_says_what_held_a_run_back() -> None:
    said = report.limits(
        {"cpu.busy": 0.3, "volume.above_iops_share": 0.95, "commit.share_of_time": 0.9, "volume.above_throughput_share": None}
    )
    assert said.index("95%") < said.index("90%") < said.index("30%")
    assert "a volume with more IOPS" in said
    assert "nothing" in report.limits({"cpu.busy": 0.3}), "what was not used up is no limit"


def test_comparison() -> None:
    rows = compare({"a": 2.0, "b": 0.0, "gone": 1.0}, {"a": 3.0, "b": 1.0, "new": 5.0})
    assert [(row.figure, row.ratio) for row in rows] == [("a", 1.5), ("b", None), ("gone", None), ("new", None)]


def test_leaks_are_what_is_more() -> None:
    assert census.leaks({"files": 3, "mounts": 1}, {"files": 5, "mounts": 0}) == {"files": 2, "mounts": 0}
