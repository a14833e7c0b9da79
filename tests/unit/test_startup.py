"""What a warm command imports: nearly nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from support.archive import Archive
from support.command import MIB, Store
from support.launcher import NEEDS_OLDER_PYTHON, beginning, interpreter_of

HEAVY = {
    *("encodings.aliases", "os", "asyncio", "aiohttp", "uvloop", "ssl", "http", "urllib", "email"),
    *("logging", "yaml", "json", "re", "typing", "dataclasses", "enum", "subprocess", "argparse"),
    *("threading", "shutil", "tempfile", "pathlib", "hashlib", "contextlib", "collections", "functools", "inspect", "socket", "signal"),
    *("groot_fast.sources.registry.client", "groot_fast.pull.downloads", "groot_fast.idmap.namespace", "groot_fast.store.setup"),
}
REPORT = """
import posix, sys
before = set(sys.modules)
{beginning}
from groot_fast.cli.main import main
code = main({argv!r})
posix.write(2, (" ".join(sorted(set(sys.modules) - before))).encode())
sys.exit(code)
"""


def modules_of(store: Store, *args: str) -> set[str]:
    """Modules that a command imports, in the interpreter and with the options that the launcher names."""
    first = beginning()
    interpreter, *flags = interpreter_of(first)
    assert flags == ["-ISXutf8"], "the launcher keeps site, the environment and the locale out"
    code = REPORT.format(beginning=first, argv=["--store", str(store.path), *args])
    done = subprocess.run([interpreter, *flags, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done
    assert done.stdout
    return set(done.stderr.split())


@pytest.fixture
def warm(store: Store, image: Callable[..., str]) -> tuple[Store, str]:
    url = image(Archive().dir("d").file("d/f", "x" * 1000), Archive().file("g", "y"))
    store.create(url, "one")
    return store, url


@NEEDS_OLDER_PYTHON
@pytest.mark.parametrize(
    "args",
    [
        ["create", "{url}", "two"],
        ["create", "--disk-limit-size-bytes", str(100 * MIB), "{url}", "two"],
        ["create", "--json", "{url}", "two"],
        ["create", "--with-clean", "{url}", "two"],
        ["create", "--without-mount", "{url}", "two"],
        ["delete", "one"],
        ["delete", "never"],
        ["stats", "one"],
        ["list"],
        ["clean"],
        ["clean", "--threshold-bytes", "1000000000"],
    ],
    ids=" ".join,
)
def test_warm_command(warm: tuple[Store, str], args: list[str]) -> None:
    store, url = warm
    loaded = modules_of(store, *(argument.format(url=url) for argument in args))
    assert "groot_fast._core" in loaded
    assert {name for name in loaded if name in HEAVY or name.partition(".")[0] in HEAVY} == set()


@NEEDS_OLDER_PYTHON
def test_configuration_is_read_without_a_parser_of_pythons(warm: tuple[Store, str], tmp_path: object) -> None:
    store, url = warm
    path = store.path.parent / "c.yml"
    path.write_text("create:\n  json: true\n")
    done = modules_of(Store(store.path), "--config", str(path), "create", url, "two")
    assert {"yaml", "json", "re"} & done == set()


@NEEDS_OLDER_PYTHON
def test_cold_create_from_disk_needs_no_network(store: Store, image: Callable[..., str]) -> None:
    loaded = modules_of(store, "create", image(Archive().file("f", "x")), "one")
    assert {name for name in loaded if name.partition(".")[0] in {"asyncio", "aiohttp", "uvloop", "ssl", "socket"}} == set()


def test_the_core_brings_no_library_of_its_own() -> None:
    code = "import groot_fast._core; print(*{line.split('/')[-1] for line in open('/proc/self/maps') if '.so' in line})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert "_core.abi3.so" in done.stdout and "libgcc" not in done.stdout


def test_package_exports_without_importing() -> None:
    code = "import sys; before = set(sys.modules); import groot_fast; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout.replace("'", '"'))) & HEAVY == set()
