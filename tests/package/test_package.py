"""The package works from any prefix, for anybody, with nothing of the machine but its C library."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from support import mounts
from support.accounts import User
from support.archive import Archive
from support.command import MIB

Image = Callable[..., str]
APP = Archive().dir("etc").file("etc/passwd", "root:x:0:0::/:/bin/sh\n")
# No network: a namespace without any.
ALONE = ["unshare", "--net"]


def run(prefix: Path, *argv: str | Path, path: str = "/bin:/sbin", **options: object) -> str:
    """Run the packaged command without a network, with an empty environment but for ``path``; gives stdout."""
    program = [prefix / "bin" / "grootfs", *argv]
    done = subprocess.run([*ALONE, *program], capture_output=True, text=True, check=False, env={"PATH": path}, cwd="/", **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done
    assert done.stderr == ""
    return str(done.stdout)


def test_life_of_an_image(prefix: Path, scratch: Path, image: Image) -> None:
    store = scratch / "store"
    run(prefix, "--store", store, "init-store", "--store-size-bytes", str(512 * MIB))
    url = image(APP)
    for image_id in ("cold", "warm"):
        assert run(prefix, "--store", store, "create", url, image_id) == f"{store}/images/{image_id}\n"
    assert "disk_usage" in run(prefix, "--store", store, "stats", "cold")
    assert run(prefix, "--store", store, "delete", "cold") == "Image cold deleted\n"
    assert run(prefix, "--store", store, "clean") == "clean completed\n"
    run(prefix, "--store", store, "delete-store")


def test_mkfs_of_the_package_where_the_machine_has_none(prefix: Path, scratch: Path) -> None:
    """As on a stemcell: the search path has `mount`, and no `mkfs.btrfs`."""
    tools = scratch / "tools"
    tools.mkdir()
    for tool in ("mount", "umount"):
        (tools / tool).symlink_to(f"/bin/{tool}")
    store = scratch / "store"
    own = prefix / "bin" / "grootfs"
    subprocess.run([own, "--store", store, "init-store", "--store-size-bytes", str(512 * MIB)], env={"PATH": str(tools)}, check=True)
    assert mounts.device_of(store).startswith("/dev/loop")


def test_an_ordinary_user(prefix: Path, scratch: Path, image: Image, user: User) -> None:
    store = scratch / "store"
    mappings = [f"--{kind}-mapping={mapping}" for kind, own in (("uid", user.uid), ("gid", user.gid))
                for mapping in (f"0:{own}:1", "1:300000:65536")]  # fmt: skip
    run(prefix, "--store", store, "init-store", "--store-size-bytes", str(512 * MIB), *mappings)
    options = {"user": user.uid, "group": user.gid, "extra_groups": []}
    url = image(APP)
    for image_id in ("cold", "warm"):
        done = subprocess.run(
            [prefix / "bin" / "grootfs", "--store", store, "create", url, image_id],
            capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}, cwd="/", **options,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, f"{store}/images/{image_id}\n"), done
    # As if it had unpacked it itself: nothing in it is for root alone.
    assert subprocess.run(["find", prefix, "!", "-readable"], capture_output=True, text=True, check=True, **options).stdout == ""


def test_nothing_of_the_machine_is_used_but_its_c_library(prefix: Path, scratch: Path) -> None:
    trace = scratch / "trace"
    subprocess.run(
        ["strace", "-f", "-e", "trace=open,openat,execve", "-o", trace, prefix / "bin" / "grootfs", "--store", "/nonexistent", "doctor"],
        env={}, capture_output=True, check=False,
    )  # fmt: skip
    opened = [line for line in trace.read_text().splitlines() if "ENOENT" not in line and "O_DIRECTORY" not in line]
    paths = {match[1] for line in opened for match in re.finditer(r'"([^"]+)"', line) if ".so" in match[1] or "python" in match[1]}
    machine = {os.path.basename(path) for path in paths if path.startswith("/") and not path.startswith(str(prefix))}
    assert {
        name for name in machine if not re.match(r"(libc|libm|libgcc_s|libdl|libpthread|librt|libresolv|libutil|ld)[.-]", name)
    } == set()
    assert any("lib/groot_fast/venv/lib" in path for path in paths)


def test_the_site_file_of_the_tree(prefix: Path) -> None:
    site = prefix / "etc" / "grootfs" / "defaults.yml"
    assert run(prefix, "--version") != "grootfs version 0.30.1\n"
    before = site.read_text()
    site.write_text(before.replace("compatibility: none", "compatibility: newest"))
    try:
        assert run(prefix, "--version") == "grootfs version 0.30.1\n"
    finally:
        site.write_text(before)
    example = prefix / "share" / "groot_fast" / "example.yml"
    done = subprocess.run(
        [prefix / "bin" / "grootfs", "--config", example, "doctor", "--json"], capture_output=True, text=True, check=False
    )
    (found,) = (finding for finding in json.loads(done.stdout) if finding["check"] == "configuration")
    assert found["state"] == "ok"


def test_the_server_under_monit(prefix: Path, scratch: Path) -> None:
    control = prefix / "share" / "groot_fast" / "grootfs-ctl"
    run_directory, log = scratch / "run", scratch / "log"
    environment = {"PATH": "/usr/bin:/bin", "GROOTFS_RUN": str(run_directory), "GROOTFS_LOG": str(log)}

    def ask(word: str) -> None:
        subprocess.run([control, word], check=True, env=environment, timeout=60)

    ask("start")
    pid = int((run_directory / "grootfs.pid").read_text())
    ask("start")
    assert int((run_directory / "grootfs.pid").read_text()) == pid and os.readlink(f"/proc/{pid}/exe").startswith(str(prefix))
    ask("stop")
    assert not Path(f"/proc/{pid}").exists() and not (run_directory / "grootfs.pid").exists()
    ask("stop")


def test_the_deb(made: Path, scratch: Path) -> None:
    (deb,) = made.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", deb, scratch / "root"], check=True)
    root = scratch / "root"
    fields = dict(line.split(": ", 1) for line in mounts.tool("dpkg-deb", "-f", deb).splitlines() if ": " in line)
    assert fields["Package"] == "groot-fast" and re.search(r"libc6 \(>= 2\.\d+\)", fields["Depends"])
    assert (root / "etc/grootfs/defaults.yml").is_file() and mounts.tool(
        "dpkg-deb", "-I", deb, "conffiles"
    ) == "/etc/grootfs/defaults.yml\n"
    assert (root / "usr/bin/drax").stat().st_mode & 0o7777 == 0o4755
    assert os.readlink(root / "usr/bin/tardis") == "drax"
    assert "ExecStart=/usr/bin/grootfs" in (root / "usr/lib/systemd/system/grootfs.service").read_text()
    # From where it was unpacked, as from /usr.
    done = subprocess.run(
        [root / "usr/bin/grootfs", "--store", "/nonexistent", "doctor"], capture_output=True, text=True, check=False, env={}
    )
    assert "kernel: Linux" in done.stdout


def test_the_folder_for_bosh(made: Path, bosh_package: Path) -> None:
    """The script makes a package, and the job's templates need nothing but to be copied."""
    environment = {"PATH": "/usr/bin:/bin", "GROOTFS_PACKAGE": str(bosh_package)}
    job = made / "bosh" / "jobs" / "groot_fast"
    spec = (job / "spec").read_text()
    for template in (job / "templates").iterdir():
        assert f"  {template.name}: " in spec and "<%" not in template.read_text()
    done = subprocess.run(["bash", job / "templates" / "pre-start"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "grootfs version 0.30.1\n"
    assert (bosh_package / "bin" / "drax").stat().st_mode & 0o7777 == 0o4755
    assert (made / "bosh/packages/groot_fast/spec").read_text().count("groot_fast/groot_fast.tar.gz") == 1
