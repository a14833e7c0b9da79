"""One registry host: the first `GET /v2/` decides scheme and authorisation, then requests are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from yarl import URL

from ...errors import LimitExceeded, RegistryError
from .auth import Authorizer
from .credentials import Credential, CredentialFinder
from .failures import INSECURE_TEXT, NotTlsError, describe, status_error
from .guard import Guard
from .http import aiohttp
from .options import RegistryOptions
from .reference import Reference
from .transport import SMALL_BODY, Reply, Transport, read_capped
from .trust import Trust


class Endpoint:
    """A host that serves the reference's repository: the registry itself, or a mirror of it.

    ``registry`` is the host[:port] as configured; for the registry itself it equals the reference's.
    """

    def __init__(self, reference: Reference, registry: str, options: RegistryOptions) -> None:
        """See the class."""
        self._reference = reference
        self._registry = registry
        self._options = options
        self._is_origin = registry == reference.registry
        api_host = reference.api_host if self._is_origin else registry
        self._insecure = registry in options.insecure_registries
        base = URL(f"https://{api_host}")
        guard = Guard(base, insecure=self._insecure, trusted=options.trusted_hosts)
        trust = Trust(options.certs_dirs, insecure=options.insecure_registries)
        self._transport = Transport(guard, trust, options)
        self._auth = Authorizer(reference.repository, self._credential, self._transport)
        self._api_host = api_host
        self._base: URL | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    @asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        """GET ``/v2/<repository>/<path>`` with authorisation, which is renewed once if the registry refuses it.

        Gives whatever status came last; raises `RegistryError` when no reply came. Nothing is retried here.
        """
        url = await self._connect() / "v2"
        url = URL(f"{url}/{self._reference.repository}/{path}", encoded=True)
        renewed = False
        while True:
            authorization = await self._auth.header()
            async with self._transport.exchange(url, headers, authorization=authorization) as reply:
                # a 401 of a host we were redirected to is not for our credentials to answer
                if reply.response.status == 401 and reply.own and not renewed:
                    renewed = True
                    self._auth.learn(reply.response.headers.getall("WWW-Authenticate", []))
                    if self._auth.reject(authorization):
                        await _body(reply.response)
                        continue
                yield reply
                return

    async def refusal(self, reply: Reply, message: str) -> RegistryError:
        """The error for a reply that is not a success; ``message`` is used unless it is about permissions."""
        response = reply.response
        try:
            body = await read_capped(response, SMALL_BODY, "error body")
        except LimitExceeded:
            body = b""
        hint = None
        if reply.own and response.status in (401, 403):
            message = f"{self._reference.text} does not exist or you do not have permissions to see it."
            hint = "check the name, and the credentials (--username and --password, or docker login)"
        error = status_error(message, response.status, response.headers, body)
        error.hint = hint
        return error

    async def _credential(self) -> Credential:
        options = self._options
        if self._is_origin and (options.username or options.password):
            return Credential(options.username, options.password)
        finder = CredentialFinder(options.docker_config, options.warn)
        return await finder.find(self._registry, self._reference.repository)

    async def _connect(self) -> URL:
        async with self._lock:
            if self._base is None:
                self._base = await self._choose_scheme()
            return self._base

    async def _choose_scheme(self) -> URL:
        secure, plain = URL(f"https://{self._api_host}"), URL(f"http://{self._api_host}")
        try:
            await self._ping(secure)
            return secure
        except RegistryError as error:
            if not self._insecure or error.status is not None:
                raise _ping_failure(error) from None
            tls_error = error
        try:
            await self._ping(plain)
            return plain
        except RegistryError as error:
            # what https said explains more, unless it only said that this is no https
            raise _ping_failure(error if isinstance(tls_error, NotTlsError) else tls_error) from None

    async def _ping(self, base: URL) -> None:
        async with self._transport.exchange(base / "v2" / "", {}) as (response, own):
            body = await _body(response)  # a connection whose reply was read to its end is used again
            if response.status == 401 and own:
                self._auth.learn(response.headers.getall("WWW-Authenticate", []))
            elif response.status not in (200, 403):  # 403: the request that matters will get its own refusal
                message = f"status {describe(response.status)}"
                raise status_error(message, response.status, response.headers, body)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await read_capped(response, SMALL_BODY, "reply")
    except LimitExceeded:
        return b""


def _ping_failure(error: RegistryError) -> RegistryError:
    if str(error) != INSECURE_TEXT:
        error.args = (f"pinging docker registry returned: {error}",)
    return error
