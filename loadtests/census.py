"""What is there before a run and after everything was deleted again: the difference is a leak."""

from __future__ import annotations

import os
from pathlib import Path

from loadtests.samples import FileSystem, descendants

Census = dict[str, int]


def count(system: FileSystem, store: Path, command: str, server: int | None) -> Census:
    """``subvolumes`` (deleted but not dropped included), ``qgroups``, ``mounts`` at or below the store, ``files`` in it,
    ``processes`` with the command and the store among their arguments, those of the server not counted."""
    mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    own = descendants(server) if server is not None else []
    return {
        "subvolumes": system.count_subvolumes() + system.count_deleted(),
        "qgroups": system.count_qgroups(),
        "mounts": sum(_is_below(line.split()[4], store) for line in mounts),
        "files": sum(len(folders) + len(files) for _, folders, files in os.walk(store)),
        "processes": len(set(_processes(store, command)) - set(own)),
    }


def leaks(before: Census, after: Census) -> Census:
    """What is there more than before."""
    return {name: max(after[name] - number, 0) for name, number in before.items()}


def _is_below(point: str, store: Path) -> bool:
    return point == str(store) or point.startswith(f"{store}/")


def _processes(store: Path, command: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command.encode() in arguments and str(store).encode() in arguments:
            found.append(int(entry.name))
    return found
