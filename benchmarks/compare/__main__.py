"""Measure and write the result down.

    python -m compare --images DIR [--plan short|full|pull|check] [--filesystem init-store|plain] [--peer NAME=PATH]...
        [--only WORK]... [--results DIR]

DIR holds OCI layouts (tag ``latest``), each in a directory that is the image's name; a work is done with those of its images
that are there. Needs root, the built command, and Debian's packages for what takes part. ``--peer`` adds a binary with the same
command line.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compare import machine, plots, report
from compare.floors import cold_floors
from compare.images import Image
from compare.peers import Buildah, Containerd, Groot, Peer, ServedGroot, Umoci
from compare.process import Failed
from compare.registry import serve, serve_both
from compare.works import Bench, Results

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = Path(os.environ.get("GROOTFS_BIN") or REPOSITORY / "build" / "bin" / "grootfs")
GROUNDS = {
    "init-store": "BTRFS as `init-store` makes it, for everybody; a row of buildah's on ext4",
    "plain": "BTRFS by mkfs's defaults, for everybody; a row of buildah's on ext4",
}
NEXT = "-next"
OPERATIONS = 500
"""Operations a second of a throttled volume."""
WORKS = ("cold", "layers", "again", "docker", "operations", "named", "bursts", "pulls", "growth")


@dataclass(frozen=True)
class Plan:
    """Which images each work is done with, and how often. ``peer_rounds`` is for cold creates of umoci and containerd, which take
    long; with 0 they and buildah take no part in anything. ``again`` is done where the image with `NEXT` after its name is there too, and
    for ``beside``, pairs of an image that is there and another one on the same base. ``layers`` are images of many small ones."""

    name: str
    cold: tuple[str, ...]
    again: tuple[str, ...]
    beside: tuple[tuple[str, str], ...]
    layers: tuple[str, ...]
    docker: tuple[str, ...]
    rounds: int
    peer_rounds: int
    operations: tuple[str, ...]
    operation_rounds: int
    bursts: tuple[str, ...]
    burst_rounds: int
    pulls: tuple[str, ...]
    pull_rounds: int
    pull_peer_rounds: int
    growth: tuple[str, ...]
    levels: tuple[int, ...]
    growth_rounds: int
    counts: tuple[int, ...] = (1, 4, 16, 64)
    pull_count: int = 16
    throttled_rounds: int = 0


SHORT = Plan(
    name="short",
    cold=("debian", "pyapp"),
    again=("debian", "pyapp-wheels"),
    beside=(("nodeapp", "pyapp"),),
    layers=("many",),
    docker=("debian",),
    rounds=3,
    peer_rounds=1,
    operations=("debian",),
    operation_rounds=10,
    bursts=("debian",),
    burst_rounds=1,
    pulls=("debian",),
    pull_rounds=2,
    pull_peer_rounds=0,
    growth=("tiny", "debian"),
    levels=(10, 100, 300),
    growth_rounds=10,
)
FULL = Plan(
    name="full",
    cold=("debian", "nodeapp", "pyapp"),
    again=("debian", "pyapp-wheels"),
    beside=(("nodeapp", "pyapp"),),
    layers=("many",),
    docker=("debian", "pyapp"),
    rounds=5,
    peer_rounds=1,
    operations=("debian",),
    operation_rounds=25,
    bursts=("debian",),
    burst_rounds=9,
    pulls=("debian",),
    pull_rounds=3,
    pull_peer_rounds=0,
    growth=("tiny", "debian", "pyapp"),
    levels=(10, 100, 1000, 3000),
    growth_rounds=15,
    throttled_rounds=3,
)
CHECK = Plan(
    name="check",
    cold=("tiny",),
    again=("tiny",),
    beside=(),
    layers=("many",),
    docker=("tiny",),
    rounds=2,
    peer_rounds=0,
    operations=("tiny",),
    operation_rounds=2,
    bursts=("tiny",),
    burst_rounds=1,
    pulls=("tiny",),
    pull_rounds=1,
    pull_peer_rounds=0,
    growth=("tiny",),
    levels=(10, 20),
    growth_rounds=2,
    throttled_rounds=1,
    counts=(1, 4),
    pull_count=2,
)
PULL = replace(
    CHECK,
    name="pull",
    cold=(),
    again=(),
    beside=(),
    layers=(),
    docker=("pyapp",),
    rounds=12,
    operations=(),
    bursts=(),
    pulls=("pyapp",),
    pull_rounds=3,
    growth=(),
    pull_count=16,
    throttled_rounds=0,
)
"""From a registry alone, ours alone: what takes seconds varies by a tenth, and needs more rounds."""
AGAIN = replace(
    PULL,
    name="again",
    again=FULL.again,
    beside=FULL.beside,
    layers=FULL.layers,
    docker=(),
    rounds=7,
    pulls=(),
    throttled_rounds=FULL.throttled_rounds,
)
"""What is written twice, and what is not."""
PLANS = {plan.name: plan for plan in (SHORT, FULL, PULL, AGAIN, CHECK)}


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's text."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # file systems are unmounted on the way out
    plan = PLANS[options.plan]
    check_programs(plan)
    is_plain = options.filesystem == "plain"
    ours = Groot(report.US, COMMAND, is_plain=is_plain)
    like = [ours, *(Groot(name, Path(path), is_plain=is_plain) for name, path in options.peer)]
    results = Results([], [])
    document: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "plan": plan.name,
        "machine": machine.describe(),
        "versions": machine.versions(REPOSITORY),
        "method": report.METHOD,
        "filesystem": GROUNDS[options.filesystem],
    }
    with tempfile.TemporaryDirectory(prefix="groot-bench-", dir=options.scratch) as folder:
        scratch = Path(folder)
        images = find_images(options.images, scratch)
        bench = Bench(scratch, results, lambda line: print(line, flush=True))
        try:
            measure(plan, options.only or WORKS, images, like, bench, scratch)
        except (Failed, SystemExit, KeyboardInterrupt) as error:
            document["incomplete"] = str(error) or type(error).__name__
        cold = dict.fromkeys(s.image for s in results.samples if s.work.startswith("cold"))
        document["unpacked"] = {name: images[name].size.blocks for name in cold}
        document["content"] = {name: images[name].size.content for name in cold}
    report.write(options.results, plan.name, document, results)
    plots.draw(options.results, plan.name, results)
    print((options.results / f"{plan.name}.md").read_text())
    if "incomplete" in document:
        sys.exit(f"ended before everything was measured: {document['incomplete']}")


def measure(plan: Plan, works: Sequence[str], images: dict[str, Image], like: Sequence[Groot], bench: Bench, scratch: Path) -> None:
    """Do the works of a plan with those of its images that are there. Raises Failed."""
    maker = None if like[0].is_plain else like[0].command
    others: list[Peer] = [Buildah(maker), Buildah(maker, at_home=True), Containerd(maker)] if plan.peer_rounds else []
    asked = ServedGroot(report.ASKED, like[0].command, is_plain=like[0].is_plain)
    all_rounds: list[tuple[Peer, int]] = [(peer, plan.rounds) for peer in like]
    # There are bars beside buildah.
    slow: list[tuple[Peer, int]] = [(peer, plan.rounds if isinstance(peer, Buildah) else plan.peer_rounds) for peer in others]

    def here(names: Sequence[str]) -> list[Image]:
        return [images[name] for name in names if name in images]

    if "cold" in works:
        for image in here(plan.cold):
            floors = [(peer, plan.rounds) for peer in cold_floors(maker)]
            bench.cold(image, [*all_rounds, *floors, *slow, (Umoci(maker), plan.peer_rounds)])  # no rounds, no part
    if "layers" in works:
        joined = Groot(report.JOINED, like[0].command, is_plain=like[0].is_plain, settings="create: {join_small_layers: true}\n")
        for image in here(plan.layers):
            bench.cold(image, [(peer, plan.rounds) for peer in (*like, joined)])
    if "again" in works:
        apart = Groot(report.APART, like[0].command, is_plain=like[0].is_plain, settings="create: {share_content: never}\n")
        pairs = [*((name, name + NEXT) for name in plan.again), *plan.beside]
        for old, new in pairs:
            if old in images and new in images:
                bench.again(images[old], images[new], [*like, apart], plan.rounds)
                if plan.throttled_rounds and new.endswith(NEXT):
                    bench.again_throttled(images[old], images[new], [*like, apart], plan.throttled_rounds, OPERATIONS)
    if "docker" in works and here(plan.docker):
        with serve(here(plan.docker), scratch) as registry:
            for image in here(plan.docker):
                bench.cold(image, [*all_rounds, *slow], registry)
    if "operations" in works:
        for image in here(plan.operations):
            bench.operations(image, [*like, *others], plan.operation_rounds)
    if "named" in works:
        for image in here(plan.operations):
            with serve_both(image, scratch) as registries:
                bench.named(image, like, registries, plan.operation_rounds, plan.pull_count)
    if "bursts" in works:
        for image in here(plan.bursts):
            bench.bursts(image, [*like, asked, *others], plan.counts, plan.burst_rounds)
    if "pulls" in works and here(plan.pulls):
        with serve(here(plan.pulls), scratch) as registry:
            for image in here(plan.pulls):
                pullers: list[tuple[Peer, int]] = [(peer, plan.pull_rounds) for peer in like]
                bench.pulls(image, [*pullers, *((peer, plan.pull_peer_rounds) for peer in others)], registry, plan.pull_count)
    if "growth" in works:
        for image in here(plan.growth):
            for peer in like:
                bench.growth(image, peer, plan.levels, plan.growth_rounds, floor=peer is like[0])


def check_programs(plan: Plan) -> None:
    """Exits where something that takes part is not installed."""
    packages = {"igzip": "isal", "cc": "gcc", "openssl": "openssl", "docker-registry": "docker-registry", "skopeo": "skopeo"}
    if plan.peer_rounds:
        packages |= {"buildah": "buildah", "umoci": "umoci", "ctr": "containerd"}
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}\n\nhint: apt-get install {' '.join(missing)}")


def find_images(folder: Path, scratch: Path) -> dict[str, Image]:
    """The layouts in a directory by name. Exits where there is none."""
    found = {path.name: Image(path.absolute(), scratch) for path in sorted(folder.iterdir()) if (path / "oci-layout").exists()}
    if not found:
        sys.exit(f"no OCI layouts in {folder}\n\nhint: skopeo copy docker://debian:12 oci:{folder}/debian:latest")
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--plan", choices=PLANS, default=SHORT.name, help="check: whether it works, without buildah, umoci and containerd")
    parser.add_argument("--peer", type=name_and_path, action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--only", choices=WORKS, action="append", help="only these works")
    parser.add_argument("--filesystem", choices=GROUNDS, default="init-store", help="what everybody gets")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where file systems are made (the default is TMPDIR)")
    return parser.parse_args(arguments)


def name_and_path(text: str) -> tuple[str, str]:
    """``NAME=PATH``. Raises ArgumentTypeError."""
    name, equals, path = text.partition("=")
    if not (name and equals and os.access(path, os.X_OK)):
        raise argparse.ArgumentTypeError(f"`{text}` is not NAME=PATH of a program")
    return name, str(Path(path).resolve())


if __name__ == "__main__":
    main()
