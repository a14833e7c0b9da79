"""One registry host: the first `GET /v2/` decides scheme and authorisation, then requests are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from yarl import URL

from groot_fast import _core

from ...errors import LimitExceeded, RegistryError
from .auth import Authorizer
from .credentials import Credential, CredentialFinder
from .failures import (
    INSECURE_TEXT,
    NotTlsError,
    describe,
    explain,
    is_policy,
    is_web_page,
    name_codes,
    proxy_hint,
    status_error,
    web_page,
)
from .guard import Guard, host_port
from .http import aiohttp
from .options import RegistryOptions
from .reference import Reference
from .transport import SMALL_BODY, Reply, Transport, read_capped
from .trust import Home, Trust

_MAX_SCOPES = 2  # ours, and the one that the registry names
PATIENCE = 2.0
"""Seconds that a mirror may take to connect, to its first byte, and between bytes."""


class Endpoint:
    """A host that serves the reference's repository: the registry itself (no ``place``, or one that says so), or a mirror of it."""

    def __init__(self, reference: Reference, options: RegistryOptions, place: _core.RegistryHost | None = None) -> None:
        """See the class."""
        self._reference = reference
        self.is_mirror = place is not None and not place.is_server
        self.host = reference.registry if place is None else place.authority
        self._root = "/v2" if place is None else place.path
        self.resolves = place is None or place.resolves
        self.pulls = place is None or place.pulls
        scheme = None if place is None else place.scheme
        # What comes before the repository's name is part of the name for a registry that is asked for a token.
        prefix = self._root.removeprefix("/v2/") if self._root.startswith("/v2/") else ""
        self._repository = f"{prefix}/{reference.repository}" if prefix else reference.repository
        self._insecure = scheme == "http" or _core.is_listed_host([self.host], list(options.insecure_registries))
        self._schemes = (scheme,) if scheme else ("https", "http") if self._insecure else ("https",)
        # A mirror is there to be faster: one that makes us wait is passed over.
        if self.is_mirror:
            connect = place.dial_timeout if place is not None and place.dial_timeout is not None else PATIENCE
            options = replace(options, connect_timeout=connect, response_timeout=PATIENCE, stall_timeout=PATIENCE, attempts=1)
        self.options = options
        api_host = reference.api_host if place is None else place.authority
        base = URL(f"https://{_core.canonical_host(api_host)}")
        guard = Guard(base, insecure=self._insecure, trusted=options.trusted_hosts)
        trust = Trust(
            options.certs_dirs,
            insecure=[*options.insecure_registries, *([self.host] if place is not None and place.skip_verify else [])],
            home=Home(base, self.host),
            authorities=place.authorities if place is not None else (),
            clients=place.clients if place is not None else (),
        )
        self._private = _joined(place.headers) if place is not None else {}
        self._namespace = "" if place is None or _is_own(api_host, reference) else f"?ns={reference.registry}"
        # A host that a file names with its scheme is asked at once: what it wants of us it says with the first refusal.
        self._base: URL | None = base.with_scheme(scheme) if scheme else None
        self._finder = CredentialFinder(options.auth_file, options.log)
        self._transport = Transport(guard, trust, options)
        self._auth = Authorizer(self._repository, self._credential, self._transport)
        self._authority = base
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    @asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        """GET ``/v2/<repository>/<path>`` with authorisation, which is renewed once a scope if the registry refuses it.

        Gives whatever status came last; raises `RegistryError` when no reply came. Nothing is retried here.
        """
        url = URL(f"{await self._connect()}{self._root}/{self._reference.repository}/{path}{self._namespace}", encoded=True)
        scopes: list[str] = []
        while True:
            authorization = await self._auth.header()
            async with self._transport.exchange(url, headers, authorization=authorization, private=self._private) as reply:
                # a 401 of a host we were redirected to is not for our credentials to answer
                if reply.response.status == 401 and reply.own:
                    self._auth.learn(reply.response.headers.getall("WWW-Authenticate", []))
                    if self._auth.reject(authorization) and self._auth.scope not in scopes and len(scopes) < _MAX_SCOPES:
                        scopes.append(self._auth.scope)
                        await _body(reply.response)
                        continue
                yield reply
                return

    async def refusal(self, reply: Reply, message: str) -> RegistryError:
        """The error for a reply that is not a success; ``message`` is used unless it is about permissions.

        The server's own text is not copied; the code of its error is.
        """
        response = reply.response
        try:
            body = await read_capped(response, SMALL_BODY, "error body")
        except (LimitExceeded, RegistryError):
            body = b""
        error = status_error(message, response.status, response.headers, body)
        hint = explain(response.status, error.codes)
        if reply.own and response.status == 407:
            hint = proxy_hint(407)
        elif reply.own and response.status in (401, 403) and not is_policy(error.codes):
            error.args = (f"{self._reference.text} does not exist or you do not have permissions to see it.",)
            if self.options.quotes_refusals:
                reference = self._reference
                what = f"reading manifest {reference.target} in {reference.registry}/{reference.repository}"
                error.args = (f"fetching image reference: {what}: requested access to the resource is denied",)
            hint = "check the name, and the credentials (--username and --password, or docker login)"
            if self._finder.trouble:
                hint = f"{hint}; {self._finder.trouble}"
            if error.codes:
                hint = f"{hint}; the registry says {', '.join(error.codes)}"
        elif response.status != 404:  # those texts are the contract's
            name_codes(error)
        error.hint = hint
        return error

    async def credential(self) -> Credential:
        """The credential for this host."""
        return await self._auth.credential()

    async def _credential(self) -> Credential:
        options = self.options
        if not self.is_mirror and (options.username or options.password):
            return Credential(options.username, options.password)
        return await self._finder.find(self.host, self._repository)

    async def _connect(self) -> URL:
        async with self._lock:
            if self._base is None:
                self._base = await self._choose_scheme()
            return self._base

    async def _choose_scheme(self) -> URL:
        failures: list[RegistryError] = []
        for scheme in self._schemes:
            base = self._authority if scheme == "https" else self._authority.with_scheme("http")
            try:
                await self._ping(base)
                return base
            except RegistryError as error:
                failures.append(error)
        # what https said explains more, unless it only said that this is no https
        raise _ping_failure(failures[-1] if isinstance(failures[0], NotTlsError) else failures[0]) from None

    async def _ping(self, base: URL) -> None:
        async with self._transport.exchange(base / "v2" / "", {}, private=self._private) as (response, own):
            body = await _body(response)  # a connection whose reply was read to its end is used again
            if response.status == 200 and is_web_page(response.headers):
                raise web_page(host_port(base), "a registry's reply")
            if response.status == 401 and own:
                self._auth.learn(response.headers.getall("WWW-Authenticate", []))
            elif response.status not in (200, 403):  # 403: the request that matters will get its own refusal
                error = status_error(f"{self.host}: status {describe(response.status)}", response.status, response.headers, body)
                name_codes(error)
                error.hint = proxy_hint(response.status) or explain(response.status, error.codes)
                raise error


def _is_own(host: str, reference: Reference) -> bool:
    """Whether a host is the registry that the image's name says (distribution-spec, "Registry proxying")."""
    return _core.canonical_host(host) in (_core.canonical_host(reference.registry), _core.canonical_host(reference.api_host))


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Of several values of one header one, as RFC 9110 has it."""
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


async def _body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await read_capped(response, SMALL_BODY, "reply")
    except (LimitExceeded, RegistryError):
        return b""


def _ping_failure(error: RegistryError) -> RegistryError:
    if str(error) != INSECURE_TEXT:
        error.args = (f"pinging docker registry returned: {error}",)
    return error
