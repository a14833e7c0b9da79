"""The HTTP interface. What it takes and gives is in ``openapi.json``, which is also what requests are held against."""

from __future__ import annotations

import os
import socket
import struct
import traceback
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

from aiohttp import web

from groot_fast._core import format_json, parse_json
from groot_fast.config import KEYS, Value
from groot_fast.errors import GrootError, UsageError, line_of
from groot_fast.server.metrics import Metrics
from groot_fast.server.operations import Operation, Operations
from groot_fast.server.schema import check_object, check_value, is_id
from groot_fast.telemetry.lager import Logger

MAX_BODY = 1 << 20

STATUS = {
    "UsageError": 400,
    "ConfigError": 400,
    "ImageNotFound": 404,
    "StoreNotFound": 404,
    "ImageExists": 409,
    "QuotaError": 422,
    "SourceError": 422,
    "BadImage": 422,
    "BadBlob": 422,
    "BadLayer": 422,
    "LimitExceeded": 422,
    "RegistryError": 502,
    "LockTimeout": 503,
    "Cancelled": 503,
}
"""HTTP status of an error by its class; all others are 500."""

SETTINGS = {spellings[0].rpartition(".")[2]: setting for setting, spellings in KEYS.items()}
"""Name in a request -> setting: the keys of the configuration file without their section."""


class Api:
    """The handlers. ``is_stopping`` says that no operations are taken any more."""

    def __init__(self, operations: Operations, metrics: Metrics, log: Logger) -> None:
        self._log = log
        self._operations = operations
        self._metrics = metrics
        self._users = {0, os.geteuid()}
        self._description = Path(__file__).with_name("openapi.json").read_bytes()
        self._components = parse_json(self._description)["components"]
        self.is_stopping = False

    def application(self) -> web.Application:
        """What aiohttp serves."""
        application = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        application.router.add_routes(
            [
                web.post("/v1/images", self.create),
                web.get("/v1/images", self.list_),
                web.delete("/v1/images/{id}", self.delete),
                web.get("/v1/images/{id}/stats", self.stats),
                web.post("/v1/clean", self.clean),
                web.get("/healthz", self.health),
                web.get("/metrics", self.metrics),
                web.get("/openapi.json", self.description),
            ]
        )
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Serve root and the user we run as, on whose behalf everything is done, and nobody else; give errors one form."""
        if peer_of(request.get_extra_info("socket")) not in self._users:
            return _problem(403, "Forbidden", "this server works for its own user and for root")
        try:
            return cast(web.StreamResponse, await handler(request))
        except GrootError as error:
            return _failed(error, _status(error))
        except web.HTTPException as error:
            # A path or method that there is none of, or a body that is too large.
            answer = _problem(error.status, type(error).__name__.removeprefix("HTTP"), f"{request.method} {request.path}: {error.reason}")
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except Exception as error:
            self._log.error("failed", line_of(error), trace=traceback.format_exc())
            return _problem(500, "InternalError", line_of(error))

    # -- operations ----------------------------------------------------------------

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make an image."""
        body = await self._body(request, "CreateRequest")
        image, image_id = body.pop("image"), body.pop("id")
        is_usable = is_id(image_id, self._components["schemas"]["CreateRequest"]["properties"]["id"])
        answer = await self._operate(request, "create", [image, image_id], body, is_usable=is_usable, status=201)
        if answer.status == 201:
            query = f"?{urlencode({'store': self._store(request, body)})}" if self._store(request, body) else ""
            answer.headers["Location"] = f"/v1/images/{quote(image_id, safe='')}{query}"
        return answer

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Remove an image."""
        return await self._operate_on_image(request, "delete")

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """What an image uses."""
        return await self._operate_on_image(request, "stats")

    async def list_(self, request: web.Request) -> web.StreamResponse:
        """All images."""
        return await self._operate(request, "list", [], {})

    async def clean(self, request: web.Request) -> web.StreamResponse:
        """Remove unused layers."""
        return await self._operate(request, "clean", [], await self._body(request, "CleanRequest"))

    async def _operate_on_image(self, request: web.Request, name: str) -> web.StreamResponse:
        image_id = request.match_info["id"]
        schema = self._components["parameters"]["Id"]["schema"]
        check_value("id", image_id, schema)
        return await self._operate(request, name, [image_id], {}, is_usable=is_id(image_id, schema))

    async def _operate(
        self, request: web.Request, name: str, arguments: list[str], body: dict[str, Value], *, is_usable: bool = True, status: int = 200
    ) -> web.Response:
        if self.is_stopping:
            return _stopping()
        options = {SETTINGS.get(key, key): value for key, value in body.items()}
        store = self._store(request, body)
        if store:
            options["store"] = store
        try:
            operation = Operation(name, arguments, options, request.headers.get("traceparent", ""))
            return _json(await self._operations.run(operation), status)
        except GrootError as error:
            # What is wrong with an id says the operation; that it is the caller's mistake says the schema.
            status = _status(error)
            return _failed(error, 400 if status == 500 and not is_usable else status)

    def _store(self, request: web.Request, body: dict[str, Value]) -> str:
        """The store that the request names, if it names one; that of the address wins. Raises UsageError."""
        if "store" not in request.query:
            return str(body.get("store", ""))
        store = request.query["store"]
        check_value("store", store, self._components["parameters"]["Store"]["schema"])
        return store

    async def _body(self, request: web.Request, schema: str) -> dict[str, Any]:
        """The request's JSON, as `openapi.json` wants it. Raises UsageError."""
        data = await request.read()
        try:
            body = parse_json(data) if data else {}
        except ValueError as error:
            raise UsageError(f"the body is not valid JSON: {error}") from None
        return check_object(body, self._components["schemas"][schema])

    # -- about the server ------------------------------------------------------------

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """Whether operations are taken."""
        return _stopping() if self.is_stopping else _json({"status": "ok"})

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        """Counts for Prometheus."""
        return web.Response(text=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def description(self, _request: web.Request) -> web.StreamResponse:
        """The OpenAPI document."""
        return web.Response(body=self._description, content_type="application/json")


def peer_of(connection: socket.socket) -> int:
    """Who is at the other end: the user id, from the kernel."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(text=format_json(value), status=status, content_type="application/json")


def _status(error: GrootError) -> int:
    return STATUS.get(_kind(error), 500)


def _kind(error: GrootError) -> str:
    """The class as `errors` has it; those that a module makes for itself are nobody else's business."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == GrootError.__module__)


def _failed(error: GrootError, status: int) -> web.Response:
    return _problem(status, _kind(error), str(error), error.hint)


def _problem(status: int, kind: str, message: str, hint: str | None = None) -> web.Response:
    return _json({"error": {"kind": kind, "message": message, "hint": hint}}, status)


def _stopping() -> web.Response:
    return _problem(503, "StoreError", "the server is stopping")
