"""``--output json``: one document for each command, also if it fails, whoever does the command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from support.archive import Archive
from support.command import COMMAND, Store

Image = Callable[..., str]

NATIVE: dict[str, str] = {}
PYTHON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
"""Traces are Python's."""


@pytest.fixture(params=[NATIVE, PYTHON], ids=["native", "python"])
def say(request: pytest.FixtureRequest, store: Store) -> Callable[..., tuple[int, Any]]:
    """Run a command on the store; gives its exit code and its document."""

    def run(*args: str) -> tuple[int, Any]:
        argv = [COMMAND, "--store", str(store.path), "--output", "json", *args]
        done = subprocess.run(argv, env={"PATH": os.environ["PATH"], **request.param}, capture_output=True, timeout=60)
        assert done.stdout.count(b"\n") == 1, done
        return done.returncode, json.loads(done.stdout)

    return run


def test_what_succeeds(store: Store, image: Image, say: Callable[..., tuple[int, Any]]) -> None:
    url = image(Archive().file("f", b"x" * 5000))
    assert say("create", url, "one") == (0, {"id": "one", "path": str(store.image("one"))})
    assert set(say("create", "--json", url, "two")[1]) >= {"root"}
    assert [each["id"] for each in say("list")[1]] == ["one", "two"]
    assert set(say("stats", "one")[1]["disk_usage"]) == {"total_bytes_used", "exclusive_bytes_used"}
    assert say("check") == (0, {"findings": []})
    assert {"check", "state", "text"} <= set(say("doctor")[1][0])
    assert say("delete", "one") == (0, {"id": "one", "message": "Image one deleted"})
    assert say("delete", str(store.image("two"))) == (0, {"id": "two", "message": "Image two deleted"})
    assert say("delete", "two") == (0, {"id": "two", "message": "Image `two` not found. Skipping delete."})
    assert say("clean", "--threshold-bytes", "1GiB") == (0, {"message": "threshold not reached: skipping clean"})
    assert say("clean") == (0, {"message": "clean completed"})
    assert "simple quotas" in say("migrate")[1]["message"]
    assert set(say("capacity")[1]) == {"capacity"}
    assert say("init-store") == (0, {})


def test_what_fails(image: Image, say: Callable[..., tuple[int, Any]]) -> None:
    url = image(Archive().file("f", b"x" * 5000))
    say("create", url, "one")
    for code, *args in (
        ("image-exists", "create", url, "one"),
        ("quota", "create", "--disk-limit-size-bytes", "10", url, "two"),
        ("source", "create", "oci:///no/such:latest", "two"),
        ("source", "create", "docker://127.0.0.1:1/no/such", "two"),
        ("image-not-found", "stats", "nobody"),
        ("usage", "delete"),
        ("usage", "clean", "--nope"),
        ("config", "create", "--pull-policy", "never", url, "two"),
    ):
        status, document = say(*args)
        assert status == 1 and document["error"]["code"] == code and document["error"]["message"], (args, document)
        assert set(document) == {"error"} and set(document["error"]) <= {"code", "message", "hint"}
    assert "did you mean `grootfs list`?" in say("lst")[1]["error"]["hint"]
