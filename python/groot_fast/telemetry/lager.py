"""Log lines as Cloud Foundry's lager writes them (contract, section 18.3).

One JSON object a line: ``timestamp`` (seconds, 9 decimals), ``source``, ``message``
(``grootfs.<session>.<session>.<action>``), ``log_level`` (0 debug, 1 info, 2 error, 3 fatal) and ``data``. The newest
original writes ``timestamp`` as RFC 3339 and ``level`` as a word instead: the time format `RFC3339` (the words are those of
lager's own option). Not the standard library's ``logging``: importing it would double the start-up of a warm command.
"""

from __future__ import annotations

import posix
import time

from groot_fast._core import format_json

DEBUG, INFO, ERROR, FATAL = range(4)
WORDS = ("debug", "info", "error", "fatal")
UNIX_EPOCH, RFC3339 = "unix-epoch", "rfc3339"
LEVELS = {"debug": DEBUG, "info": INFO, "error": ERROR, "fatal": FATAL}


def without_passwords(text: str) -> str:
    """``text`` with user and password taken out of the URLs in it: whatever stands between ``://`` and an ``@`` that does not
    begin a digest. Names of images and mirrors come from users and files, and a log is read by others."""
    parts = text.split("://")
    for number, part in enumerate(parts[1:], 1):
        word = part.split('"', 1)[0].split(" ", 1)[0]
        at = word.rfind("@")
        while at >= 0 and word.startswith("sha256:", at + 1):
            at = word.rfind("@", 0, at)
        if at >= 0:
            parts[number] = "..." + part[at:]
    return "://".join(parts)


class Sink:
    """Where lines go: a file descriptor, the lowest level that is written, and the format of times."""

    def __init__(self, fd: int, level: int, time_format: str = UNIX_EPOCH) -> None:
        self.fd = fd
        self.level = level
        self.time_format = time_format

    def write(self, line: str) -> None:
        """Write one line in one call, so that lines of several processes do not mix. A full disk is no reason to fail."""
        try:
            posix.write(self.fd, line.encode() + b"\n")
        except OSError:
            pass

    def close(self) -> None:
        """No more lines will come. stderr is not ours to close."""
        if self.fd != 2:
            posix.close(self.fd)


def open_sink(path: str | None, level: str | None, time_format: str = UNIX_EPOCH) -> Sink:
    """A sink for the options ``--log-file``, ``--log-level`` and ``--log-time-format``. A log file raises `fatal` to `info`.

    Raises OSError where the file cannot be opened.
    """
    number = LEVELS.get((level or "fatal").lower(), FATAL)
    if not path:
        return Sink(2, number, time_format)
    fd = posix.open(path, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC, 0o640)
    return Sink(fd, min(number, INFO) if number == FATAL else number, time_format)


class Logger:
    """A session of the log. Sessions nest; each has a dotted number and data that all its lines carry."""

    def __init__(self, sink: Sink, message: str, session: str = "", data: dict[str, object] | None = None) -> None:
        self._sink = sink
        self._message = message
        self._session = session
        self._data = data or {}
        self._children = 0

    def session(self, name: str, **data: object) -> Logger:
        """A child session."""
        self._children += 1
        number = f"{self._session}.{self._children}" if self._session else str(self._children)
        return Logger(self._sink, f"{self._message}.{name}", number, {**self._data, **data})

    def __enter__(self) -> Logger:
        self.info("starting")
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.error("failed", error)
        self.info("ending")

    def debug(self, action: str, **data: object) -> None:
        """A line for developers."""
        self._write(DEBUG, action, data)

    def info(self, action: str, **data: object) -> None:
        """A line for operators."""
        self._write(INFO, action, data)

    def error(self, action: str, error: BaseException | str, **data: object) -> None:
        """Something failed; ``error`` becomes ``data.error``."""
        self._write(ERROR, action, {"error": str(error), **data})

    def _write(self, level: int, action: str, data: dict[str, object]) -> None:
        if level < self._sink.level:
            return
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        head: dict[str, object] = {"source": "grootfs", "message": f"{self._message}.{action}"}
        if self._sink.time_format == RFC3339:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            head = {"timestamp": f"{stamp}.{nanos:09}Z", "level": WORDS[level], **head}
        else:
            head = {"timestamp": f"{seconds}.{nanos:09}", **head, "log_level": level}
        data = {**self._data, **data, **({"session": self._session} if self._session else {})}
        self._sink.write(without_passwords(format_json({**head, "data": data})))
