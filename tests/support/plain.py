"""A driver without BTRFS, for tests of what goes on around volumes."""

from __future__ import annotations

import os
from typing import Any


class PlainDriver:
    """Volumes and trees are ordinary directories."""

    operations: Any = None

    def is_volume(self, path: str) -> bool:
        return os.path.isdir(path)

    def destroy(self, path: str) -> list[int]:
        os.rmdir(path)
        return []
