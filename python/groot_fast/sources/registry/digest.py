"""Digests: one spelling is accepted, everything else never reaches a path or a URL (CVE-2024-3727)."""

from __future__ import annotations

from ...errors import BadImage

_PREFIX = "sha256:"
_HEX = frozenset("0123456789abcdef")


def parse_digest(text: object) -> str:
    """Return ``text`` if it is ``sha256:`` and 64 lower-case hexadecimal digits.

    Takes any object, since digests come out of JSON. Raises `BadImage` for everything else.
    """
    if not isinstance(text, str):
        raise BadImage(f"invalid digest: expected a string, not {type(text).__name__}")
    if len(text) == 71 and text.startswith(_PREFIX) and _HEX.issuperset(text[7:]):
        return text
    # repr: a digest from a stranger may hold newlines or terminal escapes
    shown = ascii(text if len(text) <= 80 else text[:77] + "...")
    raise BadImage(f"invalid digest {shown}: expected sha256: and 64 lower-case hexadecimal digits")
