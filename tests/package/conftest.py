"""What `make package` made, unpacked at a place that the build knows nothing of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.command import REPOSITORY

PACKAGE = REPOSITORY / "build" / "package"


@pytest.fixture(scope="session")
def made() -> Path:
    """The directory with all of it."""
    assert PACKAGE.is_dir(), "`make package` comes first"
    return PACKAGE


@pytest.fixture(scope="module")
def prefix(made: Path, module_scratch: Path) -> Path:
    """The tree, at another place."""
    (archive,) = made.glob("groot_fast-*.tar.gz")
    place = module_scratch / "some where" / "else"
    place.mkdir(parents=True)
    subprocess.run(["tar", "-xzf", archive, "-C", place, "--strip-components", "1"], check=True)
    return place


@pytest.fixture(scope="module")
def bosh_package(made: Path, module_scratch: Path) -> Path:
    """What BOSH would make of the package: the packaging script's work."""
    work, target = module_scratch / "compile", module_scratch / "packages" / "groot_fast"
    target.mkdir(parents=True)
    shutil.copytree(made / "bosh" / "src", work)
    script = made / "bosh" / "packages" / "groot_fast" / "packaging"
    subprocess.run(["bash", script], cwd=work, check=True, env={"PATH": "/usr/bin:/bin", "BOSH_INSTALL_TARGET": str(target)})
    return target
