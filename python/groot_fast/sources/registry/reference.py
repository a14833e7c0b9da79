"""Image references: ``docker://[host[:port]]/repo[:tag|@digest]``. The grammar is `groot-registry`'s (``reference.rs``)."""

from __future__ import annotations

from groot_fast import _core
from groot_fast.errors import SourceError


class Reference:
    """One image of one registry; immutable by convention, compared by value.

    ``registry`` is the host[:port] as the user wrote it (``docker.io`` when there was none), ``api_host`` the host[:port] that
    speaks the registry API, ``repository`` the full name, and exactly one of ``tag`` and ``digest`` is set. ``text`` is the image
    URL as the user gave it.
    """

    __slots__ = ("api_host", "digest", "registry", "repository", "tag", "text")

    def __init__(self, registry: str, repository: str, tag: str | None, digest: str | None, api_host: str, text: str) -> None:
        """See the class."""
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest
        self.api_host = api_host
        self.text = text

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    def __eq__(self, other: object) -> bool:
        """By value; ``text`` does not count."""
        if not isinstance(other, Reference):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """Fits `__eq__`."""
        return hash(self._key())

    def __repr__(self) -> str:
        """Without secrets."""
        return f"Reference({self.text!r})"

    def _key(self) -> tuple[str, str, str | None, str | None]:
        return (self.registry, self.repository, self.tag, self.digest)


def parse_reference(url: str) -> Reference:
    """Parse an image URL; query and fragment are dropped, no tag and no digest means ``latest``.

    Raises `SourceError` with the reason (the contract's words where it has some) or `BadImage` for a digest that is none; the
    message never repeats the URL when that could hold a password.
    """
    try:
        return Reference(*_core.parse_reference(url), url)
    except UnicodeEncodeError:
        raise SourceError("parsing url failed: invalid reference format: name is not valid UTF-8") from None
