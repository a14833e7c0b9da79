"""TLS contexts: the system's authorities, what `certs.d` adds for a host, or no verification at all."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path

from ...errors import ConfigError


class Trust:
    """Makes and keeps one TLS context a host.

    ``directories`` are looked through in order for ``<host[:port]>/``; the first one that exists is used: ``*.crt`` are
    further authorities, ``*.cert`` with the ``*.key`` of the same name are client certificates. ``shared`` is such a
    directory for all hosts. Certificates of the ``insecure`` hosts are not verified.
    """

    def __init__(self, directories: Iterable[Path] = (), *, insecure: Iterable[str] = (), shared: Path | None = None) -> None:
        """See the class."""
        self._directories = tuple(directories)
        self._insecure = frozenset(insecure)
        self._shared = shared
        self._contexts: dict[str, ssl.SSLContext] = {}

    def context(self, host: str) -> ssl.SSLContext:
        """The context for a host[:port] as it is spelled in `certs.d` and in the list of insecure registries.

        Raises `ConfigError` naming the file that cannot be used.
        """
        found = self._contexts.get(host)
        if found is None:
            found = self._contexts[host] = self._make(host)
        return found

    def _make(self, host: str) -> ssl.SSLContext:
        if host in self._insecure:
            # without loading the system's authorities: that takes 20 ms and they would not be looked at
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context()
        for directory in filter(None, (self._shared, self._directory(host))):
            _load(context, directory)
        return context

    def _directory(self, host: str) -> Path | None:
        for base in self._directories:
            directory = base / host
            if directory.is_dir():
                return directory
        return None


def _load(context: ssl.SSLContext, directory: Path) -> None:
    try:
        names = sorted(directory.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot read certificates in `{directory}`: {error.strerror}") from None
    for path in names:
        try:
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            elif path.suffix == ".cert":
                _load_pair(context, path, path.with_suffix(".key"))
            elif path.suffix == ".key" and not path.with_suffix(".cert").exists():
                raise ConfigError(f"`{path}` has no certificate: `{path.with_suffix('.cert').name}` is missing")
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"cannot use certificate `{path}`: {error.strerror or 'not a PEM file'}") from None


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    if not key.exists():
        raise ConfigError(f"`{certificate}` has no key: `{key.name}` is missing")
    # a password callback, because OpenSSL would otherwise stop and ask the terminal
    context.load_cert_chain(certificate, key, password=lambda: "")
