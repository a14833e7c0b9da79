"""One HTTP exchange: redirects by our rules, deadlines, caps. The only place that holds an aiohttp session."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from yarl import URL

from ...errors import LimitExceeded, RegistryError
from .coding import undo_coding
from .credentials import basic
from .failures import INSECURE_TEXT, TlsRefused, network_failure
from .guard import Guard, GuardedResolver, host_port
from .http import HttpProcessingError, ResponseHandler, aiohttp
from .options import RegistryOptions
from .proxies import proxy_for
from .trust import Trust

MAX_REDIRECTS = 10
SMALL_BODY = 64 * 1024  # error bodies, token replies
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BUFFER = 256 * 1024  # what aiohttp takes off a socket before it stops reading; twice this may be held
_MAX_CHUNK = 1024 * 1024
_HEADER_LINE = 32 * 1024  # signed URLs in Location are long
_SMALL_BODY_DEADLINE = 60.0
_STALL_FLOOR = 32 * 1024  # fewer bytes than this in one stall timeout is a stall: about 1 KiB/s
_KEEP_ALIVE = 0.1  # seconds: a server of few connections serves nobody else meanwhile
_IMPATIENCE = 0.3  # seconds: who waits longer for a first byte may be waiting for a connection that we hold
_FAREWELL = 0.1  # seconds for the end of TLS connections that are being closed
_NAME_AND_CONNECT = 30.0  # seconds for all of name resolution, connection and TLS beyond the connect timeout
# identity: digests are of the bytes as they are
_HEADERS = {"User-Agent": "groot_fast", "Docker-Distribution-API-Version": "registry/2.0", "Accept-Encoding": "identity"}

NETWORK_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)


class Reply(NamedTuple):
    """A reply whose body has not been read; ``own`` says that it comes from the origin that was asked."""

    response: aiohttp.ClientResponse
    own: bool


class Transport:
    """Requests on behalf of one registry (or of the foreign layers), at most ``max_connections`` at a time.

    A slot is taken for as long as a reply is open, so somebody who keeps replies open without reading them holds
    others up.
    """

    def __init__(self, guard: Guard, trust: Trust, options: RegistryOptions) -> None:
        """See the class."""
        self._connections: set[asyncio.Transport] = set()
        self._is_narrow = False  # whether the server seems to serve only so many connections at a time
        self.guard = guard
        self._trust = trust
        self._options = options
        self._slots = asyncio.Semaphore(options.max_connections)
        self._waiting: dict[object, float] = {}  # requests without a first byte, and since when
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        aborted = [_abort(transport) for transport in self._connections]
        self._connections.clear()
        if self._session is not None:
            await self._session.close()
        # What was aborted is closed with the next turn of the loop; who says farewell already needs a moment for it.
        await asyncio.sleep(0 if all(aborted) else _FAREWELL)

    @asynccontextmanager
    async def exchange(
        self,
        url: URL,
        headers: Mapping[str, str],
        *,
        authorization: str | None = None,
        private: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Reply]:
        """GET ``url`` (POST if there is a ``form``), follow redirects, and give the reply; it is closed at the end.

        ``authorization`` and ``private``, headers, are sent to the scheme, host and port of ``url`` only, whatever redirects
        do. Failures of the network, also those while the body is read inside the ``async with``, are raised as
        `RegistryError`.
        """
        origin = url.origin()
        async with self._slots:
            for _ in range(MAX_REDIRECTS + 1):
                own = url.origin() == origin
                sent = {**headers, **(private or {})} if own else dict(headers)
                if authorization and own:
                    sent["Authorization"] = authorization
                response = await self._send(url, sent, form)
                try:
                    if response.status not in _REDIRECTS:
                        try:
                            yield Reply(response, own)
                        except NETWORK_ERRORS as error:
                            raise self._failure(error, url) from None
                        return
                    location = response.headers.get("Location")
                finally:
                    _drop(response)
                if form is not None:
                    # the form holds a refresh token, made for this server
                    raise RegistryError(f"{host_port(url)} redirected a token request, which is refused")
                url = self.guard.redirected(url, location)
        raise RegistryError(f"{host_port(origin)} redirected more than {MAX_REDIRECTS} times")

    async def _send(self, url: URL, headers: dict[str, str], form: Mapping[str, str] | None) -> aiohttp.ClientResponse:
        self.guard.check(url)
        proxy = proxy_for(url)
        proxy_headers = {}
        if proxy is not None:
            self.guard.trust(proxy)
            if proxy.user is not None:
                proxy_headers = {"Proxy-Authorization": basic(proxy.user, proxy.password or "")}
                proxy = proxy.with_user(None)
                if url.scheme == "http":  # there is no CONNECT, the request itself goes to the proxy
                    headers.update(proxy_headers)
        secure = url.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        if not secure:
            return await self._request(url, headers, form, proxy, proxy_headers, context=None)
        *others, last = self._trust.contexts(url)
        for context in others:
            try:
                response = await self._request(url, headers, form, proxy, proxy_headers, context=context)
            except TlsRefused:
                continue  # another client certificate may be the one
            self._trust.prefer(url, context)
            return response
        return await self._request(url, headers, form, proxy, proxy_headers, context=last)

    async def _request(
        self,
        url: URL,
        headers: dict[str, str],
        form: Mapping[str, str] | None,
        proxy: URL | None,
        proxy_headers: dict[str, str],
        *,
        context: ssl.SSLContext | None,
    ) -> aiohttp.ClientResponse:
        method = "GET" if form is None else "POST"
        ticket = object()
        began = self._waiting[ticket] = time.monotonic()
        outcome: object = "cancelled"
        try:
            async with asyncio.timeout(self._options.connect_timeout + self._options.response_timeout):
                response = await self._open_session().request(
                    method,
                    url,
                    headers=headers,
                    data=form,
                    allow_redirects=False,
                    ssl=True if context is None else context,
                    proxy=proxy,
                    proxy_headers=proxy_headers or None,
                )
            outcome = response.status
        except NETWORK_ERRORS as error:
            outcome = type(error).__name__
            # from None: aiohttp's exceptions carry the request's headers
            raise self._failure(error, url) from None
        finally:
            del self._waiting[ticket]
            took = round(time.monotonic() - began, 4)
            # neither path nor query: a signed URL is as good as a password
            self._options.log.debug("exchange", method=method, host=host_port(url), status=outcome, seconds=took)
        connection = response.connection
        if connection is not None and connection.transport is not None:
            self._connections.add(connection.transport)
            peer = connection.transport.get_extra_info("peername")
            if peer and proxy is None:
                self.guard.answered(url, peer[0])
        if connection is not None and self._others_are_kept_waiting() and isinstance(connection.protocol, ResponseHandler):
            connection.protocol.force_close()  # once its reply was read
        return response

    def _others_are_kept_waiting(self) -> bool:
        now = time.monotonic()
        self._is_narrow = self._is_narrow or any(now - since > _IMPATIENCE for since in self._waiting.values())
        return self._is_narrow and bool(self._waiting)

    def _failure(self, error: Exception, url: URL) -> RegistryError:
        failure = network_failure(error, host_port(url), self._trust.spelling(url), tls=url.scheme == "https")
        is_unknown = str(failure) == INSECURE_TEXT
        if is_unknown or isinstance(failure, TlsRefused):
            shared, trouble = self._trust.shared, self._trust.trouble(url)
            if shared is not None and is_unknown:
                failure.args = (f"the certificate of {host_port(url)} is signed by an unknown authority",)
            if shared is not None and not trouble:
                wanted = "the certificate of that authority as ca.crt" if is_unknown else "client.cert and client.key"
                trouble = f"{shared} has to have {wanted}"
            failure.hint = trouble or failure.hint
        return failure

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connect = self._options.connect_timeout
            self._session = aiohttp.ClientSession(
                # limit=0: the semaphore counts, because waiting for a slot must not count as waiting for a server
                connector=aiohttp.TCPConnector(
                    limit=0, resolver=GuardedResolver(self.guard), ttl_dns_cache=60, keepalive_timeout=_KEEP_ALIVE
                ),
                timeout=aiohttp.ClientTimeout(total=None, connect=connect + _NAME_AND_CONNECT, sock_connect=connect),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                auto_decompress=False,  # digests are of the bytes as sent
                trust_env=False,  # proxies are ours to choose, and netrc is not read
                read_bufsize=_READ_BUFFER,
                max_line_size=_HEADER_LINE,
                max_field_size=_HEADER_LINE,
            )
        return self._session


def _abort(transport: asyncio.BaseTransport) -> bool:
    """Close a connection at once: a polite TLS farewell would still be under way when the event loop ends. False if it is under way."""
    # A TLS transport that is closed already has no protocol to ask, and says so badly (CPython 3.11).
    with suppress(AttributeError):
        transport.abort()  # type: ignore[attr-defined]
        return True
    return False


def _drop(response: aiohttp.ClientResponse) -> None:
    """Give the connection of a finished reply back; close that of an unread one at once."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        _abort(connection.transport)
    response.close()


async def read_capped(response: aiohttp.ClientResponse, cap: int, what: str) -> bytes:
    """The whole body, at most ``cap`` bytes within a minute, out of the coding it was sent in although none was asked for.

    Raises `LimitExceeded` or `RegistryError`.
    """
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(_SMALL_BODY_DEADLINE):
            while chunk := await response.content.readany():
                length += len(chunk)
                if length > cap:
                    raise LimitExceeded(f"{what} is larger than the limit of {cap} bytes")
                parts.append(chunk)
    except TimeoutError:
        raise RegistryError(f"{what} did not arrive within {_SMALL_BODY_DEADLINE:.0f} s", temporary=True) from None
    return undo_coding(b"".join(parts), response.headers.get("Content-Encoding", ""), cap, what)


async def read_chunks(response: aiohttp.ClientResponse, stall_timeout: float) -> AsyncGenerator[bytes, None]:
    """The body in chunks of at most 1 MiB.

    Raises a temporary `RegistryError` when nothing, or next to nothing, comes for ``stall_timeout`` seconds of
    waiting; time the consumer spends between chunks does not count.
    """
    clock = asyncio.get_running_loop().time
    waited, received = 0.0, 0
    while True:
        began = clock()
        try:
            async with asyncio.timeout(stall_timeout):
                data = await response.content.readany()
        except TimeoutError:
            raise RegistryError(f"transfer stalled for {stall_timeout:g} s", temporary=True) from None
        if not data:
            return
        waited += clock() - began
        received += len(data)
        if waited >= stall_timeout:
            if received < _STALL_FLOOR:
                raise RegistryError(f"transfer stalled: {received} bytes in {waited:.0f} s", temporary=True)
            waited, received = 0.0, 0
        if len(data) <= _MAX_CHUNK:
            yield data
        else:
            for start in range(0, len(data), _MAX_CHUNK):
                yield data[start : start + _MAX_CHUNK]
