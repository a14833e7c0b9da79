"""Proofs that a caller may pull: what `create.image_verification: cached` remembers.

A proof is an empty file in the store, ``meta/proofs/<HMAC-SHA-256 of registry, repository and credentials>``, whose time of
modification is when the registry last answered. The key of the hash is the store's own, so that a proof gives away no
password to who can read it. Proofs are no part of the original's layout; it leaves them alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groot_fast.sources.registry.credentials import Credential
    from groot_fast.sources.registry.reference import Reference
    from groot_fast.store.layout import Store

FOLDER = "meta/proofs"
_KEY = "key"
_KEY_BYTES = 32


class Proofs:
    """The proofs of one store; each is good for ``lifetime`` seconds."""

    def __init__(self, store: Store, lifetime: int) -> None:
        """See the class."""
        self._store = store
        self._folder = store.folder(FOLDER)
        self._lifetime = lifetime

    def has(self, reference: Reference, credential: Credential) -> bool:
        """Whether the registry gave an image of this repository to these credentials not too long ago."""
        key = self._read_key()
        return key is not None and self._is_fresh(f"{self._folder}/{_name(key, reference, credential)}")

    def keep(self, reference: Reference, credential: Credential) -> None:
        """The registry has just given an image of this repository to these credentials. Raises OSError."""
        key = self._read_key() or self._make_key()
        path = f"{self._folder}/{_name(key, reference, credential)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)
        self._store.give(path)
        self._drop_stale()

    def _is_fresh(self, path: str) -> bool:
        try:
            age = time.time() - os.lstat(path).st_mtime
        except OSError:
            return False
        return 0 <= age < self._lifetime  # one from the future proves nothing

    def _drop_stale(self) -> None:
        for entry in os.scandir(self._folder):
            if entry.name != _KEY and not self._is_fresh(entry.path):
                try:
                    os.unlink(entry.path)
                except OSError:
                    pass  # another command was faster

    def _read_key(self) -> bytes | None:
        try:
            descriptor = os.open(f"{self._folder}/{_KEY}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            key = os.read(descriptor, _KEY_BYTES)
        finally:
            os.close(descriptor)
        return key if len(key) == _KEY_BYTES else None

    def _make_key(self) -> bytes:
        """Another command may make one at the same time; the last one stays, and a proof under another key is none."""
        try:
            self._store.make_directory(self._folder, 0o700)
        except FileExistsError:
            pass
        key = os.urandom(_KEY_BYTES)
        temporary = self._store.temporary("record")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, key)
        finally:
            os.close(descriptor)
        self._store.give(temporary)
        os.rename(temporary, f"{self._folder}/{_KEY}")
        return key


def _name(key: bytes, reference: Reference, credential: Credential) -> str:
    question = [reference.registry.lower(), reference.repository, *credential.parts()]
    # lengths, so that no two questions give the same bytes
    data = b"".join(len(part).to_bytes(8, "big") + part for part in (text.encode(errors="surrogateescape") for text in question))
    return hmac.new(key, data, hashlib.sha256).hexdigest()
