"""Progress: what is drawn, and that nothing is where nobody looks."""

from __future__ import annotations

import os
import pty

from groot_fast.cli.commands import open_progress
from groot_fast.telemetry.progress import Listener
from groot_fast.telemetry.terminal import Terminal, human


def test_numbers_for_people() -> None:
    shown = {0: "0 B", 999: "999 B", 1000: "1.0 KB", 1_500_000: "1.5 MB", 2_000_000_000: "2.0 GB"}
    assert {count: human(count) for count in shown} == shown


def test_one_line_a_layer() -> None:
    reader, writer = os.pipe()
    progress = Terminal(writer)
    progress.fetching("sha256:aaaa", 2_000_000, lambda: 1_000_000)
    progress.fetching("sha256:bbbb", 10, lambda: 10)
    progress.unpacked("sha256:bbbb", 3000)
    progress.close()
    os.close(writer)
    last = os.read(reader, 10_000).decode().split("\x1b[2A")[-1]
    os.close(reader)
    lines = [line.strip() for line in last.replace("\x1b[K", "").split("\n")]
    assert lines[0].startswith("sha256:aaaa") and "1.0 MB / 2.0 MB" in lines[0] and lines[0].endswith("/s")
    assert lines[1].split() == ["sha256:bbbb", "3.0", "KB", "unpacked"]


def test_silent_where_stderr_is_no_terminal() -> None:
    kept = os.dup(2)
    terminal, other = pty.openpty()
    try:
        os.dup2(other, 2)
        assert isinstance(open_progress(), Terminal)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        assert type(open_progress()) is Listener
    finally:
        os.dup2(kept, 2)
        for fd in (kept, terminal, other):
            os.close(fd)
