"""Images: reserve an id, commit, delete, list, stats.

An image exists when its tree does (`rootfs` or `snapshot` is a subvolume); that snapshot is the last step of a create
and the first thing a delete removes. A directory without it is unfinished: somebody is at work on it, and holds a lock
on the directory, or died. Create replaces what the dead left, clean removes it.
"""

from __future__ import annotations

import errno
import posix

from groot_fast import files, interrupts
from groot_fast._core import mount_idmapped, rename_new, unmount, write_record
from groot_fast.errors import ImageExists, ImageNotFound, StoreError
from groot_fast.store import records
from groot_fast.store.layout import MAX_NEW_ID, is_image_id
from groot_fast.store.locks import is_at, try_flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast._core import Image
    from groot_fast.drivers import Driver, Limit
    from groot_fast.idmap import Mappings
    from groot_fast.store.layout import Store

TREES = ("rootfs", "snapshot")
UNLIMITED = tuple(f"{name}.unlimited" for name in TREES)
"""What the driver calls a tree until its limit is set (`Btrfs.make_image`)."""
SIZE_ATTRIBUTE = "user.grootfs.image-size"
"""On the image's directory: bytes of the image. An attribute is durable with the snapshot and read without parsing."""

LIMIT_ATTRIBUTE = "user.grootfs.limit"
"""On the image's directory: its disk limit, if it has one."""
UNCOUNTED_ATTRIBUTE = "user.grootfs.uncounted"
"""On the image's directory: bytes that a container had written when simple accounting was turned on (`migrate`). The
kernel counts them for nobody."""
IDMAPPED_ATTRIBUTE = "user.grootfs.idmapped"
"""On the directory of an image whose ``rootfs`` we mounted: deleting unmounts it."""

DELETE_DEADLINE = 30.0
CLAIM_DEADLINE = 10.0
PAUSE = 0.01
ATTEMPTS = 10
"""How often to make a directory that others take away."""


def image_tree(store: Store, driver: Driver, image_id: str) -> str | None:
    """The subvolume of an image; None where the image does not exist or is unfinished."""
    for name in TREES:
        path = f"{store.image(image_id)}/{name}"
        if driver.is_volume(path):
            return path
    return None


def check_new_id(store: Store, driver: Driver, image_id: str) -> None:
    """Refuse an id that cannot be used. Raises StoreError, ImageExists."""
    if "/" in image_id:
        raise StoreError(f"id `{image_id}` contains invalid characters: `/`")
    if not is_image_id(image_id) or len(files.encode(image_id)) > MAX_NEW_ID:
        raise StoreError(f"id `{image_id}` cannot be used: it must be a file name of 1 to {MAX_NEW_ID} bytes other than `.` and `..`")
    if any(char < " " or char == "\x7f" for char in image_id):
        # `list` prints a line for each image, and terminals obey.
        raise StoreError(f"id {image_id!r} contains control characters")
    if image_tree(store, driver, image_id) is not None:
        raise _exists(image_id)


def _exists(image_id: str) -> ImageExists:
    return ImageExists(f"image for id `{image_id}` already exists")


class Reservation:
    """An image directory that this process made and holds, until the image is in it or everything is taken back."""

    def __init__(self, store: Store, driver: Driver, image_id: str) -> None:
        """Take the id. Raises ImageExists where somebody else has it or is about to.

        The directory is made and locked under another name first, so that under its own it is never seen unlocked: an
        unlocked directory without a tree is what the dead leave, and anybody may remove it.
        """
        self.image_id = image_id
        self.path = store.image(image_id)
        self._store = store
        self._driver = driver
        fresh, self._fd = _make_locked(store)
        try:
            self._claim(fresh)
        except BaseException:
            posix.close(self._fd)
            if files.is_directory(fresh):
                posix.rmdir(fresh)
            raise

    def _claim(self, fresh: str) -> None:
        import time

        end = time.monotonic() + CLAIM_DEADLINE
        while True:
            try:
                rename_new(fresh, self.path)
                return
            except FileExistsError:
                pass
            left = lock_directory(self.path)
            try:
                if image_tree(self._store, self._driver, self.image_id) is not None:
                    raise _exists(self.image_id)
                if left >= 0:
                    _remove_image(self._store, self._driver, self.image_id)
                    continue
            finally:
                if left >= 0:
                    posix.close(left)
            # Held by another create, which will have the image in a moment, or by a clean, which removes it.
            if time.monotonic() > end:
                raise _exists(self.image_id)
            with interrupts.Waiting():
                time.sleep(PAUSE)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None:
                _remove_image(self._store, self._driver, self.image_id)
        finally:
            posix.close(self._fd)

    def commit(
        self, image: Image, volume: str, limit: Limit | None, *, mount: bool, image_size: int, idmapped: Mappings | None = None
    ) -> None:
        """Write all that belongs to the image, then make its tree from ``volume``: the commit point.

        The order matters: whatever is written before the snapshot is durable with it, whatever comes after is not.
        With ``idmapped`` the tree is bound to ``rootfs`` with translated owners.
        """
        # Not before the directory is ours: the record of another image must not be touched.
        records.write_dependencies(self._store, self.image_id, image.chain_ids)
        write_record(f"{self.path}/image.json", self._store.temporary("record"), image.config, mode=0o644, owner=self._store.owner)
        for source in image.volume_sources(self.path).values():
            self._store.make_directory(source, 0o755)
        posix.setxattr(self.path, SIZE_ATTRIBUTE, str(image_size).encode())
        if limit is not None:
            posix.setxattr(self.path, LIMIT_ATTRIBUTE, str(limit.size).encode())
        if mount and idmapped is None:
            self._driver.make_image(volume, f"{self.path}/rootfs", limit)
            return
        self._store.make_directory(f"{self.path}/rootfs", 0o755)
        if idmapped is None:
            self._driver.make_image(volume, f"{self.path}/snapshot", limit)
        else:
            posix.setxattr(self.path, IDMAPPED_ATTRIBUTE, b"1")
            self._driver.make_image(volume, f"{self.path}/snapshot", limit)
            mount_idmapped(f"{self.path}/snapshot", f"{self.path}/rootfs", *idmapped.ranges())


def _make_locked(store: Store) -> tuple[str, int]:
    """Make a directory under a temporary name, and lock it. Before it is locked a clean may take it away, and a check may look
    whether somebody holds it by holding it; then another one is made."""
    for _ in range(ATTEMPTS):
        path = store.temporary("image")
        try:
            store.make_directory(path, 0o700)
            fd = lock_directory(path)
            if fd >= 0:
                return path, fd
            posix.rmdir(path)
        except FileNotFoundError:
            pass
        except BaseException:
            if files.is_directory(path):
                posix.rmdir(path)
            raise
    raise StoreError("the directory of the image was removed again and again before it could be locked")


def lock_directory(path: str) -> int:
    """An exclusively locked descriptor of the directory that is at ``path`` now, or -1 where somebody else holds it
    or it is gone."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    if try_flock(fd) and is_at(fd, path):
        return fd
    posix.close(fd)
    return -1


def list_images(store: Store, driver: Driver) -> list[str]:
    """Ids of all finished images, sorted. Raises OSError."""
    return sorted(image_id for image_id in posix.listdir(store.folder("images")) if image_tree(store, driver, image_id))


def image_usage(store: Store, driver: Driver, image_id: str) -> tuple[int, int]:
    """(all bytes, own bytes) of an image, as of now. Raises ImageNotFound, QuotaError, OSError."""
    if not is_image_id(image_id) or image_tree(store, driver, image_id) is None:
        raise ImageNotFound(f"Image `{image_id}` not found.")
    driver.settle(store.path)
    return counted_usage(store, driver, image_id)


def counted_usage(store: Store, driver: Driver, image_id: str) -> tuple[int, int]:
    """As `image_usage`, as of the last commit."""
    tree = image_tree(store, driver, image_id)
    if tree is None:
        raise ImageNotFound(f"Image `{image_id}` not found.")
    return driver.usage(tree, image_size(store, image_id), number_at(store.image(image_id), UNCOUNTED_ATTRIBUTE) or 0)


def limit_of(store: Store, driver: Driver, image_id: str) -> int | None:
    """The disk limit of an image; what the kernel has of it where the original set it."""
    limit = number_at(store.image(image_id), LIMIT_ATTRIBUTE)
    tree = image_tree(store, driver, image_id) if limit is None else None
    return limit if tree is None else driver.limit(tree)


def committed_limits(store: Store) -> int:
    """Sum of the disk limits of all images. Images of the original have none on record."""
    return sum(number_at(store.image(image_id), LIMIT_ATTRIBUTE) or 0 for image_id in posix.listdir(store.folder("images")))


def image_size(store: Store, image_id: str) -> int:
    """Bytes of the image as it was created."""
    size = number_at(store.image(image_id), SIZE_ATTRIBUTE)
    if size is None:  # the original's image
        return records.tree_size(store, records.read_dependencies(store, image_id) or [])
    return size


def is_foreign(path: str) -> bool:
    """Whether the original made the image: it writes no size."""
    try:
        return not posix.getxattr(path, SIZE_ATTRIBUTE)
    except OSError:
        return True


def number_at(path: str, attribute: str) -> int | None:
    """A number that is recorded on an image's directory; None where there is none."""
    try:
        return int(posix.getxattr(path, attribute))
    except (OSError, ValueError):
        return None


def delete_image(store: Store, driver: Driver, image_id: str) -> None:
    """Remove an image, or what is left of an unfinished one. Raises ImageNotFound, StoreError.

    The tree goes first and the record of its volumes last, so that a kill in between leaves something that the next
    delete, create or clean finishes.
    """
    path = store.image(image_id)
    if not is_image_id(image_id) or not files.is_own_directory(path):
        raise ImageNotFound(f"Image `{image_id}` not found. Skipping delete.")
    own = f"{files.real_path(path)}/rootfs" if is_idmapped(path) else ""
    mounted = [point for point in mounts_below(path) if point != own]
    if mounted:
        raise StoreError(f"deleting image path '{path}' failed: {mounted[0]} is a mount point", hint=f"umount {mounted[0]} and try again")
    fd = _wait_for_directory(path)
    if fd is None:
        raise ImageNotFound(f"Image `{image_id}` not found. Skipping delete.")
    try:
        _remove_image(store, driver, image_id)
    except OSError as error:
        hint = None
        if error.errno in (errno.EPERM, errno.EACCES) and posix.geteuid() != 0:
            hint = "the store's file system must be mounted with `user_subvol_rm_allowed`"
        raise StoreError(f"deleting image path '{path}' failed: {error.strerror}", hint=hint) from None
    finally:
        posix.close(fd)


def _wait_for_directory(path: str) -> int | None:
    """As `lock_directory`, waiting for a create or another delete; None when the directory is gone."""
    import time

    end = time.monotonic() + DELETE_DEADLINE
    while files.is_directory(path):
        fd = lock_directory(path)
        if fd >= 0:
            return fd
        if time.monotonic() > end:
            raise StoreError(f"deleting image path '{path}' failed: it is in use by another grootfs process")
        with interrupts.Waiting():
            time.sleep(PAUSE)
    return None


def remove_unfinished(store: Store, driver: Driver) -> None:
    """Remove the directories of images that were never finished and that nobody works on."""
    for image_id in posix.listdir(store.folder("images")):
        path = store.image(image_id)
        if not files.is_own_directory(path) or image_tree(store, driver, image_id) is not None:
            continue
        fd = lock_directory(path)
        if fd < 0:
            continue
        try:
            if image_tree(store, driver, image_id) is None:
                _remove_image(store, driver, image_id)
        finally:
            posix.close(fd)


def is_idmapped(path: str) -> bool:
    """Whether the image's ``rootfs`` is a mount of ours."""
    try:
        return posix.getxattr(path, IDMAPPED_ATTRIBUTE) == b"1"
    except OSError:
        return False


def _remove_image(store: Store, driver: Driver, image_id: str) -> None:
    if is_idmapped(store.image(image_id)):
        try:
            unmount(f"{store.image(image_id)}/rootfs")
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # nothing is mounted there any more
                raise
    _remove_contents(driver, store.image(image_id))
    # While the directory stands and is locked, the id is ours, and so is the record.
    records.remove_dependencies(store, image_id)
    posix.rmdir(store.image(image_id))


def _remove_contents(driver: Driver, path: str) -> None:
    names = sorted(posix.listdir(path), key=lambda name: name not in TREES)
    for name in names:
        entry = f"{path}/{name}"
        if not files.is_own_directory(entry):
            posix.unlink(entry)
        elif driver.is_volume(entry):
            driver.destroy(entry)
        else:
            # A volume source, or the mount point of `--without-mount`: a container may have filled it.
            driver.operations.remove_tree(entry)


def mounts_below(path: str) -> list[str]:
    """Mount points at or below ``path`` (proc(5), mountinfo)."""
    prefix = files.encode(files.real_path(path))
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            point = line.split(b" ", 5)[4]
            if b"\\" in point:
                for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
                    point = point.replace(code, char)
            if point == prefix or point.startswith(prefix + b"/"):
                found.append(files.decode(point))
    return found
