"""Options as Go programs take them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast.cli.commands import COMMANDS, GLOBALS
from groot_fast.cli.flags import INTEGER, LIST, SWITCH, TEXT, BadFlag, Flag, HelpWanted, parse

FLAGS = (Flag("text", TEXT, ""), Flag("count", INTEGER, ""), Flag("yes", SWITCH, ""), Flag("many", LIST, ""))


@pytest.mark.parametrize(
    ("argv", "given_options", "positional"),
    [
        ([], {}, []),
        (["a", "b"], {}, ["a", "b"]),
        (["--text", "v"], {"text": "v"}, []),
        (["-text", "v"], {"text": "v"}, []),
        (["--text=v=w"], {"text": "v=w"}, []),
        (["-text="], {"text": ""}, []),
        (["--text", "--yes"], {"text": "--yes"}, []),
        (["--text", ""], {"text": ""}, []),
        (["--text", "a", "--text", "b"], {"text": "b"}, []),
        (["--yes", "v"], {"yes": True}, ["v"]),
        (["--yes=false"], {"yes": False}, []),
        (["--yes=T"], {"yes": True}, []),
        (["--many", "a", "--many=b"], {"many": ["a", "b"]}, []),
        (["a", "--yes", "b"], {"yes": True}, ["a", "b"]),
        (["--", "--yes"], {}, ["--yes"]),
        (["a", "--", "--yes", "--"], {}, ["a", "--yes", "--"]),
        (["-"], {}, ["-"]),
        ([""], {}, [""]),
        (["--count", "-5"], {"count": -5}, []),
    ],
)
def test_accepted(argv: list[str], given_options: dict[str, object], positional: list[str]) -> None:
    assert parse(argv, FLAGS, stop_at_command=False) == (given_options, positional)


def test_stop_at_the_command() -> None:
    assert parse(["--yes", "create", "--text", "v"], FLAGS, stop_at_command=True) == ({"yes": True}, ["create", "--text", "v"])
    assert parse(["--", "create", "--yes"], FLAGS, stop_at_command=True) == ({}, ["create", "--yes"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["---yes"], "flag provided but not defined: --yes"),
        (["--=x"], "flag provided but not defined: -"),
        (["--text"], "flag needs an argument: -text"),
        (["--count", "x"], 'invalid value "x" for flag -count'),
        (["--yes=maybe"], 'invalid boolean value "maybe" for -yes'),
        (["--yes="], 'invalid boolean value "" for -yes'),
        (["--yes=TRue"], 'invalid boolean value "TRue" for -yes'),
    ],
)
def test_refused(argv: list[str], message: str) -> None:
    with pytest.raises(BadFlag) as caught:
        parse(argv, FLAGS, stop_at_command=False)
    assert str(caught.value) == message and caught.value.exit_code == 1


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["x", "--help"], ["--yes", "-help"]])
def test_help(argv: list[str]) -> None:
    with pytest.raises(HelpWanted):
        parse(argv, FLAGS, stop_at_command=False)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("10", 10),
        ("+10", 10),
        ("-10", -10),
        ("0x1F", 31),
        ("-0x1f", -31),
        ("010", 8),
        ("-010", -8),
        ("0o17", 15),
        ("0b101", 5),
        ("00", 0),
        ("9223372036854775807", (1 << 63) - 1),
        ("-9223372036854775808", -(1 << 63)),
    ],
)
def test_integers(text: str, number: int) -> None:
    assert parse(["--count", text], FLAGS, stop_at_command=False) == ({"count": number}, [])


@pytest.mark.parametrize(
    "text",
    ["", "-", "+", "1.5", "1e3", "08", "0x", "--5", "+-5", " 5", "5 ", "\uff15", "9223372036854775808", "-9223372036854775809", "x10"],
)
def test_no_integers(text: str) -> None:
    with pytest.raises(BadFlag):
        parse([f"--count={text}"], FLAGS, stop_at_command=False)


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_every_integer_of_64_bits(number: int) -> None:
    for text in (str(number), hex(number)):
        assert parse(["--count", text], FLAGS, stop_at_command=False) == ({"count": number}, [])


@given(st.lists(st.text()))
def test_never_anything_but_a_refusal(argv: list[str]) -> None:
    try:
        options, positional = parse(argv, FLAGS, stop_at_command=False)
    except (BadFlag, HelpWanted):
        return
    assert set(options) <= {"text", "count", "yes", "many"} and set(positional) <= set(argv)


def test_flags_of_the_commands_are_distinct() -> None:
    for flags in (GLOBALS, *(command.flags for command in COMMANDS)):
        names = [flag.name for flag in flags]
        assert len(names) == len(set(names)) and all(flag.help for flag in flags)
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
