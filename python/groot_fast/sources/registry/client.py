"""`RegistryClient`: one image of one registry."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

from groot_fast._core import (
    MANIFEST_TYPES,
    MAX_INDEX_DEPTH,
    MAX_MANIFEST,
    Manifest,
    RegistryHost,
    parse_digest,
    read_document,
    registry_hosts,
)

from ...errors import BadBlob, BadImage, GrootError, LimitExceeded, RegistryError
from .coding import undo_coding
from .endpoint import Endpoint
from .failures import describe, is_web_page, web_page
from .foreign import ForeignLayers
from .options import RegistryOptions
from .parts import IsUrgent, fetch
from .reference import Reference
from .retry import Backoff, retrying
from .stream import STREAMABLE, Chunks, Opener, Position, transfer
from .transport import Reply, read_capped


class RegistryClient:
    """Pulls what ``reference`` names; use it as an async context manager, within one event loop.

    No request is made before the first method is called. Mirrors of the registry are tried before it, in order; the
    one that served the manifest is asked first for blobs. Methods may run concurrently, up to
    ``options.max_connections`` requests a host. Everything raised is a `GrootError`: `RegistryError` for what the
    network or a server did, `BadImage` for documents, `BadBlob` and `LimitExceeded` for blobs, `ConfigError` for
    files of the operator. Messages are the innermost part (the caller adds its prefixes) and hold no secret.
    """

    def __init__(self, reference: Reference, options: RegistryOptions | None = None) -> None:
        """See the class."""
        self._reference = reference
        self._options = options or RegistryOptions()
        self._backoff = Backoff(self._options.attempts)
        mirrors = [(name, list(found)) for name, found in self._options.mirrors.items()]
        places: list[RegistryHost | None] = [*registry_hosts(reference.registry, mirrors, self._options.hosts_directory)]
        if not any(place is not None and place.is_server for place in places):
            places.append(None)
        self._endpoints = [Endpoint(reference, self._options, place) for place in places]
        self._useless: set[Endpoint] = set()  # mirrors that failed, and not for want of a blob alone
        self._foreign = ForeignLayers(self._options)
        self._positions: dict[str, Position] = {}
        self.mirror_failures = 0
        """How often a mirror was passed over or left."""

    async def __aenter__(self) -> Self:
        """The object itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every connection."""
        for endpoint in self._endpoints:
            await endpoint.close()
        await self._foreign.close()

    async def manifest(self) -> Manifest:
        """The image manifest for the wanted platform, following at most two levels of indexes.

        What was asked for by digest has that digest; a tag's document has the digest the registry declares, if it
        declares one. Raises `RegistryError` (``manifest unknown``, no permission, network) or `BadImage` (digest
        mismatch, ambiguous, schema 1, no such platform).
        """
        for endpoint in self._endpoints:
            if endpoint.is_mirror and not endpoint.resolves and not self._reference.digest:
                continue
            try:
                found = await self._manifest_of(endpoint)
            except GrootError as error:
                # whatever is wrong with a mirror, the next host may be better; the registry itself has the last word
                if not endpoint.is_mirror:
                    raise
                self._give_up(endpoint, error)
                self._useless.add(endpoint)
            else:
                return found
        raise AssertionError("the registry itself is always the last host")

    def _give_up(self, endpoint: Endpoint, error: GrootError) -> None:
        self.mirror_failures += 1
        self._options.log.error("mirror-failed", error, mirror=endpoint.host, registry=self._reference.registry)

    async def _manifest_of(self, endpoint: Endpoint) -> Manifest:
        target, size = self._reference.target, None
        declared, chosen, named = "", False, None
        for depth in range(MAX_INDEX_DEPTH + 1):
            # what a mirror cannot do now the next host can
            backoff = Backoff(endpoint.options.attempts)
            body, content_type = await retrying(partial(self._fetch, endpoint, target, size), backoff)
            document = read_document(body, content_type, chosen=chosen, named=named)
            if declared and declared != document.media_type:
                raise BadImage(f"ambiguous manifest: the index says {declared}, the document is {document.media_type}")
            if isinstance(document, Manifest):
                return document
            named = named or _sha256(body)
            if depth < MAX_INDEX_DEPTH:
                target, size, declared, says_platform = document.choose(self._options.platform)
                chosen = chosen or says_platform
        # an index that holds itself cannot be built without breaking sha256, so the depth is the only bound needed
        raise BadImage(f"indexes are nested more than {MAX_INDEX_DEPTH} levels deep")

    async def blob(self, digest: str, size: int, cap: int) -> bytes:
        """A small blob (a configuration), of exactly this digest and size.

        Raises `LimitExceeded` if ``size`` is above ``cap`` (nothing is fetched), `BadBlob` naming both values on a
        mismatch that a second fetch did not cure, `BadImage` for a digest that is none, else `RegistryError`.
        """
        parse_digest(digest)
        if not 0 <= size <= cap:
            raise LimitExceeded(f"blob {digest} has a size of {size} bytes, the limit is {cap}")
        try:
            return await self._collect(digest, size)
        except BadBlob:
            return await self._collect(digest, size)

    def stream(
        self, digest: str, size: int | None, offset: int = 0, urls: tuple[str, ...] = (), is_urgent: IsUrgent = lambda: False
    ) -> Chunks:
        """The bytes of a blob from ``offset`` on, in chunks of at most 1 MiB.

        The chunks, put together, are contiguous: a transfer that breaks is continued where it was (by Range, or by
        reading up to there again), with back-off; the consumer notices nothing. **Only what mirrors give is verified
        here**: the caller checks digest and length. If ``size`` is given, at most ``size`` + 1 bytes of the blob are
        yielded; the extra one means that the blob is longer. Fewer than ``size`` means that the server ended the blob
        early and said so properly. With ``offset`` equal to ``size`` nothing is requested.

        Raises `RegistryError` once ``options.attempts`` attempts in a row brought less than 256 KiB each, or for a refusal, and
        `BadBlob` when what a mirror gave has another digest: throw away what came and call again with offset 0, which goes
        to the registry itself. With ``urls`` those are asked if the registry does not have the blob: see `ForeignLayers`.

        The registry itself is asked for a large blob in parts, and while it ``is_urgent`` over several connections at once (`parts`); one
        that came in several pieces and was wrong is asked for in one.

        Close the iterator (``contextlib.aclosing``) when leaving it early; it holds a connection.
        """
        parse_digest(digest)
        if offset < 0 or (size is not None and not offset <= size):
            raise ValueError(f"offset {offset} is not within a blob of {size} bytes")
        position = Position(offset, in_parts=not self.is_joined(digest))
        self._positions[digest] = position
        return self._stream_foreign(digest, size, position, urls, is_urgent) if urls else self._stream(digest, size, position, is_urgent)

    def is_joined(self, digest: str) -> bool:
        """Whether what `stream` gave last of a blob came in several pieces: if it is wrong, the whole may be right."""
        position = self._positions.get(digest)
        return position is not None and position.is_joined

    async def _stream_foreign(
        self, digest: str, size: int | None, position: Position, urls: tuple[str, ...], is_urgent: IsUrgent
    ) -> Chunks:
        """From the registry; if that does not have the blob, from ``urls``."""
        try:
            async with aclosing(self._stream(digest, size, position, is_urgent)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except RegistryError as error:
            if error.status != 404:
                raise
        async with aclosing(self._foreign.stream(digest, size, position, urls, is_urgent)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(self, digest: str, size: int | None, position: Position, is_urgent: IsUrgent = lambda: False) -> Chunks:
        endpoints = [each for each in self._endpoints if not each.is_mirror or (each.pulls and each not in self._useless)]
        # of what an earlier transfer left the caller knows that it may be wrong
        check = hashlib.sha256() if endpoints[0].is_mirror and position.offset == 0 else None
        for endpoint in endpoints:
            options = endpoint.options
            opener = _blob_opener(endpoint, digest)
            # A mirror is near and gets one request: some (Spegel) cannot pass a range on to where the blob is.
            transport = transfer if endpoint.is_mirror else partial(fetch, is_urgent=is_urgent)
            chunks = transport(opener, position, size, options.stall_timeout, Backoff(options.attempts))
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        if check is not None:
                            check.update(chunk)
                            is_whole = size is not None and position.offset >= size
                            if is_whole and f"sha256:{check.hexdigest()}" != digest:
                                raise BadBlob(f"blob digest mismatch: expected: {digest[7:]}, actual: {check.hexdigest()}")
                        yield chunk
                if size is None or position.offset >= size or not endpoint.is_mirror:
                    return
                raise RegistryError(f"{endpoint.host} ended the blob {digest} after {position.offset} bytes of {size}")
            except BadBlob as error:
                # a part may be of a mirror before this host: all of it comes from the registry itself the next time
                self._give_up(endpoint if endpoint.is_mirror else endpoints[0], error)
                self._useless.update(each for each in self._endpoints if each.is_mirror)
                raise
            except RegistryError as error:
                if not endpoint.is_mirror:
                    raise
                self._give_up(endpoint, error)
                if error.status != 404:
                    self._useless.add(endpoint)  # each of the next blobs would wait for it again
                position.use_range, position.is_joined = True, position.offset > 0

    async def _collect(self, digest: str, size: int) -> bytes:
        parts = bytearray()
        position = Position()
        async with aclosing(self._stream(digest, size, position)) as chunks:
            async for chunk in chunks:
                parts += chunk
        body = bytes(parts)
        if _sha256(body) != digest:
            body = undo_coding(body, position.coding, size, "configuration")
        if len(body) != size:
            actual = str(len(body)) if len(body) < size else "more"
            raise BadBlob(f"blob {digest}: size mismatch: expected: {size}, actual: {actual}")
        if _sha256(body) != digest:
            raise BadBlob(f"blob digest mismatch: expected: {digest[7:]}, actual: {_sha256(body)[7:]}")
        return body

    def _where_unknown(self, endpoint: Endpoint, target: str) -> str:
        if target != self._reference.target:
            return f"the index of {self._reference.text} names {target}, which {endpoint.host} does not have"
        kind = "digest" if self._reference.digest else "tag"
        return f"{endpoint.host} has no `{self._reference.repository}` with the {kind} `{target}`"

    async def _fetch(self, endpoint: Endpoint, target: str, size: int | None) -> tuple[bytes, str]:
        async with endpoint.get(f"manifests/{target}", {"Accept": MANIFEST_TYPES}) as reply:
            response = reply.response
            if response.status != 200:
                if response.status == 404:
                    refused = await endpoint.refusal(reply, "manifest unknown")
                    refused.hint = self._where_unknown(endpoint, target)
                    raise refused
                message = f"fetching the manifest of {self._reference.text} from {endpoint.host}: unexpected status"
                raise await endpoint.refusal(reply, f"{message} {describe(response.status)}")
            if is_web_page(response.headers):
                raise web_page(endpoint.host, f"the manifest of {self._reference.text}")
            body = await read_capped(response, MAX_MANIFEST, "manifest")
            promised = target if ":" in target else response.headers.get("Docker-Content-Digest", "")
            if promised.startswith("sha256:") and promised != _sha256(body):
                raise BadImage(f"manifest digest mismatch: expected: {ascii(promised[7:])[1:-1]}, actual: {_sha256(body)[7:]}")
            if size is not None and len(body) != size:
                raise BadImage(f"manifest {target}: size mismatch: expected: {size}, actual: {len(body)}")
            return body, response.headers.get("Content-Type", "")


def _blob_opener(endpoint: Endpoint, digest: str) -> Opener:
    @asynccontextmanager
    async def opener(headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        async with endpoint.get(f"blobs/{digest}", headers) as reply:
            status = reply.response.status
            if status not in STREAMABLE:
                message = f"Invalid status code returned when fetching blob {describe(status)}"
                refused = await endpoint.refusal(reply, message)
                if status == 404:
                    refused.hint = f"{endpoint.host} has the image's manifest, and not this blob of it"
                raise refused
            yield reply

    return opener


def _sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()
