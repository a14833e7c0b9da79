"""The package `encodings` of an interpreter that has just started: UTF-8, and all others once they are asked for.

`scripts/make-launcher` puts a copy into the small library that the program's interpreter starts from. The interpreter insists on the
package before it runs anything of ours, looks through directories of hundreds of files for it, makes a table of three hundred names,
and imports `codecs`: a fifteenth of a warm create. Here is what it needs to start in UTF-8 mode; whoever wants more gets the real
package, which is then run in this very module. That needs its directory as the last of ``__path__``, for which the launcher sees.
"""

from __future__ import annotations

import _codecs
from _codecs import utf_8_decode, utf_8_encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import codecs
    from typing import IO, Any

    from _typeshed import ReadableBuffer as Buffer

UTF_8 = ("utf_8", "utf8")
"""What codecs.lookup makes of all spellings."""


def decode(data: Buffer, errors: str = "strict", /) -> tuple[str, int]:
    """See `codecs.CodecInfo`."""
    return utf_8_decode(data, errors, True)


class IncrementalEncoder:
    """As `codecs.IncrementalEncoder`."""

    def __init__(self, errors: str = "strict") -> None:
        self.errors = errors

    def encode(self, text: str, final: bool = False) -> bytes:
        """The bytes of a text."""
        return utf_8_encode(text, self.errors)[0]

    def reset(self) -> None:
        """Nothing is kept between two texts."""

    def getstate(self) -> int:
        """The same."""
        return 0

    def setstate(self, state: int) -> None:
        """The same."""


class IncrementalDecoder:
    """As `codecs.BufferedIncrementalDecoder`: the beginning of a character waits for its rest."""

    def __init__(self, errors: str = "strict") -> None:
        self.errors = errors
        self._waiting = b""

    def decode(self, data: bytes, final: bool = False) -> str:
        """The text of the bytes so far that nothing was made of yet."""
        data = self._waiting + data
        text, used = utf_8_decode(data, self.errors, final)
        self._waiting = data[used:]
        return text

    def reset(self) -> None:
        """Forget what waits."""
        self._waiting = b""

    def getstate(self) -> tuple[bytes, int]:
        """What waits, and a flag that is not used."""
        return self._waiting, 0

    def setstate(self, state: tuple[bytes, int]) -> None:
        """As `getstate` gave it."""
        self._waiting = state[0]


def open_reader(stream: IO[bytes], errors: str = "strict") -> codecs.StreamReader:
    """See `codecs.CodecInfo`."""
    from codecs import StreamReader

    reader: Any = type("StreamReader", (StreamReader,), {"decode": staticmethod(utf_8_decode)})
    return reader(stream, errors)  # type: ignore[no-any-return]


def open_writer(stream: IO[bytes], errors: str = "strict") -> codecs.StreamWriter:
    """See `codecs.CodecInfo`."""
    from codecs import StreamWriter

    writer: Any = type("StreamWriter", (StreamWriter,), {"encode": staticmethod(utf_8_encode)})
    return writer(stream, errors)  # type: ignore[no-any-return]


class CodecInfo(tuple):  # type: ignore[type-arg]
    """As `codecs.CodecInfo`, for UTF-8."""

    _is_text_encoding = True
    name = "utf-8"
    encode = staticmethod(utf_8_encode)
    decode = staticmethod(decode)
    incrementalencoder = IncrementalEncoder
    incrementaldecoder = IncrementalDecoder
    streamreader = staticmethod(open_reader)
    streamwriter = staticmethod(open_writer)


def find(encoding: str) -> Any:
    """See `codecs.register`."""
    if encoding in UTF_8:
        return CodecInfo((utf_8_encode, decode, open_reader, open_writer))
    if "__getattr__" not in globals():
        return None  # the real package's own function is asked next
    return __getattr__("search_function")(encoding)


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


_codecs.register(find)
