"""Requests, held against ``openapi.json``: as much of JSON Schema as it uses for them."""

from __future__ import annotations

import re
from typing import Any

from groot_fast.errors import UsageError

Schema = dict[str, Any]

TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool, "array": list}
EXPLAINED = ("id",)
"""What the operation itself says everything about but NUL, in the words of the command line."""


def check_object(body: object, schema: Schema) -> dict[str, Any]:
    """The body of a request, if it is as ``schema`` wants it. Raises UsageError."""
    if not isinstance(body, dict):
        raise UsageError("the body is not a JSON object")
    properties: dict[str, Schema] = schema["properties"]
    for name in body:
        if name not in properties:
            raise UsageError(f"unknown field `{name}`")
    for name in schema.get("required", []):
        if name not in body:
            raise UsageError(f"`{name}` is missing")
    return {name: check_value(name, value, properties[name]) for name, value in body.items()}


def check_value(name: str, value: Any, schema: Schema) -> Any:
    """The value, if ``schema`` allows it; but a limit below zero, mappings and policies that there are none of are left to the
    settings, whose words are those of the command line. Raises UsageError."""
    wanted = schema["type"]
    if wanted == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON there is one kind of numbers
    # By JSON's types: true is no number.
    if type(value) is not TYPES[wanted]:
        raise UsageError(f"`{name}` must be of type {wanted}")
    if isinstance(value, str):
        if "\0" in value:
            raise UsageError(f"`{name}` must not hold a NUL character")
        if name not in EXPLAINED and len(value) > schema["maxLength"]:
            raise UsageError(f"`{name}` is longer than {schema['maxLength']} characters")
    elif isinstance(value, list):
        if len(value) > schema["maxItems"]:
            raise UsageError(f"`{name}` has more than {schema['maxItems']} items")
        for item in value:
            check_value(f"{name}[]", item, schema["items"])
    elif wanted == "integer" and value > schema["maximum"]:
        raise UsageError(f"`{name}` is larger than {schema['maximum']}")
    return value


def is_id(text: str, schema: Schema) -> bool:
    """Whether an image can have this id. What is wrong with one that it cannot have says the operation."""
    return len(text.encode()) <= schema["maxLength"] and re.fullmatch(schema["pattern"], text) is not None
