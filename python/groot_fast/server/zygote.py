"""A process with everything imported and one thread, which forks workers.

Forked before the server starts its event loop: a fork of a process with threads or a running loop inherits their locks. A
worker of this one is up in a few milliseconds, and a pull in it need not import the network.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from importlib import import_module

from groot_fast.config import Settings
from groot_fast.server import messages
from groot_fast.server.listener import Listener

PRELOADED = (
    "groot_fast.idmap.namespace",
    "groot_fast.pull.builder",
    "groot_fast.pull.downloads",
    "groot_fast.server.worker",
    "groot_fast.sources.docker",
    "groot_fast.sources.local",
    "groot_fast.sources.oci",
    "groot_fast.sources.registry.client",
    "groot_fast.groot",
    "pathlib",
    "shutil",
)


class Zygote:
    """The server's handle on the process."""

    def __init__(self, listener: Listener, settings: Settings) -> None:
        """Fork it. It does not keep the server's ``listener``; its workers work with the server's ``settings``."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            # Never back into the server's code.
            try:
                self.control.close()
                listener.forget()
                _fork_on_demand(theirs, settings)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(0)
        theirs.close()

    def spawn(self) -> socket.socket:
        """The channel to a new worker. Raises OSError where the process is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"."], [theirs.fileno()])
        return ours

    def close(self) -> None:
        """Let it end. Workers at work finish."""
        self.control.close()


def _fork_on_demand(control: socket.socket, settings: Settings) -> None:
    # A signal to the server's terminal is for the server, which knows what to do about its workers.
    os.setsid()
    for name in PRELOADED:
        import_module(name)
    # What there is now stays: keep the collector from touching, and so copying, the pages of all of it.
    gc.collect()
    gc.freeze()
    # The kernel reaps: nobody asks how a worker ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors = messages.receive_some(control, 1)
        if not data:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            from groot_fast.server.worker import run_worker

            run_worker(socket.socket(fileno=descriptors[0]), settings)
            os._exit(0)
        os.close(descriptors[0])
