"""Log lines."""

from __future__ import annotations

import datetime
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from groot_fast.telemetry.lager import DEBUG, ERROR, FATAL, INFO, Logger, Sink, open_sink, without_passwords


@pytest.fixture
def lines(tmp_path: Path) -> Any:
    """A logger at debug level and a function that gives its lines."""
    path = tmp_path / "log"
    log = Logger(open_sink(str(path), "debug"), "grootfs")
    return log, lambda: [json.loads(line) for line in path.read_text().splitlines()]


def test_line(lines: Any) -> None:
    log, read = lines
    before = time.time()
    log.info("starting", size=5)
    (line,) = read()
    assert list(line) == ["timestamp", "source", "message", "log_level", "data"]
    whole, _, fraction = line.pop("timestamp").partition(".")
    assert len(fraction) == 9 and before - 1 < int(whole) <= time.time()
    assert line == {"source": "grootfs", "message": "grootfs.starting", "log_level": 1, "data": {"size": 5}}


def test_rfc3339(tmp_path: Path) -> None:
    """The fields of the newest original (contract, section 18.3)."""
    path = tmp_path / "log"
    log = Logger(open_sink(str(path), "debug", "rfc3339"), "grootfs")
    before = datetime.datetime.now(datetime.UTC)
    log.debug("one")
    log.info("two")
    log.error("three", "reason")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(line) for line in lines] == [["timestamp", "level", "source", "message", "data"]] * 3
    assert [line["level"] for line in lines] == ["debug", "info", "error"]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["timestamp"])
        assert abs(datetime.datetime.fromisoformat(line["timestamp"]) - before) < datetime.timedelta(minutes=1)


def test_sessions_nest(lines: Any) -> None:
    log, read = lines
    with log.session("create", id="c") as create:
        create.session("pulling").debug("found", layer="l")
        create.session("cloning").error("failed", ValueError("no space"), volume="v")
    log.session("clean").info("done")
    messages = [(line["message"], line["log_level"], line["data"]) for line in read()]
    assert messages == [
        ("grootfs.create.starting", INFO, {"id": "c", "session": "1"}),
        ("grootfs.create.pulling.found", DEBUG, {"id": "c", "layer": "l", "session": "1.1"}),
        ("grootfs.create.cloning.failed", ERROR, {"id": "c", "error": "no space", "volume": "v", "session": "1.2"}),
        ("grootfs.create.ending", INFO, {"id": "c", "session": "1"}),
        ("grootfs.clean.done", INFO, {"session": "2"}),
    ]


def test_session_that_fails(lines: Any) -> None:
    log, read = lines
    with pytest.raises(KeyError), log.session("create"):
        raise KeyError("gone")
    assert [line["message"].rpartition(".")[2] for line in read()] == ["starting", "failed", "ending"]
    assert read()[1]["data"]["error"] == "'gone'"


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 3), ("DEBUG", 3), ("info", 2), ("Error", 1), ("fatal", 0), ("nonsense", 0), ("", 0), (None, 0)],
)
def test_levels_on_stderr(capfd: pytest.CaptureFixture[str], level: str | None, written: int) -> None:
    log = Logger(open_sink(None, level), "grootfs")
    log.debug("a")
    log.info("b")
    log.error("c", "reason")
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == written


@pytest.mark.parametrize(("level", "lowest"), [(None, INFO), ("fatal", INFO), ("debug", DEBUG), ("info", INFO), ("error", ERROR)])
def test_log_file_raises_fatal_to_info(tmp_path: Path, level: str | None, lowest: int) -> None:
    assert open_sink(str(tmp_path / "log"), level).level == lowest
    assert open_sink(None, "fatal").level == FATAL


def test_log_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    for _ in range(2):
        Logger(open_sink(str(path), None), "grootfs").info("x")
    assert len(path.read_text().splitlines()) == 3 and path.read_text().startswith("before\n{")


@pytest.mark.parametrize("value", ["\x1b[31m", "a\nb", "<&>", "\udcff", "\u2028", "\x00", "grüße"])
def test_one_line_whatever_is_logged(lines: Any, value: str) -> None:
    log, read = lines
    log.info("x", value=value)
    (line,) = read()
    assert line["data"]["value"] == value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def test_full_disk_is_no_reason_to_fail() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    Logger(Sink(full, DEBUG), "grootfs").info("x")
    os.close(full)
    Logger(Sink(full, DEBUG), "grootfs").info("closed")


def test_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_sink(str(tmp_path / "no" / "log"), None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"image":"docker://user:pw@h/a"}', '{"image":"docker://...@h/a"}'),
        ('"docker://user:p/w@h/a", "https://u@m"', '"docker://...@h/a", "https://...@m"'),
        (f'"docker://h/a@sha256:{"0" * 64}"', f'"docker://h/a@sha256:{"0" * 64}"'),
        (f'"docker://u:p@h/a@sha256:{"0" * 64}"', f'"docker://...@h/a@sha256:{"0" * 64}"'),
        ('"a@b", "x://y", "c@d"', '"a@b", "x://y", "c@d"'),
    ],
)
def test_user_and_password_are_taken_out_of_urls(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
