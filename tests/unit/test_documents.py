"""JSON and YAML: what is read, what is refused, and bounds."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast._core import format_json, parse_json, parse_yaml

SCALARS = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=12
)


@given(VALUES)
def test_reads_what_python_writes(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=2), json.dumps(value, ensure_ascii=False)):
        parsed = parse_json(text.encode())
        assert parsed == value and json.dumps(parsed) == json.dumps(value)


@given(VALUES)
def test_writes_what_python_reads(value: Any) -> None:
    text = format_json(value)
    assert json.loads(text) == value and parse_json(text.encode()) == value
    assert "\n" not in text and not set("<>&\u2028\u2029") & set(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_refusal(document: bytes) -> None:
    try:
        value = parse_json(document)
    except ValueError:
        return
    assert json.loads(document) == value


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"{'a':1}",
        b'{"a":1,}',
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"01",
        b"+1",
        b"1 2",
        b"{} x",
        b"nul",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\n"',
        b'"\\x41"',
        b"\xef\xbb\xbf{}",
        b"/* c */ {}",
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":{"a":1,"b":2,"a":1}}',
        b"\x00",
    ],
)
def test_refused_json(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(document)


def test_depth_of_json() -> None:
    assert parse_json(b"[" * 100 + b"]" * 100)
    for document in (b"[" * 200 + b"]" * 200, b"[" * 1_000_000, b'{"a":' * 100_000, b'[{"a":' * 500_000):
        start = time.monotonic()
        with pytest.raises(ValueError, match="recursion limit"):
            parse_json(document)
        assert time.monotonic() - start < 1


def test_many_keys_and_large_numbers() -> None:
    many = {f"key{i}": i for i in range(100_000)}
    assert parse_json(json.dumps(many).encode()) == many
    assert parse_json(b"18446744073709551615") == (1 << 64) - 1
    assert parse_json(b"-9223372036854775808") == -(1 << 63)
    assert parse_json(b"1e3") == 1000.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, True, None, 1.5, "x"], "b": {}}, '{"a":[1,true,null,1.5,"x"],"b":{}}'),
        ("<a&b>", '"\\u003ca\\u0026b\\u003e"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ('"\\\n\t\x00', '"\\"\\\\\\n\\t\\u0000"'),
        ((1, (2,)), "[1,[2]]"),
        ((1 << 64) - 1, str((1 << 64) - 1)),
        ("grüße", '"grüße"'),
        ("a\udcffb", '"a\ufffdb"'),
        ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
    ],
)
def test_format(value: object, text: str) -> None:
    assert format_json(value) == text


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), TypeError),
        ({1: 2}, TypeError),
        (b"x", TypeError),
        ({1, 2}, TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (1 << 64, ValueError),
        (-(1 << 63) - 1, ValueError),
    ],
)
def test_format_refuses(value: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        format_json(value)


def test_format_of_a_loop_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested too deeply"):
        format_json(loop)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# comment\n", None),
        ("~", None),
        ("a: 1\nb: -2\nc: text\nd: 1.5\n", {"a": 1, "b": -2, "c": "text", "d": "1.5"}),
        ("a: true\nb: False\nc: null\nd: yes\n", {"a": True, "b": False, "c": None, "d": "yes"}),
        ("a: '1'\nb: \"true\"\nc: 'null'\n", {"a": "1", "b": "true", "c": "null"}),
        ("a:\n  b:\n  - c\n  - d: e\n", {"a": {"b": ["c", {"d": "e"}]}}),
        ("a: [1, {b: c}]\n", {"a": [1, {"b": "c"}]}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("a: >-\n  one\n  two\n", {"a": "one two"}),
        ("---\na: b\n...\n", {"a": "b"}),
        ('{"json": [1, "x", null]}', {"json": [1, "x", None]}),
        ("1: a\n", {"1": "a"}),
        ("a: 99999999999999999999\n", {"a": "99999999999999999999"}),
        ("url: docker://h:5000/r:t\n", {"url": "docker://h:5000/r:t"}),
    ],
)
def test_yaml(text: str, value: object) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "a: 1\na: 2\n",
        "{a: 1, 'a': 2}",
        "a: 1\n---\nb: 2\n",
        "a: b: c",
        "a: [1",
        "a:\n\t- b\n",
        "'open",
        "[" * 66 + "]" * 66,
        "- " * 70 + "x",
        "a: " + "{a: " * 70 + "1" + "}" * 70,
        "a: !!python/object:os.system x\n",
        "a: !custom x\n",
    ],
)
def test_refused_yaml(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_yaml(text)


def test_yaml_bomb_and_depth_end_soon() -> None:
    layers = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    for text in (layers, "[" * 1_000_000, "{a: " * 300_000, "- " * 300_000):
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"\w"):
            parse_yaml(text)
        assert time.monotonic() - start < 2


@given(st.text(max_size=60))
def test_any_text_is_yaml_or_a_refusal(text: str) -> None:
    try:
        parse_yaml(text)
    except ValueError:
        pass


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(alphabet="abc xyz:-#'\"", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abcdef", min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_json_is_yaml(value: Any) -> None:
    assert parse_yaml(json.dumps(value)) == value
