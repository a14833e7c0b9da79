"""The socket that the server listens on."""

from __future__ import annotations

import fcntl
import os
import socket
import stat

from groot_fast.errors import StoreError, UsageError

FIRST_HANDED = 3
"""Where systemd puts the first descriptor (sd_listen_fds(3))."""
BACKLOG = 1024


class Listener:
    """A listening socket. What it is bound to is removed by `close`, unless systemd made it."""

    def __init__(self, bound: socket.socket, path: str, lock: int) -> None:
        self.socket = bound
        self.path = path
        self._lock = lock

    def close(self) -> None:
        """Take the name away, and let others have it. The socket itself is whoever's that listens on it."""
        if self._lock >= 0:
            # While we hold the lock the name is ours.
            os.unlink(self.path)
            os.close(self._lock)


def open_listener(path: str) -> Listener:
    """Listen on what systemd handed over, else on a new socket at ``path``, for its owner only.

    A socket that a dead server left is replaced. Raises UsageError where there is no path, StoreError where somebody listens
    there, or where something else is.
    """
    handed = _handed_over()
    if handed is not None:
        return Listener(handed, str(handed.getsockname()), -1)
    if not path:
        raise UsageError("no socket to serve on", hint="give --socket, GROOTFS_SOCKET, or `socket` in the configuration file")
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"open {path}.lock: {(error.strerror or 'error').lower()}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Listener(_bind(path), path, lock)
    except BlockingIOError:
        os.close(lock)
        raise StoreError(f"another server listens on {path}") from None
    except OSError as error:
        os.close(lock)
        raise StoreError(f"listen on {path}: {(error.strerror or str(error)).lower()}") from None
    except StoreError:
        os.close(lock)
        raise


def _handed_over() -> socket.socket | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    # They are meant for this process and not for its children.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_inheritable(FIRST_HANDED, False)
    return socket.socket(fileno=FIRST_HANDED)


def _bind(path: str) -> socket.socket:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StoreError(f"{path} exists and is no socket; it was not touched")
        with socket.socket(socket.AF_UNIX) as probe:
            # One that keeps no lock may be alive too.
            if probe.connect_ex(path) == 0:
                raise BlockingIOError
        os.unlink(path)
    except FileNotFoundError:
        pass
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        bound.bind(path)
    finally:
        os.umask(mask)
    bound.listen(BACKLOG)
    return bound
