"""Progress of a create, as the command line shows it on stderr: drawn on a terminal, or as lines for people or programs.

No colour is used, so there is none to turn off.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from groot_fast._core import format_json
from groot_fast.telemetry.progress import Listener

INTERVAL = 0.2
NAME_WIDTH = 19
BARS = range(6, 21)
"""How wide bars may be."""
BESIDE_BAR = 72
"""Columns for what stands beside them."""


class _Layer:
    """One layer: how far its download is, and what became of it."""

    def __init__(self, name: str, size: int | None, written: Callable[[], int]) -> None:
        self.name = name
        self.size = size
        self.written = written
        self.begun = time.monotonic()
        self.first = written()
        self.state = ""
        self.is_over = False
        self.is_printed = False

    @property
    def rate(self) -> float:
        """Bytes a second since the download began."""
        return (self.written() - self.first) / max(time.monotonic() - self.begun, 0.001)

    def text(self, columns: int) -> str:
        """One line."""
        name = f"{self.name[:NAME_WIDTH]:<{NAME_WIDTH}}"
        if self.state:
            return f"{name}  {self.state}"
        now = self.written()
        if now == self.size:
            return f"{name}  {human(now)} fetched"
        text = f"{human(now)} / {human(self.size)}  {human(self.rate)}/s" if self.size else f"{human(now)}  {human(self.rate)}/s"
        if not self.size:
            return f"{name}  {text}"
        if self.rate > 0:
            text += f"  {_duration((self.size - now) / self.rate)} left"
        width = min(columns - BESIDE_BAR, BARS[-1])
        return f"{name}  {_bar(now / self.size, width)}  {text}" if width in BARS else f"{name}  {text}"


class _Writer(Listener):
    """Writes to a descriptor, whether or not anybody looks."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def _write(self, text: str) -> None:
        try:
            os.write(self._fd, text.encode())
        except OSError:
            pass  # nobody looks

    def warn(self, text: str) -> None:
        """See `Listener`. Before anything is drawn, so that it stays."""
        self._write(f"warning: {text}\n")


class Terminal(_Writer):
    """Draws from a thread of its own, several times a second: what is over scrolls away as a line, below it a line for each layer that
    is at work, as far as there are rows, and one for all of them."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._layers: dict[str, _Layer] = {}
        self._lock = threading.Lock()
        self._drawn = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def fetching(self, layer: str, size: int | None, written: Callable[[], int]) -> None:
        """See `Listener`."""
        with self._lock:
            self._layers[layer] = _Layer(layer, size, written)
        self._begin()

    def unpacking(self, layer: str) -> None:
        """See `Listener`."""
        with self._lock:
            known = self._layers.setdefault(layer, _Layer(layer, None, lambda: 0))
            # one that is still fetched shows that
            if known.size is None or known.written() == known.size:
                known.state = "unpacking"
        self._begin()

    def unpacked(self, layer: str, content: int) -> None:
        """See `Listener`."""
        with self._lock:
            if layer in self._layers:
                self._layers[layer].state = f"{human(content)} unpacked"
                self._layers[layer].is_over = True

    def close(self) -> None:
        """See `Listener`."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._draw(last=True)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            self._draw()

    def _draw(self, *, last: bool = False) -> None:
        columns, rows = self._size()
        with self._lock:
            over = [layer for layer in self._layers.values() if layer.is_over]
            active = [layer for layer in self._layers.values() if not layer.is_over]
            # What is over is printed once, and no more drawn.
            gone = [layer.text(columns) for layer in over if not layer.is_printed]
            for layer in over:
                layer.is_printed = True
            lines = [layer.text(columns) for layer in active]
            total = self._total(over, active)
        room = max(rows - 2, 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"... and {len(lines) - room + 1} more layers"]
        if not last:
            lines.append(total)
        # Up over what was drawn last; each line goes as it is written over, and only then what is left below. To clear a screen from its
        # first cell makes tmux keep it as history, at every turn.
        up = f"\r\x1b[{self._drawn}A" if self._drawn else ""
        self._drawn = len(lines)
        self._write(up + "".join(f"{_clip(line, columns)}\x1b[K\n" for line in [*gone, *lines]) + "\x1b[J")

    def _total(self, over: list[_Layer], active: list[_Layer]) -> str:
        fetched = [layer for layer in (*over, *active) if layer.size]
        now, whole = sum(min(layer.written(), layer.size or 0) for layer in fetched), sum(layer.size or 0 for layer in fetched)
        text = f"{len(over)} of {len(over) + len(active)} layers"
        if now < whole:
            text += f"  {human(now)} / {human(whole)}  {human(sum(layer.rate for layer in active if layer.size))}/s"
        return text

    def _size(self) -> tuple[int, int]:
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:
            columns, rows = 0, 0
        return columns or 80, rows or 24


class Plain(_Writer):
    """A line for each thing that happens to a layer."""

    def fetching(self, layer: str, size: int | None, written: Callable[[], int]) -> None:
        """See `Listener`."""
        self._write(f"{layer}: fetching" + (f" {human(size)}\n" if size else "\n"))

    def unpacking(self, layer: str) -> None:
        """See `Listener`."""
        self._write(f"{layer}: unpacking\n")

    def unpacked(self, layer: str, content: int) -> None:
        """See `Listener`."""
        self._write(f"{layer}: {human(content)} unpacked\n")


class Records(_Writer):
    """The same as objects of JSON, one a line: ``layer``, ``event`` (fetching, unpacking, unpacked, warning), ``bytes``."""

    def fetching(self, layer: str, size: int | None, written: Callable[[], int]) -> None:
        """See `Listener`."""
        self._record({"layer": layer, "event": "fetching", "bytes": size})

    def unpacking(self, layer: str) -> None:
        """See `Listener`."""
        self._record({"layer": layer, "event": "unpacking", "bytes": None})

    def unpacked(self, layer: str, content: int) -> None:
        """See `Listener`."""
        self._record({"layer": layer, "event": "unpacked", "bytes": content})

    def warn(self, text: str) -> None:
        """See `Listener`."""
        self._record({"event": "warning", "text": text})

    def _record(self, document: dict[str, object]) -> None:
        self._write(format_json(document) + "\n")


def _clip(line: str, columns: int) -> str:
    """What fits into less than so many columns, without half a number: fields have two blanks between them."""
    if len(line) < columns:
        return line
    return line[: columns + 1].rpartition("  ")[0].rstrip() or line[: columns - 1]


def _bar(part: float, width: int) -> str:
    full = min(int(part * width), width)
    return f"[{'#' * full}{'.' * (width - full)}]"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def human(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
