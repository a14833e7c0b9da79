"""The life of a server: socket, HTTP, and a stop that waits for what is running."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import uvloop
from aiohttp import web

from groot_fast.config import Settings
from groot_fast.server.api import Api
from groot_fast.server.listener import BACKLOG, Listener, open_listener
from groot_fast.server.metrics import Metrics
from groot_fast.server.operations import Operations
from groot_fast.telemetry.lager import Logger, divert

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(settings: Settings, log: Logger, *, max_operations: int, max_pulls: int) -> None:
    """Serve until a signal comes, then finish what is running; a second signal stops that too.

    Raises UsageError, StoreError where the socket cannot be had, OSError where the log cannot be opened.
    """
    listener = open_listener(settings.socket)
    os.umask(0o022)  # one for all operations, whatever the server was started with
    uvloop.run(_serve(listener, settings, log, max_operations, max_pulls))


async def _serve(listener: Listener, settings: Settings, log: Logger, max_operations: int, max_pulls: int) -> None:
    operations = Operations(settings, metrics := Metrics(settings.store), max_operations=max_operations, max_pulls=max_pulls)
    api = Api(operations, metrics, log)
    divert("aiohttp", log, "bad-request")
    # A client that goes away stops its operation.
    runner = web.AppRunner(api.application(), handle_signals=False, access_log=None, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            operations.stop_all()
        stop.set()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal)
    server = await loop.create_unix_server(runner.server, sock=listener.socket, backlog=BACKLOG)
    log.info("listening", socket=listener.path)
    _notify("READY=1")
    await stop.wait()
    log.info("stopping")
    _notify("STOPPING=1")
    api.is_stopping = True
    listener.close()
    server.close()
    await operations.drain()
    await runner.cleanup()


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        try:
            notify.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            pass
