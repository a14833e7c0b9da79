"""Image references: ``docker://[host[:port]]/repo[:tag|@digest]``.

Imports nothing but the exceptions: the warm path parses references and must not load the network, ``re`` or
``dataclasses``.
"""

from __future__ import annotations

from groot_fast._core import parse_digest

from ...errors import SourceError

SCHEME = "docker://"
DEFAULT_REGISTRY = "docker.io"
_DEFAULT_API_HOST = "registry-1.docker.io"
_MAX_REPOSITORY = 255  # the bound of the distribution project's grammar
_MAX_TAG = 128

_HEX = frozenset("0123456789abcdefABCDEF")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_HOST = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ-")
_WORD = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")


class Reference:
    """One image of one registry; immutable by convention, compared by value.

    ``registry`` is the host[:port] as the user wrote it (``docker.io`` when there was none), ``repository`` the full
    name, and exactly one of ``tag`` and ``digest`` is set. ``text`` is the image URL as the user gave it.
    """

    __slots__ = ("digest", "registry", "repository", "tag", "text")

    def __init__(self, registry: str, repository: str, tag: str | None, digest: str | None, text: str) -> None:
        """See the class."""
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest
        self.text = text

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def api_host(self) -> str:
        """The host[:port] that speaks the registry API."""
        return _DEFAULT_API_HOST if self.registry == DEFAULT_REGISTRY else self.registry

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

    Raises `SourceError` with the reason (the contract's words where it has some); the message never repeats the
    URL when that could hold a password.
    """
    _check_url(url)
    rest = url[len(SCHEME) :].split("#", 1)[0].split("?", 1)[0]
    authority, slash, path = rest.partition("/")
    if "@" in authority and slash:
        raise SourceError(
            "image URL holds user information, which is not supported",
            hint="give credentials with --username and --password, or in docker's config.json",
        )
    registry = _check_host(authority) if authority else DEFAULT_REGISTRY
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if not path:
        raise _bad("no repository name", hint=f"for an image of the default registry write {SCHEME}/<name>")
    name, tag, digest = _split(_unescape(path))
    _check_repository(name)
    if registry == DEFAULT_REGISTRY and "/" not in name:
        name = "library/" + name
    return Reference(registry, name, tag if tag or digest else "latest", digest, url)


def _bad(reason: str, hint: str | None = None) -> SourceError:
    return SourceError(f"parsing url failed: invalid reference format: {reason}", hint=hint)


def _quote(text: str) -> str:
    """Double-quoted and printable, whatever was in it."""
    return '"' + ascii(text)[1:-1].replace('"', '\\"') + '"'


def _check_url(url: str) -> None:
    if any(ch < " " or ch == "\x7f" for ch in url):
        raise SourceError(f"parse {_quote(url)}: net/url: invalid control character in URL")
    if url[: len(SCHEME)].lower() != SCHEME:
        raise SourceError(f"parse {_quote(url)}: not a {SCHEME} URL")
    at = url.find("%")
    while at >= 0:
        if len(url) < at + 3 or not _HEX.issuperset(url[at + 1 : at + 3]):
            raise SourceError(f"parse {_quote(url)}: invalid URL escape {_quote(url[at : at + 3])}")
        at = url.find("%", at + 3)


def _check_host(authority: str) -> str:
    host, port = authority, ""
    if authority.startswith("["):
        host, bracket, port = authority.partition("]")
        host = host[1:]
        if not bracket or (port and not port.startswith(":")) or not host or not _HEX.union(":.").issuperset(host):
            raise _bad(f"invalid registry address {_quote(authority)}")
        port = port[1:] if port else ""
        if authority.endswith("]:"):
            raise _bad(f"invalid registry port in {_quote(authority)}")
    else:
        if ":" in authority:
            host, _, port = authority.partition(":")
            if not port:
                raise _bad(f"invalid registry port in {_quote(authority)}")
        labels = host.split(".")
        if len(host) > 253 or not all(label and _HOST.issuperset(label) and label[0] != "-" and label[-1] != "-" for label in labels):
            raise _bad(f"invalid registry host {_quote(authority)}")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise _bad(f"invalid registry port in {_quote(authority)}")
    return authority


def _unescape(path: str) -> str:
    """Undo %-escapes; `_check_url` made sure that they are well formed."""
    if "%" not in path:
        return path
    first, *rest = path.split("%")
    raw = first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _bad("name is not valid UTF-8") from None


def _split(path: str) -> tuple[str, str | None, str | None]:
    """Name, tag and digest of ``repo[:tag|@digest]``."""
    name, at, digest_text = path.partition("@")
    digest = None
    if at:
        if "@" in digest_text:
            raise _bad("more than one @")
        digest = parse_digest(digest_text)
    tag = None
    colon = name.rfind(":")
    if colon > name.rfind("/"):
        name, tag = name[:colon], name[colon + 1 :]
        if digest:
            raise SourceError("Docker references with both a tag and digest are currently not supported")
        if not (tag and len(tag) <= _MAX_TAG and _WORD.issuperset(tag[0]) and _WORD.union(".-").issuperset(tag)):
            raise _bad(f"invalid tag {_quote(tag[:160])}")
    return name, tag, digest


def _check_repository(name: str) -> None:
    if name != name.lower():
        raise _bad("repository name must be lowercase")
    if len(name) > _MAX_REPOSITORY:
        raise _bad(f"repository name must not be more than {_MAX_REPOSITORY} characters")
    for part in name.split("/"):
        if not part:
            raise _bad(f"empty component in repository name {_quote(name)}")
        if not _component_is_valid(part):
            raise _bad(f"invalid component {_quote(part)} in repository name")


def _component_is_valid(part: str) -> bool:
    """Letters and digits, joined by one dot, one or two underscores, or any number of dashes."""
    if part[0] not in _LOWER or part[-1] not in _LOWER:
        return False
    separator = ""
    for ch in part:
        if ch in _LOWER:
            if separator not in ("", ".", "_", "__") and separator.strip("-"):
                return False
            separator = ""
        elif ch in "._-":
            separator += ch
        else:
            return False
    return True
