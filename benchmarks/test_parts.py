"""The core's parts, through the module that the commands call, with real layers.

    pytest benchmarks --images DIR

The core exports `unpack` whole, so parts are told apart by what goes in: a layer as the content of one file measures inflate and
digest, for writing one file costs less and is in the other thread; entries of a kind that is left out are parsed, but not put
down.
"""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from compare.images import Image
from groot_fast import _core

END = bytes(1024)
"""What ends an archive."""
ROUNDS = 5
REPEAT = 20
"""How often the entries of an archive are parsed."""
MANY = 5000
"""Files that a layer of whiteouts takes away."""
COUNTER = itertools.count()


def unpack(root: Path, blob: Path, media_type: str = "", **options: object) -> _core.Unpacked:
    """`unpack` with everything left out that is not given."""
    given: dict[str, object] = {"digest": None, "size": None, "diff_id": None, "base": "", "uids": [], "gids": []}
    given |= {"max_content": None, "listing": None, **options}
    with opened(root) as descriptor:
        return _core.unpack(descriptor, blob, media_type=media_type, cancel=_core.Cancel(), **given)  # type: ignore[arg-type]


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def btrfs(*argv: str | Path) -> None:
    """What is not measured."""
    subprocess.run(["btrfs", *argv], check=True, stdout=subprocess.DEVNULL)


def snapshot(source: Path, path: Path, limit: int | None = None) -> None:
    """A snapshot by the core."""
    with opened(source) as tree, opened(path.parent) as parent:
        _core.snapshot(tree, parent, path.name, None if limit is None else (limit, False))


def delete(path: Path) -> None:
    """Remove a subvolume by the core."""
    with opened(path.parent) as parent:
        _core.remove_entry(parent, path.name)


def volume(disk: Path, source: Path | None = None) -> Path:
    """A new subvolume, empty or a snapshot."""
    path = disk / f"volume-{next(COUNTER)}"
    if source is None:
        btrfs("subvolume", "create", path)
    else:
        snapshot(source, path)
    return path


def measure(benchmark: BenchmarkFixture, work: Callable[[Path], object], make: Callable[[], Path], size: int, rounds: int = ROUNDS) -> None:
    """Time ``work`` on what ``make`` gives, which is deleted afterwards; bytes a second go into the report."""
    made: list[Path] = []

    def setup() -> tuple[tuple[Path], dict[str, object]]:
        while made:
            delete(made.pop())
        made.append(make())
        btrfs("filesystem", "sync", made[0])
        return (made[0],), {}

    benchmark.pedantic(work, setup=setup, rounds=rounds)
    benchmark.extra_info["megabytes"] = round(size / 1e6, 3)
    delete(made.pop())


def test_digest(benchmark: BenchmarkFixture, debian: Image) -> None:
    """SHA-256 of a blob in memory."""
    blob = debian.layers[0].blob.read_bytes()
    assert benchmark(_core.sha256, blob) == debian.layers[0].digest
    benchmark.extra_info["megabytes"] = round(len(blob) / 1e6, 3)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("verified", [False, True], ids=["alone", "with both digests"])
def test_inflate(benchmark: BenchmarkFixture, disk: Path, scratch: Path, request: pytest.FixtureRequest, kind: str, verified: bool) -> None:
    """The same layer under gzip and zstd, as one file: header and end are members (frames) of their own around its blob."""
    image: Image = request.getfixturevalue("debian" if kind == "gzip" else "zstd")
    layer, tar = image.layers[0], image.tars()[0]
    size = tar.stat().st_size
    entry = tarfile.TarInfo("layer")
    entry.size = size
    parts = [entry.tobuf(), tar.read_bytes(), bytes(-size % 512) + END]
    first, last = (subprocess.run([kind, "-c"], input=part, stdout=subprocess.PIPE, check=True).stdout for part in parts[::2])
    blob = scratch / f"one-file.{kind}"
    blob.write_bytes(first + layer.blob.read_bytes() + last)
    checks: dict[str, object] = {}
    if verified:
        checks = {
            "digest": _core.sha256(blob.read_bytes()),
            "size": blob.stat().st_size,
            "diff_id": _core.sha256(b"".join(parts)),
        }

    def work(root: Path) -> None:
        assert unpack(root, blob, layer.media_type, **checks)[0] == size

    measure(benchmark, work, lambda: volume(disk), size)


def test_parse(benchmark: BenchmarkFixture, disk: Path, scratch: Path, debian: Image) -> None:
    """The names, modes and times of an archive many times over, as fifos, which are left out."""
    file = scratch / "left-out.tar"
    with tarfile.open(debian.tars()[0]) as source, tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as target:
        entries = source.getmembers()
        for entry in entries:
            entry.type, entry.size = tarfile.FIFOTYPE, 0
        for _ in range(REPEAT):
            for entry in entries:
                target.addfile(entry)

    def work(root: Path) -> None:
        assert sum(unpack(root, file)[3].values()) == REPEAT * len(entries)

    measure(benchmark, work, lambda: volume(disk), file.stat().st_size)


@pytest.mark.parametrize("ranges", [[], [(0, 100_000, 65_536)]], ids=["ids as they are", "ids translated"])
def test_extract(benchmark: BenchmarkFixture, disk: Path, debian: Image, ranges: _core.Ranges) -> None:
    """An archive that is not compressed, put down."""
    file = debian.tars()[0]

    def work(root: Path) -> None:
        assert unpack(root, file, uids=ranges, gids=ranges)[0] > 0

    measure(benchmark, work, lambda: volume(disk), file.stat().st_size)


def test_whiteouts(benchmark: BenchmarkFixture, disk: Path, scratch: Path) -> None:
    """A layer that takes many files away, over one that has them."""
    names = [f"d{number % 50}/f{number}" for number in range(MANY)]
    lower, upper = scratch / "lower.tar", scratch / "upper.tar"
    write_tar(lower, names)
    write_tar(upper, [f"{folder}/.wh.{name}" for folder, _, name in (path.partition("/") for path in names)])
    base = volume(disk)
    unpack(base, lower)

    def work(root: Path) -> None:
        unpack(root, upper)
        assert not (root / names[0]).exists()

    measure(benchmark, work, lambda: volume(disk, base), upper.stat().st_size)
    delete(base)


@pytest.mark.parametrize("limit", [None, 10_000_000_000], ids=["no limit", "limit"])
def test_snapshot(benchmark: BenchmarkFixture, disk: Path, debian: Image, limit: int | None) -> None:
    """A snapshot of a base system, each in a directory of its own."""
    base = volume(disk)
    unpack(base, debian.tars()[0])
    btrfs("filesystem", "sync", base)
    made: list[Path] = []

    def setup() -> tuple[tuple[Path], dict[str, object]]:
        while made:
            delete(made.pop())
        folder = disk / f"image-{next(COUNTER)}"
        folder.mkdir()
        made.append(folder / "rootfs")
        btrfs("filesystem", "sync", base)
        return (made[0],), {}

    def work(path: Path) -> None:
        snapshot(base, path, limit)

    benchmark.pedantic(work, setup=setup, rounds=50)
    for path in [*made, base]:
        delete(path)


@pytest.mark.parametrize("what", ["interpreter", "core", "command"])
def test_start(benchmark: BenchmarkFixture, what: str) -> None:
    """A process of the interpreter alone, with the core, and of the whole command."""
    command = Path(__file__).resolve().parents[1] / "build" / "bin" / "grootfs"
    python = str(command.parents[1] / "venv" / "bin" / "python3")
    packages = Path(_core.__file__).parents[1]
    argv = {
        "interpreter": [python, "-IS", "-c", "pass"],
        "core": [python, "-IS", "-c", f"import sys; sys.path.append({str(packages)!r}); import groot_fast._core"],
        "command": [str(command), "--version"],
    }[what]

    def work() -> None:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    benchmark.pedantic(work, rounds=30, warmup_rounds=2)


def write_tar(file: Path, names: list[str]) -> None:
    """Small files of these names."""
    with tarfile.open(file, "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
