"""The header and variable by which a caller makes a command part of its trace (W3C Trace Context, section 3.2)."""

from __future__ import annotations

import re

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def trace_of(traceparent: str) -> str:
    """The trace's id, 32 hex digits; nothing if the value is not valid."""
    match = TRACEPARENT.fullmatch(traceparent)
    return match[1] if match and (match[2] is None or not traceparent.startswith("00")) else ""
