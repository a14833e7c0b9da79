"""JSON from strangers: manifests, indexes, token replies, error bodies.

Everything that parses such bytes calls `parse_document`, so the parser can be swapped in one place.
"""

from __future__ import annotations

import json
from typing import NoReturn

from ...errors import BadImage, LimitExceeded

MAX_BYTES = 4 * 1024 * 1024  # what registries themselves accept for a manifest
MAX_DEPTH = 32  # real documents stay below 8
_MAX_INTEGER = 2**63 - 1  # beyond that, parsers in other languages read another number


def parse_document(body: bytes, what: str) -> dict[str, object]:
    """Parse one JSON object; ``what`` names it in messages.

    Raises `LimitExceeded` above `MAX_BYTES`, and `BadImage` for anything two parsers could read differently or that
    could hurt this one: not UTF-8, not an object, deeper than `MAX_DEPTH`, duplicate keys, NaN or Infinity, numbers
    beyond 64 bits, lone surrogates.
    """
    if len(body) > MAX_BYTES:
        raise LimitExceeded(f"{what} is {len(body)} bytes long, more than the limit of {MAX_BYTES}")

    def refuse_constant(text: str) -> NoReturn:
        raise BadImage(f"{what} is not valid JSON: {text} is no number")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise BadImage(f"{what} has an object with a duplicate key")
        return result

    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise BadImage(f"{what} is not UTF-8") from None
    except RecursionError:
        raise BadImage(f"{what} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise BadImage(f"{what} is not valid JSON: {error.msg} at position {error.pos}") from None
    except ValueError:  # an integer of more digits than Python converts
        raise BadImage(f"{what} holds a number out of range") from None
    if not isinstance(document, dict):
        raise BadImage(f"{what} is not a JSON object")
    _check(document, what)
    return document


def _check(document: object, what: str) -> None:
    """Walk without recursion: the depth is a stranger's choice."""
    level = [document]
    for _ in range(MAX_DEPTH):
        deeper: list[object] = []
        for value in level:
            if isinstance(value, dict):
                deeper.extend(value)
                deeper.extend(value.values())
            elif isinstance(value, list):
                deeper.extend(value)
            elif isinstance(value, str):
                _check_text(value, what)
            elif isinstance(value, int | float) and not abs(value) <= _MAX_INTEGER:  # NaN and infinity fail this too
                raise BadImage(f"{what} holds a number out of range")
        if not deeper:
            return
        level = deeper
    raise BadImage(f"{what} is nested too deeply")


def _check_text(value: str, what: str) -> None:
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate would fail later, when the text is written somewhere
        raise BadImage(f"{what} holds text that is not valid Unicode") from None
