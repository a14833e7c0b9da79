"""Completion files for bash, zsh and fish, and the manual page: all made from the table of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groot_fast.cli.flags import COUNT, INTEGER, LIST, SWITCH, Flag

if TYPE_CHECKING:
    from groot_fast.cli.commands import Command

PATHS = {"config", "store", "log-file", "metrics-file", "socket", "drax-bin", "newuidmap-bin", "newgidmap-bin", "btrfs-progs-path"}
"""Options whose value is a path."""
TAKES_ID = {"delete", "stats"}
HELP = Flag("help", SWITCH, "show help")


def bash(commands: tuple[Command, ...], flags: tuple[Flag, ...]) -> str:
    """A file for ``bash-completion/completions``."""
    cases = "\n".join(
        f"        {command.name}) options='{_options((*command.flags, HELP))}' valued='{_valued(command.flags)}' ;;" for command in commands
    )
    return f"""# bash completion for grootfs, made by `grootfs completion bash`

_grootfs() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local global_options='{_options((*flags, HELP))} --version' global_valued='{_valued(flags)}'
    local command='' store=/var/lib/grootfs options valued i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            --store) store=${{COMP_WORDS[++i]}} ;;
            -*) [[ " $global_valued " == *" ${{COMP_WORDS[i]}} "* ]] && ((i++)) ;;
            *) command=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    COMPREPLY=()
    case "$command" in
        '') options=$global_options valued=$global_valued ;;
{cases}
        help | h) COMPREPLY=($(compgen -W '{_names(commands)}' -- "$cur")); return ;;
        *) return ;;
    esac
    if [[ " $valued " == *" $prev "* ]]; then
        case "$prev" in
            {" | ".join(sorted(f"--{name}" for name in PATHS))}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
        esac
    elif [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    else
        case "$command" in
            '') COMPREPLY=($(compgen -W '{_names(commands)} help' -- "$cur")) ;;
            {" | ".join(sorted(TAKES_ID))}) COMPREPLY=($(compgen -W "$(command ls "$store/images" 2>/dev/null)" -- "$cur")) ;;
            create) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
            completion) COMPREPLY=($(compgen -W '{" ".join(SHELLS)}' -- "$cur")) ;;
        esac
    fi
}}

complete -F _grootfs grootfs
"""


def zsh(commands: tuple[Command, ...], flags: tuple[Flag, ...]) -> str:
    """A file for ``zsh/site-functions`` (its name there is ``_grootfs``)."""
    described = "\n".join(f"        {_zsh_quote(f'{command.name}:{command.summary}')}" for command in commands)
    own = ["'--version[print the version]'", "'1: :->command'", "'*:: :->arguments'"]
    arguments = _zsh_lines([*_zsh_specs(flags), *own], 8)
    cases = "\n".join(
        f"            {command.name})\n"
        f"                _arguments{_zsh_lines([*_zsh_specs(command.flags), *_zsh_rest(command)], 20)}\n"
        f"                ;;"
        for command in commands
    )
    return f"""#compdef grootfs
# zsh completion for grootfs, made by `grootfs completion zsh`

_grootfs() {{
    local context state state_descr line
    typeset -A opt_args
    local -a commands=(
{described}
        'help:show the commands, or the help of one'
    )
    _arguments -C{arguments}
    case $state in
        command) _describe -t commands command commands ;;
        arguments)
            case $words[1] in
{cases}
            help) _describe -t commands command commands ;;
            esac
            ;;
    esac
}}

_grootfs "$@"
"""


def _zsh_lines(words: list[str], indent: int) -> str:
    """The words, each on a continued line of its own."""
    return "".join(f" \\\n{' ' * indent}{word}" for word in words)


def _zsh_specs(flags: tuple[Flag, ...]) -> list[str]:
    specs = []
    for flag in (*flags, HELP):
        many = "\\*" if flag.kind == LIST else ""
        text = flag.help.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
        value = "" if flag.kind == SWITCH else ":path:_files" if flag.name in PATHS else ":value: "
        specs.append(f"{many}{_zsh_quote(f'--{flag.name}[{text}]{value}')}")
    return specs


def _zsh_rest(command: Command) -> list[str]:
    if command.name == "completion":
        return [f"'1:shell:({' '.join(SHELLS)})'"]
    if command.name == "create":
        return ["'1:image:_files'", "'2:id: '"]
    if command.name in TAKES_ID:
        return ["'1:id:{compadd -- ${opt_args[--store]:-/var/lib/grootfs}/images/*(N:t)}'"]
    return ["'*: :'"]


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish(commands: tuple[Command, ...], flags: tuple[Flag, ...]) -> str:
    """A file for ``fish/vendor_completions.d``."""
    lines = ["# fish completion for grootfs, made by `grootfs completion fish`", "complete -c grootfs -f"]
    lines += [_fish_option("__fish_use_subcommand", flag) for flag in (*flags, Flag("version", SWITCH, "print the version"), HELP)]
    for command in commands:
        lines.append(f"complete -c grootfs -n __fish_use_subcommand -a {command.name} -d {_fish_quote(command.summary)}")
        seen = f"__fish_seen_subcommand_from {command.name}"
        lines += [_fish_option(seen, flag) for flag in (*command.flags, HELP)]
        if command.name in TAKES_ID:
            lines.append(f"complete -c grootfs -n {_fish_quote(seen)} -a '(command ls /var/lib/grootfs/images 2>/dev/null)'")
        elif command.name == "create":
            lines.append(f"complete -c grootfs -n {_fish_quote(seen)} -F")
        elif command.name == "completion":
            lines.append(f"complete -c grootfs -n {_fish_quote(seen)} -a {_fish_quote(' '.join(SHELLS))}")
    lines.append("complete -c grootfs -n __fish_use_subcommand -a help -d 'show the commands, or the help of one'")
    lines.append(f"complete -c grootfs -n '__fish_seen_subcommand_from help' -a {_fish_quote(_names(commands))}")
    return "\n".join(lines) + "\n"


def _fish_option(condition: str, flag: Flag) -> str:
    value = "" if flag.kind == SWITCH else " -r -F" if flag.name in PATHS else " -x"
    return f"complete -c grootfs -n {_fish_quote(condition)} -l {flag.name}{value} -d {_fish_quote(flag.help)}"


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _options(flags: tuple[Flag, ...]) -> str:
    return " ".join(f"--{flag.name}" for flag in flags)


def _valued(flags: tuple[Flag, ...]) -> str:
    return " ".join(f"--{flag.name}" for flag in flags if flag.kind != SWITCH)


def _names(commands: tuple[Command, ...]) -> str:
    return " ".join(command.name for command in commands)


def man(commands: tuple[Command, ...], flags: tuple[Flag, ...], version: str) -> str:
    """The manual page grootfs(8), for the man macros."""
    out = [
        f'.TH GROOTFS 8 "" "groot_fast {version}" "System Administration"',
        ".SH NAME",
        "grootfs \\- root file systems for containers, on BTRFS",
        ".SH SYNOPSIS",
        ".B grootfs",
        "[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIcommand options\\fR] [\\fIarguments\\fR]",
        ".SH DESCRIPTION",
        "Messages, errors too, go to standard output; standard error is for the log. Options may be written with one dash or two.",
        ".SH GLOBAL OPTIONS",
        *_man_options(flags),
        ".SH COMMANDS",
    ]
    for command in commands:
        out += [f'.SS "{_roff(f"{command.name} {command.arguments}".rstrip())}"', _roff(f"{command.summary}.")]
        if command.description:
            out += [".PP", *(_roff(line) for line in command.description.splitlines())]
        out += _man_options(command.flags)
        if command.examples:
            out += [".PP", "Examples:", ".PP", ".nf", ".RS", *(_roff(line) for line in command.examples.splitlines()), ".RE", ".fi"]
    out += [
        ".SH EXIT STATUS",
        *(".TP\n.B " + text.replace(" ", "\n", 1) for text in STATUS),
    ]
    return "\n".join(out) + "\n"


STATUS = (
    "0 Success; also where there was nothing to delete or to clean.",
    "1 A failure, said in one line on standard output.",
    "3 There is no such command.",
    "130 Stopped by a signal.",
)


def _man_options(flags: tuple[Flag, ...]) -> list[str]:
    lines = []
    for flag in flags:
        value = {SWITCH: "", INTEGER: " \\fIbytes\\fR", COUNT: " \\fInumber\\fR"}.get(flag.kind, " \\fIvalue\\fR")
        more = (" May be given several times." if flag.kind == LIST else "") + (f" Default: {flag.default}." if flag.default else "")
        lines += [".TP", f"\\fB{_roff('--' + flag.name)}\\fR{value}", _roff(f"{flag.help}.{more}")]
    return lines


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\`")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
