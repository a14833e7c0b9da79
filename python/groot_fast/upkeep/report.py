"""Who uses the disk: the answers of `stats --store` and `list --json`.

Everything comes from counters and records, never from walking a tree: a few small reads an image and one a volume.
"""

from __future__ import annotations

import os

from groot_fast.errors import QuotaError
from groot_fast.store import images, records
from groot_fast.store.clean import is_download
from groot_fast.store.volumes import list_volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from groot_fast.drivers import Driver
    from groot_fast.store.layout import Store

Report = dict[str, object]


def describe_images(store: Store, driver: Driver) -> list[Report]:
    """What `list --json` says of each finished image, sorted by id. Raises OSError.

    ``layers`` are chain ids, bottom to top; ``quota_size_bytes`` is None without a limit.
    """
    described: list[Report] = []
    for image_id in images.list_images(store, driver):
        path = store.image(image_id)
        described.append(
            {
                "id": image_id,
                "path": path,
                "rootfs": f"{path}/rootfs",
                "layers": records.read_dependencies(store, image_id) or [],
                "image_size_bytes": images.image_size(store, image_id),
                "quota_size_bytes": images.limit_of(store, driver, image_id),
            }
        )
    return described


def describe_store(store: Store, driver: Driver, threshold: int) -> Report:
    """What `stats --store` says; all sizes in bytes, largest first. Raises OSError.

    ``exclusive_bytes_used`` is what a container wrote (None where nobody counts), ``reclaimable_bytes`` what `clean`
    would free: layers without images and downloads. ``threshold`` is the configured one, 0 without.
    """
    # Counters move at commits only; one serves all images.
    driver.settle(store.path)
    by_image, users, committed = _by_image(store, driver)
    by_layer = _by_layer(store, users)
    downloads = [size for size in map(_file_size, _downloads(store)) if size is not None]
    unused = [layer for layer in by_layer if not layer["images"]]
    layer_bytes, unused_bytes = (sum(_number(layer["size_bytes"]) for layer in layers) for layers in (by_layer, unused))
    file_system = os.statvfs(store.path)
    block = file_system.f_frsize
    return {
        "store": store.path,
        "accounting": driver.accounting(store.path),
        "file_system": {
            "size_bytes": file_system.f_blocks * block,
            "used_bytes": (file_system.f_blocks - file_system.f_bfree) * block,
            "available_bytes": file_system.f_bavail * block,
        },
        "images": {
            "count": len(by_image),
            "exclusive_bytes_used": sum(_number(image["exclusive_bytes_used"]) for image in by_image),
            "quota_size_bytes": committed,
        },
        "layers": {
            "count": len(by_layer),
            "size_bytes": layer_bytes,
            "unused_count": len(unused),
            "unused_bytes": unused_bytes,
        },
        "downloads": {"count": len(downloads), "size_bytes": sum(downloads)},
        "reclaimable_bytes": unused_bytes + sum(downloads),
        "threshold_bytes": threshold,
        "is_above_threshold": layer_bytes >= threshold if threshold else None,
        "by_image": by_image,
        "by_layer": by_layer,
    }


def _by_image(store: Store, driver: Driver) -> tuple[list[Report], dict[str, int], int]:
    """The images, how many of them use each volume, and the sum of their limits."""
    rows: list[Report] = []
    users: dict[str, int] = {}
    committed = 0
    for image_id in images.list_images(store, driver):
        for chain_id in records.read_dependencies(store, image_id) or ():
            users[chain_id] = users.get(chain_id, 0) + 1
        try:
            total, exclusive = images.counted_usage(store, driver, image_id)
        except QuotaError:
            total, exclusive = images.image_size(store, image_id), None
        except OSError:
            continue  # deleted meanwhile
        limit = images.limit_of(store, driver, image_id)
        committed += limit or 0
        rows.append({"id": image_id, "total_bytes_used": total, "exclusive_bytes_used": exclusive, "quota_size_bytes": limit})
    rows.sort(key=lambda row: -_number(row["exclusive_bytes_used"] or row["total_bytes_used"]))
    return rows, users, committed


def _by_layer(store: Store, users: dict[str, int]) -> list[Report]:
    rows: list[Report] = []
    for chain_id in list_volumes(store):
        size = records.read_size(store, chain_id)
        rows.append({"id": chain_id, "size_bytes": size.layer if size else 0, "images": users.get(chain_id, 0)})
    rows.sort(key=lambda row: -_number(row["size_bytes"]))
    return rows


def _downloads(store: Store) -> list[str]:
    return [store.folder(f"tmp/{name}") for name in os.listdir(store.folder("tmp")) if is_download(name)]


def _file_size(path: str) -> int | None:
    try:
        return os.lstat(path).st_size
    except OSError:
        return None


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
