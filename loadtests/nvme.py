"""What AWS itself counts: the log page that EBS volumes and instance stores have as NVMe devices, refreshed once a second.

Layout and meaning: *Amazon EBS User Guide*, "Amazon EBS detailed performance statistics"; *Amazon EC2 User Guide*, "Detailed performance
statistics for instance store volumes"; the structures as nvme-cli's plugin `amzn` has them (log page D0h, 4,096 bytes, little-endian). Read
here are the 96 bytes that both kinds have alike, and of EBS the two histograms; those of instance stores, by sizes of I/O, are not.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

LOG_PAGE, PAGE_BYTES = 0xD0, 4096
MAGICS = {0x3C23B510: "ebs", 0xEC2C0D7E: "instance-store"}
MODEL = "Amazon"
"""Start of `model` in sysfs: `Amazon Elastic Block Store`, `Amazon EC2 NVMe Instance Storage`."""

BASE = struct.Struct("<II11Q")
HISTOGRAMS_AT, BIN = 512, struct.Struct("<QQII")
BINS = 64
HISTOGRAM_BYTES = 8 + BINS * BIN.size

ADMIN_COMMAND = 0xC0484E41
"""NVME_IOCTL_ADMIN_CMD of <linux/nvme_ioctl.h>."""

COMMAND = struct.Struct("<BBHIIIQQIIIIIIIIII")
"""struct nvme_passthru_cmd."""

GET_LOG_PAGE, NAMESPACE = 0x02, 1


class BadPage(ValueError):
    """A page that is none of AWS's; the text says why."""


@dataclass(frozen=True)
class Bin:
    """So many operations took from ``lower`` to ``upper`` microseconds."""

    lower: int
    upper: int
    count: int


@dataclass(frozen=True)
class Page:
    """Counters since the volume was attached; times in microseconds."""

    kind: str
    """`ebs` or `instance-store`."""

    read_ops: int
    write_ops: int
    read_bytes: int
    write_bytes: int
    read_us: int
    write_us: int
    above_iops_us: int
    """Time in which more operations were asked for than the volume has; of an instance store 0."""

    above_throughput_us: int
    instance_above_iops_us: int
    """Time in which they were more than the instance has."""

    instance_above_throughput_us: int
    queue_length: int
    read_latency: tuple[Bin, ...] = ()
    """Only of EBS."""

    write_latency: tuple[Bin, ...] = ()


def read_page(page: bytes) -> Page:
    """Read a log page. Raises BadPage."""
    if len(page) < PAGE_BYTES:
        raise BadPage(f"a log page has {PAGE_BYTES} bytes, not {len(page)}")
    magic, _, *counters = BASE.unpack_from(page)
    kind = MAGICS.get(magic)
    if kind is None:
        raise BadPage(f"a log page of AWS's does not begin with {magic:#010x}")
    if kind != "ebs":
        return Page(kind, *counters)
    latencies = (_read_histogram(page, HISTOGRAMS_AT + number * HISTOGRAM_BYTES) for number in range(2))
    return Page(kind, *counters, *latencies)


def _read_histogram(page: bytes, at: int) -> tuple[Bin, ...]:
    (count,) = struct.unpack_from("<Q", page, at)
    if count > BINS:
        raise BadPage(f"a histogram has {BINS} bins, not {count}")
    bins = (BIN.unpack_from(page, at + 8 + number * BIN.size) for number in range(count))
    return tuple(Bin(lower, upper, times) for lower, upper, times, _ in bins)


def is_amazons(device: str) -> bool:
    """Whether a device (its name below /sys/block) says that it is one of AWS's."""
    try:
        return (Path("/sys/block") / device / "device" / "model").read_text().startswith(MODEL)
    except OSError:
        return False


NOTHING = {
    "aws_operations": 0,
    "aws_volume_above_iops_us": 0,
    "aws_volume_above_throughput_us": 0,
    "aws_instance_above_iops_us": 0,
    "aws_instance_above_throughput_us": 0,
}
"""What `count` gives of a device that is none of AWS's."""


def count(device: str) -> dict[str, int]:
    """The counters of one of AWS's devices for a sample. Raises OSError, BadPage."""
    page = ask(device)
    return {
        "aws_operations": page.read_ops + page.write_ops,
        "aws_volume_above_iops_us": page.above_iops_us,
        "aws_volume_above_throughput_us": page.above_throughput_us,
        "aws_instance_above_iops_us": page.instance_above_iops_us,
        "aws_instance_above_throughput_us": page.instance_above_throughput_us,
    }


def ask(device: str) -> Page:
    """Ask a device for its log page; root. Raises OSError, BadPage."""
    page = ctypes.create_string_buffer(PAGE_BYTES)
    words = (PAGE_BYTES // 4 - 1) << 16
    command = COMMAND.pack(GET_LOG_PAGE, 0, 0, NAMESPACE, 0, 0, 0, ctypes.addressof(page), 0, PAGE_BYTES, LOG_PAGE | words, *[0] * 7)
    opened = os.open(f"/dev/{device}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(opened, ADMIN_COMMAND, command)
    finally:
        os.close(opened)
    return read_page(page.raw)
