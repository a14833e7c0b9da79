"""Start a command and wait for it, without holding up the other users of a locust process.

`gevent.subprocess` forks the whole interpreter in Python code, which at 32 commands at once would measure itself. Here
the child is spawned by the C library, its end is awaited on a process descriptor, and what it prints goes to memory.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import gevent
from gevent.socket import wait_read

DEADLINE = 120.0
"""Seconds after which a command counts as stuck and is killed."""

OUTPUT_BYTES = 4096


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    """Exit code; negative for a signal."""

    output: str
    """The first OUTPUT_BYTES of stdout and stderr together."""


def run(argv: list[str], environment: dict[str, str]) -> Ended:
    """Run a command to its end. Raises OSError where it cannot be started."""
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions)
        code = _wait(pid)
        return Ended(code, os.pread(output, OUTPUT_BYTES, 0).decode(errors="replace").strip())
    finally:
        os.close(output)


def _wait(pid: int) -> int:
    handle = os.pidfd_open(pid)
    try:
        with gevent.Timeout(DEADLINE):
            wait_read(handle)
    except BaseException as interruption:
        # Stuck, or the end of the run: the command must not be left behind.
        os.kill(pid, signal.SIGKILL)
        if not isinstance(interruption, gevent.Timeout):
            os.waitpid(pid, 0)
            raise
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
