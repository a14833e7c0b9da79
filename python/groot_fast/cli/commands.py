"""One function a command: check the arguments, call the operation, give the text for stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from groot_fast._core import Logger, Metrics, Store, format_json, image_id_of
from groot_fast.config import Settings, Value
from groot_fast.errors import ImageNotFound, StoreError, Unhealthy, UsageError
from groot_fast.groot import Groot
from groot_fast.telemetry.display import Plain, Records, Terminal
from groot_fast.telemetry.progress import Listener


@dataclass(frozen=True)
class Request:
    """One call of a command: ``given`` are its own options by name."""

    settings: Settings
    given: dict[str, Value]
    positional: list[str]
    log: Logger
    metrics: Metrics

    def groot(self, progress: Listener | None = None) -> Groot:
        """The operations on the chosen store."""
        return Groot(self.settings, self.log, progress, self.metrics)


THIS_PROGRAM = (sys.executable, "-I", "-Xutf8", "-m", "groot_fast")
"""How the installed command starts it."""

MAX_OPERATIONS = 32
"""Operations that a server runs at once; about ten snapshots share a commit then."""


def create(request: Request) -> str:
    """Make an image."""
    given = request.given
    if len(request.positional) != 2:
        raise UsageError("invalid arguments - usage: create [options] <image> <id>")
    if ("with-clean" in given or "clean" in given) and ("without-clean" in given or "no-clean" in given):
        raise UsageError("with-clean and without-clean cannot be used together")
    progress = open_progress(request.settings.progress)
    groot = request.groot(progress)
    try:
        created = groot.create_and_clean(*request.positional[:2], program=THIS_PROGRAM)
    finally:
        progress.close()
    return created.spec() if request.settings.json else created.path


def open_progress(form: str) -> Listener:
    """Progress in a form (``--progress``); what draws, only on a terminal that can."""
    is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
    if form == "auto" and os.isatty(2) and not is_plain:
        return Terminal(2)
    return {"plain": Plain, "json": Records}[form](2) if form in ("plain", "json") else Listener()


def delete(request: Request) -> str:
    """Remove an image. What is not there is not worth an error: Garden asks every store for every container."""
    if len(request.positional) != 1:
        raise UsageError("id was not specified", hint="delete takes one id")
    try:
        image_id = request.groot().delete(request.positional[0])
    except ImageNotFound:
        request.log.debug("id-not-found-skipping", id=request.positional[0], storePath=request.settings.store)
        return _missing(request, request.settings.rules.not_deleted)
    except StoreError as error:
        if str(error).endswith("is outside store path"):
            return f"{error}{request.settings.rules.outside}"
        raise
    return f"Image {image_id} deleted"


def _missing(request: Request, around: tuple[str, str]) -> str:
    """What is said of an image that is not there."""
    return around[0] + image_id_of(request.settings.store, request.positional[0]) + around[1]


def stats(request: Request) -> str:
    """Print what an image, or the whole store, uses."""
    if "store" in request.given:
        if request.positional:
            raise UsageError("invalid arguments - usage: stats --store")
        return format_json(request.groot().describe_store())
    if len(request.positional) != 1:
        raise UsageError("invalid arguments - usage: stats [options] <id|image path>")
    try:
        return format_json({"disk_usage": request.groot().stats(request.positional[0]).document()})
    except ImageNotFound as error:
        around = request.settings.rules.not_measured
        raise ImageNotFound(_missing(request, around) if around else str(error), hint=error.hint) from None


CLEANED = {
    "done": "clean completed",
    "below threshold": "threshold not reached: skipping clean",
    "running": "another clean is running: leaving it to that one",
}
"""What is printed, by what became of a clean."""


def clean(request: Request) -> str:
    """Remove unused layers."""
    missing = _missing_store(request)
    if missing:
        return missing
    outcome = request.groot().clean()
    # The original's waits for the other one, and says the same.
    return CLEANED["done" if outcome == "running" and not request.settings.rules.hints else outcome]


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
    if os.path.lexists(store) or Store.is_initialised(store):
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


def doctor(request: Request) -> str:
    """Say what is wrong, and how to cure it. Raises Unhealthy with the report where something is broken."""
    from groot_fast.upkeep.doctor import BROKEN, examine

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


def init_store(request: Request) -> str:
    """Make a store."""
    if request.positional:
        raise UsageError("invalid arguments - usage: init-store --store <path>")
    quota = request.given.get("quota")
    if quota not in (None, "simple", "full"):
        raise UsageError("invalid --quota parameter, must be simple or full")
    limits = request.given.get("limits-by")
    if limits not in (None, "owner", "root"):
        raise UsageError("invalid --limits-by parameter, must be owner or root")
    return request.groot().init_store(
        rootless=str(request.given.get("rootless", "")),
        quota=quota if isinstance(quota, str) else None,
        limits=limits if isinstance(limits, str) else None,
    )


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
    """Serve the HTTP interface on a socket until told to stop."""
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
        max_pulls=number("max-pulls", os.cpu_count() or 1),
    )
    return ""


def volume_sizes(request: Request) -> str:
    """Write missing size records."""
    request.groot().record_volume_sizes()
    return ""


COMMANDS: dict[str, Callable[[Request], str]] = {
    "init-store": init_store,
    "create": create,
    "delete": delete,
    "stats": stats,
    "clean": clean,
    "list": list_,
    "doctor": doctor,
    "migrate": migrate,
    "delete-store": delete_store,
    "serve": serve,
    "generate-volume-size-metadata": volume_sizes,
    "check": check,
}
"""What Python does; what there is, with which options, says the core's table (``rust/cli/src/options.rs``), and it does the rest."""
