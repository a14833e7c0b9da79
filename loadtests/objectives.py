"""Objectives: bounds on figures, from a YAML file, and whether a result keeps them.

    objectives:
      - figure: create.p99_over_median
        at_most: 3
        why: a storm must not let single apps wait

Exactly one of ``at_most`` and ``at_least`` each; ``unless`` may hold another objective, which is enough. A figure that was not
measured fails its objective: silence is no success.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groot_fast._core import parse_yaml

FOLDER = Path(__file__).with_name("objectives")
BOUNDS = ("at_most", "at_least")


class BadObjectives(ValueError):
    """A file that is not what the module says; the text names the file and what is wrong."""


@dataclass(frozen=True)
class Objective:
    """A bound on one figure."""

    figure: str
    bound: str
    """`at_most` or `at_least`."""

    value: float
    why: str
    unless: Objective | None = None
    """If this one is kept, the other need not be."""


def read_objectives(file: Path) -> list[Objective]:
    """Read a file. Raises BadObjectives, OSError."""
    try:
        document = parse_yaml(file.read_text())
    except ValueError as error:
        raise BadObjectives(f"{file}: {error}") from None
    entries = document.get("objectives") if isinstance(document, dict) and set(document) == {"objectives"} else None
    if not isinstance(entries, list) or not entries:
        raise BadObjectives(f"{file}: expected one key, `objectives`, with a list")
    return [_read(file, entry) for entry in entries]


def _read(file: Path, entry: Any) -> Objective:
    if not isinstance(entry, dict) or not isinstance(entry.get("figure"), str):
        raise BadObjectives(f"{file}: an objective needs a `figure`: {entry!r}")
    bounds = [bound for bound in BOUNDS if bound in entry]
    unknown = set(entry) - {"figure", "why", "unless", *BOUNDS}
    if len(bounds) != 1 or unknown:
        raise BadObjectives(f"{file}: `{entry['figure']}` needs one of at_most and at_least, and nothing else but `why` and `unless`")
    try:
        # The parser reads whole numbers and leaves others as text.
        value = float(str(entry[bounds[0]]))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadObjectives(f"{file}: the bound of `{entry['figure']}` is not a number")
    unless = _read(file, entry["unless"]) if "unless" in entry else None
    return Objective(entry["figure"], bounds[0], value, str(entry.get("why", "")), unless)


def judge(objectives: list[Objective], figures: dict[str, float | None]) -> list[dict[str, Any]]:
    """Each objective with ``measured`` (a number or None) and ``passed``."""
    verdict = []
    for objective in objectives:
        kept = _is_kept(objective, figures) or (objective.unless is not None and _is_kept(objective.unless, figures))
        verdict.append({**asdict(objective), "measured": figures.get(objective.figure), "passed": kept})
    return verdict


def _is_kept(objective: Objective, figures: dict[str, float | None]) -> bool:
    measured = figures.get(objective.figure)
    if measured is None:
        return False
    return measured <= objective.value if objective.bound == "at_most" else measured >= objective.value
