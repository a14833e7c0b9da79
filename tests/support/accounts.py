"""An ordinary account with subordinate ids."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.tree import Tree

FIRST, COUNT = 300_000, 100_000
"""The account's range of subordinate user and group ids."""


class User(NamedTuple):
    """An account; its user and group have the same name."""

    name: str
    uid: int
    gid: int

    def seen_from_inside(self, tree: Tree) -> Tree:
        """The tree with the owners that a container of this user sees."""
        return {
            path: node._replace(owner=(_inside(node.owner[0], self.uid), _inside(node.owner[1], self.gid))) for path, node in tree.items()
        }


def _inside(host: int, own: int) -> int:
    if host == own:
        return 0
    assert FIRST <= host < FIRST + COUNT, f"{host} is nobody's id in the store"
    return host - FIRST + 1


@contextmanager
def make_account() -> Iterator[User]:
    """Make an account, and remove it afterwards."""
    name = f"groot{os.getpid()}"
    subprocess.run(["useradd", "-M", "-d", "/", "-s", "/bin/sh", "-U", name], check=True)
    try:
        for kind in ("subuid", "subgid"):
            lines = [line for line in Path(f"/etc/{kind}").read_text().splitlines() if not line.startswith(f"{name}:")]
            Path(f"/etc/{kind}").write_text("\n".join([*lines, f"{name}:{FIRST}:{COUNT}", ""]))
        entry = pwd.getpwnam(name)
        assert grp.getgrgid(entry.pw_gid).gr_name == name
        yield User(name, entry.pw_uid, entry.pw_gid)
    finally:
        subprocess.run(["userdel", name], check=True)
