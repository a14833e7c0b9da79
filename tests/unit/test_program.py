"""The command as a process: what its caller left it, and what it leaves its caller."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from support.command import COMMAND

NATIVE, PYTHON = ["capacity"], ["--store", "/no/such/store", "check"]
"""A command that the program does itself, and one that it leaves to Python."""


def run(
    *argv: str, stdout: IO[str] | int = subprocess.PIPE, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *argv], text=True, stdout=stdout, stderr=subprocess.PIPE, cwd=cwd, env=env)


@pytest.mark.parametrize("argv", [NATIVE, PYTHON, ["--help"], ["--nope"]], ids=" ".join)
def test_full_or_closed_stdout_is_one_line(argv: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*argv, stdout=full)
    assert (done.returncode, done.stderr) == (1, "standard output: no space left on device\n")
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", COMMAND, *argv], text=True, stderr=subprocess.PIPE)
    assert (closed.returncode, closed.stderr) == (1, "standard output: bad file descriptor\n")


@pytest.mark.parametrize("argv", [NATIVE, PYTHON], ids=" ".join)
def test_reader_that_went_away(argv: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(*argv, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_nothing_is_imported_from_the_callers_directory(tmp_path: Path) -> None:
    for name in ("groot_fast.py", "os.py", "site.py", "json.py", "sitecustomize.py"):
        (tmp_path / name).write_text("import posix\nposix.write(2, b'taken over')\nposix._exit(99)\n")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "os.py")}
    done = run(*PYTHON, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("Store path is not initialized. Please run init-store.\n\nhint: as root: `grootfs --store ")


def test_installation_below_a_relative_directory(tmp_path: Path) -> None:
    """Started by a relative path from the directory of somebody else, it runs what stands beside itself."""
    (tmp_path / "bin").mkdir()
    shutil.copy(COMMAND, tmp_path / "bin" / "grootfs")
    (tmp_path / "lib" / "groot_fast").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    argv = ["../bin/grootfs", *PYTHON]
    missing = subprocess.run(argv, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    interpreter = tmp_path / "lib/groot_fast/venv/bin/python3"
    assert missing.returncode == 1 and missing.stderr == ""
    assert missing.stdout == (
        f"cannot run {interpreter}: no such file or directory\n\nhint: install groot_fast again, with its directory lib/groot_fast\n"
    )
    (tmp_path / "lib/groot_fast/venv").symlink_to(Path(sys.prefix))
    there = subprocess.run(argv, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert there.returncode == 1 and there.stdout.startswith("Store path is not initialized. Please run init-store.\n")


def test_python_is_the_same_program() -> None:
    for argv in (["--help"], ["--nope"], NATIVE, PYTHON, ["bogus"], ["completion", "bash"], ["completion"]):
        here, there = run(*argv), subprocess.run([sys.executable, "-I", "-m", "groot_fast", *argv], capture_output=True, text=True)
        assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr), argv


@contextlib.contextmanager
def waiting(tmp_path: Path, *argv: str, ignoring: str = "") -> Iterator[Path]:
    """A command that has read its arguments and waits for the reader of its log; gives its directory below /proc."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    script = f"trap '' {ignoring}; exec \"$@\"" if ignoring else 'exec "$@"'
    command = ["sh", "-c", script, "sh", COMMAND, "--log-file", str(fifo), *argv]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    directory = Path(f"/proc/{process.pid}")
    try:
        for _ in range(500):
            if (directory / "stat").read_text().split()[1:3] == ["(grootfs)", "S"]:
                break
            time.sleep(0.01)
        yield directory
    finally:
        process.kill()
        process.wait()


def test_the_child_signal_is_reset(tmp_path: Path) -> None:
    """Ignored by the parent, it would be ignored by the program, whose helpers would then never be seen to fail."""
    with waiting(tmp_path, "list", ignoring="CHLD HUP") as directory:
        (ignored,) = [line.split()[1] for line in (directory / "status").read_text().splitlines() if line.startswith("SigIgn:")]
    assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1 == 1
    assert int(ignored, 16) >> (signal.SIGCHLD - 1) & 1 == 0
    code = "import signal, groot_fast.cli.main as cli; cli.os._exit = lambda code: print(int(signal.getsignal(signal.SIGCHLD))); cli.run()"
    argv = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", sys.executable, "-I", "-c", code, "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(int(signal.SIG_DFL)), done


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_what_the_caller_ignores_stays_ignored(ignored: signal.Signals) -> None:
    code = (
        "import signal, groot_fast.cli.main as cli; cli.main(['--version']); "
        "print(*[number.name for number in cli.SIGNALS if signal.getsignal(number) is signal.SIG_IGN])"
    )
    argv = ["sh", "-c", f"trap '' {ignored.name.removeprefix('SIG')}; exec \"$@\"", "sh", sys.executable, "-I", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ignored.name


def test_a_hangup_stops_as_a_termination_does() -> None:
    for number in (signal.SIGHUP, signal.SIGTERM):
        code = (
            "import os, signal, groot_fast.cli.commands as commands, groot_fast.cli.main as cli, groot_fast.interrupts as interrupts\n"
            "def stop(request):\n"
            f"    os.kill(os.getpid(), {int(number)})\n"
            "    with interrupts.Waiting(): pass\n"
            "    return 'too late'\n"
            "commands.COMMANDS['delete'] = stop\n"
            "cli.run()\n"
        )
        done = subprocess.run([sys.executable, "-I", "-c", code, "delete", "x"], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (130, f"stopped by signal {int(number)}\n", "")


@pytest.mark.parametrize("place", ["before the command is at work", "where it waits"])
def test_a_signal_is_not_lost_where_exceptions_are_dropped(place: str) -> None:
    """The import system has such places: callbacks of weak references."""
    lose = "class Loses:\n    def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\n"
    code = (
        "import os, signal, groot_fast.cli.commands as commands, groot_fast.cli.main as cli, groot_fast.interrupts as interrupts\n"
        f"{lose}"
        "begin = cli.open_traces\n"
        "def early(log):\n"
        f"    {'Loses()' if place.startswith('before') else 'pass'}\n"
        "    return begin(log)\n"
        "cli.open_traces = early\n"
        "def stop(request):\n"
        "    with interrupts.Waiting():\n"
        f"        {'pass' if place.startswith('before') else 'Loses()'}\n"
        "    return 'too late'\n"
        "commands.COMMANDS['delete'] = stop\n"
        "cli.run()\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, "delete", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_defect_is_one_line_and_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import groot_fast.cli.commands as commands, groot_fast.cli.main as cli\n"
        "def fail(request): raise ZeroDivisionError('one\\ntwo')\n"
        "commands.COMMANDS['delete'] = fail\n"
        "cli.run()\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, "--log-file", str(log), "delete", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "internal error: ZeroDivisionError: one two\n", "")
    assert "in fail" in log.read_text() and "grootfs.delete.failed" in log.read_text()


def test_a_password_does_not_show_in_the_process_list(tmp_path: Path) -> None:
    with waiting(tmp_path, "create", "--password", "hidden-word", "a", "b") as directory:
        assert (directory / "cmdline").read_bytes().endswith(b"\0create\0--password\0xxxxxxxxxxx\0a\0b\0")


@pytest.mark.parametrize("word", ["word", "password", "ss", "a", "--password"])
def test_only_the_value_is_overwritten(tmp_path: Path, word: str) -> None:
    """A short password stands in the option's name too."""
    with waiting(tmp_path, "create", f"--password={word}", "password", "a") as directory:
        assert (directory / "cmdline").read_bytes().endswith(f"\0create\0--password={'x' * len(word)}\0password\0a\0".encode())


def test_python_gets_the_password_by_another_way_than_its_arguments(tmp_path: Path) -> None:
    """From its first moment on the interpreter's process does not show it, and nothing that it starts is given it."""
    stub = tmp_path / "lib" / "groot_fast" / "venv" / "bin" / "python3"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\ntr "\\0" " " </proc/$$/cmdline; echo; echo "$_GROOTFS_PASSWORD"\n')
    stub.chmod(0o755)
    (tmp_path / "bin").mkdir()
    shutil.copy(COMMAND, tmp_path / "bin" / "grootfs")
    argv = [tmp_path / "bin/grootfs", "create", "--password", "hidden-word", "docker://x/y", "b"]
    done = subprocess.run(argv, capture_output=True, text=True, env={"_GROOTFS_PASSWORD": "of the caller's"})
    arguments, password = done.stdout.splitlines()
    assert arguments.endswith(" create --password xxxxxxxxxxx docker://x/y b ") and password == "hidden-word"
    without = subprocess.run([argv[0], "check"], capture_output=True, text=True, env={"_GROOTFS_PASSWORD": "of the caller's"})
    assert without.stdout.splitlines()[1] == ""
