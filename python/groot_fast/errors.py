"""What can go wrong, as one tree of exceptions.

Every class says how the command line ends (``exit_code``) and may carry a ``hint``: one sentence that names the
cure. ``str(error)`` is the single line a person reads; the contract's wording is used where it has one.

The Rust core raises the classes `BadLayer`, `BadBlob`, `Cancelled` and `LimitExceeded` from here, and the built-in
`OSError` (with ``errno``) for what the operating system refused.
"""

from __future__ import annotations

import errno
import os


class GrootError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(GrootError):
    """The call itself is wrong: argument count, option value, combination of options."""


class ConfigError(GrootError):
    """The configuration file or a value in it cannot be used."""


class StoreError(GrootError):
    """The store is missing, not initialised, damaged, or refused an operation."""


class StoreNotFound(StoreError):
    """There is no store. What only a server tells apart, for the status of its answer."""


class LockTimeout(StoreError):
    """A lock was not free within its deadline."""


class ImageExists(GrootError):
    """An image with this id is already there (or being created)."""


class ImageNotFound(GrootError):
    """No image with this id."""


class SourceError(GrootError):
    """The image source cannot be found, read or understood."""


class RegistryError(SourceError):
    """A registry answered with a refusal, nonsense, or not at all.

    ``status`` is the HTTP status (None when no reply came), ``codes`` the error codes of the reply's body, and
    ``temporary`` says whether trying again could help.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        codes: tuple[str, ...] = (),
        temporary: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.codes = codes
        self.temporary = temporary


class BadImage(SourceError):
    """Manifest, configuration or index are malformed, ambiguous or do not fit together."""


class BadBlob(SourceError):
    """The bytes of a blob are not what the manifest promised (digest or size)."""


class BadLayer(SourceError):
    """A layer's archive is malformed, hostile, or cannot be applied."""


class LimitExceeded(SourceError):
    """An input is larger than the bound set for it."""


class QuotaError(GrootError):
    """A disk limit cannot be set or is too small for the image."""


class Unhealthy(GrootError):
    """`doctor` or `check` found something that is not in order; the message is the whole report."""


class InternalError(GrootError):
    """A defect of ours."""


class Cancelled(GrootError):
    """The operation was stopped from outside (signal, cancelled task)."""

    exit_code = 130


def is_out_of_space(error: BaseException | None) -> bool:
    """Whether a failure came of a full disk or a used up quota, directly or as the cause that it names."""
    seen: set[int] = set()
    # Whoever passes an error on as it is may have made it the cause of itself.
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def line_of(error: BaseException) -> str:
    """The line that a person reads of any error, whichever way it was asked for. The store may be damaged or full in any way, which
    is an OSError; everything else that is not raised on purpose is a defect of ours."""
    if isinstance(error, GrootError):
        return str(error)
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        return text if error.filename is None else f"{os.fsdecode(error.filename)}: {text.lower()}"
    return f"internal error: {type(error).__name__}: {error}".replace("\n", " ")
