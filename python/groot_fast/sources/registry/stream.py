"""A blob's bytes as one sequence, resumed where a transfer broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass

from ...errors import RegistryError
from .http import aiohttp
from .retry import Backoff
from .transport import Reply, read_chunks

_ENOUGH = 256 * 1024  # an attempt that brought this much was worth it and the count of failures starts again
STREAMABLE = frozenset({200, 206, 416})  # what `transfer` can judge; an opener raises for the rest
_MAX_BREAKS = 1000  # bound on attempts in all: a server that cuts after every 256 KiB is not served for ever

Chunks = AsyncGenerator[bytes, None]
Opener = Callable[[Mapping[str, str]], AbstractAsyncContextManager[Reply]]


@dataclass(slots=True)
class Position:
    """How far a blob has come. ``coding`` is what the server says its bytes are packed in, on top of what they are.

    Nodes of one CDN give one blob different ETags, so these are not looked at: the digest decides in the end.
    """

    offset: int = 0
    use_range: bool = True
    coding: str = ""
    is_joined: bool = False
    """Whether the bytes so far came in several pieces, which need not be of one blob."""
    end: int | None = None
    """Where the bytes end that are wanted, if not with the blob."""
    in_parts: bool = True
    """Whether it may be fetched in parts, if it is large."""


async def transfer(opener: Opener, position: Position, size: int | None, stall_timeout: float, backoff: Backoff) -> Chunks:
    """Yield bytes from ``position`` on, which is advanced; see `RegistryClient.stream` for what a caller sees."""
    failures = breaks = 0
    while size is None or position.offset < (size if position.end is None else position.end):
        before = position.offset
        try:
            async with aclosing(_attempt(opener, position, size, stall_timeout)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except RegistryError as error:
            breaks += 1
            failures = 1 if position.offset - before >= _ENOUGH else failures + 1
            if not error.temporary or failures >= backoff.attempts or breaks >= _MAX_BREAKS:
                raise
            position.is_joined = position.offset > 0
            delay = backoff.delay(failures, error)
        await asyncio.sleep(delay)


async def _attempt(opener: Opener, position: Position, size: int | None, stall_timeout: float) -> Chunks:
    headers: dict[str, str] = {}
    ranged = (position.offset > 0 or position.end is not None) and position.use_range
    if ranged:
        headers["Range"] = f"bytes={position.offset}-{'' if position.end is None else position.end - 1}"
    async with opener(headers) as (response, _):
        skip = _bytes_to_skip(response, position, size, ranged)
        if response.status == 200:
            position.end = None
        position.coding = response.headers.get("Content-Encoding", "")
        async with aclosing(read_chunks(response, stall_timeout)) as chunks:
            async for chunk in chunks:
                if skip:
                    fresh = chunk[skip:]
                    skip -= len(chunk) - len(fresh)
                    if not fresh:
                        continue
                else:
                    fresh = chunk
                room = None if size is None else (size if position.end is None else position.end) - position.offset
                if room is not None and len(fresh) > room:
                    # one byte too many tells the caller that the blob is longer; the rest is not worth fetching
                    position.offset += room + 1
                    yield fresh[: room + 1]
                    return
                position.offset += len(fresh)
                yield fresh
        framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        if skip or (size is not None and position.offset < (position.end or size) and (not framed or position.end is not None)):
            # a body that ends with the connection does not say whether it is whole
            raise RegistryError(f"connection closed after {position.offset} bytes of {size}", temporary=True)


def _bytes_to_skip(response: aiohttp.ClientResponse, position: Position, size: int | None, ranged: bool) -> int:
    """How many bytes of this 200 or 206 were had before; raises for a reply that cannot be continued."""
    if response.status == 206:
        if not ranged or not _is_rest(response.headers.get("Content-Range", ""), position.offset, size, position.end):
            position.use_range = False
            raise RegistryError("the server sent another range than asked for", status=206, temporary=True)
    elif response.status == 416:
        position.use_range = False
        raise RegistryError("the server refused to continue a transfer", status=416, temporary=True)
    return position.offset if response.status == 200 else 0


def _is_rest(content_range: str, offset: int, size: int | None, end: int | None) -> bool:
    """Whether a Content-Range is everything from ``offset`` to ``end`` (None: the blob's), and the blob ends where it should."""
    unit, _, value = content_range.strip().partition(" ")
    span, _, total = value.partition("/")
    first, _, last = span.partition("-")
    if unit.lower() != "bytes" or not all(part.isascii() and part.isdigit() for part in (first, last, total)):
        return False
    length = int(total) if len(total) < 20 else -1
    return (size is None or length == size) and first == str(offset) and last == str((length if end is None else end) - 1)
