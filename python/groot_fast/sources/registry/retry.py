"""How often to try again, and how long to wait: three numbers and a predicate."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ...errors import RegistryError
from .failures import StatusError

T = TypeVar("T")

MAX_RETRY_AFTER = 60.0  # a server may ask for patience, not for a day


@dataclass(frozen=True, slots=True)
class Backoff:
    """``attempts`` in all; the n-th wait is about ``first * factor ** (n - 1)`` seconds: 0.1, 0.3, 1."""

    attempts: int = 4
    first: float = 0.1
    factor: float = 3.2

    def delay(self, failures: int, error: RegistryError) -> float:
        """Seconds to wait after the ``failures``-th failure in a row; a server's Retry-After wins, up to a cap."""
        if isinstance(error, StatusError) and error.retry_after is not None:
            return min(error.retry_after, MAX_RETRY_AFTER)
        # jitter, so that a cell full of creates does not come back as one wave
        return self.first * self.factor ** (failures - 1) * random.uniform(0.8, 1.2)


async def retrying(attempt: Callable[[], Awaitable[T]], backoff: Backoff) -> T:
    """Await ``attempt()`` until it succeeds, fails for good, or has used up its tries; raises its last error."""
    failures = 0
    while True:
        try:
            return await attempt()
        except RegistryError as error:
            failures += 1
            if not error.temporary or failures >= backoff.attempts:
                raise
            await asyncio.sleep(backoff.delay(failures, error))
