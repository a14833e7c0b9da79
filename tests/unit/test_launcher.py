"""The launcher: one file of byte code for the interpreter that made it, the modules themselves for any other."""

from __future__ import annotations

import marshal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import groot_fast
from groot_fast.bundle import install
from support.command import PROGRAM
from support.launcher import beginning, interpreter_of

CODE = """
import asyncio, groot_fast.pull.downloads, groot_fast.sources.registry.http
names = ("groot_fast", "groot_fast.cli.main", "groot_fast._core", "groot_fast.pull.downloads", "asyncio", "aiohttp", "multidict._multidict")
specs = [sys.modules[name].__spec__ for name in names]
print(*(type(spec.loader).__name__ for spec in specs))
print(*(spec.origin == sys.modules[name].__file__ and spec.name == name for name, spec in zip(names, specs)))
print(sys.modules["groot_fast"].__path__ == specs[0].submodule_search_locations)
print(groot_fast.cli.main.run is run, groot_fast.pull is sys.modules["groot_fast.pull"])
import aiohttp
for function in (groot_fast.cli.main.main, groot_fast.pull.downloads.Network.close, aiohttp.ClientSession.get):
    print(bool(function.__doc__), bool(function.__annotations__))
"""


class Answers(NamedTuple):
    """What the import system says of some modules, and of three functions whether they have texts and types."""

    loaders: list[str]
    described: list[str]


def ask(launcher: str) -> Answers:
    """Ask in place of running a command."""
    interpreter, flag = interpreter_of(launcher)
    code = launcher.removesuffix("run()\n") + CODE
    done = subprocess.run([interpreter, flag, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaders, *rest = done.stdout.splitlines()
    assert rest[0] == "True " * 6 + "True" and rest[1:3] == ["True", "True True"], rest
    return Answers(loaders.split(), rest[3:])


def test_modules_come_from_the_bundle() -> None:
    assert ask(Path(PROGRAM).read_text()).loaders == [
        "Bundle",
        "Bundle",
        "ExtensionFileLoader",
        "Bundle",
        "Bundle",
        "Bundle",
        "ExtensionFileLoader",
    ]


def test_another_interpreter_leaves_the_bundle_alone() -> None:
    launcher = Path(PROGRAM).read_text()
    (version,) = (line for line in launcher.splitlines() if line.startswith("if sys.version == "))
    answers = ask(launcher.replace(version, "if sys.version == 'another':"))
    assert answers.loaders == [loader.replace("Bundle", "SourceFileLoader") for loader in ask(launcher).loaders]
    assert answers.described == ["True True"] * 3


def test_only_ours_come_without_texts_and_types() -> None:
    assert ask(Path(PROGRAM).read_text()).described == ["False False", "False False", "True True"]


def test_a_traceback_names_file_and_line() -> None:
    launcher = (
        Path(PROGRAM).read_text().removesuffix("run()\n")
        + "import groot_fast.errors\ngroot_fast.cli.main.parse(None, (), stop_at_command=True)\n"
    )
    interpreter, flag = interpreter_of(launcher)
    done = subprocess.run([interpreter, flag, "-c", launcher], capture_output=True, text=True)
    assert 'groot_fast/cli/flags.py", line ' in done.stderr and "rest = iter(argv)" in done.stderr, done.stderr


def test_the_interpreter_starts_from_next_to_nothing_and_is_as_usual_then() -> None:
    text = beginning()
    interpreter, flag = interpreter_of(text)
    first = "import sys; print(sorted(name for name in sys.modules if name.startswith('encodings')), len(sys.path))\n"
    then = "print(sys.path, sys.prefix, sys.exec_prefix, sys.base_prefix, sys.executable)\n"
    ours = subprocess.run([interpreter, flag, "-c", f"{first}{text}\n{then}"], capture_output=True, text=True, check=True).stdout
    plain = subprocess.run(
        ["/usr/bin/python3", flag, "-c", f"import sys; sys.executable = sys.executable.replace('python3', 'python3.11'); {then}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    start, rest = ours.split("\n", 1)
    assert start == "['encodings'] 3"
    packages = str(Path(groot_fast.__file__).parents[1])
    assert rest.replace(f", {packages!r}]", "]") == plain


CODECS = r"""
import codecs, io
print(codecs.getreader("UTF-8")(io.BytesIO("\u00e9".encode())).read(), "\u00e9".encode("latin-1"), "stra\u00dfe.de".encode("idna"))
stream = io.TextIOWrapper(io.BytesIO(), "utf8", "surrogateescape")
stream.write("\u00e9\udcff")
stream.seek(0)
print(ascii(stream.read()), codecs.lookup("utf-8").name, codecs.decode(b"\xc3\xa9", "utf-8"))
for name in ("nope", "utf_8.x"):
    try:
        codecs.lookup(name)
    except LookupError as error:
        print(error)
for broken in (b"\xc3", b"\xff"):
    try:
        codecs.decode(broken, "utf-8")
    except UnicodeDecodeError as error:
        print(error)
decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
print(ascii(decoder.decode(b"a\xc3")), decoder.getstate(), ascii(decoder.decode(b"\xa9\xff")), decoder.getstate())
print(ascii(decoder.decode(b"\xc3", final=True)), decoder.decode(b"\xe2\x82"), decoder.reset(), decoder.decode(b"b"))
print(decoder.setstate((b"\xc3", 0)), ascii(decoder.decode(b"\xa9")))
encoder = codecs.getincrementalencoder("utf-8")()
print(encoder.encode("\u00e9"), encoder.getstate(), encoder.setstate(0), encoder.reset(), encoder.encode("x", final=True))
target = io.BytesIO()
codecs.getwriter("utf-8")(target).write("\u00e9")
print(target.getvalue(), codecs.encode("\u20ac", "utf8"), open("/dev/null", encoding="utf-8").read() == "")
text = io.TextIOWrapper(io.BytesIO("\u00e9\r\n\u20acx".encode() * 5000), "utf-8")
print(len(text.read(3)), text.seek(text.tell()), ascii(text.readline()), len(text.read()))
import encodings, encodings.aliases
for name in sorted({*encodings.aliases.aliases.values(), "undefined", "unicode_escape"}):
    try:
        print(codecs.lookup(name).name)
    except LookupError as error:
        print(error)
print(encodings.normalize_encoding("ISO 8859-1"), hasattr(encodings, "nothing"), encodings.idna.__name__)
"""


@pytest.mark.parametrize("before", ["", "import locale; locale.normalize('de_DE')", "import encodings; print(hasattr(encodings, 'x'))"])
def test_all_codecs_are_there(before: str) -> None:
    text = beginning()
    interpreter, flag = interpreter_of(text)
    ours = subprocess.run([interpreter, flag, "-c", f"{text}\n{before}{CODECS}"], capture_output=True, text=True, check=True).stdout
    plain = subprocess.run(["/usr/bin/python3", flag, "-c", f"{before}{CODECS}"], capture_output=True, text=True, check=True).stdout
    assert ours == plain
    assert len(ours.splitlines()) > 80


def test_a_warm_module_may_import_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    warm_code, other_code = (compile(text, name, "exec") for name, text in (("w", "import bundled_other"), ("o", "VALUE = 7")))
    warm, other = marshal.dumps((warm_code,)), marshal.dumps(other_code)
    index = marshal.dumps({"bundled_other": (False, "o", 0, len(other))})
    (tmp_path / "bundle").write_bytes(b"head" + warm + index + other)
    with (tmp_path / "bundle").open("rb") as file:
        install(file.fileno(), 4, ((len(warm), (("bundled_warm", False, "w"),)),), len(index))
    try:
        assert sys.modules["bundled_warm"].bundled_other.VALUE == 7
    finally:
        for name in ("bundled_warm", "bundled_other"):
            sys.modules.pop(name, None)
