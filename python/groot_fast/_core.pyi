"""Contract of the Rust extension.

All paths are ``str`` or ``os.PathLike``. Calls that do I/O release the GIL. What the operating system refuses is an
``OSError`` with ``errno`` whose ``strerror`` is the whole message; everything else is a class of `groot_fast.errors`.
No call leaves threads behind; `unpack`, `copy_directory`, `verify` and `fingerprint` handle signals while they run and stop
within a tenth of a second when `Cancel.set` is called or a signal handler raises.
"""

from os import PathLike
from typing import Any

StrPath = str | PathLike[str]
Ranges = list[tuple[int, int, int]]
"""Id ranges as (id in the archive, id on the host, count); empty means ids as they are."""

Unpacked = tuple[int, int, int, dict[str, int], list[str]]
"""(bytes of file content written, bytes of lower layers' content taken away, entries, what was left out and how
often, notes for the log)."""

Listing = tuple[StrPath, StrPath, tuple[int, int] | None, str]
"""Where the listing of what was done goes: path, temporary path, owner on the host (None: the caller), and what the volume
was built on: its chain id and its listing's id with a space between, ``- -`` for nothing."""

class Cancel:
    """A switch that stops the calls it was given to; usable from any thread."""

    def __init__(self) -> None: ...
    def set(self) -> None:
        """Stop: those calls raise `Cancelled`."""

class Spool:
    """A blob that is being downloaded into the file ``path`` (which must exist) while `unpack` already reads it.

    ``written`` bytes at the start of the file are good; what is behind them is cut off. One writer, any readers.
    """

    def __init__(self, path: StrPath, written: int) -> None: ...
    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
    @property
    def written(self) -> int:
        """Bytes so far; the last of them, less than a mebibyte, are in the file after `save`, `finish` or `fail`."""
    @property
    def unread(self) -> int:
        """Bytes that no reader has had yet."""
    def save(self) -> None:
        """Put all of it into the file now. Raises OSError."""
    def copy_to(self, descriptor: int) -> None:
        """Write everything to a pipe as it comes, until the end. Raises `BadBlob` after `fail`, OSError."""
    def finish(self) -> None:
        """No more bytes will come, and all are in the file; readers see the end. Raises OSError."""
    def fail(self, reason: str) -> None:
        """Readers end with `BadBlob(reason)`."""

def unpack(
    root: StrPath,
    blob: StrPath | Spool | int,
    *,
    digest: str | None,
    size: int | None,
    diff_id: str | None,
    media_type: str,
    base: StrPath,
    uids: Ranges,
    gids: Ranges,
    max_content: int | None,
    listing: Listing | None,
    cancel: Cancel,
) -> Unpacked:
    """Unpack one layer into the directory ``root``, which holds the layers below it.

    ``blob`` is a path, a growing file, or a descriptor (which the caller keeps). ``digest`` and ``diff_id`` are hex; None
    is not checked. ``base`` is the directory the names are relative to (empty for the root). When it
    returns, the blob was what was promised to its last byte, and the listing is in its place. When it raises, ``root`` holds
    something in between, and there may be a listing of that.

    Raises `BadBlob` (digest, size), `BadLayer` (archive), `LimitExceeded`, `Cancelled`, OSError.
    """

def copy_directory(root: StrPath, source: StrPath, *, uids: Ranges, gids: Ranges, listing: Listing | None, cancel: Cancel) -> Unpacked:
    """Copy the tree below ``source`` into the empty directory ``root``. Raises as `unpack`."""

def verify(root: StrPath, listings: list[StrPath], *, uids: Ranges, gids: Ranges, cancel: Cancel) -> tuple[int, int, list[str]]:
    """Hold the volume ``root`` against the listings of its layers, bottom to top. Gives how many paths were looked at, how many
    are not as they were unpacked, and what is wrong with the first of them. Changes nothing.

    Raises `BadLayer` (a listing that is damaged or does not fit the others), `Cancelled`, OSError.
    """

def mount_idmapped(source: StrPath, target: StrPath, uids: Ranges, gids: Ranges) -> None:
    """Bind ``source`` on the directory ``target`` with translated owners (Linux 5.15 for BTRFS). Privileged."""

def unmount(target: StrPath) -> None:
    """Unmount what is on ``target``. Raises OSError (EINVAL where nothing is). Privileged."""

def fingerprint(path: StrPath, cancel: Cancel) -> str:
    """Hash (hex) over names and metadata of the tree below ``path``: another one whenever anything in it changed."""

def enter_user_namespace() -> None:
    """Put this process, which must have one thread, into a user namespace whose maps are still to be written."""

def become_namespace_root() -> None:
    """Become ids 0 of the namespace; from then on the process is killed when its parent ends."""

def hide_in_arguments(secret: bytes) -> int:
    """Overwrite a secret in the arguments that the process list shows; gives how many arguments held it. Call it before
    there are threads."""

def create_subvolume(path: StrPath) -> None:
    """Make an empty subvolume. No commit."""

def snapshot(source: StrPath, path: StrPath, *, limit: int | None = None, exclusive: bool = False) -> None:
    """Make a writable snapshot; one commit, so all written before is durable, data of the source included.

    ``limit`` (bytes) holds from the first moment under simple accounting; full accounting ignores it (`set_limit`).
    """

def delete_subvolume(path: StrPath) -> None:
    """Delete a subvolume and those nested in it. Missing is fine. Space is freed later by the kernel."""

def is_subvolume(path: StrPath) -> bool:
    """Whether ``path`` is the root of a subvolume; False for anything else. Raises OSError where the disk cannot be read."""

def subvolume_id(path: StrPath) -> int:
    """Id of the subvolume that ``path`` is in."""

def has_group(path: StrPath, id: int) -> bool:
    """Whether `enclose` made a group for subvolume ``id``."""

def subvolume_ids(path: StrPath) -> list[int]:
    """Ids of the subvolume and of those nested in it, outermost first."""

def subvolume_exists(path: StrPath, id: int) -> bool:
    """Whether the file system still has a subvolume of this id; deleted ones count until the kernel is done. Privileged."""

def sync(path: StrPath) -> None:
    """Write all data and commit the file system."""

def start_sync(path: StrPath) -> None:
    """Begin what `sync` does and do not wait for it."""

def uuid(path: StrPath) -> str:
    """UUID of the file system."""

def accounting(path: StrPath) -> str | None:
    """``"simple"``, ``"full"`` or None (off)."""

def enable_quota(path: StrPath, simple: bool) -> None:
    """Turn accounting on. Privileged."""

def disable_quota(path: StrPath) -> None:
    """Turn accounting off: all groups and limits of the file system are gone. Privileged."""

def limits(path: StrPath) -> tuple[int | None, int | None]:
    """Limits of a subvolume on referenced and on exclusive bytes; None where there is no such limit."""

def usage(path: StrPath) -> tuple[int, int] | None:
    """(referenced, exclusive) bytes as of the last commit; None where nobody counts."""

def set_limit(path: StrPath, limit: int, exclusive: bool) -> None:
    """Set the limit of an existing subvolume. Privileged."""

def lift_limits(path: StrPath) -> None:
    """Remove the limits of a subvolume and of the group that `enclose` made. Privileged."""

def enclose(path: StrPath, limit: int, exclusive: bool) -> None:
    """Charge subvolumes that are later made inside ``path`` too (simple accounting). Privileged."""

def disband_group(path: StrPath, id: int, members: list[int]) -> None:
    """Undo `enclose` of subvolume ``id``; ``path`` is any directory of the file system. Missing is fine. Privileged."""

def stale_groups(path: StrPath) -> list[tuple[int, int]]:
    """(level, id) of the quota groups that count nothing and whose subvolume is gone. Privileged."""

def remove_stale_groups(path: StrPath) -> int:
    """Remove those of level 0; gives how many. Privileged."""

def is_inconsistent(path: StrPath) -> bool:
    """Whether full accounting has lost count."""

def list_subvolumes(path: StrPath) -> list[str]:
    """Subvolumes below a directory, relative to it; not those nested in others of them, nor where the caller may not walk."""

def parse_json(document: bytes) -> Any:
    """Parse one JSON document. At most 128 levels, no duplicate keys, UTF-8 only. Raises ValueError."""

def format_json(value: object) -> str:
    """Compact JSON of plain objects, escaped as Go does."""

def parse_yaml(text: str) -> Any:
    """Parse YAML without aliases, tags and duplicate keys. Raises ValueError."""

def sha256(data: bytes) -> str:
    """SHA-256 in hex."""

def write_record(path: StrPath, temporary: StrPath, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write ``data`` to ``temporary``, then rename it to ``path``. The data is on disk before the name can be."""

def rename_new(source: StrPath, target: StrPath, /) -> None:
    """Rename; FileExistsError where something is at ``target``, an empty directory included."""

def parse_reference(url: str) -> tuple[str, str, str | None, str | None, str]:
    """Registry as the user spelled it, repository, tag, digest (exactly one of the two), and the host that speaks the registry's
    interface. Raises `SourceError`, or `BadImage` for a digest that is none; never repeats a URL that could hold a password."""

def canonical_host(host: str) -> str:
    """A host[:port] in the one spelling by which it is compared: lower case, IPv6 in its short form."""

def is_listed_host(spellings: list[str], hosts: list[str]) -> bool:
    """Whether a user's list of host[:port] holds any of the spellings of one host."""

def certificates_directory(bases: list[StrPath], spellings: list[str]) -> str | None:
    """The first directory ``base/host[:port]`` that is there, for the spellings of one host in their order."""

def list_certificates(directory: StrPath) -> tuple[list[str], list[tuple[str, str]]]:
    """Authorities (``*.crt``) and client certificates with their keys. Raises `ConfigError`."""

def parse_mirror(text: str) -> tuple[str | None, str, str]:
    """The only scheme to speak (None: https, or what an insecure registry answers), host[:port], and what stands before the
    names of repositories. Raises `ConfigError`."""

def credential_places(path: StrPath, registry: str, repository: str) -> list[tuple[str, str] | tuple[str, str, str, str]] | None:
    """Where docker's `config.json` says that a repository's credentials are, in the order to try: (helper, server to ask it for), or
    (username, password, identity token, registry token). None where there is no such file. Raises `ConfigError`."""

def parse_challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Schemes and parameters of one `WWW-Authenticate` header. Raises `RegistryError`."""

def choose_challenge(headers: list[str]) -> tuple[str, dict[str, str]] | None:
    """The challenge to answer: bearer before basic; None where there are none. Raises `RegistryError` if none can be answered."""

def named_scope(scope: str) -> str | None:
    """What of a challenge's scope may be asked for: of a repository only `pull`. None if nothing."""

def reach(address: str) -> int:
    """Who can open a connection to an address: 0 nobody may, 1 this machine, 2 the own network, 3 everybody. Raises ValueError."""

def is_disguised(host: str) -> bool:
    """Whether resolvers read a host as an address that is no proper literal: 127.1, 0x7f000001, 0177.0.0.1."""
