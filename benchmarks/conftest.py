"""Fixtures of `test_parts`: a file system and real layers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compare.filesystem import fresh
from compare.images import Image


def pytest_addoption(parser: pytest.Parser) -> None:
    """The directory with the images."""
    parser.addoption("--images", type=Path, help="directory of OCI layouts, as for `compare`: debian, and pyapp-zstd for zstd")


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory for everything."""
    with tempfile.TemporaryDirectory(prefix="groot-parts-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def disk(scratch: Path) -> Iterator[Path]:
    """A BTRFS under simple quotas, as stores are."""
    from groot_fast import _core

    with fresh(scratch / "disk") as filesystem:
        _core.enable_quota(filesystem.point, simple=True)
        yield filesystem.point


@pytest.fixture(scope="session")
def debian(request: pytest.FixtureRequest, scratch: Path) -> Image:
    """A base system in one layer."""
    return find(request, scratch, "debian")


@pytest.fixture(scope="session")
def zstd(request: pytest.FixtureRequest, scratch: Path) -> Image:
    """An image whose layers are zstd; its lowest is the one of `debian`."""
    return find(request, scratch, "pyapp-zstd")


def find(request: pytest.FixtureRequest, scratch: Path, name: str) -> Image:
    """An image of the directory. Fails where it is not there."""
    folder = request.config.getoption("--images")
    if folder is None or not (folder / name / "oci-layout").exists():
        pytest.fail(f"the OCI layout `{name}` is needed in the directory that --images names", pytrace=False)
    return Image(folder.absolute() / name, scratch)
