"""Check the content of volumes: compare each with the listings that its layers left when they were unpacked.

A volume is held (shared) while it is read, so that no clean takes it away; creates use it meanwhile as ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from groot_fast._core import Store
from groot_fast.errors import BadLayer
from groot_fast.idmap.trees import Trees
from groot_fast.upkeep.findings import ERROR, NOTE, WARNING, Finding, is_chain_id

NAMED = 3
"""How many volumes a remark names."""


def check_content(store: Store, trees: Trees) -> Iterator[Finding]:
    """What is not as it was unpacked. Raises Cancelled, OSError."""
    unknown: list[str] = []
    for name in filter(is_chain_id, store.volumes()):
        held = store.observe(name)
        if held is None:
            continue  # being marked by a clean
        with held:
            if not store.has_volume(name):
                continue
            path = f"{store.path}/volumes/{name}"
            listings = store.open_listings(name)
            if listings is None:
                unknown.append(name)
                continue
            root = store.open_volume(name)
            try:
                entries, different, told = trees.verify(root, listings)
            except BadLayer as error:
                cure = "the volume is made anew, with a listing, once no image uses it and `grootfs clean` took it"
                yield Finding(WARNING, "damaged-listing", path, f"cannot be verified: {error}", cure)
                continue
            finally:
                for descriptor in (root, *(file for _, file in listings)):
                    os.close(descriptor)
            if different:
                more = f"; and {different - len(told)} more" if different > len(told) else ""
                problem = f"{different} of {entries} paths are not as they were unpacked: {'; '.join(told)}{more}"
                cure = "`grootfs clean` once no image uses it; images made of it hold the same, so create them again"
                yield Finding(ERROR, "damaged-content", path, problem, cure)
    if unknown:
        problem = f"{len(unknown)} volume{'s' if len(unknown) > 1 else ''} without the listings to verify: {', '.join(unknown[:NAMED])}"
        more = ", ..." if len(unknown) > NAMED else ""
        cure = "none needed; the original and older releases wrote no listings"
        yield Finding(NOTE, "not-verifiable", f"{store.path}/volumes", problem + more, cure)
