"""`RegistryClient`: one image of one registry."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

from groot_fast._core import MAX_INDEX_DEPTH, MAX_MANIFEST, Manifest, parse_digest, read_document

from ...errors import BadBlob, BadImage, LimitExceeded, RegistryError, SourceError
from .endpoint import Endpoint
from .failures import describe
from .foreign import ForeignLayers
from .options import RegistryOptions
from .reference import Reference
from .retry import Backoff, retrying
from .stream import STREAMABLE, Chunks, Opener, Position, RestartFromZero, transfer
from .transport import Reply, read_capped

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST))


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
        hosts = [*self._options.mirrors.get(reference.registry, ()), reference.registry]
        self._endpoints = [Endpoint(reference, host, self._options) for host in hosts]
        self._first = 0  # hosts before this one failed to serve the manifest and are not asked for blobs
        self._foreign = ForeignLayers(self._options)

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
        target, size = self._reference.target, None
        declared, chosen = "", False
        for depth in range(MAX_INDEX_DEPTH + 1):
            body, content_type = await self._document(target, size)
            document = read_document(body, content_type, chosen=chosen)
            if declared and declared != document.media_type:
                raise BadImage(f"ambiguous manifest: the index says {declared}, the document is {document.media_type}")
            if isinstance(document, Manifest):
                return document
            if depth < MAX_INDEX_DEPTH:
                target, size, declared, named = document.choose(self._options.platform)
                chosen = chosen or named
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
        except (BadBlob, RestartFromZero):
            return await self._collect(digest, size)

    def stream(self, digest: str, size: int | None, offset: int = 0, urls: tuple[str, ...] = ()) -> Chunks:
        """The bytes of a blob from ``offset`` on, in chunks of at most 1 MiB.

        The chunks, put together, are contiguous: a transfer that breaks is continued where it was (by Range, or by
        reading up to there again), with back-off; the consumer notices nothing. **Nothing is verified here**: the
        caller checks digest and length. If ``size`` is given, at most ``size`` + 1 bytes of the blob are yielded; the
        extra one means that the blob is longer. Fewer than ``size`` means that the server ended the blob early and
        said so properly. With ``offset`` equal to ``size`` nothing is requested.

        Raises `RestartFromZero` (a `RegistryError`) if the server replaced the content: throw away what came and call
        again with offset 0. Otherwise `RegistryError` once ``options.attempts`` attempts in a row brought less than
        256 KiB each, or for a refusal. With ``urls`` those are
        asked if the registry does not have the blob: see `ForeignLayers`.

        Close the iterator (``contextlib.aclosing``) when leaving it early; it holds a connection.
        """
        parse_digest(digest)
        if offset < 0 or (size is not None and not offset <= size):
            raise ValueError(f"offset {offset} is not within a blob of {size} bytes")
        return self._stream_foreign(digest, size, offset, urls) if urls else self._stream(digest, size, offset)

    async def _stream_foreign(self, digest: str, size: int | None, offset: int, urls: tuple[str, ...]) -> Chunks:
        """From the registry; if that does not have the blob, from ``urls``."""
        try:
            async with aclosing(self._stream(digest, size, offset)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except RegistryError as error:
            if error.status != 404:
                raise
        async with aclosing(self._foreign.stream(digest, size, offset, urls)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(self, digest: str, size: int | None, offset: int) -> Chunks:
        for endpoint in self._endpoints[self._first :]:
            # no validator across hosts: each has its own idea of an ETag
            position = Position(offset)
            chunks = transfer(_blob_opener(endpoint, digest), position, size, self._options.stall_timeout, self._backoff)
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
                return
            except RegistryError:
                if endpoint is self._endpoints[-1]:
                    raise
                offset = position.offset

    async def _collect(self, digest: str, size: int) -> bytes:
        parts = bytearray()
        async with aclosing(self._stream(digest, size, 0)) as chunks:
            async for chunk in chunks:
                parts += chunk
        body = bytes(parts)
        if len(body) != size:
            actual = str(len(body)) if len(body) < size else "more"
            raise BadBlob(f"blob {digest}: size mismatch: expected: {size}, actual: {actual}")
        if _sha256(body) != digest:
            raise BadBlob(f"blob digest mismatch: expected: {digest[7:]}, actual: {_sha256(body)[7:]}")
        return body

    async def _document(self, target: str, size: int | None) -> tuple[bytes, str]:
        """Body and Content-Type of a tag or digest, from the first host that has it."""
        for number, endpoint in enumerate(self._endpoints[self._first :], self._first):
            try:
                found = await retrying(partial(self._fetch, endpoint, target, size), self._backoff)
            except SourceError:
                if endpoint is self._endpoints[-1]:
                    raise
            else:
                self._first = number
                return found
        raise AssertionError("the registry itself is always the last host")

    async def _fetch(self, endpoint: Endpoint, target: str, size: int | None) -> tuple[bytes, str]:
        async with endpoint.get(f"manifests/{target}", {"Accept": ACCEPT}) as reply:
            response = reply.response
            if response.status != 200:
                message = f"fetching manifest {target}: unexpected status {describe(response.status)}"
                raise await endpoint.refusal(reply, "manifest unknown" if response.status == 404 else message)
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
                raise await endpoint.refusal(reply, message)
            yield reply

    return opener


def _sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()
