"""From argv to an exit code.

Messages for people go to stdout, errors too: Garden shows an operator what a plugin printed there. stderr is for log
lines (contract, section 5).
"""

from __future__ import annotations

import _signal as signals  # type: ignore[import-not-found]  # `signal` would import `enum`, a fifth of a warm command's start
import posix
import sys

from groot_fast import __version__, files, interrupts
from groot_fast._core import hide_in_arguments
from groot_fast.cli.commands import COMMANDS, GLOBALS, Command, Request
from groot_fast.cli.flags import BadFlag, Flag, HelpWanted, Value, parse
from groot_fast.config import Settings, load
from groot_fast.errors import Cancelled, GrootError, UsageError
from groot_fast.telemetry.lager import Logger, Sink, open_sink
from groot_fast.telemetry.metrics import open_metrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from groot_fast.pull.admission import Admission

UNKNOWN_COMMAND = 3
MAX_PASSWORD = 64 << 10


def run() -> NoReturn:
    """What the installed command runs. Ends at once: taking the interpreter apart takes as long as a warm command."""
    code = main()
    sys.stderr.flush()
    posix._exit(code)


def main(argv: list[str] | None = None, admission: Admission | None = None) -> int:
    """Run one command; gives the exit code. A server bounds pulls by ``admission``."""
    catch_signals()
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv, admission)
    except BrokenPipeError:
        return 1
    except Cancelled as error:
        return error.exit_code  # while the result was printed or counted


def catch_signals() -> None:
    """From here on SIGTERM and SIGINT raise `Cancelled`; once a command is at work, where it waits (`interrupts`)."""
    interrupts.forget()
    # a caller that ignores it would take from us how helpers ended
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)
    signals.signal(signals.SIGTERM, _stop)
    signals.signal(signals.SIGINT, _stop)


def _stop(number: int, _frame: object) -> None:
    # Once: a second signal must not interrupt the clearing up. SIGKILL is there for the impatient. Not SIG_IGN: the
    # interpreter complains of a signal that was on its way.
    signals.signal(signals.SIGTERM, _ignore)
    signals.signal(signals.SIGINT, _ignore)
    interrupts.arrive(number)


def _ignore(_number: int, _frame: object) -> None:
    pass


def _dispatch(argv: list[str], admission: Admission | None) -> int:
    try:
        given, rest = parse(argv, (*GLOBALS, VERSION, VERSION_SHORT), stop_at_command=True)
    except HelpWanted:
        return _show_app_help()
    except BadFlag as error:
        return _incorrect_usage(None, error)
    if "version" in given or "v" in given:
        return _say(f"grootfs version {__version__}")
    if not rest or rest[0] in ("help", "h"):
        return _show_help_of(rest[1] if len(rest) > 1 else None)
    command = _find(rest[0])
    if command is None:
        _say(f"No help topic for '{rest[0]}'")
        return UNKNOWN_COMMAND
    return _run(command, given, rest[1:], admission)


VERSION = Flag("version", 2, "print the version")
VERSION_SHORT = Flag("v", 2, "print the version")


def name_of_command(argv: list[str]) -> str:
    """The name of the command that ``argv`` calls, or nothing where it calls none."""
    try:
        _, rest = parse(argv, (*GLOBALS, VERSION, VERSION_SHORT), stop_at_command=True)
    except (HelpWanted, BadFlag):
        return ""
    return rest[0] if rest and _find(rest[0]) is not None else ""


def _find(name: str) -> Command | None:
    return next((command for command in COMMANDS if command.name == name), None)


def _run(command: Command, given_globals: dict[str, Value], argv: list[str], admission: Admission | None) -> int:
    try:
        given, positional = parse(argv, command.flags, stop_at_command=False)
    except HelpWanted:
        return _show_help_of(command.name)
    except BadFlag as error:
        return _incorrect_usage(command, error)
    _hide_password(given)
    try:
        _read_password(given)
        settings = _settings(command, given_globals, given)
        sink = _open_sink(settings)
    except GrootError as error:
        # Before the command starts: message, help, and the message once more on stderr.
        _say(f"{error}\n")
        _show_app_help()
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    # One id for all lines of a command, the caller's where it has one: to find what belongs together in the logs of a cell.
    log = Logger(sink, "grootfs", data={"correlationID": settings.correlation_id or posix.urandom(8).hex()}).session(command.name)
    log.info("starting")
    log.debug("config", config=settings.public())
    metrics = open_metrics(settings.metron_endpoint, log, file=settings.metrics_file, store=settings.store)
    metrics.began(command.name)
    code, failure = 1, ""
    interrupts.hold()
    try:
        text = command.run(Request(settings, given, positional, log, metrics, admission))
        code = 0
    except GrootError as error:
        code, failure = error.exit_code, str(error)
        text = f"{error}\n\nhint: {error.hint}" if error.hint else failure
        log.error("failed", error)
    except OSError as error:
        # The store may be damaged or full in any way; that is no reason for a traceback.
        text = error.strerror or str(error)
        if error.filename is not None:
            from os import fsdecode  # text or bytes

            text = f"{fsdecode(error.filename)}: {text.lower()}"
        failure = text
        log.error("failed", text)
    finally:
        log.info("ending")
        metrics.ended(command.name, code, failure)
    try:
        if text:
            _say(text)
    finally:
        # The caller has its answer; a metrics file that is busy holds up nobody but us.
        metrics.close()
        sink.close()
    return code


def _hide_password(given: dict[str, Value]) -> None:
    password = given.get("password")
    if isinstance(password, str) and password:
        hide_in_arguments(files.encode(password))


def _read_password(given: dict[str, Value]) -> None:
    """The first line of stdin, for ``--password-stdin``. Raises UsageError."""
    if not given.pop("password-stdin", False):
        return
    if "password" in given:
        raise UsageError("--password and --password-stdin exclude each other")
    data = b""
    while b"\n" not in data and len(data) <= MAX_PASSWORD:
        part = posix.read(0, MAX_PASSWORD)
        if not part:
            break
        data += part
    password = data.split(b"\n", 1)[0].removesuffix(b"\r")
    if not password or len(password) > MAX_PASSWORD:
        raise UsageError("no password came on stdin" if not password else "the password on stdin is too long")
    given["password"] = files.decode(password)


def _open_sink(settings: Settings) -> Sink:
    try:
        return open_sink(settings.log_file, settings.log_level, settings.log_time_format)
    except OSError as error:
        raise GrootError(f"open {settings.log_file}: {(error.strerror or 'error').lower()}") from None


def _settings(command: Command, given_globals: dict[str, Value], given: dict[str, Value]) -> Settings:
    options: dict[str, Value] = {"correlation_id": files.variable("GROOTFS_CORRELATION_ID")}
    for flags, values in ((GLOBALS, given_globals), (command.flags, given)):
        for flag in flags:
            if flag.name in values and values[flag.name] != "":
                options[flag.setting] = values[flag.name]
    # For these the option counts when it is there, whatever its value (contract, section 2).
    for names, setting, value in (
        (("with-clean", "clean"), "with_clean", True),
        (("without-clean", "no-clean"), "with_clean", False),
        (("with-mount",), "without_mount", False),
        (("without-mount",), "without_mount", True),
    ):
        if any(name in given for name in names):
            options[setting] = value
    socket = files.variable("GROOTFS_SOCKET")
    if socket and not options.get("socket"):
        options["socket"] = socket
    config = given_globals.get("config")
    return load(str(config) if config else None, options)


def _incorrect_usage(command: Command | None, error: BadFlag) -> int:
    _say(f"Incorrect Usage.\n\nhint: {error}\n")
    _show_help_of(command.name if command else None)
    return 1


def _show_app_help() -> int:
    from groot_fast.cli.help import app_help

    return _say(app_help(COMMANDS, GLOBALS, __version__))


def _show_help_of(name: str | None) -> int:
    if name is None:
        return _show_app_help()
    from groot_fast.cli.help import command_help

    command = _find(name)
    if command is None:
        _say(f"No help topic for '{name}'")
        return UNKNOWN_COMMAND
    return _say(command_help(command))


def _say(text: str) -> int:
    """Write to stdout as bytes: names on disk need not be text."""
    data = files.encode(text) + b"\n"
    while data:
        data = data[posix.write(1, data) :]
    return 0
