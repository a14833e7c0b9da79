"""What the built launcher consists of."""

from __future__ import annotations

from pathlib import Path

from support.command import PROGRAM


def interpreter_of(launcher: str) -> list[str]:
    """The interpreter that its first line names, and the options."""
    return launcher.splitlines()[0].removeprefix("#!").split()


def beginning() -> str:
    """What the launcher does before it loads a module."""
    text, _ = Path(PROGRAM).read_text().split("\ngc.disable()\n")
    return text
