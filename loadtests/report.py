"""What people read: the HTML report of a result, a comparison, and short texts for the terminal.

A report is one file: style and plots are in it, nothing is loaded from elsewhere, nothing runs.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from loadtests import plots
from loadtests.comparison import Row

Result = dict[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.about { color: #666; margin-top: .3rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #e4e4e4; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
.pass { color: #2d6a2f; font-weight: 600; } .fail { color: #a32020; font-weight: 600; }
.verdict { font-size: 1.2rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; } figcaption { font-weight: 600; }
details { margin-top: 1rem; }
"""

LIMITS = (
    ("cpu.busy", "the processor was busy", "more cores, before a faster volume"),
    ("volume.above_iops_share", "more operations were asked for than the volume allows", "a volume with more IOPS"),
    ("volume.above_throughput_share", "more bytes were asked for than the volume allows", "a volume with more throughput"),
    ("commit.share_of_time", "BTRFS was committing", "a volume with a lower latency, or fewer creates at once on this cell"),
)
"""Shares of the time, what each means, and what helps where it is the largest."""

HIT = 0.8
"""From this share on a limit is what held the run back."""

NUMBER = re.compile(r"-?[0-9][0-9.,]*|-")

SUMMARY = (
    ("create.rate", "creates a second"),
    ("create.count", "creates"),
    ("create.failures", "creates that failed"),
    ("create.median_ms", "create, median ms"),
    ("create.p95_ms", "create, p95 ms"),
    ("create.p99_ms", "create, p99 ms"),
    ("create.p99_over_median", "create, p99 over median"),
    ("volume.operations_per_create", "operations of the volume a create"),
    ("io.writes_per_create", "write requests of the device a create"),
    ("io.commits_per_create", "commits a create"),
    ("volume.operations_per_second", "operations of the volume a second"),
    ("volume.share_of_cap", "of the cap"),
    ("volume.above_iops_us_per_create", "above the cap of operations, µs a create"),
    ("volume.above_throughput_us_per_create", "above the cap of throughput, µs a create"),
    ("aws.volume_above_iops_us_per_create", "AWS: above the volume's operations, µs a create"),
    ("aws.volume_above_throughput_us_per_create", "AWS: above the volume's throughput, µs a create"),
    ("aws.instance_above_iops_us_per_create", "AWS: above the instance's operations, µs a create"),
    ("aws.instance_above_throughput_us_per_create", "AWS: above the instance's throughput, µs a create"),
    ("commit.mean_ms", "commit, mean ms"),
    ("backlog.max", "deleted subvolumes waiting, at most"),
    ("cpu.busy", "processor busy"),
)


def write(result: Result, file: Path) -> None:
    """Write the HTML report of a result."""
    title = f"Load test: {result['plan']['shape']}, door {result['plan']['door']}, volume {result['profile']['name']}"
    machine = result["machine"]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">{escape(_settings(result["plan"]))}<br>{machine["cores"]} cores, {escape(machine["processor"])}, '
        f"Linux {escape(machine['kernel'])}, {escape(machine['date'])}; throttle: "
        f"{escape(result.get('throttle', 'not said'))}; quotas: {escape(', '.join(result['quotas']))}</p>",
        _verdict(result["verdict"]),
        limits(result["figures"]),
        _summary(result),
    ]
    if result["errors"]:
        rows = [[escape(text), _number(count)] for text, count in result["errors"].items()]
        parts += ["<h2>What failed</h2>", _table(["", "times"], rows)]
    if "census" in result:
        before, after = result["census"]["before"], result["census"]["after"]
        rows = [[escape(name), _number(before[name]), _number(after[name])] for name in before]
        parts += ["<h2>What is left when everything is deleted</h2>", _table(["", "before", "after"], rows)]
    drawn = plots.plot_all(result)
    figures = (f"<figure><figcaption>{escape(name)}</figcaption>{plots.svg(figure, name)}</figure>" for name, figure in drawn.items())
    parts += ["<h2>Over time</h2>", f'<div class="plots">{"".join(figures)}</div>']
    everything = [[escape(name), _number(value)] for name, value in result["figures"].items()]
    parts.append(f"<details><summary>All figures</summary>{_table(['figure', ''], everything)}</details>")
    file.write_text(_page(title, parts))


def write_comparison(before: Result, after: Result, rows: list[Row], file: Path) -> None:
    """Write a comparison of two results as HTML."""
    names = [f"{result['plan']['shape']}, {result['plan']['door']}, {result['profile']['name']}" for result in (before, after)]
    table = [[escape(row.figure), _number(row.before), _number(row.after), _number(row.ratio)] for row in rows]
    title = "Load tests compared"
    about = f'<p class="about">before: {escape(names[0])}<br>after: {escape(names[1])}</p>'
    file.write_text(_page(title, [f"<h1>{title}</h1>", about, _table(["figure", "before", "after", "ratio"], table)]))


def _page(title: str, parts: list[str]) -> str:
    # The icon is there so that a browser asks nobody for one.
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'{meta}<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _settings(plan: dict[str, Any]) -> str:
    limit = f"limit {plan['limit'] // plots.MIB} MiB" if plan["limit"] else "no limit"
    clean = ", clean in the background" if plan["parallel_clean"] else ""
    rate = f", {plan['rate']:g} arrivals a second" if plan.get("rate") else ""
    push = f", a push every {plan['push_every']:g} s" if plan["push_every"] else ""
    rush = f"{plan['images']} creates, " if plan["shape"] in ("storm", "evacuation") else ""
    return f"{rush}concurrency {plan['concurrency']}, {plan['apps']} apps (Zipf {plan['zipf']:g}), {limit}{rate}{clean}{push}"


def _verdict(verdict: list[dict[str, Any]]) -> str:
    kept = all(entry["passed"] for entry in verdict)
    rows = []
    for entry in verdict:
        bound = f"{'at most' if entry['bound'] == 'at_most' else 'at least'} {_number(entry['value'])}"
        measured = "not measured" if entry["measured"] is None else _number(entry["measured"])
        rows.append([_mark(entry["passed"]), escape(entry["figure"]), bound, measured, escape(entry["why"])])
    word = f'<p class="verdict">{_mark(kept, "All objectives kept", "Not all objectives kept")}</p>'
    return f"<h2>Verdict</h2>{word}{_table(['', 'figure', 'objective', 'measured', ''], rows)}"


def limits(figures: dict[str, float | None]) -> str:
    """The three limits that were nearest, and what to choose because of it."""
    near = sorted(((figures.get(name) or 0.0, text, cure) for name, text, cure in LIMITS), reverse=True)[:3]
    rows = [[f"{share:.0%}", f"of the time {text}"] for share, text, _ in near]
    share, _, cure = near[0]
    choose = cure if share >= HIT else "nothing: neither the processor nor the volume was used up"
    return f"<h2>What held it back</h2>{_table(['', ''], rows)}<p>What to choose: <strong>{escape(choose)}</strong>.</p>"


def _mark(good: bool, yes: str = "pass", no: str = "FAIL") -> str:
    return f'<span class="{"pass" if good else "fail"}">{yes if good else no}</span>'


def _summary(result: Result) -> str:
    runs = {result["plan"]["door"]: result["figures"], **{door: other["figures"] for door, other in result.get("beside", {}).items()}}
    asked = [(name, label) for name, label in SUMMARY if any(figures.get(name) is not None for figures in runs.values())]
    rows = [[label, *(_number(figures.get(name)) for figures in runs.values())] for name, label in asked]
    return f"<h2>Figures</h2>{_table(['', *runs], rows)}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    return f'<td class="number">{text}</td>' if NUMBER.fullmatch(text) else f"<td>{text}</td>"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def text(result: Result, out: Path) -> str:
    """A result for the terminal."""
    figures = result["figures"]
    lines = [f"{label:50}{_number(figures[name]):>12}" for name, label in SUMMARY if figures.get(name) is not None]
    for door, other in result.get("beside", {}).items():
        lines.append(f"{f'creates a second, {door}':50}{_number(other['figures']['create.rate']):>12}")
    lines.append("")
    for entry in result["verdict"]:
        bound = f"{entry['bound'].replace('_', ' ')} {_number(entry['value'])}"
        lines.append(f"{'pass' if entry['passed'] else 'FAIL'}  {entry['figure']} {bound}: {_number(entry['measured'])}")
    lines += [f"{count} x {what}" for what, count in result["errors"].items()]
    return "\n".join([*lines, "", f"report: {out / 'report.html'}"])


def comparison_text(rows: list[Row]) -> str:
    """A comparison for the terminal."""
    head = f"{'figure':40}{'before':>14}{'after':>14}{'ratio':>10}"
    return "\n".join([head, *(f"{row.figure:40}{_number(row.before):>14}{_number(row.after):>14}{_number(row.ratio):>10}" for row in rows)])
