"""Options to a plan, and what is printed. `run` keeps the vocabulary of grootfs-bench."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtests import plots, report
from loadtests.btrfs import NoReader
from loadtests.comparison import compare
from loadtests.device import BadDevice, prepare
from loadtests.images import make_apps
from loadtests.objectives import FOLDER, BadObjectives, judge, read_objectives
from loadtests.plan import DOORS, SHAPES, App, Plan
from loadtests.runs import REPO, RunFailed, Setting, run
from loadtests.samples import NoDevice
from loadtests.stores import NoStore
from loadtests.throttle import NoThrottle, check_throttle
from loadtests.volumes import MIB, PROFILES, BadProfile, find_volume

OURS = ("command", "api")
BESIDE = ("buildah-overlay", "buildah-btrfs", "buildah-overlay-ext4")
LIMIT_BYTES = 512 * MIB
Options = argparse.Namespace


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0: done and all objectives kept, 1: not kept, 2: could not be done, 130: stopped."""
    options = _parser().parse_args(argv)
    # A throttle or a mount must not stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = options.act(options)
    except (BadProfile, BadObjectives, BadDevice, RunFailed, NoDevice, NoReader, NoStore, NoThrottle) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests", description="A cell's load on a store, and a verdict.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="make load and judge", formatter_class=argparse.RawDescriptionHelpFormatter))
    draw = commands.add_parser("report", help="draw the HTML report of a result again")
    draw.add_argument("result", type=Path)
    draw.add_argument("html", type=Path)
    draw.add_argument("--objectives", type=Path, help="judge it by these, and write that into the result too")
    draw.set_defaults(act=_draw)
    two = commands.add_parser("compare", help="set two results side by side")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument("--html", type=Path, help="write the comparison there too")
    two.set_defaults(act=_compare)
    chart = commands.add_parser("chart", help="draw the plots of one result, or the rates of several storms, as SVG files")
    chart.add_argument("folder", type=Path, help="where the files go")
    chart.add_argument("results", type=Path, nargs="+")
    chart.set_defaults(act=_chart)
    device = commands.add_parser("prepare", help="make BTRFS on an empty device and mount it; refuses a device with anything on it")
    device.add_argument("device", type=Path)
    device.add_argument("mount", type=Path)
    device.set_defaults(act=_prepare)
    profiles = commands.add_parser("profiles", help="list the profiles of volumes")
    profiles.set_defaults(act=lambda _options: print(PROFILES) or 0)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"profiles:\n{PROFILES}"
    add = parser.add_argument
    add("--images", type=_count, default=200, help="creates of a storm or of an evacuation's rush (200)")
    add("--concurrency", type=_count, default=32, help="users at once (32)")
    add("--with-quota", action="store_true", help="give every image a disk limit")
    add("--limit", type=_count, default=LIMIT_BYTES, metavar="BYTES", help="that limit (512 MiB)")
    add("--parallel-clean", action="store_true", help="clean in the background all the time")
    add("--threshold", type=int, default=0, metavar="BYTES", help="cached layers from which the background clean works (0)")
    add("--json", action="store_true", help="print the result as JSON instead of as text")
    add("--shape", choices=SHAPES, default="storm")
    add("--door", choices=OURS, default="command", help="the command, or a server's HTTP interface")
    add("--duration", type=float, default=120, metavar="SECONDS", help="length; deadline of a storm (120)")
    add("--pause", type=float, default=0.1, metavar="SECONDS", help="between two operations of a user; not in storms (0.1)")
    add("--rate", type=float, default=0, metavar="APPS", help="apps that arrive a second, in the shape `arrivals`")
    add("--push-every", type=float, default=0, metavar="SECONDS", help="push new versions so often (never)")
    add("--apps", type=_count, default=16, help="different images (16)")
    add("--zipf", type=float, default=1.1, help="how unevenly apps are asked for (1.1; 0: evenly)")
    add("--layout", type=Path, action="append", default=[], help="an OCI layout (tag `latest`) instead of generated apps; repeat it")
    add("--cold", action="store_true", help="do not make every app once before a storm or an evacuation")
    add("--profile", default="unlimited", help="the volume to imitate (unlimited)")
    add("--credits", type=int, metavar="OPERATIONS", help="burst credits at the beginning (a full bucket)")
    add("--store", type=Path, metavar="MOUNT", help="a mounted BTRFS for the store instead of a file; see `prepare`")
    add("--quota", choices=("simple", "full"), default="simple", help="accounting of the store (simple)")
    add("--workers", type=int, default=0, help="processes of locust's that act (0: one for everything)")
    add("--beside", choices=BESIDE, action="append", default=[], help="the same storm with buildah, under the same profile")
    add("--objectives", type=Path, help="YAML with objectives (those of the shape)")
    add("--out", type=Path, help="where result.json, report.html, journal and samples go (build/loadtests/RUN)")
    add("--grootfs", type=Path, default=os.environ.get("GROOTFS_BIN", REPO / "build" / "bin" / "grootfs"), help="the command")
    add("--seed", type=int, default=1)
    parser.set_defaults(act=_run)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _run(options: Options) -> int:
    volume = find_volume(options.profile)
    # Refused before anything is made.
    if volume.is_limited:
        check_throttle()
        if options.store is not None:
            raise RunFailed("a --profile slows down a file of the run's own; with --store the volume is what it is")
    if options.beside and options.shape != "storm":
        raise RunFailed("--beside only goes with the shape `storm`: buildah has no stats and no clean")
    if options.beside and options.cold:
        raise RunFailed("--beside goes with warm creates: buildah has pulled what it makes")
    if (options.shape == "arrivals") != (options.rate > 0):
        raise RunFailed("the shape `arrivals`, and no other, needs a --rate")
    if options.layout and options.push_every:
        raise RunFailed("--push-every only goes with generated apps: given layouts are not changed")
    objectives = read_objectives(options.objectives or FOLDER / f"{options.shape}.yml")
    name = f"load-{secrets.token_hex(3)}"
    out: Path = options.out or REPO / "build" / "loadtests" / name
    out.mkdir(parents=True, exist_ok=True)
    with _scratch(out) as folder:
        if options.layout:
            apps = tuple(App(layout.name, str(layout.resolve())) for layout in options.layout)
        else:
            apps = make_apps(folder / "layouts", options.apps, options.seed)
        plan = _plan(options, name, apps)
        warm = not options.cold and options.shape in ("storm", "arrivals", "evacuation")
        setting = Setting(folder, volume, options.credits, warm, options.store, options.quota, str(Path(options.grootfs).resolve()))
        result = run(plan, setting)
        for door in options.beside:
            buildah = shutil.which("buildah")
            if buildah is None:
                raise RunFailed("`buildah` was not found")
            other = run(replace(plan, door=door, command=buildah), replace(setting, own_store=None))
            result.setdefault("beside", {})[door] = other
        _set_beside(result)
        for file in folder.glob("*.jsonl"):
            shutil.copy(file, out)
    result["verdict"] = judge(objectives, result["figures"])
    (out / "result.json").write_text(json.dumps(result) + "\n")
    report.write(result, out / "report.html")
    print(json.dumps(result) if options.json else report.text(result, out))
    return 0 if all(entry["passed"] for entry in result["verdict"]) else 1


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A directory for what goes away with the run."""
    # Hex only: buildah takes the path for a reference, in which some letters of mkdtemp's are refused.
    folder = (out / f"run-{secrets.token_hex(4)}").resolve()
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        # What locust said is all there is to tell why.
        for file in folder.glob("*.log"):
            shutil.copy(file, out)
        raise
    finally:
        shutil.rmtree(folder)


def _plan(options: Options, name: str, apps: tuple[App, ...]) -> Plan:
    return Plan(
        run=name,
        door=options.door,
        shape=options.shape,
        command=str(Path(options.grootfs).resolve()),
        store="",
        socket="",
        apps=apps,
        zipf=options.zipf,
        images=options.images,
        concurrency=options.concurrency,
        limit=options.limit if options.with_quota else 0,
        parallel_clean=options.parallel_clean,
        threshold=options.threshold,
        pause=options.pause,
        rate=options.rate,
        push_every=options.push_every,
        duration=options.duration,
        workers=options.workers,
        journal="",
        seed=options.seed,
    )


def _set_beside(result: dict[str, Any]) -> None:
    """Figures against buildah; ``beside.rate_ratio`` is against its faster driver."""
    ours, ratios = result["figures"]["create.rate"], []
    for door, other in result.get("beside", {}).items():
        theirs = other["figures"]["create.rate"]
        result["figures"][f"beside.{door}.rate_ratio"] = ours / theirs if ours and theirs else None
        ratios.append(ours / theirs if ours and theirs else 0.0)
    if ratios:
        result["figures"]["beside.rate_ratio"] = min(ratios)


def _draw(options: Options) -> int:
    result = json.loads(options.result.read_text())
    if options.objectives:
        result["verdict"] = judge(read_objectives(options.objectives), result["figures"])
        options.result.write_text(json.dumps(result) + "\n")
    report.write(result, options.html)
    return 0


def _compare(options: Options) -> int:
    before, after = (json.loads(file.read_text()) for file in (options.before, options.after))
    rows = compare(before["figures"], after["figures"])
    print(report.comparison_text(rows))
    if options.html:
        report.write_comparison(before, after, rows, options.html)
    return 0


def _chart(options: Options) -> int:
    results = [json.loads(file.read_text()) for file in options.results]
    figures = plots.plot_all(results[0]) if len(results) == 1 else {"Storms": plots.plot_storms(results)}
    for title, figure in figures.items():
        name = title.partition(":")[0].lower().replace(" ", "-")
        (options.folder / f"{options.results[0].stem if len(results) == 1 else 'all'}-{name}.svg").write_text(plots.svg(figure, title))
    return 0


def _prepare(options: Options) -> int:
    prepare(options.device, options.mount)
    print(f"{options.device} is BTRFS now, mounted at {options.mount}")
    return 0


assert set(OURS) | set(BESIDE) == set(DOORS)
