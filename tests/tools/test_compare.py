"""Arithmetic, parsers and report of `benchmarks/compare`."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from compare import filesystem, process, renew, report
from compare.__main__ import name_and_path
from compare.figures import median, paired_ratio, percentile
from compare.images import Image
from compare.programs import build
from compare.report import Bar
from compare.works import Burst, Results, Sample, turns
from support.archive import Archive, Layer
from support.layout import chain_ids, write_layout


def sample(work: str, who: str, number: int, seconds: float, **fields: object) -> Sample:
    rest = {"image": "i", "cpu": 0.0, "peak": 1024, "flush": 0.0, "written": 0, "commits": 0, **fields}
    return Sample(work=work, who=who, round=number, seconds=seconds, **rest)  # type: ignore[arg-type]


def burst(who: str, number: int, count: int, seconds: float, latencies: list[float], failed: int = 0, work: str = "warm at once") -> Burst:
    return Burst(work, "i", who, number, count, seconds, latencies, failed, commits=16)


def by_name(results: Results, unpacked: int = 100) -> dict[str, Bar]:
    return {bar.name: bar for bar in report.bars(results, {"i": unpacked})}


# -- figures -----------------------------------------------------------------


def test_median_of_an_even_number() -> None:
    assert median([4, 1, 2, 3]) == 2.5


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100), (0.001, 1)])
def test_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_percentile_of_few_is_the_worst() -> None:
    assert percentile([3, 9, 1], 0.99) == 9


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0), ([1.0], 1.1)])
def test_percentile_refuses(values: list[float], share: float) -> None:
    with pytest.raises(ValueError):
        percentile(values, share)


def test_ratio_pairs_rounds_and_is_not_that_of_the_medians() -> None:
    mine, other = {0: 1.0, 1: 10.0, 2: 100.0}, {0: 2.0, 1: 100.0, 2: 10.0}
    assert paired_ratio(mine, other) == 0.5
    assert median(list(mine.values())) / median(list(other.values())) == 1.0


def test_ratio_needs_a_round_of_both() -> None:
    assert paired_ratio({0: 1.0, 1: 9.0}, {1: 3.0, 2: 1.0}) == 3.0
    assert paired_ratio({0: 1.0}, {1: 3.0}) is None
    assert paired_ratio({0: 1.0}, {0: 0.0}) is None


def test_turns_give_everybody_every_place() -> None:
    orders = ["".join(turns("abc", number)) for number in range(6)]
    assert orders == ["abc", "cba", "bca", "acb", "cab", "bac"]
    assert sum(order.index("a") < order.index("b") for order in orders) == 3


# -- what the kernel says ------------------------------------------------------


DEVICE_STAT = "   79972   433  7840080  27863   720961  1500 49924168  1253088  0  73436 1300828 4 0 65536 3 23832 19873\n"


def test_sectors_written() -> None:
    assert filesystem.sectors_written(DEVICE_STAT) == 49924168


def test_requests_to_write() -> None:
    assert filesystem.writes(DEVICE_STAT) == 720961


def test_commits() -> None:
    assert filesystem.commits("commits 12\nlast_commit_ms 3\nmax_commit_ms 7\ntotal_commit_ms 41\n") == 12


def test_device_of_the_last_mount_on_a_point() -> None:
    lines = [
        "30 1 0:26 / /a rw shared:1 - btrfs /dev/loop3 rw",
        "31 30 0:27 / /a/b rw - tmpfs tmpfs rw",
        "32 30 0:28 / /a rw shared:2 - btrfs /dev/loop12 rw,space_cache=v2",
    ]
    assert filesystem.device_of("\n".join(lines), "/a") == "loop12"
    with pytest.raises(LookupError):
        filesystem.device_of("\n".join(lines), "/b")


def test_cpu_of_a_process_whose_name_has_brackets() -> None:
    fields = ["S", *["0"] * 10, "150", "50", "7", "3", *["9"] * 30]
    assert process.cpu_of_stat(f"42 (a) b) {' '.join(fields)}\n", 100) == 2.1


def test_peak() -> None:
    assert process.peak_of_status("Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t  1234 kB\nVmRSS:\t 5 kB\n") == 1234


# -- running -------------------------------------------------------------------


def make_runner(folder: Path) -> process.Runner:
    return process.Runner(folder / "log", build("launch", folder), build("burst", folder))


def test_cost_of_a_pipeline_is_from_the_first_start_to_the_last_end() -> None:
    assert process.cost_of_reports("10.0 12.5 1.0 300\n9.5 12.0 0.25 40\n") == process.Cost(3.0, 1.25, 340)


def test_peak_is_not_that_of_the_process_that_measures(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    ballast = b"x" * 100_000_000
    assert runner.run(process.one("true")).peak < 10_000
    assert len(ballast) == 100_000_000


def test_run_takes_the_larger_peak_of_steps_and_adds_up_a_pipeline(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    big = ["python3", "-IS", "-c", "x = b'x' * 60_000_000"]
    alone = runner.run([[big]])
    assert alone.peak > 60_000 and alone.cpu > 0 and alone.seconds > 0
    assert runner.run([[big, big]]).peak > 1.8 * alone.peak
    assert runner.run([[["true"]], [big], [["true"]]]).peak < 1.5 * alone.peak


def test_run_joins_a_pipeline(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    runner.run([[["echo", "abc"], ["tr", "a", "x"], ["tee", str(tmp_path / "out")]]])
    assert (tmp_path / "out").read_text() == "xbc\n"


def test_run_refuses_a_failure_anywhere_in_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(process.Failed, match=r"sh -c echo why >&2; exit 3: code 3: why"):
        make_runner(tmp_path).run([[["sh", "-c", "echo why >&2; exit 3"], ["cat"]]])


def test_together_times_each_and_counts_failures(tmp_path: Path) -> None:
    seconds, ended = make_runner(tmp_path).together([["sleep", "0.3"], ["false"], ["true"]])
    assert sorted(end.ok for end in ended) == [False, True, True]
    slowest = max(ended, key=lambda end: end.seconds)
    assert slowest.ok and 0.3 <= slowest.seconds <= seconds
    assert min(ended, key=lambda end: end.seconds).seconds < 0.3


def test_together_sees_every_end_of_many_short_commands(tmp_path: Path) -> None:
    seconds, ended = make_runner(tmp_path).together([["true"], ["false"]] * 100)
    assert [end.ok for end in ended] == [True, False] * 100
    assert all(0 < end.seconds <= seconds for end in ended)


def test_together_refuses_what_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(process.Failed, match=r"code 125: .*/no/such: No such file"):
        make_runner(tmp_path).together([["true"], ["/no/such"]])


# -- images --------------------------------------------------------------------


def test_image_knows_its_names_and_sizes(tmp_path: Path) -> None:
    layers = [Layer(Archive().dir("d").file("d/f", "x" * 5000).tar, "none"), Layer(Archive().file("g", "y").file("empty").tar, "none")]
    write_layout(tmp_path / "name", *layers)
    image = Image(tmp_path / "name", tmp_path)
    assert [layer.digest for layer in image.layers] == [layer.digest for layer in layers]
    assert image.volume == chain_ids(layers)[-1]
    assert image.chain_id != image.volume  # containerd hashes the names of the algorithm too
    assert (image.size.content, image.size.blocks) == (5001, 3 * 4096)


# -- report ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "least", "verdict"),
    [
        (1.0, False, "aim met"),
        (1.2, False, "met"),
        (1.3, False, "met"),
        (1.31, False, "missed"),
        (1.3, True, "aim met"),
        (1.0, True, "missed"),
    ],
)
def test_verdict(value: float, least: bool, verdict: str) -> None:
    assert Bar("b", value, 1.3, 1.0 if not least else 1.3, least).verdict == verdict


def test_verdict_without_a_must() -> None:
    assert Bar("b", 1.4, None, 1.0).verdict == "aim missed"
    assert Bar("b", 0.9, None, 1.0).verdict == "aim met"


def test_bars_of_cold_creates() -> None:
    samples = [sample("cold oci", "groot_fast", n, s, written=105, peak=50 * 1024 + n) for n, s in enumerate((2.0, 4.0, 6.0))]
    samples += [sample("cold oci", "igzip | tar", n, s) for n, s in enumerate((4.0, 4.0, 12.0))]
    samples += [sample("cold oci", "buildah", 0, 7.0), sample("cold docker", "groot_fast", 1, 4.6, peak=101 * 1024)]
    samples += [sample("cold oci, beside docker", "groot_fast", 1, 4.0)]
    found = by_name(Results(samples, []))
    assert found["cold `i` / `igzip | tar`"].value == 0.5
    assert (found["buildah / cold `i`"].value, found["buildah / cold `i`"].verdict) == (3.5, "met")
    assert (found["written / unpacked, cold oci `i`"].value, found["written / unpacked, cold oci `i`"].verdict) == (1.05, "met")
    assert found["cold docker / cold oci, `i`"].value == pytest.approx(1.15)
    assert (found["peak memory, any cold create"].value, found["peak memory, any cold create"].verdict) == (101, "missed")
    assert "cold `i` / plain `tar`" not in found, "what was not measured has no bar"


def test_bars_of_warm_creates_compare_ours_with_a_limit() -> None:
    samples = [sample("warm, limit", "groot_fast", 0, 12.0), sample("warm", "groot_fast", 0, 1.0)]
    samples += [sample("warm", "python + snapshot", 0, 10.0), sample("warm", "buildah", 0, 30.0)]
    found = by_name(Results(samples, []))
    assert found["warm with limit `i` / (python + snapshot)"].value == pytest.approx(1.2)
    assert found["buildah / warm with limit `i`"].value == pytest.approx(2.5)


def test_bars_of_growth_pair_the_fullest_level() -> None:
    samples = []
    for level, factor in ((10, 1.0), (3000, 2.0)):
        for n in range(3):
            samples.append(sample("grown warm", "groot_fast", level * 1000 + n, 0.010 * factor * (n + 1), images=level))
            samples.append(sample("grown base warm", "groot_fast", level * 1000 + n, 0.010 * (n + 1), images=10))
    samples.append(sample("grown list", "groot_fast", 3_000_000, 0.2, images=3000))
    found = by_name(Results(samples, []))
    assert found["warm at 3000 images / at 10, `i`"].value == pytest.approx(2.0)
    assert (found["list of 3000 images, `i`"].value, found["list of 3000 images, `i`"].verdict) == (200, "missed")


def test_bars_of_bursts() -> None:
    bursts = [burst("groot_fast", 0, 64, 1.0, [0.1] * 63 + [1.6], failed=1), burst("buildah", 0, 64, 8.0, [8.0] * 64)]
    bursts += [burst("groot_fast", 0, 1, 2.0, [2.0], work="pull at once"), burst("groot_fast", 0, 16, 2.5, [2.5] * 16, work="pull at once")]
    bursts.append(burst("groot_fast, API", 0, 64, 0.25, [0.2] * 64))
    found = by_name(Results([], bursts))
    assert found["64 warm at once, `i`: rate / buildah's"].value == 8.0
    assert found["64 warm at once, `i`, API: rate / without a server"].value == 4.0
    assert found["64 warm at once, `i`, API: rate / buildah's"].value == 32.0
    assert found["64 warm at once, `i`, API: commits a create"].value == 0.25
    assert "64 warm at once, `i`: rate / without a server" not in found
    assert found["64 warm at once, `i`: p99"].verdict == "missed"
    assert found["64 warm at once, `i`: failed"].verdict == "missed"
    assert found["16 pulls of `i` at once / one"].value == 1.25


def document() -> dict[str, object]:
    machine = {"processor": "p", "cores": 2, "memory_mebibytes": 9, "kernel": "6.1", "load_average": [0.1, 0.2, 0.3]}
    return {"date": "today", "plan": "short", "machine": machine, "versions": {"tar": "1"}, "method": "m", "unpacked": {"i": 100}}


def test_written_result_is_read_back_and_shows_all_tables(tmp_path: Path) -> None:
    results = Results(
        [
            sample("cold oci", "groot_fast", 0, 1.5, written=150),
            sample("cold oci", "igzip | tar", 0, 3.0),
            sample("grown warm", "groot_fast", 0, 0.01, images=10),
        ],
        [burst("groot_fast", 0, 4, 0.5, [0.1, 0.2, 0.3, 0.4])],
    )
    report.write(tmp_path, "short", document(), results)
    head, again = report.read(tmp_path / "short.json")
    assert again == results and head == document()
    text = (tmp_path / "short.md").read_text()
    assert "| cold oci | i | igzip \\| tar | 1 | 3.00 s | 2.00 |" in text
    assert "| warm at once | i | groot_fast | 4 | 500.0 ms | 8.000 | 200.0 ms | 400.0 ms | 0 |" in text
    assert "| warm | i | groot_fast | 10 | 10.0 ms |" in text
    assert all(len(line.split(" | ")) == 11 for line in text.split("## Commands")[1].split("##")[0].strip().splitlines())


# -- options ---------------------------------------------------------------------


def test_peer_is_a_name_and_a_program() -> None:
    assert name_and_path("original=/bin/sh") == ("original", str(Path("/bin/sh").resolve()))


@pytest.mark.parametrize("text", ["original", "=/bin/sh", "original=", "original=/no/such/program"])
def test_peer_that_is_none(text: str) -> None:
    with pytest.raises(Exception, match="is not NAME=PATH"):
        name_and_path(text)


# -- the next release of an image -----------------------------------------------


def next_release(image: str) -> Results:
    ours = [sample("again", report.US, n, 4.0 + n, written=300, requests=30, image=image) for n in range(3)]
    theirs = [sample("again", "before", n, 8.0 + 2 * n, written=1000, requests=60, image=image) for n in range(3)]
    return Results([*ours, *theirs], [])


def test_the_next_release_is_held_to_who_writes_all_of_it() -> None:
    results = next_release("pyapp-wheels-next")
    found = {name.removeprefix("again `pyapp-wheels-next` / before: "): (bar.value, bar.verdict) for name, bar in by_name(results).items()}
    assert found == {"written": (0.3, "aim met"), "requests to write": (0.5, "missed"), "time": (0.5, "aim met")}
    assert "| again | pyapp-wheels-next | before | 3 | 10.00 s | 0.0 ms | 0.0 | 60 |" in report.again_table(results)
    assert "again" not in report.samples_table(results, {"i": 100})


def test_images_have_bars_of_their_own() -> None:
    found = {name.removeprefix("again `debian-next` / before: "): bar.verdict for name, bar in by_name(next_release("debian-next")).items()}
    assert found == {"written": "met", "requests to write": "missed"}
    assert by_name(next_release("i")) == {}


def test_a_layers_wheels_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    site = "opt/site"
    old = Archive().dir("opt").dir(site).file(f"{site}/other.py", "stays").file(f"{site}/w/a.py", "1").file(f"{site}/w/gone.py", "1")
    old = old.file(f"{site}/W-1.dist-info/RECORD", "w/a.py,,\nw/gone.py,,\nW-1.dist-info/RECORD,,\n").file(
        f"{site}/W-1.dist-info/extra", ""
    )
    write_layout(tmp_path / "app", Archive().file("base", "b"), old, Archive().file("above", "x"))
    image = Image(tmp_path / "app", tmp_path / "scratch")
    wheels = {"W": ("1", "2")}
    position, found = renew.find_wheels(image.tars(), wheels)
    assert (position, str(found)) == (1, site)
    for name, text in {"w/a.py": "2", "W-2.dist-info/RECORD": "new"}.items():
        (tmp_path / "fresh" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fresh" / name).write_text(text)
    renew.replace_wheels(image.tars()[1], tmp_path / "new.tar", found, wheels, tmp_path / "fresh")
    renew.write_image(tmp_path / "app-next", [*image.layers[:position], renew.pack(tmp_path / "new.tar")])

    after = Image(tmp_path / "app-next", tmp_path / "scratch")
    assert [layer.diff_id for layer in after.layers[:1]] == [layer.diff_id for layer in image.layers[:1]] and len(after.layers) == 2
    with tarfile.open(after.tars()[1]) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isreg()}  # type: ignore[union-attr]
    assert files == {f"{site}/other.py": b"stays", f"{site}/w/a.py": b"2", f"{site}/W-2.dist-info/RECORD": b"new"}
    with pytest.raises(SystemExit, match="no layer has the wheels W 3"):
        renew.find_wheels(image.tars(), {"W": ("3", "4")})


def test_on_a_slow_volume_the_time_counts() -> None:
    times = {report.US: 1.0, report.APART: 4.0}
    results = Results([sample("again, 500 IOPS", who, 0, taken, image="debian-next") for who, taken in times.items()], [])
    assert {name: (bar.value, bar.verdict) for name, bar in by_name(results).items()} == {
        f"again, 500 IOPS `debian-next` / {report.APART}: time": (0.25, "aim met")
    }


def test_joined_layers_are_held_to_layers_apart() -> None:
    times = ((report.US, 2.0), (report.JOINED, 1.0))
    results = Results([sample("cold oci", who, 0, taken, written=int(taken * 10), image="many") for who, taken in times], [])
    bars = {name.rpartition(": ")[2]: bar.verdict for name, bar in by_name(results).items() if "joined" in name}
    assert bars == {"time": "met", "written": "missed"}


def test_packages_are_upgraded_and_nothing_else(tmp_path: Path) -> None:
    lists = "./var/lib/dpkg/info"
    old = (
        Archive()
        .file("./bin/a", "abc")
        .file("./bin/b", "def")
        .symlink("./bin/l", "a")
        .file(f"{lists}/libx:amd64.list", "/.\n/bin\n/bin/a\n/bin/l\n")
    )
    (tmp_path / "old.tar").write_bytes(old.tar)
    renew.upgrade(tmp_path / "old.tar", tmp_path / "new.tar", ["libx"])
    with tarfile.open(tmp_path / "new.tar") as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isreg()}  # type: ignore[union-attr]
        assert tar.getmember("./bin/l").linkname == "a"
    assert (files["./bin/a"], files["./bin/b"]) == (b"bca", b"def")
    with pytest.raises(SystemExit, match="no package y in"):
        renew.upgrade(tmp_path / "old.tar", tmp_path / "other.tar", ["y"])


def test_the_next_release_alone_has_no_bar() -> None:
    assert by_name(Results([sample("again", report.US, 0, 1.0, written=1, requests=1)], [])) == {}
