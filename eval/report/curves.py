"""Curves of cascades by K, in Markdown and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.eval.report.charts import Chart, Styles, chart_section, set_milliseconds, styles_of
from llamaindex_code_retrieval.eval.report.page import page, page_head
from llamaindex_code_retrieval.eval.report.tables import (
    MISSING,
    Section,
    Table,
    by_task,
    closing_sections,
    codes_searched,
    figure,
)
from llamaindex_code_retrieval.eval.report.text import markdown_text
from llamaindex_code_retrieval.eval.results import CURVE_METRICS, Curve, CurvePoint, CurveReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RECALLS = tuple(metric for metric in CURVE_METRICS if metric.startswith("R@"))
_K_NOTE = (
    "The reranker orders the first K hits; the others follow in the order of the first stage. The time is that of "
    "reranking alone. Early exit stops scoring when no better hit is expected."
)
_CALIBRATION_NOTE = (
    "Calibration error: the expected calibration error (15 bins) of all pairs scored here, and on the reranker's own "
    "held-out queries when it was calibrated."
)


def curve_markdown(report: CurveReport) -> str:
    """Return the tables of a report of curves."""
    blocks = [f"## Reranked first K hits: {markdown_text(report.suite)}"]
    blocks.append(markdown_text(f"{report.date}, {report.machine}"))
    for section in _sections(report):
        blocks += section.markdown()
    return "\n\n".join(blocks) + "\n"


def curve_html(report: CurveReport) -> str:
    """Return one page with charts and tables of curves; equal reports give equal pages.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_installed("matplotlib", extra="eval", purpose="the HTML report")
    title = f"Reranked first K hits: {report.suite}"
    blocks = page_head(title, report)
    styles = styles_of(report.curves)
    for number, (task, group) in enumerate(groupby(by_task(report.curves), key=lambda curve: curve.task)):
        curves = list(group)
        charts = [
            Chart("MRR by K", partial(_draw_by_k, curves, styles, ("MRR",)), 3.4),
            Chart("Recall by K: R@1 —, R@5 – –, R@10 ···", partial(_draw_by_k, curves, styles, _RECALLS), 3.4),
            Chart(
                "MRR by median milliseconds, labelled by K; hollow: early exit",
                partial(_draw_costs, curves, styles),
                3.4,
            ),
        ]
        blocks.append(chart_section(task, number, charts, curves, styles))
    for section in _sections(report):
        blocks += section.html()
    return page(title, blocks)


def _sections(report: CurveReport) -> list[Section]:
    curves = by_task(report.curves)
    sections = [
        Section("By K", _K_NOTE, _points_table(curves)),
        Section("First stage and reranker", _CALIBRATION_NOTE, _models_table(curves)),
        *closing_sections(report.skipped, report.versions),
    ]
    return [section for section in sections if section.table.rows]


def _points_table(curves: Sequence[Curve]) -> Table:
    rows = []
    for curve in curves:
        for point in curve.points:
            means = (figure(point.metrics, metric) for metric in CURVE_METRICS)
            times = (figure(point.milliseconds, part, ".1f") for part in ("p50", "p95"))
            rows.append((curve.system, curve.task, _label(point), *means, f"{point.pairs:,.1f}", *times))
    columns = ("system", "task", "K", *CURVE_METRICS, "pairs per query", "reranking p50 ms", "p95 ms")
    return Table(columns=columns, rows=rows, words=3)


def _models_table(curves: Sequence[Curve]) -> Table:
    rows = []
    for curve in curves:
        model = f"{curve.reranker} ({curve.precision}, {curve.max_tokens} tokens)"
        errors = (MISSING if error is None else f"{error:.4f}" for error in (curve.error, curve.calibration_error))
        times = (figure(curve.first_stage, part, ".1f") for part in ("p50", "p95"))
        counts = (codes_searched(curve), f"{curve.queries:,}", f"{curve.timed:,}", f"{curve.depth:,}")
        rows.append((curve.system, curve.task, model, *times, *errors, *counts))
    models = ("system", "task", "reranker", "first stage p50 ms", "p95 ms", "calibration error", "when calibrated")
    return Table(columns=(*models, "codes", "queries", "timed", "depth"), rows=rows, words=3)


def _label(point: CurvePoint) -> str:
    if point.early_exit is not None:
        return f"early exit {point.early_exit:g} for the first {point.top_n}, K={point.k}"
    return str(point.k) if point.k else "first stage alone"


def _draw_by_k(curves: Sequence[Curve], styles: Styles, metrics: Sequence[str], axes: Axes) -> None:
    # K=1 changes no order, so it stands for the first stage alone, which has no place on a logarithmic axis.
    ks = sorted({max(point.k, 1) for curve in curves for point in curve.points})
    for curve in curves:
        colour, marker = styles[curve.system]
        points = {max(point.k, 1): point for point in curve.points if point.early_exit is None}
        for metric, line in zip(metrics, ("-", "--", ":"), strict=False):
            values = [point.metrics[metric] for point in points.values()]
            axes.plot(list(points), values, line, color=colour, marker=marker, markersize=5)
    label = metrics[0] if len(metrics) == 1 else "recall"
    axes.set(xscale="log", xlim=(0.93, ks[-1] * 1.07), xlabel="K (1: the first stage alone)", ylabel=label)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()


def _draw_costs(curves: Sequence[Curve], styles: Styles, axes: Axes) -> None:
    all_times = []
    for curve in curves:
        colour, marker = styles[curve.system]
        times = [max(curve.first_stage["p50"] + point.milliseconds["p50"], 0.001) for point in curve.points]
        mrrs = [point.metrics["MRR"] for point in curve.points]
        all_times += times
        by_k = [i for i, point in enumerate(curve.points) if point.early_exit is None]
        axes.plot([times[i] for i in by_k], [mrrs[i] for i in by_k], color=colour, marker=marker, markersize=5)
        for point, time, mrr in zip(curve.points, times, mrrs, strict=True):
            if point.early_exit is None:
                axes.annotate(str(point.k), (time, mrr), xytext=(4, -10), textcoords="offset points", fontsize=7)
            else:
                axes.scatter(time, mrr, s=40, facecolors="none", edgecolors=colour, marker=marker)
    set_milliseconds(axes, all_times)
    axes.set(ylabel="MRR")
