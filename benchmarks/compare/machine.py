"""Where it was measured, and with which versions."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("buildah", "umoci", "containerd", "isal", "tar", "docker-registry", "btrfs-progs", "openssl")


def describe() -> dict[str, object]:
    """Processor, cores, memory, kernel, and the load average as of now."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(": ")[2] for line in cpuinfo.splitlines() if line.startswith("model name")), platform.machine())
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_mebibytes": int(memory.split()[1]) // 1024,
        "kernel": platform.release(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions(repository: Path) -> dict[str, str]:
    """Of ours (commit), of the interpreter and of Debian's packages."""
    git = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--exclude", "*"]
    found = {"groot_fast": _first_line(git), "python": platform.python_version()}
    for package in PACKAGES:
        found[package] = _first_line(["dpkg-query", "--show", "--showformat", "${Version}", package])
    return found


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.partition("\n")[0] or "unknown"
