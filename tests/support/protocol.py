"""The protocol of create, delete and clean on one store, as programs for the explorer.

Each function follows the code that its docstring names (``rust/store/src``), step by step: what is one system call there is
one step here. Layers are
letters; the volume of a layer is `volumes/<letter>` and stands for all below it too. Downloads, quotas and sizes are left
out: they take no part in the protocol. ``without`` takes single rules of the protocol away; the explorer must then find out.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from support.explorer import Program, State, Step, Violation, World, freeze, run

Rules = frozenset[str]
Part = Generator[Step, Any, Any]

RULES = {
    "identity": "a lock counts only while its file still has its name (`locks.is_at`)",
    "recheck": "after a lock on a volume, look again whether it is there (`locks.lock_unless`)",
    "base lock": "the volume that is built upon is locked, shared (`volumes.existing_volume`)",
    "lower locks": "and so is everything below it (`volumes.existing_volume`, `volumes.Volume.publish`)",
    "chain lock": "a volume is built by who holds its lock (`volumes.lock_missing`)",
    "top down": "locks are taken from the top of the image downwards (`builder.Builder._plan`)",
    "publish whole": "a volume gets its name when it is complete (`volumes.Volume.publish`)",
    "clean locks": "clean takes only volumes it can lock (`clean.doom`)",
    "clean looks again": "after that lock, clean looks for images that came meanwhile (`clean.doom`)",
    "record first": "the record of an image is there before its tree (`images.Reservation.commit`)",
    "held directory": "an image directory is locked before it has its name (`images.make_locked`)",
    "tree first": "delete removes the tree first and the record last (`images.remove_image`)",
}


def store(**volumes: str) -> World:
    """A store with these complete volumes and nothing else."""
    names: dict[str, Any] = {}
    for inode, name in enumerate(volumes, 1):
        names[f"volumes/{name}"] = (inode, volumes[name])
    return freeze(names, {}, {})


# -- locks.rs ------------------------------------------------------------------


def try_lock(key: str, exclusive: bool, without: Rules) -> Part:
    """`locks.try_lock`: a descriptor, or None."""
    path = f"locks/{key}"
    while True:
        fd = yield "open", path, True
        if not (yield "flock", fd, exclusive):
            yield "close", fd
            return None
        if "identity" in without or (yield "is_at", fd, path):
            return fd
        yield "close", fd


def lock(key: str, exclusive: bool, without: Rules) -> Part:
    """`locks.lock`, without its deadline."""
    while (fd := (yield from try_lock(key, exclusive, without))) is None:
        pass
    return fd


def lock_directory(path: str, without: Rules) -> Part:
    """`images.lock_folder`: a descriptor, or -1."""
    fd = yield "open", path, False
    if fd is None:
        return -1
    if (yield "flock", fd, True) and ("identity" in without or (yield "is_at", fd, path)):
        return fd
    yield "close", fd
    return -1


def release(held: tuple[int, ...]) -> Part:
    """Let several locks go."""
    for fd in reversed(held):
        yield "close", fd


# -- create --------------------------------------------------------------------


def plan(image: str, without: Rules) -> Part:
    """`builder.Builder._plan`: (missing layers bottom first, their locks top first, what is there below), or None."""
    held: tuple[int, ...] = ()
    shared: tuple[int, ...] = ()
    missing = there = ""
    for layer in reversed(image) if "top down" not in without else image:
        if (yield "exists", f"volumes/{layer}"):
            if "base lock" not in without:
                shared = ((yield from lock(layer, False, without)),)
                if "recheck" not in without and not (yield "exists", f"volumes/{layer}"):
                    yield from release((*held, *shared))
                    return None
            there = layer
            for lower in reversed(image[: image.index(layer)]):
                if "lower locks" not in without:
                    fd = yield from try_lock(lower, False, without)
                    if fd is None and (yield "exists", f"volumes/{lower}"):
                        fd = yield from lock(lower, False, without)
                    shared = shared if fd is None else (*shared, fd)
                if (yield "exists", f"volumes/{lower}"):
                    there += lower
            break
        if "chain lock" not in without:
            while (own := (yield from try_lock(layer, True, without))) is None:
                if (yield "exists", f"volumes/{layer}"):
                    yield from release(held)
                    return None
            held = (*held, own)
            if "recheck" not in without and (yield "exists", f"volumes/{layer}"):
                yield from release(held)
                return None
        missing = layer + missing
    return missing, held, there


def create(image: str, image_id: str, without: Rules = frozenset()) -> Program:
    """`groot.Groot.create` from planning on. Returns the layers whose volumes it used or made, or "exists"."""
    yield from lock("global", False, without)
    while (planned := (yield from plan(image, without))) is None:
        pass
    missing, held, there = planned
    base = image[: len(image) - len(missing)]
    below = f"volumes/{base[-1]}" if base else ""
    published = True
    for layer in missing:
        fresh = f"volumes/{layer}-incomplete-{image_id}"
        if below:
            yield "snapshot", below, fresh
            yield "fill", fresh, "partial"
        else:
            yield "make", fresh, "partial"
        if not published:
            yield "rename", below, below.split("-", maxsplit=1)[0]
            if held and "lower locks" not in without:
                yield "flock", held[-1], False
            elif held:
                yield "close", held[-1]
            held = held[:-1]
        if "publish whole" in without:
            yield "rename", fresh, f"volumes/{layer}"
            fresh = f"volumes/{layer}"
        yield "fill", fresh, image[: image.index(layer) + 1]
        below, published = fresh, False
    if not (yield from reserve(image_id, without)):
        return "exists"
    tree, record = ("snapshot", below, f"images/{image_id}/rootfs"), ("write", f"records/{image_id}", image)
    first, second = (record, tree) if "record first" not in without else (tree, record)
    yield first
    yield second
    if not published:
        yield "rename", below, below.split("-", maxsplit=1)[0]
    return "".join(sorted(there + missing))


def reserve(image_id: str, without: Rules) -> Part:
    """`images.Reservation`: whether the id is ours. The directory stays locked to the end of the process."""
    path, fresh = f"images/{image_id}", f"tmp/image-{image_id}"
    if "held directory" in without:
        if (yield "make", path, ""):
            return (yield from lock_directory(path, without)) >= 0
        return False
    while not (yield "make", fresh, ""):
        fresh += "'"
    yield from lock_directory(fresh, without)
    while not (yield "rename_new", fresh, path):
        left = yield from lock_directory(path, without)
        if (yield "exists", f"{path}/rootfs"):
            yield "remove", fresh
            return False
        if left >= 0:
            yield from remove_image(image_id, without)
            yield "close", left
    return True


def remove_image(image_id: str, without: Rules) -> Part:
    """`images.remove_image`, with the directory locked."""
    tree, record = ("remove", f"images/{image_id}/rootfs"), ("remove", f"records/{image_id}")
    first, second = (tree, record) if "tree first" not in without else (record, tree)
    yield first
    yield second
    yield "remove", f"images/{image_id}"


# -- delete and clean ----------------------------------------------------------


def delete(image_id: str, without: Rules = frozenset()) -> Program:
    """`images.delete_image`."""
    path = f"images/{image_id}"
    while (yield "exists", path):
        fd = yield from lock_directory(path, without)
        if fd >= 0:
            yield from remove_image(image_id, without)
            return "deleted"
    return "not found"


def clean(without: Rules = frozenset()) -> Program:
    """`clean.clean`."""
    if (yield from try_lock("gc", True, without)) is None:
        return "another"
    yield from remove_unfinished(without)
    alone = yield from try_lock("global", True, without)
    if alone is not None:
        for record in (yield "list", "records"):
            if not (yield "exists", f"images/{record}"):
                yield "remove", f"records/{record}"
    used = yield from used_volumes()
    for name in (yield "list", "volumes"):
        if not name.startswith("gc.") and name not in used:
            yield from doom(name, without)
    if alone is not None:
        for left in (yield "list", "tmp"):
            yield "remove", f"tmp/{left}"
        volumes = yield "list", "volumes"
        for key in (yield "list", "locks"):
            if key in ("global", "gc") or key in volumes:
                continue
            fd = yield from try_lock(key, True, without)
            if fd is not None:
                yield "remove", f"locks/{key}"
                yield "close", fd
        yield "close", alone
    for name in (yield "list", "volumes"):
        if name.startswith("gc."):
            yield "remove", f"volumes/{name}"
    return "cleaned"


def remove_unfinished(without: Rules) -> Part:
    """`images.remove_unfinished`."""
    for image_id in (yield "list", "images"):
        path = f"images/{image_id}"
        if (yield "exists", f"{path}/rootfs"):
            continue
        fd = yield from lock_directory(path, without)
        if fd >= 0:
            if not (yield "exists", f"{path}/rootfs"):
                yield from remove_image(image_id, without)
            yield "close", fd


def used_volumes() -> Part:
    """`records.Dependencies`. Records are read one by one."""
    used = ""
    for record in (yield "list", "records"):
        used += (yield "read", f"records/{record}") or ""
    return used


def doom(name: str, without: Rules) -> Part:
    """`clean.doom`."""
    fd = None
    if "clean locks" not in without:
        fd = yield from try_lock(name.split("-", maxsplit=1)[0], True, without)
        if fd is None:
            return
    if "clean looks again" in without or name not in (yield from used_volumes()):
        yield "rename", f"volumes/{name}", f"volumes/gc.{name}"
    if fd is not None:
        yield "close", fd


# -- what must hold ------------------------------------------------------------


def check(state: State) -> None:
    """What must hold at every moment. Raises Violation."""
    world = state.world
    volumes = world.below("volumes")
    for name in volumes:
        if name.isalpha() and world.content(f"volumes/{name}") == "partial":
            raise Violation(f"half-visible volume {name}")
        if "-" in name:
            building = [other for other in volumes if other.startswith(f"{name[0]}-") and world.content(f"volumes/{other}") == "partial"]
            if len(building) > 1 and not _anybody_died(state):
                raise Violation(f"double build of {name[0]}")
    for path, (_, content) in world.names:
        if path.endswith("/rootfs"):
            image_id = path.split("/")[1]
            if world.content(f"images/{image_id}") is None:
                raise Violation(f"tree without its directory: {image_id}")
            if world.content(f"records/{image_id}") != content:
                raise Violation(f"image {image_id} has the layers {content} and the record {world.content(f'records/{image_id}')}")


def _anybody_died(state: State) -> bool:
    return any(getattr(place, "died", False) for place in state.processes)


def check_end(state: State, reported: dict[str, tuple[str, str]]) -> None:
    """What must hold when all have ended. ``reported``: images whose creation was reported and that nobody deleted, with their
    layers, and with those that had a volume then (clean may have taken one away earlier, when nobody used it). Raises
    Violation."""
    world = state.world
    for image_id, (layers, there) in reported.items():
        if world.content(f"images/{image_id}/rootfs") != layers:
            raise Violation(f"image {image_id} was reported and is not there")
        for layer in there:
            if world.content(f"volumes/{layer}") is None:
                raise Violation(f"volume {layer} of the living image {image_id} was removed")
    # What the dead left is cleaned at once, every id is free again, and images can be made.
    world, result = run(world, 7, clean())
    left = [path for path, _ in world.names if "-" in path or "gc." in path or path.startswith("tmp/")]
    images = [image_id for image_id in world.below("images") if world.content(f"images/{image_id}/rootfs") is not None]
    if result != "cleaned" or left or world.below("images") != images or world.below("records") != images:
        raise Violation(f"clean leaves {world.names}")
    for image_id in ("i", "next"):
        world, result = run(world, 7, create("AB", image_id))
        if (result == "exists") != (image_id in images):
            raise Violation(f"the next create of {image_id} says: {result}")
