"""Stop a command at its N-th store-changing system call, or let that call fail, or count them.

    python3 tracer.py --report FILE --below DIRECTORY [--reads] [--commit DIRECTORY] [--uid UID --gid GID]
                      [--at N (--kill tree|caller|main | --signal NUMBER | --errno NUMBER [--onwards] | --meanwhile JSON)]
                      -- COMMAND ARGUMENT...

A small ptrace(2) tracer: every process and thread of the command is followed, and calls are counted over all of them in
the order in which the kernel was about to begin them (`strace --inject` counts each thread for itself, which leaves
points out). A call that is hit has not begun. What counts is in `CHANGING`, and with ``--reads`` also in `READING`; of
calls that name a file or have one open only those on something below ``--below`` (a prefix of paths) or a loop device.
``--onwards`` lets all calls from there on fail, not one. ``--meanwhile`` (a list of arguments) runs another command while the
thread stands before the call; it gets some time, then, finished or waiting for a lock, the first one goes on.

``--commit`` commits the BTRFS there before each call, without the data of files, as the kernel's timer may at any moment.

The report is JSON: ``calls`` (one text each, up to the point that was hit), ``status`` (exit code, negative for a signal),
``hit``, and of the other command ``other`` (its status) and ``said``. Linux on x86-64 only: system calls have numbers.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

# linux/ptrace.h, linux/seccomp.h, linux/filter.h
TRACEME, PEEKUSER, POKEUSER, CONT, SETOPTIONS, GETREGS = 0, 3, 6, 7, 0x4200, 12
FOLLOW = 0x2 | 0x4 | 0x8 | 0x10  # fork, vfork, clone, exec
OPTIONS = FOLLOW | 0x80 | 0x100000  # seccomp; kill what is traced when the tracer dies
EVENT_EXEC, EVENT_SECCOMP, EVENT_STOP = 4, 7, 128
SECCOMP_SET_MODE_FILTER, RET_TRACE, RET_ALLOW = 1, 0x7FF00000, 0x7FFF0000
SYS_SECCOMP = 317
WALL = 0x40000000
ORIG_RAX, RAX = 15, 10
ARGUMENTS = (14, 13, 12, 7, 9, 8)
"""Places of rdi, rsi, rdx, r10, r8, r9 in `struct user_regs_struct`."""

FD = "fd"
CHANGING: dict[int, tuple[str, str, tuple[int, ...]]] = {
    # number: (name, kind, places of paths). Kinds: "path" counts by its paths, "fd" by what descriptor 0 is open on.
    2: ("open", "open", (0,)),
    85: ("creat", "path", (0,)),
    257: ("openat", "open", (1,)),
    437: ("openat2", "open", (1,)),
    82: ("rename", "path", (0, 1)),
    264: ("renameat", "path", (1, 3)),
    316: ("renameat2", "path", (1, 3)),
    83: ("mkdir", "path", (0,)),
    258: ("mkdirat", "path", (1,)),
    84: ("rmdir", "path", (0,)),
    86: ("link", "path", (0, 1)),
    265: ("linkat", "path", (1, 3)),
    87: ("unlink", "path", (0,)),
    263: ("unlinkat", "path", (1,)),
    88: ("symlink", "path", (1,)),
    266: ("symlinkat", "path", (2,)),
    133: ("mknod", "path", (0,)),
    259: ("mknodat", "path", (1,)),
    90: ("chmod", "path", (0,)),
    91: ("fchmod", FD, ()),
    268: ("fchmodat", "path", (1,)),
    452: ("fchmodat2", "path", (1,)),
    92: ("chown", "path", (0,)),
    93: ("fchown", FD, ()),
    94: ("lchown", "path", (0,)),
    260: ("fchownat", "path", (1,)),
    188: ("setxattr", "path", (0,)),
    189: ("lsetxattr", "path", (0,)),
    190: ("fsetxattr", FD, ()),
    197: ("removexattr", "path", (0,)),
    198: ("lremovexattr", "path", (0,)),
    199: ("fremovexattr", FD, ()),
    235: ("utimes", "path", (0,)),
    261: ("futimesat", "path", (1,)),
    280: ("utimensat", "path", (1,)),
    76: ("truncate", "path", (0,)),
    77: ("ftruncate", FD, ()),
    285: ("fallocate", FD, ()),
    1: ("write", FD, ()),
    18: ("pwrite64", FD, ()),
    20: ("writev", FD, ()),
    296: ("pwritev", FD, ()),
    328: ("pwritev2", FD, ()),
    40: ("sendfile", FD, ()),
    275: ("splice", "fd2", ()),
    326: ("copy_file_range", "fd2", ()),
    74: ("fsync", FD, ()),
    75: ("fdatasync", FD, ()),
    277: ("sync_file_range", FD, ()),
    306: ("syncfs", FD, ()),
    162: ("sync", "always", ()),
    73: ("flock", FD, ()),
    16: ("ioctl", "ioctl", ()),
    165: ("mount", "path", (1,)),
    166: ("umount2", "path", (0,)),
    428: ("open_tree", "path", (1,)),
    429: ("move_mount", "path", (3,)),
    431: ("fsconfig", "always", ()),
    432: ("fsmount", "always", ()),
    442: ("mount_setattr", "always", ()),
}
READING: dict[int, tuple[str, str, tuple[int, ...]]] = {
    0: ("read", FD, ()),
    17: ("pread64", FD, ()),
    217: ("getdents64", FD, ()),
    5: ("fstat", FD, ()),
    4: ("stat", "path", (0,)),
    6: ("lstat", "path", (0,)),
    262: ("newfstatat", "path", (1,)),
    332: ("statx", "path", (1,)),
    137: ("statfs", "path", (0,)),
    138: ("fstatfs", FD, ()),
    191: ("getxattr", "path", (0,)),
    193: ("fgetxattr", FD, ()),
}
CREATING = os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
BTRFS_READING = {0x11, 0x12, 0x19, 0x1F, 0x3C, 0x3D, 0x3E}
"""Of BTRFS ioctls: TREE_SEARCH, INO_LOOKUP, GETFLAGS, FS_INFO, GET_SUBVOL_INFO, GET_SUBVOL_ROOTREF, INO_LOOKUP_USER."""
START_SYNC, WAIT_SYNC = 0x80089418, 0x40089416
LOOP_CHANGING = {0x00, 0x01, 0x04, 0x0A, 0x82}
"""Of loop device ioctls: SET_FD, CLR_FD, SET_STATUS64, CONFIGURE, CTL_GET_FREE."""

MEANWHILE = 0.5
"""Seconds that another command gets. Undisturbed it needs a fifth of that."""

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    """ptrace(2). Raises OSError."""
    ctypes.set_errno(0)
    result: int = libc.ptrace(request, pid, address, data)
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def install_filter(numbers: list[int]) -> None:
    """From here on the kernel stops us and our children at these calls, and at nothing else."""
    load = struct.pack("<HBBI", 0x20, 0, 0, 0)
    tests = [struct.pack("<HBBI", 0x15, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    ends = [struct.pack("<HBBI", 0x06, 0, 0, RET_ALLOW), struct.pack("<HBBI", 0x06, 0, 0, RET_TRACE)]
    program = b"".join([load, *tests, *ends])
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(code)), 16)
    if libc.syscall(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, 0, header) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def commit(path: str) -> None:
    """Commit a BTRFS and wait for it. SYNC and syncfs(2) would write the data of files first."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        transaction = bytearray(8)
        fcntl.ioctl(directory, START_SYNC, transaction)
        fcntl.ioctl(directory, WAIT_SYNC, bytes(transaction))
    finally:
        os.close(directory)


class Tracer:
    """Follows one command to its end."""

    def __init__(self, options: argparse.Namespace, said: IO[bytes]) -> None:
        self.options = options
        self.said = said
        self.known = CHANGING | READING if options.reads else CHANGING
        self.calls: list[str] = []
        self.hit = False
        self.main = 0
        self.tracees: set[int] = set()
        self.other = 0
        self.other_status: int | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The status of the main process: exit code, or minus the signal that ended it."""
        self.main = os.fork()
        if self.main == 0:
            self.become_command()
        os.waitpid(self.main, 0)
        ptrace(SETOPTIONS, self.main, 0, OPTIONS)
        ptrace(CONT, self.main)
        self.tracees = {self.main}
        status = -1
        while True:
            try:
                pid, state = os.waitpid(-1, WALL)
            except ChildProcessError:
                return status
            if os.WIFSTOPPED(state):
                self.tracees.add(pid)
                self.stopped(pid, state)
                continue
            self.tracees.discard(pid)
            if pid == self.other:
                self.other_status = os.waitstatus_to_exitcode(state)
            if pid == self.main:
                status = os.waitstatus_to_exitcode(state)

    def become_command(self) -> None:
        """In the child: be traced, become the user, become the command."""
        try:
            ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            install_filter(sorted(self.known))
            if self.options.uid is not None:
                os.setgroups([])
                os.setresgid(self.options.gid, self.options.gid, self.options.gid)
                os.setresuid(self.options.uid, self.options.uid, self.options.uid)
            os.execvp(self.options.command[0], self.options.command)
        except BaseException as error:
            os.write(2, f"tracer: {error}\n".encode())
        os._exit(127)

    def stopped(self, pid: int, state: int) -> None:
        number, event = os.WSTOPSIG(state), state >> 16
        deliver = 0
        try:
            if event == EVENT_SECCOMP:
                self.called(pid)
            elif event == 0 and number not in (signal.SIGSTOP, signal.SIGTRAP):
                deliver = number
            ptrace(CONT, pid, 0, deliver)
        except ProcessLookupError:
            pass  # killed, and we with it not yet told

    def called(self, pid: int) -> None:
        """A call that we know is about to begin."""
        if self.hit and not self.options.onwards:
            return
        call = Call(pid, self.known, self.options)
        if not call.counts:
            return
        self.calls.append(str(call))
        if self.options.commit:
            commit(self.options.commit)
        if not self.options.at or len(self.calls) < self.options.at:
            return
        self.hit = True
        if self.options.errno is not None:
            call.refuse(self.options.errno)
        elif self.options.signal is not None:
            os.kill(self.main, self.options.signal)
        elif self.options.meanwhile is not None:
            self.run_other(self.options.meanwhile)
        else:
            victims = {"tree": self.tracees, "caller": {pid}, "main": {self.main}}[self.options.kill]
            for victim in victims:
                try:
                    os.kill(victim, signal.SIGKILL)  # a thread's id ends its whole process
                except ProcessLookupError:
                    pass

    def run_other(self, argv: list[str]) -> None:
        """Start another command and give it some time."""
        # Kept: an object that is dropped waits for its process by itself.
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said)
        self.other = self.process.pid
        end = time.monotonic() + MEANWHILE
        while time.monotonic() < end:
            self.other_status = self.process.poll()
            if self.other_status is not None:
                return
            time.sleep(0.005)


class Call:
    """A system call that a stopped thread is about to make."""

    def __init__(self, pid: int, known: dict[int, tuple[str, str, tuple[int, ...]]], options: argparse.Namespace) -> None:
        self.pid = pid
        self.below = options.below
        self.reads = options.reads
        registers = (ctypes.c_ulonglong * 27)()
        ptrace(GETREGS, pid, 0, ctypes.addressof(registers))
        self.arguments = [int(registers[i]) for i in ARGUMENTS]
        self.name, kind, places = known[int(registers[ORIG_RAX])]
        self.subjects: list[str] = []
        self.counts = self.examine(kind, places)

    def examine(self, kind: str, places: tuple[int, ...]) -> bool:
        """Whether the call changes something in the place that we look at."""
        if kind == "always":
            return True
        if kind == "ioctl":
            group, number = self.arguments[1] >> 8 & 0xFF, self.arguments[1] & 0xFF
            self.name = f"ioctl {group:#x}:{number:#x}"
            if group == 0x4C:
                return number in LOOP_CHANGING
            self.subjects = [self.open_file(self.arguments[0])]
            return group == 0x94 and (self.reads or number not in BTRFS_READING) and self.is_below()
        if kind in ("fd", "fd2"):
            self.subjects = [self.open_file(self.arguments[0 if kind == "fd" else 2])]
            return self.is_below() or self.subjects[0].startswith("/dev/loop")
        if kind == "open" and not self.reads and not self.flags(places[0]) & CREATING:
            return False
        self.subjects = [self.path(place) for place in places]
        return self.is_below()

    def is_below(self) -> bool:
        return any(subject.startswith(self.below) for subject in self.subjects)

    def flags(self, path: int) -> int:
        """Flags of an open; `openat2` has them in a structure."""
        value = self.arguments[path + 1]
        return struct.unpack("<Q", self.memory(value, 8))[0] if self.name == "openat2" else value

    def path(self, place: int) -> str:
        """A path argument, absolute. A descriptor stands before it where there is one."""
        text = self.memory(self.arguments[place], 4096).partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if text.startswith("/"):
            return text
        relative = place > 0 and self.name not in ("rename", "link", "symlink", "mount")
        fd = self.arguments[place - 1] & 0xFFFFFFFF if relative else 0xFFFFFF9C
        if self.name == "symlinkat":
            fd = self.arguments[1] & 0xFFFFFFFF
        base = self.link("cwd") if fd == 0xFFFFFF9C else self.open_file(fd)
        return f"{base}/{text}"

    def open_file(self, fd: int) -> str:
        return self.link(f"fd/{fd & 0xFFFFFFFF}")

    def link(self, name: str) -> str:
        try:
            return os.readlink(f"/proc/{self.pid}/{name}")
        except OSError:
            return "?"

    def memory(self, address: int, size: int) -> bytes:
        """Bytes of the caller's memory, up to the end of the page where there are no more."""
        if address == 0:
            return b""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            for length in (size, -address % 4096 or 4096):
                try:
                    return os.pread(memory.fileno(), min(length, size), address)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
        return b""

    def refuse(self, number: int) -> None:
        """Let the call fail: its number becomes none, its result ours."""
        ptrace(POKEUSER, self.pid, ORIG_RAX * 8, (1 << 64) - 1)
        ptrace(POKEUSER, self.pid, RAX * 8, (1 << 64) - number)

    def __str__(self) -> str:
        return " ".join([self.name, *self.subjects])


def main() -> None:
    """See the top of the file."""
    if platform.machine() != "x86_64":
        sys.exit("tracer: knows the system calls of x86-64 only")
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", required=True)
    parser.add_argument("--below", required=True)
    parser.add_argument("--reads", action="store_true")
    parser.add_argument("--commit")
    parser.add_argument("--onwards", action="store_true")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--kill", choices=["tree", "caller", "main"], default="tree")
    parser.add_argument("--signal", type=int)
    parser.add_argument("--errno", type=int)
    parser.add_argument("--meanwhile", type=json.loads)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryFile() as said:
        report(Tracer(options, said), options.report)


def report(tracer: Tracer, path: str) -> None:
    """Run, and write down what was seen."""
    # The terminal's and the harness's signals are for the command.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    status = tracer.run()
    tracer.said.seek(0)
    said = tracer.said.read().decode("utf-8", "replace")
    seen = {"calls": tracer.calls, "status": status, "hit": tracer.hit, "other": tracer.other_status, "said": said}
    Path(path).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
