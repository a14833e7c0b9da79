"""Completion files, manual page and help: they say what the table of commands says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from groot_fast import __version__
from groot_fast.cli.commands import COMMANDS, GLOBALS, Command, visible
from groot_fast.cli.flags import parse
from groot_fast.cli.help import command_help
from groot_fast.cli.shell import SHELLS, man

VISIBLE = [pytest.param(command, id=command.name) for command in visible()]
NAMES = {command.name for command in visible()}


def options(command: Command | None) -> set[str]:
    flags = GLOBALS if command is None else command.flags
    return {f"--{flag.name}" for flag in flags} | {"--help"} | ({"--version"} if command is None else set())


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout


@pytest.fixture(scope="module", params=list(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(shell: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(shell) / "grootfs"
    path.write_text(SHELLS[shell](visible(), GLOBALS))
    return path


def complete(shell: str, file: Path, *words: str) -> set[str]:
    """What the shell offers for the last word."""
    line = ["grootfs", *words]
    if shell == "bash":
        script = (
            f"source {file}; COMP_WORDS=({shlex.join(line)}); COMP_CWORD={len(line) - 1}; _grootfs; "
            '((${#COMPREPLY[@]} == 0)) || printf "%s\\n" "${COMPREPLY[@]}"'
        )
        return set(run("bash", "--norc", "-c", script).split())
    out = run("fish", "--no-config", "-c", f"source {file}; complete -C {shlex.quote(' '.join(line))}")
    return {text.split("\t")[0] for text in out.splitlines()}


def test_shell_accepts_the_file(shell: str, file: Path) -> None:
    run(shell, "-n", str(file))


def test_commands(shell: str, file: Path) -> None:
    if shell == "zsh":
        block = file.read_text().partition("commands=(")[2].partition("\n    )")[0]
        assert set(re.findall(r"^        '([a-z-]+):", block, re.M)) == NAMES | {"help"}
    else:
        assert {word for word in complete(shell, file, "") if not word.startswith("-")} == NAMES | {"help"}


@pytest.mark.parametrize("command", [pytest.param(None, id="global"), *VISIBLE])
def test_options(shell: str, file: Path, command: Command | None) -> None:
    if shell == "zsh":
        text = file.read_text()
        block = text.partition("_arguments -C")[2].partition("case ")[0]
        if command is not None:
            block = text.partition(f"            {command.name})\n")[2].partition(";;")[0]
        assert set(re.findall(r"'(--[a-z-]+)\[", block)) == options(command)
    else:
        offered = complete(shell, file, *([command.name] if command else []), "--")
        assert offered == options(command)


def test_value_of_a_global_option_is_no_command(file: Path, shell: str) -> None:
    if shell == "bash":
        assert complete(shell, file, "--store", "clean", "li") == {"list"}


def test_ids_are_offered(file: Path, shell: str, tmp_path: Path) -> None:
    if shell == "bash":
        (tmp_path / "images" / "my-container").mkdir(parents=True)
        assert complete(shell, file, "--store", str(tmp_path), "delete", "my") == {"my-container"}


def test_man_page(tmp_path: Path) -> None:
    page = tmp_path / "grootfs.8"
    page.write_text(man(visible(), GLOBALS, __version__))
    done = subprocess.run(
        ["man", "--warnings=w", "-l", str(page)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "200"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r".\x08", "", done.stdout)
    for command in visible():
        section = re.search(rf"^   {re.escape(command.name)}\b.*?(?=^   \S|^\S)", text, re.M | re.S)
        assert section, command.name
        for flag in command.flags:
            assert f"--{flag.name}" in section[0]
        for example in command.examples.splitlines():
            assert example in section[0]
    for flag in GLOBALS:
        assert f"--{flag.name}" in text
    assert not [command.name for command in COMMANDS if command.hidden and command.name in text]


@pytest.mark.parametrize("command", [pytest.param(command, id=command.name) for command in COMMANDS])
def test_examples_are_right(command: Command) -> None:
    """Each command's help has examples, and each is one that the command would take."""
    assert "EXAMPLES:" in command_help(command)
    shown = []
    for line in command.examples.splitlines():
        words = shlex.split(re.split(r" [>|] ", line)[0])
        assert words[0] == "grootfs"
        _, rest = parse(words[1:], GLOBALS, stop_at_command=True)
        (called,) = [each for each in COMMANDS if each.name == rest[0]]
        given, positional = parse(rest[1:], called.flags, stop_at_command=False)
        wanted = 0 if "store" in given else len(re.findall(r"<[^>]+>", called.arguments))
        assert len(positional) == wanted, line
        shown.append(called.name)
    assert command.name in shown
