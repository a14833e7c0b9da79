"""TLS contexts: the system's authorities, what `certs.d` adds for a host, or no verification at all.

Which directory and which entry of a list belong to a host is `groot-registry`'s rule (``trust.rs``).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from pathlib import Path

from yarl import URL

from groot_fast import _core

from ...errors import ConfigError


class Home:
    """The registry that the user named: its URL, and the host[:port] as it was spelled."""

    def __init__(self, url: URL, spelled: str) -> None:
        """See the class."""
        self.url = url
        self.spelled = spelled

    def is_at(self, url: URL) -> bool:
        """Whether a URL leads there, by either scheme."""
        return url.host == self.url.host and (url.port == self.url.port or (self.url.is_default_port() and url.is_default_port()))


class Trust:
    """Makes and keeps the TLS contexts of hosts.

    ``directories`` are looked through in order for ``<host[:port]>/``; the first one that exists is used: ``*.crt`` are whom we
    trust (authorities, or a registry's own certificate), ``*.cert`` with the ``*.key`` of the same name are client certificates.
    ``shared`` is such a directory for all hosts. ``authorities`` and ``clients`` are more of both, for the home alone. Certificates of
    the ``insecure`` hosts are not verified.
    """

    def __init__(
        self,
        directories: Iterable[Path] = (),
        *,
        insecure: Iterable[str] = (),
        shared: Path | None = None,
        home: Home | None = None,
        authorities: Iterable[str] = (),
        clients: Iterable[tuple[str, str]] = (),
    ) -> None:
        """See the class."""
        self._directories = list(directories)
        self._insecure = list(insecure)
        self._shared = shared
        self._home = home
        self._authorities = list(authorities)
        self._clients = list(clients)
        self._contexts: dict[tuple[str, ...], list[ssl.SSLContext]] = {}

    def spelling(self, url: URL) -> str:
        """The host[:port] that a user would write for the place a URL leads to: the hint's, in the user's own spelling."""
        return self._spellings(url)[0]

    def _spellings(self, url: URL) -> list[str]:
        host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
        names = [host, f"{host}:{url.port}"] if url.is_default_port() else [f"{host}:{url.port}"]
        if self._home is not None and self._home.is_at(url):
            return [self._home.spelled, *names]
        return names

    def contexts(self, url: URL) -> list[ssl.SSLContext]:
        """The contexts to try for the host of a URL, one a client certificate, the best first; keep the one that worked there
        with `prefer`. Raises `ConfigError` naming the file that cannot be used."""
        names = self._spellings(url)
        found = self._contexts.get(tuple(names))
        if found is None:
            found = self._contexts[tuple(names)] = self._make(url, names)
        return found

    @property
    def shared(self) -> Path | None:
        """The directory for all hosts."""
        return self._shared

    def trouble(self, url: URL) -> str:
        """What is odd about the directories of certificates that count for the host of a URL: it may be why it is not trusted."""
        found = _core.certificates_directory(list(self._directories), self._spellings(url))
        return "; ".join(filter(None, (_oddity(directory) for directory in (self._shared, found) if directory is not None)))

    def prefer(self, url: URL, context: ssl.SSLContext) -> None:
        """Put ``context`` before the others."""
        contexts = self.contexts(url)
        contexts.remove(context)
        contexts.insert(0, context)

    def _make(self, url: URL, names: list[str]) -> list[ssl.SSLContext]:
        # a user's own spelling is matched exactly, as the contract has it; a URL of somebody else has two
        is_home = self._home is not None and self._home.is_at(url)
        own = names[:1] if is_home else names
        is_insecure = _core.is_listed_host(own, self._insecure)
        found = _core.certificates_directory(list(self._directories), names)
        authorities: list[str] = list(self._authorities) if is_home else []
        clients: list[tuple[str, str] | None] = list(self._clients) if is_home else []
        for directory in (self._shared, found):
            if directory is not None:
                more, pairs = _core.list_certificates(directory)
                authorities += more
                clients += pairs
        contexts = []
        for pair in clients or [None]:
            context = _new_context(is_insecure)
            for path in authorities:
                _load_authority(context, path)
            if pair is not None:
                _load_pair(context, *pair)
            contexts.append(context)
        return contexts


def _oddity(directory: Path | str) -> str:
    """That a directory of certificates is empty, or has files that are not looked at."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return ""  # what uses them says so
    if not names:
        return f"{directory} is empty"
    passed = [ascii(name)[1:-1] for name in names if os.path.splitext(name)[1] not in (".crt", ".cert", ".key")]
    if not passed:
        return ""
    return f"{directory}/{passed[0]} is not looked at: authorities are called *.crt, certificates of clients *.cert with their *.key"


def _new_context(is_insecure: bool) -> ssl.SSLContext:
    if is_insecure:
        # without loading the system's authorities: that takes 20 ms and they would not be looked at
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context()
    for directory in filter(None, os.environ.get("SSL_CERT_DIR", "").split(":")):
        _load_all(context, Path(directory))
    return context


def _load_all(context: ssl.SSLContext, directory: Path) -> None:
    """OpenSSL reads only files that are named by a hash; Go reads every one, and passes over what is no certificate."""
    try:
        for path in sorted(directory.iterdir()):
            try:
                context.load_verify_locations(path)
            except OSError:
                pass
    except OSError:
        pass


def _load_authority(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        raise _unusable(path, error) from None
    # an intermediate authority or a registry's own certificate is trusted for itself, not only below a root
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        # a password callback, because OpenSSL would otherwise stop and ask the terminal
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:
        raise _unusable(certificate, error) from None


def _unusable(path: str, error: OSError) -> ConfigError:
    reason = "not a PEM file" if isinstance(error, ssl.SSLError) else error.strerror
    return ConfigError(f"cannot use certificate `{path}`: {reason}")
