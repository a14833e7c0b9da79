"""The outside of a user namespace: start a child in it, give it maps, send it work.

The child (`worker`) runs nothing but the core's calls on trees. The network, the credentials and `drax` stay outside.
One JSON object a line goes each way over a socket pair; descriptors travel beside it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from groot_fast import errors
from groot_fast._core import format_json, parse_json
from groot_fast.config import Settings
from groot_fast.errors import GrootError, StoreError
from groot_fast.idmap import Mapping, Mappings

if TYPE_CHECKING:
    from groot_fast._core import Listing, Unpacked

CHILD = "import sys; sys.path[:] = {path!r}; from groot_fast.idmap.worker import main; main({fd})"
MAX_REPLY = 16 << 20


class Namespace:
    """A user namespace with a store's mappings and one child in it, started by the first call."""

    def __init__(self, mappings: Mappings, settings: Settings) -> None:
        self._mappings = mappings
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        # Inside, the kernel translates: the core only has to refuse what no range holds.
        self._ranges: dict[str, Any] = {
            "uids": [(m.inside, m.inside, m.size) for m in mappings.uids],
            "gids": [(m.inside, m.inside, m.size) for m in mappings.gids],
        }

    def unpack(self, path: str, fd: int, arguments: dict[str, Any]) -> Unpacked:
        """`_core.unpack` from a descriptor."""
        return _unpacked(self._call("unpack", fd=fd, path=path, **arguments, **self._ranges))

    def copy_directory(self, path: str, source: str, listing: Listing) -> Unpacked:
        """`_core.copy_directory`."""
        return _unpacked(self._call("copy_directory", path=path, source=source, listing=listing, **self._ranges))

    def verify(self, path: str, listings: list[str]) -> tuple[int, int, list[str]]:
        """`_core.verify`."""
        result = self._call("verify", path=path, listings=listings, **self._ranges)
        if not isinstance(result, list) or len(result) != 3:
            raise StoreError("the process in the user namespace gave nonsense")
        entries, different, told = result
        return entries, different, told

    def snapshot(self, source: str, path: str, limit: int | None, exclusive: bool) -> None:
        """`_core.snapshot`."""
        self._call("snapshot", source=source, path=path, limit=limit, exclusive=exclusive)

    def delete_subvolume(self, path: str) -> list[int]:
        """`operations.delete_with_nested`."""
        ids = self._call("delete_subvolume", path=path)
        return ids if isinstance(ids, list) else []

    def remove_tree(self, path: str) -> None:
        """`operations.remove_directory`."""
        self._call("remove_tree", path=path)

    def close(self) -> None:
        """End the child. What it was doing is stopped, not finished."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _call(self, name: str, *, fd: int | None = None, **arguments: object) -> object:
        if self._socket is None:
            self._start()
        assert self._socket is not None
        request = format_json({"call": name, "arguments": arguments}).encode() + b"\n"
        try:
            socket.send_fds(self._socket, [request], [] if fd is None else [fd])
            reply = self._receive()
        except BaseException:
            # A signal handler raised, or the child died: it must not go on behind our back.
            self.close()
            raise
        if "error" in reply:
            raise _error(reply["error"])
        return reply.get("result")

    def _receive(self) -> dict[str, object]:
        assert self._socket is not None
        line = bytearray()
        while not line.endswith(b"\n"):
            part = self._socket.recv(1 << 16)
            if not part or len(line) > MAX_REPLY:
                raise StoreError("the process in the user namespace ended unexpectedly")
            line += part
        reply = parse_json(bytes(line))
        if not isinstance(reply, dict):
            raise StoreError("the process in the user namespace gave nonsense")
        return reply

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        try:
            code = CHILD.format(path=sys.path, fd=theirs.fileno())
            self._child = subprocess.Popen(
                [sys.executable, "-ISXutf8", "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
            )
            theirs.close()
            self._expect("entered")
            for kind, helper, mappings in (
                ("uid", self._settings.newuidmap_bin, self._mappings.uids),
                ("gid", self._settings.newgidmap_bin, self._mappings.gids),
            ):
                self._write_map(kind, helper, mappings)
            ours.sendall(b"mapped\n")
            self._expect("ready")
        except BaseException:
            theirs.close()
            self.close()
            raise

    def _expect(self, state: str) -> None:
        reply = self._receive()
        if "error" in reply:
            error = _error(reply["error"])
            reason = error.strerror if isinstance(error, OSError) else str(error)
            hint = "the kernel must allow user namespaces to ordinary users (`sysctl user.max_user_namespaces`)"
            raise StoreError(f"unpacking as an ordinary user: {reason}", hint=hint)
        if reply.get("state") != state:
            raise StoreError("the process in the user namespace gave nonsense")

    def _write_map(self, kind: str, helper: str, mappings: list[Mapping]) -> None:
        assert self._child is not None
        numbers = [str(n) for m in mappings for n in (m.inside, m.host, m.size)]
        try:
            done = subprocess.run(
                [helper, str(self._child.pid), *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except FileNotFoundError:
            raise StoreError(f"{helper} was not found in the $PATH", hint="install the package `uidmap`") from None
        except OSError as error:
            raise StoreError(f"setting {kind} mapping: {helper}: {(error.strerror or 'error').lower()}") from None
        if done.returncode != 0:
            said = " ".join(done.stdout.decode(errors="replace").split())
            raise StoreError(
                f"setting {kind} mapping: {os.path.basename(helper)} exit status {done.returncode}: {said}",
                hint=f"the mappings must be allowed in /etc/sub{kind}, and {os.path.basename(helper)} must be setuid root",
            )


def _unpacked(result: object) -> Unpacked:
    if not isinstance(result, list) or len(result) != 5:
        raise StoreError("the process in the user namespace gave nonsense")
    content, removed, entries, left_out, notes = result
    return content, removed, entries, left_out, notes


def _error(description: object) -> Exception:
    """The exception that the child's core raised."""
    if not isinstance(description, dict):
        return StoreError("the process in the user namespace gave nonsense")
    text = str(description.get("text"))
    number = description.get("errno")
    if isinstance(number, int):
        return OSError(number, text)
    kind = getattr(errors, str(description.get("class")), None)
    if isinstance(kind, type) and issubclass(kind, GrootError):
        return kind(text)
    return StoreError(text)
