"""When SIGTERM and SIGINT may end a command.

A handler that raises wherever the interpreter happens to be leaves things behind that nobody has a name for yet: a
directory between `mkdir` and the `try` that would remove it, an image whose caller is told that there is none. So while a
command is at work (`hold`), a signal is noted and raised only where the command waits: in `Waiting` blocks. A signal that
meets no such block any more comes too late, and the command ends as if it had not come.
"""

from __future__ import annotations

from groot_fast.errors import Cancelled

_held = False
_waiting = 0
_noted = 0


def hold() -> None:
    """From here on signals are raised in `Waiting` blocks only, until `forget`."""
    global _held
    _held = True


def forget() -> None:
    """A command begins: signals are raised anywhere, and what came too late for the one before is none for this."""
    global _held, _noted
    _held, _noted = False, 0


def arrive(number: int) -> None:
    """What a signal handler calls. Raises Cancelled, now or later."""
    global _noted
    if _held and not _waiting:
        _noted = number
        return
    raise Cancelled(f"stopped by signal {number}")


def check() -> None:
    """Raise Cancelled if a signal has come."""
    global _noted
    if _noted:
        number, _noted = _noted, 0
        raise Cancelled(f"stopped by signal {number}")


class Waiting:
    """A block that a signal may end at any moment: it waits, or does what can be thrown away."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _waiting
        # In this order: a signal between the two is raised by `arrive`.
        _waiting += 1
        try:
            check()
        except BaseException:
            _waiting -= 1
            raise

    def __exit__(self, *_: object) -> None:
        global _waiting
        _waiting -= 1
