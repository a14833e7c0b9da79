"""What volumes on AWS may do: operations and bytes a second, and the burst credits of gp2.

Figures and model are those of the public documentation, read in November 2026:

- gp2, gp3, io2: *Amazon EBS User Guide*, "Amazon EBS General Purpose SSD volumes" and "Provisioned IOPS SSD volumes",
  https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html and .../provisioned-iops.html
- gp3 above 16,000 IOPS: the announcement of September 2025 (80,000 IOPS, 2,000 MiB/s, 64 TiB)
- instance store: *Amazon EC2 Instance Types*, "Instance store specifications" (random 4 KiB operations of m5d.large)

AWS counts an operation for each 256 KiB; the kernel's throttle counts requests, which on a loop device may be larger
(`queue/max_sectors_kb`, 1280 as the kernel sets it): a large write costs fewer operations here than there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MIB = 1024 * 1024

GP2_IOPS_PER_GIB = 3
GP2_BASELINE = (100, 16_000)
GP2_BURST_IOPS = 3_000
GP2_CREDITS = 5_400_000
"""Operations that a full bucket holds: half an hour at 3,000 a second."""

GP2_SMALL_GIB = 170
"""Up to this size a gp2 volume does 128 MiB/s, above it 250 MiB/s (from 171 to 333 GiB only while it has credits)."""

GP3_IOPS = (3_000, 80_000)
GP3_THROUGHPUT_MIB = (125, 2_000)
IO2_IOPS = (100, 256_000)
IO2_MIB_PER_IOPS = 0.256
IO2_THROUGHPUT_MIB = 4_000

TICK = 0.25
"""Seconds between two looks at the credits."""

INSTANCE_STORE_READ, INSTANCE_STORE_WRITE = 30_000, 15_000


class BadProfile(ValueError):
    """A profile that does not exist; the text says which do."""


@dataclass(frozen=True)
class Volume:
    """What a volume lasts out. None: without limit."""

    name: str
    read_iops: int | None
    write_iops: int | None
    bytes_per_second: int | None
    burst_iops: int | None = None
    """Operations a second while there are credits."""

    credits: int = 0
    """Operations that the bucket holds when full; earned at the rate of ``write_iops``."""


def gp2(gib: int) -> Volume:
    """A gp2 volume of a size: three operations a second for each GiB, credits below 1,000 GiB."""
    low, high = GP2_BASELINE
    baseline = min(max(gib * GP2_IOPS_PER_GIB, low), high)
    throughput = (128 if gib <= GP2_SMALL_GIB else 250) * MIB
    bursts = baseline < GP2_BURST_IOPS
    return Volume(f"gp2:{gib}", baseline, baseline, throughput, GP2_BURST_IOPS if bursts else None, GP2_CREDITS if bursts else 0)


def gp3(iops: int, throughput: int) -> Volume:
    """A gp3 volume with so many operations and MiB a second."""
    _check("gp3", iops, GP3_IOPS)
    _check("gp3", throughput, GP3_THROUGHPUT_MIB)
    return Volume(f"gp3:{iops}:{throughput}", iops, iops, throughput * MIB)


def io2(iops: int) -> Volume:
    """An io2 Block Express volume with so many operations a second."""
    _check("io2", iops, IO2_IOPS)
    throughput = min(iops * IO2_MIB_PER_IOPS, IO2_THROUGHPUT_MIB)
    return Volume(f"io2:{iops}", iops, iops, int(throughput * MIB))


def _check(kind: str, value: int, bounds: tuple[int, int]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise BadProfile(f"{kind} goes from {bounds[0]} to {bounds[1]}, not to {value}")


PROFILES = """\
unlimited              the device as it is
iops:N                 N reads and N writes a second, nothing else
gp2:GIB                3 IOPS a GiB (100 to 16,000), 128 or 250 MiB/s, bursts to 3,000 on 5.4 million credits
gp3[:IOPS[:MIB]]       3,000 to 80,000 IOPS, 125 to 2,000 MiB/s (3,000 and 125 where nothing is said)
io2:IOPS               100 to 256,000 IOPS, 0.256 MiB/s for each of them, at most 4,000
instance-store         NVMe of an m5d.large: 30,000 reads, 15,000 writes a second"""


def find_volume(profile: str) -> Volume:
    """The volume that a profile's name means; PROFILES lists them. Raises BadProfile."""
    if profile == "unlimited":
        return Volume(profile, None, None, None)
    if profile == "instance-store":
        return Volume(profile, INSTANCE_STORE_READ, INSTANCE_STORE_WRITE, None)
    match = re.fullmatch(r"(iops|gp2|gp3|io2)((?::[1-9][0-9]{0,6}){0,2})", profile)
    if match:
        kind, numbers = match[1], [int(number) for number in match[2].split(":")[1:]]
        if kind == "gp3":
            return gp3(*numbers, *(GP3_IOPS[0], GP3_THROUGHPUT_MIB[0])[len(numbers) :])
        if len(numbers) == 1:
            [number] = numbers
            return Volume(profile, number, number, None) if kind == "iops" else gp2(number) if kind == "gp2" else io2(number)
    raise BadProfile(f"there is no profile `{profile}`; there are:\n{PROFILES}")


class Bucket:
    """The burst credits of a volume while a run goes on: operations drain them, time refills them."""

    def __init__(self, volume: Volume, left: int | None = None) -> None:
        """A full bucket, or one with ``left`` credits in it."""
        self._volume = volume
        self.credits = float(volume.credits if left is None else min(left, volume.credits))

    def spend(self, operations: int, seconds: float) -> None:
        """Account for so many operations in so many seconds."""
        earned = (self._volume.write_iops or 0) * seconds
        self.credits = min(max(self.credits + earned - operations, 0.0), float(self._volume.credits))

    @property
    def iops(self) -> tuple[int | None, int | None]:
        """Reads and writes a second that the volume allows now."""
        volume = self._volume
        # With less left than a burst takes until somebody looks again, the volume gives what it earns.
        if volume.burst_iops is not None and self.credits >= volume.burst_iops * TICK:
            return volume.burst_iops, volume.burst_iops
        return volume.read_iops, volume.write_iops
