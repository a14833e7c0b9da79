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
# alerts by which servers refuse a client's certificate, or that there is none
_ABOUT_CLIENTS = ("CERTIFICATE", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "ACCESS_DENIED")
_PLAIN_HTTP = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "RECORD_LAYER_FAILURE")


class StatusError(RegistryError):
    """A reply with a status that means failure; ``retry_after`` in seconds if the server named a time."""

    retry_after: float | None = None


class NotTlsError(RegistryError):
    """Something answered, and it does not speak TLS."""


class TlsRefused(RegistryError):
    """A server ended a TLS connection in the way in which servers refuse a client's certificate."""


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


_LIMITED = frozenset({"TOOMANYREQUESTS"})
_PERMISSION = frozenset({"UNAUTHORIZED", "DENIED", "NAME_UNKNOWN", "MANIFEST_UNKNOWN", "NAME_INVALID"})


def is_policy(codes: tuple[str, ...]) -> bool:
    """Whether a registry refuses for a reason of its own, not for want of permission."""
    return bool(codes) and not _PERMISSION.issuperset(codes)


def explain(status: int, codes: tuple[str, ...]) -> str | None:
    """The cure for a refusal, if it is known."""
    if status == 429 or _LIMITED.intersection(codes):
        return "the registry limits how often it is asked: log in (docker login), wait, or use a mirror"
    if status == 412 or is_policy(codes):
        return "a policy of the registry refuses this image; ask who runs it"
    if status == 451:
        return "the registry may not give this image to you for legal reasons"
    return None


def name_codes(error: RegistryError) -> None:
    """Put the codes of a registry's error into the text of ours."""
    if error.codes:
        error.args = (f"{error} ({', '.join(error.codes)})",)


def is_web_page(headers: Mapping[str, str]) -> bool:
    """Whether a reply is for a browser: a login page, most often."""
    return headers.get("Content-Type", "").split(";", 1)[0].strip().lower() in ("text/html", "application/xhtml+xml")


def web_page(host: str, what: str) -> RegistryError:
    """A browser's page came instead of what was asked for."""
    return RegistryError(
        f"{host} answered with a web page (text/html) instead of {what}",
        hint="a login page or a proxy stands before the registry; check the address, and whether a browser has to log in",
    )


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


def network_failure(error: Exception, host: str, spelled: str, *, tls: bool) -> RegistryError:  # noqa: PLR0911 - a table
    """What went wrong while talking to ``host`` (host:port), over TLS or not. Hints have it as it is ``spelled`` by users."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate_failure(error.certificate_error, host, spelled)
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error.__cause__, ssl.SSLError):
        cause = error.__cause__  # an alert after the handshake, in an exception that has its number as one of the system
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate_failure(cause, host, spelled)
    if isinstance(cause, ssl.SSLError):
        return _tls_failure(cause, host, spelled)
    if isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(cause, socket.gaierror):
        again = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        return RegistryError(f"dial tcp: lookup {spelled}: no such host", temporary=again)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        message = f"the proxy refused to connect to {host}: status {describe(error.status)}"
        return RegistryError(message, hint=proxy_hint(error.status), temporary=error.status in _TEMPORARY)
    if isinstance(error, aiohttp.ClientConnectorError):
        peer = f"{error.host}:{error.port}"
        return RegistryError(f"dial tcp {peer}: connect: {_reason(error.os_error)}", temporary=True)
    if isinstance(error, TimeoutError):
        return RegistryError(f"{host} did not answer in time", temporary=True)
    if isinstance(error, aiohttp.InvalidURL):
        return RegistryError(f"{host} sent an invalid URL")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return _broken(f"{host} closed the connection without a reply", spelled, tls=tls)
    if isinstance(error, aiohttp.ClientPayloadError):
        return RegistryError(f"connection to {host} broke in the middle of a transfer", temporary=True)
    if isinstance(error, OSError):
        # TLS 1.3 servers refuse a missing certificate after the handshake, which often shows as a reset only
        return _broken(f"connection to {host} broke: {_reason(error)}", spelled, tls=tls)
    return RegistryError(f"{host} sent a malformed HTTP reply")


def proxy_hint(status: int) -> str | None:
    """The cure for what a proxy refuses."""
    return "check user and password in HTTPS_PROXY or HTTP_PROXY" if status == 407 else None


def _broken(message: str, spelled: str, *, tls: bool) -> RegistryError:
    if tls:
        return TlsRefused(message, hint=_client_certificate_hint(spelled), temporary=True)
    return RegistryError(message, temporary=True)


def _client_certificate_hint(host: str) -> str:
    return f"if it wants a client certificate, put client.cert and client.key into /etc/docker/certs.d/{host}"


def _reason(error: OSError) -> str:
    known = [error.errno] if error.errno else [code for code in (errno.ECONNREFUSED,) if str(code) in str(error)]
    return os.strerror(known[0]).lower() if known else type(error).__name__


def _certificate_failure(error: Exception, host: str, spelled: str) -> RegistryError:
    code = getattr(error, "verify_code", None)
    if code in _UNKNOWN_AUTHORITY:
        return RegistryError(INSECURE_TEXT, hint=f"or put the certificate of its authority into /etc/docker/certs.d/{spelled}/ca.crt")
    reason = str(getattr(error, "verify_message", "") or "verification failed").rstrip(".")
    return RegistryError(
        f"certificate of {host} is not valid: {reason}",
        hint="renew the certificate, or check the host name and this machine's clock",
    )


def _tls_failure(error: ssl.SSLError, host: str, spelled: str) -> RegistryError:
    reason = error.reason or ""
    if reason in _PLAIN_HTTP:
        return NotTlsError(
            f"http: server gave HTTP response to HTTPS client ({host})",
            hint=f"if this registry really speaks plain http, use --insecure-registry {spelled}",
        )
    if "ALERT" in reason and any(word in reason for word in _ABOUT_CLIENTS):
        return TlsRefused(
            f"{host} refused the TLS connection: {reason.replace('_', ' ').lower()}",
            hint=_client_certificate_hint(spelled),
        )
    text = reason.replace("_", " ").lower() or "closed by the other side"
    return RegistryError(f"TLS connection to {host} failed: {text}", temporary=not reason)
