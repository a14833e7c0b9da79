"""A running `grootfs serve`, and talking to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support.command import COMMAND, Store, kill, wait_for


class Answer(NamedTuple):
    """What HTTP gave."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Server:
    """A server process on ``socket``, with ``store`` as the one it uses when a request names none."""

    def __init__(self, socket: Path, store: Path, *flags: str, log_level: str = "fatal", **options: Any) -> None:
        self.socket = socket
        self.store = Store(store, "--socket", str(socket))
        argv = [COMMAND, "--store", str(store), "--socket", str(socket), "--log-level", log_level, "serve", *flags]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": "/", **options}
        self.process = subprocess.Popen(argv, **options)

    def wait(self) -> Server:
        """Until it answers."""
        wait_for(lambda: self.process.poll() is not None or self.is_healthy(), "a server")
        assert self.process.poll() is None, self.process.communicate()
        return self

    def is_healthy(self) -> bool:
        """Whether it answers."""
        try:
            return self.request("GET", "/healthz").status == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None) -> Answer:
        """One request; ``body`` is sent as it is, or as JSON."""
        connection = http.client.HTTPConnection("grootfs", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        try:
            connection.sock.connect(str(self.socket))
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            reply = connection.getresponse()
            return Answer(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """All samples, by name with labels."""
        text = self.request("GET", "/metrics").body.decode()
        samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def ended(self, operation: str = "", outcome: str = "") -> int:
        """How many commands (of this kind, with this outcome) it has run."""
        pattern = re.compile(rf'grootfs_operations_total{{operation="({operation or ".*"})",outcome="({outcome or ".*"})"}}')
        return int(sum(value for name, value in self.metrics().items() if pattern.fullmatch(name)))

    def expect(self, count: int, operation: str = "", outcome: str = "") -> None:
        """Insist that it has run so many. A caller is told the end of its command before the server is."""
        wait_for(lambda: self.ended(operation, outcome) == count, f"{count} commands: {self.metrics()}")

    def family(self) -> list[int]:
        """Its process, and those of the zygote and the workers."""
        found = [self.process.pid]
        for pid in found:
            try:
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                pass
        return found

    def crash(self) -> None:
        """Kill the server's process and nothing else. Its workers may still hold its streams."""
        kill(self.process)
        self.process.wait(60)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and insist that it ended well."""
        kill(self.process, number)
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, out, err) == (0, b"", b""), (self.process.returncode, out, err)


@contextmanager
def serving(directory: Path, store: Path, *flags: str) -> Iterator[Server]:
    """A server that runs during the block and has nothing to complain of."""
    server = Server(directory / "grootfs.sock", store, *flags)
    try:
        yield server.wait()
    except BaseException:
        for pid in server.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        server.process.communicate()
        raise
    if server.process.returncode is None:
        server.stop()
