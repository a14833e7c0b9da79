"""Where credentials come from: docker's `config.json`, its credential helpers and stores."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import select
import signal
import string
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from groot_fast._core import parse_document

from ...errors import BadImage, ConfigError, LimitExceeded

HELPER_TIMEOUT = 10.0
_HELPER_OUTPUT = 64 * 1024
_HELPER_NAME = frozenset(string.ascii_letters + string.digits + "_-")
_DOCKER_HUB_KEYS = ("docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")
_NOT_FOUND = b"credentials not found"
_TOKEN_USER = "<token>"  # how helpers say that the secret is an identity token


class Credential:
    """User and password, or an identity token; empty means anonymous. Its repr shows neither."""

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str = "", password: str = "", identity_token: str = "") -> None:
        """See the class."""
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def __repr__(self) -> str:
        """Without secrets."""
        return f"<Credential {'set' if self else 'empty'}>"

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.username or self.password or self.identity_token)

    def basic(self) -> str | None:
        """The value of a Basic `Authorization` header; None unless both user and password are set."""
        if not (self.username and self.password):
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class CredentialFinder:
    """Looks credentials up for a registry.

    An explicit ``config`` must be usable; with None the default file is tried, and what is wrong with it or with a
    helper goes to ``warn`` and the pull goes on anonymously.
    """

    def __init__(self, config: Path | None, warn: Callable[[str], None]) -> None:
        """See the class."""
        self._path = config or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
        self._explicit = config is not None
        self._warn = warn

    async def find(self, registry: str, repository: str) -> Credential:
        """The credential for a repository; raises `ConfigError` only for an explicit configuration."""
        try:
            return await self._find(registry, repository)
        except ConfigError as error:
            if self._explicit:
                raise
            self._warn(f"{error}; going on without credentials")
            return Credential()

    async def _find(self, registry: str, repository: str) -> Credential:
        config = self._read()
        keys = _DOCKER_HUB_KEYS if registry == "docker.io" else (registry, f"https://{registry}", f"http://{registry}")
        helpers = _section(config, "credHelpers")
        for key in keys:
            if key in helpers:
                return await _ask_helper(helpers[key], _server(registry))
        auths = _section(config, "auths")
        legacy = [key + end for key in keys for end in ("/v1/", "/")]
        for key in [*_path_keys(registry, repository), *keys, *legacy]:
            if auths.get(key):
                return _decode(auths[key], str(self._path))
        store = config.get("credsStore")
        return await _ask_helper(store, _server(registry)) if store else Credential()

    def _read(self) -> dict[str, object]:
        try:
            body = self._path.read_bytes()
        except FileNotFoundError:
            if self._explicit:
                raise ConfigError(f"docker configuration `{self._path}` does not exist") from None
            return {}
        except OSError as error:
            raise ConfigError(f"cannot read docker configuration `{self._path}`: {error.strerror}") from None
        try:
            return parse_document(body, f"docker configuration `{self._path}`")
        except (BadImage, LimitExceeded) as error:
            raise ConfigError(str(error)) from None


def _section(config: dict[str, object], name: str) -> dict[str, object]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"`{name}` in the docker configuration is not an object")
    return value


def _path_keys(registry: str, repository: str) -> list[str]:
    """``host/a/b``, ``host/a``: the most specific entry wins."""
    parts = repository.split("/")
    return [f"{registry}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]


def _server(registry: str) -> str:
    return "https://index.docker.io/v1/" if registry == "docker.io" else registry


def _decode(entry: object, path: str) -> Credential:
    """An entry of ``auths``: ``auth`` is base64 of user:password, or the two stand alone."""
    if not isinstance(entry, dict):
        raise ConfigError(f"an entry of `auths` in `{path}` is not an object")
    values = {key: entry.get(key) or "" for key in ("auth", "username", "password", "identitytoken")}
    if not all(isinstance(value, str) for value in values.values()):
        raise ConfigError(f"an entry of `auths` in `{path}` holds something that is not text")
    username, password = str(values["username"]), str(values["password"])
    if values["auth"]:
        try:
            text = base64.b64decode(str(values["auth"]), validate=True).decode()
        except (binascii.Error, ValueError):
            raise ConfigError(f"an `auth` in `{path}` is not base64 of user:password") from None
        username, colon, password = text.partition(":")
        if not colon:
            raise ConfigError(f"an `auth` in `{path}` is not base64 of user:password")
        password = password.rstrip("\0")  # old versions of docker padded it
    return Credential(username, password, str(values["identitytoken"]))


async def _ask_helper(name: object, server: str) -> Credential:
    """Run ``docker-credential-<name> get``; what it writes to stderr is thrown away, it may be a secret."""
    if not isinstance(name, str) or not name or not _HELPER_NAME.issuperset(name):
        raise ConfigError("the docker configuration names an invalid credential helper")
    program = f"docker-credential-{name}"
    # in a thread, because asyncio's child watchers and pipes differ too much between event loops
    status, output = await asyncio.to_thread(_run_helper, program, server)
    if status != 0:
        if _NOT_FOUND in output:
            return Credential()
        raise ConfigError(f"credential helper `{program}` failed with status {status}")
    try:
        reply = parse_document(output, "reply")
    except BadImage:
        raise ConfigError(f"credential helper `{program}` wrote something that is not a JSON object") from None
    username, secret = reply.get("Username"), reply.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ConfigError(f"credential helper `{program}` gave no Username and Secret")
    return Credential(identity_token=secret) if username == _TOKEN_USER else Credential(username, secret)


def _run_helper(program: str, server: str) -> tuple[int, bytes]:
    """Status and output of a helper; one that takes too long or says too much is killed with its process group."""
    reading, writing = os.pipe()
    with open(reading, "rb") as question:
        with open(writing, "wb") as pen:
            pen.write(f"{server}\n".encode())  # fits into the pipe, whether or not anybody reads it
        try:
            process = subprocess.Popen(
                [program, "get"], stdin=question, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(f"cannot run credential helper `{program}`: {error.strerror}") from None
    with process:
        try:
            return _listen(process, program)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            raise


def _listen(process: subprocess.Popen[bytes], program: str) -> tuple[int, bytes]:
    assert process.stdout is not None
    deadline = time.monotonic() + HELPER_TIMEOUT
    output = bytearray()
    poll = select.poll()  # not select(), which fails in a server with more than 1024 files
    poll.register(process.stdout, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(process.stdout.fileno(), _HELPER_OUTPUT)
        output += chunk
        if len(output) > _HELPER_OUTPUT:
            raise ConfigError(f"credential helper `{program}` wrote more than {_HELPER_OUTPUT} bytes")
        if not chunk:
            try:
                return process.wait(max(0.0, deadline - time.monotonic())), bytes(output)
            except subprocess.TimeoutExpired:
                break
    raise ConfigError(f"credential helper `{program}` did not answer within {HELPER_TIMEOUT:g} s")
