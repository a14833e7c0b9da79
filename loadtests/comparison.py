"""Two results side by side."""

from __future__ import annotations

from dataclasses import dataclass

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Row:
    """One figure of two results."""

    figure: str
    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        """After over before; None where one is missing or there is nothing to divide by."""
        return self.after / self.before if self.before and self.after is not None else None


def compare(before: Figures, after: Figures) -> list[Row]:
    """A row for each figure that one of the results has."""
    return [Row(name, before.get(name), after.get(name)) for name in dict.fromkeys((*before, *after))]
