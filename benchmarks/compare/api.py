"""Callers of the server's HTTP interface, many at once, in this one process: what is measured is the server."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from compare.process import Ended

LONGEST_ANSWER = 1 << 16
DEADLINE = 60.0


def create_request(store: Path, image: str, image_id: str, limit: int) -> bytes:
    """`POST /v1/images`."""
    body = json.dumps({"image": image, "id": image_id, "disk_limit_size_bytes": limit}).encode()
    head = [f"POST /v1/images?store={store} HTTP/1.1", "Host: grootfs", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def ask_together(path: Path, requests: Sequence[bytes]) -> tuple[float, list[Ended]]:
    """Send all at once, each on a connection of its own that stands already, as that of a daemon does; gives the seconds from the
    first request to the last answer, and each one's end. Raises OSError, TimeoutError."""
    callers = {}
    try:
        poll = select.epoll()
        for request in requests:
            caller = socket.socket(socket.AF_UNIX)
            callers[caller.fileno()] = (caller, request)
            caller.connect(str(path))
            poll.register(caller, select.EPOLLIN)
        ended: list[Ended] = []
        started = {}
        first = last = time.perf_counter()
        for descriptor, (caller, request) in callers.items():
            started[descriptor] = time.perf_counter()
            caller.sendall(request)
        while started:
            ready = poll.poll(DEADLINE)
            if not ready:
                raise TimeoutError(f"{len(started)} calls have no answer")
            for descriptor, _ in ready:
                # Small enough to come in one piece.
                answer = callers[descriptor][0].recv(LONGEST_ANSWER)
                last = time.perf_counter()
                ended.append(Ended(last - started.pop(descriptor), answer.startswith(b"HTTP/1.1 201 ")))
                poll.unregister(descriptor)
        return last - first, ended
    finally:
        for caller, _ in callers.values():
            caller.close()
