"""The tables that every form of a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from llamaindex_code_retrieval.eval.metrics import METRICS, GenerationMetric
from llamaindex_code_retrieval.eval.report.text import html_text, markdown_text
from llamaindex_code_retrieval.eval.results import (
    ChatResult,
    Comparison,
    Curve,
    GenerationResult,
    Report,
    RetrievalResult,
)
from llamaindex_code_retrieval.eval.significance import interval

R = TypeVar("R", RetrievalResult, GenerationResult, ChatResult, Curve)
MISSING = "–"
VERDICTS = {
    "bad": "▼ regression",
    "unsure": "? inconclusive drop",
    "down": "▼ lower, tolerated",
    "good": "▲ better",
    "equal": "= no clear change",
}
"""CSS class of a comparison's cell -> its text."""

_GENERATION_METRICS: tuple[GenerationMetric, ...] = (
    "rougeL",
    "rougeLsum",
    "rouge1",
    "rouge2",
    "bleu",
    "chrf",
    "exact",
)
_CHAT_ANSWERS = {
    **dict.fromkeys(("rougeL", "rouge1", "rouge2", "valid_citations", "citation_precision", "citation_recall"), 4),
    "answered": 4,
    "grade": 2,
    "context_tokens": 0,
    "first_token_seconds": 2,
    "seconds": 2,
}
_CHAT_PLACES = {f"{prefix}{metric}": 4 for prefix in ("", "file_") for metric in ("hit@1", "hit@5", "hit@10", "MRR")}
"""Metrics of chats in a table, with their digits."""
_GATE_NOTE = (
    "Detectable drop: the smallest one that the gate detects with 80 % power on these queries. A drop is inconclusive "
    "if it exceeds the tolerance but is not significant: there are too few queries to tell it from chance."
)
_WRITER_NOTE = "The writer was shown the right passages (gold), those that the system found (retrieved), or none."
_CHAT_NOTE = (
    "Each mean is over the questions that have the metric. Valid citations: share whose lines were in the prompt. "
    "Citation precision: share that also has a line of a place that answers the question. Citation recall: share of "
    "these places that is cited. Answered: neither empty nor a refusal. Seconds include the search."
)
_FOUND_NOTE = (
    "A hit is right if it has a line of a place that answers the question; in file_ metrics, if it is in the same file."
)
_CATEGORY_NOTE = (
    "Questions about repositories: a target is found by the first hit that is in its file and, where it names lines, "
    "touches them."
)
_PUBLISHED_NOTE = (
    "As published in the named sources; these figures were not measured here, and the protocols may differ."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Plain text in rows, for Markdown and HTML; all columns after the first ``words`` hold numbers."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int

    def markdown(self) -> str:
        """Return the table in Markdown."""
        rule = ("---" if i < self.words else "---:" for i in range(len(self.columns)))
        lines = (self.columns, rule, *(map(markdown_text, row) for row in self.rows))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def html(self) -> str:
        """Return the table in HTML."""
        head = f"<tr>{self._cells('th', self.columns)}</tr>"
        return scrolling_table(head, "".join(f"<tr>{self._cells('td', row)}</tr>\n" for row in self.rows))

    def _cells(self, tag: str, row: Sequence[str]) -> str:
        classes = {verdict: name for name, verdict in VERDICTS.items()}
        return "".join(
            f'<{tag} class="{"number" if i >= self.words else classes.get(cell, "word")}">{html_text(cell)}</{tag}>'
            for i, cell in enumerate(row)
        )


def scrolling_table(head: str, body: str) -> str:
    """Return an HTML table that scrolls sideways if it is wider than the page."""
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody></table></div>'


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its heading and an explanation, which may be empty."""

    title: str
    note: str
    table: Table

    def markdown(self) -> list[str]:
        """Return the blocks of the section."""
        return [f"### {self.title}", *([self.note] if self.note else []), self.table.markdown()]

    def html(self) -> list[str]:
        """Return the blocks of the section."""
        return [f"<h2>{self.title}</h2>", *([f"<p>{self.note}</p>"] if self.note else []), self.table.html()]


def report_sections(report: Report, comparisons: Sequence[Comparison], *, intervals: bool) -> list[Section]:
    """Return the sections of a report that are not empty.

    With ``intervals`` the means of generation and of categories have theirs.
    """
    figures = [(each.system, each.task, each.metric, each.source, f"{each.value:g}") for each in report.published]
    published = Table(columns=("system", "task", "metric", "published in", "value"), rows=figures, words=4)
    sections = [
        Section("Against the baseline", _GATE_NOTE, _comparisons(comparisons)),
        Section("Retrieval", "", _retrieval(report)),
        Section("Questions by category", _CATEGORY_NOTE, _by_category(report, intervals=intervals)),
        Section("Generation", _WRITER_NOTE, _generation(report, intervals=intervals)),
        Section("Chat", _CHAT_NOTE, _chat(report, _CHAT_ANSWERS, intervals=intervals)),
        Section("Chat: places found", _FOUND_NOTE, _chat(report, _CHAT_PLACES, intervals=intervals)),
        Section("Published figures", _PUBLISHED_NOTE, published),
        *closing_sections(report.skipped, report.versions),
    ]
    return [section for section in sections if section.table.rows]


def closing_sections(skipped: Mapping[str, str], versions: Mapping[str, str]) -> list[Section]:
    """Return the sections at the end of every kind of report."""
    return [
        Section("Skipped", "", Table(columns=("skipped", "reason"), rows=list(skipped.items()), words=2)),
        Section("Versions", "", Table(columns=("package", "version"), rows=list(versions.items()), words=2)),
    ]


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Return in one line how many comparisons are regressions or inconclusive."""
    worse = sum(each.regression for each in comparisons)
    regressions = f"{worse or 'no'} regression{'s' * (worse > 1)}"
    text = f"{'▼' if worse else '✓'} {regressions} in {len(comparisons)} comparison{'s' * (len(comparisons) > 1)}"
    unsure = sum(each.inconclusive for each in comparisons)
    return f"{text}, {unsure} inconclusive (too few queries)" if unsure else text


def _comparisons(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for each in sorted(comparisons, key=lambda each: (not each.regression, not each.inconclusive)):
        change = "good" if each.low > 0 else "down" if each.high < 0 else "equal"
        result = VERDICTS["bad" if each.regression else "unsure" if each.inconclusive else change]
        means = (f"{each.before:.4f}", f"{each.after:.4f}", f"{each.difference:+.4f}")
        between = f"{each.low:+.4f} to {each.high:+.4f}"
        drop = MISSING if each.detectable is None else f"{each.detectable:.4f}"
        test = (f"{each.p_worse:.4f}", drop, f"{each.queries:,}")
        rows.append((result, each.system, each.task, each.metric, *means, between, *test))
    figures = ("before", "after", "difference", "95 % interval", "p (corrected)", "detectable drop", "queries")
    return Table(columns=("result", "system", "task", "metric", *figures), rows=rows, words=4)


def _retrieval(report: Report) -> Table:
    results = by_task(report.retrieval)
    metrics = in_order([result.means for result in results], METRICS)
    rows = []
    for result in results:
        means, time = result.means, result.milliseconds.get("total", {})
        counts = (codes_searched(result), f"{len(result.queries):,}", figure(time, "p50", ".1f"))
        collapsed_mrr = figure(result.collapsed, "MRR")
        cells = (*(figure(means, metric) for metric in metrics), collapsed_mrr, *counts, figure(time, "p95", ".1f"))
        rows.append((result.system, result.task, *cells))
    columns = ("system", "task", *metrics, "MRR, equal codes once", "codes", "queries", "p50 ms", "p95 ms")
    return Table(columns=columns, rows=rows, words=2)


def _by_category(report: Report, *, intervals: bool) -> Table:
    results = by_task(report.retrieval)
    parts = [(result, category, part) for result in results for category, part in result.by_category().items()]
    metrics = in_order([part.values for _, _, part in parts], METRICS)
    rows = []
    for result, category, part in parts:
        means = (_mean(list(part.values.get(metric, {}).values()), intervals=intervals) for metric in metrics)
        rows.append((result.system, result.task, category, *means, f"{len(part.queries):,}"))
    return Table(columns=("system", "task", "category", *metrics, "questions"), rows=rows, words=3)


def collapsed_table(report: Report) -> Table:
    """Return the means if equal codes count as one, of the results on benchmarks of codes."""
    results = [result for result in by_task(report.retrieval) if result.collapsed]
    metrics = in_order([result.collapsed for result in results], METRICS)
    rows = [
        (result.system, result.task, *(figure(result.collapsed, each) for each in metrics), f"{result.duplicates:,}")
        for result in results
    ]
    return Table(columns=("system", "task", *metrics, "codes that equal another"), rows=rows, words=2)


def _generation(report: Report, *, intervals: bool) -> Table:
    results = by_task(report.generation)
    metrics = generation_metrics(results)
    rows = []
    for each in results:
        means = (_mean(list(each.values.get(metric, {}).values()), intervals=intervals) for metric in metrics)
        counts = (f"{len(each.answers):,}", f"{each.failed:,}")
        rows.append((each.task, each.condition, each.system or MISSING, each.writer, *means, *counts))
    columns = ("task", "passages", "system", "writer", *metrics, "questions", "failed")
    return Table(columns=columns, rows=rows, words=4)


def _chat(report: Report, digits: Mapping[str, int], *, intervals: bool) -> Table:
    """Return the results of chats that have a metric of ``digits``."""
    results = [result for result in by_task(report.chat) if not digits.keys().isdisjoint(result.values)]
    metrics = [metric for metric in digits if any(metric in result.values for result in results)]
    rows = []
    for each in results:
        means = (
            _mean(list(each.values.get(metric, {}).values()), intervals=intervals, digits=digits[metric])
            for metric in metrics
        )
        counts = (f"{len(each.answers):,}", f"{each.failed:,}")
        rows.append((each.task, each.condition, each.system or MISSING, each.llm, *means, *counts))
    columns = ("task", "passages", "system", "llm", *metrics, "questions", "failed")
    return Table(columns=columns, rows=rows, words=4)


def _mean(values: Sequence[float], *, intervals: bool, digits: int = 4) -> str:
    if not values:
        return MISSING
    low, high = interval(values) if intervals else (0.0, 0.0)
    between = f" ({low:.{digits}f} to {high:.{digits}f})" if intervals else ""
    return f"{fmean(values):.{digits}f}{between}"


def by_task(results: Sequence[R]) -> list[R]:
    """Return the results with those of one task together, tasks in the order of their first result."""
    tasks = list(dict.fromkeys(result.task for result in results))
    return sorted(results, key=lambda result: tasks.index(result.task))


def in_order(names: Iterable[Iterable[str]], order: Sequence[str]) -> list[str]:
    """Return each name once: those in ``order`` first and in that order, then the others as they come."""
    unique = dict.fromkeys(name for each in names for name in each)
    return sorted(unique, key=lambda name: order.index(name) if name in order else len(order))


def generation_metrics(results: Sequence[GenerationResult]) -> list[str]:
    """Return the metrics of ``results``, the most important first."""
    return in_order([result.values for result in results], _GENERATION_METRICS)


def codes_searched(result: RetrievalResult | Curve) -> str:
    """Return the number of codes, and the pools if they were divided into such."""
    return f"{result.codes:,}" + ("" if result.protocol == "whole" else f" in {result.protocol}")


def figure(values: Mapping[str, float], name: str, form: str = ".4f") -> str:
    """Return a value as text, or a dash if there is none."""
    return format(values[name], form) if name in values else MISSING
