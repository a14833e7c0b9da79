"""`doctor`: each thing that can be wrong, made wrong on a real store, is found, and its cure cures it."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groot_fast.config import Settings
from groot_fast.upkeep.doctor import BROKEN, OK, WARN, examine
from support import mounts
from support.accounts import User
from support.command import MIB, Store

MakeStore = Callable[..., Store]


def doctor(store: Store, *options: str) -> dict[str, dict[str, str]]:
    """Findings by name, and that the exit code and both forms agree with them."""
    result, plain = store.run(*options, "doctor", "--json"), store.run(*options, "doctor")
    findings = {finding["check"]: finding for finding in json.loads(result.out)}
    broken = any(finding["state"] == BROKEN for finding in findings.values())
    assert result.code == plain.code == (1 if broken else 0) and result.err == plain.err == ""
    for finding in findings.values():
        assert f"{finding['state']:<6}  {finding['check']}: " in plain.out
        assert ("cure" in finding) == (finding["state"] != OK), finding
    return findings


def state(store: Store, check: str, *options: str) -> str:
    return doctor(store, *options)[check]["state"]


def by_name(**settings: Any) -> dict[str, Any]:
    return {finding.name: finding for finding in examine(Settings(settings))}


def test_healthy_store(store: Store) -> None:
    findings = doctor(store)
    assert {finding["state"] for finding in findings.values()} == {OK}
    assert set(findings) == {"kernel", "store", "mount options", "loop device", "quotas", "open files", "free space", "metadata space"}


def test_loop_device(store: Store) -> None:
    device = mounts.device_of(store.path)
    mounts.tool("losetup", "--direct-io=off", device)
    assert state(store, "loop device") == WARN
    store.init(size=None).ok()  # the cure
    assert state(store, "loop device") == OK


def test_no_store(scratch: Path, store: Store) -> None:
    assert state(Store(scratch / "none"), "store") == BROKEN
    (scratch / "plain").mkdir()
    assert "not on BTRFS" in doctor(Store(scratch / "plain"))["store"]["text"]
    (store.path / "tmp").rmdir()
    assert state(store, "store") == BROKEN
    store.init().ok()  # the cure
    assert state(store, "store") == OK
    (store.path / "meta/namespace.json").write_text("{")
    assert "invalid namespace file" in doctor(store)["store"]["text"]


def test_somebody_elses_store(store: Store, user: User) -> None:
    store.path.chmod(0o755)
    assert state(Store(store.path, uid=user.uid), "store") == BROKEN


def test_quotas(scratch: Path, make_store: MakeStore) -> None:
    assert state(make_store("--quota", "full"), "quotas") == WARN
    store = Store(scratch / "own")
    mounts.make_btrfs(scratch / "own.img", store.path, 512 * MIB)
    store.init(size=None).ok()
    found = doctor(store)["quotas"]
    assert found["state"] == BROKEN and "grootfs migrate --quota simple" in found["cure"]
    store.run("migrate", "--quota", "simple").ok()
    assert state(store, "quotas") == OK


def test_mount_options(make_store: MakeStore, user: User) -> None:
    store = make_store("--rootless", f"{user.name}:{user.name}")
    own = Store(store.path, uid=user.uid)
    assert state(own, "mount options") == OK
    # The option cannot be taken back by a remount.
    mounts.tool("umount", store.path)
    mounts.mount_copy(store.backing, store.path)
    for each in (own, store):
        assert state(each, "mount options") == BROKEN
    mounts.tool("mount", "-o", "remount,user_subvol_rm_allowed", store.path)
    assert state(own, "mount options") == OK
    mounts.tool("mount", "-o", "remount,ro", store.path)
    assert "read-only" in doctor(store)["mount options"]["text"]


def test_helpers_of_an_ordinary_user(make_store: MakeStore, user: User, scratch: Path) -> None:
    store = Store(make_store("--rootless", f"{user.name}:{user.name}").path, uid=user.uid)
    plain = scratch / "helper"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(0o755)
    for option, check in (("--newuidmap-bin", "newuidmap"), ("--newgidmap-bin", "newgidmap")):
        assert state(store, check) == OK
        for binary in ("/nowhere/helper", str(plain)):
            assert state(store, check, option, binary) == BROKEN
        assert check not in doctor(Store(store.path), option, "/nowhere/helper")  # root needs none
    for binary in ("/nowhere/drax", str(plain)):
        assert state(store, "drax", "--drax-bin", binary) == WARN
    plain.chmod(0o4755)
    assert state(store, "drax", "--drax-bin", str(plain)) == OK


def test_drax_is_needed_under_full_accounting(make_store: MakeStore, user: User) -> None:
    store = make_store("--quota", "full", "--rootless", f"{user.name}:{user.name}")
    assert state(Store(store.path, uid=user.uid), "drax", "--drax-bin", "/nowhere/drax") == BROKEN


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_subordinate_ids(make_store: MakeStore, user: User, kind: str) -> None:
    assert state(make_store("--rootless", f"{user.name}:{user.name}"), "subordinate ids") == OK
    maps = {"uid": [f"0:{user.uid}:1", "1:300000:5"], "gid": [f"0:{user.gid}:1", "1:300000:5"]}
    maps[kind][1] = "1:900000:5"
    options = [word for name, texts in maps.items() for text in texts for word in (f"--{name}-mapping", text)]
    found = doctor(make_store(*options))["subordinate ids"]
    assert found["state"] == BROKEN and f"`{user.name}:900000:5`" in found["cure"] and f"/etc/sub{kind}" in found["cure"]


def test_full_store(make_store: MakeStore) -> None:
    store = make_store(size=300 * MIB)
    with (store.path / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(os.urandom(4 * MIB))
            ballast.flush()
            os.fsync(ballast.fileno())
    assert state(store, "free space") != OK
    (store.path / "ballast").unlink()
    mounts.tool("btrfs", "filesystem", "sync", store.path)
    assert state(store, "free space") == OK


@pytest.mark.parametrize(("threshold", "expected"), [(1024 * MIB, WARN), (100 * MIB, OK)])
def test_threshold_that_is_never_reached(store: Store, scratch: Path, threshold: int, expected: str) -> None:
    config = scratch / "c.yml"
    config.write_text(f"clean: {{threshold_bytes: {threshold}}}\n")
    assert state(store, "clean threshold", "--config", str(config)) == expected


@pytest.mark.parametrize(("release", "expected"), [("5.4.0-1", BROKEN), ("5.15.0", WARN), ("6.6.9-rc1", WARN), ("6.7.0", OK), ("7.0", OK)])
def test_kernel(monkeypatch: pytest.MonkeyPatch, release: str, expected: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: type("Uname", (), {"release": release}))
    assert by_name(store="/nowhere")["kernel"].state == expected


@pytest.mark.parametrize(("limit", "expected"), [(256, WARN), (1024, OK), (resource.RLIM_INFINITY, OK)])
def test_open_files(monkeypatch: pytest.MonkeyPatch, limit: int, expected: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert by_name(store="/nowhere")["open files"].state == expected


@pytest.mark.parametrize(("used", "allocated", "expected"), [(50, 1000, OK), (95, 900, OK), (95, 1000, WARN), (99, 1000, BROKEN)], ids=str)
def test_metadata_space(store: Store, monkeypatch: pytest.MonkeyPatch, used: int, allocated: int, expected: str) -> None:
    """Room for metadata ends when what is set aside is full and nothing is left to set aside. In MiB of a 1024 MiB device."""
    numbers = {"metadata/total_bytes": 100 * MIB, "metadata/bytes_used": used * MIB, "data/disk_total": allocated * MIB}
    numbers |= {"metadata/disk_total": 0, "system/disk_total": 0}
    monkeypatch.setattr("groot_fast.upkeep.doctor.Patient.number", lambda _, name: numbers.get(name.removeprefix("allocation/"), 0))
    monkeypatch.setattr("groot_fast.upkeep.doctor.LOW_UNALLOCATED", 64 * MIB)
    assert by_name(store=str(store.path))["metadata space"].state == expected
