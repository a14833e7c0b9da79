"""A running `grootfs serve`, and talking to it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
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


class Asked:
    """A request whose answer is still to come."""

    def __init__(self, path: Path, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        """``body`` is sent as it is, or as JSON."""
        self._connection = http.client.HTTPConnection("grootfs", timeout=60)
        self._connection.sock = socket.socket(socket.AF_UNIX)
        try:
            self._connection.sock.settimeout(60)
            self._connection.sock.connect(str(path))
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            kind = {"Content-Type": "application/json"} if data else {}
            self._connection.request(method, target, data, {**kind, **(headers or {})})
        except BaseException:
            self.leave()
            raise

    def answer(self) -> Answer:
        """Wait for it."""
        try:
            reply = self._connection.getresponse()
            return Answer(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            self.leave()

    def leave(self) -> None:
        """Go away without it."""
        self._connection.close()


class Server:
    """A server process on ``socket``, with ``store`` as the one it uses when a request names none."""

    def __init__(self, socket: Path, store: Path, *flags: str, before: Sequence[str] = (), **options: Any) -> None:
        """``flags`` are those of `serve`, ``before`` come before it, and ``options`` are for the process."""
        self.socket = socket
        self.store = Store(store)
        argv = [COMMAND, "--store", str(store), "--socket", str(socket), *before, "serve", *flags]
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

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Asked:
        """Send a request."""
        return Asked(self.socket, method, path, body, headers)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request and its answer."""
        return self.ask(method, path, body, **headers).answer()

    def create(self, image: str, image_id: str, **fields: Any) -> Answer:
        """Make an image, and insist on it."""
        answer = self.request("POST", "/v1/images", {"image": image, "id": image_id, **fields})
        assert answer.status == 201, answer
        return answer

    def metrics(self) -> dict[str, float]:
        """All samples, by name with labels but that of the store, which all of them have."""
        text = self.request("GET", "/metrics").body.decode()
        samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        assert all('store="/' in name for name, _, _ in samples)
        return {re.sub(r',?store="[^"]*"|{store="[^"]*"}', "", name).replace("{}", ""): float(value) for name, _, value in samples}

    def ended(self, operation: str = "", outcome: str = "") -> int:
        """How many operations (of this name, with this outcome) it has run."""
        pattern = re.compile(rf'grootfs_operations_total{{operation="({operation or ".*"})",outcome="({outcome or ".*"})"}}')
        return int(sum(value for name, value in self.metrics().items() if pattern.fullmatch(name)))

    def expect(self, count: int, operation: str = "", outcome: str = "") -> None:
        """Insist that it has run so many, or has soon."""
        wait_for(lambda: self.ended(operation, outcome) == count, f"{count} operations: {self.metrics()}")

    def crash(self) -> None:
        """Kill it."""
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
def serving(directory: Path, store: Path, *flags: str, before: Sequence[str] = (), **options: Any) -> Iterator[Server]:
    """A server that runs during the block and has nothing to complain of."""
    server = Server(directory / "grootfs.sock", store, *flags, before=before, **options)
    try:
        yield server.wait()
    except BaseException:
        kill(server.process)
        server.process.communicate()
        raise
    if server.process.returncode is None:
        server.stop()
