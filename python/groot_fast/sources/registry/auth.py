"""Authorisation: what a registry asks for in `WWW-Authenticate`, and the header that answers it.

Challenges are parsed and chosen, and scopes reduced, by `groot-registry`'s rules (``challenge.rs``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from yarl import URL

from groot_fast import _core

from ...errors import BadImage, LimitExceeded, RegistryError
from .credentials import Credential
from .failures import describe, status_error
from .transport import SMALL_BODY, Transport, read_capped

MIN_TOKEN_LIFE = 60.0  # seconds; registries that say 0 or nothing mean this (contract, 9.3)
_TOKEN_MARGIN = 5.0  # a token that expires on the way is as bad as an expired one
_CLIENT_ID = "groot_fast"
_INVALID = "unable to retrieve auth token: invalid username/password"


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
        # what tokens are asked for; the registry may know another name for it (`reject`)
        self.scope = f"repository:{repository}:pull"
        self._find = credential
        self._credential: Credential | None = None
        self._transport = transport
        self._scheme = ""
        self._parameters: dict[str, str] = {}
        self._token: _Token | None = None
        self._lock = asyncio.Lock()

    async def credential(self) -> Credential:
        """What is looked up, once."""
        async with self._lock:
            return await self._known()

    async def _known(self) -> Credential:
        if self._credential is None:
            self._credential = await self._find()
        return self._credential

    def learn(self, headers: Iterable[str]) -> None:
        """Take the challenge of a 401; Bearer is preferred. Raises `RegistryError` if none can be answered."""
        # bytes that are no UTF-8 come as surrogates; no scheme or URL we could answer has such
        found = _core.choose_challenge([header.encode(errors="replace").decode() for header in headers])
        if found is not None:
            self._scheme, self._parameters = found

    async def header(self) -> str | None:
        """The header's value, fetching a token if there is none or it expires; None when nothing is asked or known.

        Raises `RegistryError` when the token server refuses or fails.
        """
        if not self._scheme:
            return None
        async with self._lock:  # many transfers start at once, one token serves them all
            credential = await self._known()
            if credential.registry_token:
                return f"Bearer {credential.registry_token}"
            if self._scheme == "basic":
                return credential.basic()
            if self._token is None or time.monotonic() >= self._token.expires:
                self._token = await self._fetch(self._parameters, credential)
            return self._token.header

    def reject(self, header: str | None) -> bool:
        """The registry refused ``header``: forget that token. True if asking again could give another answer."""
        is_fresh = self._token is not None and self._token.header == header
        if is_fresh:
            self._token = None
        if not self._scheme:
            return False
        if header is None:
            return True
        named = _core.named_scope(self._parameters.get("scope", ""))
        if is_fresh and named is not None:
            self.scope = named  # ours was refused with a token for it; the registry knows another name for what we want
        return self._scheme == "bearer"

    async def _fetch(self, parameters: dict[str, str], credential: Credential) -> _Token:
        realm = self._transport.guard.realm(parameters.get("realm", ""))
        # of what the challenge asks for, only pulling: anything more would get a token worth stealing
        query = {"service": parameters["service"]} if parameters.get("service") else {}
        query["scope"] = self.scope
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
        document = _core.parse_document(body, "token reply")
    except (BadImage, LimitExceeded) as error:
        raise RegistryError(f"unable to retrieve auth token: {error}") from None
    text = document.get("token") or document.get("access_token")
    # visible ASCII only: anything else could add lines to a request
    if not isinstance(text, str) or not text or not all("!" <= ch <= "~" for ch in text):
        raise RegistryError("unable to retrieve auth token: the reply holds no usable token")
    life = document.get("expires_in")
    seconds = float(life) if isinstance(life, int | float) and not isinstance(life, bool) else 0.0
    return _Token(f"Bearer {text}", asked + max(MIN_TOKEN_LIFE, seconds) - _TOKEN_MARGIN)
