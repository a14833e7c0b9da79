"""The configuration file and the options, joined into one `Settings` (contract, sections 2 and 3).

What options and keys there are, how values are read and what is refused stands in the core, once for both languages
(``rust/cli``: ``options.rs``, ``configuration.rs``, ``settings.rs``). Here they get their types.
"""

from __future__ import annotations

from collections.abc import Mapping

from groot_fast import _core
from groot_fast._core import Rules

ALWAYS, MISSING = "always", "missing"
"""Pull policies: ask the registry what a tag means now, or use what the store already has under that name."""
CACHED, NEVER = "cached", "never"
"""Whether a registry must say that the caller may have what the store already has: `ALWAYS`, once in a while, not at all."""

Value = str | int | bool | list[str] | dict[str, list[str]]

KEYS: dict[str, list[str]] = _core.configuration_keys()
"""setting -> spellings of its key in the file; the newest first, and that one wins."""


class Settings:
    """All settings of one run, frozen by convention: nothing changes them once they are made."""

    rules: Rules
    config: str
    site_file: str
    socket: str
    store: str
    driver: str
    drax_bin: str
    btrfs_progs_path: str
    newuidmap_bin: str
    newgidmap_bin: str
    metron_endpoint: str
    metrics_file: str
    log_level: str
    log_file: str
    log_time_format: str
    correlation_id: str
    with_clean: bool
    clean_log_file: str
    mount: bool
    json: bool
    disk_limit: int
    exclude_image: bool
    skip_layer_validation: bool
    idmapped_mount: bool
    platform: str
    pull_policy: str
    progress: str
    image_verification: str
    verification_lifetime: int
    share_content: bool
    join_small_layers: bool
    auth_file: str
    trusted_hosts: list[str]
    response_timeout: int
    registry_mirrors: dict[str, list[str]]
    registry_hosts: str
    insecure_registries: list[str]
    remote_layer_certificates: str
    threshold: int
    clean_free: int
    clean_free_percent: int
    clean_keep: int
    ignore_images: list[str]
    uid_mappings: list[str]
    gid_mappings: list[str]
    store_size: int
    direct_io: bool
    username: str
    password: str

    def __init__(self, values: Mapping[str, Value] | None = None, /, **named: Value) -> None:
        """Check values by setting, as options give them and `load` reads them. Raises ConfigError, for a name that is no setting's too:
        what was meant would have its default."""
        self._values = {**(values or {}), **named}
        vars(self).update(_core.check_settings(self._values))

    @property
    def values(self) -> dict[str, Value]:
        """What they were made from, by setting."""
        return dict(self._values)

    def override(self, options: Mapping[str, Value]) -> Settings:
        """The same settings with ``options`` on top. Raises ConfigError."""
        return Settings({**self._values, **options})


def load(path: str | None, options: Mapping[str, Value]) -> Settings:
    """Join the file at ``path`` (None: no file) with ``options`` by setting, which win.

    ``options`` holds only what was given. A given list replaces the file's list. Raises ConfigError.
    """
    values = _core.read_configuration(path) if path else {}
    return Settings({**values, **options})
