"""A disk that remembers the order of its writes and flushes, and that can go bad.

A small FUSE server (linux/fuse.h, protocol 7.31) with one file in it, ``disk``; a loop device over that file passes every
write and every flush of the file system on it to us, one after the other. `Disk` starts the server as a process of its
own; `Log` reads back what it wrote down, and `Log.cut` makes the disk as a power cut would leave it: what was written
before the last flush is there, of what came later any part may be.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WRITE, FLUSH = 1, 2
RECORD = struct.Struct("<BQI")
MAX_WRITE = 1 << 17
ROOT, FILE = 1, 2
IN, OUT = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
LOOKUP, GETATTR, SETATTR, OPEN, READ, WRITE_OP, STATFS, RELEASE, FSYNC, FLUSH_OP, INIT = 1, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26
OPENDIR, READDIR, RELEASEDIR, FORGET, INTERRUPT, BATCH_FORGET = 27, 28, 29, 2, 36, 42


class Server:
    """Answers the kernel until the file system is unmounted."""

    def __init__(self, file: Path, point: Path, log: Path, fault: Path) -> None:
        self.file = os.open(file, os.O_RDWR)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.fault = fault
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if ctypes.CDLL(None, use_errno=True).mount(b"disk", bytes(point), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    def serve(self) -> None:
        """Until the end."""
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            _, opcode, unique, node, *_ = IN.unpack_from(request)
            if opcode in (FORGET, INTERRUPT, BATCH_FORGET):
                continue
            number, body = 0, b""
            try:
                body = self.answer(opcode, node, request[IN.size :])
            except OSError as error:
                number = error.errno or errno.EIO
            os.write(self.device, OUT.pack(OUT.size + len(body), -number, unique) + body)

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """The reply to one request. Raises OSError."""
        if opcode == INIT:
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 1 << 5, 8, 8, MAX_WRITE, 1, 0, 0, 0)
        if opcode == LOOKUP:
            if node != ROOT or body != b"disk\0":
                raise OSError(errno.ENOENT, "lookup")
            return struct.pack("<QQQQII", FILE, 0, 3600, 3600, 0, 0) + self.attributes(FILE)
        if opcode in (GETATTR, SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if opcode in (RELEASE, RELEASEDIR, FLUSH_OP, READDIR):
            return b""
        if opcode == STATFS:
            return struct.pack("<QQQQQIIII24x", 0, 0, 0, 1, 0, 4096, 255, 4096, 0)
        if opcode not in (READ, WRITE_OP, FSYNC):
            raise OSError(errno.ENOSYS, "not supported")
        if self.fault.exists() and str(opcode) in self.fault.read_text().split():
            raise OSError(errno.EIO, "bad disk")
        if opcode == READ:
            offset, size = struct.unpack_from("<QI", body, 8)
            return os.pread(self.file, size, offset)
        if opcode == WRITE_OP:
            offset, size = struct.unpack_from("<QI", body, 8)
            data = body[40 : 40 + size]
            os.writev(self.log, [RECORD.pack(WRITE, offset, size), data])
            os.pwrite(self.file, data, offset)
            return struct.pack("<II", size, 0)
        os.write(self.log, RECORD.pack(FLUSH, 0, 0))
        return b""

    def attributes(self, node: int) -> bytes:
        mode, size = (0o40755, 0) if node == ROOT else (0o100600, os.fstat(self.file).st_size)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size >> 9, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Disk:
    """A formatted disk of ``size`` bytes in ``folder``; `path` is the file to put a loop device on."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.point = folder / "mount"
        self.point.mkdir(parents=True)
        self.content, self.start, self.log, self.fault = (folder / name for name in ("content", "start", "log", "fault"))
        with self.content.open("wb") as new:
            os.truncate(new.fileno(), size)
        subprocess.run(["mkfs.btrfs", "--quiet", self.content], check=True)
        subprocess.run(["cp", "--sparse=always", self.content, self.start], check=True)
        self.process = subprocess.Popen([sys.executable, "-IS", __file__, self.content, self.point, self.log, self.fault])
        end = time.monotonic() + 10
        while not self.path.exists():
            assert self.process.poll() is None and time.monotonic() < end, "the disk does not come up"
            time.sleep(0.005)

    @property
    def path(self) -> Path:
        """The disk as a file."""
        return self.point / "disk"

    def position(self) -> int:
        """How much was written down so far."""
        return self.log.stat().st_size

    def fail(self, *opcodes: int) -> None:
        """From here on these requests fail with EIO; none: all is well again."""
        self.fault.write_text(" ".join(map(str, opcodes)))

    def close(self) -> None:
        """Take it out. What is on it has to be unmounted."""
        subprocess.run(["umount", self.point], check=True)
        assert self.process.wait(10) == 0


class Log:
    """What a disk was given, in order."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.records: list[tuple[int, int, int, int]] = []
        """(kind, offset on the disk, place of the data in the log, length); a record ends where the next begins."""
        data = disk.log.read_bytes()
        place = 0
        while place < len(data):
            kind, offset, size = RECORD.unpack_from(data, place)
            place += RECORD.size
            self.records.append((kind, offset, place, size))
            place += size
        self.data = data

    def index_at(self, position: int) -> int:
        """How many records were there when the log was this long."""
        return sum(place + size <= position for _, _, place, size in self.records)

    def cuts(self, indices: list[int], image: Path) -> Iterator[int]:
        """For each number of records (ascending), ``image`` becomes the disk as a power cut after that record leaves it.

        What was written since the last flush is there, is not there, or partly: in turn, and at random.
        """
        generator = random.Random(7)
        base = self.disk.folder / "replay"
        subprocess.run(["cp", "--sparse=always", self.disk.start, base], check=True)
        done, pending = 0, []
        with base.open("r+b", buffering=0) as durable:
            for turn, index in enumerate(indices):
                for record in self.records[done:index]:
                    if record[0] == WRITE:
                        pending.append(record)
                        continue
                    for written in pending:
                        self.apply(durable.fileno(), written)
                    pending = []
                done = index
                subprocess.run(["cp", "--sparse=always", base, image], check=True)
                chance = (0.0, 1.0, 0.5, 0.9)[turn % 4]
                with image.open("r+b", buffering=0) as cut:
                    for written in pending:
                        if generator.random() < chance or chance == 1.0:
                            self.apply(cut.fileno(), written)
                yield index

    def apply(self, fd: int, record: tuple[int, int, int, int]) -> None:
        """Make one write."""
        _, offset, place, size = record
        os.pwrite(fd, self.data[place : place + size], offset)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("file", "point", "log", "fault"):
        parser.add_argument(name, type=Path)
    Server(**vars(parser.parse_args())).serve()
