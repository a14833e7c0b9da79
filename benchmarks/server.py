"""The server door against the command by itself: parallel callers, and one warm create against the bare snapshot.

python3 benchmarks/server.py LAYOUT [--rounds N] [--callers N] [--creates N] [--limit BYTES]

Both doors work on one store, in turns. `xargs -P` starts the callers, so that what starts them is native. Between two
measurements everything is deleted and the kernel has dropped it, so that no side pays for the other's garbage.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = os.environ.get("GROOTFS_BIN") or str(REPOSITORY / "build" / "bin" / "grootfs")


def run(*argv: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    words = [str(argument) for argument in argv]
    done: subprocess.CompletedProcess[bytes] = subprocess.run(words, check=True, capture_output=True, **options)  # type: ignore[call-overload]
    return done


class Bench:
    def __init__(self, directory: Path, image: str, limit: int) -> None:
        self.store = directory / "store"
        self.socket = directory / "socket"
        self.image = image
        self.limit = limit
        self.alone = [COMMAND, "--store", str(self.store)]
        self.served = [COMMAND, "--socket", str(self.socket), "--store", str(self.store)]
        run(*self.alone, "init-store", "--store-size-bytes", 16 << 30)
        run(*self.alone, "create", image, "warm")
        uuid = run("findmnt", "-no", "UUID", self.store).stdout.decode().strip()
        self.commit_stats = Path(f"/sys/fs/btrfs/{uuid}/commit_stats")

    def commits(self) -> int:
        return int(self.commit_stats.read_text().split()[1])

    def settle(self) -> None:
        """Delete all images but the first, and wait until the kernel has dropped them."""
        names = [name for name in os.listdir(self.store / "images") if name != "warm"]
        if names:
            run("xargs", "-P8", "-n1", *self.served, "delete", input="\n".join(names).encode())
        while run("btrfs", "subvolume", "list", "-d", self.store).stdout.strip():
            run("btrfs", "filesystem", "sync", self.store)
            time.sleep(0.05)
        run("btrfs", "filesystem", "sync", self.store)

    def parallel(self, door: list[str], callers: int, creates: int) -> tuple[float, float, int]:
        """(creates a second, commits a create, failures)."""
        ids = "\n".join(f"c{number}" for number in range(creates))
        before = self.commits()
        begun = time.monotonic()
        create = ["create", "--disk-limit-size-bytes", str(self.limit), self.image]
        done = subprocess.run(["xargs", f"-P{callers}", "-n1", *door, *create], input=ids.encode(), capture_output=True, check=False)
        seconds = time.monotonic() - begun
        failed = creates - (len(os.listdir(self.store / "images")) - 1) + (done.returncode != 0)
        return creates / seconds, (self.commits() - before) / creates, failed

    def one(self, argv: list[str]) -> float:
        """Milliseconds of one process."""
        begun = time.monotonic()
        process = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
        _, status = os.waitpid(process, 0)
        assert status == 0, argv
        return (time.monotonic() - begun) * 1000


SNAPSHOT = """
#include <fcntl.h>
#include <sys/ioctl.h>
#include <linux/btrfs.h>
#include <string.h>
int main(int n, char **v) {
    struct btrfs_ioctl_vol_args_v2 args = {.fd = open(v[1], O_RDONLY)};
    strncpy(args.name, v[3], BTRFS_SUBVOL_NAME_MAX);
    return ioctl(open(v[2], O_RDONLY), BTRFS_IOC_SNAP_CREATE_V2, &args) != 0;
}
"""


def compile_snapshot(directory: Path) -> str:
    """The floor: one snapshot ioctl in a fresh native process."""
    source, binary = directory / "snapshot.c", directory / "snapshot"
    source.write_text(SNAPSHOT)
    run("cc", "-O2", "-o", binary, source)
    return str(binary)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("layout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--creates", type=int, default=256)
    parser.add_argument("--singles", type=int, default=40)
    parser.add_argument("--limit", type=int, default=1 << 30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bench = Bench(directory, f"oci://{Path(options.layout).resolve()}", options.limit)
        server = subprocess.Popen([*bench.served, "serve"])
        try:
            while not bench.socket.exists():
                time.sleep(0.01)
            print(json.dumps(measure(bench, directory, options), indent=2))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
            run(*bench.alone, "delete-store")


def measure(bench: Bench, directory: Path, options: argparse.Namespace) -> dict[str, object]:
    floor = compile_snapshot(directory)
    volume = next(path for path in (bench.store / "volumes").iterdir())
    spot = bench.store / "tmp"
    singles: dict[str, list[float]] = {"snapshot": [], "served": [], "alone": []}
    create = ["create", "--disk-limit-size-bytes", str(options.limit), bench.image]
    sides: dict[str, Callable[[int], list[str]]] = {
        "snapshot": lambda number: [floor, str(volume), str(spot / f"d{number}"), "s"],
        "served": lambda number: [*bench.served, *create, f"s{number}"],
        "alone": lambda number: [*bench.alone, *create, f"a{number}"],
    }
    for number in range(options.singles):
        (spot / f"d{number}").mkdir()
        for side, argv in sides.items():
            singles[side].append(bench.one(argv(number)))
    for number in range(options.singles):
        run("btrfs", "subvolume", "delete", spot / f"d{number}" / "s")
        (spot / f"d{number}").rmdir()
    rates: dict[str, list[float]] = {"served": [], "alone": []}
    commits: dict[str, list[float]] = {"served": [], "alone": []}
    failures = 0
    for _ in range(options.rounds):
        for side, door in (("served", bench.served), ("alone", bench.alone)):
            bench.settle()
            rate, shared, failed = bench.parallel(door, options.callers, options.creates)
            rates[side].append(rate)
            commits[side].append(shared)
            failures += failed
            print(f"{side}: {rate:.0f}/s, {shared:.3f} commits a create, {failed} failed", file=sys.stderr)
    medians = {side: statistics.median(values) for side, values in singles.items()}
    return {
        "one_ms": {side: round(value, 2) for side, value in medians.items()},
        "one_served_to_snapshot": round(medians["served"] / medians["snapshot"], 2),
        "parallel_per_second": {side: round(statistics.median(values)) for side, values in rates.items()},
        "parallel_ratio": round(
            statistics.median(served / alone for served, alone in zip(rates["served"], rates["alone"], strict=True)), 2
        ),
        "commits_per_create": {side: round(statistics.median(values), 3) for side, values in commits.items()},
        "failed": failures,
    }


if __name__ == "__main__":
    main()
