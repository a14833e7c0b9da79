"""The HTTP interface. What it takes and gives is in ``openapi.json``, which is also what requests are held against."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from groot_fast._core import format_json, parse_json
from groot_fast.config import KEYS
from groot_fast.errors import GrootError, UsageError
from groot_fast.server import messages
from groot_fast.server.front import Front, peer_of
from groot_fast.server.metrics import Metrics
from groot_fast.server.pool import Pool, WorkerLost

MAX_BODY = 1 << 20

SIGNALS = (1, 2, 15)
"""Signals that may be passed on: SIGHUP, SIGINT, SIGTERM."""

STATUS = {
    "UsageError": 400,
    "ConfigError": 400,
    "ImageNotFound": 404,
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

TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool}


class Api:
    """The handlers."""

    def __init__(self, pool: Pool, metrics: Metrics, front: Front) -> None:
        self._pool = pool
        self._metrics = metrics
        self._front = front
        # Not by `importlib.resources`: modules that come from the launcher's bundle have no reader of resources.
        self._description = Path(__file__).with_name("openapi.json").read_bytes()
        self._schemas = parse_json(self._description)["components"]["schemas"]

    def application(self) -> web.Application:
        """What aiohttp serves."""
        application = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        application.router.add_routes(
            [
                web.post("/v1/commands/{number}/signal", self.signal),
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
        """Serve root and the user we run as, on whose behalf everything is done, and nobody else."""
        if peer_of(request.get_extra_info("socket")) not in self._front.users:
            return _problem(403, "Forbidden", "this server works for its own user and for root")
        try:
            return cast(web.StreamResponse, await handler(request))
        except GrootError as error:
            return _problem(STATUS.get(type(error).__name__, 500), type(error).__name__, str(error), error.hint)

    async def signal(self, request: web.Request) -> web.StreamResponse:
        """Send a signal to a command."""
        body = await self._body(request, "Signal")
        if body["signal"] not in SIGNALS:
            raise UsageError(f"signal {body['signal']} cannot be passed on")
        if not self._front.signal(request.match_info["number"], body["signal"]):
            return _problem(404, "UsageError", "no such command is running")
        return _json({}, 202)

    # -- operations ----------------------------------------------------------------

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make an image."""
        body = await self._body(request, "CreateRequest")
        arguments = [body.pop("image"), body.pop("id")]
        return await self._operate(request, "create", arguments, body, status=201)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Remove an image."""
        return await self._operate(request, "delete", [request.match_info["id"]], {})

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """What an image uses."""
        return await self._operate(request, "stats", [request.match_info["id"]], {})

    async def list_(self, request: web.Request) -> web.StreamResponse:
        """All images."""
        return await self._operate(request, "list", [], {})

    async def clean(self, request: web.Request) -> web.StreamResponse:
        """Remove unused layers."""
        return await self._operate(request, "clean", [], await self._body(request, "CleanRequest"))

    async def _operate(
        self, request: web.Request, name: str, arguments: list[str], body: dict[str, Any], *, status: int = 200
    ) -> web.StreamResponse:
        if self._front.is_stopping:
            return _stopping()
        options = {SETTINGS.get(key, key): value for key, value in body.items()}
        if "store" in request.query:
            options["store"] = request.query["store"]
        payload = format_json({"name": name, "arguments": arguments, "options": options}).encode()
        worker, call = await self._pool.start(messages.OPERATION, payload)
        try:
            report: dict[str, Any] = await asyncio.shield(call.done)
        except asyncio.CancelledError:
            worker.stop(call)
            raise
        except WorkerLost:
            return _problem(500, "StoreError", "the process that did the work ended")
        if "error" in report:
            error = report["error"]
            return _problem(STATUS.get(error["kind"], 500), error["kind"], error["message"], error["hint"])
        return _json(report["result"], status)

    async def _body(self, request: web.Request, schema: str) -> dict[str, Any]:
        """The request's JSON, as `openapi.json` wants it. Raises UsageError."""
        data = await request.read()
        try:
            body = parse_json(data) if data else {}
        except ValueError as error:
            raise UsageError(f"the body is not valid JSON: {error}") from None
        if not isinstance(body, dict):
            raise UsageError("the body is not a JSON object")
        properties: dict[str, dict[str, Any]] = self._schemas[schema]["properties"]
        for name, value in body.items():
            if name not in properties:
                raise UsageError(f"unknown field `{name}`")
            wanted = properties[name]["type"]
            if not _is_of_type(value, wanted):
                raise UsageError(f"`{name}` must be of type {wanted}")
        for name in cast(list[str], self._schemas[schema].get("required", [])):
            if name not in body:
                raise UsageError(f"`{name}` is missing")
        return body

    # -- about the server ------------------------------------------------------------

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """Whether commands are taken."""
        return _stopping() if self._front.is_stopping else _json({"status": "ok"})

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        """Counts for Prometheus."""
        return web.Response(text=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def description(self, _request: web.Request) -> web.StreamResponse:
        """The OpenAPI document."""
        return web.Response(body=self._description, content_type="application/json")


def _is_of_type(value: Any, wanted: str) -> bool:
    """By JSON's types: true is no number. The items of an array are strings."""
    if wanted == "array":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) is TYPES[wanted]


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(text=format_json(value), status=status, content_type="application/json")


def _problem(status: int, kind: str, message: str, hint: str | None = None) -> web.Response:
    return _json({"error": {"kind": kind, "message": message, "hint": hint}}, status)


def _stopping() -> web.Response:
    return _problem(503, "StoreError", "the server is stopping")
