"""Who hears of the progress of a pull. The library only calls a `Listener`; the silent one costs nothing."""

from __future__ import annotations

from collections.abc import Callable


class Listener:
    """Hears what happens to layers; this one does not care."""

    def fetching(self, layer: str, size: int | None, written: Callable[[], int]) -> None:
        """A download began; ``written`` gives the bytes so far, at any time, from any thread."""

    def unpacking(self, layer: str) -> None:
        """The unpacker began with the layer."""

    def unpacked(self, layer: str, content: int) -> None:
        """The layer is a volume now; ``content`` is the bytes of its files."""

    def warn(self, text: str) -> None:
        """Something is odd, and goes on all the same."""

    def close(self) -> None:
        """Nothing more will happen."""
