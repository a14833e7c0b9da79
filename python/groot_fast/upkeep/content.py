"""Check the content of volumes: hold each against the listings that its layers left when they were unpacked.

A volume is held (shared) while it is read, so that no clean takes it away; creates use it meanwhile as ever.
"""

from __future__ import annotations

from groot_fast.errors import BadLayer
from groot_fast.store import locks, records
from groot_fast.store.check import ERROR, NOTE, WARNING, Finding, is_chain_id
from groot_fast.store.volumes import list_volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from groot_fast.drivers import Driver
    from groot_fast.store.layout import Store

NAMED = 3
"""How many volumes a remark names."""


def check_content(store: Store, driver: Driver) -> Iterator[Finding]:
    """What is not as it was unpacked. Raises Cancelled, OSError."""
    unknown: list[str] = []
    for name in sorted(filter(is_chain_id, list_volumes(store))):
        held = locks.observe(store, name)
        if held is None:
            continue  # being marked by a clean
        with held:
            path = store.volume(name)
            if not driver.is_volume(path):
                continue
            listings = _listings_of(store, name)
            if listings is None:
                unknown.append(name)
                continue
            try:
                entries, different, told = driver.operations.verify(path, listings)
            except BadLayer as error:
                cure = "the volume is made anew, with a listing, once no image uses it and `grootfs clean` took it"
                yield Finding(WARNING, "damaged-listing", path, f"cannot be verified: {error}", cure)
                continue
            if different:
                more = f"; and {different - len(told)} more" if different > len(told) else ""
                problem = f"{different} of {entries} paths are not as they were unpacked: {'; '.join(told)}{more}"
                cure = "`grootfs clean` once no image uses it; images made of it hold the same, so create them again"
                yield Finding(ERROR, "damaged-content", path, problem, cure)
    if unknown:
        problem = f"{len(unknown)} volume{'s' if len(unknown) > 1 else ''} without the listings to verify: {', '.join(unknown[:NAMED])}"
        more = ", ..." if len(unknown) > NAMED else ""
        cure = "none needed; the original and older releases wrote no listings"
        yield Finding(NOTE, "not-verifiable", store.folder("volumes"), problem + more, cure)


def _listings_of(store: Store, chain_id: str) -> list[str] | None:
    """The listings of a volume's layers, bottom to top; None where one is missing, or speaks of another volume below."""
    paths: list[str] = []
    seen: set[str] = set()
    head = records.read_listing_head(store, chain_id)
    while head is not None and chain_id not in seen:
        seen.add(chain_id)
        paths.append(records.listing_path(store, chain_id))
        if head.parent is None:
            return paths[::-1]
        chain_id, wanted = head.parent, head.parent_ident
        head = records.read_listing_head(store, chain_id)
        if head is not None and head.ident != wanted:
            return None
    return None
