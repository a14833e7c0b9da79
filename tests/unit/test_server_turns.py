"""Whose turn it is in a server, what it counts, what it takes for a trace, and what stops an operation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from groot_fast import interrupts
from groot_fast.config import Settings
from groot_fast.errors import Cancelled, InternalError, StoreError, StoreNotFound
from groot_fast.interrupts import Stop, Waiting
from groot_fast.server import operations
from groot_fast.server.metrics import Metrics
from groot_fast.server.operations import Operation, Operations
from groot_fast.server.places import Places
from groot_fast.telemetry.traceparent import trace_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


# -- places --------------------------------------------------------------------------------------------


def test_places_are_taken_in_order() -> None:
    places = Places(2)
    asked = [places.ask() for _ in range(5)]
    assert [one.done() for one in asked] == [True, True, False, False, False]
    assert (places.taken, places.waiting) == (2, 3)
    places.leave(asked[3])  # it waits no longer
    places.leave(asked[0])
    places.leave(asked[0])
    assert [one.done() for one in asked] == [True, True, True, False, False]
    places.leave(asked[1])
    assert asked[4].done() and (places.taken, places.waiting) == (2, 0)


def test_no_place_is_lost_among_threads() -> None:
    places, most = Places(3), []

    def run() -> None:
        for _ in range(200):
            place = places.ask()
            place.result(30)
            most.append(places.taken)
            places.leave(place)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3 and len(most) == 1600
    assert (places.taken, places.waiting) == (0, 0)


# -- stops ---------------------------------------------------------------------------------------------


def in_thread(stop: Stop, work: Callable[[], object]) -> Future[object]:
    """What comes of ``work`` in a thread of its own that ``stop`` stops."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            with interrupts.stopped_by(stop):
                done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


def waits(future: Future[Any]) -> object:
    """Wait as an operation does."""
    with Waiting():
        return interrupts.result(future)


def test_a_stop_ends_a_wait_of_its_own_thread_only() -> None:
    stops = [Stop(), Stop()]
    given: Future[str] = Future()
    ended = [in_thread(stop, lambda: waits(given)) for stop in stops]
    time.sleep(0.05)
    stops[0].set()
    with pytest.raises(Cancelled):
        ended[0].result(10)
    assert not ended[1].done()
    given.set_result("there")
    assert ended[1].result(10) == "there"


def test_a_stop_waits_for_the_next_wait() -> None:
    stop, begun, go_on = Stop(), threading.Event(), threading.Event()

    def work() -> object:
        begun.set()
        go_on.wait(10)
        closed: Future[str] = Future()
        closed.set_result("closed")
        interrupts.result(closed)  # what is cleared up is not stopped
        return waits(Future())

    ended = in_thread(stop, work)
    begun.wait(10)
    stop.set()
    stop.set()
    assert not ended.done()
    go_on.set()
    with pytest.raises(Cancelled):
        ended.result(10)


def test_a_result_that_is_there_is_given_although_a_stop_has_come() -> None:
    stop = Stop()
    given: Future[str] = Future()
    given.set_result("there")
    stop.set()
    assert stop.result(given) == "there"


def test_what_does_not_know_of_stops_is_ended() -> None:
    stop, gone = Stop(), threading.Event()

    def work() -> None:
        with Waiting(), interrupts.ended_by(gone.set):
            assert gone.wait(10)
            raise StoreError("it ended unexpectedly")

    ended = in_thread(stop, work)
    time.sleep(0.05)
    stop.set()
    with pytest.raises(Cancelled):
        ended.result(10)


def test_what_has_ended_is_not_ended_again() -> None:
    stop, calls = Stop(), []

    def work() -> None:
        with Waiting(), interrupts.ended_by(lambda: calls.append(1)):
            pass

    in_thread(stop, work).result(10)
    stop.set()
    assert calls == []


# -- operations ----------------------------------------------------------------------------------------


class Actor:
    """What operations do here: say that they have begun, do as they are told, and end when they are let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gates: dict[str, Future[object]] = {}

    def __call__(self, groot: Any, _settings: Settings, arguments: list[str]) -> object:
        (name, what) = arguments
        self.begun.append(name)
        admission = groot._admission
        if what == "aside":
            admission.step_aside()
        if what == "pull":
            with admission:
                return waits(self.gate(name))
        return waits(self.gate(name))

    def gate(self, name: str) -> Future[object]:
        """What the operation of this name waits for."""
        return self.gates.setdefault(name, Future())

    def finish(self, name: str) -> None:
        """Let it end."""
        self.gate(name).set_result(name)


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    actor = Actor()
    monkeypatch.setitem(operations.OPERATIONS, "create", actor)
    return actor


def play(tmp_path: Path, scene: Callable[[Operations, Metrics], Awaitable[None]], **limits: int) -> None:
    """Run a scene on a store that looks initialised."""
    for folder in ("images", "volumes", "meta/dependencies", "meta/sources", "locks", "tmp"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "meta" / "namespace.json").write_text("{}")

    async def run() -> None:
        metrics = Metrics("/")
        all_operations = Operations(
            Settings({"store": str(tmp_path), "log_level": "fatal"}), metrics, **{"max_operations": 2, "max_pulls": 1, **limits}
        )
        await scene(all_operations, metrics)
        await all_operations.drain()

    asyncio.run(asyncio.wait_for(run(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def start(all_operations: Operations, name: str, what: str = "") -> asyncio.Task[object]:
    return asyncio.ensure_future(all_operations.run(Operation("create", [name, what], {})))


def test_turns_are_taken_in_order(tmp_path: Path, actor: Actor) -> None:
    async def scene(all_operations: Operations, _: Metrics) -> None:
        tasks = {name: start(all_operations, name) for name in "abcd"}
        await until(lambda: len(actor.begun) == 2)
        assert all_operations.counts() == {
            "operations_in_flight": 2, "operations_queued": 2, "pulls_in_flight": 0, "pulls_queued": 0, "workers": 2,
        }  # fmt: skip
        actor.finish("b")
        assert await tasks["b"] == "b"
        await until(lambda: len(actor.begun) == 3)
        assert sorted(actor.begun) == ["a", "b", "c"] and actor.begun[2] == "c"
        for name in "acd":
            actor.finish(name)
        await asyncio.gather(*tasks.values())

    play(tmp_path, scene)


def test_who_steps_aside_gives_its_turn_away(tmp_path: Path, actor: Actor) -> None:
    async def scene(all_operations: Operations, _: Metrics) -> None:
        tasks = [start(all_operations, name, "aside") for name in "abc"]
        await until(lambda: len(actor.begun) == 3)
        assert all_operations.counts()["operations_in_flight"] == 3
        for name in "abc":
            actor.finish(name)
        await asyncio.gather(*tasks)
        assert all_operations.counts()["operations_in_flight"] == 0

    play(tmp_path, scene, max_operations=1)


def test_pulls_wait_for_each_other_and_those_that_left_do_not_count(tmp_path: Path, actor: Actor) -> None:
    async def scene(all_operations: Operations, metrics: Metrics) -> None:
        tasks = {}
        for number, name in enumerate("abc", start=1):
            tasks[name] = start(all_operations, name, "pull")
            await until(
                lambda: all_operations.counts()["pulls_in_flight"] + all_operations.counts()["pulls_queued"] == number  # noqa: B023
            )
        assert all_operations.counts()["pulls_in_flight"] == 1
        tasks["b"].cancel()
        await until(lambda: all_operations.counts()["pulls_queued"] == 1)
        actor.finish("a")
        await tasks["a"]
        await until(lambda: all_operations.counts()["pulls_queued"] == 0)
        assert all_operations.counts()["pulls_in_flight"] == 1
        actor.finish("c")
        assert await tasks["c"] == "c"
        assert all_operations.counts()["pulls_in_flight"] == 0
        assert 'grootfs_operations_total{operation="create",outcome="cancelled",store="/"} 1' in metrics.text()

    play(tmp_path, scene, max_operations=1)


def test_who_goes_away_before_its_turn_holds_nobody_up(tmp_path: Path, actor: Actor) -> None:
    async def scene(all_operations: Operations, _: Metrics) -> None:
        tasks = {name: start(all_operations, name) for name in "abcd"}
        await until(lambda: all_operations.counts()["operations_queued"] == 2)
        tasks["c"].cancel()
        await until(tasks["c"].cancelled)
        actor.finish("a")
        await until(lambda: "d" in actor.begun)
        assert "c" not in actor.begun
        # In the very moment in which it is its turn.
        tasks["e"] = start(all_operations, "e")
        await until(lambda: all_operations.counts()["operations_queued"] == 1)
        actor.finish("b")
        await until(lambda: all_operations.counts()["operations_queued"] == 0)
        tasks["e"].cancel()
        actor.finish("d")
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await until(lambda: all_operations.counts()["operations_in_flight"] == 0)

    play(tmp_path, scene)


def test_a_drain_waits_for_operations_whose_callers_are_gone(tmp_path: Path, actor: Actor) -> None:
    async def scene(all_operations: Operations, _: Metrics) -> None:
        held = threading.Event()
        actor.gates["a"] = Future()
        original = actor.gate

        def slow(name: str) -> Future[object]:
            held.wait(10)  # not a wait that a stop ends
            return original(name)

        actor.gate = slow  # type: ignore[method-assign]
        task = start(all_operations, "a")
        await until(lambda: actor.begun == ["a"])
        task.cancel()
        drained = asyncio.ensure_future(all_operations._empty.wait())
        await asyncio.sleep(0.05)
        assert task.done() and not drained.done()
        held.set()
        await drained

    play(tmp_path, scene)


def test_a_stop_of_all_ends_those_that_wait_too(tmp_path: Path, actor: Actor) -> None:
    async def scene(all_operations: Operations, _: Metrics) -> None:
        tasks = [start(all_operations, name) for name in "abcd"]
        await until(lambda: len(actor.begun) == 2)
        all_operations.stop_all()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in ended] == [Cancelled] * 4
        assert sorted(actor.begun) == ["a", "b"]

    play(tmp_path, scene)


def test_what_goes_wrong_is_an_error_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(all_operations: Operations, metrics: Metrics) -> None:
        for raised, kind, text in [
            (ZeroDivisionError("one\ntwo"), InternalError, "internal error: ZeroDivisionError: one two"),
            (PermissionError(13, "Permission denied", "/x"), StoreError, "/x: permission denied"),
            (StoreError("as it is"), StoreError, "as it is"),
        ]:

            def fail(*_: object, raised: Exception = raised) -> object:
                raise raised

            monkeypatch.setitem(operations.OPERATIONS, "create", fail)
            with pytest.raises(kind) as caught:
                await start(all_operations, "a")
            assert (type(caught.value), str(caught.value)) == (kind, text)
        with pytest.raises(StoreNotFound):
            await all_operations.run(Operation("list", [], {"store": str(tmp_path / "none")}))
        assert 'grootfs_operations_total{operation="create",outcome="failed",store="/"} 3' in metrics.text()

    play(tmp_path, scene)


# -- what is told --------------------------------------------------------------------------------------


def test_latencies_fall_into_their_buckets() -> None:
    metrics = Metrics("/")
    for seconds in (0.001, 0.0011, 400.0):
        metrics.operation("create", "ok", seconds)
    lines = metrics.text().splitlines()
    for bound, count in (("0.001", 1), ("0.0025", 2), ("300.0", 2), ("+Inf", 3)):
        assert f'grootfs_operation_duration_seconds_bucket{{operation="create",le="{bound}",store="/"}} {count}' in lines
    assert 'grootfs_operation_duration_seconds_count{operation="create",store="/"} 3' in lines


@pytest.mark.parametrize(
    ("value", "trace"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-a-later-version-adds", TRACE),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", ""),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-b7ad6b7169203331-01\n", ""),
        ("", ""),
    ],
)
def test_only_a_valid_traceparent_names_a_trace(value: str, trace: str) -> None:
    assert trace_of(value) == trace
