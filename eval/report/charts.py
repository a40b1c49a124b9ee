"""Charts as inline SVG whose ink follows the theme of the page."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from llamaindex_code_retrieval.eval.metrics import mean_reciprocal_rank, reciprocal_rank
from llamaindex_code_retrieval.eval.report.tables import R, by_task
from llamaindex_code_retrieval.eval.report.text import html_text
from llamaindex_code_retrieval.eval.results import Report, RetrievalResult
from llamaindex_code_retrieval.eval.significance import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # drawn in this colour, then replaced by currentColor: axes and text follow the theme of the page
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)  # Okabe-Ito without its yellow
_MARKERS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼"}  # with 7 colours: 35 pairs before one repeats
_LENGTHS = {"1-3 words": 3, "4-6 words": 6, "7-10 words": 10, "11+ words": 10**9}
"""Name of a group of queries -> most words of a query in it."""
_DEPTHS = (1, 2, 5, 10, 20, 50, 100)

Styles = Mapping[str, tuple[str, str]]
"""System -> colour and marker, the same in all charts."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its caption."""

    caption: str
    draw: Callable[[Axes], None]
    height: float
    """Inches; all charts are equally wide."""


def styles_of(results: Sequence[R]) -> Styles:
    """Return a colour and a marker for each system, in the order of the results."""
    systems = dict.fromkeys(result.system for result in results)
    markers = list(_MARKERS)
    return {system: (_COLOURS[i % len(_COLOURS)], markers[i % len(markers)]) for i, system in enumerate(systems)}


def chart_section(task: str, number: int, charts: Sequence[Chart], results: Sequence[R], styles: Styles) -> str:
    """Return the charts of a task below a legend of its systems; ``number`` makes the ids of each task unique."""
    systems = [system for system in styles if any(result.system == system for result in results)]
    legend = "".join(
        f'<li><span style="color: {styles[system][0]}">{_MARKERS[styles[system][1]]}</span> {html_text(system)}</li>'
        for system in systems
    ).replace(INK, "inherit")
    figures = "\n".join(
        f"<figure><figcaption>{html_text(chart.caption)}</figcaption>\n"
        f"{_svg(chart, prefix=f't{number}c{i}-', label=f'{task}: {chart.caption}')}</figure>"
        for i, chart in enumerate(charts)
    )
    return (
        f'<section><h3>{html_text(task)}</h3>\n<ul class="legend">{legend}</ul>\n'
        f'<div class="charts">\n{figures}\n</div></section>'
    )


def _svg(chart: Chart, *, prefix: str, label: str) -> str:
    """Return a chart as inline SVG whose ids begin with ``prefix``."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    settings: dict[Any, Any] = {
        **dict.fromkeys(inked, INK),
        **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.15},
        **{"svg.fonttype": "none", "svg.hashsalt": prefix, "text.parse_math": False, "font.size": 9},
    }
    with rc_context(settings):
        canvas = Figure(figsize=(5.6, chart.height), layout="constrained")
        chart.draw(canvas.add_subplot())
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    # matplotlib's <style> would apply to the whole page, and metadata and namespaces contain addresses.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| xmlns(:\w+)?=\"[^\"]*\"", "", svg, flags=re.S)
    svg = re.sub(r'( id="| (?:xlink:)?href="#|url\(#)', lambda match: match[0].replace("xlink:", "") + prefix, svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", svg).replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html_text(label)}"', 1).strip()


def set_milliseconds(axes: Axes, times: Sequence[float]) -> None:
    """Make x a logarithmic axis of milliseconds around ``times``."""
    low, high = min(times) / 2, max(times) * 2
    axes.set(xscale="log", xlim=(low, high), xlabel="median milliseconds of a query")
    ticks = [n * 10.0**e for e in range(-4, 8) for n in (1, 2, 5) if low <= n * 10.0**e <= high]
    axes.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    axes.minorticks_off()


# --- retrieval -------------------------------------------------------------------------------------------------------


def retrieval_charts(report: Report, baseline: Report | None) -> list[str]:
    """Return the charts of each task; with a ``baseline`` also those of the ranks then and now."""
    styles = styles_of(report.retrieval)
    ranks_before = {} if baseline is None else {(each.system, each.task): each.ranks for each in baseline.retrieval}
    blocks = []
    for number, (task, group) in enumerate(groupby(by_task(report.retrieval), key=lambda result: result.task)):
        results = list(group)
        charts = list(_charts(results, styles, ranks_before))
        blocks.append(chart_section(task, number, charts, results, styles))
    return blocks


def _charts(
    results: Sequence[RetrievalResult],
    styles: Styles,
    ranks_before: Mapping[tuple[str, str], Mapping[str, int | None]],
) -> Iterator[Chart]:
    caption = "Share of queries with a relevant code in the first k"
    yield Chart(caption, partial(_draw_found_share, results, styles), 3.4)
    timed = [result for result in results if "p50" in result.milliseconds.get("total", {})]
    if timed:
        yield Chart("MRR against the median time of a query", partial(_draw_latency, timed, styles), 3.4)
    lengths = _grouped(results, _length)
    yield _bar_chart("words in the query", {name: lengths[name] for name in _LENGTHS if name in lengths}, styles)
    if any(result.languages for result in results):
        languages = _grouped(results, lambda result, query: result.languages.get(query, "unknown"))
        yield _bar_chart("language", languages, styles)
    if any(result.by_category() for result in results):
        yield _bar_chart("category", _grouped(results, lambda result, query: result.categories[query]), styles)
    for result in results:
        before = ranks_before.get((result.system, result.task), {})
        if before.keys() == result.ranks.keys() and before != result.ranks:
            caption = f"{result.system}: rank of the first relevant code, above the line worse than in the baseline"
            yield Chart(caption, partial(_draw_ranks, before, result, styles), 3.8)


def _draw_found_share(results: Sequence[RetrievalResult], styles: Styles, axes: Axes) -> None:
    last = min(100, max(result.depth for result in results))
    for result in results:
        ranks = np.array([rank or np.inf for rank in result.ranks.values()])
        depths = np.arange(1, min(last, result.depth) + 1)
        colour, marker = styles[result.system]
        shares = (ranks[:, None] <= depths).mean(axis=0)
        marked = [k - 1 for k in _DEPTHS if k <= len(depths)]
        axes.plot(depths, shares, color=colour, marker=marker, markevery=marked, markersize=5)
    axes.set(xscale="log", xlim=(0.95, last * 1.05), ylim=(0, 1.02), xlabel="k", ylabel="share of queries")
    ticks = [k for k in _DEPTHS if k <= last]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()


def _draw_latency(results: Sequence[RetrievalResult], styles: Styles, axes: Axes) -> None:
    times = [max(result.milliseconds["total"]["p50"], 0.001) for result in results]
    for result, time in zip(results, times, strict=True):
        colour, marker = styles[result.system]
        mrr = mean_reciprocal_rank(result.ranks.values())
        axes.scatter([time], [mrr], s=60, color=colour, marker=marker, edgecolors=INK, linewidths=0.6)
    set_milliseconds(axes, times)
    axes.set(ylim=(0, 1.02), ylabel="MRR")


def _bar_chart(name: str, groups: Mapping[str, Mapping[str, list[float]]], styles: Styles) -> Chart:
    systems = max(len(by_system) for by_system in groups.values())
    height = 0.9 + len(groups) * (0.25 + 0.14 * systems)
    caption = f"MRR by {name}, with 95 % bootstrap intervals; n: queries"
    return Chart(caption, partial(_draw_bars, groups, styles), height)


def _draw_bars(groups: Mapping[str, Mapping[str, list[float]]], styles: Styles, axes: Axes) -> None:
    for place, by_system in enumerate(groups.values()):
        step = 0.84 / len(by_system)
        for i, (system, values) in enumerate(by_system.items()):
            (colour, marker), mean, (low, high) = styles[system], fmean(values), interval(values)
            y = place - 0.42 + (i + 0.5) * step
            axes.barh(y, mean, height=step * 0.85, color=colour, alpha=0.75)
            error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            axes.errorbar(mean, y, xerr=error, fmt=marker, color=INK, markersize=3, linewidth=1, capsize=2)
    names = [f"{name} (n={len(next(iter(by_system.values()))):,})" for name, by_system in groups.items()]
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 1.02), ylim=(len(names) - 0.45, -0.55), xlabel="MRR")


def _draw_ranks(before: Mapping[str, int | None], result: RetrievalResult, styles: Styles, axes: Axes) -> None:
    not_found = 4 * result.depth  # well apart from the last rank
    points = Counter((before[query] or not_found, rank or not_found) for query, rank in result.ranks.items())
    sizes = [14 * count**0.5 for count in points.values()]
    x, y = zip(*points, strict=True)
    colour, _ = styles[result.system]
    axes.scatter(x, y, sizes, colour, alpha=0.75, edgecolors=INK, linewidths=0.4, clip_on=False, zorder=3)
    axes.plot([1, result.depth], [1, result.depth], color=INK, linewidth=1)
    for line in (axes.axvline, axes.axhline):
        line(not_found, color=INK, linewidth=0.8, linestyle=":")
    ends, ticks = (0.8, not_found * 1.4), [10**e for e in range(7) if 10**e <= result.depth]
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="rank in the baseline", ylabel="rank now")
    axes.set_xticks([*ticks, not_found], [*map(str, ticks), "not found"])
    axes.set_yticks([*ticks, not_found], [*map(str, ticks), "not found"])
    axes.minorticks_off()


def _grouped(
    results: Sequence[RetrievalResult], group_of: Callable[[RetrievalResult, str], str]
) -> dict[str, dict[str, list[float]]]:
    """Return group -> system -> reciprocal ranks of the group's queries; the group with most queries comes first."""
    groups: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for query, rank in result.ranks.items():
            by_system = groups.setdefault(group_of(result, query), {})
            by_system.setdefault(result.system, []).append(reciprocal_rank(rank))
    return dict(sorted(groups.items(), key=lambda group: (-len(next(iter(group[1].values()))), group[0])))


def _length(result: RetrievalResult, query: str) -> str:
    """Return the name of the group of a query by its number of words."""
    words = len(result.queries[query].split())
    return next(name for name, most in _LENGTHS.items() if words <= most)
