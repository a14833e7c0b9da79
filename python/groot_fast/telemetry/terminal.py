"""Progress of a pull on a terminal: one line a layer, bytes and rate, then how it is unpacked.

Only the command line draws, on stderr, and only when that is a terminal. No colour is used, so there is none to turn off.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from groot_fast.telemetry.progress import Listener

INTERVAL = 0.2
NAME_WIDTH = 19


class _Line:
    def __init__(self, size: int | None, written: Callable[[], int]) -> None:
        self.size = size
        self.written = written
        self.begun = time.monotonic()
        self.first = written()
        self.state = ""

    def text(self, name: str) -> str:
        if self.state:
            return f"{name:<{NAME_WIDTH}}  {self.state}"
        now = self.written()
        if now == self.size:
            return f"{name:<{NAME_WIDTH}}  {human(now)} fetched"
        rate = (now - self.first) / max(time.monotonic() - self.begun, 0.001)
        total = f" / {human(self.size)}" if self.size else ""
        return f"{name:<{NAME_WIDTH}}  {human(now)}{total}  {human(rate)}/s"


class Terminal(Listener):
    """Draws on a terminal from a thread of its own, several times a second."""

    def __init__(self, fd: int) -> None:
        import threading

        self._fd = fd
        self._lines: dict[str, _Line] = {}
        self._drawn = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def fetching(self, layer: str, size: int | None, written: Callable[[], int]) -> None:
        """See `Listener`."""
        self._set(layer, _Line(size, written))

    def unpacking(self, layer: str) -> None:
        """See `Listener`."""
        with self._lock:
            known = self._lines.get(layer)
        if known is None:
            self._set(layer, _Line(None, lambda: 0))
            self._state(layer, "unpacking")

    def unpacked(self, layer: str, content: int) -> None:
        """See `Listener`."""
        self._state(layer, f"{human(content)} unpacked")

    def warn(self, text: str) -> None:
        """See `Listener`. Before anything is drawn, so that it stays."""
        try:
            os.write(self._fd, f"warning: {text}\n".encode())
        except OSError:
            pass

    def close(self) -> None:
        """See `Listener`."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._draw()

    def _set(self, layer: str, line: _Line) -> None:
        with self._lock:
            self._lines[layer] = line
            if self._thread is None:
                import threading

                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()

    def _state(self, layer: str, state: str) -> None:
        with self._lock:
            if layer in self._lines:
                self._lines[layer].state = state

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            lines = [line.text(name[:NAME_WIDTH]) for name, line in self._lines.items()]
        # Up over what was drawn last, then each line anew, cleared to its end.
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._drawn = len(lines)
        try:
            os.write(self._fd, (up + "".join(f"\r{line}\x1b[K\n" for line in lines)).encode())
        except OSError:
            pass


def human(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
