"""What the built launcher consists of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.command import PROGRAM

NEEDS_OLDER_PYTHON = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="runs the start library with -c, for which Python 3.13 imports linecache; both are about to be replaced",
)


def interpreter_of(launcher: str) -> list[str]:
    """The interpreter that its first line names, and the options."""
    return launcher.splitlines()[0].removeprefix("#!").split()


def beginning() -> str:
    """What the launcher does before it loads a module."""
    text, _ = Path(PROGRAM).read_text().split("\ngc.disable()\n")
    return text
