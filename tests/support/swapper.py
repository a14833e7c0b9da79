"""A program: exchange two names once, or until something comes on stdin; then print how often that went. Instead of the first there
may be a folder: then it is what has come into that since its names were written into a file."""

from __future__ import annotations

import ctypes
import os
import select
import sys

AT_FDCWD = -100
RENAME_EXCHANGE = 2
BATCH = 200
"""Exchanges between two looks at stdin."""


def main(how: str, one: str, other: str, known: str = "") -> None:
    exchange = ctypes.CDLL(None).renameat2
    if known:
        with open(known, encoding="utf-8") as file:
            new = set(os.listdir(one)) - set(file.read().split())
        one = os.path.join(one, new.pop() if new else ".none")
    names = [os.fsencode(one), os.fsencode(other)]
    if how == "once":
        print(int(exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0))
        return

    def batch() -> int:
        return sum(exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0 for _ in range(BATCH))

    done = batch()
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        done += batch()
    print(done)


if __name__ == "__main__":
    main(*sys.argv[1:])
