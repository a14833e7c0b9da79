"""Layers that live outside any registry, at the `urls` of their descriptor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self

from groot_fast._core import parse_digest

from ...errors import RegistryError
from .failures import describe, status_error
from .guard import Guard
from .options import RegistryOptions
from .parts import IsUrgent, fetch
from .retry import Backoff
from .stream import STREAMABLE, Chunks, Opener, Position
from .transport import SMALL_BODY, Reply, Transport, read_capped
from .trust import Trust

_ALL_FAILED = "failed fetching external blob from all urls"
_MAX_URLS = 16


class ForeignLayers:
    """Fetches layers from `urls`, for registry images and for OCI layouts; an async context manager.

    A manifest's author chooses these URLs, so they are refused unless ``options.foreign_layers`` or
    ``options.remote_layer_certificates`` is set, are https only, and get no credentials but the client certificates
    of that directory (CVE-2020-15157). Private addresses need that directory, or ``options.trusted_hosts``.
    """

    def __init__(self, options: RegistryOptions) -> None:
        """See the class."""
        certificates = options.remote_layer_certificates
        self._allowed = options.foreign_layers or certificates is not None
        self._stall_timeout = options.stall_timeout
        self._backoff = Backoff(options.attempts)
        self._broken: set[str] = set()
        guard = Guard(None, trusted=options.trusted_hosts, internal=certificates is not None)
        self._transport = Transport(guard, Trust(shared=certificates), options)

    async def __aenter__(self) -> Self:
        """The object itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def stream(
        self, digest: str, size: int | None, position: Position, urls: tuple[str, ...], is_urgent: IsUrgent = lambda: False
    ) -> Chunks:
        """As `RegistryClient.stream`, from the first of ``urls`` that works; those that broke off before come last.

        Raises `RegistryError`, whose text ends with the contract's ``failed fetching external blob from all urls``.
        """
        parse_digest(digest)
        if not self._allowed:
            raise RegistryError(
                f"layer {digest} is to be fetched from a URL outside the registry, which is refused",
                hint="if its source can be trusted, set create.remote_layer_client_certificates_path",
            )
        if not 0 < len(urls) <= _MAX_URLS:
            raise RegistryError(f"layer {digest} lists {len(urls)} urls: {_ALL_FAILED}")
        failure: RegistryError | None = None
        for text in sorted(urls, key=lambda text: text in self._broken):
            chunks = fetch(self._opener(text), position, size, self._stall_timeout, self._backoff, is_urgent)
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
                return
            except RegistryError as error:
                failure = error
                self._broken.add(text)
                position.use_range, position.is_joined = True, position.offset > 0
        assert failure is not None
        failure.args = (f"{failure}: {_ALL_FAILED}",)
        raise failure

    def _opener(self, text: str) -> Opener:
        @asynccontextmanager
        async def opener(headers: Mapping[str, str]) -> AsyncIterator[Reply]:
            url = self._transport.guard.parse(text, "layer lists a malformed URL")
            async with self._transport.exchange(url, headers) as reply:
                response = reply.response
                if response.status not in STREAMABLE:
                    body = await read_capped(response, SMALL_BODY, "error body")
                    message = f"Invalid status code returned when fetching blob {describe(response.status)}"
                    raise status_error(message, response.status, response.headers, body)
                yield reply

        return opener
