"""What a server packed a small body in, although nothing was asked for (RFC 9110, section 8.4)."""

from __future__ import annotations

import zlib

from ...errors import LimitExceeded, RegistryError

_GZIP_MAGIC = b"\x1f\x8b"


def undo_coding(body: bytes, coding: str, cap: int, what: str) -> bytes:
    """``body`` out of its declared ``coding``, at most ``cap`` bytes.

    A body that is declared as gzip and does not look like it stays as it is: some stores put the header on everything. Raises
    `LimitExceeded`, and `RegistryError` for a coding we do not have or data that is none.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity") or (coding in ("gzip", "x-gzip") and not body.startswith(_GZIP_MAGIC)):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise RegistryError(f"{what} was sent in a coding that was not asked for ({ascii(coding[:32])[1:-1]})")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, whichever it is
    try:
        plain = inflater.decompress(body, cap + 1)
    except zlib.error:
        raise RegistryError(f"{what} is not in the coding it was declared to be in ({coding})") from None
    if len(plain) > cap:
        raise LimitExceeded(f"{what} is larger than the limit of {cap} bytes")
    if not inflater.eof:
        raise RegistryError(f"{what} ended early", temporary=True)
    return plain
