"""Id mappings: their syntax, where they come from, and who owns a store because of them (contract, section 12)."""

from __future__ import annotations

from groot_fast.errors import UsageError

MAX_ID = 0xFFFF_FFFE
"""The last id; the one behind it means "leave unchanged" to the kernel."""


class Mapping:
    """``size`` ids from ``inside`` (in the image) are ``host`` and up on this machine."""

    __slots__ = ("host", "inside", "size")

    def __init__(self, inside: int, host: int, size: int) -> None:
        self.inside = inside
        self.host = host
        self.size = size

    def __str__(self) -> str:
        return f"{self.inside}:{self.host}:{self.size}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


class Mappings:
    """The user and group mappings of a store."""

    __slots__ = ("gids", "uids")

    def __init__(self, uids: list[Mapping], gids: list[Mapping]) -> None:
        self.uids = uids
        self.gids = gids

    def __bool__(self) -> bool:
        return bool(self.uids or self.gids)

    def owner(self) -> tuple[int, int] | None:
        """Host ids of the image's root where they have a mapping of size 1 of their own (contract, section 12.3)."""
        uid, gid = _root_of(self.uids), _root_of(self.gids)
        if uid is None or gid is None:
            return None
        return uid, gid

    def ranges(self) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        """The mappings as the core takes them."""
        return (
            [(m.inside, m.host, m.size) for m in self.uids],
            [(m.inside, m.host, m.size) for m in self.gids],
        )


def are_same(one: list[Mapping], other: list[Mapping]) -> bool:
    """Whether two lists hold the same mappings, in any order."""
    return sorted(map(str, one)) == sorted(map(str, other))


def _root_of(mappings: list[Mapping]) -> int | None:
    return next((m.host for m in mappings if m.inside == 0 and m.size == 1), None)


def parse_mapping(text: str) -> Mapping:
    """Parse ``<namespace id>:<host id>:<size>``.

    Raises ValueError with the original's words: ``expected integer`` or ``unexpected EOF``.
    """
    parts = text.split(":")
    if len(parts) < 3:
        raise ValueError("unexpected EOF" if all(p.isdecimal() for p in parts if p) else "expected integer")
    if len(parts) > 3 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError("expected integer")
    inside, host, size = map(int, parts)
    if size == 0 or inside + size - 1 > MAX_ID or host + size - 1 > MAX_ID:
        raise ValueError(f"ids out of range: {text}")
    return Mapping(inside, host, size)


def check_overlap(mappings: list[Mapping], kind: str) -> None:
    """Refuse ranges that share ids on either side: which one would count depends on the reader. Raises UsageError."""
    for i, one in enumerate(mappings):
        for other in mappings[i + 1 :]:
            if _meet(one.inside, one.size, other.inside, other.size) or _meet(one.host, one.size, other.host, other.size):
                raise UsageError(f"{kind} mappings {one} and {other} overlap")


def _meet(a: int, a_size: int, b: int, b_size: int) -> bool:
    return a < b + b_size and b < a + a_size


def parse_mappings(texts: list[str], kind: str) -> list[Mapping]:
    """Parse the values of ``--uid-mapping`` or ``--gid-mapping``. Raises UsageError."""
    try:
        mappings = [parse_mapping(text) for text in texts]
    except ValueError as error:
        raise UsageError(f"parsing {kind}-mapping: {error}") from None
    check_overlap(mappings, f"{kind}")
    return mappings


def read_subordinate(user: str, group: str) -> Mappings:
    """The mappings of ``init-store --rootless user:group``: the user itself as root, and behind it every range that
    ``/etc/subuid`` and ``/etc/subgid`` give (contract, section 12.2). Raises UsageError.
    """
    import grp
    import pwd

    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"error reading mappings for user '{user}': no matching entries in passwd file") from None
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"error reading mappings for group '{group}': no matching entries in group file") from None
    return Mappings(_subordinate("/etc/subuid", user, uid), _subordinate("/etc/subgid", group, gid))


def _subordinate(path: str, name: str, own: int) -> list[Mapping]:
    mappings = [Mapping(0, own, 1)]
    inside = 1
    for who, start, count in read_ranges(path):
        if who in (name, str(own)):
            mappings.append(Mapping(inside, start, count))
            inside += count
    return mappings


def read_ranges(path: str) -> list[tuple[str, int, int]]:
    """The lines of ``/etc/subuid`` or ``/etc/subgid`` as (user, first id, count); broken lines are left out."""
    ranges = []
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                parts = line.strip().split(":")
                if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal() and int(parts[2]) > 0:
                    ranges.append((parts[0], int(parts[1]), int(parts[2])))
    except FileNotFoundError:
        pass
    return ranges
