"""How volumes and images are kept on disk. One driver today: `btrfs`.

`Driver` is what a second one (overlay) would have to be.
"""

from __future__ import annotations

from groot_fast.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from groot_fast.config import Settings
    from groot_fast.idmap.operations import Operations

    class Driver(Protocol):
        """Operations on the trees of a store. All paths are absolute. They raise OSError and `QuotaError`."""

        operations: Operations

        def is_compatible(self, path: str) -> bool:
            """Whether the file system at ``path`` can hold a store. Raises OSError where it cannot be asked."""

        def make_volume(self, path: str, parent: str | None) -> None:
            """A writable directory with the parent's content, or an empty one."""

        def is_volume(self, path: str) -> bool:
            """Whether there is a finished tree at ``path``. Raises OSError where the disk cannot be read."""

        def make_image(self, volume: str, path: str, limit: Limit | None) -> None:
            """A writable copy of ``volume`` at ``path`` under a limit, durable when this returns."""

        def destroy(self, path: str) -> list[int]:
            """Remove a volume or an image's tree, with whatever was made inside. Missing is fine. Gives what `reclaim` takes."""

        def reclaim(self, path: str, ids: list[int], deadline: float) -> None:
            """Wait, at most ``deadline`` seconds, until the space of destroyed trees can be used again."""

        def settle(self, path: str) -> None:
            """Bring the counters of the store at ``path`` up to date."""

        def usage(self, path: str, image_size: int, uncounted: int) -> tuple[int, int]:
            """(all bytes of the image, bytes of its own) as counted last; ``image_size`` is what its volume holds,
            ``uncounted`` what was its own before the counting began."""

        def limit(self, path: str) -> int | None:
            """The limit of an image's tree as the kernel has it."""

        def restrict(self, path: str, left: int) -> None:
            """Let an image's tree that is there already grow by ``left`` bytes and no more (simple accounting)."""

        def accounting(self, path: str) -> str | None:
            """How the file system at ``path`` counts, None where it does not."""


class Limit:
    """A disk limit in bytes; ``exclusive`` leaves the image's own size out, else ``image_size`` counts too."""

    __slots__ = ("exclusive", "image_size", "size")

    def __init__(self, size: int, *, exclusive: bool, image_size: int) -> None:
        self.size = size
        self.exclusive = exclusive
        self.image_size = image_size


def check_driver(name: str) -> None:
    """Refuse a driver that there is none of. Raises StoreError with the original's text."""
    if name != "btrfs":
        hint = "this build keeps images on BTRFS; use `--driver btrfs`" if name == "overlay-xfs" else None
        raise StoreError(f"filesystem driver not supported: {name}", hint=hint)


def open_driver(settings: Settings, operations: Operations) -> Driver:
    """The driver of the settings. Raises StoreError."""
    check_driver(settings.driver)
    from groot_fast.drivers.btrfs import Btrfs

    return Btrfs(operations, settings.drax_bin)
