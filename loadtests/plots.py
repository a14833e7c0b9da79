"""The plots of a result, as SVG for the report or as files for the documentation."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Text stays text: smaller, readable by machines, and in the reader's font.
matplotlib.rcParams.update({"svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3, "font.family": "sans-serif", "font.size": 9})

SIZE = (7.2, 2.9)
MIB = 1024 * 1024
Series = dict[str, list[float | None]]
COLOURS = {"create": "#1b6ca8", "stats": "#7a7a7a", "delete": "#c0762a", "clean": "#4f8a4b", "push": "#8a4b86"}
STORM_COLOURS = {"command": "#1b6ca8", "api": "#9cc4e4", "buildah-overlay": "#b03030", "buildah-btrfs": "#d9a0a0"}


def plot_all(result: dict[str, Any]) -> dict[str, Figure]:
    """Each plot under its title. Those that would be empty are left out."""
    series = result["series"]
    others = {door: other["series"] for door, other in result.get("beside", {}).items()}
    plots: dict[str, Callable[[Axes], None]] = {
        "Operations a second": lambda axes: _rate(axes, series, others),
        "Latency of create": lambda axes: _latency(axes, series),
        "Failures": lambda axes: _line(axes, series, {"failures": ("failed operations", "#b03030")}, "in a stretch"),
        "Device: operations against the cap": lambda axes: _operations(axes, series),
        "Backlog of deleted subvolumes": lambda axes: _line(
            axes, series, {"backlog": ("deleted, not yet dropped", "#8a4b86"), "subvolumes": ("there", "#7a7a7a")}, "subvolumes"
        ),
        "Commits of BTRFS": lambda axes: _commits(axes, series),
        "Burst credits": lambda axes: _line(axes, series, {"credits": ("credits", "#c0762a")}, "operations"),
        "Memory": lambda axes: _memory(axes, series),
    }
    if not any(series["credits"]):
        del plots["Burst credits"]
    figures = {}
    for title, draw in plots.items():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel("seconds")
        # A plot without anything (no failures) shows its zero line, not an axis of thousandths.
        axes.set_ylim(0, max(axes.get_ylim()[1], 1))
        axes.set_xlim(left=0)
        axes.legend(loc="best", frameon=False)
        figures[title] = figure
    return figures


def svg(figure: Figure, title: str) -> str:
    """A figure as an SVG element. Ids depend on the title, so that several fit in one page."""
    with matplotlib.rc_context({"svg.hashsalt": title}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _points(values: list[float | None], scale: float = 1.0) -> list[float]:
    return [float("nan") if value is None else value * scale for value in values]


def _line(axes: Axes, series: Series, lines: dict[str, tuple[str, str]], unit: str, scale: float = 1.0) -> None:
    for name, (label, colour) in lines.items():
        axes.plot(_points(series["time"]), _points(series[name], scale), label=label, color=colour, linewidth=1.3)
    axes.set_ylabel(unit)


def _rate(axes: Axes, series: Series, others: dict[str, Series]) -> None:
    _line(axes, series, {f"{name}_rate": (name, colour) for name, colour in COLOURS.items() if any(series[f"{name}_rate"])}, "a second")
    for (door, other), style in zip(others.items(), ("--", ":"), strict=False):
        axes.plot(_points(other["time"]), _points(other["create_rate"]), style, label=f"create, {door}", color="#b03030", linewidth=1.3)


def _latency(axes: Axes, series: Series) -> None:
    # Stretches without a create have no latency: dots show what lines would hide.
    lines = (("create_p50_ms", "p50", "#9cc4e4"), ("create_p95_ms", "p95", "#1b6ca8"), ("create_p99_ms", "p99", "#0b2f4a"))
    for name, label, colour in lines:
        axes.plot(_points(series["time"]), _points(series[name]), ".-", label=label, color=colour, linewidth=1.1, markersize=3)
    axes.set_ylabel("ms")


def _operations(axes: Axes, series: Series) -> None:
    _line(axes, series, {"writes_per_second": ("write requests", "#1b6ca8"), "reads_per_second": ("read requests", "#4f8a4b")}, "a second")
    if any(series.get("cap", ())):  # none in results of before
        _line(axes, series, {"operations_per_second": ("operations, as AWS counts", "#0b2f4a")}, "a second")
        axes.step(_points(series["time"]), _points(series["cap"]), "--", label="cap", color="#b03030", where="mid")


def _commits(axes: Axes, series: Series) -> None:
    _line(axes, series, {"commit_ms": ("mean duration, ms", "#1b6ca8"), "commits_per_second": ("commits a second", "#c0762a")}, "")


def _memory(axes: Axes, series: Series) -> None:
    lines = {"memory": ("machine, in use", "#7a7a7a"), "slab": ("kernel, not reclaimable", "#c0762a")}
    if any(series["server_memory"]):
        lines["server_memory"] = ("server, resident", "#1b6ca8")
    _line(axes, series, lines, "MiB", 1 / MIB)


def plot_storms(results: list[dict[str, Any]]) -> Figure:
    """Creates a second of several storms, by volume and by who made them."""
    rates: dict[str, dict[str, float]] = {}
    for result in results:
        volume = result["profile"]["name"]
        for door, run in {result["plan"]["door"]: result, **result.get("beside", {})}.items():
            rates.setdefault(door, {})[volume] = run["figures"]["create.rate"] or 0.0
    volumes = list(dict.fromkeys(result["profile"]["name"] for result in results))
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(rates)
    for number, (door, by_volume) in enumerate(rates.items()):
        places = [index + (number - (len(rates) - 1) / 2) * width for index, volume in enumerate(volumes) if volume in by_volume]
        bars = axes.bar(places, list(by_volume.values()), width, label=door, color=STORM_COLOURS.get(door, "#7a7a7a"))
        axes.bar_label(bars, fmt="%.3g", fontsize=7)
    axes.set_xticks(range(len(volumes)), volumes)
    axes.set_ylabel("creates a second")
    axes.legend(loc="best", frameon=False)
    return figure
