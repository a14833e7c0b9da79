"""Root file systems for containers on BTRFS: a drop-in for GrootFS.

The command line is `groot_fast.cli.main`. From Python, `Groot` has the same operations (``docs/library.md``); everything that it
raises on purpose is a `GrootError` of `groot_fast.errors`.

Importing this package loads nothing else until a name is used: the helpers of ordinary users, which every process of Python starts
from here, need a fifth of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from groot_fast.config import Settings as Settings
    from groot_fast.config import load as load_settings
    from groot_fast.errors import GrootError as GrootError
    from groot_fast.groot import Created as Created
    from groot_fast.groot import Groot as Groot
    from groot_fast.groot import ImageUsage as ImageUsage
    from groot_fast.telemetry.lager import Logger as Logger
    from groot_fast.telemetry.lager import open_sink as open_sink

__all__ = ["Created", "Groot", "GrootError", "ImageUsage", "Logger", "Settings", "__version__", "load_settings", "open_sink"]

_HOMES = {
    "Created": ("groot", "Created"),
    "Groot": ("groot", "Groot"),
    "GrootError": ("errors", "GrootError"),
    "ImageUsage": ("groot", "ImageUsage"),
    "Logger": ("telemetry.lager", "Logger"),
    "Settings": ("config", "Settings"),
    "load_settings": ("config", "load"),
    "open_sink": ("telemetry.lager", "open_sink"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
