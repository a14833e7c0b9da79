"""The command under test and the stores it works on.

``GROOTFS_BIN`` names the command; the default is what `make` builds in this repository.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from support import mounts

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = os.environ.get("GROOTFS_BIN") or str(REPOSITORY / "build" / "bin" / "grootfs")
TIMEOUT = 120.0
MIB = 1 << 20


class Result(NamedTuple):
    """What a finished command left."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def ok(self) -> Result:
        """Insist on success."""
        assert self.code == 0, self
        return self

    def failed(self, code: int = 1) -> Result:
        """Insist on a failure that a person can read: its message is on stdout, and nothing else is anywhere."""
        assert self.code == code, self
        assert self.err == "", self
        assert re.fullmatch(r"[^\n]+\n(\nhint: [^\n]+\n)?", self.out), self
        assert "Traceback" not in self.out and "panick" not in self.out and "internal error" not in self.out, self
        return self

    @property
    def message(self) -> str:
        """The first line of stdout."""
        return self.out.partition("\n")[0]


class Grootfs:
    """Runs the command with these global options, as the user ``uid`` if given."""

    def __init__(self, *options: str, uid: int | None = None) -> None:
        self.options = options
        self.uid = uid

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start the command and do not wait."""
        argv = [COMMAND, *self.options, *map(str, args)]
        environment = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C.UTF-8"}
        user: dict[str, Any] = {} if self.uid is None else {"user": self.uid, "group": pwd.getpwuid(self.uid).pw_gid, "extra_groups": []}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, cwd="/", **user)

    def run(self, *args: str | Path, timeout: float = TIMEOUT) -> Result:
        """Run the command to its end."""
        return self.finish(self.start(*args), timeout)

    def finish(self, process: subprocess.Popen[bytes], timeout: float = TIMEOUT) -> Result:
        """Wait for a started command."""
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f"timed out: {process.args}") from None
        texts = [data.decode("utf-8", "surrogateescape") for data in (out, err)]
        return Result(tuple(map(str, process.args)), process.returncode, *texts)  # type: ignore[arg-type]


class Store(Grootfs):
    """A store directory: shorthands for the commands, and looks at what is in it."""

    def __init__(self, path: Path, *options: str, uid: int | None = None) -> None:
        super().__init__("--store", str(path), *options, uid=uid)
        self.path = path

    def init(self, *flags: str, size: int | None = 1024 * MIB) -> Result:
        """init-store, by default in a file of its own."""
        return self.run("init-store", *flags, *(["--store-size-bytes", str(size)] if size else []))

    def create(self, image: str | Path, image_id: str = "", *flags: str) -> Path:
        """Make an image and give its root file system."""
        image_id = image_id or new_id()
        result = self.run("create", *flags, image, image_id).ok()
        assert result.out == f"{self.path}/images/{image_id}\n" and result.err == "", result
        return self.rootfs(image_id)

    def refuse(self, image: str | Path, image_id: str = "", *flags: str) -> Result:
        """Insist that an image cannot be made, and that nothing of it stays."""
        image_id = image_id or new_id()
        result = self.run("create", *flags, image, image_id).failed()
        assert not os.path.lexists(self.image(image_id)), result
        assert not self.record(image_id).exists(), result
        assert self.temporary() == [], result
        assert [name for name in self.volumes() if "incomplete" in name or name.startswith("gc.")] == [], result
        return result

    def finish_measured(self, process: subprocess.Popen[bytes]) -> tuple[Result, int]:
        """Wait for a started command; with the most memory it had."""
        peak = 0
        while process.poll() is None:
            # Before it becomes the command, the process counts as this one.
            if str(self.path) in Path(f"/proc/{process.pid}/cmdline").read_text():
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = max([peak, *(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))])
            time.sleep(0.002)
        return self.finish(process), peak

    def delete(self, image_id: str) -> None:
        """Remove an image."""
        assert self.run("delete", image_id).ok().out == f"Image {image_id} deleted\n"

    def clean(self, *flags: str) -> None:
        """Remove unused layers."""
        assert self.run("clean", *flags).ok().out == "clean completed\n"

    def list(self) -> list[str]:
        """Ids of the images, as `list` prints them."""
        lines = self.run("list").ok().out.splitlines()
        return [] if lines == ["Store empty"] else [Path(line).name for line in lines]

    def stats(self, image_id: str) -> tuple[int, int]:
        """(all bytes, own bytes)."""
        usage = json.loads(self.run("stats", image_id).ok().out)["disk_usage"]
        assert set(usage) == {"total_bytes_used", "exclusive_bytes_used"}
        return usage["total_bytes_used"], usage["exclusive_bytes_used"]

    def image(self, image_id: str) -> Path:
        """Directory of an image."""
        return self.path / "images" / image_id

    def rootfs(self, image_id: str) -> Path:
        """Root file system of an image."""
        return self.image(image_id) / "rootfs"

    def record(self, image_id: str) -> Path:
        """File with the volumes of an image."""
        return self.path / "meta" / "dependencies" / f"image:{image_id}.json"

    def volumes(self) -> list[str]:
        """Everything in ``volumes/``."""
        return sorted(os.listdir(self.path / "volumes"))

    def temporary(self) -> list[str]:
        """Everything in ``tmp/``."""
        return sorted(os.listdir(self.path / "tmp"))

    @property
    def backing(self) -> Path:
        """The loop file."""
        return Path(f"{self.path}.backing-store")

    def subvolumes(self) -> list[str]:
        """Paths of all subvolumes, also nested and half-removed ones."""
        return [line.split(" path ")[1] for line in mounts.tool("btrfs", "subvolume", "list", self.path).splitlines()]

    def groups(self) -> set[str]:
        """Ids of all quota groups but the file system's own."""
        rows = mounts.tool("btrfs", "qgroup", "show", self.path).splitlines()[2:]
        return {row.split()[0] for row in rows} - {"0/5"}


def new_id() -> str:
    """An image id nobody has used."""
    return f"c-{uuid.uuid4().hex[:12]}"


def wait_for(condition: Callable[[], object], what: str, timeout: float = 30.0, pause: float = 0.001) -> None:
    """Poll until ``condition`` holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(pause)


def kill(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone already is fine."""
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass
