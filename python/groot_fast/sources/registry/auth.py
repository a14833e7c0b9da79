"""Authorisation: what a registry asks for in `WWW-Authenticate`, and the header that answers it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from yarl import URL

from groot_fast._core import parse_document

from ...errors import BadImage, LimitExceeded, RegistryError
from .credentials import Credential
from .failures import describe, status_error
from .transport import SMALL_BODY, Transport, read_capped

MIN_TOKEN_LIFE = 60.0  # seconds; registries that say 0 or nothing mean this (contract, 9.3)
_TOKEN_MARGIN = 5.0  # a token that expires on the way is as bad as an expired one
_CLIENT_ID = "groot_fast"
_MAX_HEADER = 16 * 1024
_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_INVALID = "unable to retrieve auth token: invalid username/password"


class Challenge(NamedTuple):
    """One scheme of a `WWW-Authenticate` header; scheme and parameter names in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Parse one header, which may hold several challenges.

    Values without quotes are accepted up to the next comma, since some registries forget them. Raises
    `RegistryError` for control characters, an open quote, a parameter given twice, or more than 16 KiB.
    """
    if len(header) > _MAX_HEADER:
        raise _malformed("too long")
    if any((ch < " " and ch != "\t") or ch == "\x7f" for ch in header):
        raise _malformed("control characters")
    found: list[Challenge] = []
    at, end = 0, len(header)
    while at < end:
        if header[at] in ", \t":
            at += 1
            continue
        start = at
        while at < end and header[at] in _TOKEN_CHARS:
            at += 1
        name = header[start:at].lower()
        if not name:
            raise _malformed("unexpected character")
        after = at
        while after < end and header[after] in " \t":
            after += 1
        if after < end and header[after] == "=" and found:
            value, at = _value(header, after + 1)
            if name in found[-1].parameters:
                raise _malformed(f"two values for {name}")
            found[-1].parameters[name] = value
        else:
            found.append(Challenge(name, {}))
            at = max(at, after)
            if at < end and header[at] not in _TOKEN_CHARS and header[at] != ",":
                raise _malformed("unexpected character")
    return found


def _value(header: str, at: int) -> tuple[str, int]:
    """A parameter's value and the position after it."""
    end = len(header)
    while at < end and header[at] in " \t":
        at += 1
    if at < end and header[at] == '"':
        text: list[str] = []
        at += 1
        while at < end and header[at] != '"':
            if header[at] == "\\":
                at += 1
            if at < end:
                text.append(header[at])
            at += 1
        if at >= end:
            raise _malformed("a quote is not closed")
        return "".join(text), at + 1
    comma = header.find(",", at)
    stop = end if comma < 0 else comma
    return header[at:stop].strip(), stop


def _malformed(reason: str) -> RegistryError:
    return RegistryError(f"the registry sent a malformed authentication challenge: {reason}")


class _Token(NamedTuple):
    header: str
    expires: float


class Authorizer:
    """The `Authorization` header for pulling one repository from one registry.

    ``credential`` is awaited once, and only when the registry asks for authorisation. Nothing of it appears in a
    message or a repr.
    """

    def __init__(self, repository: str, credential: Callable[[], Awaitable[Credential]], transport: Transport) -> None:
        """See the class."""
        self._scope = f"repository:{repository}:pull"
        self._find = credential
        self._credential: Credential | None = None
        self._transport = transport
        self._challenge: Challenge | None = None
        self._token: _Token | None = None
        self._lock = asyncio.Lock()

    def learn(self, headers: Iterable[str]) -> None:
        """Take the challenge of a 401; Bearer is preferred. Raises `RegistryError` if none can be answered."""
        challenges = [challenge for header in headers for challenge in parse_challenges(header)]
        for scheme in ("bearer", "basic"):
            for challenge in challenges:
                if challenge.scheme == scheme:
                    self._challenge = challenge
                    return
        if challenges:
            raise RegistryError("the registry asks for an authentication scheme that is not supported", status=401)

    async def header(self) -> str | None:
        """The header's value, fetching a token if there is none or it expires; None when nothing is asked or known.

        Raises `RegistryError` when the token server refuses or fails.
        """
        if self._challenge is None:
            return None
        async with self._lock:  # many transfers start at once, one token serves them all
            if self._credential is None:
                self._credential = await self._find()
            if self._challenge.scheme == "basic":
                return self._credential.basic()
            if self._token is None or time.monotonic() >= self._token.expires:
                self._token = await self._fetch(self._challenge.parameters, self._credential)
            return self._token.header

    def reject(self, header: str | None) -> bool:
        """The registry refused ``header``: forget that token. True if asking again could give another answer."""
        if self._token is not None and self._token.header == header:
            self._token = None
        if self._challenge is None:
            return False
        return header is None or self._challenge.scheme == "bearer"

    async def _fetch(self, parameters: dict[str, str], credential: Credential) -> _Token:
        realm = self._transport.guard.realm(parameters.get("realm", ""))
        # only ever our own scope: a challenge that asks for more would get a token worth stealing
        query = {"service": parameters["service"]} if parameters.get("service") else {}
        query["scope"] = self._scope
        form = None
        authorization = None
        if credential.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": _CLIENT_ID,
                "refresh_token": credential.identity_token,
                **query,
            }
            url = realm
        else:
            if credential.username:
                query = {"account": credential.username, **query}
            url = URL(str(realm)).extend_query(query)
            authorization = credential.basic()
        asked = time.monotonic()
        headers = {"Accept": "application/json"}
        async with self._transport.exchange(url, headers, authorization=authorization, form=form) as (response, _):
            body = await read_capped(response, SMALL_BODY, "token reply")
            if response.status in (401, 403):
                raise RegistryError(_INVALID, status=response.status, hint="check --username and --password, or run docker login")
            if response.status != 200:
                message = f"unable to retrieve auth token: invalid status code {describe(response.status)}"
                raise status_error(message, response.status, response.headers, body)
        return _read_token(body, asked)


def _read_token(body: bytes, asked: float) -> _Token:
    try:
        document = parse_document(body, "token reply")
    except (BadImage, LimitExceeded) as error:
        raise RegistryError(f"unable to retrieve auth token: {error}") from None
    text = document.get("token") or document.get("access_token")
    # visible ASCII only: anything else could add lines to a request
    if not isinstance(text, str) or not text or not all("!" <= ch <= "~" for ch in text):
        raise RegistryError("unable to retrieve auth token: the reply holds no usable token")
    life = document.get("expires_in")
    seconds = float(life) if isinstance(life, int | float) and not isinstance(life, bool) else 0.0
    return _Token(f"Bearer {text}", asked + max(MIN_TOKEN_LIFE, seconds) - _TOKEN_MARGIN)
