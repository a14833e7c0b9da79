"""The ways to a store: the command, a server's API, and buildah for comparison.

A door does one operation and raises Refused where it fails. Users do not know which one they have.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any, Protocol

from loadtests import processes
from loadtests.plan import Plan

WRITTEN_BYTES = 128 * 1024
"""What an app writes into its root file system while it runs: deleting it then frees something."""


class Refused(Exception):
    """An operation failed; the text is the first line of what was said."""


class Door(Protocol):
    """One operation each. All raise Refused; none returns before the operation is done."""

    def create(self, image: str, image_id: str) -> None:
        """Make an image, with the plan's limit."""

    def stats(self, image_id: str) -> None:
        """Ask what an image uses."""

    def delete(self, image_id: str) -> None:
        """Remove an image."""

    def clean(self) -> None:
        """Remove unused layers above the plan's threshold."""


class Command:
    """The `grootfs` command, as Garden calls it."""

    def __init__(self, plan: Plan) -> None:
        self._argv = [plan.command, "--store", plan.store]
        self._environment = dict(os.environ)
        self._limit = ["--disk-limit-size-bytes", str(plan.limit)] if plan.limit else []
        self._threshold = ["--threshold-bytes", str(plan.threshold)]

    def create(self, image: str, image_id: str) -> None:
        """`grootfs create`."""
        self._run("create", *self._limit, image, image_id)

    def stats(self, image_id: str) -> None:
        """`grootfs stats`, and look whether the answer is one."""
        answer = self._run("stats", image_id)
        try:
            json.loads(answer)["disk_usage"]["total_bytes_used"]
        except (ValueError, KeyError):
            raise Refused(f"stats said {answer!r}") from None

    def delete(self, image_id: str) -> None:
        """`grootfs delete`."""
        answer = self._run("delete", image_id)
        # Deleting what is not there succeeds; here it would mean that an image was lost.
        if "not found" in answer:
            raise Refused(answer)

    def clean(self) -> None:
        """`grootfs clean`."""
        self._run("clean", *self._threshold)

    def _run(self, *args: str) -> str:
        return _run([*self._argv, *args], self._environment)


class Api:
    """The server's HTTP interface, a connection for each operation."""

    def __init__(self, plan: Plan) -> None:
        self._socket = plan.socket
        self._limit = {"disk_limit_size_bytes": plan.limit} if plan.limit else {}
        self._threshold = plan.threshold

    def create(self, image: str, image_id: str) -> None:
        """`POST /v1/images`."""
        self._ask("POST", "/v1/images", {"image": image, "id": image_id, **self._limit})

    def stats(self, image_id: str) -> None:
        """`GET /v1/images/ID/stats`."""
        answer = self._ask("GET", f"/v1/images/{image_id}/stats")
        if "disk_usage" not in answer:
            raise Refused(f"stats said {answer!r}")

    def delete(self, image_id: str) -> None:
        """`DELETE /v1/images/ID`."""
        self._ask("DELETE", f"/v1/images/{image_id}")

    def clean(self) -> None:
        """`POST /v1/clean`."""
        self._ask("POST", "/v1/clean", {"threshold_bytes": self._threshold})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            status, answer = _ask(self._socket, method, path, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Refused(f"{method} {path}: {error}") from None
        if status >= 400:
            raise Refused(f"{status}: {answer['error']['message']}")
        return answer


def _ask(path: str, method: str, target: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Ask a server on the socket at ``path``; gives status and JSON. Raises OSError, HTTPException, ValueError."""
    connection = http.client.HTTPConnection("grootfs", timeout=processes.DEADLINE)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(processes.DEADLINE)
        connection.sock.connect(path)
        connection.request(method, target, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def is_healthy(path: str) -> bool:
    """Whether a server on the socket at ``path`` takes operations."""
    try:
        return _ask(path, "GET", "/healthz")[0] == 200
    except (OSError, http.client.HTTPException, ValueError):
        return False


def buildah(plan: Plan) -> list[str]:
    """The command with the storage of a plan."""
    driver = plan.door.split("-")[1]
    return [plan.command, "--root", f"{plan.store}/root", "--runroot", f"{plan.store}/run", "--storage-driver", driver]


class Buildah:
    """`buildah from` and `buildah rm`, which is create and delete without a limit. No stats, no clean.

    Images are named by id, as whoever has pulled them would: by the name of a layout buildah reads them again each time.
    """

    def __init__(self, plan: Plan) -> None:
        self._argv = buildah(plan)
        self._environment = dict(os.environ)
        self._ids = {app.image: app.pulled for app in plan.apps}

    def create(self, image: str, image_id: str) -> None:
        """`buildah from`."""
        self._run("from", "--pull-never", "--name", image_id, self._ids[image])

    def stats(self, image_id: str) -> None:
        """Not measured."""

    def delete(self, image_id: str) -> None:
        """`buildah rm`."""
        self._run("rm", image_id)

    def clean(self) -> None:
        """Not measured."""

    def _run(self, *args: str) -> str:
        return _run([*self._argv, *args], self._environment)


def _run(argv: list[str], environment: dict[str, str]) -> str:
    ended = processes.run(argv, environment)
    if ended.code:
        raise Refused(f"exit {ended.code}: {ended.output.splitlines()[0] if ended.output else 'no output'}")
    return ended.output


def open_door(plan: Plan) -> Door:
    """The door of a plan."""
    if plan.door.startswith("buildah"):
        return Buildah(plan)
    return Api(plan) if plan.door == "api" else Command(plan)
