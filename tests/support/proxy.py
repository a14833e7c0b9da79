"""A proxy that answers CONNECT."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def _relay(source: socket.socket, target: socket.socket) -> None:
    """Everything that comes, until it ends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # either side went away


@contextmanager
def proxy(*statuses: int, behind: str = "") -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that answers CONNECT with these statuses, and the last one for ever; keeps what it was sent. With 200 it leads
    to the host:port ``behind`` it, whatever it was asked for."""

    def tunnel(peer: socket.socket) -> None:
        host, _, port = behind.rpartition(":")
        with peer, socket.create_connection((host, int(port))) as server:
            peer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_relay, args=(server, peer), daemon=True)
            back.start()
            _relay(peer, server)
            back.join(10)

    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                heads.append(peer.recv(65536))
                status = statuses[min(len(heads), len(statuses)) - 1]
                if status == 200:
                    threading.Thread(target=tunnel, args=(peer,), daemon=True).start()
                    continue
                with peer:
                    peer.sendall(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", heads
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
