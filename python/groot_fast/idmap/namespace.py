"""The outside of a user namespace: start a child in it, give it maps, send it work.

The child (`worker`) runs nothing but the core's calls on trees. The network, the credentials and `drax` stay outside.
One JSON object a line goes each way over a socket pair; descriptors travel beside it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import IO, Any

from groot_fast import _core, errors, interrupts
from groot_fast._core import format_json, parse_json
from groot_fast.config import Settings
from groot_fast.errors import GrootError, StoreError
from groot_fast.idmap import Ranges
from groot_fast.idmap.trees import Terms

CHILD = "import sys; sys.path[:] = {path!r}; from groot_fast.idmap.worker import main; main({fd})"
ENDED = "the process in the user namespace ended unexpectedly"
MAX_REPLY = 16 << 20
MAX_COMPLAINT = 4096
LAST_LINES = 3


class Namespace:
    """A user namespace with a store's mappings and one child in it, started by the first call."""

    def __init__(self, uids: Ranges, gids: Ranges, settings: Settings) -> None:
        self._maps = {"uid": uids, "gid": gids}
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._complaints: IO[bytes] | None = None
        """What the child and its interpreter say on stderr."""
        # Inside, the kernel translates: the core only has to refuse what no range holds.
        self._ranges: dict[str, Any] = {
            "uids": [(inside, inside, size) for inside, _, size in uids],
            "gids": [(inside, inside, size) for inside, _, size in gids],
        }

    def unpack(self, root: int, blob: int, terms: Terms, arguments: dict[str, Any]) -> _core.Unpacked:
        """`_core.unpack` from a descriptor."""
        fds, place = _parts(terms.listing)
        fds = [root, *fds, blob]
        parts = terms.neighbours.parts() if terms.neighbours is not None else None
        if parts is not None:
            volumes, listings, names, budget = parts
            fds += [volumes, listings]
            arguments = {**arguments, "neighbours": [names, budget]}
        return _unpacked(self._call("unpack", fds, listing=place, **arguments, **self._ranges))

    def copy_directory(self, root: int, source: str, listing: _core.Listing) -> _core.Unpacked:
        """`_core.copy_directory`."""
        fds, place = _parts(listing)
        return _unpacked(self._call("copy_directory", [root, *fds], source=source, listing=place, **self._ranges))

    def verify(self, root: int, listings: list[tuple[str, int]]) -> tuple[int, int, list[str]]:
        """`_core.verify`."""
        names, fds = [name for name, _ in listings], [fd for _, fd in listings]
        result = self._call("verify", [root, *fds], names=names, **self._ranges)
        if not isinstance(result, list) or len(result) != 3:
            raise StoreError("the process in the user namespace gave nonsense")
        entries, different, told = result
        return entries, different, told

    def snapshot(self, source: int, parent: int, name: str, limit: tuple[int, bool] | None) -> None:
        """`_core.snapshot`."""
        self._call("snapshot", [source, parent], entry=name, limit=limit)

    def copy(self, root: int, path: str, target: int) -> bool:
        """`_core.copy_inside`."""
        return bool(self._call("copy", [root, target], path=path))

    def remove(self, parent: int, name: str) -> list[int]:
        """`_core.remove_entry`."""
        ids = self._call("remove", [parent], entry=name)
        return ids if isinstance(ids, list) else []

    def close(self) -> None:
        """End the child. What it was doing is stopped, not finished."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
        if self._complaints is not None:
            self._complaints.close()
            self._complaints = None

    def _kill(self) -> None:
        """Have whoever waits for the child see its end."""
        if self._child is not None:
            self._child.kill()

    def _call(self, name: str, fds: list[int], **arguments: object) -> object:
        if self._socket is None:
            self._start()
        assert self._socket is not None
        request = format_json({"call": name, "arguments": arguments}).encode() + b"\n"
        try:
            self._send(request, fds)
            with interrupts.ended_by(self._kill):
                reply = self._receive()
        except BaseException:
            # A signal handler raised, or the child died: it must not go on behind our back.
            self.close()
            raise
        if "error" in reply:
            raise _error(reply["error"])
        return reply.get("result")

    def _send(self, data: bytes, fds: list[int]) -> None:
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [data], fds)
        except (BrokenPipeError, ConnectionResetError):
            raise StoreError(ENDED + self._reason()) from None

    def _receive(self) -> dict[str, object]:
        assert self._socket is not None
        line = bytearray()
        while not line.endswith(b"\n"):
            part = self._socket.recv(1 << 16)
            if not part or len(line) > MAX_REPLY:
                raise StoreError(ENDED + self._reason())
            line += part
        reply = parse_json(bytes(line))
        if not isinstance(reply, dict):
            raise StoreError("the process in the user namespace gave nonsense")
        return reply

    def _reason(self) -> str:
        """The last lines of what the child said, and how it ended, as the rest of a message."""
        assert self._child is not None and self._complaints is not None
        try:
            status = self._child.wait(1)
        except subprocess.TimeoutExpired:
            status = 0
        length = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(length - MAX_COMPLAINT, 0))
        lines = self._complaints.read().decode(errors="replace").splitlines()
        # Of what the interpreter says of an error its last line is what happened; the others are indented, or announce these.
        said = "; ".join([line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))][-LAST_LINES:])
        how = f" (killed by signal {-status})" if status < 0 else f" (exit status {status})" if status else ""
        return f"{how}: {said}" if said else how

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        # A file rather than a pipe: nobody has to read it while the child works.
        self._complaints = open(os.memfd_create("complaints"), "w+b")  # noqa: SIM115 - `close` does
        try:
            code = CHILD.format(path=sys.path, fd=theirs.fileno())
            self._child = subprocess.Popen(
                [sys.executable, "-ISXutf8", "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                cwd="/",
                env={},
            )
            theirs.close()
            self._expect("entered")
            for kind, helper in (("uid", self._settings.newuidmap_bin), ("gid", self._settings.newgidmap_bin)):
                self._write_map(kind, helper, self._maps[kind])
            self._send(b"mapped\n", [])
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

    def _write_map(self, kind: str, helper: str, mappings: Ranges) -> None:
        assert self._child is not None
        numbers = [str(number) for mapping in mappings for number in mapping]
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


def _parts(listing: _core.Listing) -> tuple[list[int], object]:
    """A listing's descriptors, and the rest of it."""
    parts = listing.parts()
    assert parts is not None  # it is taken once, by the child
    (at, name), (scratch, temporary), parent, goes_on = parts
    return [at, scratch], [name, temporary, parent, goes_on]


def _unpacked(result: object) -> _core.Unpacked:
    if not isinstance(result, list) or len(result) != 6:
        raise StoreError("the process in the user namespace gave nonsense")
    content, removed, entries, left_out, notes, cloned = result
    return content, removed, entries, left_out, notes, cloned


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
