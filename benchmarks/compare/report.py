"""The result as JSON and as Markdown. Everything in the tables is computed from the samples here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compare.figures import median, paired_ratio, percentile
from compare.works import BASE, Burst, Results, Sample

US = "groot_fast"
ASKED = "groot_fast, API"
APART = "groot_fast, share_content: never"
JOINED = "groot_fast, join_small_layers"
MEBI = 1024
"""KiB in a MiB."""
BIGGEST_BURST = 64
NO_BARS = {"many"}
"""Images that are measured without a bar: one commit a layer is what 120 layers cost."""

AGAIN: dict[str, dict[str, tuple[float, float | None]]] = {
    "pyapp-wheels-next": {"written": (0.4, 0.32), "requests to write": (0.3, 0.21), "time": (0.8, 0.66)},
    "debian-next": {"written": (0.3, 0.15), "requests to write": (0.3, None)},
    "pyapp": {"time": (1.02, 1.0)},
}
"""What the next releases of images, and what another image on the same base, are held to beside who writes all of them: must and aim."""

AGAIN_THROTTLED: dict[str, tuple[float, float | None]] = {"time": (0.4, 0.25)}
"""The same on a volume of few operations a second."""

METHOD = """\
Whole processes, from `exec` to exit. Contestants take turns within a round, in another order each round; a ratio is the
median of the ratios of neighbours in a round. *Cold*: a file system made for this one command, the input in the page cache,
`containerd` running already. Before a command everything dirty on the machine is flushed and the kernel is done with what was deleted.
*flush* is `sync -f` right after the command, timed apart; *written* is what reached the loop device until after that flush,
*commits* are those of the file system until the command's end. *Peak* is the largest process of a command's tree, added up
over a pipeline, with the daemon's own for `containerd`. buildah, umoci, containerd and ours check digests and diff ids; the
floors check nothing, take whiteouts for files and make no snapshot. *python + snapshot*: `python3 -I -S -c pass`, then a
native process that only makes the snapshot. *unpacked* is the content of all layers' files in whole 4 KiB blocks, as `du`
counts. *Again*: the next release of an image, on a file system that has nothing but the one before; *requests* are those to write
that reached the loop device until after the flush. Growth: a full store in turns with one that keeps 10 images. *API*: the
HTTP interface of `grootfs serve`, by callers whose connections stand already."""


@dataclass(frozen=True)
class Bar:
    """A figure and what it is held against: at most ``must`` and ``aim``, or with ``least`` at least."""

    name: str
    value: float
    must: float | None
    aim: float | None = None
    least: bool = False
    unit: str = " x"

    @property
    def verdict(self) -> str:
        """``missed`` or ``met`` is about ``must``, ``aim met`` and ``aim missed`` about what is more."""
        if self.must is not None and not self._holds(self.must):
            return "missed"
        if self.aim is not None and self._holds(self.aim):
            return "aim met"
        return "met" if self.must is not None else "aim missed"

    def _holds(self, bound: float) -> bool:
        return self.value >= bound if self.least else self.value <= bound


class Table:
    """Samples by what they are of."""

    def __init__(self, results: Results) -> None:
        self.samples = results.samples
        self.bursts_of = results.bursts

    def rounds(
        self, work: str, image: str, who: str, of: Callable[[Sample], float] = lambda s: s.seconds, images: int = 0
    ) -> dict[int, float]:
        """Values by round."""
        return {s.round: of(s) for s in self.samples if (s.work, s.image, s.who) == (work, image, who) and images in (0, s.images)}

    def bursts(self, work: str, image: str, who: str, count: int) -> list[Burst]:
        """Those of a size, by round."""
        return [b for b in self.bursts_of if (b.work, b.image, b.who, b.count) == (work, image, who, count)]


def bars(results: Results, unpacked: dict[str, int]) -> list[Bar]:
    """What was asked of us. Bars whose works were not measured are not there."""
    table = Table(results)
    found: list[Bar | None] = []
    for image in _with_bars(results, "cold oci"):
        ours = table.rounds("cold oci", image, US)
        found += [
            _ratio_bar(f"cold `{image}` / `igzip | tar`", ours, table.rounds("cold oci", image, "igzip | tar"), 1.0),
            _ratio_bar(f"cold `{image}` / plain `tar`", ours, table.rounds("cold oci", image, "tar"), None, 1.0),
            _ratio_bar(f"buildah / cold `{image}`", table.rounds("cold oci", image, "buildah"), ours, 3.0, least=True),
        ]
        found.append(_written_bar(table, "cold oci", image, unpacked))
    found += _again_bars(table, results)
    found += _joined_bars(table, results)
    for image in _with_bars(results, "cold docker"):
        ours, layout = table.rounds("cold docker", image, US), table.rounds("cold oci, beside docker", image, US)
        found.append(_ratio_bar(f"cold docker / cold oci, `{image}`", ours, layout, 1.1))
        found.append(_written_bar(table, "cold docker", image, unpacked))
    for image in images_of(results, "warm, limit"):
        ours = table.rounds("warm, limit", image, US)
        found += [
            _ratio_bar(
                f"warm with limit `{image}` / (python + snapshot)", ours, table.rounds("warm", image, "python + snapshot"), 1.3, 1.1
            ),
            _ratio_bar(f"buildah / warm with limit `{image}`", table.rounds("warm", image, "buildah"), ours, 2.0, least=True),
        ]
    found += _named_bars(table, results) + _growth_bars(table, results) + _burst_bars(table, results)
    peaks = [s.peak for s in results.samples if s.who == US and s.work.startswith("cold")]
    if peaks:
        found.append(Bar("peak memory, any cold create", max(peaks) / MEBI, 100, 50, unit=" MiB"))
    return [bar for bar in found if bar is not None]


def _with_bars(results: Results, work: str) -> list[str]:
    return [image for image in images_of(results, work) if image not in NO_BARS]


def _written_bar(table: Table, work: str, image: str, unpacked: dict[str, int]) -> Bar | None:
    written = table.rounds(work, image, US, lambda s: s.written)
    return Bar(f"written / unpacked, {work} `{image}`", median(list(written.values())) / unpacked[image], 1.1, 1.02) if written else None


def _ratio_bar(
    name: str, mine: dict[int, float], other: dict[int, float], must: float | None, aim: float | None = None, *, least: bool = False
) -> Bar | None:
    ratio = paired_ratio(mine, other)
    return None if ratio is None else Bar(name, ratio, must, aim, least)


def _named_bars(table: Table, results: Results) -> list[Bar | None]:
    """Beside a peer with the same command line; without one, beside a create that asks nobody."""
    found: list[Bar | None] = []
    for image in images_of(results, "warm by tag, http"):
        http, tls = (table.rounds(f"warm by tag, {how}", image, US) for how in ("http", "TLS"))
        layout = table.rounds("warm by layout", image, US)
        found.append(_ratio_bar(f"by tag / by layout, `{image}`", http, layout, 4.0))
        at_once = {b.round: b.seconds for b in table.bursts_of if (b.work, b.image, b.who) == ("by tag at once", image, US)}
        for peer in dict.fromkeys(s.who for s in results.samples if s.work == "warm by tag, http" and s.who != US):
            spent = [table.rounds("warm by tag, http", image, who, lambda s: s.cpu) for who in (US, peer)]
            theirs = {b.round: b.seconds for b in table.bursts_of if (b.work, b.image, b.who) == ("by tag at once", image, peer)}
            found += [
                _ratio_bar(f"by tag / {peer}'s, `{image}`", http, table.rounds("warm by tag, http", image, peer), 0.6, 0.4),
                _ratio_bar(f"by tag / {peer}'s, `{image}`: processor", spent[0], spent[1], 0.5),
                _ratio_bar(f"by tag, TLS and token / {peer}'s, `{image}`", tls, table.rounds("warm by tag, TLS", image, peer), 1.0, 0.7),
                _ratio_bar(f"by tag at once: rate / {peer}'s, `{image}`", theirs, at_once, 2.0, 3.0, least=True),
            ]
    return found


def _again_bars(table: Table, results: Results) -> list[Bar | None]:
    """Beside who shares nothing, and peers with the same command line: a release before, or an original."""
    measures: dict[str, Callable[[Sample], float]] = {
        "written": lambda s: s.written,
        "requests to write": lambda s: s.requests,
        "time": lambda s: s.seconds,
    }
    found: list[Bar | None] = []
    others = (s for s in results.samples if s.work.startswith("again") and s.who != US)
    for work, image, peer in dict.fromkeys((s.work, s.image, s.who) for s in others):
        for name, (must, aim) in (AGAIN.get(image, {}) if work == "again" else AGAIN_THROTTLED).items():
            ours, theirs = (table.rounds(work, image, who, measures[name]) for who in (US, peer))
            found.append(_ratio_bar(f"{work} `{image}` / {peer}: {name}", ours, theirs, must, aim))
    return found


def _joined_bars(table: Table, results: Results) -> list[Bar | None]:
    found: list[Bar | None] = []
    for image in dict.fromkeys(s.image for s in results.samples if s.who == JOINED):
        measures: list[tuple[str, Callable[[Sample], float], tuple[float, float]]] = [
            ("time", lambda s: s.seconds, (0.6, 0.3)),
            ("written", lambda s: s.written, (0.25, 0.15)),
        ]
        for name, measure, (must, aim) in measures:
            joined, apart = (table.rounds("cold oci", image, who, measure) for who in (JOINED, US))
            found.append(_ratio_bar(f"cold `{image}`, small layers joined / apart: {name}", joined, apart, must, aim))
    return found


def _growth_bars(table: Table, results: Results) -> list[Bar | None]:
    found: list[Bar | None] = []
    for image in images_of(results, "grown warm"):
        top = max(s.images for s in results.samples if s.image == image and s.work == "grown warm")
        for what, must, aim in (("warm", 1.3, 1.0), ("stats", 1.3, None)):
            full = table.rounds(f"grown {what}", image, US, images=top)
            found.append(
                _ratio_bar(f"{what} at {top} images / at {BASE}, `{image}`", full, table.rounds(f"grown base {what}", image, US), must, aim)
            )
        listed = table.rounds("grown list", image, US, images=top)
        if listed:
            found.append(Bar(f"list of {top} images, `{image}`", median(list(listed.values())) * 1000, 150, unit=" ms"))
    return found


def _burst_bars(table: Table, results: Results) -> list[Bar | None]:
    found: list[Bar | None] = []
    for image in dict.fromkeys(b.image for b in results.bursts if b.work == "warm at once" and b.count == BIGGEST_BURST):
        other = {b.round: b.seconds for b in table.bursts("warm at once", image, "buildah", BIGGEST_BURST)}
        alone = {b.round: b.seconds for b in table.bursts("warm at once", image, US, BIGGEST_BURST)}
        for who in (US, ASKED):
            ours = table.bursts("warm at once", image, who, BIGGEST_BURST)
            name = f"{BIGGEST_BURST} warm at once, `{image}`{who.removeprefix(US)}"
            if not ours:
                continue
            seconds = {b.round: b.seconds for b in ours}
            if who != US:
                found.append(_ratio_bar(f"{name}: rate / without a server", alone, seconds, 5.0, least=True))
                found.append(Bar(f"{name}: commits a create", median([b.commits / b.count for b in ours]), 0.2, unit=""))
            found += [
                _ratio_bar(f"{name}: rate / buildah's", other, seconds, 6.0, 10.0, least=True),
                Bar(f"{name}: p99", percentile([taken for b in ours for taken in b.latencies], 0.99), 1.5, unit=" s"),
                Bar(f"{name}: failed", sum(b.failed for b in ours), 0, unit=""),
            ]
    pulls = [b for b in results.bursts if b.work == "pull at once" and b.who == US]
    for image, count in dict.fromkeys((b.image, b.count) for b in pulls if b.count > 1):
        one = {b.round: b.seconds for b in table.bursts("pull at once", image, US, 1)}
        many = {b.round: b.seconds for b in table.bursts("pull at once", image, US, count)}
        found.append(_ratio_bar(f"{count} pulls of `{image}` at once / one", many, one, 1.3))
    return found


def images_of(results: Results, work: str) -> list[str]:
    """Images that a work was measured with."""
    return list(dict.fromkeys(s.image for s in results.samples if s.work == work))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3f}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def _rows(header: str, rows: Iterable[Iterable[str]]) -> str:
    columns = header.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def bars_table(found: list[Bar]) -> str:
    """Bars as Markdown."""

    def bound(bar: Bar, value: float | None) -> str:
        return "" if value is None else f"{'≥' if bar.least else '≤'} {value:g}{bar.unit}"

    rows = [[_escape(b.name), f"{_number(b.value)}{b.unit}", bound(b, b.must), bound(b, b.aim), b.verdict] for b in found]
    return _rows("measure | value | must | aim | verdict", rows)


def samples_table(results: Results, unpacked: dict[str, int]) -> str:
    """Every work but growth and the next release: medians, and how much longer than ours the others took."""
    table = Table(results)
    rows = []
    for work, image, who in dict.fromkeys((s.work, s.image, s.who) for s in results.samples if not s.work.startswith(("grown", "again"))):
        mine = [s for s in results.samples if (s.work, s.image, s.who) == (work, image, who)]
        ratio = paired_ratio(table.rounds(work, image, who), table.rounds(work, image, US))
        written = median([s.written for s in mine])
        rows.append(
            [
                work,
                image,
                _escape(who),
                str(len(mine)),
                _seconds(median([s.seconds for s in mine])),
                "" if ratio is None or who == US else f"{ratio:.2f}",
                _seconds(median([s.cpu for s in mine])),
                _seconds(median([s.flush for s in mine])),
                f"{max(s.peak for s in mine) / MEBI:.0f}",
                f"{written / 1e6:.1f}" + (f" ({written / unpacked[image]:.2f} x)" if work.startswith("cold") else ""),
                f"{median([s.commits for s in mine]):g}",
            ]
        )
    header = "work | image | who | n | median | x ours | CPU | flush | peak MiB | written MB (/ unpacked) | commits"
    return _rows(header, rows)


def again_table(results: Results) -> str:
    """The next release of an image in a store with the one before."""
    rows = []
    of_works = [s for s in results.samples if s.work.startswith("again")]
    for work, image, who in dict.fromkeys((s.work, s.image, s.who) for s in of_works):
        mine = [s for s in of_works if (s.work, s.image, s.who) == (work, image, who)]
        cells = [_seconds(median([s.seconds for s in mine])), _seconds(median([s.cpu for s in mine]))]
        written, requests = median([s.written for s in mine]), median([s.requests for s in mine])
        rows.append([work, image, _escape(who), str(len(mine)), *cells, f"{written / 1e6:.1f}", f"{requests:g}"])
    return _rows("work | image | who | n | median | CPU | written MB | requests", rows)


def bursts_table(results: Results) -> str:
    """Rates and percentiles of commands at once."""
    rows = []
    for work, image, who, count in dict.fromkeys((b.work, b.image, b.who, b.count) for b in results.bursts):
        mine = Table(results).bursts(work, image, who, count)
        every = [taken for b in mine for taken in b.latencies]
        rate = median([b.count / b.seconds for b in mine])
        cells = [
            _seconds(median([b.seconds for b in mine])),
            _number(rate),
            _seconds(percentile(every, 0.5)),
            _seconds(percentile(every, 0.99)),
        ]
        commits = median([b.commits for b in mine])
        rows.append([work, image, _escape(who), str(count), *cells, str(sum(b.failed for b in mine)), f"{commits:g}"])
    return _rows("work | image | who | at once | all, median | a second | p50 | p99 | failed | commits", rows)


def growth_table(results: Results) -> str:
    """A row for each level: the full store beside the one that keeps `BASE` images."""
    table = Table(results)
    rows = []
    for what in ("warm", "stats", "list"):
        work = f"grown {what}"
        for image, images, who in dict.fromkeys((s.image, s.images, s.who) for s in results.samples if s.work == work):
            full = table.rounds(work, image, who, images=images)
            base = table.rounds(f"grown base {what}", image, who)
            ratio = paired_ratio(full, base)
            commits = table.rounds(work, image, who, lambda s: s.commits, images)
            written = table.rounds(work, image, who, lambda s: s.written, images)
            cells = [_seconds(median(list(full.values()))), "" if ratio is None else f"{ratio:.2f}"]
            rows.append(
                [
                    what,
                    image,
                    who,
                    str(images),
                    *cells,
                    f"{median(list(written.values())) / 1e3:.0f}",
                    f"{median(list(commits.values())):g}",
                ]
            )
    return _rows(f"work | image | who | images | median | x at {BASE} | written kB | commits", rows)


def markdown(document: dict[str, Any], results: Results) -> str:
    """The whole report."""
    machine, versions, unpacked = document["machine"], document["versions"], document["unpacked"]
    load = " ".join(map(str, machine["load_average"]))
    where = (
        f"{document['date']}, {document['plan']} run. {machine['processor']}, {machine['cores']} cores, {machine['memory_mebibytes']} MiB, "
        f"Linux {machine['kernel']}, load average at the start {load}.\n\nVersions: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
    if "incomplete" in document:
        where += f"\n\n**Incomplete**: {document['incomplete']}"
    parts = ["# Results", where, "## Bars", bars_table(bars(results, unpacked))]
    if any(not s.work.startswith("again") for s in results.samples):
        parts += ["## Commands", samples_table(results, unpacked)]
    if images_of(results, "again"):
        parts += ["## The next release of an image", again_table(results)]
    if results.bursts:
        parts += ["## At once", bursts_table(results)]
    if images_of(results, "grown warm"):
        parts += ["## Growth", growth_table(results)]
    parts += ["## Method", f"{document['method']} File system: {document.get('filesystem', 'not recorded')}."]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def write(folder: Path, name: str, document: dict[str, Any], results: Results) -> None:
    """``NAME.json`` and ``NAME.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {**document, "samples": [asdict(s) for s in results.samples], "bursts": [asdict(b) for b in results.bursts]}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(document, results))


def read(file: Path) -> tuple[dict[str, Any], Results]:
    """What `write` wrote."""
    whole = json.loads(file.read_text())
    return whole, Results([Sample(**s) for s in whole.pop("samples")], [Burst(**b) for b in whole.pop("bursts")])
