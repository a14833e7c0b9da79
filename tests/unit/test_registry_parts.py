"""Large blobs over several connections."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from typing import Any

import pytest

from fake_registry import FakeRegistry, Fault, Image
from groot_fast.errors import RegistryError
from groot_fast.sources.registry import RegistryClient, RegistryOptions, parse_reference
from groot_fast.sources.registry import parts as module
from groot_fast.sources.registry.parts import AHEAD

MIB = 1024 * 1024
PART, LARGE = MIB // 2, 4 * MIB
BLOB = os.urandom(LARGE + 3 * PART + 17)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes 64 MiB in the field."""
    monkeypatch.setattr(module, "PART", PART)
    monkeypatch.setattr(module, "LARGE", LARGE)


class Case:
    """A registry with one large layer."""

    def __init__(self, fake: FakeRegistry) -> None:
        self.fake = fake
        self.image = fake.add("app", [BLOB])

    def fault(self, times: int = 1_000_000, **fields: Any) -> None:
        self.fake.fault(self.image.layers[0], Fault(**fields), times)

    def stream(self, size: int = len(BLOB), offset: int = 0, *, urgent: bool = True, **more: Any) -> tuple[bytes, Exception | None]:
        opts = RegistryOptions(insecure_registries=(self.fake.addr,), **more)
        return asyncio.run(collect(self.image, opts, size, offset, urgent))

    def ranges(self) -> list[tuple[int, int]]:
        """What was asked for, in order of the offsets; (0, 0) for the whole blob."""
        asked = [seen.headers.get("Range", "bytes=0--1").removeprefix("bytes=") for seen in self.fake.gets("/blobs/")]
        return sorted((int(one.partition("-")[0]), int(one.partition("-")[2] or len(BLOB) - 1) + 1) for one in asked)


async def collect(image: Image, opts: RegistryOptions, size: int, offset: int, urgent: bool) -> tuple[bytes, Exception | None]:
    got = bytearray()
    async with RegistryClient(parse_reference(image.url), opts) as client:
        try:
            async for chunk in client.stream(image.layers[0], size, offset, is_urgent=lambda: urgent):
                assert 0 < len(chunk) <= MIB
                got += chunk
        except RegistryError as error:
            return bytes(got), error
    return bytes(got), None


def parts(offset: int = 0) -> list[tuple[int, int]]:
    return [(start, min(start + PART, len(BLOB))) for start in range(offset, len(BLOB), PART)]


@pytest.mark.parametrize("urgent", [True, False])
@pytest.mark.parametrize("offset", [0, 1, PART, PART + 3])
def test_each_part_is_asked_for_once(offset: int, urgent: bool) -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        assert case.stream(offset=offset, urgent=urgent) == (BLOB[offset:], None)
        assert case.ranges() == parts(offset)
        assert fake.sent_bytes("/blobs/") == len(BLOB) - offset


def test_what_is_not_large_comes_at_once() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        offset = len(BLOB) - LARGE + 1
        assert case.stream(offset=offset) == (BLOB[offset:], None)
        assert case.ranges() == [(offset, len(BLOB))]


def test_connections_that_are_slow_are_fast_together() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(rate=4 * MIB)
        took = []
        for urgent in (True, False):
            begun = time.monotonic()
            assert case.stream(urgent=urgent) == (BLOB, None)
            took.append(time.monotonic() - begun)
        assert took[0] < 0.6 * took[1], took


def test_a_server_without_ranges_gives_all_by_its_first_reply() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(ignore_range=True)
        assert case.stream() == (BLOB, None)
        assert len(case.ranges()) == 1 and fake.sent_bytes("/blobs/") == len(BLOB)


def test_a_server_that_forgets_ranges_is_read_in_one() -> None:
    """The first part came, the next ones are the whole blob."""
    with FakeRegistry() as fake:
        case = Case(fake)
        seen = []

        def hook(handler: Any) -> bool:
            seen.append(handler.headers.get("Range"))
            if len(seen) > 1:
                del handler.headers["Range"]
            return False

        case.fault(hook=hook)
        assert case.stream() == (BLOB, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"cut_after": 300_000},
        {"cut_after": 0},
        {"status": 503},
        {"content_range": "bytes 0-5/6"},
        {"stall_after": 100},
        {"length": PART + 5},
    ],
    ids=["cut", "nothing", "503", "other range", "stall", "length"],
)
def test_parts_that_break_go_on(fields: dict[str, Any]) -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(times=3, **fields)
        assert case.stream(stall_timeout=0.5) == (BLOB, None)


def test_what_is_broken_for_good_is_told_in_its_turn() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)

        def hook(handler: Any) -> bool:
            if handler.headers.get("Range", "").startswith(f"bytes={2 * PART}-"):
                handler.send_error(403)
                return True
            return False

        case.fault(hook=hook)
        got, error = case.stream()
        assert got == BLOB[: 2 * PART] and isinstance(error, RegistryError) and error.status == 403


@pytest.mark.parametrize("size", [len(BLOB) - 1, len(BLOB) + 1])
def test_a_blob_of_another_size(size: int) -> None:
    """What the caller is told then is as for a small one: one byte more, or fewer."""
    with FakeRegistry() as fake:
        got, error = Case(fake).stream(size)
        assert error is None and got == BLOB


def test_who_leaves_early_leaves_no_request() -> None:
    async def leave(image: Image, opts: RegistryOptions) -> int:
        async with RegistryClient(parse_reference(image.url), opts) as client:
            async with aclosing(client.stream(image.layers[0], len(BLOB), is_urgent=lambda: True)) as chunks:
                async for _ in chunks:
                    break
            await asyncio.sleep(0.05)
            return len(asyncio.all_tasks())

    with FakeRegistry() as fake:
        case = Case(fake)
        assert asyncio.run(leave(case.image, RegistryOptions(insecure_registries=(fake.addr,)))) == 1
        assert len(case.ranges()) <= 1 + AHEAD


def test_what_was_joined_and_wrong_is_asked_for_in_one() -> None:
    async def twice(image: Image, opts: RegistryOptions) -> list[int]:
        sizes = []
        async with RegistryClient(parse_reference(image.url), opts) as client:
            for _ in range(2):
                chunks = [chunk async for chunk in client.stream(image.layers[0], len(BLOB), is_urgent=lambda: True)]
                assert client.is_joined(image.layers[0]) == (not sizes)
                sizes.append(sum(map(len, chunks)))
        return sizes

    with FakeRegistry() as fake:
        case = Case(fake)
        assert asyncio.run(twice(case.image, RegistryOptions(insecure_registries=(fake.addr,)))) == [len(BLOB)] * 2
        assert case.ranges().count((0, 0)) == 1
