"""A report for reading: Markdown for a pull request, JUnit XML for CI, one HTML page for a browser. No torch here.

Nothing is measured here. All three show the same tables; the HTML adds charts, rank changes and examples, and loads
nothing from anywhere. Curves of a cascade are shown likewise, in Markdown and HTML.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree import ElementTree

import numpy as np

from llamaindex_code_retrieval.eval.gate import describe
from llamaindex_code_retrieval.eval.metrics import mean_reciprocal_rank, reciprocal_rank
from llamaindex_code_retrieval.eval.results import Change, Comparison, GenerationResult, Report, RetrievalResult
from llamaindex_code_retrieval.eval.significance import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llamaindex_code_retrieval.eval.results import Curve, CurvePoint, CurveReport

R = TypeVar("R", RetrievalResult, GenerationResult, "Curve")
_METRICS = ("MRR", "MRR@10", "R@1", "R@5", "R@10", "R@100", "nDCG@10", "MAP")  # what comes first, and in which order
_GENERATION_METRICS = ("rougeL", "rougeLsum", "rouge1", "rouge2", "bleu", "chrf", "exact")
_LINES = 20  # of a code or an answer that are shown
_CHANGES = 20
_EXAMPLES = 6
_WRITERS = "The writer was shown the right passages (gold), those that the system found (retrieved), or none."
_PUBLISHED = "As published in the sources named; never measured here, and not always by the same protocol."
_GATE_NOTE = (
    "Detectable drop: the smallest one that the gate detects with 80 % power on these queries. A drop is inconclusive "
    "if it exceeds the tolerance and is not significant: there are too few queries to tell it from chance."
)
_K_NOTE = (
    "The first K hits as the reranker orders them, the rest behind them as the first stage does; the time is that of "
    "reranking alone. Early exit stops scoring where no better hit is expected."
)
_CALIBRATION_NOTE = "Expected calibration error (15 bins) of all pairs scored here, and of those it was calibrated by."
_MISSING = "–"
_WORDS = {"1-3 words": 3, "4-6 words": 6, "7-10 words": 10, "11+ words": 10**9}  # of a query, at most
_RECALLS = ("R@1", "R@5", "R@10")
_DEPTHS = (1, 2, 5, 10, 20, 50, 100)
_INK = "#010203"  # drawn in this, then turned into currentColor: axes and text follow the page's theme
_RESULTS = {
    "bad": "▼ regression",
    "unsure": "? inconclusive drop",
    "down": "▼ lower, tolerated",
    "good": "▲ better",
    "equal": "= no clear change",
}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", _INK)  # Okabe-Ito, but for its yellow
_MARKERS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼"}  # five and seven: 35 looks before one repeats

_Looks = Mapping[str, tuple[str, str]]
"""System -> colour and marker, in all charts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Plain text, for Markdown and HTML alike; all columns but the first ``words`` are numbers."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int

    def markdown(self) -> str:
        rule = ("---" if i < self.words else "---:" for i in range(len(self.columns)))
        lines = (self.columns, rule, *(map(_markdown, row) for row in self.rows))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def html(self) -> str:
        kinds = {name: kind for kind, name in _RESULTS.items()}
        head, *body = (
            "".join(
                f'<{tag} class="{"number" if i >= self.words else kinds.get(cell, "word")}">{_text(cell)}</{tag}>'
                for i, cell in enumerate(row)
            )
            for tag, row in (("th", self.columns), *(("td", row) for row in self.rows))
        )
        return _boxed(f"<tr>{head}</tr>", "".join(f"<tr>{row}</tr>\n" for row in body))


def markdown(report: Report, comparisons: Sequence[Comparison] = ()) -> str:
    """Return the tables of a report for a pull request comment, the verdict first where there are comparisons."""
    verdict = [f"**{_verdict(comparisons)}**"] if comparisons else []
    parts = [f"## Code retrieval: {_markdown(report.suite)}", *verdict, _markdown(f"{report.date}, {report.machine}")]
    for title, (note, table) in _sections(report, comparisons, intervals=False).items():
        parts += [f"### {title}", *filter(None, [note]), table.markdown()]
    return "\n\n".join(parts) + "\n"


def junit(report: Report, comparisons: Sequence[Comparison] = ()) -> str:
    """Return JUnit XML: a test per comparison, or per mean where there are none; what was skipped is a skipped test."""
    cases: list[tuple[str, str, str, str]] = []  # where, name, element, text
    for each in comparisons:
        text = describe(each) if each.regression or each.inconclusive else f"{each.before:.4f} -> {each.after:.4f}"
        kind = "failure" if each.regression else "system-out"
        cases.append((f"{each.system} / {each.task}", each.metric, kind, text))
    results: list[RetrievalResult | GenerationResult] = [*report.retrieval, *report.generation]
    for result in [] if comparisons else results:
        asked = "" if isinstance(result, RetrievalResult) else f" ({result.condition})"
        where = f"{result.system} / {result.task}{asked}".removeprefix(" / ")
        cases += [(where, metric, "system-out", f"{value:.4f}") for metric, value in result.means.items()]
    cases += [(report.suite, what, "skipped", why) for what, why in report.skipped.items()]
    kinds = Counter(kind for _, _, kind, _ in cases)
    counts = {"tests": len(cases), "failures": kinds["failure"], "errors": 0, "skipped": kinds["skipped"]}
    facts = {**{name: str(count) for name, count in counts.items()}, "time": f"{report.seconds:.1f}"}
    root = ElementTree.Element("testsuites", facts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(report.suite), "timestamp": report.date, **facts})
    for where, name, kind, text in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(where), name=_clean(name))
        message = {} if kind == "system-out" else {"message": _clean(text).partition("\n")[0]}
        ElementTree.SubElement(case, kind, message).text = _clean(text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _markdown(text: str) -> str:
    escaped = _clean(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())


def _clean(text: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def _sections(report: Report, comparisons: Sequence[Comparison], *, intervals: bool) -> dict[str, tuple[str, _Table]]:
    """Return title -> note and table, of all that there is something of."""
    figures = [(each.system, each.task, each.metric, each.source, f"{each.value:g}") for each in report.published]
    published = _Table(columns=("system", "task", "metric", "published in", "value"), rows=figures, words=4)
    sections = {
        "Against the baseline": (_GATE_NOTE, _compared(comparisons)),
        "Retrieval": ("", _retrieval(report)),
        "Generation": (_WRITERS, _generation(report, intervals=intervals)),
        "Published figures": (_PUBLISHED, published),
        "Skipped": ("", _Table(columns=("skipped", "why"), rows=list(report.skipped.items()), words=2)),
        "Versions": ("", _Table(columns=("package", "version"), rows=list(report.versions.items()), words=2)),
    }
    return {title: (note, table) for title, (note, table) in sections.items() if table.rows}


def _verdict(comparisons: Sequence[Comparison]) -> str:
    worse = sum(each.regression for each in comparisons)
    what = f"{worse or 'no'} regression{'s' * (worse > 1)}"
    verdict = f"{'▼' if worse else '✓'} {what} in {len(comparisons)} comparison{'s' * (len(comparisons) > 1)}"
    unsure = sum(each.inconclusive for each in comparisons)
    return f"{verdict}, {unsure} inconclusive (too few queries)" if unsure else verdict


def _compared(comparisons: Sequence[Comparison]) -> _Table:
    rows = []
    for each in sorted(comparisons, key=lambda each: (not each.regression, not each.inconclusive)):
        sure = "good" if each.low > 0 else "down" if each.high < 0 else "equal"
        figures = (f"{each.before:.4f}", f"{each.after:.4f}", f"{each.difference:+.4f}")
        between = f"{each.low:+.4f} to {each.high:+.4f}"
        result = _RESULTS["bad" if each.regression else "unsure" if each.inconclusive else sure]
        test = (f"{each.p_worse:.4f}", _MISSING if each.detectable is None else f"{each.detectable:.4f}")
        rows.append((result, each.system, each.task, each.metric, *figures, between, *test, f"{each.queries:,}"))
    names = ("before", "after", "difference", "95 % interval", "p (corrected)", "detectable drop", "queries")
    columns = ("result", "system", "task", "metric", *names)
    return _Table(columns=columns, rows=rows, words=4)


def _retrieval(report: Report) -> _Table:
    results = _by_task(report.retrieval)
    means = [result.means for result in results]
    metrics = _present(means, _METRICS)
    rows = []
    for result, mean in zip(results, means, strict=True):
        once, time = _figure(result.collapsed, "MRR"), result.milliseconds.get("total", {})
        codes = f"{result.codes:,}" + ("" if result.protocol == "whole" else f" in {result.protocol}")
        counts = (codes, f"{len(result.queries):,}", _figure(time, "p50", ".1f"), _figure(time, "p95", ".1f"))
        rows.append((result.system, result.task, *(_figure(mean, metric) for metric in metrics), once, *counts))
    columns = ("system", "task", *metrics, "MRR, equal codes once", "codes", "queries", "p50 ms", "p95 ms")
    return _Table(columns=columns, rows=rows, words=2)


def _collapsed(report: Report) -> _Table:
    results = _by_task(report.retrieval)
    metrics = _present([result.collapsed for result in results], _METRICS)
    rows = [
        (result.system, result.task, *(_figure(result.collapsed, each) for each in metrics), f"{result.duplicates:,}")
        for result in results
    ]
    return _Table(columns=("system", "task", *metrics, "codes that equal another"), rows=rows, words=2)


def _generation(report: Report, *, intervals: bool) -> _Table:
    """Return the means of each condition, with their 95 % bootstrap intervals if asked."""
    results = _by_task(report.generation)
    metrics = _present([result.values for result in results], _GENERATION_METRICS)

    def figure(values: Sequence[float]) -> str:
        between = " ({:.4f} to {:.4f})".format(*interval(values)) if values and intervals else ""
        return f"{fmean(values):.4f}{between}" if values else _MISSING

    rows = []
    for each in results:
        means = (figure(list(each.values.get(metric, {}).values())) for metric in metrics)
        counts = (f"{len(each.answers):,}", f"{each.failed:,}")
        rows.append((each.task, each.condition, each.system or _MISSING, each.writer, *means, *counts))
    columns = ("task", "passages", "system", "writer", *metrics, "questions", "failed")
    return _Table(columns=columns, rows=rows, words=4)


def _by_task(results: Sequence[R]) -> list[R]:
    tasks = list(dict.fromkeys(result.task for result in results))
    return sorted(results, key=lambda result: tasks.index(result.task))


def _present(found: Iterable[Iterable[str]], order: Sequence[str]) -> list[str]:
    names = dict.fromkeys(name for each in found for name in each)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _figure(values: Mapping[str, float], name: str, form: str = ".4f") -> str:
    return format(values[name], form) if name in values else _MISSING


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --box: #f6f8fa;
  --bad: #a40e26; --bad-box: #ffebe9; --good: #116329; --good-box: #dafbe1; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181d; --ink: #e3e8ee; --soft: #a0a9b4; --line: #3a424c;
  --box: #1e2329; --bad: #ff9a9a; --bad-box: #40191c; --good: #7ee2a0; --good-box: #12331f; } }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3, h4 { line-height: 1.25; margin: 1.6em 0 .5em; } h1 { margin-top: .3em; } h4 { margin: .2em 0; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .2em; } .soft { color: var(--soft); }
.bad { background: var(--bad-box); color: var(--bad); font-weight: 600; } .down, .unsure { color: var(--bad); }
.good { background: var(--good-box); color: var(--good); font-weight: 600; }
.verdict { border-left: .4rem solid; padding: .6rem 1rem; font-weight: 600; }
.scroll { overflow-x: auto; border: 1px solid var(--line); margin: .6rem 0; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--box); } .number { text-align: right; font-variant-numeric: tabular-nums; }
td.number, .bad, .good, .down, .unsure, .equal { white-space: nowrap; } .word { min-width: 4.5rem; }
.query { min-width: 14rem; overflow-wrap: anywhere; }
.charts, .sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem; }
.sides { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); } .sides > div { min-width: 0; }
figure { margin: 0; min-width: 0; } figcaption, .legend { font-size: .875rem; }
svg { display: block; max-width: 100%; height: auto; } svg * { stroke-linejoin: round; }
.legend { position: sticky; top: 0; background: var(--paper); padding: .3rem 0; list-style: none; margin: 0;
  display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
details { margin: .4rem 0; } summary { cursor: pointer; } td details { margin: 0; } td pre { width: min(32rem, 75vw); }
pre { background: var(--box); border: 1px solid var(--line); padding: .5rem; margin: .3rem 0; font-size: .8125rem;
  max-height: 24rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def html(
    report: Report,
    comparisons: Sequence[Comparison] = (),
    codes: Mapping[str, Mapping[str, str]] | None = None,
    baseline: Report | None = None,
) -> str:
    """Return one page that holds all of a report and loads nothing; the same values give the same page.

    ``codes`` (task -> corpus id -> source text) shows what is ranked first now, ``baseline`` draws old against new
    ranks.

    Raises:
        ImportError: matplotlib is not installed.
    """
    title = _text(f"Code retrieval: {report.suite}")
    kind = "bad" if any(each.regression for each in comparisons) else "good"
    verdict = f'<p class="verdict {kind}">{_verdict(comparisons)}</p>'
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{_text(report.date)} · {_text(report.machine)} · {report.seconds:,.0f} s</p>',
        verdict if comparisons else '<p class="verdict">Compared with no baseline</p>',
    ]
    more = {
        "Against the baseline": lambda: _changed_queries(comparisons, codes or {}),
        "Retrieval": lambda: ["<h3>Equal codes once</h3>", _collapsed(report).html(), *_charts(report, baseline)],
        "Generation": lambda: _examples(report.generation),
    }
    for heading, (note, table) in _sections(report, comparisons, intervals=True).items():
        parts += [f"<h2>{heading}</h2>", *([f"<p>{note}</p>"] if note else []), table.html()]
        parts += more.get(heading, list)()
    return _page(title, parts)


def _page(title: str, parts: Sequence[str]) -> str:
    # By this policy no script runs and nothing loads, whatever a query or a code holds.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        "<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(_clean(text))


def _boxed(head: str, body: str) -> str:
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody></table></div>'


def _changed_queries(comparisons: Sequence[Comparison], codes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a table per system and task; their comparisons all hold the same changes."""
    once = {(each.system, each.task): each for each in reversed(comparisons) if each.changed}
    parts = ["<h3>Queries that changed most</h3>"] if once else []
    columns = '<th>query</th><th class="number">rank before</th><th class="number">now</th><th>ranked first now</th>'
    for (system, task), each in reversed(once.items()):
        worse = sum(change.gain < 0 for change in each.changed)
        counts = f"{len(each.changed) - worse:,} better, {worse:,} worse"
        lost = any(one.regression for one in comparisons if (one.system, one.task) == (system, task))
        opened = " open" if lost or len(once) == 1 else ""
        rows = "".join(_changed_row(change, codes.get(task, {})) for change in each.changed[:_CHANGES])
        parts.append(
            f"<details{opened}><summary>{_text(f'{system} / {task}')}: {counts}</summary>\n"
            f"{_boxed(f'<tr>{columns}</tr>', rows)}</details>"
        )
    return parts


def _changed_row(change: Change, codes: Mapping[str, str]) -> str:
    was, now = ("not found" if rank is None else str(rank) for rank in (change.before, change.after))
    first = "nothing" if change.first is None else _text(change.first) + (" (relevant)" if change.after == 1 else "")
    if change.first is not None and change.first in codes:
        first = f"<details><summary>{first}</summary>{_code(codes[change.first])}</details>"
    return (
        f'<tr><td class="query">{_text(change.text)}</td><td class="number">{was}</td>'
        f'<td class="number">{"▼" if change.gain < 0 else "▲"} {now}</td><td class="query">{first}</td></tr>\n'
    )


def _code(text: str) -> str:
    lines = text.splitlines()
    more = f"\n… {len(lines) - _LINES:,} more lines" if len(lines) > _LINES else ""
    return f"<pre>{_text(chr(10).join(lines[:_LINES]) + more)}</pre>"


def _examples(generation: Sequence[GenerationResult]) -> list[str]:
    """Return some questions of each task, evenly spread, with their answers side by side."""
    parts = []
    for task, group in groupby(_by_task(generation), key=lambda result: result.task):
        results = list(group)
        questions = results[0].answers
        parts.append(f"<h3>Examples: {_text(task)}</h3>")
        for id_ in list(questions)[:: -(-len(questions) // _EXAMPLES)]:
            sides = "".join(_side(each, id_) for each in results if id_ in each.answers)
            sides = f"<div><h4>Reference</h4>{_code(questions[id_].reference)}</div>{sides}"
            summary = f"<summary>{_text(questions[id_].question)}</summary>"
            parts.append(f'<details>{summary}\n<div class="sides">{sides}</div></details>')
    return parts


def _side(result: GenerationResult, id_: str) -> str:
    answer = result.answers[id_]
    name = " by ".join(filter(None, (result.condition.capitalize(), result.system)))
    metric = next(iter(_present([result.values], _GENERATION_METRICS)), "")
    value = f", {metric} {result.values[metric][id_]:.2f}" if metric else ""
    text = f"No answer: {answer.error}" if answer.error else answer.answer
    return f"<div><h4>{_text(name + value)}</h4>{_code(text)}</div>"


def _charts(report: Report, baseline: Report | None) -> list[str]:
    looks = _looks(report.retrieval)
    were = {} if baseline is None else {(each.system, each.task): each.ranks for each in baseline.retrieval}
    parts = []
    for place, (task, group) in enumerate(groupby(_by_task(report.retrieval), key=lambda result: result.task)):
        results = list(group)
        drawn: list[tuple[str, Callable[[Axes], None], float]] = [
            ("Share of queries with a relevant code in the first k", partial(_draw_found, results, looks), 3.4)
        ]
        timed = [result for result in results if "p50" in result.milliseconds.get("total", {})]
        if timed:
            drawn.append(("MRR against the median time of a query", partial(_draw_latency, timed, looks), 3.4))
        lengths = _grouped(results, _words)
        grouped = {"words in the query": {name: lengths[name] for name in _WORDS if name in lengths}}
        if any(result.languages for result in results):
            grouped["language"] = _grouped(results, lambda result, query: result.languages.get(query, "not known"))
        for what, groups in grouped.items():
            height = 0.9 + len(groups) * (0.25 + 0.14 * len(results))
            caption = f"MRR by {what}, with 95 % bootstrap intervals; n: queries"
            drawn.append((caption, partial(_draw_bars, groups, looks), height))
        for result in results:
            before = were.get((result.system, result.task), {})
            if before.keys() == result.ranks.keys() and before != result.ranks:
                caption = f"{result.system}: rank of the first relevant code, above the line worse than in the baseline"
                drawn.append((caption, partial(_draw_ranks, before, result, looks), 3.8))
        parts.append(_charted(task, place, drawn, {name: looks[name] for name in looks if name in _looks(results)}))
    return parts


def _looks(results: Sequence[R]) -> _Looks:
    systems = dict.fromkeys(result.system for result in results)
    return {system: (_COLOURS[i % 7], list(_MARKERS)[i % 5]) for i, system in enumerate(systems)}


def _charted(task: str, place: int, drawn: Sequence[tuple[str, Callable[[Axes], None], float]], looks: _Looks) -> str:
    """Return a task's charts, each with caption and height, under one legend; ``place`` tells tasks apart."""
    legend = "".join(
        f'<li><span style="color: {colour}">{_MARKERS[marker]}</span> {_text(system)}</li>'
        for system, (colour, marker) in looks.items()
    ).replace(_INK, "inherit")
    charts = "\n".join(
        f"<figure><figcaption>{_text(caption)}</figcaption>\n"
        f"{_svg(draw, prefix=f't{place}c{i}-', label=f'{task}: {caption}', height=height)}</figure>"
        for i, (caption, draw, height) in enumerate(drawn)
    )
    return (
        f'<section><h3>{_text(task)}</h3>\n<ul class="legend">{legend}</ul>\n<div class="charts">\n{charts}\n</div>'
        "</section>"
    )


def _svg(draw: Callable[[Axes], None], *, prefix: str, label: str, height: float) -> str:
    """Return a chart as inline SVG whose ids begin with ``prefix`` and whose ink is the colour of the text around."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("charts need matplotlib: pip install 'llamaindex-code-retrieval[eval]'") from error
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    settings: dict[Any, Any] = {
        **dict.fromkeys(inked, _INK),
        **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.15},
        **{"svg.fonttype": "none", "svg.hashsalt": prefix, "text.parse_math": False, "font.size": 9},
    }
    with rc_context(settings):
        figure = Figure(figsize=(5.6, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    # matplotlib's <style> would hold for the whole page, and metadata and namespaces name addresses.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| xmlns(:\w+)?=\"[^\"]*\"", "", svg, flags=re.S)
    svg = re.sub(r'( id="| (?:xlink:)?href="#|url\(#)', lambda found: found[0].replace("xlink:", "") + prefix, svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", svg).replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{_text(label)}"', 1).strip()


def _draw_found(results: Sequence[RetrievalResult], looks: _Looks, axes: Axes) -> None:
    last = min(100, max(result.depth for result in results))
    for result in results:
        ranks = np.array([rank or np.inf for rank in result.ranks.values()])
        depths = np.arange(1, min(last, result.depth) + 1)
        colour, marker = looks[result.system]
        shares = (ranks[:, None] <= depths).mean(axis=0)
        marked = [k - 1 for k in _DEPTHS if k <= len(depths)]
        axes.plot(depths, shares, color=colour, marker=marker, markevery=marked, markersize=5)
    axes.set(xscale="log", xlim=(0.95, last * 1.05), ylim=(0, 1.02), xlabel="k", ylabel="share of queries")
    ticks = [k for k in _DEPTHS if k <= last]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()


def _draw_latency(results: Sequence[RetrievalResult], looks: _Looks, axes: Axes) -> None:
    times = [max(result.milliseconds["total"]["p50"], 0.001) for result in results]
    for result, time in zip(results, times, strict=True):
        colour, marker = looks[result.system]
        mrr = mean_reciprocal_rank(result.ranks.values())
        axes.scatter([time], [mrr], s=60, color=colour, marker=marker, edgecolors=_INK, linewidths=0.6)
    _milliseconds(axes, times)
    axes.set(ylim=(0, 1.02), ylabel="MRR")


def _draw_bars(groups: Mapping[str, Mapping[str, list[float]]], looks: _Looks, axes: Axes) -> None:
    for place, by_system in enumerate(groups.values()):
        step = 0.84 / len(by_system)
        for i, (system, values) in enumerate(by_system.items()):
            (colour, marker), mean, (low, high) = looks[system], fmean(values), interval(values)
            y = place - 0.42 + (i + 0.5) * step
            axes.barh(y, mean, height=step * 0.85, color=colour, alpha=0.75)
            around = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            axes.errorbar(mean, y, xerr=around, fmt=marker, color=_INK, markersize=3, linewidth=1, capsize=2)
    names = [f"{name} (n={len(next(iter(by_system.values()))):,})" for name, by_system in groups.items()]
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 1.02), ylim=(len(names) - 0.45, -0.55), xlabel="MRR")


def _draw_ranks(before: Mapping[str, int | None], result: RetrievalResult, looks: _Looks, axes: Axes) -> None:
    nowhere = 4 * result.depth  # stands for "not found", well apart from the last rank
    points = Counter((before[query] or nowhere, rank or nowhere) for query, rank in result.ranks.items())
    sizes = [14 * count**0.5 for count in points.values()]
    was, now = zip(*points, strict=True)
    colour, _ = looks[result.system]
    axes.scatter(was, now, sizes, colour, alpha=0.75, edgecolors=_INK, linewidths=0.4, clip_on=False, zorder=3)
    axes.plot([1, result.depth], [1, result.depth], color=_INK, linewidth=1)
    for line in (axes.axvline, axes.axhline):
        line(nowhere, color=_INK, linewidth=0.8, linestyle=":")
    ends, ticks = (0.8, nowhere * 1.4), [10**e for e in range(7) if 10**e <= result.depth]
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="rank in the baseline", ylabel="rank now")
    axes.set_xticks([*ticks, nowhere], [*map(str, ticks), "not found"])
    axes.set_yticks([*ticks, nowhere], [*map(str, ticks), "not found"])
    axes.minorticks_off()


# --- curves ----------------------------------------------------------------------------------------------------------


def curve_markdown(report: CurveReport) -> str:
    """Return the tables of a cascade's curves."""
    parts = [f"## Reranked first K hits: {_markdown(report.suite)}", _markdown(f"{report.date}, {report.machine}")]
    for title, (note, table) in _curve_sections(report).items():
        parts += [f"### {title}", *filter(None, [note]), table.markdown()]
    return "\n\n".join(parts) + "\n"


def curve_html(report: CurveReport) -> str:
    """Return one page with charts and tables that loads nothing; the same values give the same page.

    Raises:
        ImportError: matplotlib is not installed.
    """
    title = _text(f"Reranked first K hits: {report.suite}")
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{_text(report.date)} · {_text(report.machine)} · {report.seconds:,.0f} s</p>',
    ]
    looks = _looks(report.curves)
    for place, (task, group) in enumerate(groupby(_by_task(report.curves), key=lambda curve: curve.task)):
        curves = list(group)
        drawn: list[tuple[str, Callable[[Axes], None], float]] = [
            ("MRR by K", partial(_draw_curves, curves, looks, ("MRR",)), 3.4),
            ("Recall by K: R@1 —, R@5 – –, R@10 ···", partial(_draw_curves, curves, looks, _RECALLS), 3.4),
            ("MRR by median milliseconds, named by K; hollow: early exit", partial(_draw_costs, curves, looks), 3.4),
        ]
        parts.append(_charted(task, place, drawn, {name: looks[name] for name in looks if name in _looks(curves)}))
    for heading, (note, table) in _curve_sections(report).items():
        parts += [f"<h2>{heading}</h2>", *([f"<p>{note}</p>"] if note else []), table.html()]
    return _page(title, parts)


def _curve_sections(report: CurveReport) -> dict[str, tuple[str, _Table]]:
    curves = _by_task(report.curves)
    metrics = ("MRR", *_RECALLS)
    rows, facts = [], []
    for curve in curves:
        for point in curve.points:
            means = (_figure(point.metrics, metric) for metric in metrics)
            times = (_figure(point.milliseconds, part, ".1f") for part in ("p50", "p95"))
            rows.append((curve.system, curve.task, _k(point), *means, f"{point.pairs:,.1f}", *times))
        model = f"{curve.reranker} ({curve.precision}, {curve.max_tokens} tokens)"
        codes = f"{curve.codes:,}" + ("" if curve.protocol == "whole" else f" in {curve.protocol}")
        errors = (_MISSING if each is None else f"{each:.4f}" for each in (curve.error, curve.calibration_error))
        times = (_figure(curve.first_stage, part, ".1f") for part in ("p50", "p95"))
        counts = (codes, f"{curve.queries:,}", f"{curve.timed:,}", f"{curve.depth:,}")
        facts.append((curve.system, curve.task, model, *times, *errors, *counts))
    columns = ("system", "task", "K", *metrics, "pairs a query", "reranking p50 ms", "p95 ms")
    about = ("system", "task", "reranker", "first stage p50 ms", "p95 ms", "calibration error", "when calibrated")
    sections = {
        "By K": (_K_NOTE, _Table(columns=columns, rows=rows, words=3)),
        "First stage and reranker": (
            _CALIBRATION_NOTE,
            _Table(columns=(*about, "codes", "queries", "timed", "depth"), rows=facts, words=3),
        ),
        "Skipped": ("", _Table(columns=("skipped", "why"), rows=list(report.skipped.items()), words=2)),
        "Versions": ("", _Table(columns=("package", "version"), rows=list(report.versions.items()), words=2)),
    }
    return {title: (note, table) for title, (note, table) in sections.items() if table.rows}


def _k(point: CurvePoint) -> str:
    if point.early_exit is not None:
        return f"early exit {point.early_exit:g} for the first {point.top_n}, K={point.k}"
    return str(point.k) if point.k else "first stage alone"


def _draw_curves(curves: Sequence[Curve], looks: _Looks, metrics: Sequence[str], axes: Axes) -> None:
    ks = sorted({max(point.k, 1) for curve in curves for point in curve.points})  # 1 changes nothing: as good as 0
    for curve in curves:
        colour, marker = looks[curve.system]
        points = {max(point.k, 1): point for point in curve.points if point.early_exit is None}
        for metric, style in zip(metrics, ("-", "--", ":"), strict=False):
            values = [point.metrics[metric] for point in points.values()]
            axes.plot(list(points), values, style, color=colour, marker=marker, markersize=5)
    what = metrics[0] if len(metrics) == 1 else "recall"
    axes.set(xscale="log", xlim=(0.93, ks[-1] * 1.07), xlabel="K (1: the first stage alone)", ylabel=what)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()


def _draw_costs(curves: Sequence[Curve], looks: _Looks, axes: Axes) -> None:
    times = []
    for curve in curves:
        colour, marker = looks[curve.system]
        at = [max(curve.first_stage["p50"] + point.milliseconds["p50"], 0.001) for point in curve.points]
        found = [point.metrics["MRR"] for point in curve.points]
        times += at
        whole = [i for i, point in enumerate(curve.points) if point.early_exit is None]
        axes.plot([at[i] for i in whole], [found[i] for i in whole], color=colour, marker=marker, markersize=5)
        for i, point in enumerate(curve.points):
            if point.early_exit is None:
                axes.annotate(str(point.k), (at[i], found[i]), xytext=(4, -10), textcoords="offset points", fontsize=7)
            else:
                axes.scatter(at[i], found[i], s=40, facecolors="none", edgecolors=colour, marker=marker)
    _milliseconds(axes, times)
    axes.set(ylabel="MRR")


def _milliseconds(axes: Axes, times: Sequence[float]) -> None:
    low, high = min(times) / 2, max(times) * 2
    axes.set(xscale="log", xlim=(low, high), xlabel="median milliseconds of a query")
    ticks = [n * 10.0**e for e in range(-4, 8) for n in (1, 2, 5) if low <= n * 10.0**e <= high]
    axes.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    axes.minorticks_off()


def _reciprocal_ranks(result: RetrievalResult) -> dict[str, float]:
    """Return what MRR averages; the ranks are there whichever metrics the suite names."""
    return {query: reciprocal_rank(rank) for query, rank in result.ranks.items()}


def _grouped(
    results: Sequence[RetrievalResult], group_of: Callable[[RetrievalResult, str], str]
) -> dict[str, dict[str, list[float]]]:
    """Return group -> system -> reciprocal ranks of its queries; the group with most queries first."""
    groups: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for query, value in _reciprocal_ranks(result).items():
            groups.setdefault(group_of(result, query), {}).setdefault(result.system, []).append(value)
    return dict(sorted(groups.items(), key=lambda group: (-len(next(iter(group[1].values()))), group[0])))


def _words(result: RetrievalResult, query: str) -> str:
    words = len(result.queries[query].split())
    return next(name for name, most in _WORDS.items() if words <= most)
