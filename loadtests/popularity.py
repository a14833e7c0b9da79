"""Which app is asked for: a few often, most seldom (Zipf)."""

from __future__ import annotations

import bisect
import itertools
import random


class Popularity:
    """Draws ranks 0 to count - 1, rank r in proportion to 1 / (r + 1) ** exponent."""

    def __init__(self, count: int, exponent: float, seed: str) -> None:
        weights = [1 / (rank + 1) ** exponent for rank in range(count)]
        self._sums = list(itertools.accumulate(weights))
        self._source = random.Random(seed)

    def draw(self) -> int:
        """The rank of the next app asked for."""
        return bisect.bisect_right(self._sums, self._source.random() * self._sums[-1])
