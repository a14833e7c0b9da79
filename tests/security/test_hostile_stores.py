"""Root works on a store whose owner is hostile: every command, with each trick in the place of each thing in the store.

Two trees of root's, one on the file system of the store and one elsewhere, are as they were afterwards to the last time; nothing of
them is told or taken into an image; and the command is done, or is refused with one line that names the place. Runs without
``--full`` try a part of the combinations; `docs/reliability.md` has the table of all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from support import mounts
from support.accounts import User
from support.command import REPOSITORY, Result, Store
from support.hostile import IMAGE, LARGEST, PLACES, SECRETS, SWAP, SWAPPER, TRICKS, Field, Place, lay_link, make_subvolume, remove, swapped
from support.interruption import Points, trace
from support.server import Server
from support.tree import photograph

TIMEOUT = 60.0
"""Seconds after which a command counts as hanging."""

COMMANDS: dict[str, Callable[[Field], list[str | Path]]] = {
    "create, warm": lambda f: ["create", f.warm, "new"],
    "create, cold": lambda f: ["create", "--disk-limit-size-bytes", str(100 << 20), f.cold, "new"],
    "create from a tar": lambda f: ["create", f.tar, "new"],
    "create from a directory": lambda f: ["create", "--without-mount", f.directory, "new"],
    "create --with-clean": lambda f: ["create", "--with-clean", f.warm, "new"],
    "create with metrics": lambda f: ["--metrics-file", f.scratch / "metrics.prom", "create", f.warm, "new"],
    "delete": lambda _: ["delete", IMAGE],
    "clean": lambda _: ["clean"],
    "clean --ignore-image": lambda f: ["clean", "--ignore-image", f.warm],
    "list": lambda _: ["list"],
    "list --json": lambda _: ["list", "--json"],
    "stats": lambda _: ["stats", IMAGE],
    "stats --store": lambda _: ["stats", "--store"],
    "capacity": lambda _: ["capacity"],
    "check": lambda _: ["check"],
    "check --deep": lambda _: ["check", "--deep"],
    "check --repair": lambda _: ["check", "--deep", "--repair"],
    "migrate": lambda _: ["migrate"],
    "migrate --quota": lambda _: ["migrate", "--quota", "simple"],
    "generate-volume-size-metadata": lambda _: ["generate-volume-size-metadata"],
    "doctor": lambda _: ["doctor"],
    "init-store": lambda f: ["init-store", *f.rootless],
    "init-store with a file": lambda f: ["init-store", "--store-size-bytes", str(1 << 28), *f.rootless],
    "delete-store": lambda _: ["delete-store"],
}
REQUESTS: dict[str, Callable[[Field], tuple[str, str, object]]] = {
    "POST images": lambda f: ("POST", "/v1/images", {"image": f.cold, "id": "new"}),
    "GET images": lambda _: ("GET", "/v1/images", None),
    "GET stats": lambda _: ("GET", f"/v1/images/{IMAGE}/stats", None),
    "DELETE image": lambda _: ("DELETE", f"/v1/images/{IMAGE}", None),
    "POST clean": lambda _: ("POST", "/v1/clean", {}),
}
MISSING = (f"Image `{IMAGE}` not found", "Store path is not initialized", "image for id `new` already exists")
"""What is said of images and stores that are not there any more."""
ALL = [*TRICKS, SWAP]
PART = 8
"""One of so many combinations is tried where not all are."""
NATIVE = ["create, warm", "create --with-clean", "delete", "clean", "list", "stats"]
"""Commands that make so few system calls that all of them can be tried."""
CALLS = 3
"""Calls before which the places are exchanged where that is not done before all."""


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether all combinations are tried."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="module")
def field(module_scratch: Path, user: User) -> Iterator[Field]:
    yield Field(module_scratch, user)


@pytest.fixture(scope="module")
def server(field: Field) -> Iterator[Server]:
    """A server of root's that was told of the store before it became hostile."""
    running = Server(field.scratch / "socket", field.fresh().path).wait()
    yield running
    running.crash()


def places_of(name: str, trick: str, *, full: bool) -> list[Place]:
    """All places, or a part of them that differs from command to command and trick to trick."""
    return [place for place in PLACES if full or zlib.crc32(f"{name}/{trick}/{place.path}".encode()) % PART == 0]


def numbers_in(value: object) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int):
        yield value


def check_records(field: Field) -> None:
    """No size of root's trees is on record."""
    for record in (field.store.path / "meta").glob("volume-*"):
        info = record.lstat()
        if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_size:
            recorded = json.loads(record.read_bytes())
            if isinstance(recorded, dict):
                recorded.pop("Made", None)  # a time
            assert all(number < LARGEST for number in numbers_in(recorded)), record


def check_copies(field: Field) -> None:
    """Nothing of root's trees is in the store."""
    for folder, _, files in os.walk(field.store.path):
        for file in files:
            path = os.path.join(folder, file)
            info = os.lstat(path)
            if not os.path.islink(path) and os.path.isfile(path) and info.st_nlink == 1:
                with open(path, "rb") as opened:
                    assert not SECRETS.search(opened.read(1 << 16).decode("latin-1")), path


def check_outcome(field: Field, place: Place, name: str, result: Result) -> None:
    """Done, or refused with a line that names the place; nothing of root's trees is told."""
    said = result.out + result.err
    insist(not SECRETS.search(said.replace(str(field.store.path), "")), result)
    insist("Traceback" not in said and "panick" not in said and "internal error" not in said, result)
    insist(result.code in (0, 1) and result.err == "", result)
    found = re.fullmatch(r"((error|warning|note): [^\n]+\n)*\d+ (error|warning|note|repaired)[\w, ]*\n", result.out)
    if result.code and not (name == "doctor" or (name.startswith("check") and found)):
        insist(re.fullmatch(r"[^\n]+\n(\nhint: [^\n]+\n)?", result.out), result)
        insist(names_the_place(field, place, result.out), result)


def names_the_place(field: Field, place: Place, message: str) -> bool:
    """Whether somebody who reads the message finds what is wrong: it is the path, one above it, or the item that is there."""
    path = field.path_of(place)
    folders = [path, *path.parents][: len(path.relative_to(field.home).parts) - (place.path != "cache")]
    return message.startswith(MISSING) or any(str(folder) in message for folder in folders) or path.name in message


def insist(condition: object, what: object) -> None:
    """As `assert`, in fewer words: hundreds of these may fail at once."""
    if not condition:
        raise AssertionError(str(what))


def check_all(field: Field, place: Place, name: str, result: Result, *, linked: bool = False) -> None:
    """What has to hold after every trick. ``linked``: one of root's files got a second name by it."""
    field.outside.check()
    if linked:
        field.within.check_unlinked()
    else:
        field.within.check()
    insist(not os.path.lexists(field.outside.path / "made"), "something was made where a link points")
    check_outcome(field, place, name, result)
    field.reset_mounts()
    check_records(field)
    check_copies(field)


def attack(field: Field, place: Place, trick: str, name: str, work: Callable[[], Result]) -> None:
    """Play one trick, do the work, and look at everything."""
    field.fresh(backed=place.path.endswith(".backing-store"))
    if trick == SWAP:
        with swapped(field, place) as stop:
            result = work()
            insist(stop(), "the race was never run")
    else:
        TRICKS[trick](field, place, field.path_of(place))
        field.look()
        result = work()
    check_all(field, place, name, result, linked=trick == "hard link")


def each_place(places: Iterable[Place], try_one: Callable[[Place], None]) -> None:
    """All of them, and then all that failed."""
    failed = []
    for place in places:
        try:
            try_one(place)
        except AssertionError as error:
            failed.append(f"{place.name}: {error}")
    assert not failed, "\n\n".join(failed)


@pytest.mark.parametrize("trick", ALL)
@pytest.mark.parametrize("name", COMMANDS)
def test_commands(field: Field, name: str, trick: str, full: bool) -> None:
    def work() -> Result:
        return field.store.run(*COMMANDS[name](field), timeout=TIMEOUT)

    each_place(places_of(name, trick, full=full), lambda place: attack(field, place, trick, name, work))


@pytest.mark.parametrize("trick", ALL)
@pytest.mark.parametrize("name", REQUESTS)
def test_requests(field: Field, server: Server, name: str, trick: str, full: bool) -> None:
    def work() -> Result:
        answer = server.request(*REQUESTS[name](field))
        if answer.status < 400:
            return Result((name,), 0, answer.body.decode(), "")
        return Result((name,), 1, f"{answer.json['error']['message']}\n", "")

    each_place(places_of(name, trick, full=full), lambda place: attack(field, place, trick, name, work))


@pytest.mark.parametrize("name", NATIVE)
def test_swapped_before_every_call(field: Field, points: Points, name: str) -> None:
    """Without luck: the command is held before a system call that has to do with the store, and the place becomes a link."""
    total = 0

    def try_one(place: Place) -> None:
        nonlocal total
        field.fresh()
        argv = COMMANDS[name](field)
        count = len(trace(field.store, field.top, *argv, reads=True).calls)
        for at in points.of(count, CALLS, zlib.crc32(place.path.encode())):
            field.fresh()
            other = json.dumps([sys.executable, "-I", str(SWAPPER), "once", *map(str, lay_link(field, place))])
            traced = trace(field.store, field.top, *argv, at=at, how=("--meanwhile", other), reads=True)
            try:
                check_all(field, place, name, traced.result)
            except AssertionError as error:
                raise AssertionError(f"before call {at} of {count} ({traced.last}): {error}") from None
            total += 1
            points.covered(f"swapped, {name}", count * len(PLACES))

    each_place(places_of(name, SWAP, full=points.full), try_one)
    assert total


# -- what only some of them meet ---------------------------------------------------------------

HOST_IDS = '{"uid-mappings":["0:0:65536"],"gid-mappings":["0:0:65536"]}\n'


@pytest.mark.parametrize("owner", ["the user", "root", "root, and without what root recorded"])
@pytest.mark.parametrize("name", ["create, cold", "create, warm", "create from a tar", "init-store", "check --repair"])
def test_mappings_to_ids_of_the_host(field: Field, name: str, owner: str) -> None:
    """`namespace.json` says that root in an image is root of the host: nothing is made by that, whoever wrote the file."""
    field.fresh()
    file = field.store.path / "meta" / "namespace.json"
    file.unlink()
    file.write_text(HOST_IDS)
    if owner == "the user":
        os.chown(file, field.user.uid, field.user.gid)
    if owner.endswith("recorded"):
        os.removexattr(field.store.path, "trusted.grootfs.namespace")
    before = set(field.store.volumes())
    if name == "init-store" and not owner.endswith("recorded"):
        # the cure: root gives the mappings that it gave before
        field.store.run(*COMMANDS[name](field)).ok()
        assert file.read_text() != HOST_IDS and file.stat().st_uid == 0
        field.store.run(*COMMANDS["create, warm"](field)).ok()
        return
    result = field.store.run(*COMMANDS[name](field)).failed()
    assert str(file) in result.message or "mappings do not match" in result.message, result
    assert not field.store.image("new").exists() and set(field.store.volumes()) == before


ATTRIBUTES = {
    "user.grootfs.image-size": [b"", b"-1", b"x", b"18446744073709551616", b"9" * 4000],
    "user.grootfs.limit": [b"", b"-1", b"18446744073709551615", b"9" * 4000],
    "user.grootfs.uncounted": [b"18446744073709551615", b"nonsense"],
    "user.grootfs.pending-limit": [b"18446744073709551615", b"-5", b"1"],
    "user.grootfs.idmapped": [b"1", b"2", b"/etc"],
}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("name", COMMANDS)
def test_attributes(field: Field, name: str, attribute: str, full: bool) -> None:
    """Whatever the owner writes on an image's directory, with a mount of root's at `rootfs` besides."""
    place = next(place for place in PLACES if place.path.endswith("/rootfs"))
    values = ATTRIBUTES[attribute]
    for value in values if full else [values[zlib.crc32(name.encode()) % len(values)]]:
        for mounted in (False, True):
            field.fresh()
            os.setxattr(field.store.image(IMAGE), attribute, value)
            if mounted:
                mounts.tool("mount", "--bind", field.outside.path, field.store.rootfs(IMAGE))
            result = field.store.run(*COMMANDS[name](field), timeout=TIMEOUT)
            assert not mounted or field.store.rootfs(IMAGE) in mounts.mounts_below(field.home), "the mount is gone"
            check_all(field, place, name, result)


@pytest.mark.parametrize("kind", ["link of the user's", "file of the user's", "file that others may write", "FIFO", "directory"])
def test_a_backing_file_that_is_not_roots(field: Field, kind: str) -> None:
    """After a reboot init-store mounts the file beside the store, which may be in a directory of the user's: a file system of somebody
    else's must not come up as the user's store."""
    field.fresh()
    private = field.scratch / "private.btrfs"
    if not private.exists():
        with private.open("wb") as file:
            os.truncate(file.fileno(), 256 << 20)
        mounts.tool("mkfs.btrfs", "--quiet", private)
    before = photograph(private)
    store = Store(field.home / "other")
    if kind == "link of the user's":
        store.backing.symlink_to(private)
        os.chown(store.backing, field.user.uid, field.user.gid, follow_symlinks=False)
    elif kind == "FIFO":
        os.mkfifo(store.backing)
    elif kind == "directory":
        store.backing.mkdir()
    else:
        shutil.copyfile(private, store.backing)
        os.chown(store.backing, field.user.uid if "user" in kind else 0, 0)
        store.backing.chmod(0o600 if "user" in kind else 0o666)
    result = store.run("init-store", "--store-size-bytes", str(256 << 20), *field.rootless, timeout=TIMEOUT).failed()
    assert result.message == f"{store.backing} is not a file of root's own; it was not mounted"
    assert not store.path.exists() and mounts.mounts_below(field.home) == [] and photograph(private) == before


AFTER = 4
"""So many calls after something was made it is opened, if not at once."""


@pytest.mark.parametrize(
    ("name", "folder", "made"),
    [
        ("create, cold", "volumes", "ioctl 0x94:0x18"),
        ("create, cold", "volumes", "ioctl 0x94:0x17"),
        ("create, warm", "tmp", "mkdir"),
    ],
    ids=["a volume", "a volume on another", "an image"],
)
def test_something_of_others_in_the_place_of_what_was_just_made(field: Field, name: str, folder: str, made: str) -> None:
    """The owner moves a tree that it may write to into the store, and exchanges it with a directory right after that was made."""

    def prepare() -> Path:
        field.fresh()
        other = field.store.path / folder / "other"
        (make_subvolume if folder == "volumes" else Path.mkdir)(other)
        other.chmod(0o777)
        (other / "of-others").write_text("theirs")
        (field.scratch / "known").write_text(" ".join(os.listdir(other.parent)))
        return other

    other = prepare()
    argv = COMMANDS[name](field)
    calls = trace(field.store, field.top, *argv, reads=True).calls
    first = next(at for at, call in enumerate(calls, 1) if call.startswith(made) and folder in call)
    for at in range(first + 1, first + 1 + AFTER):
        other = prepare()
        known = other.stat()
        exchange = [sys.executable, "-I", str(SWAPPER), "once", str(other.parent), str(other), str(field.scratch / "known")]
        traced = trace(field.store, field.top, *argv, at=at, how=("--meanwhile", json.dumps(exchange)), reads=True)
        assert traced.other and traced.other.out == "1\n", traced
        for path in [path for path in field.store.path.rglob("of-others") if path.parent.stat().st_ino == known.st_ino]:
            info = path.parent.stat()
            assert os.listdir(path.parent) == ["of-others"], (at, traced.last)
            assert (info.st_uid, info.st_mode, info.st_mtime_ns) == (0, known.st_mode, known.st_mtime_ns), (at, traced.last)
        check_outcome(field, Place(folder, folder, True), name, traced.result)


@pytest.mark.parametrize("place", ["images", "volumes", "meta", "locks", "tmp", "meta/dependencies"])
def test_init_store_gives_nobody_a_directory_of_others(field: Field, place: str) -> None:
    """The owner may write to it, so it can be moved into the store; that makes it nobody else's."""
    field.fresh()
    shared = field.top / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "file").write_text("theirs")
    path = field.store.path / place
    remove(path.parent, path.name)
    shared.rename(path)
    if place == "meta":
        os.mkdir(path / "dependencies")
    result = field.store.run("init-store", *field.rootless).failed()
    assert str(path) in result.message, result
    info = path.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (0, 0, 0o777)


# -- the document --------------------------------------------------------------------------------


def table() -> str:
    """What stands in the document: at how many places each command and each request to a server meets each trick."""
    rows = [*(f"`{name}`" for name in COMMANDS), *(f"server: `{name}`" for name in REQUESTS)]
    lines = [f"| command | {' | '.join(ALL)} |", f"| --- |{' --- |' * len(ALL)}"]
    lines += [f"| {row} | {' | '.join([str(len(PLACES))] * len(ALL))} |" for row in rows]
    places = ", ".join(place.name for place in PLACES)
    total = len(PLACES) * len(ALL) * len(rows)
    return "\n".join([*lines, "", f"Together {total:,} combinations. The {len(PLACES)} places: {places}."])


def test_document_has_the_table() -> None:
    """The right table is printed when it fails; copy it between the marks."""
    document = (REPOSITORY / "docs" / "reliability.md").read_text()
    between = document.partition("<!-- hostile stores -->\n")[2].partition("\n<!-- end of hostile stores -->")[0]
    assert between == table(), "\n" + table()
