"""From argv to an exit code.

Messages for people go to stdout, errors too: Garden shows an operator what a plugin printed there. stderr is for log
lines (contract, section 5). The core reads the call; what it answers itself (help, a wrong option) never gets here as a command.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from groot_fast import interrupts, place
from groot_fast._core import Call, PanicException, read_call, say
from groot_fast.cli.commands import COMMANDS, Request
from groot_fast.config import Settings
from groot_fast.errors import Cancelled, GrootError, UsageError, line_of
from groot_fast.telemetry.metrics import Several, open_traces

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What stops a command that then tidies up."""

PASSWORD = "_GROOTFS_PASSWORD"
"""How `grootfs` hands over the password of a call (``rust/cli/src/program.rs``): the list of processes shows arguments to everybody."""

MAX_PASSWORD = 64 << 10
"""Bytes on stdin."""


def run() -> NoReturn:
    """The program. Ends at once: taking the interpreter apart takes longer than many a command."""
    # Who ignores it has its children end unseen, and hands that on: a helper that failed would seem to have done its work.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # No program is run from the caller's directory, which may be somebody else's.
    os.environ["PATH"] = os.pathsep.join(filter(os.path.isabs, os.get_exec_path()))
    sys.unraisablehook = _drop_stops
    code = main(password=os.environ.pop(PASSWORD, None))
    sys.stderr.flush()
    os._exit(code)


def main(argv: list[str] | None = None, *, password: str | None = None) -> int:
    """Run one command; gives the exit code. ``password`` is the call's, if its arguments only say that there is one."""
    catch_signals()
    try:
        call = read_call(sys.argv[1:] if argv is None else argv, dict(os.environ), place.command())
        if isinstance(call, Call):
            return _run(call, password)
        code = say(os.fsdecode(call.out), call.code)
        os.write(2, call.err)
        return code
    except Cancelled as error:
        return error.exit_code  # while the result was printed or counted


def catch_signals() -> None:
    """From here on `SIGNALS` raise `Cancelled`; once a command is at work, where it waits (`interrupts`). What the caller ignores
    stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _drop_stops(unraisable: UnraisableHookArgs) -> None:
    """A handler may be called where exceptions are dropped, with a traceback on stderr; that one is noted (`interrupts.arrive`)."""
    if not isinstance(unraisable.exc_value, Cancelled):
        sys.__unraisablehook__(unraisable)


def _stop(number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not interrupt the clearing up. SIGKILL is there for the impatient. Not SIG_IGN: the
    # interpreter complains of a signal that was on its way.
    for other in SIGNALS:
        if signal.getsignal(other) is not signal.SIG_IGN:
            signal.signal(other, _ignore)
    interrupts.arrive(number)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


def _run(call: Call, password: str | None) -> int:
    log, metrics, rules = call.log, call.metrics, call.rules
    traces = open_traces(log)
    for receiver in traces:
        receiver.began(call.command)
    if traces:
        metrics = Several([metrics, *traces])
    code, failure = 1, ""
    interrupts.hold()
    try:
        command = COMMANDS.get(call.command)
        if command is None:
            text = call.perform() or ""
        else:
            settings = Settings({**call.values, **_password_of(call, password)})
            text = command(Request(settings, call.given, call.positional, log, metrics))
        text, code = call.of_success(text), 0
    except (GrootError, OSError) as error:
        code, text = getattr(error, "exit_code", 1), line_of(error)
        failure = text
        hint = getattr(error, "hint", None)
        document = call.of_failure(_classes(error), failure, hint)
        if document is not None:
            text = document
        elif hint and rules.hints:
            text += f"\n\nhint: {hint}"
        log.error("failed", failure, **({"hint": hint} if hint and not rules.hints else {}))
    except (Exception, PanicException) as error:
        failure = line_of(error)
        text = call.of_failure(_classes(error), failure, None) or failure
        log.error("failed", failure, trace=traceback.format_exc())
    finally:
        (log.info if rules.tells_commands else log.debug)("ending")
        metrics.ended(call.command, code, failure)
    try:
        return say(f"{text}\n", code) if text else code
    finally:
        # The caller has its answer; a metrics file that is busy holds up nobody but us.
        metrics.close()


def _classes(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _password_of(call: Call, handed: str | None) -> dict[str, str]:
    """The setting that ``--password-stdin`` makes of the first line of stdin, or what was handed over. Raises UsageError."""
    if not call.given.get("password-stdin"):
        return {} if handed is None or "password" not in call.given else {"password": handed}
    if "password" in call.given:
        raise UsageError("--password and --password-stdin exclude each other")
    data = b""
    with interrupts.Waiting():
        while b"\n" not in data and len(data) <= MAX_PASSWORD:
            part = os.read(0, MAX_PASSWORD)
            if not part:
                break
            data += part
    password = data.split(b"\n", 1)[0].removesuffix(b"\r")
    if not password or len(password) > MAX_PASSWORD:
        raise UsageError("no password came on stdin" if not password else "the password on stdin is too long")
    return {"password": os.fsdecode(password)}
