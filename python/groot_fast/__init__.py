"""Root file systems for containers on BTRFS: a drop-in for GrootFS.

The command line is the main door (`groot_fast.cli.main`). From Python, `Groot` has the same operations; importing this
package loads nothing else until a name is used, so that the command starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from groot_fast.config import Settings as Settings
    from groot_fast.config import load as load_settings
    from groot_fast.groot import Created as Created
    from groot_fast.groot import Groot as Groot

__all__ = ["Created", "Groot", "Settings", "__version__", "load_settings"]

_HOMES = {"Groot": "groot", "Created": "groot", "Settings": "config", "load_settings": "config"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), "load" if name == "load_settings" else name)
