"""The launcher: one file of byte code for the interpreter that made it, the modules themselves for any other."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.command import PROGRAM

LOADERS = 'print(*(type(sys.modules[f"groot_fast.{name}"].__spec__.loader).__name__ for name in ("cli.main", "_core")))'


def loaders(launcher: str) -> list[str]:
    """Who loaded a module of Python and the extension module, asked in place of running a command."""
    first, *_ = launcher.splitlines()
    interpreter, flag = first.removeprefix("#!").split()
    code = launcher.removesuffix("run()\n") + LOADERS
    return subprocess.run([interpreter, flag, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_modules_come_from_the_bundle() -> None:
    assert loaders(Path(PROGRAM).read_text()) == ["Bundle", "ExtensionFileLoader"]


def test_another_interpreters_bundle_is_left_alone(tmp_path: Path) -> None:
    bundle = f"{PROGRAM}.bundle"
    other = tmp_path / "bundle"
    other.write_bytes(b"\0" + Path(bundle).read_bytes()[1:])
    launcher = Path(PROGRAM).read_text()
    assert bundle in launcher
    assert loaders(launcher.replace(bundle, str(other))) == ["SourceFileLoader", "ExtensionFileLoader"]
