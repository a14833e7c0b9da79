"""Contract of the Rust extension.

All paths are ``str`` or ``os.PathLike``. Calls that do I/O release the GIL. What the operating system refuses is an
``OSError`` with ``errno`` whose ``strerror`` is the whole message; everything else is a class of `groot_fast.errors`.
No call leaves threads behind; `unpack`, `copy_directory`, `verify` and `fingerprint` handle signals while they run and stop
within a tenth of a second when `Cancel.set` is called or a signal handler raises.
"""

from os import PathLike
from typing import Any, Self, final

from typing_extensions import disjoint_base

StrPath = str | PathLike[str]
Ranges = list[tuple[int, int, int]]
"""Id ranges as (id in the archive, id on the host, count); empty means ids as they are."""

Unpacked = tuple[int, int, int, dict[str, int], list[str], dict[str, int]]
"""(bytes of the layer's file content, bytes of lower layers' content taken away, entries, what was left out and how
often, notes for the log, how many of the bytes were cloned from which volume)."""

@final
class Cancel:
    """A switch that stops the calls it was given to; usable from any thread."""

    def __new__(cls) -> Self: ...
    def set(self) -> None:
        """Stop: those calls raise `Cancelled`."""

@final
class Spool:
    """A blob that is being downloaded into the file ``path`` (which must exist) while `unpack` already reads it.

    ``written`` bytes at the start of the file are good; what comes after them is cut off. One writer, any readers.
    """

    def __new__(cls, path: StrPath, written: int) -> Self: ...
    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
    @property
    def room(self) -> int:
        """Fewer bytes than this are written without access to the disk."""
    @property
    def written(self) -> int:
        """Bytes so far; the last of them, less than a mebibyte, are in the file after `save`, `finish` or `fail`."""
    @property
    def unread(self) -> int:
        """Bytes that no reader has had yet."""
    def pass_on(self) -> None:
        """Write nothing more to the file: each byte is there for one reader, once, and in memory until then. The writer has to
        keep `unread` small."""
    def save(self) -> None:
        """Put all of it into the file now. Raises OSError."""
    def copy_to(self, descriptor: int, cancel: Cancel) -> None:
        """Write everything to a pipe as it comes, until the end. Raises `BadBlob` after `fail`, `Cancelled`, OSError."""
    def finish(self) -> None:
        """No more bytes will come, and all are in the file; readers see the end. Raises OSError."""
    def fail(self, reason: str) -> None:
        """Readers end with `BadBlob(reason)`."""

@final
class Listing:
    """Where the listing of what a layer did goes. It is taken once, by `unpack` or `copy_directory`."""

    def __new__(cls, at: tuple[int, str], temporary: tuple[int, str], parent: str, goes_on: bool) -> Listing:
        """In a user namespace: from what `parts` gave, with descriptors of this process. Raises OSError."""
    def parts(self) -> tuple[tuple[int, str], tuple[int, str], str, bool] | None:
        """(directory, name), (directory of temporary files, temporary name), what the volume was built on, and whether the steps of the
        listing that is there come first; the descriptors are valid as long as this object. None after it was taken."""
    @property
    def owner(self) -> tuple[int, int] | None:
        """Owner of the file on the host, if not the caller."""

@final
class Recent:
    """The volumes of a store that were used last, from when `Store.neighbours` needs them first."""

    def __new__(cls) -> Recent: ...

@final
class Neighbours:
    """Volumes whose files a new layer may share. It is taken once, by `unpack`."""

    def __new__(cls, volumes: int, listings: int, names: list[str], budget: int) -> Neighbours:
        """In a user namespace: from what `parts` gave, with descriptors of this process. Raises OSError."""
    def parts(self) -> tuple[int, int, list[str], int] | None:
        """Directories of volumes and of listings, names of the volumes, the most promising first, and how many bytes of listings may be
        read; the descriptors are valid as long as this object. None after it was taken."""

class PanicException(BaseException):
    """A panic in the core: a defect."""

_Setting = str | int | bool | list[str] | dict[str, list[str]]

@final
class Answer:
    """What is said instead of running a command: help, version, or what is wrong with the call."""

    @property
    def out(self) -> bytes:
        """For stdout."""
    @property
    def err(self) -> bytes:
        """For stderr."""
    @property
    def code(self) -> int:
        """The exit code."""

@final
class Rules:
    """What is so in the era whose callers are served; what each means is said in the table, ``rust/cli/src/era.rs``."""

    def __new__(cls, word: str) -> Rules:
        """Of an era. Raises ConfigError for what is no word of one."""
    @property
    def word(self) -> str: ...
    @property
    def tells_commands(self) -> bool: ...
    @property
    def has_volumes(self) -> bool: ...
    @property
    def counts_limits(self) -> bool: ...
    @property
    def cleans_apart(self) -> bool: ...
    @property
    def shows_limits(self) -> bool: ...
    @property
    def gauges_layers(self) -> bool: ...
    @property
    def measures_newly(self) -> bool: ...
    @property
    def hints(self) -> bool: ...
    @property
    def takes_directories(self) -> bool: ...
    @property
    def tells_sizes(self) -> bool: ...
    @property
    def stops_at_limit(self) -> bool: ...
    @property
    def quotes_refusals(self) -> bool: ...
    @property
    def keeps_empty_store(self) -> bool: ...
    @property
    def not_deleted(self) -> tuple[str, str]: ...
    @property
    def not_measured(self) -> tuple[str, str] | None: ...
    @property
    def outside(self) -> str: ...

@final
class Call:
    """One call of a command. Its log has ``starting`` already, and its metrics have ``began``."""

    @property
    def command(self) -> str:
        """The command's name."""
    @property
    def values(self) -> dict[str, _Setting]:
        """File, environment and options, joined, by setting."""
    @property
    def given(self) -> dict[str, _Setting]:
        """The command's own options that were given, by name."""
    @property
    def rules(self) -> Rules:
        """Of the era whose callers are served."""
    @property
    def positional(self) -> list[str]:
        """The other arguments."""
    @property
    def log(self) -> Logger:
        """The command's session."""
    @property
    def metrics(self) -> Metrics:
        """What is measured; without traces."""
    def of_success(self, text: str) -> str:
        """What it prints after success: the text, or for programs a document (``--output json``)."""
    def of_failure(self, classes: list[str], message: str, hint: str | None, /) -> str | None:
        """The document that it prints for programs after a failure, of an exception's class and those it is derived from; None if
        it prints text."""
    def perform(self) -> str | None:
        """Do it without Python; gives what to print, or None if it cannot be done so. Raises GrootError."""

def read_call(argv: list[str], environment: dict[str, str], program: StrPath) -> Call | Answer:
    """Read a call of the command installed at ``program`` (empty where that is not known): argv without the program's name. A
    password in it no longer shows in the process list."""

def read_configuration(path: StrPath) -> dict[str, _Setting]:
    """The values of a configuration file, by setting. Raises ConfigError."""

def unknown_keys(path: StrPath) -> list[str]:
    """Keys of a configuration file that nothing reads, dotted. Raises ConfigError."""

def start_clean(values: dict[str, _Setting], log: Logger, program: list[str]) -> None:
    """Start the clean that follows a create as a process of its own, by a program and its first arguments, and do not wait for it.
    Raises ConfigError."""

def configuration_keys() -> dict[str, list[str]]:
    """Spellings of each setting's key in the file, the newest first."""

def say(text: str, code: int) -> int:
    """Write a result to stdout; on a terminal what terminals obey is escaped. Gives the exit code: 1 if it could not be written, with a
    line on stderr unless it is the reader that went away."""

def check_settings(values: dict[str, _Setting]) -> dict[str, Any]:
    """All settings of a run (the attributes of `groot_fast.config.Settings`), from values by setting. Raises ConfigError."""

@final
class Sink:
    """Where lines of the log go."""

def open_sink(path: StrPath | None, level: str | None, time_format: str = "unix-epoch") -> Sink:
    """A sink for the options ``--log-file`` (None or empty: stderr), ``--log-level`` and ``--log-time-format``. A log file raises
    ``fatal`` to ``info``. Raises OSError if the file cannot be opened."""

@final
class Logger:
    """A session of the log. Sessions nest; each has a dotted number and data that all its lines carry. As a context it writes
    ``starting``, ``failed`` and ``ending``."""

    def __new__(cls, sink: Sink, message: str, *, data: dict[str, Any] | None = None) -> Self: ...
    @staticmethod
    def silent() -> Logger:
        """One that writes nothing."""
    def in_sink(self, sink: Sink) -> Logger:
        """The same session, with its lines elsewhere."""
    def session(self, name: str, /, **data: object) -> Logger:
        """A child session."""
    def debug(self, action: str, /, **data: object) -> None:
        """A line for developers."""
    def info(self, action: str, /, **data: object) -> None:
        """A line for operators."""
    def error(self, action: str, error: BaseException | str, /, **data: object) -> None:
        """Something failed; ``error`` becomes ``data.error``."""
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, error: BaseException | None, trace: object, /) -> None: ...

@disjoint_base
class Metrics:
    """Takes values; made by Python it does nothing with them, and a subclass does what it likes. Usable from any thread."""

    def __new__(cls, *arguments: object, **keywords: object) -> Self: ...
    @property
    def is_active(self) -> bool:
        """Whether the values that cost something to find out are wanted."""
    def send(self, name: str, value: float, unit: str) -> None:
        """Report one value."""
    def send_apart(self, name: str, value: float, adding: float, unit: str) -> None:
        """Report what is a value of its own for metron, and adds up for Prometheus."""
    def began(self, command: str) -> None:
        """A command begins."""
    def ended(self, command: str, code: int, message: str) -> None:
        """A command ended with this exit code; ``message`` says why, if it failed."""
    def close(self) -> None:
        """No more values will come."""

def open_metrics(endpoint: str, log: Logger, file: StrPath, store: str) -> Metrics:
    """The metrics of one command: to metron at ``host:port``, and into a file for Prometheus with ``store`` as a label; what is
    empty is not wanted. What makes no sense is a line in the log."""

def wants_traces(environment: dict[str, str]) -> bool:
    """Whether the variables of the OpenTelemetry SDK ask for traces."""

def commits_of(path: StrPath) -> int | None:
    """Commits of the file system at ``path`` since it was mounted; None if it is not BTRFS or the kernel too old (Linux 6.0)."""

@final
class Blob:
    """The bytes of a layer that is on this machine: a file at the right place. Closed with the object."""

    def fileno(self) -> int:
        """The descriptor."""
    @property
    def identity(self) -> str:
        """What tells the file from another one and, after a change, from itself: as of now. Raises OSError."""
    @property
    def length(self) -> int | None:
        """Bytes that belong to the layer; None to the end."""

@final
class Layer:
    """One layer. ``digest`` and ``diff_id`` are bare hex. What is None is not checked; the digest is a name, and checked if
    ``is_verified``."""

    def __new__(
        cls,
        *,
        chain_id: str,
        digest: str | None = None,
        diff_id: str | None = None,
        size: int | None = None,
        media_type: str = ...,
        urls: list[str] = ...,
        base_directory: str = ...,
        path: StrPath | None = None,
    ) -> Layer:
        """A layer whose bytes are in the file ``path``, or somewhere else. Raises `BadImage` for a digest that is none."""
    @property
    def chain_id(self) -> str:
        """Name of the volume with this layer and all below it."""
    @property
    def digest(self) -> str | None:
        """SHA-256 of the blob."""
    @property
    def is_verified(self) -> bool:
        """Whether the blob has to be what its digest says."""
    @property
    def diff_id(self) -> str | None:
        """SHA-256 of the uncompressed archive."""
    @property
    def size(self) -> int | None:
        """Bytes of the blob."""
    @property
    def media_type(self) -> str:
        """Empty where unknown."""
    @property
    def urls(self) -> list[str]:
        """Other places that have the blob."""
    @property
    def base_directory(self) -> str:
        """Where the layer is unpacked; empty for the root."""
    @property
    def name(self) -> str:
        """How messages call it."""
    @property
    def directory(self) -> str | None:
        """The directory to copy, if the source says that the layer is one."""
    @property
    def is_empty(self) -> bool:
        """The layer of an image without layers."""
    @property
    def is_foreign(self) -> bool:
        """Whether a registry need not have it, by its media type."""
    def is_here(self) -> bool:
        """Whether there is something on this machine where its bytes should be."""
    def open(self) -> Blob:
        """The bytes, if they are a regular file. Raises OSError, whose ``strerror`` is the whole message."""

Demand = tuple[bool, str | None]
"""What a volume has to be for an image to be made of it, besides its name: validated, and of which local file."""

@final
class Image:
    """Layers, bottom first (at least one), and the configuration: as bytes (`image.json`) and the parts we use."""

    def __new__(cls, layers: list[Layer], config: bytes | None = None, env: list[str] = ..., volumes: list[str] = ...) -> Image: ...
    @staticmethod
    def of_tar(path: StrPath) -> Image:
        """A tar file: one layer, no configuration; known by its path and its time of modification. Raises OSError."""
    @staticmethod
    def of_directory(chain_id: str, path: StrPath) -> Image:
        """A directory to copy."""
    @property
    def layers(self) -> list[Layer]:
        """Bottom first."""
    @property
    def config(self) -> bytes:
        """The document, byte by byte."""
    @property
    def env(self) -> list[str]:
        """``NAME=value``."""
    @property
    def volumes(self) -> list[str]:
        """Paths that the image declares as volumes, sorted."""
    @property
    def warnings(self) -> list[str]:
        """Lines for the operator."""
    @property
    def demand(self) -> Demand:
        """What a volume has to be for this image to be made of it."""
    @property
    def chain_ids(self) -> list[str]:
        """Names of the volumes, bottom first."""
    @property
    def compressed_size(self) -> int:
        """Bytes of all blobs as the manifest gives them."""
    @property
    def parts(self) -> ImageParts:
        """What the store has to know of it besides the bytes of its layers."""
    @staticmethod
    def recalled(parts: ImageParts) -> Image:
        """An image that the store remembers: its layers have names and no bytes."""

@final
class Manifest:
    """An image manifest (OCI image specification; Docker image manifest version 2, schema 2), checked."""

    @property
    def body(self) -> bytes:
        """The document, byte by byte."""
    @property
    def media_type(self) -> str:
        """As declared, else OCI's."""
    @property
    def digest(self) -> str:
        """Of ``body``, with ``sha256:``."""
    @property
    def config(self) -> tuple[str, int]:
        """Digest and size of the configuration."""
    def join(self, config: bytes, platform: str) -> Image:
        """The image of this manifest and its configuration, whose digest the caller has checked. Raises `BadImage`."""

@final
class Index:
    """An index of images, by platform."""

    @property
    def media_type(self) -> str:
        """As declared, else OCI's."""
    def choose(self, platform: str) -> tuple[str, int, str, bool]:
        """Digest, size and media type of the entry for ``os/architecture[/variant]`` (empty: this machine), and whether it names a
        platform. Only that entry is checked. Raises `BadImage`, whose hint lists what there is; `ConfigError` for a platform
        that is none."""

@final
class OciReference:
    """``oci:///directory[:tag][@digest]``, understood but not yet looked for."""

    def __new__(cls, url: StrPath, platform: str) -> OciReference:
        """Raises SourceError, `BadImage` (a digest that is none), `ConfigError` (a platform that is none)."""
    @property
    def path(self) -> str:
        """The layout."""
    @property
    def tag(self) -> str:
        """Reference name; empty if there is none."""
    @property
    def digest(self) -> str | None:
        """Digest of a manifest or an index."""
    def resolve(self, validate: bool) -> Image:
        """Read index, manifest and configuration. Without ``validate`` nothing is promised about the layers. Raises
        SourceError, `BadImage`, `LimitExceeded`."""

BACKING: str
"""What the name of the file ends with that a store is in."""
DOOMED: str
"""How the names of volumes begin that are to be destroyed."""
INCOMPLETE: str
"""What the names of volumes have in them that are being built."""
GARBAGE_LOCK: str
"""The lock of clean."""
GLOBAL_LOCK: str
"""The lock that every create shares."""
GLOBAL_DEADLINE: float
"""Seconds a create waits while a clean holds the whole store."""
KEEP_DOWNLOADS: float
"""Seconds that a clean on create spares interrupted downloads."""
FOREIGN_AGE: float
"""Seconds after which a temporary file that may be the original's counts as left behind."""
EXCLUSIVE_ATTRIBUTE: str
IDMAPPED_ATTRIBUTE: str
LIMIT_ATTRIBUTE: str
SIZE_ATTRIBUTE: str
UNCOUNTED_ATTRIBUTE: str
UNVALIDATED_ATTRIBUTE: str
"""Attributes of an image's directory (``rust/store/src/images.rs``)."""
MAX_CONFIG: int
"""Bytes of an image configuration."""
MAX_INDEX_DEPTH: int
"""Levels of nested indexes."""
MAX_MANIFEST: int
"""Bytes of a manifest or an index."""

def archive_path(text: StrPath) -> str | None:
    """The file in ``docker-archive:FILE[:NAME]`` or ``oci-archive:FILE[:NAME]``; None for anything else."""

def resolve_archive(text: StrPath, platform: str, validate: bool) -> Image | None:
    """The image in an archive of images (what ``docker save`` writes, or a layout in a tar), given as above or by its path. None
    for the path of any other file. Raises SourceError and its kin, `ConfigError` for a platform that is none."""

def read_document(body: bytes, media_type: str, *, chosen: bool = False, named: str | None = None) -> Manifest | Index:
    """Read a document that was served as ``media_type``; ``chosen`` if an index's entry for a platform led to it, ``named`` the digest
    of what the image's name stands for, if that is another document. Raises `BadImage`
    for one of which that, its own ``mediaType`` and its shape do not all say the same (CVE-2021-41190), and for schema 1;
    `LimitExceeded`."""

def parse_document(body: bytes, what: str, most: int = ...) -> dict[str, Any]:
    """Parse one JSON object as `parse_json` does; ``what`` names it in messages. Raises `BadImage`, `LimitExceeded` above
    ``most`` bytes (`MAX_MANIFEST`)."""

def parse_digest(text: str) -> str:
    """The text, if it is ``sha256:`` and 64 lower-case hexadecimal digits. Raises `BadImage`."""

def parse_platform(text: str) -> str:
    """``os/architecture[/variant]`` in the words of indexes; empty is this machine's. Raises `ConfigError`."""

def chain_ids(diff_ids: list[str]) -> list[str]:
    """Names of volumes by the original's rule: SHA-256 over ``<parent> <diff id>`` without the ``sha256:`` prefixes, unlike
    OCI's (contract, section 9.5). Raises `BadImage`."""

def unpack(
    root: int,
    blob: StrPath | Spool | Blob | int,
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
    neighbours: Neighbours | None = None,
    length: int | None = None,
) -> Unpacked:
    """Unpack one layer into the directory that ``root`` is open on, which holds the layers below it.

    ``blob`` is the path of a regular file, what `Layer.open` gave, a growing file, or a descriptor (which the caller keeps),
    of which ``length`` bytes count (None: all). ``digest`` and ``diff_id`` are hex; None
    is not checked. ``base`` is the directory the names are relative to (empty for the root). When it
    returns, the blob was what was promised to its last byte, and the listing is in its place. When it raises, ``root`` holds
    something in between, and there may be a listing of that.

    Raises `BadBlob` (digest, size), `BadLayer` (archive), `LimitExceeded`, `Cancelled`, OSError.
    """

def copy_directory(root: int, source: StrPath, *, uids: Ranges, gids: Ranges, listing: Listing | None, cancel: Cancel) -> Unpacked:
    """Copy the tree below ``source`` into the empty directory that ``root`` is open on. Raises as `unpack`."""

def verify(root: int, listings: list[tuple[str, int]], *, uids: Ranges, gids: Ranges, cancel: Cancel) -> tuple[int, int, list[str]]:
    """Compare the volume that ``root`` is open on with the listings of its layers (name for messages, descriptor), bottom to top.
    Gives how many paths were looked at, how many are not as they were unpacked, and what is wrong with the first of them.
    Changes nothing.

    Raises `BadLayer` (a listing that is damaged or does not fit the others), `Cancelled`, OSError.
    """

def fingerprint(path: StrPath, cancel: Cancel) -> str:
    """Hash (hex) over names and metadata of the tree below ``path``: another one whenever anything in it changed."""

def enter_user_namespace() -> None:
    """Put this process, which must have one thread, into a user namespace whose maps are still to be written."""

def become_namespace_root() -> None:
    """Become ids 0 of the namespace; from then on the process is killed when its parent ends."""

ImageParts = tuple[list[str], bytes, list[str], list[str], int, str | None]
"""What the store knows an image by: chain ids (bottom to top), configuration, variables, declared volumes, bytes of all blobs, digest
of what a registry has under its name."""

@final
class Lock:
    """A held lock; let go by `release`, at the end of a ``with`` block, or when nothing refers to it any more."""

    @property
    def waited(self) -> int:
        """Nanoseconds that it took to get it."""
    def release(self) -> None:
        """Let go. Harmless when already done."""
    def __enter__(self) -> Lock: ...
    def __exit__(self, _kind: object, _error: object, _trace: object) -> None: ...

@final
class Turn:
    """A place among those that ask a registry the same; let go by `end`, or when nothing refers to it any more."""

    @property
    def answered(self) -> bool:
        """Whether the question was answered while this caller waited: then that answer is as good as one of its own."""
    @property
    def waited(self) -> int | None:
        """Nanoseconds that it took to get the turn; None for a caller that was too long about it and asks beside the others."""
    def asking(self) -> None:
        """The registry is asked from now on. Whoever was there before gets this answer."""
    def end(self, answered: bool) -> None:
        """Let the others have it; ``answered`` if the store has what the registry said."""

@final
class Volume:
    """A volume, finished or being built, with the locks on it and on those below. After it was handed on (`Store.create_image`,
    `Store.destroy_incomplete`, `release`) its properties raise StoreError."""

    @property
    def chain_id(self) -> str:
        """Its chain id."""
    def fileno(self) -> int:
        """Descriptor of its root directory; the volume's own."""
    def hold(self, lock: Lock, below: Volume | None) -> None:
        """Hold ``lock`` on it, and the locks that ``below`` has."""
    def release(self) -> None:
        """Let clean have the volume and those below it."""

@final
class Store:
    """A store that is open: its directory is held by a descriptor, and everything below it is reached from there, through no link
    and no mount. Paths in messages and results begin with the path it was opened by.

    ``folder`` is one of ``images``, ``volumes``, ``meta``, ``meta/dependencies``, ``meta/sources``, ``meta/proofs``, ``locks``,
    ``tmp``, or empty for the store's own directory. Methods raise OSError for what the system refuses, `StoreError` for what is
    wrong with the store.
    """

    @staticmethod
    def open(path: StrPath, *, drax: str, helper: object | None = None) -> Store:
        """Open an initialised store. ``drax`` is the program for quota groups; ``helper`` works in a user namespace if this user
        may not do something outside: ``snapshot(source, parent, name, limit)`` and ``remove(parent, name) -> ids``.

        Raises StoreError if there is no store, for links and mounts in it, and for mappings that cannot be trusted."""
    @staticmethod
    def open_any(path: StrPath) -> Store:
        """Open as much of a store as there is. Raises OSError."""
    @staticmethod
    def initialise(path: StrPath, maps: tuple[Ranges, Ranges]) -> Store:
        """Make the directory a store, or put right what is missing of one. Raises StoreError, OSError."""
    @staticmethod
    def is_initialised(path: StrPath) -> bool:
        """Whether everything that makes a store is there; what may not be looked at counts as there. Raises StoreError for links, and
        if the store is in a file that is not mounted."""
    @property
    def path(self) -> str:
        """The path it was opened by."""
    @property
    def owner(self) -> tuple[int, int] | None:
        """Host ids of the images' root, if the mappings give it ids of its own."""
    @property
    def uids(self) -> Ranges:
        """User mappings."""
    @property
    def gids(self) -> Ranges:
        """Group mappings."""

    def try_lock(self, key: str, *, shared: bool = False) -> Lock | None:
        """The lock if it is free now. Raises StoreError if its file cannot be used."""
    def observe(self, key: str) -> Lock | None:
        """The lock, shared, if nobody holds it exclusively; writes nothing. Raises OSError."""
    def lock(self, key: str, *, shared: bool = False, deadline: float, cancel: Cancel) -> Lock:
        """The lock, waiting at most ``deadline`` seconds. Raises LockTimeout, Cancelled, StoreError."""
    def discard_lock(self, key: str, lock: Lock) -> None:
        """Let go of an exclusive lock on a volume that there is not and need not be, and remove its file."""
    def lock_missing(self, chain_id: str, demand: Demand, log: object, cancel: Cancel) -> Lock | None:
        """The exclusive lock on a volume that is missing; None as soon as somebody else has made it. One that is
        not what the create demands is taken away; images that were made of it keep theirs. Who is waited for is logged.
        Raises LockTimeout, Cancelled."""
    def lock_image(self, id: str) -> Lock | None:
        """The directory of an image, locked; None if somebody else holds it or it is gone."""

    def check_new_image(self, id: str) -> None:
        """Refuse an id that a new image cannot have. Raises StoreError, ImageExists."""
    def has_image(self, id: str) -> bool:
        """Whether there is a finished image of this id."""
    def images(self) -> list[str]:
        """Ids of all finished images, sorted."""
    def image_is_copy(self, id: str) -> bool:
        """Whether the directory of an image holds a copy that was made file by file: a plain directory in the place of its tree."""
    def image_tree(self, id: str) -> str | None:
        """Name of the tree in an image's directory: ``rootfs`` or ``snapshot``; None if the image is missing or unfinished."""
    def create_image(
        self,
        volume: Volume,
        id: str,
        image_parts: ImageParts,
        *,
        limit: int,
        exclude_image: bool,
        without_mount: bool,
        without_volumes: bool,
        idmapped: tuple[Ranges, Ranges] | None,
        source: str,
        log: object,
        metrics: object,
        cancel: Cancel,
    ) -> str:
        """Make the image from the volume with all its layers, publish the volume and let its locks go; gives the image's path.
        ``limit`` is in bytes, 0 for none. Raises ImageExists, QuotaError, StoreError; then nothing of the image stays."""
    def delete_image(self, id: str, cancel: Cancel) -> None:
        """Remove an image, or what is left of an unfinished one. Raises ImageNotFound, StoreError, Cancelled."""
    def image_usage(self, id: str) -> tuple[int, int]:
        """(all bytes, own bytes) of an image, as of now. Raises ImageNotFound, QuotaError."""
    def counted_usage(self, id: str) -> tuple[int, int]:
        """The same as of the last commit."""
    def image_size(self, id: str) -> int:
        """Bytes of an image as it was created. Raises ImageNotFound."""
    def image_limit(self, id: str) -> int | None:
        """The disk limit of an image in bytes."""
    def kernel_limits(self, id: str) -> tuple[int | None, int | None]:
        """Limits that the kernel has for an image: on all it refers to, and on what is its own."""
    def committed_to(self, id: str) -> int:
        """Bytes that an image may write, as it was created; 0 without a limit. Raises ImageNotFound."""
    def committed_bytes(self) -> int:
        """The sum of that over all images."""
    def measured_bytes(self, counts_limits: bool) -> int:
        """What a threshold is compared with: bytes in layers, and if that counts those that are committed to images."""
    def committed_limits(self) -> int:
        """Sum of the disk limits of all images."""
    def image_attribute(self, id: str, attribute: str) -> bytes | None:
        """An attribute of an image's directory. Raises OSError if there is no such directory."""
    def image_number(self, id: str, attribute: str) -> int | None:
        """A number that is recorded as an attribute of an image's directory. Raises OSError if there is no such directory."""
    def set_image_attribute(self, id: str, attribute: str, value: bytes | None) -> None:
        """Set it; None removes it."""
    def remove_unfinished(self) -> list[tuple[str, str]]:
        """Remove the directories of images that were never finished. Gives (path, reason) of what could not be removed."""
    def is_mounted(self, id: str) -> bool:
        """Whether something is mounted on an image's ``rootfs``."""

    def has_volume(self, volume: str) -> bool:
        """Whether there is a volume of this name."""
    def volumes(self) -> list[str]:
        """Names of the finished volumes, sorted."""
    def unused_bytes(self) -> int:
        """Bytes of file content in the layers that no image uses."""
    def has_usable(self, chain_id: str, demand: Demand) -> bool:
        """Whether there is a volume that a create may use."""
    def existing_volume(self, chain_ids: list[str], demand: Demand, cancel: Cancel) -> Volume | None:
        """The volume with a whole image if it is there and usable, locked with all below it. Raises LockTimeout, Cancelled."""
    def make_volume(self, chain_id: str, below: Volume | None) -> Volume:
        """Make the volume of a layer under a temporary name, with the content of the volume below."""
    def destroy_incomplete(self, volume: Volume, full: bool, cancel: Cancel) -> None:
        """Throw away a volume whose building failed; ``full``: for want of space, so wait until that is free."""
    def publish(self, volume: Volume, durable: bool) -> None:
        """Give a volume its final name; ``durable`` says that a snapshot of it was made, else everything is synced first."""
    def joined(self, chain_ids: list[str]) -> set[str]:
        """Of these, bottom to top, those that are in no volume of their own: in one with others above them."""
    def listing(self, chain_id: str, below: str | None, *, goes_on: bool) -> Listing:
        """Where the listing of a layer goes that is unpacked over the volume ``below``, and into a volume that other layers were
        unpacked into before if it ``goes_on``."""
    def neighbours(self, recent: Recent, below: str | None, bytes: int) -> Neighbours | None:
        """Volumes that may hold what a blob of so many bytes does which is unpacked over the volume ``below``: that one, and the recent
        ones, the most promising first. None if looking is not worth while."""
    def record_missing_sizes(self, cancel: Cancel) -> None:
        """Write the size record of each volume that has none."""
    def open_listings(self, volume: str) -> list[tuple[str, int]] | None:
        """The listings of a volume's layers, bottom to top, for `verify`; the descriptors are the caller's to close."""
    def open_volume(self, volume: str) -> int:
        """A descriptor of a volume's root directory, the caller's to close."""
    def content_of_volume(self, volume: str, cancel: Cancel) -> int:
        """Bytes of all regular files in a volume, by walking it."""
    def content_of_image(self, id: str, cancel: Cancel) -> int:
        """The same of an image's tree."""

    def read_size(self, chain_id: str) -> tuple[int, int | None, int] | None:
        """Bytes of a layer's files, of all files in its volume, and of the layer's those that were cloned, as recorded."""
    def write_size(self, chain_id: str, layer: int, tree: int | None, made: Demand, cloned: dict[str, int], layers: int) -> None:
        """Record them, whether the layers were compared with their digests, how many bytes were cloned from which volume, and how many
        layers of the image are in the volume."""
    def read_dependencies(self, id: str) -> list[str] | None:
        """The volumes of an image; None if there is no usable record."""
    def write_dependencies(self, id: str, chain_ids: list[str]) -> None:
        """Record them."""
    def configured_volumes(self, id: str) -> list[str] | None:
        """The volumes of an image as its configuration names them."""
    def recorded_images(self) -> list[str]:
        """Ids of all images that have a record, sorted."""
    def used_volumes(self) -> set[str]:
        """Volumes that some image uses."""
    def recall(self, source: str) -> ImageParts | None:
        """The image a name stood for when it was last created."""
    def damaged_sources(self) -> list[str]:
        """Names in ``meta/sources`` that are no such record."""
    def remove_source(self, file: str) -> None:
        """Remove one of them."""
    def has_proof(self, shown: list[str], lifetime: int) -> bool:
        """Whether a registry gave an image to who shows this (registry, repository, credentials) within so many seconds."""
    def keep_proof(self, shown: list[str], lifetime: int) -> None:
        """A registry has just given an image to who shows this. Proofs that are over go. Raises OSError, StoreError."""
    def turn(self, question: str, cancel: Cancel) -> Turn:
        """Wait for a turn to ask a question (`Question.key`). Raises Cancelled, StoreError."""

    def clean(
        self,
        *,
        conditions: tuple[int, int, int],
        keep: int,
        rules: Rules,
        ignore_images: list[str],
        on_create: bool,
        log: object,
        metrics: object,
        cancel: Cancel,
    ) -> str:
        """Remove what is unused, if one of the ``conditions`` holds or all are 0: bytes that the layers hold at least, bytes and
        hundredths that are free at most; down to ``keep`` bytes. Gives ``done``, ``below threshold`` or ``running`` (another clean).
        Raises StoreError if something could not be removed; all else is gone then."""
    def doom(self, volumes: list[str], log: object) -> None:
        """Mark volumes for removal, but those that somebody uses or builds."""
    def destroy_marked(self, log: object, cancel: Cancel) -> list[tuple[str, str]]:
        """Destroy what is marked. Gives (path, reason) of what could not be destroyed."""
    def drop_stale_records(self, log: object) -> None:
        """Remove the records of images that are gone. Only with the store's lock."""
    def prune_volumes(self) -> None:
        """Drop the records of volumes that are gone. Only with the store's lock."""
    def remove_lock_files(self) -> None:
        """Remove the lock files of volumes that are gone."""
    def remove_temporary(self, alone: bool, keep_downloads: float) -> None:
        """Remove what processes left in ``tmp``; downloads younger than so many seconds stay."""
    def keep_limits(self, for_root: bool) -> None:
        """Record whether limits that are set may be changed by root only. Privileged."""
    def check_removable(self) -> None:
        """Refuse what would keep the store from being removed whole. Raises StoreError, OSError."""
    def unmount_images(self) -> None:
        """Unmount the images that were mounted with owners translated."""
    def take_apart(self, cancel: Cancel) -> list[tuple[str, str]]:
        """Remove all but the mappings. Gives (path, reason) of what could not be removed."""
    def forget_mappings(self) -> None:
        """Remove the folder with the mappings."""

    def names(self, folder: str) -> list[str]:
        """Everything in a folder, sorted."""
    def stat(self, folder: str, entry: str) -> tuple[int, int, int, int, float] | None:
        """(mode, uid, gid, size, modification time in seconds) of an entry itself, or of the folder if ``entry`` is empty."""
    def is_subvolume(self, folder: str, entry: str) -> bool:
        """Whether an entry is the root of a subvolume."""
    def may_write(self) -> bool:
        """Whether the caller may make images."""
    def is_locked(self, folder: str, entry: str) -> bool:
        """Whether a process holds an entry, or took it away."""
    def nested_in_volume(self, volume: str) -> list[str]:
        """Subvolumes in a volume, as paths in it."""
    def subvolumes(self) -> list[str]:
        """Subvolumes below the store, as paths in it; not those nested in others of them, nor where the caller may not walk."""
    def open_download(self, digest: str) -> int:
        """A descriptor of ``tmp/blob-<digest>``, made if it is missing; the caller's to close."""
    def is_download_at(self, digest: str, descriptor: int) -> bool:
        """Whether the name still stands for what the descriptor is open on."""
    def remove_download(self, digest: str, inode: int) -> None:
        """Remove the file if it is the one with this number. Missing is fine."""
    def open_nameless_download(self) -> int:
        """A descriptor of a file in ``tmp`` without a name, the caller's to close."""
    def space(self) -> tuple[int, int, int, int | None, bool]:
        """Bytes of the file system; free; what can still be written; what is available on the file system below, if the store is in
        a file; and whether it is read-only."""
    def reach(self) -> int:
        """The most bytes that can be in use."""

    def sync(self) -> None:
        """Commit the file system."""
    def accounting(self) -> str | None:
        """``simple``, ``full`` or None (off). Raises OSError if it cannot be told."""
    def uuid(self) -> str:
        """UUID of the file system."""
    def is_inconsistent(self) -> bool:
        """Whether full accounting has lost count."""
    def stale_groups(self) -> list[tuple[int, int]]:
        """(level, id) of the quota groups that count nothing and whose subvolume is gone. Privileged."""
    def is_own_group(self, id: int) -> bool:
        """Whether the level-1 group of this number was made for an image. Privileged."""
    def remove_stale_groups(self) -> int:
        """Remove stale groups that are ours; gives how many. Privileged."""
    def subvolumes_of_image(self, id: str) -> list[int]:
        """Numbers of an image's subvolumes: its tree's, and those of the volumes that it declares."""
    def subvolume_exists(self, id: int) -> bool:
        """Whether the file system still has a subvolume of this number. Privileged."""
    def restrict(self, id: str, left: int) -> None:
        """Let an image grow by so many bytes and no more (simple accounting). Privileged."""

def parse_mappings(uids: list[str], gids: list[str]) -> tuple[Ranges, Ranges]:
    """Parse the values of ``--uid-mapping`` and ``--gid-mapping``. Raises UsageError."""

def read_ranges(path: StrPath) -> list[tuple[str, int, int]]:
    """The lines of a file like ``/etc/subuid`` as (user, first id, count)."""

def image_id_of(store: StrPath, argument: str) -> str:
    """The id that an argument of delete or stats names: an id, or the path of an image. Raises StoreError."""

def check_compressed(compressed: int, limit: int, exclude_image: bool) -> None:
    """Refuse a limit that the blobs of an image alone exceed. Raises QuotaError."""

def describe_image(image_parts: ImageParts, path: StrPath, mounted: bool, rules: Rules) -> str:
    """The partial runtime specification of an image, as JSON (contract, section 7.3)."""

def mounts() -> list[tuple[str, str, str, list[str]]]:
    """What is mounted where: (mount point, type, source, options). Raises OSError."""

def snapshot(source: int, parent: int, name: str, limit: tuple[int, bool] | None) -> None:
    """Snapshot the tree that ``source`` is open on as ``name`` in ``parent``, with (bytes, exclusive) as its limit."""

def copy_inside(root: int, path: str, target: int) -> bool:
    """Copy the directory at ``path`` in the tree that ``root`` is open on, with all in it, into the empty directory ``target``. False
    if there is none."""

def remove_entry(parent: int, name: str) -> list[int]:
    """Remove what is called ``name`` in a directory, whatever it is; gives the numbers of the subvolumes that went."""

def uuid(path: StrPath) -> str:
    """UUID of the file system at ``path``. Raises OSError (ENOTTY, EINVAL and their kin if it is not BTRFS)."""

def accounting(path: StrPath) -> str | None:
    """``simple``, ``full`` or None (off)."""

def resize(path: StrPath, bytes: int) -> None:
    """Make the file system at ``path`` so many bytes large. Privileged."""

def enable_quota(path: StrPath, simple: bool) -> None:
    """Turn accounting on. Privileged."""

def disable_quota(path: StrPath) -> None:
    """Turn accounting off: all groups and limits of the file system are gone. Privileged."""

def parse_json(document: bytes) -> Any:
    """Parse one JSON document. At most 128 levels, no duplicate keys, UTF-8 only. Raises ValueError."""

def format_json(value: object) -> str:
    """Compact JSON of plain objects, escaped as Go does."""

def parse_yaml(text: str) -> Any:
    """Parse YAML without aliases, tags and duplicate keys. Raises ValueError."""

def sha256(data: bytes) -> str:
    """SHA-256 in hex."""

def parse_reference(url: str) -> tuple[str, str, str | None, str | None, str]:
    """Registry as the user spelled it, repository, tag, digest (exactly one of the two), and the host that speaks the registry's
    interface. Raises `SourceError`, or `BadImage` for a digest that is none; never repeats a URL that could hold a password."""

MANIFEST_TYPES: str
"""The `Accept` header of a request for a manifest."""

@final
class Question:
    """One image URL, and who asks its registry what it means. ``mirrors`` are those of each registry, in order."""

    def __new__(
        cls,
        url: str,
        *,
        login: tuple[str, str],
        auth_file: StrPath | None,
        insecure_registries: list[str],
        trusted_hosts: list[str],
        mirrors: list[tuple[str, list[str]]],
        hosts_directory: StrPath,
        response_timeout: int,
    ) -> Question:
        """Raises SourceError for a URL that is none."""
    def key(self, name: str) -> str:
        """What this is, as a hash; ``name`` is what the store remembers the image by."""
    def ask(self, cancel: Cancel) -> tuple[str, list[tuple[str, str, int | None, float]], list[tuple[str, str]]] | None:
        """The digest that the registry says the name has, the requests that were made (method, host, status, seconds) and the mirrors
        that did not help, with reasons. None if that is not plain: helpers, proxies, redirects, refusals. Raises Cancelled."""

def credential_files() -> list[str]:
    """The files that are looked through for credentials, in order: podman's own variable, docker's file, podman's files."""

def canonical_host(host: str) -> str:
    """A host[:port] in the one spelling by which it is compared: lower case, IPv6 in its short form."""

def is_listed_host(spellings: list[str], hosts: list[str]) -> bool:
    """Whether a user's list of host[:port] holds any of the spellings of one host."""

def certificates_directory(bases: list[StrPath], spellings: list[str]) -> str | None:
    """The first directory ``base/host[:port]`` that is there, for the spellings of one host in their order."""

def list_certificates(directory: StrPath) -> tuple[list[str], list[tuple[str, str]]]:
    """Authorities (``*.crt``) and client certificates with their keys. Raises `ConfigError`."""

@final
class RegistryHost:
    """One host that serves a registry's images (containerd's `hosts.toml`, or `create.registry_mirrors`)."""

    @property
    def scheme(self) -> str | None:
        """``http`` or ``https``; None: https, or what an insecure host answers."""
    @property
    def authority(self) -> str:
        """host[:port]."""
    @property
    def path(self) -> str:
        """What stands before ``/REPOSITORY``: ``/v2``, or another root of the API."""
    @property
    def pulls(self) -> bool:
        """Whether it serves what is asked for by digest."""
    @property
    def resolves(self) -> bool:
        """Whether it says what tags mean."""
    @property
    def headers(self) -> list[tuple[str, str]]:
        """Sent to it with each request."""
    @property
    def authorities(self) -> list[str]:
        """Files of authorities that are trusted besides the system's."""
    @property
    def clients(self) -> list[tuple[str, str]]:
        """Client certificates and their keys."""
    @property
    def skip_verify(self) -> bool:
        """Whether certificates are not verified."""
    @property
    def dial_timeout(self) -> float | None:
        """Seconds to wait for a connection."""
    @property
    def is_server(self) -> bool:
        """Whether it is the registry itself, whose word is final."""

def registry_hosts(registry: str, mirrors: list[tuple[str, list[str]]], directory: StrPath) -> list[RegistryHost]:
    """The hosts that a registry's images are asked of, in order: its mirrors, then those of its `hosts.toml` below ``directory``. The
    registry itself is among them only if that file is there. Raises `ConfigError`."""

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
