"""Streams that break: F6, F7, F11 and the sizes of E3."""

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

KIB, MIB = 1024, 1024 * 1024
BLOB = os.urandom(3 * MIB + 17)


async def collect(image: Image, opts: RegistryOptions, size: int | None, offset: int) -> tuple[bytearray, Exception | None]:
    got = bytearray()
    async with RegistryClient(parse_reference(image.url), opts) as client:
        try:
            async for chunk in client.stream(image.layers[0], size, offset):
                assert 0 < len(chunk) <= MIB
                got += chunk
        except RegistryError as error:
            return got, error
    return got, None


class Case:
    """A fake registry with one layer, and a client to stream it."""

    def __init__(self, fake: FakeRegistry, blob: bytes = BLOB) -> None:
        self.fake = fake
        self.image = fake.add("app", [blob])
        self.blob = blob

    def fault(self, times: int = 1_000_000, **fields: Any) -> None:
        self.fake.fault(self.image.layers[0], Fault(**fields), times)

    def stream(self, size: int | None = -1, offset: int = 0, **more: Any) -> tuple[bytes, Exception | None]:
        opts = RegistryOptions(insecure_registries=(self.fake.addr,), **more)
        got, error = asyncio.run(collect(self.image, opts, len(self.blob) if size == -1 else size, offset))
        return bytes(got), error

    def ranges(self) -> list[str | None]:
        return [seen.headers.get("Range") for seen in self.fake.gets("/blobs/")]


@pytest.mark.parametrize("offset", [0, 1, MIB, len(BLOB) - 1])
@pytest.mark.parametrize("size", [len(BLOB), None])
def test_a_stream_from_an_offset(offset: int, size: int | None) -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        assert case.stream(size, offset) == (BLOB[offset:], None)
        assert case.ranges() == [f"bytes={offset}-" if offset else None]
        assert fake.sent_bytes("/blobs/") == len(BLOB) - offset


def test_nothing_is_requested_when_everything_is_there() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        assert case.stream(offset=len(BLOB)) == (b"", None)
        assert fake.seen == []


def test_E9_an_offset_outside_the_blob_is_a_mistake_of_the_caller() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        for size, offset in ((5, 6), (None, -1), (-1 - MIB, 0)):
            with pytest.raises(ValueError, match="is not within"):
                case.stream(size, offset)


@pytest.mark.parametrize("size", [0, 1, 100, len(BLOB) - 1])
def test_E3_a_blob_that_is_longer_gives_one_byte_more(size: int) -> None:
    with FakeRegistry() as fake:
        got, error = Case(fake).stream(size)
        assert error is None
        assert got == (BLOB[: size + 1] if size else b"")


def test_E3_a_blob_that_is_shorter_ends_early_and_is_not_asked_for_again() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        assert case.stream(len(BLOB) + 1) == (BLOB, None)
        assert len(case.ranges()) == 1


def test_F7_a_cut_transfer_goes_on_where_it_was() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(times=2, cut_after=MIB)
        assert case.stream() == (BLOB, None)
        assert case.ranges() == [None, f"bytes={MIB}-", f"bytes={2 * MIB}-"]
        assert fake.sent_bytes("/blobs/") == len(BLOB)


def test_F7_reset_at_every_mebibyte() -> None:
    with FakeRegistry() as fake:
        case = Case(fake, os.urandom(12 * MIB))
        case.fault(cut_after=MIB)  # more breaks than `attempts`, each with progress
        assert case.stream() == (case.blob, None)
        assert len(case.ranges()) == 12


def test_F7_cuts_without_progress_end() -> None:
    with FakeRegistry() as fake:
        case = Case(fake, BLOB[: 100 * KIB])
        case.fault(cut_after=KIB)
        got, error = case.stream()
        assert got == case.blob[: 4 * KIB]
        assert isinstance(error, RegistryError)
        assert error.temporary
        assert len(case.ranges()) == 4


def test_F7_cut_at_half_for_ever_and_range_ignored() -> None:
    with FakeRegistry() as fake:
        case = Case(fake, BLOB[: 300 * KIB])
        case.fault(cut_after=150 * KIB, ignore_range=True)
        began = time.monotonic()
        got, error = case.stream()
        assert got == case.blob[: 150 * KIB]
        assert "broke in the middle" in str(error)
        assert len(case.ranges()) == 4
        assert time.monotonic() - began < 20


def test_F7_a_big_blob_cut_at_half_for_ever_and_range_ignored() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(cut_after=2 * MIB, ignore_range=True)
        got, error = case.stream()
        assert got == BLOB[: 2 * MIB]
        assert error is not None
        assert len(case.ranges()) == 4


def test_F7_a_stall_ends_by_the_stall_timeout() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(stall_after=MIB)
        began = time.monotonic()
        got, error = case.stream(stall_timeout=0.3, attempts=1)
        assert got == BLOB[:MIB]
        assert "transfer stalled" in str(error)
        assert time.monotonic() - began < 5


def test_F7_a_stalled_transfer_is_resumed() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(times=1, stall_after=MIB)
        assert case.stream(stall_timeout=0.3) == (BLOB, None)
        assert case.ranges() == [None, f"bytes={MIB}-"]


def test_F7_one_byte_at_a_time_is_a_stall() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(drip=0.05)
        began = time.monotonic()
        got, error = case.stream(stall_timeout=0.5, attempts=2)
        assert BLOB.startswith(got)
        assert 0 < len(got) < 100
        assert "transfer stalled" in str(error)
        assert time.monotonic() - began < 10


def test_F7_a_slow_consumer_is_not_a_stall() -> None:
    async def run(case: Case) -> int:
        opts = RegistryOptions(insecure_registries=(case.fake.addr,), stall_timeout=0.2, attempts=1)
        total = 0
        async with RegistryClient(parse_reference(case.image.url), opts) as client:
            async for chunk in client.stream(case.image.layers[0], len(case.blob)):
                total += len(chunk)
                if total < 2 * MIB:
                    await asyncio.sleep(0.25)
        return total

    with FakeRegistry() as fake:
        case = Case(fake, os.urandom(4 * MIB))
        assert asyncio.run(run(case)) == 4 * MIB


def test_F7_no_first_byte() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(hook=lambda handler: handler.fake.wait_for_the_end() or True)
        began = time.monotonic()
        got, error = case.stream(connect_timeout=0.2, response_timeout=0.2, attempts=1)
        assert (got, str(error)) == (b"", f"{fake.addr} did not answer in time")
        assert time.monotonic() - began < 5


def test_F6_a_200_to_a_range_request_is_read_up_to_the_offset() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(times=1, cut_after=MIB)
        case.fault(ignore_range=True)
        assert case.stream() == (BLOB, None)
        assert case.ranges() == [None, f"bytes={MIB}-"]


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}",
        f"bytes {MIB + 1}-{len(BLOB) - 1}/{len(BLOB)}",
        f"bytes {MIB}-{len(BLOB) - 2}/{len(BLOB)}",
        f"bytes {MIB}-{len(BLOB) - 1}/*",
        f"bytes {MIB}-{len(BLOB)}/{len(BLOB) + 1}",
        f"bytes {MIB}-{MIB}/{len(BLOB)}",
        f"items {MIB}-{len(BLOB) - 1}/{len(BLOB)}",
        f"bytes */{len(BLOB)}",
        "bytes",
        "nonsense",
    ],
)
def test_F6_a_206_with_a_wrong_range_is_never_appended(content_range: str) -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(content_range=content_range)
        assert case.stream(offset=MIB) == (BLOB[MIB:], None)
        assert case.ranges() == [f"bytes={MIB}-", None]  # and the second time without Range, reading up to there


def test_F6_a_206_nobody_asked_for() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(status=206, headers={"Content-Range": f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"})
        got, error = case.stream(attempts=2)
        assert (got, str(error)) == (b"", "the server sent another range than asked for")


def test_F6_a_416_starts_again_without_range() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(times=1, status=416)
        assert case.stream(offset=MIB) == (BLOB[MIB:], None)
        assert case.ranges() == [f"bytes={MIB}-", None]
        case.fault(status=416)
        assert case.stream(offset=MIB, attempts=2)[0] == b""


@pytest.mark.parametrize("etags", [('"node-1"', '"node-2"'), ('W/"weak"', 'W/"other"')])
def test_F6_nodes_with_different_etags_continue_each_other(etags: tuple[str, str]) -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(times=1, cut_after=MIB, headers={"ETag": etags[0]})
        case.fault(headers={"ETag": etags[1]})
        assert case.stream() == (BLOB, None)
        assert case.ranges() == [None, f"bytes={MIB}-"]
        assert "If-Range" not in fake.gets("/blobs/")[1].headers


def test_F11_bytes_after_content_length_are_not_the_blobs() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(length=1000)
        got, error = case.stream(attempts=2)
        # by the timing of packets, the surplus is a malformed next reply or is never looked at
        assert (len(got), error) == (1000, None) or (got == b"" and "malformed HTTP reply" in str(error))
        assert BLOB.startswith(got)


def test_F11_a_blob_cut_by_an_honest_content_length_is_short() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(body=BLOB[:1000])
        assert case.stream() == (BLOB[:1000], None)  # the caller sees that this is less than the size
        assert len(case.ranges()) == 1


def test_F11_content_length_too_large_is_a_broken_transfer() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(length=len(BLOB) + 5)
        # every byte there is came; the five that were promised are not needed
        assert case.stream() == (BLOB, None)
        got, error = case.stream(None, attempts=2)
        assert got == BLOB
        assert error is not None


def test_F11_a_chunked_body_without_its_last_chunk() -> None:
    with FakeRegistry() as fake:
        case = Case(fake, BLOB[:1000])
        case.fault(times=1, chunked_cut=True, body=BLOB[:400])
        assert case.stream() == (case.blob, None)
        assert case.ranges() == [None, "bytes=400-"]


def test_F11_a_body_that_ends_with_the_connection_may_be_cut() -> None:
    with FakeRegistry() as fake:
        case = Case(fake, BLOB[:1000])
        case.fault(times=1, unframed=True, body=BLOB[:400])
        assert case.stream() == (case.blob, None)
        case.fault(unframed=True, body=BLOB[:400], ignore_range=True)
        got, error = case.stream(attempts=2)
        assert got == case.blob[:400]
        assert str(error) == "connection closed after 400 bytes of 1000"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_F11_content_encoding_is_not_undone(coding: str) -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(headers={"Content-Encoding": coding})
        assert case.stream() == (BLOB, None)
        assert fake.gets("/blobs/")[0].headers["Accept-Encoding"] == "identity"


def test_F5_an_endless_blob_stops_at_its_size() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(endless=True)
        got, error = case.stream(MIB)
        assert (len(got), error) == (MIB + 1, None)
        assert fake.sent_bytes("/blobs/") < 32 * MIB


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_F8_server_errors_then_success(failures: int) -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(times=failures, status=500)
        assert case.stream() == (BLOB, None)


def test_F8_lasting_server_errors_fail() -> None:
    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(status=500)
        got, error = case.stream()
        assert got == b""
        assert str(error) == "Invalid status code returned when fetching blob 500 (Internal Server Error)"
        assert len(case.ranges()) == 4


def test_streams_run_at_once_and_are_limited() -> None:
    peak, now = 0, 0

    async def run(fake: FakeRegistry, images: list[Image]) -> None:
        opts = RegistryOptions(insecure_registries=(fake.addr,), max_connections=3)

        async def one(client: RegistryClient, image: Image) -> None:
            nonlocal peak, now
            first = True
            async for _ in client.stream(image.layers[0], 300 * KIB):
                if first:
                    now, first = now + 1, False
                    peak = max(peak, now)
                    await asyncio.sleep(0.05)
            now -= 1

        async with RegistryClient(parse_reference(images[0].url), opts) as client:
            await asyncio.gather(*(one(client, image) for image in images))

    with FakeRegistry() as fake:
        images = [fake.add("app", [os.urandom(300 * KIB)], f"t{number}") for number in range(10)]
        asyncio.run(run(fake, images))
        assert peak == 3
        assert len(fake.gets("/v2/")) == 11  # one ping for all


def test_a_stream_left_early_gives_its_slot_back() -> None:
    async def run(case: Case) -> bytes:
        opts = RegistryOptions(insecure_registries=(case.fake.addr,), max_connections=1)
        async with RegistryClient(parse_reference(case.image.url), opts) as client:
            async with aclosing(client.stream(case.image.layers[0], len(BLOB))) as chunks:
                async for _ in chunks:
                    break
            return await client.blob(case.image.config_digest, len(case.image.config), 1000)

    with FakeRegistry() as fake:
        case = Case(fake)
        assert asyncio.run(asyncio.wait_for(run(case), 10)) == case.image.config


def test_a_cancelled_stream_ends_at_once() -> None:
    async def run(case: Case) -> None:
        opts = RegistryOptions(insecure_registries=(case.fake.addr,))
        async with RegistryClient(parse_reference(case.image.url), opts) as client:
            async with asyncio.timeout(0.3):
                async for _ in client.stream(case.image.layers[0], len(BLOB)):
                    pass

    with FakeRegistry() as fake:
        case = Case(fake)
        case.fault(stall_after=1000)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            asyncio.run(run(case))
        assert time.monotonic() - began < 3
