"""A signal ends a pull at once, whatever it waits for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_registry import FakeRegistry, Fault
from support.accounts import User
from support.command import COMMAND, Store, wait_for
from support.pulls import blob_gets, layer, publish, trusting

DEAF = """
import ctypes, os, socket, subprocess, sys
# A mount namespace of its own, in which names are looked up at a server that never answers.
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.77", 53))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", sys.argv[1], os.path.realpath("/etc/resolv.conf")], check=True)
process = subprocess.Popen(sys.argv[2:])
server.recv(512)
print("asked", flush=True)
sys.stdin.read(1)
process.terminate()
sys.exit(process.wait())
"""


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry on loopback."""
    with FakeRegistry() as made:
        yield made


def test_while_a_name_is_looked_up(store: Store, scratch: Path) -> None:
    resolver = scratch / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.77\noptions timeout:10 attempts:2\n")
    argv = [COMMAND, "--store", str(store.path), "create", "docker://registry.invalid.test/app:1", "c"]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", DEAF, resolver, *argv], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        stopped = time.monotonic()
        process.stdin.write("x")
        process.stdin.close()
        assert process.wait() == 130
        assert time.monotonic() - stopped < 5, "the look-up takes 20 seconds"


@pytest.mark.parametrize("verification", ["always", "cached"])
def test_while_a_credential_helper_thinks(store: Store, registry: FakeRegistry, scratch: Path, verification: str) -> None:
    """For the registry, or for a proof that it answered before."""
    helper = scratch / "docker-credential-slow"
    helper.write_text(f"#!/bin/sh\necho $$ > {scratch}/pid\nexec sleep 20\n")
    helper.chmod(0o755)
    (scratch / "config.json").write_text(json.dumps({"credsStore": "slow"}))
    registry.auth = "basic"
    image = publish(registry, layer("a"))
    config = scratch / "config.yml"
    config.write_text(json.dumps({"create": {"image_verification": verification}}))
    url = image.url.removesuffix(":latest") + f"@{image.digest}"
    argv = [COMMAND, "--store", store.path, "--config", config, "create", *trusting(registry), url, "c"]
    environment = {**os.environ, "PATH": f"{scratch}:{os.environ['PATH']}", "DOCKER_CONFIG": str(scratch)}
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: (scratch / "pid").exists() and (scratch / "pid").read_text(), "the helper was asked")
    stopped = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert store.finish(process, 30).code == 130
    assert time.monotonic() - stopped < 5
    wait_for(lambda: not is_running((scratch / "pid").read_text().strip()), "the helper is gone, too", timeout=5)


def is_running(pid: str) -> bool:
    """Whether a process has not ended. Who has to know of its end may be slow to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_while_an_ordinary_user_unpacks_what_does_not_come(users_store: Store, registry: FakeRegistry) -> None:
    store = users_store
    image = publish(registry, layer("big", 2_000_000))
    registry.fault(image.layers[0], Fault(stall_after=1_500_000), times=1)
    process = store.start("create", *trusting(registry), image.url, "c")
    wait_for(lambda: blob_gets(registry, image) == [1], "it is asked for")
    time.sleep(1)  # and is being unpacked, as far as it came
    stopped = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert store.finish(process, 60).code == 130
    assert time.monotonic() - stopped < 5


@pytest.fixture
def users_store(scratch: Path, user: User) -> Store:
    """A store of an ordinary user's own."""
    store = Store(scratch / "own")
    store.init("--rootless", f"{user.name}:{user.name}").ok()
    return Store(store.path, uid=user.uid)
