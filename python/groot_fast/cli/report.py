"""Findings of check as text and as JSON."""

from __future__ import annotations

from groot_fast._core import format_json
from groot_fast.upkeep.findings import Finding


def as_text(found: list[Finding]) -> str:
    """One line a finding (control characters in names are escaped), and one with the sum."""
    return "\n".join([*map(_line, found), _sum(found)])


def _line(finding: Finding) -> str:
    text = f"{finding.severity}: {finding.kind}: {finding.path}: {finding.problem}"
    if finding.state not in ("found", "remains"):
        text += f" ({finding.state})"
    elif finding.cure:
        text += f" (cure: {finding.cure})"
    return "".join(char if char.isprintable() or "\udc80" <= char <= "\udcff" else ascii(char)[1:-1] for char in text)


def _sum(found: list[Finding]) -> str:
    left = [finding for finding in found if finding.state != "repaired"]
    counts = [(sum(finding.severity == severity for finding in left), severity) for severity in ("error", "warning", "note")]
    parts = [f"{count} {severity}{'' if count == 1 else 's'}" for count, severity in counts if count]
    repaired = len(found) - len(left)
    return ", ".join([*parts, *([f"{repaired} repaired"] if repaired else [])]) or "nothing found"


def as_json(found: list[Finding]) -> str:
    """An object with the list ``findings``; each has ``severity``, ``kind``, ``path``, ``problem``, ``cure`` and ``state``."""
    keys = ("severity", "kind", "path", "problem", "cure", "state")
    return format_json({"findings": [{key: getattr(finding, key) for key in keys} for finding in found]})
