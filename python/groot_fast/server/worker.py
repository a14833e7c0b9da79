"""A worker: runs one command after the other, each in its caller's streams, directory, mask and environment.

It runs the same `main` as the command without a server, so that there is nothing that could differ. It is used again
only while it is as it was: a command that failed, pulled, or left a descriptor, a thread or a child behind is its last.
"""

from __future__ import annotations

import _signal as signals  # type: ignore[import-not-found]  # `signal` makes an enumeration of every number, twice a command
import os
import socket
import sys

from groot_fast import interrupts
from groot_fast._core import name_of_command, parse_json
from groot_fast.cli import main as cli
from groot_fast.config import Settings
from groot_fast.errors import Cancelled, GrootError
from groot_fast.groot import Groot
from groot_fast.pull.admission import Admission
from groot_fast.server import messages
from groot_fast.telemetry.lager import Logger, open_sink
from groot_fast.telemetry.metrics import open_metrics

QUICK = ("create", "delete", "stats", "list", "clean")
"""Commands after which a worker may be used again."""

MAX_COMMANDS = 1000
"""After so many a worker ends, so that whatever grows in a process does not grow for ever."""

SIGNALS = (signals.SIGTERM, signals.SIGINT, signals.SIGHUP)
"""What may end a command. Blocked between commands: the server signals a worker while it has a command, and one that was signalled
gets no other, so what arrives before a command has begun is for that command."""

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nGrootfs-Command: %s\r\n\r\n"


class Queued(Admission):
    """Asks the server for leave to pull."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.is_aside = False

    def step_aside(self) -> None:
        """See `Admission`."""
        if not self.is_aside:
            self.is_aside = True
            messages.report(self._channel, "aside")

    def built(self, content: int) -> None:
        """See `Admission`."""
        messages.report(self._channel, "built", bytes=content)

    def __enter__(self) -> None:
        self.step_aside()
        messages.report(self._channel, "pull")
        with interrupts.Waiting():
            messages.receive(self._channel)  # or the end: without a server nobody counts

    def __exit__(self, *_: object) -> None:
        messages.report(self._channel, "pulled")


def run_worker(channel: socket.socket, settings: Settings) -> None:
    """Work for the server at the other end of ``channel`` until it is gone. ``settings`` are those of the server."""
    _hold_signals()
    Worker(channel, settings).run()


class Worker:
    """What is kept from one command to the next."""

    def __init__(self, channel: socket.socket, settings: Settings) -> None:
        self._channel = channel
        self._settings = settings
        self._environment: list[bytes] = []
        # The server's own streams, for the time between commands.
        self._streams = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), os.dup(2)]
        _set_streams(self._streams)
        self._process = os.pidfd_open(os.getpid())
        self._descriptors = _count("/proc/self/fd")

    def run(self) -> None:
        """Until the server is gone, or this process is no longer as it was."""
        socket.send_fds(self._channel, [b'{"event":"ready"}\n'], [self._process])
        for _ in range(MAX_COMMANDS):
            message = messages.receive(self._channel)
            if message is None:
                return
            kind, payload, descriptors = message
            admission = Queued(self._channel)
            if kind == messages.COMMAND:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptors[0])
                name, code = self._run_command(payload, connection, descriptors[1:], admission)
                stays = name in QUICK and code == 0 and self._is_as_it_was(admission)
                messages.report(self._channel, "done", stays=stays, name=name, code=code)
            else:
                done = self._run_operation(payload, admission)
                stays = "error" not in done and self._is_as_it_was(admission)
                messages.report(self._channel, "done", stays=stays, **done)
            if not stays:
                return

    def _is_as_it_was(self, admission: Queued) -> bool:
        """Whether nothing is left of the last command."""
        if admission.is_aside:
            return False
        try:
            os.waitpid(-1, os.WNOHANG)
            return False
        except ChildProcessError:
            return _count("/proc/self/fd") == self._descriptors and _count("/proc/self/task") == 1

    # -- commands of the front -------------------------------------------------

    def _run_command(self, payload: bytes, connection: socket.socket, descriptors: list[int], admission: Queued) -> tuple[str, int]:
        """(name, exit code) of a command."""
        number, _version, _world, mask, count, *fields = payload.split(b"\0")[:-1]
        argv = [os.fsdecode(argument) for argument in fields[: int(count)]]
        code = 1
        try:
            self._become(descriptors, int(mask, 8), fields[int(count) :])
            try:
                # With it the caller knows that the command has begun, and whom to signal once the server is dead. While that lives,
                # this process may already be at work for somebody else.
                socket.send_fds(connection, [HEAD % number], [self._process])
            except OSError:
                raise Cancelled("the caller is gone") from None
            _let_signals_in()
            code = cli.main(argv, admission)
        except Cancelled as error:
            code = error.exit_code
            os.write(1, f"{error}\n".encode())
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            _hold_signals()
            sys.stderr.flush()
            _set_streams(self._streams)
            os.chdir("/")  # or a file system could not be unmounted
        # The caller first: it waits, and the server does not. All that it has given us is closed by now.
        _answer(connection, code)
        return name_of_command(argv), code

    def _become(self, descriptors: list[int], mask: int, environment: list[bytes]) -> None:
        _set_streams(descriptors[:3])
        try:
            os.fchdir(descriptors[3])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        os.umask(mask)
        if environment != self._environment:
            os.environb.clear()
            for variable in environment:
                variable_name, equals, value = variable.partition(b"=")
                if variable_name and equals:
                    os.environb[variable_name] = value
            self._environment = environment

    # -- operations of the API ---------------------------------------------------

    def _run_operation(self, payload: bytes, admission: Queued) -> dict[str, object]:
        """What the operation gave as ``result``, or its ``error``."""
        call = parse_json(payload)
        name, arguments, options = call["name"], call["arguments"], call["options"]
        try:
            _let_signals_in()
            os.umask(0o022)
            settings = self._settings.override(options)
            sink = open_sink(settings.log_file, settings.log_level, settings.log_time_format)
            log = Logger(sink, "grootfs", data={"correlationID": settings.correlation_id or os.urandom(8).hex()}).session(name)
            metrics = open_metrics(settings.metron_endpoint, log, file=settings.metrics_file, store=settings.store)
            metrics.began(name)
            code, failure = 1, ""
            try:
                interrupts.hold()
                groot = Groot(settings, log, None, metrics, admission)
                result = OPERATIONS[name](groot, settings, arguments)
                code = 0
                return {"name": name, "result": result}
            except (GrootError, OSError) as error:
                code, failure = getattr(error, "exit_code", 1), str(error)
                raise
            finally:
                metrics.ended(name, code, failure)
                metrics.close()
        except GrootError as error:
            return {"name": name, "error": {"kind": type(error).__name__, "message": str(error), "hint": error.hint}}
        except OSError as error:
            return {"name": name, "error": {"kind": "StoreError", "message": error.strerror or str(error), "hint": None}}
        finally:
            _hold_signals()


def _create(groot: Groot, settings: Settings, arguments: list[str]) -> object:
    created = groot.create(*arguments)
    if settings.with_clean:
        try:
            groot.clean(on_create=True)
        except Cancelled:
            pass  # the image is made, and that is what was asked for
    groot.report_sizes()
    return {"id": arguments[1], "path": created.path, "spec": created.spec()}


def _delete(groot: Groot, _settings: Settings, arguments: list[str]) -> object:
    return {"id": groot.delete(*arguments)}


def _stats(groot: Groot, _settings: Settings, arguments: list[str]) -> object:
    total, exclusive = groot.stats(*arguments)
    return {"disk_usage": {"total_bytes_used": total, "exclusive_bytes_used": exclusive}}


def _list(groot: Groot, _settings: Settings, _arguments: list[str]) -> object:
    return {"images": [{"id": os.path.basename(path), "path": path} for path in groot.list()]}


def _clean(groot: Groot, _settings: Settings, _arguments: list[str]) -> object:
    return {"cleaned": groot.clean()}


OPERATIONS = {"create": _create, "delete": _delete, "stats": _stats, "list": _list, "clean": _clean}


def _answer(connection: socket.socket, code: int) -> None:
    """Give the caller its exit code."""
    try:
        connection.send(bytes([code]))
    except OSError:
        pass  # the caller is gone
    connection.close()


def _set_streams(descriptors: list[int]) -> None:
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)


def _let_signals_in() -> None:
    """A command begins. Raises Cancelled where a signal has come."""
    cli.catch_signals()
    signals.pthread_sigmask(signals.SIG_UNBLOCK, SIGNALS)


def _hold_signals() -> None:
    """It has ended: nothing is to be stopped."""
    while True:
        try:
            signals.pthread_sigmask(signals.SIG_BLOCK, SIGNALS)
            return
        except Cancelled:
            pass  # came too late


def _count(directory: str) -> int:
    return len(os.listdir(directory))
