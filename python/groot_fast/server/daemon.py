"""The life of a server: socket, workers, HTTP, and a stop that waits for what is running."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket

from groot_fast.config import Settings
from groot_fast.errors import StoreError
from groot_fast.server.listener import Listener, open_listener
from groot_fast.server.zygote import Zygote
from groot_fast.telemetry.lager import Logger


def serve(settings: Settings, log: Logger, *, max_operations: int, max_pulls: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running; a second signal stops that too.

    Raises UsageError, StoreError where the socket cannot be had.
    """
    listener = open_listener(settings.socket)
    zygote = Zygote(listener, settings)
    # After the fork: workers have no use for the server's side of HTTP.
    import uvloop

    uvloop.run(_serve(listener, zygote, settings, log, max_operations, max_pulls))


async def _serve(listener: Listener, zygote: Zygote, settings: Settings, log: Logger, max_operations: int, max_pulls: int) -> None:
    from aiohttp import web

    from groot_fast.server.api import Api
    from groot_fast.server.door import Door
    from groot_fast.server.front import Front
    from groot_fast.server.metrics import Metrics
    from groot_fast.server.pool import Pool

    pool = Pool(zygote, metrics := Metrics(settings.store), max_operations=max_operations, max_pulls=max_pulls)
    front = Front(pool)
    # A client that goes away stops its operation.
    application = Api(pool, metrics, front).application()
    runner = web.AppRunner(application, handle_signals=False, access_log=None, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    door = Door(listener.socket, front, runner.server)
    stop = asyncio.Event()
    broken = False

    def on_signal(number: int) -> None:
        if stop.is_set():
            pool.stop_all(number)
        stop.set()

    def on_zygote_end() -> None:
        nonlocal broken
        loop.remove_reader(zygote.control)
        broken = True
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_reader(zygote.control, on_zygote_end)
    gc.freeze()  # what is there now stays
    log.info("listening", socket=listener.path)
    _notify("READY=1")
    await stop.wait()
    log.info("stopping")
    _notify("STOPPING=1")
    front.is_stopping = True
    door.close()
    listener.close()
    await pool.drain()
    await runner.cleanup()
    loop.remove_reader(zygote.control)
    zygote.close()
    if broken:
        raise StoreError("the process that makes workers ended")


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
