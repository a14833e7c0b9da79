"""Options as Go programs take them: ``-name``, ``--name``, ``--name=value``, ``--name value`` (contract, section 2)."""

from __future__ import annotations

from groot_fast.errors import UsageError

Value = str | int | bool | list[str]

TEXT, INTEGER, SWITCH, LIST, COUNT = range(5)


class Flag:
    """One option: its name, kind, help text, and what the help shows as its default."""

    __slots__ = ("default", "help", "kind", "name", "setting")

    def __init__(self, name: str, kind: int, help: str, setting: str = "", default: str = "") -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.setting = setting or name.replace("-", "_")
        self.default = default


class BadFlag(UsageError):
    """An unknown option or a value of the wrong form; the caller shows the help."""


class HelpWanted(Exception):
    """``--help`` was given."""


def parse(argv: list[str], flags: tuple[Flag, ...], *, stop_at_command: bool) -> tuple[dict[str, Value], list[str]]:
    """Split ``argv`` into given options (by flag name) and positional arguments.

    With ``stop_at_command`` the first positional argument ends the options; else options may stand anywhere, as the
    original allows. ``--`` ends them in any case. Raises BadFlag, HelpWanted.
    """
    known = {flag.name: flag for flag in flags}
    given: dict[str, Value] = {}
    positional: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            return given, [*positional, *rest]
        if len(argument) < 2 or argument[0] != "-":
            positional.append(argument)
            if stop_at_command:
                return given, [*positional, *rest]
            continue
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if name in ("h", "help"):
            raise HelpWanted
        flag = known.get(name)
        if flag is None:
            raise BadFlag(f"flag provided but not defined: -{name}")
        if flag.kind == SWITCH:
            given[name] = _truth(name, value) if equals else True
            continue
        if not equals:
            following = next(rest, None)
            if following is None:
                raise BadFlag(f"flag needs an argument: -{name}")
            value = following
        if flag.kind in (INTEGER, COUNT):
            given[name] = _integer(name, value)
        elif flag.kind == LIST:
            earlier = given.setdefault(name, [])
            assert isinstance(earlier, list)
            earlier.append(value)
        else:
            given[name] = value
    return given, positional


def _truth(name: str, value: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise BadFlag(f'invalid boolean value "{value}" for -{name}')


def _integer(name: str, value: str) -> int:
    """Go's syntax: decimal, ``0x``, a leading ``0`` for octal; 64 bits with sign."""
    digits = value.removeprefix("-").removeprefix("+")
    try:
        if not digits.isascii() or not digits[:1].isalnum() or digits != digits.strip() or len(value) - len(digits) > 1:
            raise ValueError
        old_octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdecimal()
        number = int(digits, 8) if old_octal else int(digits, 0)
        number = -number if value.startswith("-") else number
        if not -(1 << 63) <= number < 1 << 63:
            raise ValueError
    except ValueError:
        raise BadFlag(f'invalid value "{value}" for flag -{name}') from None
    return number
