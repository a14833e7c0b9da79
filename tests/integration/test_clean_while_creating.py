"""Clean takes no volume of an image that is being made, whatever the create is doing (found by tests/unit/test_protocol_model.py)."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.archive import Archive, Layer, layers_of
from support.command import MIB, Store, new_id, wait_for
from support.layout import chain_ids

LOW = Layer(Archive().file("low", "1").tar)
MIDDLE = Layer(Archive().file("middle", "2").tar)
TOP = Layer(Archive().file("top", os.urandom(32 * MIB)).tar, "none")


@contextmanager
def paused_at_the_top(store: Store, url: str) -> Iterator[list[str]]:
    """A create that stands still while it unpacks the uppermost of the three layers; gives their chain ids. By then both lower
    volumes have their names. It ends well when it may go on."""
    chain = chain_ids(layers_of((LOW, MIDDLE, TOP)))
    create = store.start("create", url, "new")
    try:
        wait_for(lambda: any(name.startswith(f"{chain[2]}-incomplete-") for name in store.volumes()), "the top is being unpacked")
        wait_for(lambda: chain[1] in store.volumes(), "the volume below it has its name")
        create.send_signal(signal.SIGSTOP)
        yield chain
    finally:
        create.send_signal(signal.SIGCONT)
        result = store.finish(create)
    result.ok()


@pytest.mark.parametrize("known", [(), (LOW,), (LOW, MIDDLE)])
def test_clean_while_the_top_is_unpacked(store: Store, image: Callable[..., str], known: tuple[Layer, ...]) -> None:
    """However many of the lower layers were there before, and although only the uppermost of them is built upon."""
    if known:
        store.create(image(*known), "before")
        store.delete("before")
    with paused_at_the_top(store, image(LOW, MIDDLE, TOP)) as chain:
        store.clean()
        assert set(chain[:2]) <= set(store.volumes())
    store.clean()
    assert store.volumes() == sorted(chain)


def test_other_images_use_a_layer_while_the_next_is_unpacked(store: Store, image: Callable[..., str]) -> None:
    """What is complete is shared at once, although its builder still holds it."""
    with paused_at_the_top(store, image(LOW, MIDDLE, TOP)):
        store.create(image(LOW, MIDDLE), new_id())
        store.create(image(LOW, Layer(Archive().file("other").tar)), new_id())


def test_who_waits_for_a_process_that_is_stopped_says_so(store: Store, image: Callable[..., str]) -> None:
    """And not after an hour. Once that process goes on, so does everything."""
    url = image(LOW, MIDDLE, TOP)
    with paused_at_the_top(store, url):
        told = Store(store.path, "--log-level", "info").run("create", url, "other", timeout=60)
        assert told.code == 1
        [line] = [json.loads(line) for line in told.err.splitlines() if "waiting-for-lock" in line]
        pid = line["data"]["process"]
        assert line["data"]["state"] == "stopped" and "create" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert f"process {pid}, which holds the" in told.out and f"hint: `kill -CONT {pid}` lets it go on" in told.out
    store.create(url, "other")


def test_a_second_clean_leaves_it_to_the_first(store: Store, image: Callable[..., str]) -> None:
    store.create(image(LOW), "c")
    store.delete("c")
    lock = os.open(store.path / "locks" / "groot-gc-lock.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert store.run("clean").ok().out == "another clean is running: leaving it to that one\n"
        newest = Store(store.path, "--compatibility", "newest")
        assert newest.run("clean").ok().out == "clean completed\n", "as its callers expect"
        assert len(store.volumes()) == 1
    finally:
        os.close(lock)
    store.clean()
    assert store.volumes() == []
