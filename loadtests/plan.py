"""What one run does. Written as JSON for locust's processes, which are others, perhaps on other machines."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

PLAN_VARIABLE = "GROOT_LOADTEST_PLAN"
"""Environment variable with the path of the plan, for locust's processes."""

DOORS = ("command", "api", "buildah-overlay", "buildah-btrfs", "buildah-overlay-ext4")
"""``buildah-DRIVER`` is on BTRFS as we have it, ``buildah-DRIVER-KIND`` on another file system, where that driver is at home."""
SHAPES = ("storm", "steady", "arrivals", "evacuation", "soak")


@dataclass(frozen=True)
class App:
    """One application: an OCI layout whose tag ``latest`` is its newest version."""

    name: str
    layout: str
    pulled: str = ""
    """The id that buildah gave it when it was pulled."""

    @property
    def image(self) -> str:
        """The image as `grootfs create` takes it."""
        return f"oci://{self.layout}:latest"


@dataclass(frozen=True)
class Plan:
    """All that users and shapes need to know."""

    run: str
    """Starts the id of every image of the run."""

    door: str
    shape: str
    command: str
    """Path of the `grootfs` command (or of `buildah`)."""

    store: str
    socket: str
    """The server's socket; empty without a server."""

    apps: tuple[App, ...]
    zipf: float
    """Exponent of the popularity: the app at rank r is asked for in proportion to 1 / r ** zipf."""

    images: int
    """Creates of a storm, and of an evacuation's rush."""

    concurrency: int
    limit: int
    """Disk limit of every image in bytes; 0 for none."""

    parallel_clean: bool
    threshold: int
    """Bytes of cached layers from which the background `clean` works."""

    pause: float
    """Seconds a user waits between two operations."""

    rate: float
    """Apps that arrive a second, in the shape ``arrivals``: whether earlier ones are through or not."""

    push_every: float
    """Seconds between two pushes of a new version; 0 for none."""

    duration: float
    """Seconds; a storm ends when it is through, this is its deadline."""

    workers: int
    """Processes of locust's that act; 0: one process does everything."""

    journal: str
    """File that gets one JSON line for each operation."""

    seed: int

    def write(self, path: Path) -> None:
        """Write the plan for locust."""
        path.write_text(json.dumps(asdict(self), indent=1))


def read_plan() -> Plan:
    """The plan that PLAN_VARIABLE names. Raises KeyError, OSError."""
    fields = json.loads(Path(os.environ[PLAN_VARIABLE]).read_text())
    fields["apps"] = tuple(App(**app) for app in fields["apps"])
    return Plan(**fields)
