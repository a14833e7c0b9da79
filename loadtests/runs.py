"""A run from an empty store to its result.

The order: store, census, warm-up, then throttle, sampler and locust together, then everything is deleted without the
throttle and counted again. Whatever fails, the throttle goes and what was mounted is unmounted.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loadtests import census
from loadtests.doors import buildah, is_healthy
from loadtests.figures import summarise
from loadtests.plan import PLAN_VARIABLE, Plan
from loadtests.samples import FileSystem, Sampler, read_lines
from loadtests.stores import NoStore, Place, call, empty_store, make_file_system, make_store, open_store, settle
from loadtests.volumes import Volume

REPO = Path(__file__).resolve().parents[1]
STORE_BYTES = 20_000_000_000
STOP_TIMEOUT = 15
"""Seconds that locust's users get to finish their operation at the end."""

SERVER_DEADLINE = 20.0
PLACES = ("command", "store", "socket", "journal", "apps")
"""Of a plan, what says nothing to anybody elsewhere."""

THROTTLED = "a file served by FUSE below the loop device, which counts as EBS does: joined, 256 KiB each"
UNTHROTTLED = "none: the device as it is, its own requests counted"

Result = dict[str, Any]


class RunFailed(Exception):
    """The run could not be done; the text says why."""


@dataclass(frozen=True)
class Setting:
    """Where and under what a plan runs."""

    folder: Path
    """For the journal, the samples and what is mounted; must exist."""

    volume: Volume
    credits_left: int | None
    warm: bool
    """Whether every app is made once before the clock starts."""

    own_store: Path | None
    """A store that is there; None makes one in a file."""

    quota: str
    """Accounting of a new store, `simple` or `full`."""

    maker: str
    """The `grootfs` command, which makes BTRFS for everybody."""


def run(plan: Plan, setting: Setting) -> Result:
    """Do a run. Raises RunFailed, NoStore, NoThrottle, NoDevice."""
    with ExitStack() as stack:
        store, throttle = stack.enter_context(_place(plan, setting))
        plan = replace(plan, store=str(store), journal=str(setting.folder / f"journal-{plan.door}.jsonl"))
        server: int | None = None
        if plan.door == "api":
            plan = replace(plan, socket=str(setting.folder / "server.sock"))
            server = stack.enter_context(_serve(plan, setting.folder / "server.log"))
        is_ours = not plan.door.startswith("buildah")
        system = FileSystem(store, is_btrfs=is_ours or _kind(plan) == "btrfs")
        if is_ours:
            _exercise(plan)
            empty_store(plan.command, store, system)
            before = census.count(system, store, plan.command, server)
        if setting.warm:
            plan = _warm(plan)
            # What warming up wrote is not the run's: unwritten pages would be throttled with it.
            settle(system)
        plan.write(setting.folder / f"plan-{plan.door}.json")
        samples = setting.folder / f"samples-{plan.door}.jsonl"
        if throttle is not None and setting.volume.is_limited:
            throttle.limit(setting.volume, setting.credits_left)
        with Sampler(samples, system, throttle, server):
            _run_locust(plan, setting.folder / f"plan-{plan.door}.json", setting.folder / f"locust-{plan.door}.log")
        if throttle is not None:
            throttle.lift()
        result = {
            "plan": {name: value for name, value in asdict(plan).items() if name not in PLACES} | {"apps": len(plan.apps)},
            "profile": asdict(setting.volume),
            "throttle": THROTTLED if throttle is not None else UNTHROTTLED,
            "machine": _machine(),
            **summarise(plan, read_lines(Path(plan.journal)), read_lines(samples), setting.volume.write_cost),
        }
        if is_ours:
            seconds = empty_store(plan.command, store, system)
            after = census.count(system, store, plan.command, server)
            result["census"] = {"before": before, "after": after}
            result["figures"] |= {f"leaks.{name}": number for name, number in census.leaks(before, after).items()}
            result["figures"]["emptied_in_seconds"] = seconds
        return result


@contextmanager
def _place(plan: Plan, setting: Setting) -> Iterator[Place]:
    path = setting.folder / f"store-{plan.door}"
    if setting.own_store is not None:
        with open_store(plan.command, setting.own_store, setting.quota) as store:
            yield store, None
        return
    slow = setting.volume.is_limited
    if plan.door.startswith("buildah"):
        made = make_file_system(setting.maker, path, STORE_BYTES, _kind(plan), slow=slow)
    else:
        made = make_store(plan.command, path, STORE_BYTES, setting.quota, slow=slow)
    with made as place:
        yield place


def _kind(plan: Plan) -> str:
    """The file system of buildah's storage."""
    return [*plan.door.split("-"), "btrfs"][2]


@contextmanager
def _serve(plan: Plan, log: Path) -> Iterator[int]:
    """The server on the plan's socket; gives its process id. Raises RunFailed where it does not answer, or ends before we end it."""
    with log.open("w") as output:
        server = subprocess.Popen([plan.command, "--store", plan.store, "--socket", plan.socket, "serve"], stdout=output, stderr=output)
    try:
        end = time.monotonic() + SERVER_DEADLINE
        while not is_healthy(plan.socket):
            if server.poll() is not None or time.monotonic() > end:
                raise RunFailed(f"`grootfs serve` did not start (exit code {server.poll()}): {log.read_text().strip()}")
            time.sleep(0.05)
        yield server.pid
        if server.poll() is not None:
            raise RunFailed(f"`grootfs serve` ended in the run (exit code {server.returncode}): {log.read_text().strip()}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(SERVER_DEADLINE)


def _exercise(plan: Plan) -> None:
    """Create and delete once, so that what exists from the first use on (lock files, caches) is no leak."""
    call(plan.command, Path(plan.store), "create", plan.apps[0].image, "exercise")
    call(plan.command, Path(plan.store), "delete", "exercise")


def _warm(plan: Plan) -> Plan:
    """Make every app once and delete it: its layers stay. Gives the plan with what there is to know of them from then on."""
    if plan.door.startswith("buildah"):
        return _warm_buildah(plan)
    for app in plan.apps:
        call(plan.command, Path(plan.store), "create", app.image, f"warm-{app.name}")
        call(plan.command, Path(plan.store), "delete", f"warm-{app.name}")
    return plan


def _warm_buildah(plan: Plan) -> Plan:
    apps = []
    for app in plan.apps:
        done = subprocess.run([*buildah(plan), "pull", "-q", f"oci:{app.layout}:latest"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoStore(f"`buildah pull` failed: {done.stderr.strip()}")
        apps.append(replace(app, pulled=done.stdout.split()[-1]))
    return replace(plan, apps=tuple(apps))


def _run_locust(plan: Plan, plan_file: Path, log: Path) -> None:
    """Run locust's processes to their end. They find the plan by the environment."""
    base = [sys.executable, "-m", "locust", "--locustfile", str(REPO / "loadtests" / "locustfile.py"), "--loglevel", "WARNING"]
    timing = ["--headless", "--only-summary", "--stop-timeout", str(STOP_TIMEOUT), "--exit-code-on-error", "0"]
    environment = {**os.environ, PLAN_VARIABLE: str(plan_file), "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
    commands = [[*base, *timing]]
    if plan.workers:
        port = str(_free_port())
        commands = [[*base, *timing, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]]
        commands[0] += ["--expect-workers", str(plan.workers)]
        commands += [[*base, "--worker", "--master-host", "127.0.0.1", "--master-port", port]] * plan.workers
    with log.open("w") as output:
        running = [subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=REPO) for command in commands]
        try:
            # Users come at once, but a run may end late: the last operations are waited for.
            code = running[0].wait(plan.duration + 10 * STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            for process in running:
                process.terminate()
                process.wait()
    if code != 0:
        raise RunFailed(f"locust ended with {code}; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _machine() -> Result:
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
