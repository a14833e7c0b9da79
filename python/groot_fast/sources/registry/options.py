"""What a caller may set; the defaults are what a cell of Cloud Foundry wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...telemetry.lager import Logger


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How to talk to registries. Times are seconds.

    ``platform`` is os/architecture[/variant], empty for this machine's. ``insecure_registries`` matches the host[:port] of the
    image URL, whatever the case of letters and the form of an IPv6 address; a port counts as it is written. ``username`` and
    ``password`` belong to that registry alone (never to mirrors) and win over ``auth_file``. An ``auth_file`` given here must be
    usable; without one those of docker and podman are read (see `credentials`). ``mirrors`` maps a registry to the
    ``[scheme://]host[:port][/prefix]`` tried before it, in order; ``hosts_directory`` is where containerd's `hosts.toml` of a registry
    may be, which says the same and more.

    ``trusted_hosts`` (host[:port]) may have private addresses although a public registry sends us there: a token
    server or blob store inside the own network. ``foreign_layers`` permits fetching layers from the `urls` of a
    manifest; ``remote_layer_certificates``, a directory with ``*.crt`` authorities and ``*.cert``/``*.key`` pairs,
    permits it too and says that the operator has such a server, so private addresses are allowed as well.

    ``attempts`` is for one request without progress. ``response_timeout`` is how long a server may think before its first byte:
    scanners and pull-through caches take minutes. ``log`` takes a line for each exchange at debug level, and what went wrong
    without ending the pull; they hold no secret. ``quotes_refusals``: a refusal is told in the words of registries, as the newest
    original does.
    """

    insecure_registries: tuple[str, ...] = ()
    username: str = ""
    password: str = field(default="", repr=False)
    platform: str = ""
    auth_file: Path | None = None
    certs_dirs: tuple[Path, ...] = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hosts_directory: Path = Path("/etc/containerd/certs.d")
    trusted_hosts: tuple[str, ...] = ()
    foreign_layers: bool = False
    remote_layer_certificates: Path | None = None
    connect_timeout: float = 10.0
    response_timeout: float = 300.0
    stall_timeout: float = 30.0
    attempts: int = 4
    max_connections: int = 16
    quotes_refusals: bool = False
    log: Logger = field(default_factory=Logger.silent, repr=False)
