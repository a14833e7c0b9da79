"""The server door: commands through the front, the HTTP interface, and servers that stop, die and are replaced."""

from __future__ import annotations

import json
import os
import re
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

from fake_registry import PASSWORD, USERNAME, FakeRegistry, Fault, Image, basic
from groot_fast.server import api
from groot_fast.server.world import world
from support.accounts import User
from support.archive import Archive, Layer
from support.command import COMMAND, MIB, Grootfs, Store, kill, wait_for
from support.interruption import SYSTEM_PYTHON
from support.server import Answer, Server, serving

DOCUMENT = json.loads((Path(api.__file__).parent / "openapi.json").read_bytes())


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


def stalled(registry: FakeRegistry) -> tuple[Image, list[str]]:
    """An image whose layer never comes to its end, and the arguments that create it."""
    image = publish(registry)
    registry.fault(image.layers[0], Fault(stall_after=1000))
    return image, ["create", "--insecure-registry", registry.addr, image.url]


def held(registry: FakeRegistry) -> tuple[Image, threading.Event]:
    """An image whose layer only comes when the event is set."""
    image, go_on = publish(registry), threading.Event()
    registry.fault(image.layers[0], Fault(hook=lambda _request: not go_on.wait(60)))
    return image, go_on


def fetching(server: Server) -> bool:
    return server.metrics()["grootfs_pulls_in_flight"] == 1


# -- the front --------------------------------------------------------------------------------


def test_commands_say_and_do_the_same_through_the_server(server: Server, store: Store, url: str) -> None:
    served = server.store
    store.create(url, "first")
    total = 0
    for args in [
        ["create", url, "{}"],
        ["create", "--json", "--disk-limit-size-bytes", str(100 * MIB), url, "{}j"],
        ["create", url, "first"],
        ["create", url],
        ["create", "--disk-limit-size-bytes", "1", url, "{}l"],
        ["create", "oci:///nowhere", "{}n"],
        ["create", "--no-such-option"],
        ["stats", "{}"],
        ["delete", "{}"],
        ["delete", "never-there"],
        ["clean"],
        ["--help"],
        ["create", "--help"],
        ["no-such-command"],
        ["--no-such-option"],
        ["--log-level", "info", "--correlation-id", "of the caller", "delete", "{}j"],
    ]:
        one, other = (grootfs.run(*(argument.format(name) for argument in args)) for grootfs, name in ((served, "a"), (store, "b")))
        texts = [
            # Names, numbers and times are each command's own.
            tuple(
                re.sub(r"\bab?([jln]?)\b|\bb([jln]?)\b|\"[0-9.]{15,}\"|duration\":[0-9]+|correlationID\":\"[0-9a-f]+\"", r"<\1\2>", text)
                for text in (result.out, result.err)
            )
            for result in (one, other)
        ]
        assert (one.code, texts[0]) == (other.code, texts[1]), args
        total += 1
    server.expect(total)


def test_streams_directory_mask_and_environment_are_the_callers(server: Server, scratch: Path) -> None:
    (scratch / "layer.tar").write_bytes(Archive().file("f", "x").tar)
    out, err = scratch / "out", scratch / "err"
    argv = [COMMAND, "--socket", str(server.socket), "--store", str(server.store.path), "--log-level", "info"]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        done = subprocess.run([*argv, "create", "layer.tar", "one"], cwd=scratch, stdout=stdout, stderr=stderr)
        assert done.returncode == 0
        argv = [*argv, "--log-file", "log", "create", "layer.tar", "two"]
        done = subprocess.run(argv, cwd=scratch, stdout=stdout, stderr=stderr, preexec_fn=lambda: os.umask(0o077))
    assert out.read_text() == "".join(f"{server.store.path}/images/{name}\n" for name in ("one", "two"))
    assert '"grootfs.create.starting"' in err.read_text()
    assert (scratch / "log").stat().st_mode & 0o777 == 0o600
    server.expect(2, "create", "ok")


def test_credentials_come_from_the_callers_home(server: Server, scratch: Path) -> None:
    with FakeRegistry(auth="basic") as registry:
        image = publish(registry)
        (scratch / ".docker").mkdir()
        token = "dXNlcjpwYXNz"
        (scratch / ".docker" / "config.json").write_text(json.dumps({"auths": {registry.addr: {"auth": token}}}))
        argv = [COMMAND, "--socket", str(server.socket), "--store", str(server.store.path)]
        argv += ["create", "--insecure-registry", registry.addr, image.url, "one"]
        subprocess.run(argv, env={**os.environ, "HOME": str(scratch)}, stdout=subprocess.DEVNULL)
        assert f"Basic {token}" in {request.headers.get("Authorization") for request in registry.seen}


def test_arguments_need_not_be_text(server: Server) -> None:
    done = subprocess.run([COMMAND, "--socket", str(server.socket), "delete", b"\xff\xfe"], capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"Image `\xff\xfe` not found. Skipping delete.\n")
    server.expect(1, "delete", "ok")


def test_output_comes_while_the_command_runs(server: Server, registry: FakeRegistry) -> None:
    _, create = stalled(registry)
    process = Store(server.store.path, *server.store.options[2:], "--log-level", "info").start(*create, "one")
    assert process.stderr is not None
    assert b"grootfs.create.starting" in process.stderr.readline()
    assert process.poll() is None
    kill(process, signal.SIGTERM)
    assert server.store.finish(process).code == 130


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 130, "stopped by signal 15\n"),
        (signal.SIGINT, 130, "stopped by signal 2\n"),
        (signal.SIGHUP, -signal.SIGHUP, ""),
    ],
)
def test_signals_end_a_command_as_without_a_server(
    server: Server, store: Store, registry: FakeRegistry, number: int, code: int, said: str
) -> None:
    image, create = stalled(registry)
    for door in (server.store, store):
        process = door.start(*create, "one")
        wait_for(lambda: registry.gets(image.layers[0]), "a download")
        kill(process, number)
        result = door.finish(process)
        assert (result.code, result.out.endswith(said)) == (code, True), result
        assert not store.image("one").exists()
        registry.seen.clear()
    registry.heal()
    server.store.create(image.url, "one", "--insecure-registry", registry.addr)


def test_a_caller_that_is_killed_stops_its_command(server: Server, store: Store, registry: FakeRegistry) -> None:
    _, create = stalled(registry)
    process = server.store.start(*create, "one")
    wait_for(lambda: fetching(server), "a download")
    kill(process)
    process.communicate()
    wait_for(lambda: server.metrics()["grootfs_operations_in_flight"] == 0, "the end of the command")
    server.expect(1, "create", "cancelled")
    assert not store.image("one").exists()


def test_the_password_is_not_in_the_process_list(server: Server, registry: FakeRegistry) -> None:
    _, create = stalled(registry)
    process = server.store.start(*create[:1], "--username", "joe", "--password", "s3cret-word", *create[1:], "one")
    wait_for(lambda: fetching(server), "a download")
    for pid in (process.pid, *server.family()):
        assert b"s3cret-word" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"joe" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    kill(process, signal.SIGTERM)
    server.store.finish(process)


def test_the_program_has_its_name_and_the_arguments_in_the_process_list(store: Store, registry: FakeRegistry) -> None:
    image, create = stalled(registry)
    process = store.start(*create, "one")
    wait_for(lambda: registry.gets(image.layers[0]), "a download")
    assert Path(f"/proc/{process.pid}/comm").read_text() == "grootfs-program\n"
    _, option, program, *arguments = Path(f"/proc/{process.pid}/cmdline").read_text().removesuffix("\0").split("\0")
    assert option == "-ISXutf8" and program.endswith("/lib/groot_fast/grootfs-program.pyc")
    assert arguments == [*store.options, *create, "one"]
    kill(process, signal.SIGTERM)
    store.finish(process)


def test_the_socket_comes_from_option_variable_or_file(server: Server, scratch: Path) -> None:
    config = scratch / "grootfs.yml"
    config.write_text(f"store: {server.store.path}\nsocket: {server.socket}\n")
    nowhere = str(scratch / "nowhere")
    environment = {"PATH": os.environ["PATH"]}
    for count, (options, variables) in enumerate(
        [
            (["--socket", str(server.socket)], {"GROOTFS_SOCKET": nowhere}),
            ([], {"GROOTFS_SOCKET": str(server.socket)}),
            (["--config", str(config)], {}),
        ],
        start=1,
    ):
        subprocess.run([COMMAND, *options, "list"], env={**environment, **variables}, capture_output=True)
        server.expect(count, "list")
    for options in (["--socket", nowhere], ["--socket", str(config)], []):
        done = subprocess.run([COMMAND, *options, "--store", str(server.store.path), "list"], env=environment, capture_output=True)
        assert (done.returncode, done.stdout) == (0, b"Store empty\n")
    server.expect(3, "list")


def test_a_caller_in_other_namespaces_runs_by_itself(server: Server) -> None:
    argv = ["unshare", "--mount", COMMAND, "--socket", str(server.socket), "--store", str(server.store.path), "list"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Store empty\n", "")
    server.expect(0)


def test_what_no_server_takes_runs_as_if_there_had_been_none(server: Server, scratch: Path) -> None:
    """In the other namespaces of the caller the program needs its password again, and its signals."""
    argv = ["unshare", "--mount", COMMAND, "--socket", str(server.socket), "--store", str(server.store.path), "create"]
    with FakeRegistry(auth="basic") as registry:
        image, create = stalled(registry)
        registry.seen.clear()
        argv += ["--username", USERNAME, "--password", "first", f"--password={PASSWORD}", *create[1:], "one"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
            wait_for(lambda: registry.gets(image.layers[0]), "a download")
            kill(process, signal.SIGTERM)
            assert process.stdout is not None
            assert (process.stdout.read(), process.wait()) == (b"stopped by signal 15\n", 130)
        assert basic() in {request.headers.get("Authorization") for request in registry.seen}
    server.expect(0)


def test_a_signal_ends_a_caller_that_nobody_has_taken_yet(server: Server, url: str) -> None:
    kill(server.process, signal.SIGSTOP)
    process = server.store.start("create", url, "one")
    wait_for(lambda: "S (sleeping)" in Path(f"/proc/{process.pid}/status").read_text(), "a caller that waits")
    kill(process, signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    kill(server.process, signal.SIGCONT)
    process.communicate()
    server.store.create(url, "two")
    assert server.store.list() in (["two"], ["one", "two"])  # it had been sent; whether it began is the server's business


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_closed_streams(server: Server, store: Store, url: str, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    for number, options in enumerate((["--socket", str(server.socket)], [])):
        argv = [COMMAND, *options, "--store", str(store.path), "create", url, f"c{number}"]
        assert subprocess.run(argv, preexec_fn=close).returncode == 0
    assert sorted(store.list()) == ["c0", "c1"]
    server.expect(1)


def call(*arguments: str) -> bytes:
    """A call of the front, up to its descriptors."""
    fields = ["2", world(), "22", str(len(arguments)), *arguments]
    body = "".join(f"{field}\0" for field in fields).encode()
    return b"POST /v1/commands HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_calls_and_requests_may_come_in_pieces(server: Server) -> None:
    data = call("--store", str(server.store.path), "list")
    place = os.open("/", os.O_PATH)
    for pieces, expected in (
        ([data[:5], data[5:60], data[60:]], b"HTTP/1.1 101 "),
        ([b"P", b"OST /v1/clean HTTP/1.1\r\nHost: x\r\nConne", b"ction: close\r\n\r\n"], b"HTTP/1.1 200 "),
        ([b"POST /v1/commands HTTP/1.1\r\n\r\n"], b"HTTP/1.1 400 "),
        ([b"POST /v1/commands HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"], b"HTTP/1.1 400 "),
        ([b"POST /v1/commands HTTP/1.1\r\n" + 5000 * b"x"], b"HTTP/1.1 400 "),
    ):
        with socket.socket(socket.AF_UNIX) as caller, open(os.devnull, "r+b") as nothing:
            caller.connect(str(server.socket))
            for number, piece in enumerate(pieces):
                socket.send_fds(caller, [piece], [nothing.fileno()] * 3 + [place] if number == 0 else [])
                time.sleep(0.05)
            assert caller.recv(1000).startswith(expected)
    os.close(place)
    server.expect(1, "list", "ok")


def test_callers_that_go_away_at_once_leave_nothing(server: Server, url: str) -> None:
    """Before their turn, at the moment of it, and while the command runs."""
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    server.store.create(url, "one")
    before = len(list(descriptors.iterdir()))
    data, place = call("--store", str(server.store.path), "stats", "one"), os.open("/", os.O_PATH)
    with open(os.devnull, "r+b") as nothing:
        for number in range(200):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(server.socket))
                socket.send_fds(caller, [data], [nothing.fileno()] * 3 + [place])
                time.sleep(number / 200 * 0.004)
    os.close(place)
    wait_for(lambda: server.metrics()["grootfs_operations_in_flight"] == 0, "the end of the commands")
    workers = server.metrics()["grootfs_workers"]  # each is a channel and a process
    wait_for(lambda: len(list(descriptors.iterdir())) <= before + 2 * workers, "the end of the connections")

    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    used = ticks()
    time.sleep(0.3)
    assert ticks() - used < 5
    server.store.create(url, "two")


def test_silent_callers_hold_up_nobody_and_no_stop(scratch: Path, store: Store, url: str) -> None:
    with serving(scratch, store.path) as server:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(50)]
        for number, caller in enumerate(silent):
            caller.connect(str(server.socket))
            caller.send(call("list")[:number])
        server.store.create(url, "one")
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        for caller in silent[:25]:
            caller.close()
        wait_for(lambda: len(list(descriptors.iterdir())) == before - 25, "the end of the connections")
    for caller in silent[25:]:
        caller.close()


def test_sixty_four_callers_at_once(server: Server, store: Store, url: str) -> None:
    store.create(url, "first")
    running = [server.store.start("create", "--disk-limit-size-bytes", str(100 * MIB), url, f"c{number}") for number in range(64)]
    for process in running:
        server.store.finish(process).ok()
    server.expect(64, "create", "ok")
    assert sorted(server.store.list()) == sorted(["first", *(f"c{number}" for number in range(64))])
    assert {(store.rootfs(f"c{number}") / "d" / "f").read_text() for number in range(64)} == {"x" * 1000}
    running = [server.store.start("delete", f"c{number}") for number in range(64)]
    for process in running:
        server.store.finish(process).ok()
    assert server.store.list() == ["first"]


def test_one_pull_at_a_time_and_nobody_waits_behind_it(scratch: Path, store: Store, registry: FakeRegistry, url: str) -> None:
    store.create(url, "first")
    _, create = stalled(registry)
    with serving(scratch, store.path, "--max-operations", "1", "--max-pulls", "1") as server:
        pulls = [server.store.start(*create, "pulled")]
        wait_for(lambda: fetching(server), "a download")
        (scratch / "layer.tar").write_bytes(Archive().file("f", "x").tar)
        pulls.append(server.store.start("create", scratch / "layer.tar", "second"))
        wait_for(lambda: server.metrics()["grootfs_pulls_queued"] == 1, "a second pull that waits")
        for number in range(3):
            server.store.create(url, f"warm{number}")
        assert server.metrics()["grootfs_pulls_in_flight"] == 1
        kill(pulls[0], signal.SIGTERM)
        assert server.store.finish(pulls[0]).code == 130
        server.store.finish(pulls[1]).ok()


# -- who may ---------------------------------------------------------------------------------------

ASK = """
import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect(sys.argv[1])
asked.sendall(b"DELETE /v1/images/one HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
print(asked.makefile().readline().split()[1])
"""


def test_nobody_but_root_and_the_own_user(server: Server, url: str, user: User) -> None:
    server.store.create(url, "one")
    assert server.socket.stat().st_mode & 0o777 == 0o600
    who = {"user": user.uid, "group": user.gid, "extra_groups": []}
    argv = [SYSTEM_PYTHON, "-c", ASK, str(server.socket)]
    refused = subprocess.run(argv, capture_output=True, text=True, **who)
    assert "PermissionError" in refused.stderr
    server.socket.chmod(0o666)
    assert subprocess.run(argv, capture_output=True, text=True, **who).stdout == "403\n"
    assert server.store.list() == ["one"]


def test_another_user_runs_by_itself(server: Server, make_store: Callable[..., Store], url: str, user: User) -> None:
    server.socket.chmod(0o666)
    own = Store(make_store("--rootless", f"{user.name}:{user.name}").path, "--socket", str(server.socket), uid=user.uid)
    rootfs = own.create(url, "one")
    assert rootfs.stat().st_uid == user.uid
    server.expect(0)


def test_root_may_use_a_users_server(make_store: Callable[..., Store], scratch: Path, url: str, user: User) -> None:
    store = make_store("--rootless", f"{user.name}:{user.name}")
    place = scratch / "user"
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    server = Server(place / "s", store.path, user=user.uid, group=user.gid, extra_groups=[]).wait()
    answer = server.request("POST", "/v1/images", {"image": url, "id": "one"})
    assert answer.status == 201, answer
    assert store.rootfs("one").stat().st_uid == user.uid
    # The front does not: without a server root would do this as root.
    Store(store.path, "--socket", str(server.socket)).create(url, "two")
    server.expect(1)
    Store(store.path, "--socket", str(server.socket), uid=user.uid).create(url, "three")
    server.expect(2)
    server.stop()


LISTEN = """
import socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("ready", flush=True)
print(listening.accept()[0].recv(9))
"""


def test_nothing_is_told_to_somebody_elses_server(scratch: Path, store: Store, user: User) -> None:
    place = scratch / "user"
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    argv = [SYSTEM_PYTHON, "-c", LISTEN, str(place / "s")]
    with subprocess.Popen(argv, user=user.uid, group=user.gid, extra_groups=[], stdout=subprocess.PIPE) as listening:
        assert listening.stdout is not None
        listening.stdout.readline()
        done = Store(store.path, "--socket", str(place / "s")).run("list").ok()
        assert done.out == "Store empty\n"
        assert listening.stdout.readline() == b"b''\n"


# -- the life of a server -----------------------------------------------------------------------------


def test_a_stop_waits_for_what_is_running(scratch: Path, store: Store, registry: FakeRegistry, url: str) -> None:
    image, go_on = held(registry)
    server = Server(scratch / "s", store.path).wait()
    process = server.store.start("create", "--insecure-registry", registry.addr, image.url, "slow")
    wait_for(lambda: fetching(server), "a download")
    kill(server.process, signal.SIGTERM)
    wait_for(lambda: not server.socket.exists(), "the socket's end")
    assert server.process.poll() is None
    # Nobody listens any more, so this one is run by the program.
    server.store.create(url, "meanwhile")
    go_on.set()
    server.store.finish(process).ok()
    server.stop()
    assert sorted(store.list()) == ["meanwhile", "slow"]


def test_a_second_signal_stops_the_commands_too(scratch: Path, store: Store, registry: FakeRegistry) -> None:
    _, create = stalled(registry)
    server = Server(scratch / "s", store.path).wait()
    process = server.store.start(*create, "one")
    wait_for(lambda: fetching(server), "a download")
    kill(server.process, signal.SIGTERM)
    wait_for(lambda: not server.socket.exists(), "the socket's end")
    server.stop()
    assert server.store.finish(process).code == 130
    assert store.list() == []


def test_a_command_survives_the_death_of_the_server(scratch: Path, store: Store, registry: FakeRegistry, url: str) -> None:
    image, go_on = held(registry)
    server = Server(scratch / "s", store.path).wait()
    create = ["create", "--insecure-registry", registry.addr, image.url]
    finishing, leaving = (server.store.start(*create, name) for name in ("one", "two"))
    wait_for(lambda: server.metrics()["grootfs_operations_in_flight"] == 2 and fetching(server), "a download")
    server.crash()
    # The dead server's socket is still there: the program does the work.
    server.store.create(url, "three")
    # Signals reach the worker all the same.
    kill(leaving, signal.SIGTERM)
    assert server.store.finish(leaving).code == 130
    go_on.set()
    assert server.store.finish(finishing).ok().out == f"{store.path}/images/one\n"
    assert store.list() == ["one", "three"]


def test_when_everything_of_the_server_is_killed(scratch: Path, store: Store, registry: FakeRegistry) -> None:
    image, create = stalled(registry)
    server = Server(scratch / "s", store.path).wait()
    process = server.store.start(*create, "one")
    wait_for(lambda: fetching(server), "a download")
    for pid in server.family():
        os.kill(pid, signal.SIGKILL)
    server.process.communicate()
    result = server.store.finish(process)
    assert (result.code, result.out) == (1, "the grootfs server ended before the command did; run the command again\n")
    registry.heal()
    server.store.create(image.url, "one", "--insecure-registry", registry.addr)
    store.delete("one")
    store.clean()
    assert store.volumes() == [] and store.temporary() == []


def test_a_worker_that_dies_is_replaced(server: Server, url: str) -> None:
    server.store.create(url, "one")
    for pid in server.family()[2:]:
        os.kill(pid, signal.SIGKILL)
    for number in range(3):
        server.store.create(url, f"c{number}")
    server.expect(4, "create", "ok")


def test_a_worker_is_used_again_after_every_quick_command(server: Server, url: str) -> None:
    server.store.create(url, "cold")  # by a worker that steps aside, and ends
    server.store.create(url, "one")
    (worker,) = server.family()[2:]
    server.store.run("stats", "one").ok()
    server.store.run("list").ok()
    server.store.delete("one")
    server.store.clean()
    server.store.create(url, "two")
    assert server.family()[2:] == [worker]
    server.store.run("delete-store").ok()
    wait_for(lambda: worker not in server.family(), "a worker that ends after any other")


def test_a_server_whose_zygote_dies_ends(scratch: Path, store: Store) -> None:
    server = Server(scratch / "s", store.path, log_level="fatal").wait()
    os.kill(server.family()[1], signal.SIGKILL)
    out, _ = server.process.communicate(timeout=60)
    assert (server.process.returncode, out) == (1, b"the process that makes workers ended\n")
    assert not server.socket.exists()


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
        assert server.store.run("list").ok().out == "Store empty\n"
        server.expect(1, "list", "ok")
        kill(server.process, signal.SIGTERM)
        assert notify.recv(100) == b"STOPPING=1"
    server.stop()
    assert server.socket.exists(), "the socket is systemd's"


# -- the HTTP interface ---------------------------------------------------------------------------------


def test_the_description_is_valid_and_served(server: Server) -> None:
    openapi_spec_validator.validate(DOCUMENT)
    assert server.request("GET", "/openapi.json").json == DOCUMENT


def test_handlers_and_description_name_the_same_operations() -> None:
    described = {
        (method.upper(), path): operation["operationId"] for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
    }
    routes = api.Api(*[None, None, None]).application().router.routes()  # type: ignore[list-item]
    handled = {(route.method, route.resource.canonical): route.handler.__name__.rstrip("_") for route in routes if route.method != "HEAD"}
    # The front's calls never get as far as aiohttp.
    handled["POST", "/v1/commands"] = "command"
    assert handled == described


def test_description_and_configuration_name_the_same_settings() -> None:
    for schema, own in (("CreateRequest", {"image", "id", "username", "password"}), ("CleanRequest", set())):
        properties = DOCUMENT["components"]["schemas"][schema]["properties"]
        assert set(properties) - own <= set(api.SETTINGS)
        assert {one["type"] for one in properties.values()} <= {*api.TYPES, "array"}


def check(server: Server, method: str, path: str, template: str, body: object = None) -> Answer:
    """Do a request and hold status and body of the answer against the description."""
    answer = server.request(method, path, body)
    operation = DOCUMENT["paths"][template][method.lower()]
    assert str(answer.status) in operation["responses"], answer
    content = operation["responses"][str(answer.status)]["content"]
    kind = answer.headers["Content-Type"].partition(";")[0]
    schema = {**content[kind]["schema"], "components": DOCUMENT["components"]}
    jsonschema.validate(answer.json if kind == "application/json" else answer.body.decode(), schema)
    return answer


def test_operations(server: Server, store: Store, url: str, make_store: Callable[..., Store]) -> None:
    images, one, stats = "/v1/images", "/v1/images/{id}", "/v1/images/{id}/stats"
    made = check(server, "POST", images, images, {"image": url, "id": "one", "disk_limit_size_bytes": 50 * MIB})
    assert (made.status, made.json["path"]) == (201, f"{store.path}/images/one")
    assert made.json["spec"]["root"]["path"] == str(store.rootfs("one"))
    assert (store.rootfs("one") / "d" / "f").read_text() == "x" * 1000
    total, own = store.stats("one")
    usage = {"disk_usage": {"total_bytes_used": total, "exclusive_bytes_used": own}}
    assert check(server, "GET", f"{images}/one/stats", stats).json == usage
    assert check(server, "GET", images, images).json == {"images": [{"id": "one", "path": f"{store.path}/images/one"}]}
    other = make_store()
    assert check(server, "POST", images, images, {"image": url, "id": "two", "store": str(other.path)}).status == 201
    assert other.list() == ["two"] and store.list() == ["one"]
    assert check(server, "DELETE", f"{images}/two?store={other.path}", one).json == {"id": "two"}
    assert check(server, "DELETE", f"{images}/one", one).json == {"id": "one"}
    assert check(server, "POST", "/v1/clean", "/v1/clean", {"threshold_bytes": 1 << 40}).json == {"cleaned": False}
    assert store.volumes() != []
    assert check(server, "POST", "/v1/clean", "/v1/clean").json == {"cleaned": True}
    assert store.volumes() == []


def test_refusals(server: Server, url: str) -> None:
    images, one, stats = "/v1/images", "/v1/images/{id}", "/v1/images/{id}/stats"
    server.store.create(url, "one")
    for method, path, template, body, status, message in [
        ("POST", images, images, {"image": url, "id": "one"}, 409, "image for id `one` already exists"),
        ("POST", images, images, {"image": "oci:///nowhere", "id": "two"}, 422, "Image source doesn't exist"),
        ("POST", images, images, {"image": url, "id": "a/b"}, 500, "id `a/b` contains invalid characters: `/`"),
        ("POST", images, images, {"image": url, "id": "two", "disk_limit_size_bytes": -1}, 400, "disk limit cannot be negative"),
        ("POST", images, images, {"image": url, "id": "two", "disk_limit_size_bytes": 2}, 422, "layers exceed disk quota"),
        ("POST", images, images, {"image": url}, 400, "`id` is missing"),
        ("POST", images, images, {"image": url, "id": 7}, 400, "`id` must be of type string"),
        ("POST", images, images, {"image": url, "id": "two", "disk_limit_size_bytes": True}, 400, "must be of type integer"),
        ("POST", images, images, {"image": url, "id": "two", "uid_mappings": [1]}, 400, "`uid_mappings` must be of type array"),
        ("POST", images, images, {"image": url, "id": "two", "nonsense": 1}, 400, "unknown field `nonsense`"),
        ("POST", images, images, b"{", 400, "the body is not valid JSON"),
        ("POST", images, images, b"[]", 400, "the body is not a JSON object"),
        ("DELETE", f"{images}/never", one, None, 404, "Image `never` not found"),
        ("GET", f"{images}/never/stats", stats, None, 404, "Image `never` not found"),
        ("GET", f"{images}?store=/nowhere", images, None, 500, "Failed to retrieve list of images"),
        ("POST", "/v1/commands", "/v1/commands", b"9\0x\0", 400, "another version of the call"),
        ("POST", "/v1/commands", "/v1/commands", b"2\0x\0", 421, "the caller lives in other namespaces, or below another root"),
        ("POST", "/v1/commands", "/v1/commands", f"2\0{world()}\0".encode(), 400, "a call brings its streams and its directory along"),
        ("POST", "/v1/commands/7/signal", "/v1/commands/{number}/signal", {"signal": 15}, 404, "no such command is running"),
        ("POST", "/v1/commands/7/signal", "/v1/commands/{number}/signal", {"signal": 9}, 400, "signal 9 cannot be passed on"),
    ]:
        answer = check(server, method, path, template, body)
        assert (answer.status, message in answer.json["error"]["message"]) == (status, True), answer
    assert server.store.list() == ["one"]


def test_a_client_that_goes_away_stops_its_operation(server: Server, store: Store, registry: FakeRegistry) -> None:
    image, _ = stalled(registry)
    body = json.dumps({"image": image.url, "id": "one", "insecure_registries": [registry.addr]}).encode()
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(server.socket))
        asked.sendall(b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        wait_for(lambda: fetching(server), "a download")
    server.expect(1, "create", "failed")
    assert not store.image("one").exists()


def test_metrics(server: Server, url: str) -> None:
    server.store.create(url, "one")
    server.store.run("create", url, "one").failed()
    server.store.run("stats", "one").ok()
    server.expect(3)
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
    assert samples["grootfs_built_bytes_total"] == 1001
    assert samples["grootfs_filesystem_commits_total"] > 0
    # A word that is no command is not made a label.
    subprocess.run([COMMAND, "--socket", str(server.socket), 'x"y'], capture_output=True)
    server.expect(1, "unknown", "failed")
