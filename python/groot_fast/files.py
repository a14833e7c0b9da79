"""What a warm command asks about files, on top of `posix`.

The modules of a warm command call `posix`, which the interpreter has built in. `os` adds names that are not needed there, and
takes a twentieth of a warm create to import, with the abstract classes that its environment stands on.
"""

from __future__ import annotations

import posix
from _stat import S_ISDIR, S_ISREG

FIRST_READ = 1 << 14
"""Bytes: nearly all small files are smaller, and a buffer for the largest costs more than reading them."""


def exists(path: str) -> bool:
    """Whether something is at ``path``; of a link, what it leads to."""
    return _mode(path, follow=True) != 0


def is_present(path: str) -> bool:
    """Whether something is at ``path``, be it a link that leads nowhere."""
    return _mode(path, follow=False) != 0


def is_directory(path: str) -> bool:
    """Whether ``path`` is a directory, or a link to one."""
    return S_ISDIR(_mode(path, follow=True))


def is_own_directory(path: str) -> bool:
    """Whether ``path`` is a directory, and no link to one."""
    return S_ISDIR(_mode(path, follow=False))


def is_file(path: str) -> bool:
    """Whether ``path`` is a regular file, or a link to one."""
    return S_ISREG(_mode(path, follow=True))


def _mode(path: str, *, follow: bool) -> int:
    """0 for what is not there, cannot be looked at, or cannot be a path."""
    try:
        return posix.stat(path, follow_symlinks=follow).st_mode
    except (OSError, ValueError):
        return 0


def read(path: str, most: int, flags: int = 0) -> bytes:
    """The start of a file, ``most`` bytes of it. Raises OSError."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | flags)
    try:
        data = posix.read(fd, min(most, FIRST_READ))
        # A pipe gives what it has, so only nothing is the end.
        while data and len(data) < most:
            more = posix.read(fd, min(most - len(data), max(FIRST_READ, len(data))))
            if not more:
                break
            data += more
        return data
    finally:
        posix.close(fd)


def real_path(path: str) -> str:
    """``path`` without links, as the kernel sees it; unchanged where nothing is there."""
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
    except OSError:
        return path
    try:
        return posix.readlink(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)


def encode(text: str) -> bytes:
    """The bytes of a file name or argument. The launcher sets UTF-8 whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """The other way round."""
    return data.decode("utf-8", "surrogateescape")


def variable(name: str) -> str:
    """A variable of the environment; empty where it is not set."""
    return decode(posix.environ.get(name.encode(), b""))
