"""`aiohttp` and what we use of it, imported without reading the system's certificates.

The import makes a TLS context with all of them, which takes a third of the time of a whole warm pull. We never use it:
every connection gets a context of `trust`. While it is made, the places it looks in are empty, so that a connection
which did use it would fail to verify, not succeed.
"""

from __future__ import annotations

import os

_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_kept = {name: os.environ.get(name) for name in _PLACES}
try:
    for _name in _PLACES:
        os.environ[_name] = os.devnull
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.http_exceptions import HttpProcessingError
    from aiohttp.resolver import ThreadedResolver
finally:
    for _name, _value in _kept.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value

__all__ = ["AbstractResolver", "HttpProcessingError", "ResolveResult", "ResponseHandler", "ThreadedResolver", "aiohttp"]
