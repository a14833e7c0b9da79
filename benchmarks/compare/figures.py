"""Arithmetic: medians, percentiles and paired ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence


def median(values: Sequence[float]) -> float:
    """The median; of an even number the mean of the middle two."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of all values do not exceed. Raises ValueError for none."""
    if not values or not 0 < share <= 1:
        raise ValueError("a percentile needs values and a share above 0 and up to 1")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def paired_ratio(mine: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Median of the ratios of neighbours: values with the same round. None where no round has both."""
    ratios = [mine[number] / other[number] for number in mine if other.get(number)]
    return statistics.median(ratios) if ratios else None
