"""Who uses the disk: the answers of `stats --store` and `list --json`.

Everything comes from counters and records, never from walking a tree: a few small reads an image and one a volume.
"""

from __future__ import annotations

from groot_fast._core import Store
from groot_fast.errors import ImageNotFound, QuotaError
from groot_fast.upkeep.findings import is_download

Report = dict[str, object]


def describe_images(store: Store) -> list[Report]:
    """What `list --json` says of each finished image, sorted by id. Raises OSError.

    ``layers`` are chain ids, bottom to top; ``quota_size_bytes`` is None without a limit.
    """
    described: list[Report] = []
    for image_id in store.images():
        path = f"{store.path}/images/{image_id}"
        try:
            report: Report = {
                "id": image_id,
                "path": path,
                "rootfs": f"{path}/rootfs",
                "layers": store.read_dependencies(image_id) or [],
                "image_size_bytes": store.image_size(image_id),
                "quota_size_bytes": store.image_limit(image_id),
            }
        except (ImageNotFound, OSError):
            if store.has_image(image_id):
                raise
            continue
        # What was read while a delete took it apart is of no image.
        if store.has_image(image_id):
            described.append(report)
    return described


def describe_store(store: Store, threshold: int, *, counts_limits: bool = False) -> Report:
    """What `stats --store` says; all sizes in bytes, largest first. Raises OSError.

    ``exclusive_bytes_used`` is what a container wrote (None if nobody counts), ``reclaimable_bytes`` what `clean`
    would free: layers without images and downloads. ``threshold`` is the configured one, 0 without; ``counts_limits``: it is
    compared with committed limits too.
    """
    # Counters move at commits only; one serves all images.
    store.sync()
    by_image, users, committed = _by_image(store)
    by_layer = _by_layer(store, users)
    sizes = (_file_size(store, name) for name in store.names("tmp") if is_download(name))
    downloads = [size for size in sizes if size is not None]
    unused = [layer for layer in by_layer if not layer["images"]]
    unused_bytes = store.unused_bytes()
    size, free, available, below, _ = store.space()
    return {
        "store": store.path,
        "accounting": store.accounting(),
        "file_system": {"size_bytes": size, "used_bytes": size - free, "available_bytes": available, "available_below_bytes": below},
        "images": {
            "count": len(by_image),
            "exclusive_bytes_used": sum(_number(image["exclusive_bytes_used"]) for image in by_image),
            "quota_size_bytes": committed,
        },
        "layers": {
            "count": len(by_layer),
            "size_bytes": store.measured_bytes(counts_limits=False),
            "unused_count": len(unused),
            "unused_bytes": unused_bytes,
        },
        "downloads": {"count": len(downloads), "size_bytes": sum(downloads)},
        "reclaimable_bytes": unused_bytes + sum(downloads),
        "threshold_bytes": threshold,
        "is_above_threshold": store.measured_bytes(counts_limits=counts_limits) >= threshold if threshold else None,
        "by_image": by_image,
        "by_layer": by_layer,
    }


def _by_image(store: Store) -> tuple[list[Report], dict[str, int], int]:
    """The images, how many of them use each volume, and the sum of their limits."""
    rows: list[Report] = []
    users: dict[str, int] = {}
    committed = 0
    for image_id in store.images():
        chain_ids = store.read_dependencies(image_id) or ()
        exclusive: int | None
        try:
            limit = store.image_limit(image_id)
            try:
                total, exclusive = store.counted_usage(image_id)
            except QuotaError:
                total, exclusive = store.image_size(image_id), None
        except (ImageNotFound, OSError):
            if store.has_image(image_id):
                raise
            continue
        if not store.has_image(image_id):
            continue  # what was read while a delete took it apart is of no image
        for chain_id in chain_ids:
            users[chain_id] = users.get(chain_id, 0) + 1
        committed += limit or 0
        rows.append({"id": image_id, "total_bytes_used": total, "exclusive_bytes_used": exclusive, "quota_size_bytes": limit})
    rows.sort(key=lambda row: -_number(row["exclusive_bytes_used"] or row["total_bytes_used"]))
    return rows, users, committed


def _by_layer(store: Store, users: dict[str, int]) -> list[Report]:
    rows: list[Report] = []
    for chain_id in store.volumes():
        size = store.read_size(chain_id)
        layer, _, cloned = size or (0, None, 0)
        rows.append({"id": chain_id, "size_bytes": layer, "cloned_bytes": cloned, "images": users.get(chain_id, 0)})
    rows.sort(key=lambda row: -_number(row["size_bytes"]))
    return rows


def _file_size(store: Store, name: str) -> int | None:
    found = store.stat("tmp", name)
    return None if found is None else found[3]


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
