"""docker's configuration and its helpers: F13 and F14."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from groot_fast.errors import ConfigError
from groot_fast.sources.registry import credentials
from groot_fast.sources.registry.credentials import Credential, CredentialFinder
from groot_fast.telemetry.lager import Logger, open_sink

SECRET = "hunter2:with:colons"


def auth(username: str = "user", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


class Home:
    """A directory with a docker configuration and credential helpers."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._log = directory / "log"
        monkeypatch.setenv("DOCKER_CONFIG", str(directory))
        monkeypatch.setenv("HOME", str(directory / "home"))
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def write(self, config: object) -> None:
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        (self.directory / "config.json").write_bytes(text)

    def helper(self, name: str, script: str) -> None:
        path = self.directory / f"docker-credential-{name}"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def find(self, registry: str = "h:5000", repository: str = "a/b", *, explicit: bool = False) -> Credential:
        self._log.unlink(missing_ok=True)
        log = Logger(open_sink(str(self._log), "error"), "test")
        finder = CredentialFinder(self.directory / "config.json" if explicit else None, log)
        return asyncio.run(finder.find(registry, repository))

    @property
    def warnings(self) -> list[str]:
        """What the log says of the last `find`."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line)["data"]["error"] for line in lines]

    def finds(self, *where: str) -> tuple[str, str, str]:
        found = self.find(*where)
        return found.username, found.password, found.identity_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("auths", "where", "user"),
    [
        ({"h:5000": auth("a")}, ("h:5000", "x"), "a"),
        ({"h:5000": auth("a")}, ("h", "x"), ""),
        ({"h": auth("a")}, ("h:5000", "x"), ""),
        ({"https://h:5000": auth("a")}, ("h:5000", "x"), "a"),
        ({"https://h:5000/v1/": auth("a")}, ("h:5000", "x"), "a"),
        ({"h": auth("host"), "h/x": auth("x"), "h/x/y": auth("xy")}, ("h", "x/y"), "xy"),
        ({"h": auth("host"), "h/x": auth("x")}, ("h", "x/y"), "x"),
        ({"h": auth("host"), "h/x": auth("x")}, ("h", "xy"), "host"),
        ({"https://index.docker.io/v1/": auth("hub")}, ("docker.io", "library/x"), "hub"),
        ({"h": {"username": "plain", "password": "p"}}, ("h", "x"), "plain"),
        ({"h": {}}, ("h", "x"), ""),
    ],
)
def test_F14_entries_of_auths(home: Home, auths: dict[str, Any], where: tuple[str, str], user: str) -> None:
    home.write({"auths": auths})
    assert home.finds(*where)[0] == user
    assert home.warnings == []


def test_F14_password_with_colons_and_identity_token(home: Home) -> None:
    home.write({"auths": {"h": auth() | {"identitytoken": "token"}}})
    assert home.finds("h", "x") == ("user", SECRET, "token")


def test_no_configuration_is_anonymous(home: Home) -> None:
    assert not home.find()
    assert home.warnings == []
    with pytest.raises(ConfigError, match="does not exist"):
        home.find(explicit=True)


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{",
        b"[]",
        b'{"auths":{"h:5000":{"auth":"' + SECRET.encode() + b'!"}}}',
        {"auths": {"h:5000": {"auth": base64.b64encode(b"no colon " + SECRET[:7].encode()).decode()}}},
        {"auths": {"h:5000": {"auth": "/w=="}}},
        {"auths": {"h:5000": {"auth": 5}}},
        {"auths": {"h:5000": "x"}},
        {"auths": []},
        {"credHelpers": 5},
        {"credHelpers": {"h:5000": "../x"}},
        {"credHelpers": {"h:5000": "a/b"}},
        {"credHelpers": {"h:5000": "a b"}},
        {"credsStore": "x;reboot"},
        {"credsStore": 5},
        {"credsStore": "is-not-installed"},
    ],
)
def test_F14_a_broken_configuration_warns_or_fails_if_explicit(home: Home, config: object) -> None:
    home.write(config)
    assert not home.find()
    (warning,) = home.warnings
    with pytest.raises(ConfigError) as caught:
        home.find(explicit=True)
    assert SECRET[:7] not in str(caught.value) + warning


@pytest.mark.parametrize("name", ["../evil", "a/b", "a b", "a;b", "a\n", "\u00e9"])
def test_F13_a_helper_with_a_hostile_name_is_not_run(home: Home, name: str) -> None:
    home.write({"credHelpers": {"h:5000": name}})
    assert not home.find()
    assert home.warnings == [f"`{home.directory}/config.json` names an invalid credential helper"]


def test_a_helper_is_asked_for_the_server(home: Home) -> None:
    home.write({"credHelpers": {"h:5000": "one"}, "credsStore": "two", "auths": {"h:5000": auth("file")}})
    home.helper("one", 'read server; echo "{\\"Username\\":\\"$1-$server\\",\\"Secret\\":\\"s\\"}"')
    home.helper("two", 'read server; echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"$server\\"}"')
    assert home.finds("h:5000", "x") == ("get-h:5000", "s", "")
    assert home.finds("other", "x") == ("", "", "other")
    assert home.finds("docker.io", "library/x") == ("", "", "https://index.docker.io/v1/")


def test_a_helper_that_knows_nothing_is_no_warning(home: Home) -> None:
    home.write({"credsStore": "one"})
    home.helper("one", "echo credentials not found in native keychain; exit 1")
    assert not home.find()
    assert home.warnings == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"echo {SECRET} >&2; exit 1", "failed with status 1"),
        (f"echo {SECRET}; exit 3", "failed with status 3"),
        (f"echo {SECRET}", "not a JSON object"),
        (f'echo \'{{"Username":5,"Secret":"{SECRET}"}}\'', "no Username and Secret"),
        ("yes hunter2hunter2 | head -c 1000000000", "wrote more than 65536 bytes"),
        ("exit 0", "not a JSON object"),
        ("kill -9 $$", "failed with status -9"),
    ],
)
def test_F13_helpers_that_misbehave(home: Home, script: str, reason: str) -> None:
    home.write({"credsStore": "bad"})
    home.helper("bad", script)
    began = time.monotonic()
    assert not home.find()
    assert reason in home.warnings[0]
    assert "hunter2" not in home.warnings[0]
    assert time.monotonic() - began < 5


def test_F13_a_helper_that_hangs_is_ended_with_its_children(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "HELPER_TIMEOUT", 0.3)
    home.write({"credsStore": "bad"})
    home.helper("bad", f"sleep 60 & echo $! > {home.directory}/pid; wait")
    began = time.monotonic()
    assert not home.find()
    assert "did not answer within" in home.warnings[0]
    assert time.monotonic() - began < 5
    child = (home.directory / "pid").read_text().strip()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the helper's child is still running")


def test_F13_the_repr_of_a_credential_shows_nothing() -> None:
    assert repr(Credential("user", SECRET, "token")) == "<Credential set>"
    assert repr(Credential()) == "<Credential empty>"


def test_basic_needs_both_halves() -> None:
    assert Credential("user", "").basic() is None
    assert Credential("", "x").basic() is None
    assert Credential("user", "é").basic() == "Basic dXNlcjrDqQ=="
