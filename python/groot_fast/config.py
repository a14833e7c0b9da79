"""The configuration file and the options, joined into one `Settings` (contract, sections 2 and 3).

Every spelling that any release used is read: the flat keys of the blog's era, the nested ones of the last BTRFS
release, and those that came and went between them. Unknown keys are ignored.
"""

from __future__ import annotations

from groot_fast import files
from groot_fast._core import parse_yaml
from groot_fast.errors import ConfigError
from groot_fast.telemetry.lager import RFC3339, UNIX_EPOCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeGuard

ALWAYS, MISSING = "always", "missing"
"""Pull policies: ask the registry what a tag means now, or use what the store already has under that name."""
CACHED, NEVER = "cached", "never"
"""Whether a registry must say that the caller may have what the store already has: `ALWAYS`, once in a while, not at all."""

PROOF_SECONDS = 3600
RESPONSE_SECONDS = 300

DEFAULT_STORE = "/var/lib/grootfs"
MAX_CONFIG_BYTES = 1 << 20
MAX_CORRELATION = 128
"""Characters of a caller's correlation id, which stands in every line of the log."""

Value = str | int | bool | list[str] | dict[str, list[str]]

# setting -> (kind, spellings of its key; the newest first, and that one wins)
KEYS: dict[str, tuple[type, tuple[str, ...]]] = {
    "store": (str, ("store", "store_path")),
    "socket": (str, ("socket",)),
    "driver": (str, ("driver",)),
    "drax_bin": (str, ("drax_bin",)),
    "tardis_bin": (str, ("tardis_bin",)),
    "btrfs_progs_path": (str, ("btrfs_progs_path",)),
    "btrfs_bin": (str, ("btrfs_bin",)),
    "newuidmap_bin": (str, ("newuidmap_bin",)),
    "newgidmap_bin": (str, ("newgidmap_bin",)),
    "metron_endpoint": (str, ("metron_endpoint",)),
    "metrics_file": (str, ("metrics_file",)),
    "log_level": (str, ("log_level",)),
    "log_file": (str, ("log_file",)),
    "log_time_format": (str, ("log_time_format",)),
    "with_clean": (bool, ("create.with_clean", "clean_on_create")),
    "without_mount": (bool, ("create.without_mount",)),
    "json": (bool, ("create.json",)),
    "disk_limit": (int, ("create.disk_limit_size_bytes", "disk_limit_size_bytes")),
    "exclude_image": (bool, ("create.exclude_image_from_quota", "exclude_base_image_from_quota")),
    "skip_layer_validation": (bool, ("create.skip_layer_validation",)),
    "idmapped_mount": (bool, ("create.idmapped_mount",)),
    "platform": (str, ("create.platform",)),
    "pull_policy": (str, ("create.pull_policy",)),
    "image_verification": (str, ("create.image_verification",)),
    "verification_lifetime": (int, ("create.image_verification_lifetime_seconds",)),
    "auth_file": (str, ("create.auth_file",)),
    "trusted_hosts": (list, ("create.trusted_hosts",)),
    "response_timeout": (int, ("create.registry_response_timeout_seconds",)),
    "registry_mirrors": (dict, ("create.registry_mirrors", "registry_mirrors")),
    "insecure_registries": (list, ("create.insecure_registries", "insecure_registries")),
    "remote_layer_certificates": (
        str,
        ("create.remote_layer_client_certificates_path", "create.blobstore_client_certificates_path"),
    ),
    "threshold": (int, ("clean.threshold_bytes", "clean.cache_bytes", "clean_threshold_bytes")),
    "ignore_images": (list, ("clean.ignore_images", "ignore_base_images")),
    "uid_mappings": (list, ("create.uid_mappings", "uid_mappings")),
    "gid_mappings": (list, ("create.gid_mappings", "gid_mappings")),
    "store_size": (int, ("init.store_size_bytes",)),
}


class Settings:
    """All settings of one run, frozen by convention: nothing changes them after `load`."""

    def __init__(self, values: dict[str, Value]) -> None:
        def text(name: str, default: str = "") -> str:
            return str(values.get(name) or default)

        def number(name: str) -> int:
            value = values.get(name, 0)
            return value if isinstance(value, int) else 0

        def texts(name: str) -> list[str]:
            value = values.get(name)
            return list(value) if isinstance(value, list) else []

        mirrors = values.get("registry_mirrors")
        self._values = values
        self.socket = text("socket")
        self.store = text("store", DEFAULT_STORE)
        self.driver = text("driver", "btrfs")
        self.drax_bin = text("drax_bin", "drax")
        self.btrfs_progs_path = text("btrfs_progs_path")
        self.newuidmap_bin = text("newuidmap_bin", "newuidmap")
        self.newgidmap_bin = text("newgidmap_bin", "newgidmap")
        self.metron_endpoint = text("metron_endpoint")
        self.metrics_file = text("metrics_file")
        self.log_level = text("log_level")
        self.log_file = text("log_file")
        self.log_time_format = text("log_time_format", UNIX_EPOCH)
        self.correlation_id = text("correlation_id")
        self.with_clean = bool(values.get("with_clean"))
        self.mount = not values.get("without_mount")
        self.json = bool(values.get("json"))
        self.disk_limit = number("disk_limit")
        self.exclude_image = bool(values.get("exclude_image"))
        self.skip_layer_validation = bool(values.get("skip_layer_validation"))
        self.idmapped_mount = bool(values.get("idmapped_mount"))
        self.platform = text("platform")
        self.pull_policy = text("pull_policy", ALWAYS)
        self.image_verification = text("image_verification", ALWAYS)
        self.verification_lifetime = number("verification_lifetime") or PROOF_SECONDS
        self.auth_file = text("auth_file")
        self.trusted_hosts = texts("trusted_hosts")
        self.response_timeout = number("response_timeout") or RESPONSE_SECONDS
        self.registry_mirrors = dict(mirrors) if isinstance(mirrors, dict) else {}
        self.insecure_registries = texts("insecure_registries")
        self.remote_layer_certificates = text("remote_layer_certificates")
        self.threshold = number("threshold")
        self.ignore_images = texts("ignore_images")
        self.uid_mappings = texts("uid_mappings")
        self.gid_mappings = texts("gid_mappings")
        self.store_size = number("store_size")
        self.username = text("username")
        self.password = text("password")

    def public(self) -> dict[str, object]:
        """All values but the secrets, for the debug log."""
        return {name: value for name, value in vars(self).items() if name not in ("username", "password", "_values")}

    def override(self, options: Mapping[str, Value]) -> Settings:
        """The same settings with ``options`` on top. Raises ConfigError."""
        return _checked({**self._values, **options})


def load(path: str | None, options: Mapping[str, Value]) -> Settings:
    """Join the file at ``path`` (None: no file) with the options of the command line, which win.

    ``options`` holds only what was given. A given list replaces the file's list. Raises ConfigError.
    """
    values = _read(path) if path else {}
    values.update(options)
    return _checked(values)


def _checked(values: dict[str, Value]) -> Settings:
    settings = Settings(values)
    # Every command checks every value, as the original does, so that a bad file is found at once.
    if settings.disk_limit < 0:
        raise ConfigError("invalid argument: disk limit cannot be negative")
    if settings.threshold < 0:
        raise ConfigError("invalid argument: clean threshold cannot be negative")
    if settings.pull_policy not in (ALWAYS, MISSING):
        raise ConfigError(f"invalid argument: pull policy `{settings.pull_policy}` is neither {ALWAYS} nor {MISSING}")
    if settings.image_verification not in (ALWAYS, CACHED, NEVER):
        raise ConfigError(f"invalid argument: image verification `{settings.image_verification}` is none of {ALWAYS}, {CACHED}, {NEVER}")
    if settings.verification_lifetime < 0 or settings.response_timeout < 0:
        raise ConfigError("invalid argument: a number of seconds cannot be negative")
    if settings.log_time_format not in (UNIX_EPOCH, RFC3339):
        raise ConfigError(f"invalid argument: log time format `{settings.log_time_format}` is neither {UNIX_EPOCH} nor {RFC3339}")
    if len(settings.correlation_id) > MAX_CORRELATION or not settings.correlation_id.isprintable():
        raise ConfigError(f"invalid argument: a correlation id has at most {MAX_CORRELATION} printable characters")
    return settings


def _read(path: str) -> dict[str, Value]:
    try:
        data = files.read(path, MAX_CONFIG_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise ConfigError(f"invalid config path: open {path}: {reason}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"invalid config file: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        document = parse_yaml(data.decode())
    except ValueError as error:
        raise ConfigError(f"invalid config file: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError("invalid config file: not a mapping of keys to values")
    return _pick(document)


def _pick(document: dict[str, object]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for setting, (kind, spellings) in KEYS.items():
        for spelling in spellings:
            raw = _look_up(document, spelling)
            if raw is not None:
                values[setting] = _convert(raw, kind, spelling)
                break
    return values


def _look_up(document: dict[str, object], dotted: str) -> object:
    node: object = document
    for part in dotted.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(part)
    return node


# YAML 1.1, which the original reads, has more words for a truth value than YAML 1.2.
TRUTH = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}


def _convert(raw: object, kind: type, key: str) -> Value:
    if kind is bool:
        if isinstance(raw, str) and raw.lower() in TRUTH:
            return TRUTH[raw.lower()]
        if isinstance(raw, bool):
            return raw
    elif kind is int:
        if isinstance(raw, int) and not isinstance(raw, bool):
            return raw
    elif kind is list:
        if _is_list(raw):
            return [str(item) for item in raw]
    elif kind is dict:
        if isinstance(raw, dict) and all(_is_list(items) for items in raw.values()):
            return {str(name): [str(item) for item in items] for name, items in raw.items()}
    elif isinstance(raw, str | int) and not isinstance(raw, bool):
        return str(raw)
    names = {
        bool: "true or false",
        int: "a whole number",
        list: "a list of strings",
        dict: "a mapping of names to lists of strings",
        str: "a string",
    }
    raise ConfigError(f"invalid config file: `{key}` must be {names[kind]}")


def _is_list(raw: object) -> TypeGuard[list[str | int]]:
    return isinstance(raw, list) and all(isinstance(item, str | int) for item in raw)
