"""What volumes on AWS may do: operations and bytes a second, and the burst credits of gp2.

Figures and model are those of the public documentation, read in November 2026:

- gp2, gp3, io2: *Amazon EBS User Guide*, "Amazon EBS General Purpose SSD volumes" and "Provisioned IOPS SSD volumes",
  https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html and .../provisioned-iops.html
- gp3 above 16,000 IOPS: the announcement of September 2025 (80,000 IOPS, 2,000 MiB/s, 64 TiB)
- instance store: *Amazon EC2 Instance Types*, "Instance store specifications" (random 4 KiB operations of m5d.large)

- latency: the same pages say "single-digit millisecond" of gp2 and gp3 and "under 500 microseconds" on average (16 KiB) of io2 Block
  Express; nothing is published for instance stores. Taken is one millisecond, half of one, and a tenth: assumptions, but for io2's.

What counts as an operation, and when it is answered, is in rust/throttle (`volume.rs`).
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

INSTANCE_STORE_IOPS = 30_000
INSTANCE_STORE_WRITE_COST = 2
"""Writes come half as often as reads: 15,000 a second."""

GP_LATENCY, IO2_LATENCY, INSTANCE_STORE_LATENCY = 1_000, 500, 100
"""Microseconds."""


class BadProfile(ValueError):
    """A profile that does not exist; the text says which do."""


@dataclass(frozen=True)
class Volume:
    """What a volume lasts out. None: without limit."""

    name: str
    iops: int | None
    """Operations a second, reads and writes together."""

    bytes_per_second: int | None
    latency_us: int = 0
    write_cost: int = 1
    """How many operations of the budget a write takes."""

    burst_iops: int | None = None
    """Operations a second while there are credits."""

    bucket: int = 0
    """Credits, an operation each, that the bucket holds when full; earned at the rate of ``iops``."""

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to imitate."""
        return self.iops is not None or self.bytes_per_second is not None


def gp2(gib: int) -> Volume:
    """A gp2 volume of a size: three operations a second for each GiB, credits below 1,000 GiB."""
    low, high = GP2_BASELINE
    baseline = min(max(gib * GP2_IOPS_PER_GIB, low), high)
    throughput = (128 if gib <= GP2_SMALL_GIB else 250) * MIB
    bursts = baseline < GP2_BURST_IOPS
    burst, bucket = (GP2_BURST_IOPS, GP2_CREDITS) if bursts else (None, 0)
    return Volume(f"gp2:{gib}", baseline, throughput, GP_LATENCY, burst_iops=burst, bucket=bucket)


def gp3(iops: int, throughput: int) -> Volume:
    """A gp3 volume with so many operations and MiB a second."""
    _check("gp3", iops, GP3_IOPS)
    _check("gp3", throughput, GP3_THROUGHPUT_MIB)
    return Volume(f"gp3:{iops}:{throughput}", iops, throughput * MIB, GP_LATENCY)


def io2(iops: int) -> Volume:
    """An io2 Block Express volume with so many operations a second."""
    _check("io2", iops, IO2_IOPS)
    throughput = min(iops * IO2_MIB_PER_IOPS, IO2_THROUGHPUT_MIB)
    return Volume(f"io2:{iops}", iops, int(throughput * MIB), IO2_LATENCY)


def _check(kind: str, value: int, bounds: tuple[int, int]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise BadProfile(f"{kind} goes from {bounds[0]} to {bounds[1]}, not to {value}")


PROFILES = """\
unlimited              the device as it is
iops:N                 N operations a second, nothing else
gp2:GIB                3 IOPS a GiB (100 to 16,000), 128 or 250 MiB/s, bursts to 3,000 on 5.4 million credits
gp3[:IOPS[:MIB]]       3,000 to 80,000 IOPS, 125 to 2,000 MiB/s (3,000 and 125 where nothing is said)
io2:IOPS               100 to 256,000 IOPS, 0.256 MiB/s for each of them, at most 4,000
instance-store         NVMe of an m5d.large: 30,000 reads, 15,000 writes a second"""


def find_volume(profile: str) -> Volume:
    """The volume that a profile's name means; PROFILES lists them. Raises BadProfile."""
    if profile == "unlimited":
        return Volume(profile, None, None)
    if profile == "instance-store":
        return Volume(profile, INSTANCE_STORE_IOPS, None, INSTANCE_STORE_LATENCY, INSTANCE_STORE_WRITE_COST)
    match = re.fullmatch(r"(iops|gp2|gp3|io2)((?::[1-9][0-9]{0,6}){0,2})", profile)
    if match:
        kind, numbers = match[1], [int(number) for number in match[2].split(":")[1:]]
        if kind == "gp3":
            return gp3(*numbers, *(GP3_IOPS[0], GP3_THROUGHPUT_MIB[0])[len(numbers) :])
        if len(numbers) == 1:
            [number] = numbers
            return Volume(profile, number, None) if kind == "iops" else gp2(number) if kind == "gp2" else io2(number)
    raise BadProfile(f"there is no profile `{profile}`; there are:\n{PROFILES}")
