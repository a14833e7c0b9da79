"""Cold pulls: over the network against from disk, many at once against one.

    pull.py LAYOUT [--rounds 5] [--parallel 16] [--json FILE]

LAYOUT is an OCI layout directory (tag ``latest``). Each round makes the same image three times from nothing: from the layout,
from a registry on loopback, and by N processes at once from that registry. Medians and ratios are printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = os.environ.get("GROOTFS_BIN") or str(Path(__file__).resolve().parents[1] / "build" / "bin" / "grootfs")
STORE_BYTES = 20_000_000_000


class Run:
    """Seconds of wall clock and the largest peak memory (KiB) of the processes of one run."""

    def __init__(self, seconds: float, peak: int) -> None:
        self.seconds = seconds
        self.peak = peak


class Store:
    """A store on a loop device below a scratch directory."""

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / "store"
        self.command("init-store", "--store-size-bytes", str(STORE_BYTES))

    def command(self, *args: str) -> None:
        """Run the command and insist on success."""
        subprocess.run([COMMAND, "--store", str(self.path), *args], check=True, stdout=subprocess.DEVNULL)

    def create(self, image: str, count: int, *flags: str) -> Run:
        """Make ``count`` images at once and time it; then take everything away again."""
        argv = [COMMAND, "--store", str(self.path), "create", *flags, image]
        start = time.monotonic()
        running = [subprocess.Popen([*argv, f"image-{i}"], stdout=subprocess.DEVNULL) for i in range(count)]
        peak = 0
        for process in running:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(f"{argv} ended with {process.returncode}")
            peak = max(peak, usage.ru_maxrss)
        seconds = time.monotonic() - start
        for i in range(count):
            self.command("delete", f"image-{i}")
        self.command("clean")
        return Run(seconds, peak)


@contextmanager
def serve(layout: Path, scratch: Path) -> Iterator[str]:
    """A registry on loopback that holds the layout's image; gives host:port."""
    binary = shutil.which("docker-registry") or sys.exit("docker-registry was not found")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(scratch / "registry")}},
        "http": {"addr": address},
    }
    (scratch / "registry.yml").write_text(json.dumps(config))
    process = subprocess.Popen([binary, "serve", scratch / "registry.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        push = ["skopeo", "--insecure-policy", "copy", "-q", "--format", "oci", "--retry-times", "5", "--dest-tls-verify=false"]
        subprocess.run([*push, f"oci:{layout}:latest", f"docker://{address}/image:latest"], check=True)
        yield address
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = ("oci", "docker", f"docker x {options.parallel}")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="groot-bench-") as folder:
        scratch = Path(folder)
        store = Store(scratch)
        try:
            with serve(options.layout.resolve(), scratch) as address:
                trust = ("--insecure-registry", address)
                registry = f"docker://{address}/image"
                for number in range(options.rounds):
                    runs[names[0]].append(store.create(f"oci://{options.layout.resolve()}:latest", 1))
                    runs[names[1]].append(store.create(registry, 1, *trust))
                    runs[names[2]].append(store.create(registry, options.parallel, *trust))
                    print(f"round {number + 1}:", *(f"{name} {runs[name][-1].seconds:.2f} s" for name in names), flush=True)
        finally:
            store.command("delete-store")
    report(options.layout.name, runs, options.json)


def report(image: str, runs: dict[str, list[Run]], file: Path | None) -> None:
    """Print medians and ratios of neighbours, and write them down if asked."""
    names = list(runs)
    medians = {name: statistics.median(run.seconds for run in runs[name]) for name in names}
    peaks = {name: max(run.peak for run in runs[name]) // 1024 for name in names}
    ratios = {
        f"{later} / {earlier}": statistics.median(b.seconds / a.seconds for a, b in zip(runs[earlier], runs[later], strict=True))
        for earlier, later in itertools.pairwise(names)
    }
    print(f"\n| {image} | median s | peak MiB a process |\n| --- | --- | --- |")
    for name in names:
        print(f"| {name} | {medians[name]:.2f} | {peaks[name]} |")
    print("\n| ratio | median of rounds |\n| --- | --- |")
    for name, ratio in ratios.items():
        print(f"| {name} | {ratio:.2f} |")
    if file is not None:
        machine = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
        result = {"image": image, "machine": machine, "median_seconds": medians, "peak_mebibytes": peaks, "ratios": ratios}
        result["seconds"] = {name: [run.seconds for run in runs[name]] for name in names}
        file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
