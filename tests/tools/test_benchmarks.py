"""`benchmarks/compare` on a small image, from the command line to the written result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from compare import report
from support import mounts
from support.archive import Archive, Layer
from support.command import COMMAND, REPOSITORY
from support.layout import write_layout


def test_compare_measures_and_writes(scratch: Path) -> None:
    body = os.urandom(1 << 20)
    write_layout(scratch / "images" / "tiny", Archive().dir("d").file("d/f", body.hex()), Archive().file("g", "x"))
    write_layout(scratch / "images" / "tiny-next", Archive().dir("d").file("d/f", body.hex()[1:]), Archive().file("g", "y"))
    write_layout(scratch / "images" / "many", *(Archive().file(f"f{number}", "x" * 3000) for number in range(8)))
    argv = [sys.executable, "-m", "compare", "--plan", "check", "--images", scratch / "images", "--scratch", scratch]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/benchmarks:{REPOSITORY}/tests", "GROOTFS_BIN": COMMAND}
    done = subprocess.run([*argv, "--results", scratch / "results"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done
    document, results = report.read(scratch / "results" / "check.json")
    assert "incomplete" not in document
    assert document["content"] == {"tiny": (2 << 20) + 1, "many": 8 * 3000}

    works = {(s.work, s.who) for s in results.samples}
    ours = {
        "again",
        "again, 500 IOPS",
        "cold oci",
        "cold docker",
        "cold oci, beside docker",
        "clean, all unused",
        "warm",
        "warm, limit",
        "stats",
        "list",
        "delete",
        "delete, limit",
        "clean",
        "warm by layout",
        "warm by tag, http",
        "warm by tag, TLS",
    }
    grown = {f"grown {base}{what}" for base in ("", "base ") for what in ("warm", "stats", "list")}
    assert {work for work, who in works if who == "groot_fast"} == ours | grown
    assert {("cold oci", "igzip | tar"), ("cold oci", "tar"), ("warm", "snapshot"), ("warm", "python + snapshot")} <= works
    assert {(b.work, b.count) for b in results.bursts if b.who == "groot_fast"} == {
        *(("warm at once", count) for count in (1, 4)),
        *(("pull at once", count) for count in (1, 2)),
        ("by tag at once", 2),
    }
    assert {b.who for b in results.bursts if b.work == "warm at once"} >= {"groot_fast, API"}
    assert sum(b.failed for b in results.bursts) == 0

    commits = {who: {s.commits for s in results.samples if (s.image, s.who) == ("many", who)} for who in (report.US, report.JOINED)}
    assert max(commits[report.JOINED]) < min(commits[report.US])
    for cold in [s for s in results.samples if (s.work, s.image) == ("cold oci", "tiny") and s.who != "digest only"]:
        assert cold.written > 1 << 20, "the content reached the device"
        assert 0 < cold.peak < 100_000 and cold.cpu > 0 and cold.seconds > 0
    for again in [s for s in results.samples if s.work.startswith("again")]:
        assert (again.image, again.requests > 0, again.written > 0) == ("tiny-next", True, True)
        assert again.who in (report.US, report.APART)
    for snapshot in [s for s in results.samples if s.work == "warm"]:
        assert snapshot.commits >= 1, "a snapshot is a commit"
    names = {f"check-{plot}.{kind}" for plot in ("cold", "growth", "parallel") for kind in ("png", "svg")}
    assert set(os.listdir(scratch / "results")) == {"check.json", "check.md"} | names
    assert all((scratch / "results" / name).stat().st_size > 1000 for name in names)
    assert mounts.mounts_below(scratch) == [] and mounts.loops_below(scratch) == [], "everything was taken away"


def test_the_cores_parts_can_be_measured(scratch: Path) -> None:
    layer = Archive().dir("d").file("d/f", "x" * 5000).symlink("l", "d/f")
    write_layout(scratch / "debian", layer)
    write_layout(scratch / "pyapp-zstd", Layer(layer.tar, "zstd"))
    argv = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--benchmark-disable", "-p", "no:cacheprovider", "--images", str(scratch)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0 and "14 passed" in done.stdout, done.stdout


def test_compare_takes_everything_away_when_it_is_ended(scratch: Path) -> None:
    write_layout(scratch / "images" / "tiny", Archive().file("f", "x"))
    argv = [sys.executable, "-m", "compare", "--plan", "check", "--images", scratch / "images", "--scratch", scratch]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/benchmarks:{REPOSITORY}/tests", "GROOTFS_BIN": COMMAND}
    process = subprocess.Popen([*argv, "--results", scratch / "results"], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    process.stdout.readline()  # it is at work
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert mounts.mounts_below(scratch) == [] and mounts.loops_below(scratch) == []
    assert sorted(os.listdir(scratch)) == ["images", "results"]
    document, _ = report.read(scratch / "results" / "check.json")
    assert document["incomplete"] == "143", "what was measured until then is written down, and says so"


def test_compare_says_what_it_needs(scratch: Path) -> None:
    argv = [sys.executable, "-m", "compare", "--plan", "check", "--images", scratch]
    done = subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/benchmarks:{REPOSITORY}/tests"}
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"no OCI layouts in {scratch}\n\nhint: skopeo copy"), done
