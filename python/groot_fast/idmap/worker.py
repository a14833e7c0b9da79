"""The inside of a user namespace: wait for work, do it with the core, answer.

Started by `namespace.Namespace` with one end of a socket pair. Has no state and touches nothing but the trees it is
told to; the kernel keeps it to the ids of the mapping.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

from groot_fast import _core
from groot_fast._core import format_json, parse_json

MAX_REQUEST = 1 << 20
MAX_DESCRIPTORS = 253
"""What the kernel takes in one message (unix(7), SCM_RIGHTS)."""


def main(fd: int) -> None:
    """Enter a namespace, wait for its maps, then serve until the other end closes."""
    # The terminal's signals are for the parent, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=fd)
    try:
        _core.enter_user_namespace()
        _send(channel, {"state": "entered"})
        if channel.recv(64) != b"mapped\n":
            return
        _core.become_namespace_root()
        _send(channel, {"state": "ready"})
    except OSError as error:
        _send(channel, {"error": _describe(error)})
        return
    os.umask(0o022)
    while (request := _receive(channel)) is not None:
        _send(channel, _serve(*request))


def _send(channel: socket.socket, message: dict[str, object]) -> None:
    channel.sendall(format_json(message).encode() + b"\n")


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next request with the descriptors that came with it; None at the end."""
    data, fds, _flags, _address = socket.recv_fds(channel, 1 << 16, MAX_DESCRIPTORS)
    line = bytearray(data)
    while line and not line.endswith(b"\n"):
        part = channel.recv(1 << 16)
        if not part or len(line) > MAX_REQUEST:
            return None
        line += part
    if not line:
        return None
    return parse_json(bytes(line)), fds


def _serve(request: dict[str, Any], fds: list[int]) -> dict[str, object]:
    try:
        return {"result": _run(request["call"], fds, request["arguments"])}
    except Exception as error:
        return {"error": _describe(error)}
    finally:
        for fd in fds:
            os.close(fd)


def _run(call: str, fds: list[int], arguments: dict[str, Any]) -> object:
    common: dict[str, Any] = {kind: [tuple(one) for one in arguments.pop(kind)] for kind in ("uids", "gids") if kind in arguments}
    if "listing" in arguments:
        # Who is root in here owns the store.
        name, temporary, parent, goes_on = arguments.pop("listing")
        common["listing"] = _core.Listing((fds[1], name), (fds[2], temporary), parent, goes_on)
    if "neighbours" in arguments:
        names, budget = arguments.pop("neighbours")
        common["neighbours"] = _core.Neighbours(fds[4], fds[5], names, budget)
    if call == "unpack":
        return _core.unpack(fds[0], fds[3], cancel=_core.Cancel(), **common, **arguments)
    if call == "copy_directory":
        return _core.copy_directory(fds[0], arguments["source"], cancel=_core.Cancel(), **common)
    if call == "verify":
        return _core.verify(fds[0], list(zip(arguments["names"], fds[1:], strict=True)), cancel=_core.Cancel(), **common)
    if call == "snapshot":
        limit = arguments["limit"]
        _core.snapshot(fds[0], fds[1], arguments["entry"], None if limit is None else tuple(limit))
        return None
    if call == "copy":
        return _core.copy_inside(fds[0], arguments["path"], fds[1])
    if call == "remove":
        return _core.remove_entry(fds[0], arguments["entry"])
    raise ValueError(f"unknown call {call}")


def _describe(error: BaseException) -> dict[str, object]:
    if isinstance(error, OSError):
        return {"class": "OSError", "errno": error.errno, "text": error.strerror or str(error)}
    return {"class": type(error).__name__, "text": str(error)}
