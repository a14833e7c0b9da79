"""Where this program is installed: ``<prefix>/lib/groot_fast/venv``, beside ``<prefix>/bin/grootfs`` that starts it."""

from __future__ import annotations

import os
import shutil
import sys

_HOME = "/lib/groot_fast/venv"


def command() -> str:
    """The installed command that this program belongs to; empty if it belongs to none."""
    return f"{sys.prefix.removesuffix(_HOME)}/bin/grootfs" if sys.prefix.endswith(_HOME) else ""


def find_tool(name: str, directory: str = "") -> str | None:
    """A program of the system: in ``directory``, or on the search path, or the one that a package brings with it."""
    if directory:
        return shutil.which(os.path.join(directory, name))
    return shutil.which(name) or shutil.which(os.path.join(sys.prefix, "..", "sbin", name))
