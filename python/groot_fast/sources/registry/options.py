"""What a caller may set; the defaults are what a cell of Cloud Foundry wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def _log_warning(text: str) -> None:
    import logging  # costs start-up time, and warnings are rare

    logging.getLogger("groot_fast.registry").warning(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How to talk to registries. Times are seconds.

    ``platform`` is os/architecture[/variant], empty for this machine's. ``insecure_registries`` matches the host[:port] of
    the image URL exactly. ``username`` and ``password`` belong to that registry alone (never to mirrors) and win over
    ``docker_config``. A ``docker_config`` given here must be
    readable; the default one (``$DOCKER_CONFIG/config.json``, ``~/.docker/config.json``) is skipped with a warning
    when it is not. ``mirrors`` maps a registry to the hosts tried before it, in order.

    ``trusted_hosts`` (host[:port]) may have private addresses although a public registry sends us there: a token
    server or blob store inside the own network. ``foreign_layers`` permits fetching layers from the `urls` of a
    manifest; ``remote_layer_certificates``, a directory with ``*.crt`` authorities and ``*.cert``/``*.key`` pairs,
    permits it too and says that the operator has such a server, so private addresses are allowed as well.

    ``attempts`` is for one request without progress. ``warn`` takes lines for the operator; they hold no secret.
    """

    insecure_registries: tuple[str, ...] = ()
    username: str = ""
    password: str = field(default="", repr=False)
    platform: str = ""
    docker_config: Path | None = None
    certs_dirs: tuple[Path, ...] = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trusted_hosts: tuple[str, ...] = ()
    foreign_layers: bool = False
    remote_layer_certificates: Path | None = None
    connect_timeout: float = 10.0
    first_byte_timeout: float = 30.0
    stall_timeout: float = 30.0
    attempts: int = 4
    max_connections: int = 16
    warn: Callable[[str], None] = _log_warning
