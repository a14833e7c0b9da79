"""Proxies from the environment: HTTPS_PROXY, HTTP_PROXY, NO_PROXY and their lower-case forms, as Go reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from yarl import URL

from ...errors import ConfigError


def proxy_for(url: URL, environ: Mapping[str, str] = os.environ) -> URL | None:
    """The proxy for a request to ``url``, or None.

    localhost and loopback addresses are always spoken to directly. Raises `ConfigError` (which does not repeat the
    value: it may hold a password) when the variable is not an http or https URL.
    """
    host = (url.host or "").lower()
    if host == "localhost" or host.endswith(".localhost") or _is_loopback(host):
        return None
    name = "HTTPS_PROXY" if url.scheme == "https" else "HTTP_PROXY"
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
        return None  # in a CGI program this variable is the client's `Proxy:` header
    value = environ.get(name) or environ.get(name.lower())
    if not value or _is_excepted(host, url.port or 0, environ.get("NO_PROXY") or environ.get("no_proxy") or ""):
        return None
    try:
        proxy = URL(value if "://" in value else f"http://{value}")
        usable = proxy.scheme in ("http", "https") and bool(proxy.host) and proxy.port is not None
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{name} is not the URL of an http proxy")
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_excepted(host: str, port: int, exceptions: str) -> bool:
    return any(_matches(host, port, entry.strip().lower()) for entry in exceptions.split(","))


def _matches(host: str, port: int, entry: str) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if address is not None and "/" in entry:
        try:
            return address in ip_network(entry, strict=False)
        except ValueError:
            return False
    if entry.count(":") == 1 or entry.startswith("["):
        entry, _, wanted = entry.rpartition(":")
        if wanted != str(port):
            return False
    entry = entry.strip("[]")
    if address is not None:
        return entry == host
    bare = entry.removeprefix("*").removeprefix(".")
    return bool(bare) and (host.endswith("." + bare) or (host == bare and not entry.startswith((".", "*"))))
