"""What a check finds, and the names by which it knows what belongs in a store."""

from __future__ import annotations

import os

ERROR, WARNING, NOTE = "error", "warning", "note"
"""Severities (`check`)."""


class Finding:
    """One thing that is not as it should be: what kind (`Repairs` goes by it), where, what is wrong, what helps."""

    __slots__ = ("cure", "kind", "path", "problem", "severity", "state")

    def __init__(self, severity: str, kind: str, path: str, problem: str, cure: str = "") -> None:
        self.severity = severity
        self.kind = kind
        self.path = path
        self.problem = problem
        self.cure = cure
        self.state = "found"
        """``found``, ``would be repaired``, ``repaired`` or ``remains``."""

    @property
    def counts(self) -> bool:
        """Whether the store is worse for it, as it is now."""
        return self.severity != NOTE and self.state != "repaired"

    @property
    def name(self) -> str:
        """Last component of the path."""
        return os.path.basename(self.path)


def is_chain_id(name: str) -> bool:
    """Whether a volume of ours or of the original's later releases can have this name."""
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def is_download(name: str) -> bool:
    """Whether a file in ``tmp`` is one of our downloads: ``blob-`` and 64 hex digits."""
    return name.startswith("blob-") and is_chain_id(name.removeprefix("blob-"))
