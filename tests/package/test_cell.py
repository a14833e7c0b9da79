"""A cell's life with our package in the place of grootfs: what pre-start and Garden of garden-runc-release call (docs/newest.md).

The runner below is ours; it does what those scripts do as far as image plugins see it. In place of a root of its own, all that is below
``/var/vcap`` on a cell is below one directory here.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import mounts
from support.archive import Archive
from support.command import MIB
from support.guardian import write_preloaded

MAXIMAL = 4294967294
MAPPINGS = [f"--{kind}-mapping={mapping}" for kind in ("uid", "gid") for mapping in (f"0:{MAXIMAL}:1", f"1:1:{MAXIMAL - 1}")]
KNOWN = {
    "store": str,
    "tardis_bin": str,
    "newuidmap_bin": str,
    "newgidmap_bin": str,
    "metron_endpoint": str,
    "log_level": str,
    "log_file": str,
    "create": dict,
    "clean": dict,
    "init": dict,
}
"""Top-level keys that the newest original has: whoever rewrites a file by them loses the others."""


class Cell:
    """A machine with the package: its two identities, their files, and Garden's calls."""

    def __init__(self, package: Path, var: Path, *, size: int = 512 * MIB) -> None:
        self.package = package
        self.var = var
        self.jobs = var / "vcap" / "jobs" / "garden" / "config"
        self.jobs.mkdir(parents=True)
        for name in ("data/grootfs/store", "sys/log/garden"):
            (var / "vcap" / name).mkdir(parents=True)
        self.stores = {name: var / "vcap/data/grootfs/store" / name for name in ("unprivileged", "privileged")}
        self.configs = {}
        for name, store in self.stores.items():
            self.configs[name] = self._rewritten(
                self.jobs / f"{name}_grootfs_config.yml",
                {
                    "store": str(store),
                    "json": True,
                    "compatibility": "blog",
                    "driver": "overlay-xfs",
                    "log_level": "info",
                    "create": {
                        "with_clean": True,
                        "clean_log_file": str(var / "vcap/sys/log/garden/groot-clean.log"),
                        "skip_layer_validation": True,
                    },
                    "clean": {"threshold_bytes": 4 * MIB},
                    "init": {"store_size_bytes": size, "with_direct_io": False, "owneruser": "vcap", "ownergroup": "vcap"},
                },
            )

    @staticmethod
    def _rewritten(path: Path, document: dict[str, object]) -> Path:
        """The job's template, and then what pre-start makes of it: only what the original knows is left. (JSON is YAML.)"""
        path.write_text(json.dumps({key: value for key, value in document.items() if key in KNOWN}))
        return path

    def run(self, *argv: str | Path, program: str = "grootfs") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/usr/sbin:/bin:/sbin"}
        argv = (self.package / "bin" / program, *argv)
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd="/", timeout=300)

    def pre_start(self) -> None:
        """As the scripts do before Garden starts; whatever fails, fails it (`set -e`)."""
        for name, config in self.configs.items():
            mappings = MAPPINGS if name == "unprivileged" else []
            self._must(self.run("--config", config, "init-store", *mappings))
            self._must(self.run("--config", config, "generate-volume-size-metadata"))
            tried = self.stores[name] / "images" / "xfs_test"
            tried.mkdir()
            limit = ("limit", "--disk-limit-bytes", "102400", "--image-path", tried)
            self._must(self.run("--log-timestamp-format", "rfc3339", *limit, program="tardis"))
            tried.rmdir()

    @staticmethod
    def _must(done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode != 0:
            raise RuntimeError(done.stdout)
        assert done.stdout == ""

    def create(self, url: str, handle: str, *flags: str, name: str = "unprivileged") -> dict[str, object]:
        """As Garden: the whole of stdout is one JSON document."""
        done = self.run("--config", self.configs[name], "create", *flags, url, handle)
        assert done.returncode == 0, done
        spec = json.loads(done.stdout)
        assert isinstance(spec, dict)
        return spec

    def ask(self, command: str, *argv: str, name: str = "unprivileged") -> dict[str, dict[str, int]]:
        done = self.run("--config", self.configs[name], command, *argv)
        assert done.returncode == 0, done
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def destroy(self, handle: str) -> None:
        """Garden does not know whose a container is: both are asked."""
        for config in self.configs.values():
            done = self.run("--config", config, "delete", handle)
            assert done.returncode == 0, done

    def drain(self) -> None:
        """All containers go."""
        for store in self.stores.values():
            for handle in os.listdir(store / "images"):
                self.destroy(handle)

    def reboot(self) -> None:
        mounts.release(self.var)

    def clean_is_done(self) -> bool:
        log = self.var / "vcap/sys/log/garden/groot-clean.log"
        return log.exists() and "groot-cleaning.ending" in log.read_text()


@pytest.fixture
def var(scratch: Path) -> Path:
    return scratch / "var"


@pytest.fixture
def cell(bosh_package: Path, var: Path) -> Cell:
    return Cell(bosh_package, var)


@pytest.fixture
def base(scratch: Path) -> Iterator[Path]:
    path = scratch / "cflinuxfs4.tar"
    path.write_bytes(Archive().dir("home").dir("home/vcap", uid=2000, gid=2000).file("bin", os.urandom(2 * MIB)).tar)
    yield path


def test_a_cell_s_life(cell: Cell, base: Path, scratch: Path) -> None:
    cell.pre_start()
    owner = {name: (store.stat().st_uid, store.stat().st_gid) for name, store in cell.stores.items()}
    assert owner == {"unprivileged": (MAXIMAL, MAXIMAL), "privileged": (0, 0)}
    assert cell.ask("capacity") == {"capacity": 512 * MIB}

    url = write_preloaded(scratch / "image", base, Archive().dir(".").file("app", "#!"))
    for name in cell.stores:
        for handle in (f"{name}-1", f"{name}-2"):
            spec = cell.create(url, handle, "--disk-limit-size-bytes", str(20 * MIB), "--exclude-image-from-quota", name=name)
            rootfs = Path(spec["root"]["path"])  # type: ignore[index]
            assert "mounts" not in spec and rootfs == cell.stores[name] / "images" / handle / "rootfs"
            assert (rootfs / "home/vcap/app").read_text() == "#!"
            assert (rootfs / "bin").stat().st_uid == (MAXIMAL if name == "unprivileged" else 0)
        usage = cell.ask("stats", f"{name}-1", name=name)["disk_usage"]
        assert usage["quota_size_bytes"] == 20 * MIB and usage["total_bytes_used"] >= 2 * MIB
        with pytest.raises(OSError, match="quota"), (rootfs / "more").open("wb") as more:
            more.write(bytes(21 * MIB))
            more.flush()
            os.fsync(more.fileno())
    cell.destroy("unprivileged-1")

    # Garden and the cell stop; the second start finds everything.
    cell.pre_start()
    assert os.listdir(cell.stores["unprivileged"] / "images") == ["unprivileged-2"]
    cell.reboot()
    assert os.listdir(cell.stores["unprivileged"]) == []
    cell.pre_start()
    assert sorted(os.listdir(cell.stores["privileged"] / "images")) == ["privileged-1", "privileged-2"]
    cell.drain()
    assert [os.listdir(store / "images") for store in cell.stores.values()] == [[], []]


def test_a_hundred_creates_against_a_hundred_cleans(cell: Cell, base: Path, scratch: Path) -> None:
    cell.pre_start()
    # Each app has a layer of its own, which the cleans of the others may take as soon as its container is gone.
    urls = [write_preloaded(scratch / f"image{i}", base, Archive().dir(".").file("app", f"{i}" * 1000)) for i in range(10)]

    def live(i: int) -> str:
        handle = f"c{i}"
        spec = cell.create(urls[i % len(urls)], handle)
        content = (Path(spec["root"]["path"]) / "home/vcap/app").read_text()  # type: ignore[index]
        if i % 2:
            cell.destroy(handle)
        return content

    def clean(_: int) -> str:
        return cell.run("--config", cell.configs["unprivileged"], "clean", "--threshold-bytes", "1").stdout

    with ThreadPoolExecutor(8) as pool:
        lives = [pool.submit(live, i) for i in range(100)]
        cleans = [pool.submit(clean, i) for i in range(100)]
        assert [each.result() for each in lives] == [f"{i % 10}" * 1000 for i in range(100)]
        assert {each.result() for each in cleans} <= {"clean completed\n"}
    assert cell.clean_is_done()
    assert len(os.listdir(cell.stores["unprivileged"] / "images")) == 50
    done = cell.run("--config", cell.configs["unprivileged"], "check")
    assert done.returncode == 0, done


def test_a_disk_with_a_store_of_the_other_file_system(cell: Cell) -> None:
    store = cell.stores["unprivileged"]
    backing = Path(f"{store}.backing-store")
    if subprocess.run(["which", "mkfs.xfs"], capture_output=True, check=False).returncode == 0:
        with backing.open("wb") as new:
            os.truncate(new.fileno(), 320 * MIB)
        mounts.tool("mkfs.xfs", "-q", backing)
    else:
        backing.write_bytes(b"XFSB" + os.urandom(MIB))  # what tells it from others
    before = backing.read_bytes()
    with pytest.raises(RuntimeError) as raised:
        cell.pre_start()
    assert str(raised.value) == f"{backing} exists and holds an XFS file system, not BTRFS; it was not touched\n"
    assert backing.read_bytes() == before and not store.exists()

    # The operator's steps: what the original made goes, and pre-start makes the new stores.
    backing.unlink()
    cell.pre_start()


def test_the_way_back(cell: Cell, base: Path, scratch: Path) -> None:
    """What is left is what the original's `init-store` finds on a new disk: nothing."""
    cell.pre_start()
    cell.create(write_preloaded(scratch / "image", base), "c")
    cell.drain()
    for config in cell.configs.values():
        done = cell.run("--config", config, "delete-store")
        assert (done.returncode, done.stdout) == (0, "")
    assert os.listdir(cell.var / "vcap/data/grootfs/store") == []
    assert mounts.mounts_below(cell.var) == [] and mounts.loops_below(cell.var) == []
