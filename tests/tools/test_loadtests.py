"""The load test itself: short runs of every shape, what it notices, its report in a browser, and the preparation of devices."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from groot_fast._core import parse_yaml
from loadtests import images
from loadtests.device import BadDevice, prepare
from loadtests.samples import FileSystem, read_lines
from loadtests.throttle import Throttle
from loadtests.volumes import Volume
from support.command import COMMAND, MIB, Store, wait_for

REPO = Path(__file__).resolve().parents[2]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(scratch: Path) -> Run:
    """Does a run and gives its result, with ``exit`` and ``out``."""

    def do(*args: str, name: str = "out") -> dict[str, Any]:
        out = scratch / name
        argv = [sys.executable, "-m", "loadtests", "run", "--apps", "3", "--json", "--out", str(out), *args]
        done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode in (0, 1), done.stderr + "".join(file.read_text() for file in out.glob("*.log"))
        result = json.loads(done.stdout)
        assert result == json.loads((out / "result.json").read_text())
        assert not list(out.glob("run-*")), "the scratch directory is left"
        assert str(out) not in Path("/proc/self/mountinfo").read_text(errors="surrogateescape"), "something is left mounted"
        return {**result, "exit": done.returncode, "out": out}

    return do


def _failed(result: dict[str, Any]) -> list[str]:
    return [entry["figure"] for entry in result["verdict"] if not entry["passed"]]


def test_storm_over_two_workers(run: Run) -> None:
    result = run("--images", "24", "--concurrency", "6", "--with-quota", "--parallel-clean", "--workers", "2")
    journal = read_lines(result["out"] / "journal-command.jsonl")
    creates = [entry for entry in journal if entry["name"] == "create"]
    # Everything that the workers did has reached the master, the last report included.
    assert len(creates) == result["figures"]["create.count"] == 24
    assert result["figures"]["failures"] == 0, result["errors"]
    assert {entry["name"] for entry in journal} == {"create", "clean"}
    assert result["quotas"] == ["squota"]
    assert result["figures"]["io.writes"] > 0
    assert result["figures"]["io.commits_per_create"] > 0
    assert not [name for name in _failed(result) if name != "create.p99_over_median"]
    before, after = result["census"]["before"], result["census"]["after"]
    assert before == after


@pytest.mark.parametrize("door", ["command", "api"])
def test_cell_lives(door: str, run: Run) -> None:
    """Apps start, are asked and stop; versions are pushed; layers are cleaned."""
    result = run(
        "--door",
        door,
        "--shape",
        "steady",
        "--duration",
        "10",
        "--concurrency",
        "4",
        "--parallel-clean",
        "--push-every",
        "2",
        "--pause",
        "0.05",
    )
    figures = result["figures"]
    assert figures["failures"] == 0, result["errors"]
    for name in ("create", "stats", "delete", "clean", "push"):
        assert figures[f"{name}.count"] > 0
    # Each app is cold at first, and again when it was pushed.
    assert figures["create.cold.count"] > 3
    assert figures["create.warm.count"] > figures["create.cold.count"]
    assert figures["subvolumes.max"] > 3
    samples = read_lines(result["out"] / f"samples-{door}.jsonl")
    assert all((sample["server_memory"] > 0) == (door != "command") for sample in samples)
    assert not [name for name in _failed(result) if name.startswith("leaks")]


def test_apps_arrive_whether_the_earlier_ones_are_through_or_not(run: Run) -> None:
    result = run("--shape", "arrivals", "--rate", "8", "--duration", "6", "--workers", "2")
    journal = read_lines(result["out"] / "journal-command.jsonl")
    creates = sorted((entry for entry in journal if entry["name"] == "create"), key=lambda entry: entry["start"])
    assert len(creates) > 15
    assert result["figures"]["failures"] == 0, result["errors"]
    assert result["figures"]["create.cold.count"] == 0
    assert result["census"]["before"] == result["census"]["after"]


def test_a_slow_store_is_asked_all_the_same(run: Run, scratch: Path) -> None:
    """And what waited longer than it was worked on counts as it felt."""
    slow = scratch / "slow"
    slow.write_text(f'#!/bin/sh\ncase "$3" in create) sleep 1;; esac\nexec {COMMAND} "$@"\n')
    slow.chmod(0o755)
    result = run("--shape", "arrivals", "--rate", "6", "--duration", "5", "--grootfs", str(slow))
    assert result["figures"]["create.count"] > 10, "six a second, each of more than a second"
    assert result["figures"]["create.median_ms"] >= 1000


def test_cold_is_what_the_store_lacks(store: Store, scratch: Path) -> None:
    [app] = images.make_apps(scratch / "apps", 1, 1)
    for _ in range(2):
        store.create(app.image, "c")
        assert images.volume_of(app) in store.volumes()
        store.delete("c")
        images.push(app, "v2")
        assert images.volume_of(app) not in store.volumes() or _ == 1


def test_buildah_beside(run: Run) -> None:
    """On the file system that ours is on, and on one where its driver is at home."""
    doors = ("buildah-overlay", "buildah-overlay-ext4")
    result = run("--images", "6", "--concurrency", "3", *(word for door in doors for word in ("--beside", door)))
    for door in doors:
        other = result["beside"][door]["figures"]
        assert (other["create.count"], other["failures"], other["create.cold.count"]) == (6, 0, 0), other
        assert other["io.writes"] > 0 and result["figures"][f"beside.{door}.rate_ratio"] > 0
    assert result["beside"]["buildah-overlay"]["quotas"] == ["none"]


def test_evacuation_comes_beside_what_runs(run: Run) -> None:
    result = run("--shape", "evacuation", "--duration", "16", "--images", "20", "--concurrency", "2")
    journal = read_lines(result["out"] / "journal-command.jsonl")
    assert result["figures"]["failures"] == 0, result["errors"]
    began = min(entry["start"] for entry in journal)
    creates = [entry["start"] - began for entry in journal if entry["name"] == "create"]
    early, rush = [start for start in creates if start < 3], [start for start in creates if start > 3]
    assert early, "apps run before the others come"
    assert len(rush) >= 20
    assert sum(1 for entry in journal if entry["name"] == "stats" and entry["start"] - began > 6) > 0


def test_failures_are_seen(run: Run, scratch: Path) -> None:
    """A limit that no image fits: every create fails, the verdict is no, and the reason is in the report."""
    result = run("--images", "4", "--concurrency", "2", "--with-quota", "--limit", "1000", "--duration", "20")
    assert result["exit"] == 1
    assert result["figures"]["create.failures"] == result["figures"]["failures"] == 4
    assert "failures" in _failed(result)
    [error] = result["errors"]
    assert "layers exceed disk quota" in error
    assert "layers exceed disk quota" in (result["out"] / "report.html").read_text()


def test_result_is_judged_again(run: Run, scratch: Path) -> None:
    out = run("--images", "4", "--concurrency", "2")["out"]
    strict = scratch / "strict.yml"
    strict.write_text("objectives: [{figure: create.count, at_least: 5}, {figure: nothing, at_most: 1}]")
    argv = [sys.executable, "-m", "loadtests", "report", out / "result.json", scratch / "again.html", "--objectives", strict]
    subprocess.run(argv, cwd=REPO, check=True)
    assert [entry["passed"] for entry in json.loads((out / "result.json").read_text())["verdict"]] == [False, False]
    assert "Not all objectives kept" in (scratch / "again.html").read_text()
    assert "not measured" in (scratch / "again.html").read_text()


def test_given_layouts(run: Run, scratch: Path) -> None:
    [app] = images.make_apps(scratch / "given", 1, 7)
    result = run("--images", "4", "--concurrency", "2", "--layout", app.layout)
    assert result["figures"]["failures"] == 0
    assert result["plan"]["apps"] == 1


def test_refused_before_anything_is_made(scratch: Path) -> None:
    for flags, text in (
        (["--profile", "gp9"], "there is no profile `gp9`"),
        (["--shape", "steady", "--beside", "buildah-overlay"], "only goes with the shape `storm`"),
        (["--cold", "--beside", "buildah-overlay"], "buildah has pulled what it makes"),
        (["--shape", "arrivals"], "needs a --rate"),
        (["--rate", "5"], "needs a --rate"),
        (["--layout", "x", "--push-every", "3"], "given layouts are not changed"),
        (["--store", str(scratch), "--apps", "1"], "not a mount point"),
    ):
        argv = [sys.executable, "-m", "loadtests", "run", "--out", str(scratch / "out"), *flags]
        done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert text in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("door", ["command", "api"])
def test_stopped_run_leaves_nothing(door: str, scratch: Path) -> None:
    out = scratch / "out"
    argv = [sys.executable, "-m", "loadtests", "run", "--shape", "steady", "--door", door, "--apps", "2", "--out", str(out)]
    process = subprocess.Popen([*argv, "--concurrency", "3"], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if any(file.stat().st_size for file in out.glob(f"run-*/journal-{door}.jsonl")):
            break
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    said, error = process.communicate(timeout=60)
    assert (process.returncode, said, error) == (130, "", "stopped\n")
    assert not list(out.glob("run-*"))
    assert str(out) not in Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    assert str(out) not in subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout
    assert str(out) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_leaks_are_seen(store: Store, scratch: Path) -> None:
    """The census counts what is put there behind its back."""
    from loadtests import census

    system = FileSystem(store.path)
    before = census.count(system, store.path, "grootfs", None)
    (store.path / "meta" / "left").write_text("")
    subprocess.run(["btrfs", "-q", "subvolume", "create", store.path / "volumes" / "left"], check=True)
    (store.path / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", store.path / "mounted"], check=True)
    waiting = subprocess.Popen([sys.executable, "-c", "input()", "grootfs", str(store.path)], stdin=subprocess.PIPE)
    try:
        # It has its arguments a moment after it was begun.
        wait_for(lambda: Path(f"/proc/{waiting.pid}/cmdline").read_bytes(), "a process to have arguments")
        after = census.count(system, store.path, "grootfs", None)
    finally:
        subprocess.run(["umount", store.path / "mounted"], check=True)
        waiting.communicate()
    leaks = census.leaks(before, after)
    assert leaks == {"subvolumes": 1, "qgroups": 1, "mounts": 1, "files": 3, "processes": 1}


# -- the throttle


@contextmanager
def _slow_device(scratch: Path) -> Iterator[tuple[Throttle, Path]]:
    """A loop device on a file that can be slowed down, as `init-store` makes it."""
    file = scratch / "volume"
    with file.open("wb") as sparse:
        sparse.truncate(1024 * MIB)
    with Throttle(file) as throttle, _loop(file, "--direct-io=on") as device:
        assert (Path("/sys/block") / device.name / "loop" / "dio").read_text().strip() == "1"
        (Path("/sys/block") / device.name / "queue" / "scheduler").write_text("mq-deadline")
        yield throttle, device


def _fio(device: Path, *args: str) -> dict[str, Any]:
    fixed = ["--name=x", f"--filename={device}", "--direct=1", "--ioengine=libaio", "--iodepth=32", "--output-format=json"]
    done = subprocess.run(["fio", *fixed, *args], capture_output=True, text=True, check=True)
    [job] = json.loads(done.stdout)["jobs"]
    return dict(job)


def _counted(throttle: Throttle, before: dict[str, float | None], name: str) -> float:
    after = throttle.count()[name]
    start = before[name]
    assert after is not None and start is not None
    return after - start


def test_random_writes_at_500_are_500(scratch: Path) -> None:
    with _slow_device(scratch) as (throttle, device):
        throttle.limit(Volume("x", 500, None))
        before = throttle.count()
        job = _fio(device, "--rw=randwrite", "--bs=8k", "--number_ios=1500")
        assert job["write"]["iops"] == pytest.approx(500, rel=0.05)
        assert _counted(throttle, before, "counted_writes") == pytest.approx(1500, abs=15), "each one counts, but for chance neighbours"
        assert _counted(throttle, before, "above_iops_us") == pytest.approx(3e6, rel=0.1)


def test_sequential_writes_are_joined(scratch: Path) -> None:
    with _slow_device(scratch) as (throttle, device):
        throttle.limit(Volume("x", 100, None))
        before = throttle.count()
        _fio(device, "--rw=write", "--bs=8k", "--size=64M")
        # 64 MiB are 256 operations of 256 KiB; those that come when nothing waits are smaller.
        assert 256 <= _counted(throttle, before, "counted_writes") < 400
        before = throttle.count()
        _fio(device, "--rw=write", "--bs=1M", "--size=64M")
        assert 256 <= _counted(throttle, before, "counted_writes") < 400, "and large ones count by their size"


def test_reads_count_together_with_writes(scratch: Path) -> None:
    with _slow_device(scratch) as (throttle, device):
        throttle.limit(Volume("x", 500, None))
        before = throttle.count()
        job = _fio(device, "--rw=randrw", "--bs=8k", "--number_ios=1000")
        assert job["read"]["iops"] + job["write"]["iops"] == pytest.approx(500, rel=0.07)
        both = _counted(throttle, before, "counted_reads") + _counted(throttle, before, "counted_writes")
        assert both == pytest.approx(1000, abs=15)


def test_burst_credits_drain_while_a_device_works(scratch: Path) -> None:
    with _slow_device(scratch) as (throttle, device):
        throttle.limit(Volume("small", 50, None, burst_iops=2000, bucket=10_000), credits_left=500)
        assert throttle.count()["cap"] == 2000
        _fio(device, "--rw=randwrite", "--bs=8k", "--number_ios=600")
        left = throttle.count()
        assert left["credits"] is not None and left["credits"] < 200, "600 were spent, 500 were there"


@pytest.mark.parametrize("victim", ["whoever began it", "the throttle"])
def test_killed_throttle_leaves_nothing(victim: str, scratch: Path) -> None:
    """Nobody is there to clear up: what was mounted from the file goes with it."""
    file, point = scratch / "volume", scratch / "mount"
    with file.open("wb") as sparse:
        sparse.truncate(256 * MIB)
    subprocess.run(["mkfs.ext4", "-q", file], check=True)
    point.mkdir()
    script = f"""
import subprocess, sys
from pathlib import Path
from loadtests.throttle import Throttle
with Throttle(Path({str(file)!r})) as throttle:
    subprocess.run(["mount", "-o", "loop", {str(file)!r}, {str(point)!r}], check=True)
    print(throttle._process.pid, flush=True)
    sys.stdin.read()
    subprocess.run(["umount", {str(point)!r}], check=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert str(point) in Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    os.kill(process.pid if victim == "whoever began it" else pid, signal.SIGKILL)
    process.communicate(timeout=60)

    def left() -> str:
        return (
            Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
            + subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout
        )

    for _ in range(200):
        if str(scratch) not in left():
            break
        time.sleep(0.1)
    assert str(scratch) not in left()


# -- the report, in a browser


PROBE = """<script>
window.addEventListener('load', () => {
  const seen = selector => [...document.querySelectorAll(selector)].map(element => {
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    return {width: box.width, height: box.height, left: box.left, right: box.right,
            visible: style.visibility === 'visible' && style.display !== 'none'};
  });
  const probe = document.createElement('pre');
  probe.id = 'probe';
  probe.textContent = JSON.stringify({
    plots: seen('figure svg'), tables: seen('body > .wide'), verdict: seen('.verdict span'),
    text: document.querySelector('.verdict').innerText, width: innerWidth,
    fetched: performance.getEntriesByType('resource').map(entry => entry.name),
    drawn: [...document.querySelectorAll('figure svg')].map(svg => svg.querySelectorAll('path').length),
  });
  document.body.append(probe);
});
</script>"""


NARROW = """<iframe src="%s" width="390" height="800" style="border:0"></iframe><pre id="said"></pre><script>
onload = () => {
  const page = document.querySelector('iframe').contentDocument.documentElement;
  said.textContent = `widths ${page.clientWidth} ${Math.max(page.scrollWidth, 390)}`;
};
</script>"""


class _Probe(HTMLParser):
    text = ""
    _inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = ("id", "probe") in attrs

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data
            self._inside = False


def _browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    browser = shutil.which("chromium")
    assert browser, "`chromium` was not found; run `make deps`"
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1200,2600"]
    argv = [browser, *fixed, f"--user-data-dir={profile}", *flags, f"file://{page}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)


def test_report_in_a_browser(run: Run, scratch: Path) -> None:
    out = run("--images", "12", "--concurrency", "4")["out"]
    page = (out / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:,|#)""", page), "a report needs nothing from elsewhere"
    (scratch / "probed.html").write_text(page + PROBE)
    seen = _browse(scratch / "probed.html", scratch / "profile", "--dump-dom")
    assert "CONSOLE" not in seen.stderr, seen.stderr
    parser = _Probe()
    parser.feed(seen.stdout)
    probe = json.loads(parser.text)
    assert probe["text"] in ("All objectives kept", "Not all objectives kept")
    assert len(probe["plots"]) >= 7
    assert len(probe["tables"]) >= 3
    for box in [*probe["plots"], *probe["tables"], *probe["verdict"]]:
        assert box["visible"]
        assert box["width"] > 30
        assert box["height"] > 10
        assert box["left"] >= 0
        assert box["right"] <= probe["width"]
    assert min(probe["drawn"]) > 10
    assert probe["fetched"] == []
    # On a telephone nothing is wider than the page: wide tables scroll by themselves.
    (scratch / "narrow.html").write_text(NARROW % "out/report.html")
    narrow = _browse(scratch / "narrow.html", scratch / "profile", "--allow-file-access-from-files", "--dump-dom")
    assert re.search(r"widths (\d+) 390", narrow.stdout), narrow.stdout[-500:]
    picture = scratch / "report.png"
    _browse(out / "report.html", scratch / "profile", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 40_000, "an empty page compresses to less"


def test_comparison_of_two_reports(run: Run, scratch: Path) -> None:
    one = run("--images", "6", "--concurrency", "2", name="one")
    two = run("--images", "6", "--concurrency", "2", "--with-quota", name="two")
    files = [str(result["out"] / "result.json") for result in (one, two)]
    argv = [sys.executable, "-m", "loadtests", "compare", *files, "--html", str(scratch / "both.html")]
    text = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in text.splitlines() if line.startswith("create.rate")]
    ratio = two["figures"]["create.rate"] / one["figures"]["create.rate"]
    assert float(line.split()[3]) == pytest.approx(ratio, rel=0.02)
    assert "create.rate" in (scratch / "both.html").read_text()


# -- devices


@contextmanager
def _loop_device(file: Path, size: int = 256 * MIB) -> Iterator[Path]:
    with file.open("wb") as sparse:
        sparse.truncate(size)
    with _loop(file, "--partscan") as device:
        yield device


@contextmanager
def _loop(file: Path, *flags: str) -> Iterator[Path]:
    device = subprocess.run(["losetup", "--find", "--show", *flags, file], capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["mkfs.ext4", "-q", "-F"], "it holds ext4"),
        (["mkfs.btrfs", "-q", "-f"], "it holds btrfs"),
        (["mkswap"], "it holds swap"),
        (["sh", "-c", "echo 'label: gpt' | sfdisk -q $0"], "it holds PMBR, gpt"),
        (["sh", "-c", "echo ',,' | sfdisk -q $0"], "it holds dos|has partitions"),
    ],
)
def test_device_with_anything_on_it_is_refused(command: list[str], reason: str, scratch: Path) -> None:
    with _loop_device(scratch / "disk") as device:
        subprocess.run([*command, device], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = (scratch / "disk").read_bytes()
        with pytest.raises(BadDevice, match=reason):
            prepare(device, scratch / "mount")
        assert (scratch / "disk").read_bytes() == before
        assert not (scratch / "mount").exists()


def test_no_device_is_refused(scratch: Path) -> None:
    (scratch / "file").write_text("")
    with pytest.raises(BadDevice, match="not a block device"):
        prepare(scratch / "file", scratch / "mount")
    with pytest.raises(BadDevice, match="No such file"):
        prepare(scratch / "nothing", scratch / "mount")


def test_script_for_an_instance(scratch: Path) -> None:
    """What cloud-init starts, on an empty device: prepares it, runs, leaves a report. A second start is refused."""
    with _loop_device(scratch / "disk", 4096 * MIB) as device:
        script = [REPO / "loadtests" / "aws" / "run-on-instance", device, scratch / "report", "--images", "6", "--concurrency", "2"]
        environment = {**os.environ, "GROOT_LOADTEST_MOUNT": str(scratch / "mount")}
        try:
            done = subprocess.run([*script, "--apps", "2"], env=environment, capture_output=True, text=True, check=False, timeout=200)
            assert done.returncode in (0, 1), done.stdout + done.stderr
            result = json.loads((scratch / "report" / "result.json").read_text())
            assert result["figures"]["create.count"] == 6
            assert result["figures"]["failures"] == 0
            assert (scratch / "report" / "report.html").exists()
            again = subprocess.run(script, env=environment, capture_output=True, text=True, check=False, timeout=200)
            assert again.returncode == 2
            assert "is mounted" in again.stderr
        finally:
            subprocess.run(["umount", scratch / "mount"], check=True)


def test_scripts_are_linted() -> None:
    scripts = [REPO / "loadtests" / "full", REPO / "loadtests" / "aws" / "run-on-instance"]
    subprocess.run(["shellcheck", *scripts], check=True)


def test_user_data() -> None:
    """Well-formed, only what cloud-init knows, its script linted, and no address or secret of anybody's in it."""
    file = REPO / "loadtests" / "aws" / "user-data.yaml"
    text = file.read_text()
    assert text.startswith("#cloud-config\n")
    document = parse_yaml(text)
    assert set(document) == {"package_update", "packages", "write_files", "runcmd"}
    [variables] = document["write_files"]
    assert variables["permissions"] == "0600"
    [script] = document["runcmd"]
    names = [line.partition("=")[0] for line in variables["content"].splitlines()]
    assert all(f"${name}" in script for name in names)
    shellcheck = ["shellcheck", "--shell=sh", "--exclude=SC1091,SC2154", "-"]
    subprocess.run(shellcheck, input=script, text=True, check=True)
    if shutil.which("cloud-init"):
        # Not installed by `make deps`: on a machine that is none of a cloud's it would run at the next boot.
        subprocess.run(["cloud-init", "schema", "--config-file", file], check=True)
