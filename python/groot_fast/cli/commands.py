"""One function a command: check the arguments, call the operation, give the text for stdout."""

from __future__ import annotations

import posix

from groot_fast import files
from groot_fast._core import format_json
from groot_fast.cli.flags import COUNT, INTEGER, LIST, SWITCH, TEXT, Flag, Value
from groot_fast.errors import Cancelled, GrootError, ImageNotFound, StoreError, Unhealthy, UsageError
from groot_fast.groot import Groot
from groot_fast.telemetry.progress import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from groot_fast.config import Settings
    from groot_fast.pull.admission import Admission
    from groot_fast.telemetry.lager import Logger
    from groot_fast.telemetry.metrics import Metrics

    Run = Callable[["Request"], str]


class Request:
    """One call of a command."""

    __slots__ = ("admission", "given", "log", "metrics", "positional", "settings")

    def __init__(
        self,
        settings: Settings,
        given: dict[str, Value],
        positional: list[str],
        log: Logger,
        metrics: Metrics,
        admission: Admission | None = None,
    ) -> None:
        self.settings = settings
        self.given = given
        self.positional = positional
        self.log = log
        self.metrics = metrics
        self.admission = admission

    def groot(self, progress: Listener | None = None) -> Groot:
        """The operations on the chosen store."""
        return Groot(self.settings, self.log, progress, self.metrics, self.admission)


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


MAX_OPERATIONS = 32
"""Commands that a server runs at once; about ten snapshots share a commit then."""

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
        except Cancelled:
            request.log.info("cleanup-stopped")  # the image is made, and that is what was asked for
        except GrootError as error:
            request.log.error("failed-to-cleanup-store", error)
            raise type(error)(f"failed-to-cleanup-store: {error}", hint=error.hint) from error
    groot.report_sizes()
    return format_json(created.spec()) if request.settings.json else created.path


def open_progress() -> Listener:
    """Progress for people: only where stderr is a terminal."""
    if not posix.isatty(2):
        return Listener()
    from groot_fast.telemetry.terminal import Terminal

    return Terminal(2)


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
    """Print what an image, or the whole store, uses."""
    if "store" in request.given:
        if request.positional:
            raise UsageError("invalid arguments - usage: stats --store")
        return format_json(request.groot().describe_store())
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
    # Not the setting: `create.json` in the configuration file is about create.
    if request.given.get("json"):
        return format_json(request.groot().describe_images())
    return "\n".join(request.groot().list()) or "Store empty"


def _missing_store(request: Request) -> str:
    store = request.settings.store
    if files.is_present(store):
        return ""
    text = f"no store found at {store}"
    request.log.error("store-path-failed", text, storePath=store)
    return text


def check(request: Request) -> str:
    """Look for damage and leftovers. Raises Unhealthy with the report where an error or a warning is left."""
    if request.positional:
        raise UsageError("invalid arguments - usage: check [options]")
    deep, repair, dry_run, json = (bool(request.given.get(name)) for name in ("deep", "repair", "dry-run", "json"))
    found = request.groot().check(deep=deep, repair=repair, dry_run=dry_run)
    from groot_fast.cli.report import as_json, as_text

    report = as_json(found) if json else as_text(found)
    if any(finding.counts for finding in found):
        raise Unhealthy(report)
    return report


def capacity(request: Request) -> str:
    """Print the size that the store was configured with, as newer Gardens ask for it. Without a look at the disk."""
    return format_json({"capacity": request.settings.store_size})


def doctor(request: Request) -> str:
    """Say what is wrong, and how to cure it. Raises Unhealthy with the report where something is broken."""
    from groot_fast.doctor import BROKEN, examine

    findings = examine(request.settings)
    if request.given.get("json"):
        report = format_json([finding.as_json() for finding in findings])
    else:
        lines = []
        for finding in findings:
            lines.append(f"{finding.state:<6}  {finding.name}: {finding.text}")
            if finding.cure:
                lines.append(f"        cure: {finding.cure}")
        report = "\n".join(lines)
    if any(finding.state == BROKEN for finding in findings):
        raise Unhealthy(report)
    return report


def completion(request: Request) -> str:
    """Print the completion file of a shell."""
    from groot_fast.cli.shell import SHELLS

    if len(request.positional) != 1 or request.positional[0] not in SHELLS:
        raise UsageError(f"invalid arguments - usage: completion {'|'.join(SHELLS)}")
    return SHELLS[request.positional[0]](visible(), GLOBALS)


def man_page(_: Request) -> str:
    """Print the manual page."""
    from groot_fast import __version__
    from groot_fast.cli.shell import man

    return man(visible(), GLOBALS, __version__)


def visible() -> tuple[Command, ...]:
    """The commands that help, completion and manual show."""
    return tuple(command for command in COMMANDS if not command.hidden)


def init_store(request: Request) -> str:
    """Make a store."""
    if request.positional:
        raise UsageError("invalid arguments - usage: init-store --store <path>")
    quota = request.given.get("quota")
    if quota not in (None, "simple", "full"):
        raise UsageError("invalid --quota parameter, must be simple or full")
    request.groot().init_store(rootless=str(request.given.get("rootless", "")), quota=quota if isinstance(quota, str) else None)
    return ""


def migrate(request: Request) -> str:
    """Turn on simple quotas."""
    quota = request.given.get("quota", "")
    if request.positional or quota not in ("", "simple"):
        raise UsageError("invalid arguments - usage: migrate [--quota simple]")
    return request.groot().migrate(str(quota))


def delete_store(request: Request) -> str:
    """Remove a store."""
    request.groot().delete_store()
    return ""


def serve(request: Request) -> str:
    """Serve commands on a socket until told to stop."""
    if request.positional:
        raise UsageError("invalid arguments - usage: serve [options]")
    from groot_fast.server.daemon import serve

    def number(name: str, default: int) -> int:
        value = request.given.get(name, default)
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"invalid --{name}: it must be at least 1")
        return value

    serve(
        request.settings,
        request.log,
        max_operations=number("max-operations", MAX_OPERATIONS),
        max_pulls=number("max-pulls", posix.cpu_count() or 1),
    )
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
        examples=(
            "grootfs init-store --store-size-bytes 10737418240\n"
            "grootfs --store /var/lib/alice init-store --store-size-bytes 10737418240 --rootless alice:alice"
        ),
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
            Flag("password-stdin", SWITCH, "read the password from stdin"),
            Flag("auth-file", TEXT, "docker's config.json or podman's auth.json to look in for credentials"),
            Flag("platform", TEXT, "os/architecture[/variant] to take from an index", default="this machine's"),
            Flag("pull-policy", TEXT, "always, or missing: use what the store has under this name", default="always"),
            Flag("image-verification", TEXT, "ask the registry for what is here: always, cached or never", default="always"),
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
        examples="grootfs delete my-container\ngrootfs delete /var/lib/grootfs/images/my-container",
    ),
    Command(
        "stats",
        "Print the disk usage of an image",
        stats,
        arguments="<id|image path>",
        description=(
            "With --store that of the whole store instead: used and reclaimable bytes, by image and by layer, from counters and\nrecords."
        ),
        flags=(Flag("store", SWITCH, "the whole store instead of one image", "whole_store"),),
        examples="grootfs stats my-container\ngrootfs --store /var/lib/grootfs stats --store",
    ),
    Command(
        "clean",
        "Remove the layers that no image uses",
        clean,
        flags=(
            THRESHOLD,
            Flag("ignore-image", LIST, "keep the layers of this image", "ignore_images"),
            Flag("cache-bytes", INTEGER, "as --threshold-bytes", "threshold"),
        ),
        examples=("grootfs clean\ngrootfs clean --threshold-bytes 10737418240 --ignore-image docker://registry.example.com/base:v1"),
    ),
    Command(
        "list",
        "Print the directories of all images",
        list_,
        description="With --json one array of objects: id, path, rootfs, layers, image_size_bytes, quota_size_bytes.",
        flags=(Flag("json", SWITCH, "print ids, layers, sizes and limits as JSON", "list_json"),),
        examples="grootfs list\ngrootfs list --json",
    ),
    Command(
        "capacity",
        "Print the configured size of the store",
        capacity,
        description="As Garden asks for it: `init.store_size_bytes` of the configuration file, 0 where it says nothing.",
        examples="grootfs --config /etc/grootfs/unprivileged.yml capacity",
    ),
    Command(
        "doctor",
        "Say what keeps this machine, user or store from working, and the cure",
        doctor,
        description=(
            "Looks at kernel, mount options, quotas, helpers, subordinate ids, limits and space, and changes nothing.\n"
            "Ends with exit code 1 if something is broken; a warning is no failure."
        ),
        flags=(Flag("json", SWITCH, "print an array of check, state (ok, warn, broken), text and cure", "doctor_json"),),
        examples="grootfs --store /var/lib/grootfs doctor\ngrootfs --config /etc/grootfs/unprivileged.yml doctor --json",
    ),
    Command(
        "migrate",
        "Turn on simple quotas for a store that has full ones or none",
        migrate,
        description=(
            "Without --quota it only says how the store counts and what would happen. Needs root and Linux 6.7. Older kernels cannot\n"
            "mount the file system afterwards."
        ),
        flags=(Flag("quota", TEXT, "do it; the value is `simple`"),),
        examples="grootfs --store /var/lib/grootfs migrate\ngrootfs --store /var/lib/grootfs migrate --quota simple",
    ),
    Command(
        "delete-store",
        "Remove a store with everything in it",
        delete_store,
        description="A store in a file of its own is unmounted and the file removed; any other file system stays, without the store.",
        examples="grootfs --store /var/lib/grootfs delete-store",
    ),
    Command(
        "serve",
        "Run commands for others, on a socket",
        serve,
        description=(
            "Listens on the socket that --socket, GROOTFS_SOCKET or `socket` in the configuration file names, or on the one that\n"
            "systemd hands over. Runs for root and for the user it runs as, for nobody else. `grootfs` with the same --socket is\n"
            "run by the server, much faster when many run at once; where no server listens it runs by itself. SIGTERM lets what is\n"
            "running finish. The HTTP interface is described at /openapi.json."
        ),
        flags=(
            Flag("max-operations", COUNT, "commands that run at once; others wait their turn", default=str(MAX_OPERATIONS)),
            Flag("max-pulls", COUNT, "creates that fetch or unpack layers at once", default="one a processor"),
        ),
        examples="grootfs --socket /run/grootfs.sock serve\ngrootfs --socket /run/grootfs.sock create oci:///images/app:v1 my-container",
    ),
    Command(
        "completion",
        "Print the completion file of a shell",
        completion,
        arguments="<bash|zsh|fish>",
        description="`make install` puts all three in place.",
        examples="grootfs completion bash > /usr/local/share/bash-completion/completions/grootfs",
    ),
    Command("man-page", "Print the manual page", man_page, examples="grootfs man-page | man -l -", hidden=True),
    Command(
        "generate-volume-size-metadata",
        "Record the sizes of volumes that have no record",
        volume_sizes,
        examples="grootfs --store /var/lib/grootfs generate-volume-size-metadata",
        hidden=True,
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
)

GLOBALS = (
    Flag("config", TEXT, "configuration file (YAML)"),
    Flag("store", TEXT, "directory of the store", default="/var/lib/grootfs"),
    Flag("socket", TEXT, "run the command in the server that listens there, if one does"),
    Flag("driver", TEXT, "storage driver", default="btrfs"),
    Flag("log-level", TEXT, "debug, info, error or fatal", default="fatal"),
    Flag("log-file", TEXT, "write the log there instead of to stderr"),
    Flag("log-time-format", TEXT, "unix-epoch, or rfc3339: timestamps and levels as words", default="unix-epoch"),
    Flag("correlation-id", TEXT, "stands in every line of the log", default="$GROOTFS_CORRELATION_ID, or a random one"),
    Flag("metron-endpoint", TEXT, "host:port that gets metrics"),
    Flag("metrics-file", TEXT, "add metrics to this file, for the textfile collector of Prometheus' node exporter"),
    Flag("drax-bin", TEXT, "the helper that sets limits without root", default="drax"),
    Flag("newuidmap-bin", TEXT, "the helper that maps user ids", default="newuidmap"),
    Flag("newgidmap-bin", TEXT, "the helper that maps group ids", default="newgidmap"),
    Flag("btrfs-progs-path", TEXT, "directory of mkfs.btrfs", default="$PATH"),
    Flag("btrfs-bin", TEXT, "accepted, not used: no btrfs program is run"),
    Flag("tardis-bin", TEXT, "accepted, not used: belongs to the overlay-xfs driver"),
    Flag("xfsprogs-path", TEXT, "accepted, not used: belongs to the overlay-xfs driver"),
)
