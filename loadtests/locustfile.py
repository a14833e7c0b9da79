"""What locust loads: the users of a cell and the shape of the run. The plan comes from the environment.

    GROOT_LOADTEST_PLAN=plan.json locust -f loadtests/locustfile.py --headless [--master | --worker] ...

An operation is one task, so that locust can stop a user between two of them and nothing is cut short.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random
from typing import Any

import gevent
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtests import images
from loadtests.doors import WRITTEN_BYTES, Door, open_door
from loadtests.journal import Journal
from loadtests.plan import App as Image
from loadtests.plan import Plan, read_plan
from loadtests.popularity import Popularity

PLAN = read_plan()
IDLE = 0.5
"""Seconds an idle user waits before it looks again."""

CLEAN_EVERY = 2.0
HEALTH_CHECKS = 3
"""`stats` in the life of an app."""


class Cell:
    """What the users of one process share."""

    def __init__(self, plan: Plan, environment: Environment) -> None:
        runner = environment.runner
        self.index = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        self.door: Door = open_door(plan)
        self.journal = Journal(environment, Path(plan.journal))
        self.popularity = Popularity(len(plan.apps), plan.zipf, f"{plan.seed}/{self.index}")
        self.pushed = 0
        processes = max(plan.workers, 1)
        # A rush is shared out: the first processes do one more where it does not divide.
        self.rush = plan.images // processes + (self.index < plan.images % processes)
        self._name = f"{plan.run}-{self.index}"
        self._count = 0

    def start_app(self, kind: str, due: float | None = None) -> str | None:
        """Create an image of the next app asked for; gives its id, or None where that failed. See `Journal.measure` for ``due``."""
        app = PLAN.apps[self.popularity.draw()]
        image_id = f"{self._name}-{kind}-{self._count}"
        self._count += 1
        done = self.journal.measure("create", lambda: self.door.create(app.image, image_id), due=due, cold=_is_cold(app))
        return image_id if done else None


def _is_cold(app: Image) -> bool:
    """Whether the store lacks a layer of the app's newest version. Buildah has pulled all of them."""
    return not PLAN.door.startswith("buildah") and not (Path(PLAN.store) / "volumes" / images.volume_of(app)).exists()


_cells: list[Cell] = []


@events.init.add_listener
def _open_cell(environment: Environment, **_more: Any) -> None:
    _cells.append(Cell(PLAN, environment))


def cell() -> Cell:
    """The cell of this process. Only once locust has started."""
    return _cells[0]


class App(User):
    """An app instance: starts, is asked for its health, writes a little, stops, starts again."""

    weight = 10

    def on_start(self) -> None:
        """Nothing runs yet."""
        self._image_id: str | None = None
        self._checks = 0

    def wait_time(self) -> float:
        """The plan's pause."""
        return PLAN.pause

    @task
    def act(self) -> None:
        """Do what comes next in the life of the app."""
        if self._image_id is None:
            self._image_id = cell().start_app("app")
            self._checks = HEALTH_CHECKS
            if self._image_id is not None:
                _write_log(self._image_id)
            return
        image_id = self._image_id
        if self._checks:
            self._checks -= 1
            cell().journal.measure("stats", lambda: cell().door.stats(image_id))
            return
        cell().journal.measure("delete", lambda: cell().door.delete(image_id))
        self._image_id = None


def _write_log(image_id: str) -> None:
    rootfs = Path(PLAN.store) / "images" / image_id / "rootfs"
    if not PLAN.door.startswith("buildah"):
        # File system calls would hold up the other users.
        gevent.get_hub().threadpool.apply((rootfs / "app.log").write_bytes, (os.urandom(WRITTEN_BYTES),))


class Starter(User):
    """Starts apps, one after the other, until the rush is through, and leaves them running."""

    weight = 10
    # In an evacuation every one is there from the beginning of the rush, beside the apps.
    fixed_count = PLAN.images if PLAN.shape == "evacuation" else 0

    def wait_time(self) -> float:
        """None while there is something to do."""
        return 0.0 if cell().rush > 0 else IDLE

    @task
    def act(self) -> None:
        """Start one more app."""
        if cell().rush > 0:
            cell().rush -= 1
            cell().start_app("rush")


class Arrivals(User):
    """Has apps arrive at a rate, whether the earlier ones are through or not, as those who push do. One in each process.

    Users that wait for their answer before they ask again (all others here) ask less when answers take longer, and so hide how long
    everybody would have waited.
    """

    weight = 10

    def on_start(self) -> None:
        """The first one may come."""
        self._random = Random(f"{PLAN.seed}/{cell().index}/arrivals")
        self._due = time.perf_counter()
        self._alive: set[Any] = set()

    def on_stop(self) -> None:
        """What has arrived is waited for."""
        gevent.joinall(list(self._alive))

    def wait_time(self) -> float:
        """The task waits by itself."""
        return 0.0

    @task
    def act(self) -> None:
        """Wait for the next arrival, and let it live."""
        self._due += self._random.expovariate(PLAN.rate / max(PLAN.workers, 1))
        gevent.sleep(max(self._due - time.perf_counter(), 0))
        one = gevent.spawn(_live, self._due)
        self._alive.add(one)
        one.link(self._alive.discard)


def _live(due: float) -> None:
    """The life of an app that arrived: started, asked for its health, stopped."""
    image_id = cell().start_app("arrival", due)
    if image_id is None:
        return
    _write_log(image_id)
    cell().journal.measure("stats", lambda: cell().door.stats(image_id))
    gevent.sleep(PLAN.pause)
    cell().journal.measure("delete", lambda: cell().door.delete(image_id))


class Developer(User):
    """Pushes new versions of apps, the popular ones more often. One in each process, each with apps of its own."""

    fixed_count = max(PLAN.workers, 1)

    def wait_time(self) -> float:
        """As often as planned, over all processes."""
        return PLAN.push_every * max(PLAN.workers, 1)

    @task
    def act(self) -> None:
        """Push a version of an app that belongs to this process."""
        mine = PLAN.apps[cell().index :: max(PLAN.workers, 1)]
        app = mine[cell().popularity.draw() % len(mine)]
        cell().pushed += 1
        version = f"{PLAN.seed}-{cell().index}-{cell().pushed}"
        cell().journal.measure("push", lambda: gevent.get_hub().threadpool.apply(images.push, (app, version)))


class Janitor(User):
    """Cleans by threshold in the background."""

    fixed_count = 1

    def wait_time(self) -> float:
        """A pause between two cleans."""
        return CLEAN_EVERY

    @task
    def act(self) -> None:
        """Clean once."""
        cell().journal.measure("clean", cell().door.clean)


HELPERS: list[type[User]] = [
    *([Developer] if PLAN.push_every else []),
    *([Janitor] if PLAN.parallel_clean else []),
]
HELPER_COUNT = sum(helper.fixed_count for helper in HELPERS)


class Shape(LoadTestShape):
    """How many users of which kind at what time; ends the run."""

    use_common_options = False

    def tick(self) -> tuple[int, float, list[type[User]]] | None:
        """Locust asks about once a second."""
        now: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if now >= PLAN.duration:
            return None
        users = PLAN.concurrency
        if PLAN.shape == "storm":
            return None if cell().journal.creates >= PLAN.images else _users(users, [Starter])
        if PLAN.shape == "arrivals":
            return _users(max(PLAN.workers, 1), [Arrivals])
        if PLAN.shape == "evacuation" and now >= PLAN.duration / 4:
            # Another cell's apps arrive, all at once, beside those that run here.
            return _users(users + PLAN.images, [App, Starter])
        return _users(users, [App])


def _users(count: int, kinds: list[type[User]]) -> tuple[int, float, list[type[User]]]:
    # All at once: the spawn rate is the number of users.
    total = count + HELPER_COUNT
    return total, float(total), [*kinds, *HELPERS]
