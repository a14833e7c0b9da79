"""Progress: what is drawn and printed, and that nothing is where nobody looks."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from groot_fast.cli.commands import open_progress
from groot_fast.telemetry.display import Plain, Records, Terminal, human
from groot_fast.telemetry.progress import Listener


def test_numbers_for_people() -> None:
    shown = {0: "0 B", 999: "999 B", 1000: "1.0 KB", 1_500_000: "1.5 MB", 2_000_000_000: "2.0 GB"}
    assert {count: human(count) for count in shown} == shown


@contextmanager
def screen(columns: int, rows: int) -> Iterator[tuple[int, Callable[[], str]]]:
    """A terminal of a size, and what has been written to it."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.set_blocking(main, False)

    def written() -> str:
        data = b""
        while True:
            try:
                data += os.read(main, 1 << 16)
            except BlockingIOError:
                return data.decode().replace("\r\n", "\n")

    try:
        yield other, written
    finally:
        os.close(main)
        os.close(other)


def shown(text: str, rows: int) -> list[str]:
    """What stands on a screen after such a text. Insists that no line is lost above it, and that nothing is cleared from where the cursor
    has gone up to, which may be a whole screen, before the last line goes."""
    lines: list[str] = []
    at = 0
    for up, line, clear in re.findall(r"\r\x1b\[(\d+)A|([^\x1b\n]*)\x1b\[K\n|(\x1b\[J)", text):
        if up:
            assert int(up) < rows, "what is drawn again is still on the screen"
            at -= int(up)
            assert at >= 0
        elif clear:
            del lines[at:]
        else:
            lines[at : at + 1] = [line]
            at += 1
    assert not re.search(r"A\x1b\[J", text.removesuffix("A\x1b[J"))
    return lines


def test_a_line_a_layer_and_one_for_all() -> None:
    with screen(80, 24) as (fd, written):
        progress = Terminal(fd)
        fetched = [0]
        progress.fetching("sha256:aaaa", 2_000_000, lambda: fetched[0])
        fetched[0] = 1_000_000
        progress.fetching("sha256:bbbb", 10, lambda: 10)
        progress.unpacking("sha256:bbbb")
        progress._draw()
        text = written()
        first, second, total = shown(text, 24)
        assert first.startswith("sha256:aaaa          [####....]  1.0 MB / 2.0 MB  ") and first.count("/s") == 1
        assert second.split() == ["sha256:bbbb", "unpacking"]
        assert total.startswith("0 of 2 layers  1.0 MB / 2.0 MB  ")
        progress.unpacked("sha256:bbbb", 3000)
        progress._draw()
        last = shown(text + written(), 24)
        assert [line.split()[0] for line in last] == ["sha256:bbbb", "sha256:aaaa", "1"], "what is over stands above"
        assert last[1].endswith(" s left") and len(last[1]) < 80
        progress.close()


def test_no_number_is_cut() -> None:
    size = len("sha256:aaaa          1.0 MB / 2.0 MB")
    for columns, line in [
        (size + 1, "sha256:aaaa          1.0 MB / 2.0 MB"),
        (size, "sha256:aaaa"),
        (11, "sha256:aaa"),
        (12, "sha256:aaaa"),
    ]:
        with screen(columns, 24) as (fd, written):
            progress = Terminal(fd)
            progress.fetching("sha256:aaaa", 2_000_000, lambda: 1_000_000)
            progress._draw()
            assert shown(written(), 24)[0] == line
            progress.close()


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 10), (20, 4), (10, 2)])
def test_more_layers_than_rows(columns: int, rows: int) -> None:
    with screen(columns, rows) as (fd, written):
        progress = Terminal(fd)
        text = ""
        for number in range(30):
            progress.fetching(f"sha256:{number:064}", 1000, lambda: 500)
        for number in range(30):
            progress._draw()
            text += written()
            progress.unpacked(f"sha256:{number:064}", 1000)
        progress.close()
        text += written()
        lines = shown(text, max(rows, 3))
        assert len(lines) == 30, "each layer once, and nothing else, when all is over"
        assert all(len(line) < columns for line in lines)
        assert rows < 10 or "more layers" in text


def test_lines_for_people_and_for_programs() -> None:
    reader, writer = os.pipe()
    for progress in (Plain(writer), Records(writer)):
        progress.warn("odd")
        progress.fetching("sha256:a", 2_000_000, lambda: 0)
        progress.unpacking("sha256:a")
        progress.unpacked("sha256:a", 5)
        progress.close()
    os.close(writer)
    lines = os.read(reader, 10_000).decode().splitlines()
    os.close(reader)
    assert lines[:4] == ["warning: odd", "sha256:a: fetching 2.0 MB", "sha256:a: unpacking", "sha256:a: 5 B unpacked"]
    assert [json.loads(line) for line in lines[4:]] == [
        {"event": "warning", "text": "odd"},
        {"layer": "sha256:a", "event": "fetching", "bytes": 2_000_000},
        {"layer": "sha256:a", "event": "unpacking", "bytes": None},
        {"layer": "sha256:a", "event": "unpacked", "bytes": 5},
    ]


def test_silent_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = os.dup(2)
    terminal, other = pty.openpty()
    try:
        os.dup2(other, 2)
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(open_progress("auto"), Terminal)
        assert type(open_progress("none")) is Listener
        monkeypatch.setenv("TERM", "dumb")
        assert type(open_progress("auto")) is Listener
        assert isinstance(open_progress("plain"), Plain)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        monkeypatch.setenv("TERM", "xterm")
        assert type(open_progress("auto")) is Listener
        assert isinstance(open_progress("json"), Records)
    finally:
        os.dup2(kept, 2)
        for fd in (kept, terminal, other):
            os.close(fd)
