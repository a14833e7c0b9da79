"""The configuration file: spellings of all releases, precedence, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast.config import KEYS, Settings, load
from groot_fast.errors import ConfigError


def read(tmp_path: Path, text: str | bytes, **options: object) -> Settings:
    path = tmp_path / "config.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(str(path), options)  # type: ignore[arg-type]


def test_defaults() -> None:
    settings = load(None, {})
    assert (settings.store, settings.driver, settings.mount, settings.disk_limit) == ("/var/lib/grootfs", "btrfs", True, 0)
    assert (settings.drax_bin, settings.newuidmap_bin, settings.newgidmap_bin) == ("drax", "newuidmap", "newgidmap")
    assert (settings.insecure_registries, settings.ignore_images, settings.threshold) == ([], [], 0)


SPELLINGS = [
    ("store: /a", "store", "/a"),
    ("store_path: /a", "store", "/a"),
    ("driver: overlay-xfs", "driver", "overlay-xfs"),
    ("drax_bin: /d", "drax_bin", "/d"),
    ("btrfs_progs_path: /p", "btrfs_progs_path", "/p"),
    ("newuidmap_bin: /n", "newuidmap_bin", "/n"),
    ("newgidmap_bin: /n", "newgidmap_bin", "/n"),
    ("metron_endpoint: localhost:3457", "metron_endpoint", "localhost:3457"),
    ("log_level: debug", "log_level", "debug"),
    ("log_file: /l", "log_file", "/l"),
    ("create: {with_clean: true}", "with_clean", True),
    ("clean_on_create: true", "with_clean", True),
    ("clean_on_create: yes", "with_clean", True),
    ("clean_on_create: Off", "with_clean", False),
    ("create: {without_mount: true}", "mount", False),
    ("create: {json: true}", "json", True),
    ("create: {disk_limit_size_bytes: 5}", "disk_limit", 5),
    ("disk_limit_size_bytes: 5", "disk_limit", 5),
    ("create: {exclude_image_from_quota: true}", "exclude_image", True),
    ("exclude_base_image_from_quota: true", "exclude_image", True),
    ("create: {skip_layer_validation: true}", "skip_layer_validation", True),
    ("create: {insecure_registries: ['a:1', b]}", "insecure_registries", ["a:1", "b"]),
    ("insecure_registries: ['a:1']", "insecure_registries", ["a:1"]),
    ("create: {remote_layer_client_certificates_path: /c}", "remote_layer_certificates", "/c"),
    ("create: {blobstore_client_certificates_path: /c}", "remote_layer_certificates", "/c"),
    ("clean: {threshold_bytes: 7}", "threshold", 7),
    ("clean: {cache_bytes: 7}", "threshold", 7),
    ("clean_threshold_bytes: 7", "threshold", 7),
    ("clean: {ignore_images: [i]}", "ignore_images", ["i"]),
    ("ignore_base_images: [i]", "ignore_images", ["i"]),
    ("create: {uid_mappings: ['0:1:1']}", "uid_mappings", ["0:1:1"]),
    ("uid_mappings: ['0:1:1']", "uid_mappings", ["0:1:1"]),
    ("gid_mappings: ['0:1:1']", "gid_mappings", ["0:1:1"]),
    ("init: {store_size_bytes: 9}", "store_size", 9),
]


@pytest.mark.parametrize(("text", "setting", "value"), SPELLINGS)
def test_spellings(tmp_path: Path, text: str, setting: str, value: object) -> None:
    assert getattr(read(tmp_path, text), setting) == value


def test_options_win_and_lists_are_replaced(tmp_path: Path) -> None:
    text = "store: /file\ncreate:\n  disk_limit_size_bytes: 5\n  insecure_registries: [a, b]\nclean:\n  threshold_bytes: 9\n"
    settings = read(tmp_path, text, store="/option", disk_limit=0, insecure_registries=["c"])
    assert (settings.store, settings.disk_limit, settings.insecure_registries, settings.threshold) == ("/option", 0, ["c"], 9)


@pytest.mark.parametrize(
    "text",
    ["", "---\n", "# only a comment\n", "null", "unknown: [1, {a: b}]\nother:\n  deep: true\n", "create:\n", "create: text\n", "store:\n"],
)
def test_harmless_files(tmp_path: Path, text: str) -> None:
    seen, default = (vars(settings) | {"rules": settings.rules.word} for settings in (read(tmp_path, text), load(None, {})))
    assert seen == default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "invalid config file: not a mapping of keys to values"),
        ("text", "invalid config file: not a mapping of keys to values"),
        ("a: b: c\n", "invalid config file: "),
        ("a: [1, 2\n", "invalid config file: "),
        ("store: /a\nstore: /b\n", "given twice"),
        ("a: &x 1\nb: *x\n", "aliases are not supported"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
        (b"store: \xff\xfe\n", "invalid config file: "),
        ("store: [a]\n", "invalid config file: `store` must be a string"),
        ("store: true\n", "invalid config file: `store` must be a string"),
        ("create: {json: 1}\n", "invalid config file: `create.json` must be true or false"),
        ("create: {json: maybe}\n", "invalid config file: `create.json` must be true or false"),
        ("create: {disk_limit_size_bytes: 1.5}\n", "invalid config file: `create.disk_limit_size_bytes` must be a number of bytes"),
        ("create: {disk_limit_size_bytes: true}\n", "invalid config file: `create.disk_limit_size_bytes` must be a number of bytes"),
        ("disk_limit_size_bytes: ten\n", "invalid config file: `disk_limit_size_bytes` must be a number of bytes"),
        ("insecure_registries: a\n", "invalid config file: `insecure_registries` must be a list of strings"),
        ("insecure_registries: [[a]]\n", "invalid config file: `insecure_registries` must be a list of strings"),
        ("create: {disk_limit_size_bytes: -1}\n", "invalid argument: disk limit cannot be negative"),
        ("clean: {threshold_bytes: -1}\n", "invalid argument: clean threshold cannot be negative"),
        ("a: " + "[" * 100 + "]" * 100, "nested too deeply"),
        ("x" * ((1 << 20) + 1), "invalid config file: larger than"),
    ],
)
def test_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"disk_limit": -1}, {"threshold": -1}])
def test_negative_options(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="cannot be negative"):
        load(None, options)  # type: ignore[arg-type]


def test_unreadable_file(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "missing", "no such file or directory"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(str(path), {})
        assert str(caught.value) == f"invalid config path: open {path}: {reason}"


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def nested(key: str, value: object) -> dict[str, object]:
    """A value at a dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@given(key=st.sampled_from(sorted({key for keys in KEYS.values() for key in keys})), value=TREES)
def test_any_value_of_any_key_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, key: str, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(json.dumps(nested(key, value)))
    try:
        settings = load(str(path), {})
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    assert isinstance(settings.store, str) and isinstance(settings.disk_limit, int) and settings.disk_limit >= 0


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_refused(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_bytes(body)
    try:
        load(str(path), {})
    except ConfigError:
        pass


def test_every_setting_has_its_type() -> None:
    """What the core gives is what the class promises."""
    settings = load(None, {})
    types = {name: kind.partition("[")[0] for name, kind in Settings.__annotations__.items()}
    assert {name: type(value).__name__ for name, value in vars(settings).items() if name != "_values"} == types


def test_override_is_checked_and_leaves_the_first_alone() -> None:
    first = load(None, {"store": "/a", "without_mount": True})
    second = first.override({"store": "/b", "disk_limit": 5})
    assert (first.store, first.disk_limit, second.store, second.disk_limit, second.mount) == ("/a", 0, "/b", 5, False)
    with pytest.raises(ConfigError, match="cannot be negative"):
        first.override({"disk_limit": -1})


def test_who_may_have_what_is_here(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text(
        "create:\n"
        "  image_verification: cached\n"
        "  image_verification_lifetime_seconds: 60\n"
        "  auth_file: /a/auth.json\n"
        "  trusted_hosts: [blobs.corp]\n"
        "  registry_response_timeout_seconds: 5\n"
    )
    settings = load(str(path), {})
    assert (settings.image_verification, settings.verification_lifetime, settings.response_timeout) == ("cached", 60, 5)
    assert (settings.auth_file, settings.trusted_hosts) == ("/a/auth.json", ["blobs.corp"])
    default = load(None, {})
    assert (default.image_verification, default.verification_lifetime, default.response_timeout) == ("always", 3600, 300)
    for bad in ({"image_verification": "x"}, {"verification_lifetime": -1}, {"response_timeout": -1}):
        with pytest.raises(ConfigError, match="^invalid argument: "):
            load(None, bad)
