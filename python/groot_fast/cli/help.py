"""Help texts."""

from __future__ import annotations

from groot_fast.cli.flags import COUNT, INTEGER, LIST, SWITCH, TEXT, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.cli.commands import Command


def app_help(commands: tuple[Command, ...], flags: tuple[Flag, ...], version: str) -> str:
    """The text of ``grootfs --help``."""
    visible = [command for command in commands if not command.hidden]
    width = max(len(command.name) for command in visible)
    lines = [f"     {command.name:<{width}}  {command.summary}" for command in visible]
    return "\n".join(
        [
            "NAME:",
            "   grootfs - root file systems for containers, on BTRFS",
            "",
            "USAGE:",
            "   grootfs [global options] command [command options] [arguments...]",
            "",
            "VERSION:",
            f"   {version}",
            "",
            "COMMANDS:",
            *lines,
            f"     {'help, h':<{width}}  Shows a list of commands or help for one command",
            "",
            "GLOBAL OPTIONS:",
            *flag_lines(flags),
            f"   {'--help, -h':<28}  show help",
            f"   {'--version, -v':<28}  print the version",
        ]
    )


def command_help(command: Command) -> str:
    """The text of ``grootfs COMMAND --help``."""
    usage = f"   grootfs {command.name} [command options] {command.arguments}".rstrip()
    lines = ["NAME:", f"   grootfs {command.name} - {command.summary}", "", "USAGE:", usage]
    if command.description:
        lines += ["", "DESCRIPTION:", *(f"   {line}" for line in command.description.splitlines())]
    if command.flags:
        lines += ["", "OPTIONS:", *flag_lines(command.flags)]
    if command.examples:
        lines += ["", "EXAMPLES:", *(f"   {line}" for line in command.examples.splitlines())]
    return "\n".join(lines)


VALUES = {TEXT: " value", INTEGER: " bytes", LIST: " value", SWITCH: "", COUNT: " number"}


def flag_lines(flags: tuple[Flag, ...]) -> list[str]:
    """One line an option."""
    lines = []
    for flag in flags:
        default = f" (default: {flag.default})" if flag.default else ""
        many = " (may be given several times)" if flag.kind == LIST else ""
        lines.append(f"   {'--' + flag.name + VALUES[flag.kind]:<28}  {flag.help}{many}{default}")
    return lines
