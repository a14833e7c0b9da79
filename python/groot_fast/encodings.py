"""The package `encodings` of an interpreter that has just started: UTF-8, and all others once they are asked for.

`scripts/make-launcher` puts a copy into the small library that the program's interpreter starts from. The interpreter insists on the
package before it runs anything of ours, looks through directories of hundreds of files for it, and makes a table of three hundred
names: a twentieth of a warm create. Here is what it needs to start in UTF-8 mode; whoever wants more gets the real package, which is
then run in this very module. That needs its directory as the last of ``__path__``, for which the launcher sees.
"""

from __future__ import annotations

import codecs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from _typeshed import ReadableBuffer as Buffer

UTF_8 = ("utf_8", "utf8")
"""What codecs.lookup makes of all spellings."""


def decode(data: Buffer, errors: str = "strict", /) -> tuple[str, int]:
    """See `codecs.CodecInfo`."""
    return codecs.utf_8_decode(data, errors, True)


class IncrementalEncoder(codecs.IncrementalEncoder):
    """See `codecs.CodecInfo`."""

    def encode(self, text: str, final: bool = False) -> bytes:
        """See `codecs.IncrementalEncoder`."""
        return codecs.utf_8_encode(text, self.errors)[0]


class IncrementalDecoder(codecs.BufferedIncrementalDecoder):
    """See `codecs.CodecInfo`."""

    _buffer_decode = staticmethod(codecs.utf_8_decode)  # type: ignore[assignment]


class StreamWriter(codecs.StreamWriter):
    """See `codecs.CodecInfo`."""

    encode = staticmethod(codecs.utf_8_encode)  # type: ignore[assignment]


class StreamReader(codecs.StreamReader):
    """See `codecs.CodecInfo`."""

    decode = staticmethod(codecs.utf_8_decode)  # type: ignore[assignment]


def find(encoding: str) -> codecs.CodecInfo | None:
    """See `codecs.register`."""
    if encoding in UTF_8:
        streams = (StreamReader, StreamWriter, IncrementalEncoder, IncrementalDecoder)
        return codecs.CodecInfo(codecs.utf_8_encode, decode, *streams, name="utf-8")
    if "__getattr__" not in globals():
        return None  # the real package's own function is asked next
    return __getattr__("search_function")(encoding)  # type: ignore[no-any-return]


def __getattr__(name: str) -> Any:
    """The real package's: from here on it is in our place."""
    from _frozen_importlib_external import SourceFileLoader

    names = globals()
    del names["__getattr__"]  # the package imports from itself
    code: Any = SourceFileLoader(__name__, f"{names['__path__'][-1]}/__init__.py").get_code(__name__)
    exec(code, names)
    if name not in names:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return names[name]


codecs.register(find)
