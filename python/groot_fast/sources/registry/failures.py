"""Statuses and exceptions of the network, as `RegistryError` in the contract's words.

Nothing here copies a server's text, a header or a query string into a message: bodies may hold terminal escapes,
redirects to blob stores hold signatures, and aiohttp's own exceptions print request headers.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from groot_fast._core import parse_document

from ...errors import BadImage, LimitExceeded, RegistryError
from .http import aiohttp

INSECURE_TEXT = "This registry is insecure. To pull images from this registry, please use the --insecure-registry option."
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
# X509_V_ERR_*: nobody we trust vouches for the certificate
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_PLAIN_HTTP = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "RECORD_LAYER_FAILURE")


class StatusError(RegistryError):
    """A reply with a status that means failure; ``retry_after`` in seconds if the server named a time."""

    retry_after: float | None = None


class NotTlsError(RegistryError):
    """Something answered, and it does not speak TLS."""


def describe(status: int) -> str:
    """``404 (Not Found)``."""
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def status_error(message: str, status: int, headers: Mapping[str, str], body: bytes) -> StatusError:
    """A `StatusError` with the codes of the reply's body; ``temporary`` follows from the status."""
    error = StatusError(message, status=status, codes=_codes(body), temporary=status in _TEMPORARY)
    if error.temporary:
        error.retry_after = parse_retry_after(headers.get("Retry-After"))
    return error


def parse_retry_after(text: str | None) -> float | None:
    """Seconds from now, of either form of the header; None if it says nothing usable."""
    if not text:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(int(text[:10]))
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _codes(body: bytes) -> tuple[str, ...]:
    try:
        errors = parse_document(body, "error body").get("errors")
    except (BadImage, LimitExceeded):
        return ()
    if not isinstance(errors, list):
        return ()
    found = [entry.get("code") for entry in errors[:16] if isinstance(entry, dict)]
    return tuple(code for code in found if isinstance(code, str) and _is_code(code))


def _is_code(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and text.replace("_", "").isalnum()


def network_failure(error: Exception, host: str, *, tls: bool) -> RegistryError:  # noqa: PLR0911 - a table
    """What went wrong while talking to ``host``, over TLS or not."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate_failure(error.certificate_error, host)
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate_failure(cause, host)
    if isinstance(cause, ssl.SSLError):
        return _tls_failure(cause, host)
    if isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(cause, socket.gaierror):
        again = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        return RegistryError(f"dial tcp: lookup {host}: no such host", temporary=again)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return RegistryError(f"the proxy refused to connect to {host}: status {describe(error.status)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        peer = f"{error.host}:{error.port}"
        return RegistryError(f"dial tcp {peer}: connect: {_reason(error.os_error)}", temporary=True)
    if isinstance(error, TimeoutError):
        return RegistryError(f"{host} did not answer in time", temporary=True)
    if isinstance(error, aiohttp.InvalidURL):
        return RegistryError(f"{host} sent an invalid URL")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        hint = _client_certificate_hint(host) if tls else None
        return RegistryError(f"{host} closed the connection without a reply", hint=hint, temporary=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return RegistryError(f"connection to {host} broke in the middle of a transfer", temporary=True)
    if isinstance(error, OSError):
        # TLS 1.3 servers refuse a missing certificate after the handshake, which often shows as a reset only
        hint = _client_certificate_hint(host) if tls else None
        return RegistryError(f"connection to {host} broke: {_reason(error)}", hint=hint, temporary=True)
    return RegistryError(f"{host} sent a malformed HTTP reply")


def _client_certificate_hint(host: str) -> str:
    return f"if it wants a client certificate, put client.cert and client.key into /etc/docker/certs.d/{host}"


def _reason(error: OSError) -> str:
    known = [error.errno] if error.errno else [code for code in (errno.ECONNREFUSED,) if str(code) in str(error)]
    return os.strerror(known[0]).lower() if known else type(error).__name__


def _certificate_failure(error: Exception, host: str) -> RegistryError:
    code = getattr(error, "verify_code", None)
    if code in _UNKNOWN_AUTHORITY:
        return RegistryError(INSECURE_TEXT, hint=f"or put the certificate of its authority into /etc/docker/certs.d/{host}/ca.crt")
    reason = str(getattr(error, "verify_message", "") or "verification failed").rstrip(".")
    return RegistryError(
        f"certificate of {host} is not valid: {reason}",
        hint="renew the certificate, or check the host name and this machine's clock",
    )


def _tls_failure(error: ssl.SSLError, host: str) -> RegistryError:
    reason = error.reason or ""
    if reason in _PLAIN_HTTP:
        return NotTlsError(
            f"http: server gave HTTP response to HTTPS client ({host})",
            hint=f"if this registry really speaks plain http, use --insecure-registry {host}",
        )
    if "CERTIFICATE_REQUIRED" in reason or "ALERT_HANDSHAKE_FAILURE" in reason or "ALERT_BAD_CERTIFICATE" in reason:
        return RegistryError(
            f"{host} refused the TLS connection: {reason.replace('_', ' ').lower()}",
            hint=_client_certificate_hint(host),
        )
    text = reason.replace("_", " ").lower() or "closed by the other side"
    return RegistryError(f"TLS connection to {host} failed: {text}", temporary=not reason)
