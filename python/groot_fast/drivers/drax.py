"""Calling `drax`, the helper that may touch quota groups (its threat model: ``rust/drax/THREAT-MODEL.md``).

It is started here, outside any user namespace: inside one it would have no privilege.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

from groot_fast.errors import QuotaError

INSTALL_HINT = "`make install` puts drax in place; or give its path with --drax-bin"


def run_drax(binary: str, *arguments: str) -> str:
    """Run drax; gives what it printed. Raises QuotaError with the original's texts (contract, section 7.4)."""
    found = shutil.which(binary)
    if found is None:
        raise QuotaError("drax was not found in the $PATH", hint=INSTALL_HINT)
    if os.geteuid() != 0 and not is_privileged(found):
        raise QuotaError("missing the setuid bit on drax", hint=f"chown root {found} && chmod u+s {found}")
    done = subprocess.run(
        [found, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, check=False
    )
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        raise QuotaError(said or f"drax: exit status {done.returncode}")
    return said


def is_privileged(path: str) -> bool:
    """Whether a program has root's setuid bit or a file capability."""
    status = os.stat(path)
    if status.st_mode & stat.S_ISUID and status.st_uid == 0:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False
