"""Log lines as Cloud Foundry's lager writes them (contract, section 18.3): made in the core, for the native commands too.

Not the standard library's ``logging``: one form of line, in one place, for both languages.
"""

from __future__ import annotations

import logging

from groot_fast._core import Logger, Sink, open_sink

__all__ = ["Logger", "Sink", "divert", "open_sink"]


class _ToLog(logging.Handler):
    """Complaints of a library, as errors of ``action`` in our own log: stderr is for its lines."""

    def __init__(self, log: Logger, action: str) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._action = action

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        reason = record.exc_info[1] if record.exc_info else None
        text = record.getMessage().strip()
        self._log.error(self._action, " ".join((f"{text}: {reason}" if reason else text).split()))


def divert(library: str, log: Logger, action: str) -> logging.Logger:
    """Send the complaints of a library's logger there, and nowhere else."""
    logger = logging.getLogger(library)
    logger.handlers[:] = [_ToLog(log, action)]
    logger.propagate = False
    return logger
