"""The file of a blob while it comes: ``tmp/blob-<digest>``, which one process in the machine writes.

| lock on the file | held by |
| --- | --- |
| exclusive (flock) | who fetches the blob |
| shared (fcntl, of the open file) | who cannot go on without it: `BlobFile.is_wanted` |

The kernel keeps the two kinds apart, and takes both back when a process dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time
from collections.abc import Callable

from groot_fast._core import Store

PAUSE = 0.05
"""Seconds between looks at whether another process is done with a blob."""
STANDSTILL = 60.0
"""Seconds without a further byte after which who cannot go on without the blob fetches it for itself."""


class BlobFile:
    """A file that this process may write, until `close`."""

    def __init__(self, store: Store, digest: str, fd: int, *, is_named: bool) -> None:
        """Without a name it goes with its last descriptor."""
        self.fd = fd
        self._store = store
        self._digest = digest
        self._inode = os.fstat(fd).st_ino
        self._is_named = is_named

    @property
    def size(self) -> int:
        """Bytes in it."""
        return os.fstat(self.fd).st_size

    def is_wanted(self) -> bool:
        """Whether another process cannot go on without the blob."""
        return self._is_named and self.fd >= 0 and _lock(self.fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK) != fcntl.F_UNLCK

    def close(self) -> None:
        """Let others have it. Harmless when already done."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def let_go(self) -> None:
        """Take its name away and let others fetch the blob: no more comes into this file. Raises OSError."""
        self.remove()
        self._is_named = False
        self.close()

    def remove(self) -> None:
        """Take its name away, unless another file has the name by now. Raises OSError."""
        if self._is_named:
            self._store.remove_download(self._digest, self._inode)


async def claim(store: Store, digest: str, size: int | None, is_urgent: Callable[[], bool]) -> BlobFile:
    """The file of a blob, ours to write; waits while another process writes it. Raises OSError.

    ``is_urgent`` says whether we cannot go on without it: then the other process hears of it, and if nothing comes of that
    for `STANDSTILL` seconds, what is given is a file of our own.
    """
    while True:
        # The descriptor is kept while waiting. When the other process is done with the blob and removes the file, what we hold
        # is still all of it, and nothing has to be fetched.
        fd = store.open_download(digest)
        try:
            if not await _wait(fd, is_urgent):
                os.close(fd)
                fd = store.open_nameless_download()
                return BlobFile(store, digest, fd, is_named=False)
            if os.fstat(fd).st_size == size or store.is_download_at(digest, fd):
                return BlobFile(store, digest, fd, is_named=True)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


async def _wait(fd: int, is_urgent: Callable[[], bool]) -> bool:
    """Lock the file; False if its holder stands still."""
    size, since = -1, 0.0
    while not _try_flock(fd):
        if is_urgent():
            if size < 0:
                _lock(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK)
            now = time.monotonic()
            if (grown := os.fstat(fd).st_size) != size:
                size, since = grown, now
            elif now - since > STANDSTILL:
                return False
        await asyncio.sleep(PAUSE)
    if size >= 0:
        _lock(fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK)
    return True


def _lock(fd: int, command: int, kind: int) -> int:
    """fcntl(2) with a ``struct flock`` over the first byte; gives the kind that comes back."""
    answer = fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 1, 0))
    return int(struct.unpack_from("h", answer)[0])


def _try_flock(fd: int) -> bool:
    """Lock what a descriptor is open on, if nobody else has it locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
