"""The registry client: from a `docker://` reference to verified manifests and streams of blob bytes.

Map of the package, outermost first; each file holds one idea:

=================  ====================================================================================
`client.py`        `RegistryClient`: one image of one registry, with its mirrors
`foreign.py`       `ForeignLayers`: layers that live at `urls` outside any registry
`endpoint.py`      one registry host: `GET /v2/`, choice of scheme, authorised requests
`stream.py`        a blob's bytes, resumed where they broke
`auth.py`          challenges, basic and bearer authorisation
`credentials.py`   docker's `config.json` and credential helpers
`transport.py`     one HTTP exchange: redirects, deadlines, caps; all aiohttp sessions are made here
`guard.py`         which URLs and addresses a server may send us to
`proxies.py`       proxies from the environment
`trust.py`         TLS contexts
`failures.py`      statuses and exceptions of the network as `RegistryError`
`retry.py`         how often and how long to wait
`options.py`       what a caller may set
`reference.py`     the text after `docker://` (no network, no aiohttp)
=================  ====================================================================================

Names are loaded on first use, so that parsing a reference does not import aiohttp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import RegistryClient
    from .foreign import ForeignLayers
    from .options import RegistryOptions
    from .reference import Reference, parse_reference

__all__ = [
    "ForeignLayers",
    "Reference",
    "RegistryClient",
    "RegistryOptions",
    "parse_reference",
]

_HOMES = {
    "ForeignLayers": "foreign",
    "Reference": "reference",
    "RegistryClient": "client",
    "RegistryOptions": "options",
    "parse_reference": "reference",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
