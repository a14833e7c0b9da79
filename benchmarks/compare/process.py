"""Run commands as a user would, from `exec` to exit, and weigh them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Argv = Sequence[str]
Pipeline = Sequence[Argv]
"""Commands joined by pipes."""
Steps = Sequence[Pipeline]
"""Pipelines, one after the other."""


class Failed(Exception):
    """A command ended with another code than 0; the text has the end of its output."""


@dataclass(frozen=True)
class Cost:
    """What some steps took. ``peak`` is KiB: for each command the largest process of its tree, added up over a pipeline."""

    seconds: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Ended:
    """One of many commands that ran at once: seconds from its start to its end, and whether it succeeded."""

    seconds: float
    ok: bool


def one(*argv: str | Path) -> Steps:
    """Steps of one command."""
    return [[list(map(str, argv))]]


class Runner:
    """Starts commands through ``launcher`` (`launch.c`), many at once through ``burst`` (`burst.c`); their output goes to ``log``."""

    def __init__(self, log: Path, launcher: Path, burst: Path) -> None:
        self.log = log
        self._launcher = str(launcher)
        self._burst = burst

    def run(self, steps: Steps, daemon: int | None = None) -> Cost:
        """Run to the end. ``daemon`` is a process whose CPU time and memory belong to it. Raises Failed."""
        served = _Daemon(daemon) if daemon is not None else None
        seconds = cpu = 0.0
        peak = 0
        for pipeline in steps:
            cost = self._pipeline(pipeline)
            seconds += cost.seconds
            cpu += cost.cpu
            peak = max(peak, cost.peak)
        if served is not None:
            cpu += served.cpu() - served.before
            peak += served.peak()
        return Cost(seconds, cpu, peak)

    def _pipeline(self, pipeline: Pipeline) -> Cost:
        pids: list[int] = []
        codes: list[int] = []
        report, reported = os.pipe()
        try:
            with _Log(self.log) as log:
                source = os.open(os.devnull, os.O_RDONLY)
                for position, argv in enumerate(pipeline):
                    if position == len(pipeline) - 1:
                        following, target = -1, log.fileno()
                    else:
                        following, target = os.pipe()
                    pids.append(_spawn([self._launcher, *argv], source, target, log.fileno(), reported))
                    os.close(source)
                    if following >= 0:
                        os.close(target)
                    source = following
            for pid in pids:
                codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        except BaseException:
            _kill(pids[len(codes) :])
            os.close(report)
            raise
        finally:
            os.close(reported)
        with open(report) as lines:
            text = lines.read()
        for argv, code in zip(pipeline, codes, strict=True):
            if code != 0:
                raise Failed(f"{' '.join(argv)}: code {code}: {self._tail()}")
        return cost_of_reports(text)

    def together(self, commands: Sequence[Argv]) -> tuple[float, list[Ended]]:
        """Start all at once; gives the seconds from the first start to the last end, and each one's end. Raises Failed when one
        could not be started."""
        listing = self._burst.with_suffix(".commands")
        listing.write_bytes(b"".join(b"".join(os.fsencode(argument) + b"\0" for argument in argv) + b"\0" for argv in commands))
        report, reported = os.pipe()
        with open(report) as lines:
            try:
                with _Log(self.log) as log, open(os.devnull, "rb") as nothing:
                    pid = _spawn([str(self._burst), str(listing)], nothing.fileno(), log.fileno(), log.fileno(), reported)
            finally:
                os.close(reported)
            try:
                text = lines.read()
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            except BaseException:
                _kill([pid])
                raise
        if code != 0:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # those that were started already
            raise Failed(f"burst: code {code}: {self._tail()}")
        return ends_of_reports(text)

    def _tail(self) -> str:
        return self.log.read_bytes()[-500:].decode("utf-8", "replace").strip()


class _Log:
    """The log, open for appending."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor


class _Daemon:
    """A process that works for others: CPU seconds since it was asked first, and its peak memory from then on."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # forget the peak, proc(5)
        self.before = self.cpu()

    def cpu(self) -> float:
        return cpu_of_stat((self._folder / "stat").read_text(), os.sysconf("SC_CLK_TCK"))

    def peak(self) -> int:
        return peak_of_status((self._folder / "status").read_text())


def cost_of_reports(text: str) -> Cost:
    """A pipeline's cost, from what the launcher of each of its commands wrote: start, end, CPU seconds, KiB."""
    rows = [list(map(float, line.split())) for line in text.splitlines()]
    start, end = min(row[0] for row in rows), max(row[1] for row in rows)
    return Cost(end - start, sum(row[2] for row in rows), int(sum(row[3] for row in rows)))


def ends_of_reports(text: str) -> tuple[float, list[Ended]]:
    """Of commands that ran at once, from what `burst.c` wrote (start, end, wait status of each): the seconds from the first start to
    the last end, and each one's end."""
    rows = [(float(start), float(end), int(status)) for start, end, status in map(str.split, text.splitlines())]
    ended = [Ended(end - start, status == 0) for start, end, status in rows]
    return max(row[1] for row in rows) - min(row[0] for row in rows), ended


def cpu_of_stat(text: str, ticks: int) -> float:
    """CPU seconds in a ``/proc/PID/stat``, those of children that were waited for included."""
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / ticks


def peak_of_status(text: str) -> int:
    """KiB of VmHWM in a ``/proc/PID/status``."""
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM:")).split()[1])


def _kill(pids: Sequence[int]) -> None:
    """End commands that nobody will wait for any more, so that their file system can be unmounted."""
    for pid in pids:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _spawn(argv: Argv, *descriptors: int) -> int:
    """Start a command in a process group of its own, with these descriptors as 0, 1, 2 ..."""
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(descriptors)]
    return os.posix_spawnp(argv[0], list(argv), os.environ, file_actions=actions, setpgroup=0)
