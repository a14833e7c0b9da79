"""Plots, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "groot_fast"  # the same plot gives the same file

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from compare.figures import median  # noqa: E402
from compare.report import US, Table, images_of  # noqa: E402
from compare.works import Results  # noqa: E402

OURS, OTHERS = "#c44e52", "#8c8c8c"


def draw(folder: Path, name: str, results: Results) -> list[Path]:
    """Every plot that there are figures for; gives the files."""
    figures = {"cold": cold(results), "growth": growth(results), "parallel": parallel(results)}
    files = []
    for kind, figure in figures.items():
        if figure is None:
            continue
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            files.append(folder / f"{name}-{kind}.{suffix}")
            figure.savefig(files[-1], dpi=120, metadata=metadata)
        plt.close(figure)
    return files


def cold(results: Results) -> Figure | None:
    """Bars of seconds, an image beside the other; the flush after the command on top."""
    images = images_of(results, "cold oci")
    if not images:
        return None
    table = Table(results)
    figure, axes = plt.subplots(1, len(images), figsize=(1 + 3.2 * len(images), 3.4), squeeze=False, layout="constrained")
    for axis, image in zip(axes[0], images, strict=True):
        who = list(dict.fromkeys(s.who for s in results.samples if s.work == "cold oci" and s.image == image))
        took = [median(list(table.rounds("cold oci", image, each).values())) for each in who]
        flush = [median(list(table.rounds("cold oci", image, each, lambda s: s.flush).values())) for each in who]
        axis.barh(who, took, color=[OURS if each == US else OTHERS for each in who])
        axis.barh(who, flush, left=took, color="#dddddd")
        axis.invert_yaxis()
        axis.set_title(f"cold create, {image}")
        axis.set_xlabel("seconds (light: flush after it)")
    return figure


def growth(results: Results) -> Figure | None:
    """Milliseconds over the number of images: warm create with a limit, stats, list."""
    images = images_of(results, "grown warm")
    if not images:
        return None
    works = ("warm", "stats", "list")
    figure, axes = plt.subplots(1, len(works), figsize=(12, 3.6), squeeze=False, layout="constrained")
    table = Table(results)
    for axis, work in zip(axes[0], works, strict=True):
        for number, image in enumerate(images):
            for who, style in ((US, "-o"), ("python + snapshot", ":x")):
                levels = sorted({s.images for s in results.samples if (s.work, s.image, s.who) == (f"grown {work}", image, who)})
                if levels:
                    took = [1000 * median(list(table.rounds(f"grown {work}", image, who, images=level).values())) for level in levels]
                    axis.plot(levels, took, style, color=f"C{number}", label=image if who == US else f"{image}: {who}")
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("images in the store")
        axis.set_ylabel("milliseconds")
        axis.set_title({"warm": "warm create with a limit"}.get(work, work))
        axis.legend(fontsize="small")
    return figure


def parallel(results: Results) -> Figure | None:
    """Warm creates a second over how many at once."""
    bursts = [b for b in results.bursts if b.work == "warm at once"]
    if not bursts:
        return None
    figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for image, who in dict.fromkeys((b.image, b.who) for b in bursts):
        counts = sorted({b.count for b in bursts if (b.image, b.who) == (image, who)})
        rates = [median([b.count / b.seconds for b in bursts if (b.image, b.who, b.count) == (image, who, count)]) for count in counts]
        axis.plot(counts, rates, "-o", label=f"{who}, {image}", linewidth=2 if who == US else 1)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("at once")
    axis.set_ylabel("warm creates a second")
    axis.legend(fontsize="small")
    return figure
