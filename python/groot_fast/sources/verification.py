"""Proofs that a caller may pull: what `create.image_verification: cached` remembers.

What a proof is on disk the core says (``rust/store/src/proofs.rs``); here it gets its name, an HMAC-SHA-256 of registry,
repository and credentials.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groot_fast._core import Store
    from groot_fast.sources.registry.credentials import Credential
    from groot_fast.sources.registry.reference import Reference


class Proofs:
    """The proofs of one store; each is good for ``lifetime`` seconds."""

    def __init__(self, store: Store, lifetime: int) -> None:
        """See the class."""
        self._store = store
        self._lifetime = lifetime

    def has(self, reference: Reference, credential: Credential) -> bool:
        """Whether the registry gave an image of this repository to these credentials not too long ago."""
        key = self._store.proof_key()
        return key is not None and self._store.has_proof(_name(key, reference, credential), self._lifetime)

    def keep(self, reference: Reference, credential: Credential) -> None:
        """The registry has just given an image of this repository to these credentials. Raises OSError, StoreError."""
        key = self._store.proof_key() or self._store.make_proof_key()
        self._store.keep_proof(_name(key, reference, credential), self._lifetime)


def _name(key: bytes, reference: Reference, credential: Credential) -> str:
    question = [reference.registry.lower(), reference.repository, *credential.parts()]
    # lengths, so that no two questions give the same bytes
    data = b"".join(len(part).to_bytes(8, "big") + part for part in (text.encode(errors="surrogateescape") for text in question))
    return hmac.new(key, data, hashlib.sha256).hexdigest()
