"""What a caller may set; the defaults are what a cell of Cloud Foundry wants."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...errors import ConfigError
from ...telemetry.lager import FATAL, Logger, Sink

_ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", None),
    "i386": ("386", None),
    "mips64": ("mips64le", None),
    "loongarch64": ("loong64", None),
}


class Platform(NamedTuple):
    """Operating system, architecture and variant, in the words of image indexes."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os/architecture[/variant]``; raises `ConfigError`."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise ConfigError(f"invalid platform `{text}`", hint="write it as os/architecture[/variant]")
        return cls(*parts)

    @classmethod
    def of_this_machine(cls) -> Platform:
        """What this kernel runs; architectures without a special name keep the kernel's."""
        machine = os.uname().machine
        architecture, variant = _ARCHITECTURES.get(machine, (machine, None))
        return cls("linux", architecture, variant)

    def __str__(self) -> str:
        """os/architecture[/variant]."""
        return "/".join(part for part in self if part)


def _silence() -> Logger:
    return Logger(Sink(2, FATAL + 1), "registry")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How to talk to registries. Times are seconds.

    ``insecure_registries`` matches the host[:port] of the image URL, whatever the case of letters and the form of an IPv6
    address; a port counts as it is written. ``username`` and ``password`` belong to that registry alone (never to mirrors)
    and win over ``auth_file``. An ``auth_file`` given here must be usable; without one those of docker and podman are read
    (see `credentials`). ``mirrors`` maps a registry to the ``[scheme://]host[:port][/prefix]`` tried before it, in order.

    ``trusted_hosts`` (host[:port]) may have private addresses although a public registry sends us there: a token
    server or blob store inside the own network. ``foreign_layers`` permits fetching layers from the `urls` of a
    manifest; ``remote_layer_certificates``, a directory with ``*.crt`` authorities and ``*.cert``/``*.key`` pairs,
    permits it too and says that the operator has such a server, so private addresses are allowed as well.

    ``attempts`` is for one request without progress. ``response_timeout`` is how long a server may think before its first byte:
    scanners and pull-through caches take minutes. ``log`` takes a line for each exchange at debug level, and what went wrong
    without ending the pull; they hold no secret.
    """

    insecure_registries: tuple[str, ...] = ()
    username: str = ""
    password: str = field(default="", repr=False)
    platform: Platform = field(default_factory=Platform.of_this_machine)
    auth_file: Path | None = None
    certs_dirs: tuple[Path, ...] = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trusted_hosts: tuple[str, ...] = ()
    foreign_layers: bool = False
    remote_layer_certificates: Path | None = None
    connect_timeout: float = 10.0
    response_timeout: float = 300.0
    stall_timeout: float = 30.0
    attempts: int = 4
    max_connections: int = 16
    log: Logger = field(default_factory=_silence, repr=False)
