"""The tutorial, command by command, with what it says that they print."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from support.command import COMMAND, REPOSITORY

PAGE = REPOSITORY / "docs" / "tutorial.md"


def steps(text: str) -> list[tuple[str, str]]:
    """Each command of the console blocks, and what is printed after it."""
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)
    found: list[tuple[str, str]] = []
    for line in "".join(blocks).splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].rstrip("\n"), ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def test_the_page_is_true(scratch: Path) -> None:
    # A store of its own place, and a container of its own name, for whoever runs this twice.
    text = PAGE.read_text().replace("/var/lib/demo", f"{scratch}/demo").replace("groot-demo", f"groot-demo-{os.getpid()}")
    (scratch / "bin").mkdir()
    (scratch / "bin" / "grootfs").symlink_to(COMMAND)
    environment = {"PATH": f"{scratch}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    commands = steps(text)
    assert len(commands) > 20
    for command, expected in commands:
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            environment[name] = value
            continue
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, cwd="/", timeout=60)
        assert done.returncode == 0, (command, done)
        pattern = ".*".join(map(re.escape, expected.split("...")))
        assert re.fullmatch(pattern, done.stdout + done.stderr, re.S), (command, expected, done)
