"""One function a command: check the arguments, call the operation, give the text for stdout."""

from __future__ import annotations

import os

from groot_fast._core import format_json
from groot_fast.cli.flags import INTEGER, LIST, SWITCH, TEXT, Flag, Value
from groot_fast.errors import GrootError, ImageNotFound, StoreError, UsageError
from groot_fast.groot import Groot
from groot_fast.telemetry.dropsonde import open_metrics
from groot_fast.telemetry.progress import Listener, Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from groot_fast.config import Settings
    from groot_fast.telemetry.lager import Logger

    Run = Callable[["Request"], str]


class Request:
    """One call of a command."""

    __slots__ = ("exit_code", "given", "log", "positional", "settings")

    def __init__(self, settings: Settings, given: dict[str, Value], positional: list[str], log: Logger) -> None:
        self.exit_code = 0
        """How the process ends when the command ran to its end."""
        self.settings = settings
        self.given = given
        self.positional = positional
        self.log = log

    def groot(self, progress: Listener | None = None) -> Groot:
        """The operations on the chosen store."""
        return Groot(self.settings, self.log, progress, open_metrics(self.settings.metron_endpoint, self.log))


class Command:
    """A command: what it is called, what it takes, what it does."""

    __slots__ = ("arguments", "description", "examples", "flags", "hidden", "name", "run", "summary")

    def __init__(
        self,
        name: str,
        summary: str,
        run: Run,
        *,
        arguments: str = "",
        description: str = "",
        examples: str = "",
        flags: tuple[Flag, ...] = (),
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.run = run
        self.arguments = arguments
        self.description = description
        self.examples = examples
        self.flags = flags
        self.hidden = hidden


MAPPINGS = (
    Flag("uid-mapping", LIST, "user ids as <in the image>:<on the host>:<size>", "uid_mappings"),
    Flag("gid-mapping", LIST, "group ids as <in the image>:<on the host>:<size>", "gid_mappings"),
)
THRESHOLD = Flag("threshold-bytes", INTEGER, "only clean when the cached layers hold at least this much", "threshold")


def create(request: Request) -> str:
    """Make an image."""
    given = request.given
    if len(request.positional) != 2:
        raise UsageError("invalid arguments - usage: create [options] <image> <id>")
    if ("with-clean" in given or "clean" in given) and ("without-clean" in given or "no-clean" in given):
        raise UsageError("with-clean and without-clean cannot be used together")
    progress = open_progress()
    groot = request.groot(progress)
    try:
        created = groot.create(*request.positional)
    finally:
        progress.close()
    if request.settings.with_clean:
        try:
            groot.clean(on_create=True)
        except GrootError as error:
            request.log.error("failed-to-cleanup-store", error)
            raise type(error)(f"failed-to-cleanup-store: {error}", hint=error.hint) from error
    groot.report_sizes()
    return format_json(created.spec()) if request.settings.json else created.path


def open_progress() -> Listener:
    """Progress for people: only where stderr is a terminal."""
    return Terminal(2) if os.isatty(2) else Listener()


def delete(request: Request) -> str:
    """Remove an image. What is not there is not worth an error: Garden asks every store for every container."""
    if len(request.positional) != 1:
        raise UsageError("id was not specified")
    try:
        image_id = request.groot().delete(request.positional[0])
    except ImageNotFound as error:
        request.log.debug("id-not-found-skipping", id=request.positional[0], storePath=request.settings.store)
        return str(error)
    except StoreError as error:
        if str(error).endswith("is outside store path"):
            return str(error)
        raise
    return f"Image {image_id} deleted"


def stats(request: Request) -> str:
    """Print what an image uses."""
    if len(request.positional) != 1:
        raise UsageError("invalid arguments - usage: stats [options] <id|image path>")
    total, exclusive = request.groot().stats(request.positional[0])
    return format_json({"disk_usage": {"total_bytes_used": total, "exclusive_bytes_used": exclusive}})


def clean(request: Request) -> str:
    """Remove unused layers."""
    missing = _missing_store(request)
    if missing:
        return missing
    return "clean completed" if request.groot().clean() else "threshold not reached: skipping clean"


def list_(request: Request) -> str:
    """Print the images."""
    missing = _missing_store(request)
    if missing:
        raise StoreError(missing)
    return "\n".join(request.groot().list()) or "Store empty"


def _missing_store(request: Request) -> str:
    store = request.settings.store
    if os.path.lexists(store):
        return ""
    text = f"no store found at {store}"
    request.log.error("store-path-failed", text, storePath=store)
    return text


def check(request: Request) -> str:
    """Look for damage and leftovers."""
    if request.positional:
        raise UsageError("invalid arguments - usage: check [options]")
    deep, repair, dry_run, json = (bool(request.given.get(name)) for name in ("deep", "repair", "dry-run", "json"))
    found = request.groot().check(deep=deep, repair=repair, dry_run=dry_run)
    request.exit_code = int(any(finding.counts for finding in found))
    from groot_fast.cli.report import as_json, as_text

    return as_json(found) if json else as_text(found)


def init_store(request: Request) -> str:
    """Make a store."""
    if request.positional:
        raise UsageError("invalid arguments - usage: init-store --store <path>")
    quota = request.given.get("quota")
    if quota not in (None, "simple", "full"):
        raise UsageError("invalid --quota parameter, must be simple or full")
    request.groot().init_store(rootless=str(request.given.get("rootless", "")), quota=quota if isinstance(quota, str) else None)
    return ""


def delete_store(request: Request) -> str:
    """Remove a store."""
    request.groot().delete_store()
    return ""


def volume_sizes(request: Request) -> str:
    """Write missing size records."""
    request.groot().record_volume_sizes()
    return ""


COMMANDS = (
    Command(
        "init-store",
        "Make a store, or check one that is there",
        init_store,
        description="Needs root. Running it again is harmless and repairs missing folders; nothing that exists is ever formatted.",
        flags=(
            *MAPPINGS,
            Flag("rootless", TEXT, "take the mappings of <user>:<group> from /etc/subuid and /etc/subgid"),
            Flag("store-size-bytes", INTEGER, "keep the store in a file of this size beside it", "store_size"),
            Flag("quota", TEXT, "accounting to turn on where there is none: simple or full", default="simple on file systems it makes"),
        ),
        examples="grootfs --store /var/lib/grootfs init-store --store-size-bytes 10737418240",
    ),
    Command(
        "create",
        "Make an image (a root file system) for a container",
        create,
        arguments="<image> <id>",
        description=(
            "<image> is docker://host/name[:tag|@digest], oci:///directory[:tag|@digest], or the path of a tar file or directory.\n"
            "Prints the image's directory, which holds image.json and rootfs; with --json a partial runtime specification."
        ),
        flags=(
            Flag("disk-limit-size-bytes", INTEGER, "disk limit, the image's own size included", "disk_limit", "no limit"),
            Flag("exclude-image-from-quota", SWITCH, "leave the image's own size out of the limit", "exclude_image"),
            Flag("insecure-registry", LIST, "host:port to trust without TLS", "insecure_registries"),
            Flag("username", TEXT, "user at the registry"),
            Flag("password", TEXT, "password at the registry"),
            Flag("platform", TEXT, "os/architecture[/variant] to take from an index", default="this machine's"),
            Flag("pull-policy", TEXT, "always, or missing: use what the store has under this name", default="always"),
            Flag("skip-layer-validation", SWITCH, "do not check sizes and digests of oci:// layers", "skip_layer_validation"),
            Flag("json", SWITCH, "print a partial runtime specification"),
            Flag("with-clean", SWITCH, "clean up unused layers afterwards"),
            Flag("without-clean", SWITCH, "do not clean, whatever the configuration says"),
            THRESHOLD,
            Flag("with-mount", SWITCH, "make the root file system in place (default)"),
            Flag("without-mount", SWITCH, "leave rootfs empty; the output says what to bind there"),
            Flag("idmapped-mount", SWITCH, "translate ids by mounting, not by storing (root; with mappings)", "idmapped_mount"),
            *MAPPINGS,
            Flag("clean", SWITCH, "as --with-clean"),
            Flag("no-clean", SWITCH, "as --without-clean"),
        ),
        examples=(
            "grootfs create docker://registry.example.com/app:v1 my-container\n"
            "grootfs create --disk-limit-size-bytes 1073741824 oci:///images/app:v1 my-container"
        ),
    ),
    Command(
        "delete",
        "Remove an image",
        delete,
        arguments="<id|image path>",
        description="Cached layers stay until clean. Removing what is not there succeeds.",
    ),
    Command("stats", "Print the disk usage of an image", stats, arguments="<id|image path>"),
    Command(
        "clean",
        "Remove the layers that no image uses",
        clean,
        flags=(
            THRESHOLD,
            Flag("ignore-image", LIST, "keep the layers of this image", "ignore_images"),
            Flag("cache-bytes", INTEGER, "as --threshold-bytes", "threshold"),
        ),
    ),
    Command(
        "check",
        "Look for damage and leftovers in the store",
        check,
        description=(
            "Prints a line for each finding: error (something is damaged), warning (something is left over or will be missed) or\n"
            "note. Changes nothing unless told to, and leaves running commands and what is theirs alone. The exit code is 0\n"
            "when no error or warning is left, else 1."
        ),
        flags=(
            Flag("deep", SWITCH, "read every file of every volume and hold it against what was unpacked"),
            Flag("repair", SWITCH, "put right what no living image uses"),
            Flag("dry-run", SWITCH, "say what --repair would put right, and change nothing"),
            Flag("json", SWITCH, "print a JSON document"),
        ),
        examples="grootfs check\ngrootfs check --deep\ngrootfs check --dry-run\ngrootfs check --repair",
    ),
    Command("list", "Print the directories of all images", list_),
    Command("delete-store", "Remove a store with everything in it", delete_store),
    Command("generate-volume-size-metadata", "Record the sizes of volumes that have no record", volume_sizes, hidden=True),
)

GLOBALS = (
    Flag("config", TEXT, "configuration file (YAML)"),
    Flag("store", TEXT, "directory of the store", default="/var/lib/grootfs"),
    Flag("driver", TEXT, "storage driver", default="btrfs"),
    Flag("log-level", TEXT, "debug, info, error or fatal", default="fatal"),
    Flag("log-file", TEXT, "write the log there instead of to stderr"),
    Flag("metron-endpoint", TEXT, "host:port that gets metrics"),
    Flag("drax-bin", TEXT, "the helper that sets limits without root", default="drax"),
    Flag("newuidmap-bin", TEXT, "the helper that maps user ids", default="newuidmap"),
    Flag("newgidmap-bin", TEXT, "the helper that maps group ids", default="newgidmap"),
    Flag("btrfs-progs-path", TEXT, "directory of mkfs.btrfs", default="$PATH"),
    Flag("btrfs-bin", TEXT, "accepted, not used: no btrfs program is run"),
    Flag("tardis-bin", TEXT, "accepted, not used: belongs to the overlay-xfs driver"),
    Flag("xfsprogs-path", TEXT, "accepted, not used: belongs to the overlay-xfs driver"),
)
