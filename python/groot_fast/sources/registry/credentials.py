"""Where credentials come from: docker's `config.json`, podman's `auth.json`, credential helpers and stores.

What a file says about a registry is `groot-registry`'s rule (``credentials.rs``); helpers are run here.
"""

from __future__ import annotations

import asyncio
import base64
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

from groot_fast import _core

from ...errors import BadImage, Cancelled, ConfigError, LimitExceeded
from ...telemetry.lager import Logger

HELPER_TIMEOUT = 10.0
HELPER_END = 1.0
"""Seconds to wait for the end of a helper that was killed."""
_HELPER_OUTPUT = 64 * 1024
_NOT_FOUND = b"credentials not found"
_TOKEN_USER = "<token>"  # how helpers say that the secret is an identity token


class Credential:
    """User and password, an identity token, or a token the registry takes as it is; empty means anonymous. Its repr shows none."""

    __slots__ = ("identity_token", "password", "registry_token", "username")

    def __init__(self, username: str = "", password: str = "", identity_token: str = "", registry_token: str = "") -> None:
        """See the class."""
        self.username = username
        self.password = password
        self.identity_token = identity_token
        self.registry_token = registry_token

    def __repr__(self) -> str:
        """Without secrets."""
        return f"<Credential {'set' if self else 'empty'}>"

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.username or self.password or self.identity_token or self.registry_token)

    def parts(self) -> tuple[str, str, str, str]:
        """Everything; for a keyed hash, not for eyes."""
        return (self.username, self.password, self.identity_token, self.registry_token)

    def basic(self) -> str | None:
        """The value of a Basic `Authorization` header; None unless both user and password are set."""
        return basic(self.username, self.password) if self.username and self.password else None


def basic(username: str, password: str) -> str:
    """The value of a Basic `Authorization` header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class CredentialFinder:
    """Looks credentials up for a registry.

    An explicit ``file`` must be usable; with None the default files are tried in order. What is wrong with one of them or with a
    helper is logged, and `trouble` says it to whoever is refused afterwards.
    """

    def __init__(self, file: Path | None, log: Logger) -> None:
        """See the class."""
        self._file = file
        self._log = log
        self.trouble = ""

    async def find(self, registry: str, repository: str) -> Credential:
        """The credential for a repository, empty if there is none. Raises `ConfigError` only for an explicit file."""
        if self._file is not None:
            places = _core.credential_places(self._file, registry, repository)
            if places is None:
                raise ConfigError(f"credentials file `{self._file}` does not exist")
            return await _first(places)
        for path in _core.credential_files():
            try:
                found = await _first(_core.credential_places(path, registry, repository) or [])
            except ConfigError as error:
                self.trouble = str(error)
                self._log.error("credentials-not-used", error, registry=registry)
            else:
                if found:
                    return found
        return Credential()


async def _first(places: list[tuple[str, str] | tuple[str, str, str, str]]) -> Credential:
    failure: ConfigError | None = None
    for place in places:
        if len(place) == 4:
            return Credential(*place)
        try:
            found = await _ask_helper(*place)
        except ConfigError as error:
            failure = failure or error
            continue
        if found:
            return found
    if failure is not None:
        raise failure
    return Credential()


async def _ask_helper(name: str, server: str) -> Credential:
    """Run ``docker-credential-<name> get``; what it says in words is thrown away, it may be a secret."""
    program = f"docker-credential-{name}"
    # in a thread, because asyncio's child watchers and pipes differ too much between event loops
    started: list[subprocess.Popen[bytes]] = []
    unwanted, over = threading.Event(), threading.Event()

    def run() -> tuple[int, bytes]:
        try:
            return _run_helper(program, server, started, unwanted)
        finally:
            over.set()

    try:
        status, output = await asyncio.to_thread(run)
    except asyncio.CancelledError:
        # The thread goes on, and ends when it sees that the helper has. It may be about to start it, and has to be there to end it.
        unwanted.set()
        for process in started:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        over.wait(HELPER_END)
        raise
    if status != 0:
        if _NOT_FOUND in output:
            return Credential()
        raise ConfigError(f"credential helper `{program}` failed with status {status}")
    try:
        reply = _core.parse_document(output, "reply")
    except (BadImage, LimitExceeded):
        raise ConfigError(f"credential helper `{program}` wrote something that is not a JSON object") from None
    username, secret = reply.get("Username"), reply.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ConfigError(f"credential helper `{program}` gave no Username and Secret")
    return Credential(identity_token=secret) if username == _TOKEN_USER else Credential(username, secret)


def _run_helper(program: str, server: str, started: list[subprocess.Popen[bytes]], unwanted: threading.Event) -> tuple[int, bytes]:
    """Status and output of a helper, which is put into ``started``; one that takes too long, says too much or is ``unwanted`` by
    then is killed with its process group."""
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
    started.append(process)
    with process:
        try:
            if unwanted.is_set():
                raise Cancelled("cancelled")
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
