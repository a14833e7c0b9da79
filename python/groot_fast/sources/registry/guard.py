"""Which URLs and addresses a server may send us to.

A registry names other places: the token server in its challenge, blob stores in redirects. A hostile one names
places only this machine can reach (CVE-2020-15157 and the go-containerregistry series of 2026). Rules:

- the home host:port, which the user named, and hosts the operator trusts may be anything;
- link-local, unspecified, multicast and reserved addresses: never (the cloud's metadata service lives there);
- loopback: only for an insecure registry;
- private networks: for an insecure registry, or when the home itself answers from one (a company's registry next to its
  blob store), which counts by the address it answered from, not by what its name resolves to;
- plain http: only for an insecure registry;
- credentials do not belong here: `Transport` sends them to the origin they were made for and nowhere else.

Addresses are checked after name resolution, on the very addresses that are connected to, so a name that resolves to
127.0.0.1 gains nothing.
"""

from __future__ import annotations

import socket
from enum import IntEnum
from ipaddress import ip_address

from yarl import URL

from groot_fast import _core

from ...errors import RegistryError
from .http import AbstractResolver, ResolveResult, ThreadedResolver


class Reach(IntEnum):
    """Who can open a connection to an address."""

    NEVER = 0
    LOOPBACK = 1
    PRIVATE = 2
    PUBLIC = 3


def reach(text: str) -> Reach:
    """Class of an address literal, by `groot-registry`'s table (``address.rs``)."""
    return Reach(_core.reach(text))


def host_port(url: URL) -> str:
    """``host:port`` with the port always there; the key by which hosts are compared and named in messages."""
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"


class Guard:
    """The rules above for one home registry; see the module's text.

    ``home`` is the URL of the registry API, None for layers that come from no registry. ``trusted`` are host:port
    strings. ``internal`` permits private and loopback addresses (not plain http).
    """

    def __init__(self, home: URL | None, *, insecure: bool = False, trusted: tuple[str, ...] = (), internal: bool = False) -> None:
        """See the class."""
        self._insecure = insecure
        self._internal = internal
        self._free = {host_port(URL(f"https://{_core.canonical_host(host)}")) for host in trusted}
        self._home: set[str] = set()
        self._home_is_private = False
        if home is not None:
            # an insecure registry without a port is 443 or 80, whichever answers
            self._home = {host_port(home), host_port(home.with_scheme("http")) if insecure else host_port(home)}
            self._free |= self._home
            if home.host and _is_literal(home.host):
                self._home_is_private = reach(home.host) == Reach.PRIVATE

    def trust(self, url: URL) -> None:
        """Lift the address rules for a host the operator configured, such as a proxy."""
        self._free.add(host_port(url))

    def answered(self, url: URL, address: str) -> None:
        """The home answered a request for ``url`` from ``address``. That is worth more than what its name resolves to: whoever
        names a private address for a public registry does not answer from there with the registry's certificate."""
        if host_port(url) in self._home and url.scheme == "https":
            self._home_is_private = reach(address) is Reach.PRIVATE

    def check(self, url: URL) -> None:
        """Raise `RegistryError` unless a request may go to ``url`` (its address, if a name, is checked later)."""
        if url.scheme not in ("http", "https") or not url.host:
            raise RegistryError(f"refusing to follow the registry to a URL that is not https ({_shown(url)})")
        if url.user is not None or url.password is not None:
            raise RegistryError(f"refusing a URL with user information ({_shown(url)})")
        if url.scheme == "http" and not self._insecure:
            raise RegistryError(f"refusing plain http to {_shown(url)}")
        if _is_literal(url.host):
            self.check_addresses(host_port(url), [url.host])
        elif _core.is_disguised(url.host):
            raise RegistryError(f"refusing an address in an unusual spelling ({_shown(url)})")

    def redirected(self, current: URL, location: str | None) -> URL:
        """Where a redirect leads; raises `RegistryError` for a missing, malformed or forbidden target."""
        target = self._parse(location, f"{_shown(current)} sent a redirect without a usable target", current)
        if current.scheme == "https" and target.scheme == "http" and not self._insecure:
            raise RegistryError(f"refusing a redirect from https to plain http ({_shown(target)})")
        self.check(target)
        return target

    def realm(self, text: str) -> URL:
        """The token server a challenge names; raises `RegistryError` when it is malformed or forbidden."""
        return self.parse(text, "the registry named a token server with a malformed URL")

    def parse(self, text: str, complaint: str) -> URL:
        """A URL from a stranger; raises `RegistryError`, with ``complaint`` if it is malformed."""
        url = self._parse(text, complaint, None)
        self.check(url)
        return url

    def check_addresses(self, host: str, addresses: list[str]) -> None:
        """Raise `RegistryError` unless ``host`` (host:port) may have all these addresses."""
        if host in self._free:
            return
        for kind in sorted({reach(address) for address in addresses}):
            if not self._allows(kind):
                raise RegistryError(
                    f"refusing to follow the registry to {host}: not a public address",
                    hint=f"if this host is meant, add `{host}` to create.trusted_hosts",
                )

    def _allows(self, kind: Reach) -> bool:
        if kind is Reach.PUBLIC:
            return True
        if kind is Reach.NEVER:
            return False
        if self._insecure or self._internal:
            return True
        return kind is Reach.PRIVATE and self._home_is_private

    @staticmethod
    def _parse(text: str | None, complaint: str, base: URL | None) -> URL:
        if not text or any(ch <= " " or ch == "\x7f" for ch in text):
            raise RegistryError(complaint)
        try:
            # encoded=True: signed URLs must reach the blob store byte for byte
            url = URL(text, encoded=True)
            if base is not None and not url.scheme:  # with a scheme, `http://` too, it must stand alone
                url = base.join(url)
            _ = url.host, url.port  # these parse lazily
        except ValueError:
            raise RegistryError(complaint) from None
        return url


class GuardedResolver(AbstractResolver):
    """The system's resolver, its answers shown to a `Guard` before anybody connects."""

    def __init__(self, guard: Guard) -> None:
        """See the class."""
        self._guard = guard
        self._system = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """As `AbstractResolver`; raises `RegistryError` for an address the guard refuses."""
        results = await self._system.resolve(host, port, family)
        self._guard.check_addresses(f"{host}:{port}", [result["host"] for result in results])
        return results

    async def close(self) -> None:
        """Nothing is held."""
        await self._system.close()


def _is_literal(host: str) -> bool:
    try:
        ip_address(host.split("%", 1)[0])
    except ValueError:
        return False
    return True


def _shown(url: URL) -> str:
    """Scheme and host: paths and queries of redirects hold signatures."""
    return ascii(f"{url.scheme}://{url.host or ''}")[1:-1]
