"""Where things are in a store, and whether a directory is one."""

from __future__ import annotations

import posix
from _stat import S_ISLNK

from groot_fast import files
from groot_fast._core import parse_json
from groot_fast.errors import StoreError
from groot_fast.idmap import Mapping, Mappings, parse_mapping

FOLDERS = ("images", "volumes", "meta", "locks", "tmp", "meta/dependencies")
"""What makes a directory a store, in the order of making."""

MAX_NAME = 255
"""Bytes of one file name."""
MAX_NEW_ID = MAX_NAME - len("image:.json")
"""Bytes of a new image's id: its record is a file too."""


class Store:
    """Paths and owner of an initialised store. Holds no state: other processes change the tree at any time."""

    def __init__(self, path: str, mappings: Mappings) -> None:
        self.path = path
        self.mappings = mappings
        owner = mappings.owner()
        # Files that root makes in somebody's store must be that somebody's, or it is locked out of its own store.
        self.owner = owner if owner is not None and posix.geteuid() == 0 else None

    def image(self, image_id: str) -> str:
        """Directory of an image."""
        return f"{self.path}/images/{image_id}"

    def volume(self, name: str) -> str:
        """Directory of a volume (finished, incomplete or doomed)."""
        return f"{self.path}/volumes/{name}"

    def folder(self, name: str) -> str:
        """One of the store's own folders."""
        return f"{self.path}/{name}"

    def temporary(self, kind: str) -> str:
        """A fresh name in ``tmp``."""
        return f"{self.path}/tmp/{kind}-{posix.getpid()}-{posix.urandom(6).hex()}"

    def give(self, path: str) -> None:
        """Hand a file or directory that was just made to the store's owner."""
        if self.owner is not None:
            posix.chown(path, *self.owner, follow_symlinks=False)

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory of exactly this mode, whatever the umask. Raises OSError (FileExistsError)."""
        posix.mkdir(path, mode)
        if posix.lstat(path).st_mode & 0o7777 != mode:
            posix.chmod(path, mode)
        self.give(path)


def open_store(path: str) -> Store:
    """The store at ``path``. Raises StoreError where there is none, or where its mappings cannot be read."""
    if not is_initialised(path):
        raise StoreError("Store path is not initialized. Please run init-store.")
    return Store(path, read_namespace(path))


def is_initialised(path: str) -> bool:
    """Whether everything that makes a store is there. What may not be looked at counts as there (contract, 7.2). Raises
    StoreError for a link: its owner could lead us, as root, to anything of the host."""
    return all(_present(f"{path}/{name}") for name in (*FOLDERS, "meta/namespace.json"))


def _present(path: str) -> bool:
    try:
        is_link = S_ISLNK(posix.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    if is_link:
        raise StoreError(f"invalid store: {path} is a symbolic link", hint="only the path of the store itself may be a link")
    return True


def read_namespace(path: str) -> Mappings:
    """The mappings in ``meta/namespace.json``. Raises StoreError."""
    try:
        # Not blocking: a pipe under this name must not hold us.
        document = parse_json(files.read(f"{path}/meta/namespace.json", 1 << 20, posix.O_NONBLOCK))
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise StoreError(f"reading namespace file: open {path}/meta/namespace.json: {reason}") from None
    except ValueError as error:
        raise StoreError(f"invalid namespace file: {error}") from None
    if not isinstance(document, dict):
        raise StoreError("invalid namespace file: not an object")
    return Mappings(_mappings(document, "uid"), _mappings(document, "gid"))


def _mappings(document: dict[str, object], kind: str) -> list[Mapping]:
    texts = document.get(f"{kind}-mappings")
    if texts is None:
        return []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise StoreError(f"invalid namespace file: {kind}-mappings is not a list of strings")
    try:
        return [parse_mapping(text) for text in texts]
    except ValueError as error:
        raise StoreError(f"invalid {kind} mappings format: {error}") from None


def image_id_of(store_path: str, argument: str) -> str:
    """The id that an argument of delete or stats names: an id, or the path of an image directory.

    Only the image itself can be named: not the directories above it, and nothing below it (contract, defects 12, 13,
    14, 31). Raises StoreError for a path that is no image of this store.
    """
    if not argument.startswith("/"):
        return argument
    from os.path import normpath

    prefix = normpath(store_path) + "/images/"
    path = normpath(argument)
    image_id = path.removeprefix(prefix)
    if image_id == path or "/" in image_id:
        raise StoreError(f"path `{argument}` is outside store path")
    return image_id


def is_image_id(image_id: str) -> bool:
    """Whether an image can have this id: it has to be a name for a directory of its own."""
    return 0 < len(files.encode(image_id)) <= MAX_NAME and image_id not in (".", "..") and not {"/", "\0"} & set(image_id)
