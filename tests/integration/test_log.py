"""The log of a whole command: format of times, and the id that its lines share."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry
from groot_fast.cli.commands import COMMANDS
from support.archive import Archive
from support.command import COMMAND, Store


def log_of(store: Store, *options: str, environment: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Lines of a command that pulls nothing, at debug level."""
    argv = [COMMAND, "--store", str(store.path), "--log-level", "debug", *options, "clean"]
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": os.environ["PATH"], **(environment or {})})
    assert (done.returncode, done.stdout) == (0, "clean completed\n"), done
    return [json.loads(line) for line in done.stderr.splitlines()]


def ids(lines: list[dict[str, Any]]) -> set[str]:
    assert len(lines) > 3
    return {line["data"]["correlationID"] for line in lines}


def test_every_line_of_a_command_has_its_id(store: Store) -> None:
    first, second = ids(log_of(store)), ids(log_of(store))
    assert len(first) == len(second) == 1 and first != second
    assert re.fullmatch(r"[0-9a-f]{16}", first.pop())


def test_id_of_the_caller(store: Store) -> None:
    environment = {"GROOTFS_CORRELATION_ID": "from-outside"}
    assert ids(log_of(store, environment=environment)) == {"from-outside"}
    assert ids(log_of(store, "--correlation-id", "given <1>", environment=environment)) == {"given <1>"}
    assert len(ids(log_of(store, "--correlation-id", "", environment={"GROOTFS_CORRELATION_ID": ""})).pop()) == 16


@pytest.mark.parametrize("bad", ["x" * 129, "a\nb", "\x1b[31m"])
def test_ids_that_are_refused(store: Store, bad: str) -> None:
    result = store.run("--correlation-id", bad, "list")
    assert result.code == 1 and result.message == "invalid argument: a correlation id has at most 128 printable characters"


def test_formats_of_time(store: Store, image: Callable[..., str]) -> None:
    config = store.path.parent / "c.yml"
    config.write_text("log_time_format: rfc3339\n")
    store.create(image(Archive().file("f", "x")), "one")
    for line in log_of(store, "--config", str(config)):
        assert line["timestamp"].endswith("Z") and line["level"] in ("debug", "info") and "log_level" not in line
    for line in log_of(store, "--config", str(config), "--log-time-format", "unix-epoch"):
        assert float(line["timestamp"]) > 1e9 and line["log_level"] in (0, 1) and "level" not in line
    result = store.run("--log-time-format", "iso", "list")
    assert result.code == 1 and result.message == "invalid argument: log time format `iso` is neither unix-epoch nor rfc3339"


def test_every_line_of_stderr_is_a_log_line(store: Store, tmp_path: Path) -> None:
    """For every command, whether it succeeds or not, whatever is wrong with the files around it."""
    (tmp_path / "config.json").write_text("nonsense")
    environment = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    with FakeRegistry(auth="basic") as registry:
        url = registry.add("app", [b"no layer"]).url
        calls = {
            "create": ["create", "--insecure-registry", registry.addr, url, "c"],
            "delete": ["delete", "absent"],
            "stats": ["stats", "absent"],
            "init-store": ["init-store", "--quota", "nonsense"],
            "generate-volume-size-metadata": ["generate-volume-size-metadata"],
            "completion": ["completion", "bash"],
            "serve": ["--socket", str(tmp_path / "absent" / "socket"), "serve"],
            "delete-store": ["--store", str(tmp_path / "absent"), "delete-store"],
        }
        for command in (*COMMANDS, "capacity", "completion", "man-page"):
            argv = [COMMAND, "--store", str(store.path), "--log-level", "debug", *calls.get(command, [command])]
            done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
            for line in done.stderr.splitlines():
                assert json.loads(line)["source"] == "grootfs", (command, line)
            if command == "create":
                assert '"grootfs.create.groot-creating.credentials-not-used"' in done.stderr


def test_passwords_in_names_and_mirrors_reach_no_log(store: Store, tmp_path: Path) -> None:
    config, log = tmp_path / "config.yml", tmp_path / "log"
    config.write_text("create:\n  registry_mirrors: {'docker.io': ['https://user:hunter2@mirror.example']}\n")
    logged = Store(store.path, "--config", str(config), "--log-file", str(log), "--log-level", "debug")
    for image in ("docker://user:hunter2@h/a", "docker://user:hun/ter2hunter2@h/a", "oci://user:hunter2@h/a", "docker:///a"):
        refused = logged.run("create", image, "c")
        assert refused.code == 1 and "ter2" not in refused.out + refused.err
    assert log.stat().st_mode & 0o7777 == 0o644
    assert "ter2" not in log.read_text()
    assert '"image":"docker://...@h/a"' in log.read_text()
