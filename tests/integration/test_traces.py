"""OpenTelemetry: one trace a command, with its phases, and nothing where it is not asked for."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.archive import Archive
from support.command import COMMAND, Store
from support.server import serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """An OTLP collector over HTTP."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, ExportTraceServiceRequest.FromString(_inflate(body, self.headers))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def spans(self) -> dict[str, list[Any]]:
        """All spans by name."""
        found: dict[str, list[Any]] = {}
        for path, request in self.requests:
            assert path == "/v1/traces"
            for resource in request.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                assert names["service.name"] == "grootfs"
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found.setdefault(span.name, []).append(span)
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _inflate(body: bytes, headers: Any) -> bytes:
    import gzip

    return gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def run(store: Store, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [COMMAND, "--store", str(store.path), "--log-level", "error", *args]
    return subprocess.run(argv, capture_output=True, text=True, env={"PATH": os.environ["PATH"], **environment}, timeout=60)


def test_create(store: Store, image: Callable[..., str], collector: Collector) -> None:
    url = image(Archive().file("base", "b" * 3000), Archive().file("app", "a"))
    done = run(store, "create", url, "one", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, TRACEPARENT=f"00-{TRACE}-{PARENT}-01")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{store.image('one')}\n", "")
    spans = collector.spans()
    (command,) = spans["grootfs create"]
    assert (command.trace_id.hex(), command.parent_span_id.hex()) == (TRACE, PARENT)
    counts = {"resolve": 1, "unpack layer": 2, "download layer": 2, "commit": 1, "wait for shared lock": 1, "wait for exclusive lock": 2}
    assert {name: len(found) for name, found in spans.items()} == {"grootfs create": 1, **counts}
    for name in counts:
        for span in spans[name]:
            assert (span.trace_id, span.parent_span_id) == (command.trace_id, command.span_id)
            assert span.start_time_unix_nano <= span.end_time_unix_nano <= command.end_time_unix_nano
    assert spans["resolve"][0].end_time_unix_nano <= spans["commit"][0].end_time_unix_nano


def test_failure(store: Store, collector: Collector) -> None:
    done = run(store, "stats", "nobody", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    assert done.returncode == 1
    (span,) = collector.spans()["grootfs stats"]
    assert span.status.message == "Image `nobody` not found." and span.status.code == 2
    assert {each.key: each.value.int_value for each in span.attributes} == {"process.exit.code": 1}


def test_operations_of_a_server_belong_to_the_traces_of_its_clients(
    store: Store, scratch: Path, image: Callable[..., str], collector: Collector
) -> None:
    url = image(Archive().file("f", "x"))
    other = TRACE[::-1]
    environment = {"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    with serving(scratch, store.path, env=environment) as server:
        asked = [
            server.ask("POST", "/v1/images", {"image": url, "id": f"c{number}"}, traceparent=f"00-{trace}-{PARENT}-01")
            for number, trace in enumerate((TRACE, other))
        ]
        assert [one.answer().status for one in asked] == [201, 201]
    spans = collector.spans()
    assert {span.trace_id.hex() for span in spans["grootfs create"]} == {TRACE, other}
    commands = {span.trace_id: span.span_id for span in spans["grootfs create"]}
    assert len(spans["commit"]) == 2
    assert all(span.parent_span_id == commands[span.trace_id] for span in spans["commit"])


def test_collector_that_is_not_there(store: Store, image: Callable[..., str]) -> None:
    done = run(store, "create", image(Archive().file("f", "x")), "one", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (0, f"{store.image('one')}\n")
    assert done.stderr and all(line.startswith('{"timestamp"') for line in done.stderr.splitlines())
    assert "failed-to-export-traces" in done.stderr


def test_nothing_without_the_variable(store: Store, collector: Collector) -> None:
    assert run(store, "list").returncode == 0 and collector.requests == []
