"""A large blob over several connections at once, because an object store gives each of them 60 to 100 MB/s.

The blob is asked for in parts, each by one request with one range (RFC 9110, section 14.2). The part whose turn it is goes to the
caller as it comes; those after it wait in memory, so what the caller gets is one sequence as ever. A server that answers with the whole
blob (200) is read to its end by that one reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import aclosing

from ...errors import RegistryError
from .retry import Backoff
from .stream import Chunks, Opener, Position, transfer

PART = 8 << 20
"""Bytes of a part."""
AHEAD = 3
"""Parts that come beside the one whose turn it is, and lie in memory until theirs comes."""
LARGE = 8 * PART
"""Bytes that are still to come, from which on it is worth while."""


IsUrgent = Callable[[], bool]
"""Whether somebody waits for the blob's next bytes."""


def fetch(opener: Opener, position: Position, size: int | None, stall_timeout: float, backoff: Backoff, is_urgent: IsUrgent) -> Chunks:
    """As `transfer`; a large blob comes in parts, several at a time while it ``is_urgent``."""
    if size is None or size - position.offset < LARGE or not position.in_parts:
        return transfer(opener, position, size, stall_timeout, backoff)
    return _fetch_parts(opener, position, size, stall_timeout, backoff, is_urgent)


async def _fetch_parts(
    opener: Opener, position: Position, size: int, stall_timeout: float, backoff: Backoff, is_urgent: IsUrgent
) -> Chunks:
    try:
        async with aclosing(_fetch_ahead(opener, position, size, stall_timeout, backoff, is_urgent)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    except _NoPart:
        pass
    async with aclosing(transfer(opener, position, size, stall_timeout, backoff)) as chunks:
        async for chunk in chunks:
            yield chunk


class _NoPart(RegistryError):
    """The server gave parts of the blob, and now all of it."""


async def _fetch_ahead(
    opener: Opener, position: Position, size: int, stall_timeout: float, backoff: Backoff, is_urgent: IsUrgent
) -> Chunks:
    ahead: deque[_Part] = deque()
    try:
        while position.offset < size:
            piece = Position(position.offset, position.use_range, end=min(position.offset + PART, size))
            chunks = ahead.popleft().chunks() if ahead else transfer(opener, piece, size, stall_timeout, backoff)
            async with aclosing(chunks):
                async for chunk in chunks:
                    position.offset += len(chunk)
                    yield chunk
                    # Not before a part has come: then it is known that this server gives parts.
                    while piece.end is not None and len(ahead) < AHEAD and is_urgent():
                        start = ahead[-1].end if ahead else piece.end
                        if start >= size:
                            break
                        ahead.append(_Part(opener, start, min(start + PART, size), size, stall_timeout, backoff))
            if piece.end is None:
                return  # the whole blob, or what the server took for it
            position.is_joined = position.is_joined or position.offset < size
    finally:
        for part in ahead:
            part.cancel()


class _Part:
    """A part that comes before its turn."""

    def __init__(self, opener: Opener, start: int, end: int, size: int, stall_timeout: float, backoff: Backoff) -> None:
        self.start, self.end = start, end
        self._come: asyncio.Queue[bytes | None] = asyncio.Queue()
        position = Position(start, end=end)
        self._task = asyncio.get_running_loop().create_task(self._fetch(transfer(opener, position, size, stall_timeout, backoff), position))

    async def _fetch(self, chunks: Chunks, position: Position) -> None:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if position.end is None:
                        raise _NoPart("the server gave a part of a blob, and then all of it")
                    self._come.put_nowait(chunk)
        finally:
            self._come.put_nowait(None)

    async def chunks(self) -> Chunks:
        """What has come, and what comes. Raises why it does not."""
        try:
            while (chunk := await self._come.get()) is not None:
                yield chunk
            await self._task
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._task.cancel()
        # Else the loop complains of an exception that nobody asked for.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
