"""The server: the HTTP interface, who may use it, and servers that stop, die and are replaced."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import openapi_spec_validator
import pytest

from fake_registry import PASSWORD, USERNAME, FakeRegistry, Fault, Image
from groot_fast.config import KEYS
from groot_fast.server import api
from support.accounts import User
from support.archive import Archive, Layer
from support.command import COMMAND, MIB, Grootfs, Store, kill, wait_for
from support.interruption import SYSTEM_PYTHON
from support.server import Answer, Asked, Server, serving

DOCUMENT = json.loads((Path(api.__file__).parent / "openapi.json").read_bytes())
IMAGES = "/v1/images"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def server(scratch: Path, store: Store) -> Iterator[Server]:
    with serving(scratch, store.path) as running:
        yield running


@pytest.fixture
def url(image: Callable[..., str]) -> str:
    return image(Archive().dir("d").file("d/f", "x" * 1000), Archive().file("g", "y"))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as made:
        yield made


def publish(registry: FakeRegistry) -> Image:
    """An image with one layer of a megabyte."""
    layer = Layer(Archive().file("f", os.urandom(MIB)).tar)
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}"]}}
    return registry.add("app", [layer.blob], "latest", config=json.dumps(config).encode())


def stalled(registry: FakeRegistry) -> Image:
    """An image whose layer never comes to its end."""
    image = publish(registry)
    registry.fault(image.layers[0], Fault(stall_after=1000))
    return image


def held(registry: FakeRegistry) -> tuple[Image, threading.Event]:
    """An image whose layer only comes when the event is set."""
    image, go_on = publish(registry), threading.Event()
    registry.fault(image.layers[0], Fault(hook=lambda _request: not go_on.wait(60)))
    return image, go_on


def pull(server: Server, registry: FakeRegistry, image: Image, image_id: str) -> Asked:
    """Ask for an image of the registry."""
    return server.ask("POST", IMAGES, {"image": image.url, "id": image_id, "insecure_registries": [registry.addr]})


def fetching(server: Server, registry: FakeRegistry, image: Image) -> None:
    """Wait until a layer is asked for."""
    wait_for(lambda: registry.gets(image.layers[0]) and server.metrics()["grootfs_pulls_in_flight"] == 1, "a download")


# -- what it does ------------------------------------------------------------------------------------


def check(server: Server, method: str, path: str, template: str, body: object = None, **headers: str) -> Answer:
    """Do a request and hold status, headers and body of the answer against the description."""
    answer = server.request(method, path, body, **headers)
    operation = DOCUMENT["paths"][template][method.lower()]
    assert str(answer.status) in operation["responses"], answer
    response = operation["responses"][str(answer.status)]
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    assert set(response.get("headers", {})) <= set(answer.headers)
    kind = answer.headers["Content-Type"].partition(";")[0]
    schema = {**response["content"][kind]["schema"], "components": DOCUMENT["components"]}
    jsonschema.validate(answer.json if kind == "application/json" else answer.body.decode(), schema)
    return answer


def test_operations(server: Server, store: Store, url: str, make_store: Callable[..., Store]) -> None:
    one, stats = "/v1/images/{id}", "/v1/images/{id}/stats"
    made = check(server, "POST", IMAGES, IMAGES, {"image": url, "id": "one", "disk_limit_size_bytes": 50 * MIB})
    assert (made.status, made.json["path"]) == (201, f"{store.path}/images/one")
    assert made.json["spec"]["root"]["path"] == str(store.rootfs("one"))
    assert (store.rootfs("one") / "d" / "f").read_text() == "x" * 1000
    total, own = store.stats("one")
    usage = {"disk_usage": {"total_bytes_used": total, "exclusive_bytes_used": own}}
    assert check(server, "GET", f"{IMAGES}/one/stats", stats).json == usage
    assert check(server, "GET", IMAGES, IMAGES).json == {"images": [{"id": "one", "path": f"{store.path}/images/one"}]}
    other = make_store()
    assert check(server, "POST", IMAGES, IMAGES, {"image": url, "id": "two", "store": str(other.path)}).status == 201
    assert other.list() == ["two"] and store.list() == ["one"]
    assert check(server, "DELETE", f"{IMAGES}/two?store={other.path}", one).json == {"id": "two"}
    assert check(server, "DELETE", f"{IMAGES}/one", one).json == {"id": "one"}
    assert check(server, "POST", "/v1/clean", "/v1/clean", {"threshold_bytes": 1e12}).json == {"cleaned": False}
    assert store.volumes() != []
    assert check(server, "POST", "/v1/clean", "/v1/clean").json == {"cleaned": True}
    assert store.volumes() == []


def test_location_of_a_new_image(server: Server, make_store: Callable[..., Store], url: str) -> None:
    other = make_store()
    for image_id, fields in (("one", {}), ("two", {"store": str(other.path)}), ("three ü?#%", {})):
        location = server.create(url, image_id, **fields).headers["Location"]
        assert check(server, "DELETE", location, "/v1/images/{id}").json == {"id": image_id}


def test_refusals(server: Server, store: Store, url: str) -> None:
    one, stats = "/v1/images/{id}", "/v1/images/{id}/stats"
    store.create(url, "one")
    for method, path, template, body, status, message in [
        ("POST", IMAGES, IMAGES, {"image": url, "id": "one"}, 409, "image for id `one` already exists"),
        ("POST", IMAGES, IMAGES, {"image": "oci:///nowhere", "id": "two"}, 422, "Image source doesn't exist"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "a/b"}, 400, "id `a/b` contains invalid characters: `/`"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": ".."}, 400, "id `..` cannot be used"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "a\x94b"}, 400, "contains control characters"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "ü" * 200}, 400, "cannot be used"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "disk_limit_size_bytes": -1}, 400, "disk limit cannot be negative"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "disk_limit_size_bytes": 1 << 63}, 400, "`disk_limit_size_bytes` is larger"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "disk_limit_size_bytes": 1 << 70}, 400, "`disk_limit_size_bytes` is larger"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "disk_limit_size_bytes": 2}, 422, "layers exceed disk quota"),
        ("POST", IMAGES, IMAGES, {"image": url}, 400, "`id` is missing"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": 7}, 400, "`id` must be of type string"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "disk_limit_size_bytes": True}, 400, "must be of type integer"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "uid_mappings": [1]}, 400, "`uid_mappings[]` must be of type string"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "uid_mappings": ["1"] * 1025}, 400, "`uid_mappings` has more than 1024 items"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "uid_mappings": ["0:1:1"]}, 400, "different mapping"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "nonsense": 1}, 400, "unknown field `nonsense`"),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "two", "pull_policy": "never"}, 400, "pull"),
        ("POST", IMAGES, IMAGES, {"image": "x" * 5000, "id": "two"}, 400, "`image` is longer than 4096 characters"),
        ("POST", IMAGES, IMAGES, b"{", 400, "the body is not valid JSON"),
        ("POST", IMAGES, IMAGES, b"[]", 400, "the body is not a JSON object"),
        ("POST", IMAGES, IMAGES, b"x" * (2 << 20), 413, "Request Entity Too Large"),
        ("POST", "/v1/clean", "/v1/clean", {"threshold_bytes": -1}, 400, "negative"),
        ("POST", "/v1/clean", "/v1/clean", {"threshold_bytes": 0.5}, 400, "must be of type integer"),
        ("DELETE", f"{IMAGES}/never", one, None, 404, "Image `never` not found"),
        ("DELETE", f"{IMAGES}/a%2Fb", one, None, 404, "Image `a/b` not found"),
        ("DELETE", f"{IMAGES}/%2Fetc%2Fpasswd", one, None, 400, "is outside store path"),
        ("GET", f"{IMAGES}/never/stats", stats, None, 404, "Image `never` not found"),
    ]:
        answer = check(server, method, path, template, body)
        assert (answer.status, message in answer.json["error"]["message"]) == (status, True), answer
    assert store.list() == ["one"]


def test_a_nul_is_refused_wherever_it_stands(server: Server, url: str) -> None:
    for method, path, template, body in [
        ("POST", IMAGES, IMAGES, {"image": "oci:///a\0b", "id": "one"}),
        ("POST", IMAGES, IMAGES, {"image": "/a\0b", "id": "one"}),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "o\0e"}),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "one", "store": "/a\0b"}),
        ("POST", IMAGES, IMAGES, {"image": url, "id": "one", "insecure_registries": ["a\0b"]}),
        ("POST", "/v1/clean", "/v1/clean", {"ignore_images": ["a\0b"]}),
        ("POST", "/v1/clean?store=%00", "/v1/clean", {}),
        ("GET", f"{IMAGES}?store=/a%00b", IMAGES, None),
        ("GET", f"{IMAGES}/o%00e/stats", "/v1/images/{id}/stats", None),
        ("DELETE", f"{IMAGES}/o%00e", "/v1/images/{id}", None),
    ]:
        answer = check(server, method, path, template, body)
        assert (answer.status, "must not hold a NUL" in answer.json["error"]["message"]) == (400, True), answer
    server.expect(0)


@pytest.mark.parametrize("exists", [False, True])
def test_a_missing_store_is_one_answer(server: Server, scratch: Path, url: str, exists: bool) -> None:
    missing = scratch / "no-store"
    if exists:
        missing.mkdir()
    text = Store(missing).run("create", url, "one").failed().message
    for method, path, template, body in [
        ("POST", IMAGES, IMAGES, {"image": url, "id": "one", "store": str(missing)}),
        ("GET", f"{IMAGES}?store={missing}", IMAGES, None),
        ("GET", f"{IMAGES}/one/stats?store={missing}", "/v1/images/{id}/stats", None),
        ("DELETE", f"{IMAGES}/one?store={missing}", "/v1/images/{id}", None),
        ("POST", "/v1/clean", "/v1/clean", {"store": str(missing)}),
    ]:
        answer = check(server, method, path, template, body)
        assert (answer.status, answer.json["error"]) == (404, {"kind": "StoreNotFound", "message": text, "hint": None})


def test_errors_of_http_are_json_too(server: Server) -> None:
    for method, path, status, kind in [
        ("GET", "/nothing", 404, "NotFound"),
        ("PUT", "/v1/images", 405, "MethodNotAllowed"),
        ("GET", "/v1/clean", 405, "MethodNotAllowed"),
    ]:
        answer = server.request(method, path)
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json; charset=utf-8")
        jsonschema.validate(answer.json, {**DOCUMENT["components"]["schemas"]["Problem"]})
        assert answer.json["error"]["kind"] == kind
        assert ("Allow" in answer.headers) == (status == 405)


def test_errors_have_the_words_of_the_command(server: Server, store: Store, url: str, scratch: Path) -> None:
    store.create(url, "one")
    (scratch / "bad.tar").write_bytes(b"no tar at all" * 100)
    for argv, fields in [
        (["create", url, "one"], {"image": url, "id": "one"}),
        (["create", url, "a/b"], {"image": url, "id": "a/b"}),
        (["create", "oci:///nowhere", "two"], {"image": "oci:///nowhere", "id": "two"}),
        (["create", str(scratch / "none.tar"), "two"], {"image": str(scratch / "none.tar"), "id": "two"}),
        (["create", str(scratch / "bad.tar"), "two"], {"image": str(scratch / "bad.tar"), "id": "two"}),
        (["create", "docker://", "two"], {"image": "docker://", "id": "two"}),
        (["create", "ftp://x/y", "two"], {"image": "ftp://x/y", "id": "two"}),
        (["create", "--disk-limit-size-bytes", "1", url, "two"], {"image": url, "id": "two", "disk_limit_size_bytes": 1}),
    ]:
        said = store.run(*argv).failed().out
        error = server.request("POST", IMAGES, fields).json["error"]
        assert said == error["message"] + (f"\n\nhint: {error['hint']}" if error["hint"] else "") + "\n", argv
    stats = server.request("GET", f"{IMAGES}/never/stats").json["error"]["message"]
    assert store.run("stats", "never").failed().message == stats


def test_a_damaged_store_and_a_defect_are_answers(server: Server, store: Store, url: str) -> None:
    """What the system refuses is one line, as for the command, and the server goes on."""
    (store.path / "images").rename(store.path / "gone")
    (store.path / "images").write_text("a file")
    answer = check(server, "GET", IMAGES, IMAGES)
    assert (answer.status, answer.json["error"]["kind"]) == (500, "StoreError")
    assert store.run("list").failed().message == answer.json["error"]["message"]
    (store.path / "images").unlink()
    (store.path / "gone").rename(store.path / "images")
    server.create(url, "one")


def test_settings_are_the_servers_own(scratch: Path, store: Store, url: str) -> None:
    config = scratch / "grootfs.yml"
    config.write_text(f"store: {store.path}\ncreate: {{without_mount: true}}\n")
    with serving(scratch, store.path, before=["--config", str(config)]) as server:
        server.create(url, "one")
        server.create(url, "two", without_mount=False)
    assert not (store.rootfs("one") / "g").exists() and (store.rootfs("two") / "g").exists()


def test_files_have_the_usual_modes_whatever_the_servers_mask(scratch: Path, store: Store, url: str) -> None:
    server = Server(scratch / "s", store.path, preexec_fn=lambda: os.umask(0o077)).wait()
    server.create(url, "one")
    server.stop()
    store.create(url, "two")
    files = [[path.stat().st_mode for path in (store.image(name), *sorted(store.image(name).iterdir()))] for name in ("one", "two")]
    assert files[0] == files[1]


def test_credentials(server: Server) -> None:
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry)
        fields = {"image": image.url, "id": "one", "insecure_registries": [registry.addr]}
        assert server.request("POST", IMAGES, {**fields, "username": "x", "password": "s3cret-word"}).status in (422, 502)
        server.create(fields.pop("image"), fields.pop("id"), **fields, username=USERNAME, password=PASSWORD)


# -- many at once --------------------------------------------------------------------------------------


def test_sixty_four_callers_at_once(server: Server, store: Store, url: str) -> None:
    store.create(url, "first")
    limit = {"disk_limit_size_bytes": 100 * MIB}
    asked = [server.ask("POST", IMAGES, {"image": url, "id": f"c{number}", **limit}) for number in range(64)]
    assert {one.answer().status for one in asked} == {201}
    assert server.ended("create", "ok") == 64
    assert sorted(store.list()) == sorted(["first", *(f"c{number}" for number in range(64))])
    assert {(store.rootfs(f"c{number}") / "d" / "f").read_text() for number in range(64)} == {"x" * 1000}
    asked = [server.ask("DELETE", f"{IMAGES}/c{number}") for number in range(64)]
    assert {one.answer().status for one in asked} == {200}
    assert store.list() == ["first"]


def test_one_image_is_built_once_for_all_who_ask(server: Server, store: Store, registry: FakeRegistry) -> None:
    image = publish(registry)
    asked = [pull(server, registry, image, f"c{number}") for number in range(16)]
    assert {one.answer().status for one in asked} == {201}
    assert len(registry.gets(image.layers[0])) == 1
    assert server.metrics()["grootfs_built_bytes_total"] == MIB


def test_one_pull_at_a_time_and_nobody_waits_behind_it(scratch: Path, store: Store, registry: FakeRegistry, url: str) -> None:
    store.create(url, "first")
    image = stalled(registry)
    with serving(scratch, store.path, "--max-operations", "1", "--max-pulls", "1") as server:
        first = pull(server, registry, image, "pulled")
        fetching(server, registry, image)
        (scratch / "layer.tar").write_bytes(Archive().file("f", "x").tar)
        second = server.ask("POST", IMAGES, {"image": str(scratch / "layer.tar"), "id": "second"})
        wait_for(lambda: server.metrics()["grootfs_pulls_queued"] == 1, "a second pull that waits")
        for number in range(3):
            server.create(url, f"warm{number}")
        assert server.metrics()["grootfs_pulls_in_flight"] == 1
        first.leave()
        assert second.answer().status == 201
        server.expect(1, "create", "cancelled")


# -- who may ---------------------------------------------------------------------------------------
ASK = """
import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect(sys.argv[1])
asked.sendall(b"DELETE /v1/images/one HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
print(asked.makefile().readline().split()[1])
"""


def test_nobody_but_root_and_the_own_user(server: Server, store: Store, url: str, user: User) -> None:
    store.create(url, "one")
    assert server.socket.stat().st_mode & 0o777 == 0o600
    who = {"user": user.uid, "group": user.gid, "extra_groups": []}
    argv = [SYSTEM_PYTHON, "-c", ASK, str(server.socket)]
    refused = subprocess.run(argv, capture_output=True, text=True, **who)
    assert "PermissionError" in refused.stderr
    server.socket.chmod(0o666)
    assert subprocess.run(argv, capture_output=True, text=True, **who).stdout == "403\n"
    assert store.list() == ["one"]


@pytest.fixture
def users_server(make_store: Callable[..., Store], scratch: Path, user: User) -> Iterator[Server]:
    """A server that an ordinary user runs for a store of its own."""
    store = make_store("--rootless", f"{user.name}:{user.name}")
    place = scratch / "user"
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    with serving(place, store.path, user=user.uid, group=user.gid, extra_groups=[]) as running:
        yield running


def test_root_may_use_a_users_server(users_server: Server, url: str, user: User) -> None:
    users_server.create(url, "one")
    assert users_server.store.rootfs("one").stat().st_uid == user.uid


# -- stops ---------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_stops_its_operation(server: Server, store: Store, registry: FakeRegistry) -> None:
    image = stalled(registry)
    asked = pull(server, registry, image, "one")
    fetching(server, registry, image)
    asked.leave()
    server.expect(1, "create", "cancelled")
    assert not store.image("one").exists()
    registry.heal()
    assert pull(server, registry, image, "one").answer().status == 201


def test_a_client_may_go_away_while_the_manifest_is_asked_for(server: Server, registry: FakeRegistry) -> None:
    image, go_on = publish(registry), threading.Event()
    registry.fault("/manifests/", Fault(hook=lambda _request: not go_on.wait(60)))
    asked = [pull(server, registry, image, f"c{number}") for number in range(2)]
    wait_for(
        lambda: registry.gets("/manifests/") and server.metrics()["grootfs_operations_in_flight"] == 2, "a question and one that waits"
    )
    time.sleep(0.2)  # until the second waits for the answer that the first gets
    for one in reversed(asked):
        one.leave()
    server.expect(2, "create", "cancelled")
    go_on.set()


def test_a_client_may_go_away_while_it_waits_for_its_turn(scratch: Path, store: Store, registry: FakeRegistry) -> None:
    image, go_on = held(registry)
    with serving(scratch, store.path, "--max-pulls", "1") as server:
        first = pull(server, registry, image, "one")
        fetching(server, registry, image)
        (scratch / "layer.tar").write_bytes(Archive().file("f", "x").tar)
        second = server.ask("POST", IMAGES, {"image": str(scratch / "layer.tar"), "id": "two"})
        wait_for(lambda: server.metrics()["grootfs_pulls_queued"] == 1, "a pull that waits")
        third = pull(server, registry, image, "three")
        wait_for(lambda: server.metrics()["grootfs_workers"] == 3, "one that waits for the volume")
        for one in (second, third):
            one.leave()
        server.expect(2, "create", "cancelled")
        assert server.metrics()["grootfs_pulls_queued"] == 0
        go_on.set()
        assert first.answer().status == 201
        server.create(str(scratch / "layer.tar"), "two")
    assert sorted(store.list()) == ["one", "two"]


def test_a_client_of_a_users_server_may_go_away(users_server: Server, registry: FakeRegistry) -> None:
    """The layer is unpacked by another process then, in a user namespace."""
    image = publish(registry)
    registry.fault(image.layers[0], Fault(drip=0.01))
    asked = pull(users_server, registry, image, "one")
    fetching(users_server, registry, image)
    threads = Path(f"/proc/{users_server.process.pid}/task")
    wait_for(lambda: any((thread / "children").read_text() for thread in threads.iterdir()), "a process in a namespace")
    asked.leave()
    users_server.expect(1, "create", "cancelled")
    assert not any((thread / "children").read_text() for thread in threads.iterdir())
    assert not users_server.store.image("one").exists()
    registry.heal()
    assert pull(users_server, registry, image, "one").answer().status == 201


def test_clients_that_go_away_at_once_leave_nothing(server: Server, store: Store, url: str) -> None:
    """Before their turn, at the moment of it, and while the operation runs."""
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    server.create(url, "one")
    before = len(list(descriptors.iterdir()))
    for number in range(200):
        asked = server.ask("POST", IMAGES, {"image": url, "id": f"c{number}"})
        time.sleep(number / 200 * 0.008)
        asked.leave()
    wait_for(lambda: server.metrics()["grootfs_operations_in_flight"] == 0, "the end of the operations")
    wait_for(lambda: len(list(descriptors.iterdir())) <= before, "the end of the connections")
    for image_id in server.request("GET", IMAGES).json["images"]:
        assert (Path(image_id["path"]) / "rootfs" / "g").read_text() == "y"
    assert len(os.listdir(store.path / "images")) == len(store.list())
    server.create(url, "two")


def test_silent_clients_hold_up_nobody_and_no_stop(scratch: Path, store: Store, url: str) -> None:
    with serving(scratch, store.path) as server:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(50)]
        for number, caller in enumerate(silent):
            caller.connect(str(server.socket))
            caller.send(b"POST /v1/clean HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"[:number])
        server.create(url, "one")
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        for caller in silent[:25]:
            caller.close()
        wait_for(lambda: len(list(descriptors.iterdir())) <= before - 25, "the end of the connections")
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    for caller in silent[25:]:
        caller.close()


# -- the life of a server -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_waits_for_what_is_running(scratch: Path, store: Store, registry: FakeRegistry, url: str, number: signal.Signals) -> None:
    image, go_on = held(registry)
    server = Server(scratch / "s", store.path).wait()
    asked = pull(server, registry, image, "slow")
    fetching(server, registry, image)
    standing = http.client.HTTPConnection("grootfs", timeout=60)
    standing.sock = socket.socket(socket.AF_UNIX)
    standing.sock.connect(str(server.socket))
    standing.request("GET", "/healthz")
    assert standing.getresponse().read() == b'{"status":"ok"}'
    kill(server.process, number)
    wait_for(lambda: not server.socket.exists(), "the socket's end")
    assert server.process.poll() is None
    standing.request("POST", IMAGES, json.dumps({"image": url, "id": "late"}))
    refused = standing.getresponse()
    assert (refused.status, b"the server is stopping" in refused.read()) == (503, True)
    standing.close()
    go_on.set()
    assert asked.answer().status == 201
    assert (server.process.wait(60), *server.process.communicate()) == (0, b"", b"")
    assert store.list() == ["slow"]


def test_a_stop_waits_for_those_that_wait_too(scratch: Path, store: Store, registry: FakeRegistry) -> None:
    image, go_on = held(registry)
    server = Server(scratch / "s", store.path, "--max-pulls", "1").wait()
    first = pull(server, registry, image, "one")
    fetching(server, registry, image)
    (scratch / "layer.tar").write_bytes(Archive().file("f", "x").tar)
    second = server.ask("POST", IMAGES, {"image": str(scratch / "layer.tar"), "id": "two"})
    wait_for(lambda: server.metrics()["grootfs_pulls_queued"] == 1, "a pull that waits")
    kill(server.process, signal.SIGTERM)
    wait_for(lambda: not server.socket.exists(), "the socket's end")
    go_on.set()
    assert (first.answer().status, second.answer().status) == (201, 201)
    assert server.process.wait(60) == 0
    server.process.communicate()
    assert sorted(store.list()) == ["one", "two"]


def test_a_second_signal_stops_the_operations_too(scratch: Path, store: Store, registry: FakeRegistry) -> None:
    image = stalled(registry)
    server = Server(scratch / "s", store.path, "--max-pulls", "1").wait()
    asked = [pull(server, registry, image, "one")]
    fetching(server, registry, image)
    (scratch / "layer.tar").write_bytes(Archive().file("f", "x").tar)
    asked.append(server.ask("POST", IMAGES, {"image": str(scratch / "layer.tar"), "id": "two"}))
    wait_for(lambda: server.metrics()["grootfs_pulls_queued"] == 1, "a pull that waits")
    kill(server.process, signal.SIGTERM)
    wait_for(lambda: not server.socket.exists(), "the socket's end")
    kill(server.process, signal.SIGTERM)
    for one in asked:
        answer = one.answer()
        assert (answer.status, answer.json["error"]["kind"]) == (503, "Cancelled")
    assert (server.process.wait(60), *server.process.communicate()) == (0, b"", b"")
    assert store.list() == []


def test_when_the_server_is_killed(scratch: Path, store: Store, registry: FakeRegistry) -> None:
    image = stalled(registry)
    server = Server(scratch / "s", store.path).wait()
    asked = pull(server, registry, image, "one")
    fetching(server, registry, image)
    server.crash()
    with pytest.raises(http.client.RemoteDisconnected):
        asked.answer()
    registry.heal()
    store.create(image.url, "one", "--insecure-registry", registry.addr)
    store.delete("one")
    store.clean()
    assert store.volumes() == [] and store.temporary() == []


def test_only_a_dead_servers_socket_is_taken_over(scratch: Path, store: Store) -> None:
    server = Server(scratch / "s", store.path).wait()
    serve = Grootfs("--socket", str(server.socket))
    assert serve.run("serve").failed().message == f"another server listens on {server.socket}"
    server.crash()
    assert server.socket.is_socket()
    Server(server.socket, store.path).wait().stop()
    assert not server.socket.exists()
    # Somebody who keeps no lock.
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(server.socket))
        other.listen()
        assert serve.run("serve").failed().message == f"another server listens on {server.socket}"
    server.socket.unlink()
    server.socket.write_text("precious")
    assert serve.run("serve").failed().message == f"{server.socket} exists and is no socket; it was not touched"
    assert server.socket.read_text() == "precious"


def test_serve_refuses_what_makes_no_sense(scratch: Path) -> None:
    assert Grootfs().run("serve").failed().message == "no socket to serve on"
    socket_option = Grootfs("--socket", str(scratch / "s"))
    assert socket_option.run("serve", "--max-pulls", "0").failed().message == "invalid --max-pulls: it must be at least 1"
    assert socket_option.run("serve", "x").failed().message == "invalid arguments - usage: serve [options]"
    missing = Grootfs("--socket", str(scratch / "no" / "s")).run("serve").failed()
    assert missing.message == f"open {scratch}/no/s.lock: no such file or directory"


ACTIVATE = """
import os, socket, sys
bound = socket.socket(socket.AF_UNIX)
bound.bind(sys.argv[1])
bound.listen()
os.dup2(bound.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_systemd_hands_over_the_socket_and_is_told(scratch: Path, store: Store) -> None:
    server = Server(scratch / "s", store.path).wait()
    server.stop()  # what is left is only to talk to the other one
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(scratch / "notify"))
        notify.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": str(scratch / "notify")}
        argv = [sys.executable, "-c", ACTIVATE, str(server.socket), COMMAND, "--store", str(store.path), "serve"]
        server.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        assert notify.recv(100) == b"READY=1"
        assert server.request("GET", IMAGES).json == {"images": []}
        server.expect(1, "list", "ok")
        kill(server.process, signal.SIGTERM)
        assert notify.recv(100) == b"STOPPING=1"
    server.stop()
    assert server.socket.exists(), "the socket is systemd's"


# -- what it tells --------------------------------------------------------------------------------------


def test_the_description_is_valid_and_served(server: Server) -> None:
    openapi_spec_validator.validate(DOCUMENT)
    assert server.request("GET", "/openapi.json").json == DOCUMENT


def test_handlers_and_description_name_the_same_operations() -> None:
    described = {
        (method.upper(), path): operation["operationId"] for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
    }
    routes = api.Api(*[None, None, None]).application().router.routes()  # type: ignore[list-item]
    handled = {(route.method, route.resource.canonical): route.handler.__name__.rstrip("_") for route in routes if route.method != "HEAD"}
    assert handled == described


def test_description_and_configuration_name_the_same_settings() -> None:
    for schema, own in (("CreateRequest", {"image", "id", "username", "password"}), ("CleanRequest", set())):
        properties = DOCUMENT["components"]["schemas"][schema]["properties"]
        assert set(properties) - own <= set(api.SETTINGS)
        assert {api.SETTINGS[name] for name in set(properties) - own} <= set(KEYS)


def test_every_value_of_a_request_has_its_bounds() -> None:
    def bounded(schema: dict[str, object]) -> None:
        wanted = {"string": {"maxLength"}, "integer": {"minimum", "maximum"}, "array": {"maxItems", "items"}, "boolean": set()}
        assert wanted[str(schema["type"])] <= set(schema), schema
        if schema["type"] == "string":
            assert "pattern" in schema or "enum" in schema, schema
        if schema["type"] == "array":
            bounded(schema["items"])  # type: ignore[arg-type]

    for name in ("CreateRequest", "CleanRequest"):
        for schema in DOCUMENT["components"]["schemas"][name]["properties"].values():
            bounded(schema)
    for name in ("Id", "Store"):
        bounded(DOCUMENT["components"]["parameters"][name]["schema"])


def test_metrics(server: Server, url: str) -> None:
    server.create(url, "one")
    assert server.request("POST", IMAGES, {"image": url, "id": "one"}).status == 409
    assert server.request("GET", f"{IMAGES}/one/stats").status == 200
    text = check(server, "GET", "/metrics", "/metrics").body.decode()
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} == {
        line.split()[2] for line in text.splitlines() if line.startswith("# HELP")
    }
    samples = server.metrics()
    assert samples['grootfs_operations_total{operation="create",outcome="ok"}'] == 1
    assert samples['grootfs_operations_total{operation="create",outcome="failed"}'] == 1
    assert samples['grootfs_operation_duration_seconds_count{operation="create"}'] == 2
    assert samples['grootfs_operation_duration_seconds_bucket{operation="create",le="+Inf"}'] == 2
    assert 0 < samples['grootfs_operation_duration_seconds_sum{operation="create"}'] < 60
    assert samples["grootfs_operations_in_flight"] == samples["grootfs_operations_queued"] == 0
    assert samples["grootfs_workers"] >= 1
    assert samples["grootfs_built_bytes_total"] == 1001
    assert samples["grootfs_server_filesystem_commits_total"] > 0


def test_prometheus_takes_what_server_and_commands_write(scratch: Path, server: Server, url: str) -> None:
    """Together, as node_exporter reads them: one text of help for a name, and nothing that promtool complains of."""
    file = scratch / "commands.prom"
    commands = Store(server.store.path, "--metrics-file", str(file))
    server.create(url, "one")
    commands.create(url, "two")
    commands.run("stats", "two").ok()
    commands.delete("two")
    commands.clean()
    commands.run("stats", "two").failed()
    text = server.request("GET", "/metrics").body + file.read_bytes()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_lines_of_the_log_name_the_callers_trace(scratch: Path, store: Store, url: str) -> None:
    log = scratch / "log"
    with serving(scratch, store.path, before=["--log-file", str(log), "--log-level", "debug"]) as server:
        server.create(url, "one")
        server.request("DELETE", f"{IMAGES}/one", traceparent=f"00-{TRACE}-{PARENT}-01")
        server.request("GET", f"{IMAGES}/one/stats", traceparent="nonsense")
    traces: dict[str, set[str | None]] = {}
    for line in map(json.loads, log.read_text().splitlines()):
        traces.setdefault(line["message"].split(".")[1], set()).add(line["data"].get("trace-id"))
    assert traces == {"serve": {None}, "create": {None}, "delete": {TRACE}, "stats": {None}}


def test_what_is_no_http_is_a_line_in_the_log(scratch: Path, store: Store) -> None:
    log = scratch / "log"
    with serving(scratch, store.path, before=["--log-file", str(log)]) as server:
        for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/1.1\r\nA: \0\r\n\r\n"):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(server.socket))
                caller.sendall(sent)
                assert caller.recv(1000).startswith(b"HTTP/1.0 400 ")
        assert server.is_healthy()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "grootfs.serve.bad-request" in {line["message"] for line in lines}
