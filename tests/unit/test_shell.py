"""Completion files and manual page say what the help says. That examples are right is tested beside the table (rust/cli)."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from support.command import COMMAND

SHELLS = ("bash", "zsh", "fish")
HIDDEN = ("man-page", "generate-volume-size-metadata")


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout


def commands_in(text: str) -> list[str]:
    block = text.partition("COMMANDS:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in block.splitlines() if "help, h" not in line]


def options_in(text: str) -> set[str]:
    return set(re.findall(r"^   (--[a-z-]+)", text, re.M))


APP = run(COMMAND, "--help")
NAMES = set(commands_in(APP))
HELP = {name: run(COMMAND, "help", name) for name in commands_in(APP)}


def options(command: str) -> set[str]:
    return options_in(HELP[command] if command else APP) | {"--help"}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(shell: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(shell) / "grootfs"
    path.write_text(run(COMMAND, "completion", shell))
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


def test_help_has_the_commands_and_examples() -> None:
    assert {"create", "delete", "stats", "list", "clean"} <= NAMES and not NAMES & set(HIDDEN)
    for name, text in HELP.items():
        assert f"   grootfs {name} - " in text and "\nEXAMPLES:\n" in text


def test_shell_accepts_the_file(shell: str, file: Path) -> None:
    run(shell, "-n", str(file))


def test_commands(shell: str, file: Path) -> None:
    if shell == "zsh":
        block = file.read_text().partition("commands=(")[2].partition("\n    )")[0]
        assert set(re.findall(r"^        '([a-z-]+):", block, re.M)) == NAMES | {"help"}
    else:
        assert {word for word in complete(shell, file, "") if not word.startswith("-")} == NAMES | {"help"}


@pytest.mark.parametrize("command", ["", *HELP])
def test_options(shell: str, file: Path, command: str) -> None:
    if shell == "zsh":
        text = file.read_text()
        block = text.partition("_arguments -C")[2].partition("case ")[0]
        if command:
            block = text.partition(f"            {command})\n")[2].partition(";;")[0]
        assert set(re.findall(r"'(--[a-z-]+)\[", block)) == options(command)
    else:
        assert complete(shell, file, *([command] if command else []), "--") == options(command)


def test_value_of_a_global_option_is_no_command(file: Path, shell: str) -> None:
    if shell == "bash":
        assert complete(shell, file, "--store", "clean", "li") == {"list"}


def test_ids_are_those_of_the_store_that_is_named(file: Path, shell: str, tmp_path: Path) -> None:
    """Else one may delete the wrong container."""
    (tmp_path / "images" / "my-container").mkdir(parents=True)
    if shell == "zsh":
        text = file.read_text()
        assert "/images/*(N:t)" in text and text.count("/var/lib/grootfs") == 1
        assert "local store=${(Q)opt_args[--store]:-${GROOTFS_STORE:-/var/lib/grootfs}}" in text
        return
    assert complete(shell, file, "--store", str(tmp_path), "delete", "my") == {"my-container"}
    if shell == "fish":
        assert complete(shell, file, f"--store={tmp_path}", "delete", "my") == {"my-container"}


def test_words_are_offered_where_few_are_taken(file: Path, shell: str) -> None:
    if shell == "zsh":
        assert ":value:(always cached never)'" in file.read_text() and ":value:(text json)'" in file.read_text()
        return
    assert complete(shell, file, "create", "--image-verification", "") == {"always", "cached", "never"}
    assert complete(shell, file, "--output", "") == {"text", "json"}


def test_man_page(tmp_path: Path) -> None:
    page = tmp_path / "grootfs.8"
    page.write_text(run(COMMAND, "man-page"))
    done = subprocess.run(
        ["man", "--warnings=w", "-l", str(page)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "200"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r".\x08", "", done.stdout)
    for name, shown in HELP.items():
        section = re.search(rf"^   {re.escape(name)}\b.*?(?=^   \S|^\S)", text, re.M | re.S)
        assert section, name
        for option in options_in(shown):
            assert option in section[0]
        for example in shown.partition("EXAMPLES:\n")[2].splitlines():
            assert example.strip() in section[0]
    for option in options("") - {"--help", "--version"}:
        assert option in text
    for title in ("CONFIGURATION", "ENVIRONMENT", "FILES", "EXIT STATUS"):
        assert re.search(f"^{title}$", text, re.M)
    for key in ("create.image_verification", "clean.keep_bytes", "GROOTFS_STORE", "/etc/grootfs/defaults.yml"):
        assert key in text
    assert not [name for name in HIDDEN if name in text]
