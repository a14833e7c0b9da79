"""Messages to workers, and whose turn it is: with workers that this test plays."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from groot_fast.errors import StoreError
from groot_fast.server import messages
from groot_fast.server.front import Front
from groot_fast.server.metrics import Metrics
from groot_fast.server.pool import Call, Pool, Worker, WorkerLost


class Actor:
    """A zygote whose workers do what the test says."""

    def __init__(self) -> None:
        self.spawned: list[socket.socket] = []

    def spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        self.spawned.append(theirs)
        return ours

    def say(self, number: int, event: str, **values: object) -> None:
        messages.report(self.spawned[number], event, **values)

    def finish(self, number: int, *, stays: bool = True) -> None:
        self.say(number, "done", name="create", code=0, stays=stays)

    def close(self) -> None:
        for channel in self.spawned:
            channel.close()


def play(scene: Callable[[Pool, Actor], Awaitable[None]], **limits: int) -> None:
    async def run() -> None:
        actor = Actor()
        pool = Pool(actor, Metrics("/"), **{"max_operations": 2, "max_pulls": 1, **limits})  # type: ignore[arg-type]
        try:
            await scene(pool, actor)
        finally:
            for worker in list(pool._workers):
                worker.close()
            actor.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def start(pool: Pool) -> asyncio.Task[tuple[Worker, Call]]:
    return asyncio.ensure_future(pool.start(messages.OPERATION, b"x"))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_messages_arrive_whole_with_their_descriptor() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        messages.send(ours, messages.COMMAND, b"payload", (0,))
        messages.send(ours, messages.GO, b"")
        first = messages.receive(theirs)
        assert first is not None and first[:2] == (messages.COMMAND, b"payload")
        assert [os.fstat(descriptor).st_ino for descriptor in first[2]] == [os.fstat(0).st_ino]
        assert not os.get_inheritable(first[2][0])
        os.close(first[2][0])
        assert messages.receive(theirs) == (messages.GO, b"", [])
        ours.close()
        assert messages.receive(theirs) is None


def test_a_large_message_comes_in_parts() -> None:
    ours, theirs = socket.socketpair()
    payload = os.urandom(3_000_000)

    async def both() -> object:
        sending = asyncio.to_thread(messages.send, ours, messages.COMMAND, payload)
        received, _ = await asyncio.gather(asyncio.to_thread(messages.receive, theirs), sending)
        return received

    with ours, theirs:
        assert asyncio.run(both()) == (messages.COMMAND, payload, [])


def test_a_message_that_is_cut_off_is_none() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(messages.COMMAND + (10).to_bytes(4, "big") + b"short")
        assert messages.receive(theirs) is None


def test_reports_are_split_into_lines() -> None:
    line = json.dumps({"event": "started"}).encode()
    assert messages.split(line + b"\n" + line[:5]) == ([{"event": "started"}], line[:5])
    assert messages.split(b"") == ([], b"")


def test_turns_are_taken_in_order_and_workers_used_again() -> None:
    async def scene(pool: Pool, actor: Actor) -> None:
        tasks = [start(pool) for _ in range(4)]
        await until(lambda: pool.counts()["operations_queued"] == 2)
        assert [task.done() for task in tasks] == [True, True, False, False]
        actor.finish(1)
        await tasks[2]
        assert not tasks[3].done() and len(actor.spawned) == 2
        actor.finish(0, stays=False)
        await tasks[3]
        assert len(actor.spawned) == 3
        assert pool.counts()["operations_in_flight"] == 2
        actor.finish(1)
        actor.finish(2)
        await pool.drain()
        assert pool.counts() == {"operations_in_flight": 0, "operations_queued": 0, "pulls_in_flight": 0, "pulls_queued": 0, "workers": 2}

    play(scene)


def test_a_worker_that_was_signalled_gets_no_other_command() -> None:
    async def scene(pool: Pool, actor: Actor) -> None:
        worker, call = await start(pool)
        worker.stop(call)
        actor.finish(0)
        await call.done
        assert pool.counts()["workers"] == 0
        # It had ended when its caller went away.
        worker, call = await start(pool)
        actor.finish(1)
        worker.stop(call)
        assert pool.counts() == {"operations_in_flight": 0, "operations_queued": 0, "pulls_in_flight": 0, "pulls_queued": 0, "workers": 1}
        worker.stop(call)

    play(scene)


def test_who_goes_away_in_the_queue_holds_nobody_up() -> None:
    async def scene(pool: Pool, actor: Actor) -> None:
        tasks = [start(pool) for _ in range(4)]
        await until(lambda: pool.counts()["operations_queued"] == 2)
        tasks[2].cancel()
        await until(tasks[2].cancelled)
        actor.finish(0)
        await tasks[3]
        # In the very moment in which it is its turn.
        last = start(pool)
        await until(lambda: pool.counts()["operations_queued"] == 1)
        pool.hear((await tasks[1])[0], {"event": "done", "name": "create", "code": 0, "stays": True})
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last
        actor.finish(0)
        await pool.drain()
        await start(pool)

    play(scene)


def test_who_steps_aside_gives_its_turn_away() -> None:
    async def scene(pool: Pool, actor: Actor) -> None:
        tasks = [start(pool) for _ in range(3)]
        await until(lambda: tasks[1].done())
        actor.say(0, "aside")
        await tasks[2]
        assert pool.counts()["operations_in_flight"] == 3
        for number in range(3):
            actor.finish(number, stays=False)
        await pool.drain()
        assert pool.counts()["workers"] == 0

    play(scene)


def test_pulls_wait_for_each_other_and_the_dead_do_not_count() -> None:
    async def scene(pool: Pool, actor: Actor) -> None:
        await asyncio.gather(*(start(pool) for _ in range(3)))
        for channel in actor.spawned:
            assert messages.receive(channel) is not None
        for number in range(3):
            actor.say(number, "pull")
            await until(lambda: pool.counts()["pulls_in_flight"] + pool.counts()["pulls_queued"] == number + 1)  # noqa: B023
        assert pool.counts()["pulls_in_flight"] == 1
        assert messages.receive(actor.spawned[0]) == (messages.GO, b"", [])
        actor.spawned[1].close()
        await until(lambda: pool.counts()["pulls_queued"] == 1)
        actor.say(0, "pulled")
        assert await asyncio.to_thread(messages.receive, actor.spawned[2]) == (messages.GO, b"", [])
        actor.finish(0)
        actor.finish(2)
        await pool.drain()
        assert pool.counts()["pulls_in_flight"] == 0

    play(scene, max_operations=3)


def test_a_worker_that_dies_ends_its_call_and_a_dead_idle_one_is_passed_over() -> None:
    async def scene(pool: Pool, actor: Actor) -> None:
        _, call = await start(pool)
        actor.spawned[0].close()
        with pytest.raises(WorkerLost):
            await call.done
        await start(pool)
        actor.finish(1)
        await until(lambda: pool.counts()["operations_in_flight"] == 0)
        actor.spawned[1].close()
        await start(pool)  # before the pool has heard of it
        assert len(actor.spawned) == 3

    play(scene)


def test_a_call_that_ends_before_it_begins_leaves_nothing() -> None:
    async def scene(pool: Pool, _actor: Actor) -> None:
        ours, theirs = socket.socketpair()
        pair = os.pipe()
        front = Front(pool)
        front.take(b"", ours, list(pair))
        for task in front._tasks:
            task.cancel()
        await until(lambda: not front._tasks)
        assert ours.fileno() == -1 and theirs.recv(1) == b""
        for descriptor in pair:
            with pytest.raises(OSError):
                os.fstat(descriptor)
        theirs.close()

    play(scene)


def test_without_a_zygote_there_is_an_error_and_no_turn_is_lost() -> None:
    async def scene(pool: Pool, actor: Actor) -> None:
        def gone() -> socket.socket:
            raise BrokenPipeError

        spawn, actor.spawn = actor.spawn, gone  # type: ignore[method-assign]
        for _ in range(3):
            with pytest.raises(StoreError):
                await start(pool)
        actor.spawn = spawn  # type: ignore[method-assign]
        await asyncio.gather(start(pool), start(pool))

    play(scene)


def test_latencies_fall_into_their_buckets() -> None:
    metrics = Metrics("/")
    for seconds in (0.001, 0.0011, 400.0):
        metrics.operation("create", "ok", seconds)
    lines = metrics.text().splitlines()
    for bound, count in (("0.001", 1), ("0.0025", 2), ("300.0", 2), ("+Inf", 3)):
        assert f'grootfs_operation_duration_seconds_bucket{{operation="create",le="{bound}"}} {count}' in lines
    assert 'grootfs_operation_duration_seconds_count{operation="create"} 3' in lines
