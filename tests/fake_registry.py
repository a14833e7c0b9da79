"""A registry on the loopback interface that misbehaves on request.

`FakeRegistry` serves images from memory over HTTP or TLS, counts requests and bytes, and applies a `Fault` to requests
whose path contains a given text:

    with FakeRegistry() as fake:
        image = fake.add("team/app", [b"layer"])
        fake.fault(image.layers[0], Fault(cut_after=2), times=1)
        pull(image.url)

It knows nothing of the client under test and imports only the standard library.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
CA_SETTINGS = """\
[ca]
default_ca = this
[this]
database = {index}
new_certs_dir = {directory}
policy = any
default_md = sha256
rand_serial = yes
unique_subject = no
[any]
commonName = supplied
"""
USERNAME = "sapling"
PASSWORD = "leaf-and-root-and-Kafkaesque"


def sha256(data: bytes) -> str:
    """The digest as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def basic(username: str = USERNAME, password: str = PASSWORD) -> str:
    """The value of a Basic `Authorization` header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering properly; fields combine.

    ``status``, ``headers`` and ``body`` replace the reply's; a header of None is left out. ``length`` lies in
    Content-Length. ``cut_after`` closes the connection after so many body bytes, ``stall_after`` falls silent there,
    ``drip`` sends one byte each so many seconds, ``endless`` never stops sending. ``ignore_range`` answers 200 to a
    Range request, ``content_range`` lies in a 206. ``chunked_cut`` sends the body chunked, without the last chunk;
    ``unframed`` sends it without any length, ended by closing. ``rate`` is the bytes a second that a connection gets.
    ``hook`` runs first; replying itself it returns True.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    length: int | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    drip: float | None = None
    endless: bool = False
    ignore_range: bool = False
    content_range: str | None = None
    chunked_cut: bool = False
    unframed: bool = False
    rate: float | None = None
    hook: Callable[[Any], bool] | None = None


@dataclass(frozen=True)
class Image:
    """An image a `FakeRegistry` serves."""

    url: str
    manifest: bytes
    config: bytes
    layers: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return sha256(self.manifest)

    @property
    def config_digest(self) -> str:
        """Digest of the configuration."""
        return sha256(self.config)


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class FakeRegistry:
    """See the module's text. ``auth`` is "", "basic" or "bearer"; ``tls`` is a server context; ``workers`` is how many
    connections are served at a time, each until the client closes it."""

    def __init__(
        self,
        *,
        auth: str = "",
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int | None = None,
    ) -> None:
        self.auth = auth
        self.scheme = "https" if tls else "http"
        self.realm: str | None = None  # None is this server's own /token
        self.token_reply: dict[str, object] = {"expires_in": 300}
        self.identity_token = ""
        self.tokens: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.seen: list[Seen] = []
        self.sent: Counter[str] = Counter()  # body bytes by path
        self._faults: list[tuple[str, Fault, list[int]]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._issued = 0
        owner = self

        class Handler(_Handler):
            fake = owner

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                with places:
                    super().process_request_thread(request, client_address)

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that go away are what the tests are about."""

        places = threading.Semaphore(workers or 1 << 16)
        self._host = f"[{host}]" if ":" in host else host
        self._server = Server((host, port), Handler)
        if tls:
            # the handshake happens in the connection's own thread, where its failure disturbs nobody
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def addr(self) -> str:
        """host:port."""
        return f"{self._host}:{self._server.server_address[1]}"

    def url(self, repo: str, ref: str = ":latest") -> str:
        """The image URL of a repository and ``:tag`` or ``@digest``."""
        return f"docker://{self.addr}/{repo}{ref}"

    def add(
        self,
        repo: str,
        layers: list[bytes],
        tag: str = "latest",
        *,
        config: bytes = b'{"os":"linux"}',
        oci: bool = True,
    ) -> Image:
        """Serve an image of these layer blobs."""
        self.blobs[sha256(config)] = config
        self.blobs.update({sha256(layer): layer for layer in layers})
        media_type = OCI_MANIFEST if oci else DOCKER_MANIFEST
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {"mediaType": "config", "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": "layer", "digest": sha256(layer), "size": len(layer)} for layer in layers],
        }
        manifest = json.dumps(document).encode()
        self.put(repo, tag, manifest, media_type)
        return Image(self.url(repo, f":{tag}"), manifest, config, tuple(sha256(layer) for layer in layers))

    def put(self, repo: str, tag: str, body: bytes, media_type: str) -> str:
        """Serve a manifest document under its tag and its digest, which is returned."""
        self.manifests[repo, tag] = self.manifests[repo, sha256(body)] = (body, media_type)
        return sha256(body)

    def fault(self, path_part: str, fault: Fault, times: int = 1_000_000) -> None:
        """Apply ``fault`` to the next ``times`` requests whose path contains ``path_part``."""
        self._faults.append((path_part, fault, [times]))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def gets(self, path_part: str) -> list[Seen]:
        """The requests whose path contains ``path_part``."""
        return [seen for seen in self.seen if path_part in seen.path]

    def sent_bytes(self, path_part: str) -> int:
        """Body bytes sent for such requests."""
        return sum(count for path, count in self.sent.items() if path_part in path)

    def revoke(self) -> None:
        """Every token given so far is worth nothing from now on."""
        self.tokens.clear()

    def issue(self) -> str:
        """A new bearer token."""
        with self._lock:
            self._issued += 1
            token = f"tok-{self._issued}-secret"
            self.tokens.add(token)
        return token

    def next_fault(self, path: str) -> Fault | None:
        """The fault for a request, which is used up by asking."""
        with self._lock:
            for part, fault, left in self._faults:
                if part in path and left[0] > 0:
                    left[0] -= 1
                    return fault
        return None

    def wait_for_the_end(self) -> None:
        """Block until the server is closed, at most a minute: how a stall looks from outside."""
        self._closing.wait(60)

    def is_closing(self) -> bool:
        """Whether the test is over."""
        return self._closing.is_set()


class _Handler(http.server.BaseHTTPRequestHandler):
    fake: FakeRegistry
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        fake = self.fake
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.title(): value for name, value in self.headers.items()}
        fake.seen.append(Seen(self.command, self.path, headers, body))
        fault = fake.next_fault(self.path)
        if fault and fault.hook and fault.hook(self):
            return
        status, headers, content = self._answer(body)
        self._reply(status, headers, content, fault or Fault())

    def _answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path = self.path.split("?", 1)[0]
        if path == "/token":
            return self._token(body)
        if not self._is_authorized():
            return 401, {"WWW-Authenticate": self._challenge()}, _error("UNAUTHORIZED")
        if path == "/v2/":
            return 200, {"Content-Type": "application/json"}, b"{}"
        repo, _, ref = path.removeprefix("/v2/").rpartition("/")
        repo, _, what = repo.rpartition("/")
        if what == "manifests" and (repo, ref) in self.fake.manifests:
            content, media_type = self.fake.manifests[repo, ref]
            return 200, {"Content-Type": media_type, "Docker-Content-Digest": sha256(content)}, content
        if what == "blobs" and ref in self.fake.blobs:
            return 200, {"Content-Type": "application/octet-stream", "ETag": f'"{ref}"'}, self.fake.blobs[ref]
        return 404, {"Content-Type": "application/json"}, _error("MANIFEST_UNKNOWN")

    def _is_authorized(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.fake.auth == "basic":
            return given == basic()
        if self.fake.auth == "bearer":
            return given.removeprefix("Bearer ") in self.fake.tokens
        return True

    def _challenge(self) -> str:
        if self.fake.auth == "basic":
            return 'Basic realm="fake"'
        own = f"{self.fake.scheme}://{self.fake.addr}/token"
        realm = own if self.fake.realm is None else self.fake.realm
        return f'Bearer realm="{realm}",service="fake"'

    def _token(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        wanted = self.fake.identity_token
        given = self.headers.get("Authorization", "")
        if (wanted and f"refresh_token={wanted}" not in body.decode()) or (not wanted and given != basic()):
            return 401, {}, b'{"details":"incorrect username or password"}'
        return (
            200,
            {"Content-Type": "application/json"},
            json.dumps({"token": self.fake.issue(), **self.fake.token_reply}).encode(),
        )

    def _reply(self, status: int, headers: dict[str, str], content: bytes, fault: Fault) -> None:
        wanted = self.headers.get("Range", "")
        if wanted and status == 200 and not fault.ignore_range:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(content)) + 1, len(content))
            headers["Content-Range"] = fault.content_range or f"bytes {start}-{end - 1}/{len(content)}"
            status, content = 206, content[start:end]
        status = fault.status or status
        content = content if fault.body is None else fault.body
        headers["Content-Length"] = str(len(content) if fault.length is None else fault.length)
        if fault.unframed or fault.endless or fault.chunked_cut:
            del headers["Content-Length"]
        if fault.chunked_cut:
            headers["Transfer-Encoding"] = "chunked"
        self.send_response(status)
        for key, value in {**headers, **fault.headers}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self._send(content, fault)
        if fault.unframed or fault.endless or fault.chunked_cut or fault.cut_after is not None or fault.length:
            self.close_connection = True

    def _send(self, content: bytes, fault: Fault) -> None:
        if self.command == "HEAD":
            return
        if fault.endless:
            while not self.fake.is_closing():
                self._write(b"\0" * 65536)
        elif fault.drip is not None:
            for byte in content:
                self._write(bytes([byte]))
                if self.fake.is_closing():
                    return
                time.sleep(fault.drip)
        elif fault.rate is not None:
            begun, sent = time.monotonic(), 0
            while sent < len(content) and not self.fake.is_closing():
                piece = content[sent : sent + 65536]
                sent += len(piece)
                self._write(piece)
                time.sleep(max(0.0, begun + sent / fault.rate - time.monotonic()))
        elif fault.chunked_cut:
            self._write(b"%x\r\n%s\r\n" % (len(content), content))
        elif fault.stall_after is not None:
            self._write(content[: fault.stall_after])
            self.fake.wait_for_the_end()
        else:
            self._write(content if fault.cut_after is None else content[: fault.cut_after])

    def _write(self, data: bytes) -> None:
        self.fake.sent[self.path] += len(data)
        self.wfile.write(data)
        self.wfile.flush()


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "a message", "detail": {}}]}).encode()


class Authority:
    """A certificate authority in a directory, made with openssl."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.certificate = directory / f"{name}.pem"
        self._key = directory / f"{name}-key.pem"
        self._directory = directory
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", str(self._key), "-out", str(self.certificate),
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign",
        )  # fmt: skip
        self._prepare(name)

    def _prepare(self, name: str) -> None:
        """What `openssl ca` wants besides certificate and key."""
        index = self._directory / f"{name}.index"
        index.touch()
        self._settings = self._directory / f"{name}.cnf"
        self._settings.write_text(CA_SETTINGS.format(index=index, directory=self._directory))

    def issue(self, name: str, subject: str = "IP:127.0.0.1", *, days: int = 2, is_authority: bool = False) -> tuple[Path, Path]:
        """Certificate and key for a subjectAltName, or of an authority below this one; a negative number of ``days`` is over
        already."""
        key, request, certificate = (self._directory / f"{name}{end}" for end in (".key", ".csr", ".cert"))
        extensions = self._directory / f"{name}.ext"
        extensions.write_text("basicConstraints=critical,CA:TRUE\n" if is_authority else f"subjectAltName={subject}\n")
        _openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key),
                 "-out", str(request))  # fmt: skip
        now = time.time()
        # Not `openssl x509 -days`: newer releases take no negative number there.
        start, end = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(now + day * 86400)) for day in (min(days, 0) - 1, days))
        _openssl("ca", "-batch", "-notext", "-config", str(self._settings), "-cert", str(self.certificate),
                 "-keyfile", str(self._key), "-in", str(request), "-startdate", start, "-enddate", end,
                 "-extfile", str(extensions), "-out", str(certificate))  # fmt: skip
        return certificate, key

    def below(self, name: str) -> Authority:
        """An intermediate authority."""
        made = object.__new__(Authority)
        made.certificate, made._key = self.issue(name, is_authority=True)
        made._directory = self._directory
        made._prepare(name)
        return made

    def server_context(self, name: str = "server", subject: str = "IP:127.0.0.1", *, days: int = 2) -> ssl.SSLContext:
        """A context for `FakeRegistry` with a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, subject, days=days))
        return context


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
