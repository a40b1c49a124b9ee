"""What a reader of a report sees: figures worked out by hand, nothing that runs or loads, the same page each time."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from statistics import fmean
from xml.etree import ElementTree

import pytest

from llamaindex_code_retrieval.eval.report import html, junit, markdown
from llamaindex_code_retrieval.eval.results import (
    Answer,
    Change,
    Comparison,
    GenerationResult,
    Published,
    Report,
    RetrievalResult,
)

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

EVIL = '<script>alert(1)</script>" onload="x'
TEXTS = [EVIL, "read file", "sort a list of dicts by a value of each", *(f"words {'more ' * i}" for i in range(9))]
WAS = [1] * 10 + [2, None]
NOW = [None, *[1] * 8, 4, 2, 100]


def retrieval(system: str, ranks: list[int | None], milliseconds: float) -> RetrievalResult:
    by_query = {f"q{i}": rank for i, rank in enumerate(ranks)}
    reciprocal = {query: 1 / rank if rank else 0.0 for query, rank in by_query.items()}
    return RetrievalResult(
        system=system,
        task="tiny",
        benchmark="tiny",
        benchmark_fingerprint="abc",
        protocol="whole",
        depth=100,
        codes=1200,
        duplicates=3,
        values={
            "R@10": {q: float(rank is not None and rank <= 10) for q, rank in by_query.items()},
            "MRR": reciprocal,
        },
        collapsed={"MRR": 0.987},
        ranks=by_query,
        top={query: [f"code of {query}"] for query in by_query},
        queries=dict(zip(by_query, TEXTS, strict=True)),
        languages={query: "go" if i % 3 else "c#" for i, query in enumerate(by_query)},
        milliseconds={"total": {"p50": milliseconds, "p95": 2 * milliseconds}},
    )


def generation(condition: str, system: str, values: list[float]) -> GenerationResult:
    return GenerationResult(
        system=system,
        task="write",
        benchmark="write",
        benchmark_fingerprint="def",
        condition=condition,
        writer="extractive",
        values={"rougeL": {f"a{i}": value for i, value in enumerate(values)}},
        answers={
            f"a{i}": Answer(
                question=f"why {i}?",
                reference="because",
                answer=f"{condition} & {i}",
                passages=[],
                error="late" * (not i),
            )
            for i in range(len(values))
        },
    )


def report(ranks: list[int | None]) -> Report:
    return Report(
        suite="tiny | suite",
        date="2026-01-01",
        machine="one\nmachine",
        versions={"torch": "2.9"},
        retrieval=[retrieval("dense_$x$", ranks, 20.0), retrieval("BM25", WAS, 0.4)],
        generation=[
            generation("gold", "", [0.5, 0.75]),
            generation("retrieved", "BM25", [0.25, 0.75]),
            generation("none", "", [0.0, 0.25]),
        ],
        published=[Published(system="big", task="tiny", metric="MRR", value=0.396, source="A paper | its table")],
        skipped={"other": "no data\x1b here"},
        seconds=12.0,
    )


REPORT, BASELINE = report(NOW), report(WAS)
CHANGED = [
    Change(query="q0", text=EVIL, before=1, after=None, first="code of q0"),
    Change(query="q9", text="words", before=1, after=4, first="unknown"),
    Change(query="q11", text="words", before=None, after=100, first=None),
]
LOST = Comparison(
    system="dense_$x$",
    task="tiny",
    metric="MRR",
    before=0.875,
    after=0.73,
    low=-0.2,
    high=-0.05,
    p_worse=0.0123,
    queries=12,
    detectable=0.1234,
    regression=True,
    inconclusive=False,
    changed=CHANGED,
)
KEPT = replace(
    LOST, system="BM25", after=0.875, low=0.0, high=0.0, p_worse=1.0, detectable=None, regression=False, changed=[]
)
UNSURE = replace(LOST, metric="R@10", p_worse=0.2, detectable=0.3, regression=False, inconclusive=True)
CODES = {"tiny": {"code of q0": "\n".join(["if a < b:", *(f"    line {i}" for i in range(1, 30))])}}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def row(self, *start: str) -> list[str]:
        """Return the first row that starts so."""
        return next(row for row in self.rows if row[: len(start)] == list(start))


@pytest.fixture(scope="module")
def text() -> str:
    return html(REPORT, [LOST, KEPT], codes=CODES, baseline=BASELINE)


def test_the_page_loads_nothing_and_runs_nothing(text: str) -> None:
    page = Page(text)
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    assert EVIL in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload=" in text
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("#") for name, value in page.attributes if name in ("src", "href", "xlink:href"))
    assert all(place.startswith("#") for place in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_same_report_gives_the_same_page(text: str) -> None:
    assert html(REPORT, [LOST, KEPT], codes=CODES, baseline=BASELINE) == text


def test_ids_are_unique_and_what_is_referred_to_is_there(text: str) -> None:
    ids = [value for name, value in Page(text).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 100
    assert set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text)) != set()
    assert {a or b for a, b in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text)} <= set(ids)


def test_charts_follow_the_theme_and_say_what_they_are(text: str) -> None:
    """Recall, latency, words and language; ranks of the one system that changed."""
    page = Page(text)
    assert page.tags["svg"] == 5
    assert len([value for name, value in page.attributes if name == "aria-label" and value.startswith("tiny: ")]) == 5
    assert "#010203" not in text
    assert "currentColor" in text
    assert "prefers-color-scheme: dark" in text
    assert ">go (n=8)<" in text
    assert ">c# (n=4)<" in text
    assert ">1-3 words (n=5)<" in text  # EVIL is two, "read file" two, and "words" with none, one and two more


def test_tables_hold_the_means(text: str) -> None:
    page = Page(text)
    mrr = (8 + 1 / 4 + 1 / 2 + 1 / 100) / 12
    found = page.row("dense_$x$", "tiny")
    assert found == ["dense_$x$", "tiny", f"{mrr:.4f}", f"{10 / 12:.4f}", "0.9870", "1,200", "12", "20.0", "40.0"]
    assert page.row("BM25", "tiny")[2] == f"{10.5 / 12:.4f}" == "0.8750"
    assert page.row("write", "retrieved")[2:5] == ["BM25", "extractive", "0.5000 (0.2500 to 0.7500)"]
    assert page.row("write", "none")[4].startswith(f"{fmean([0, 0.25]):.4f}")
    figures = ["-0.2000 to -0.0500", "0.0123", "0.1234", "12"]
    assert page.row("▼ regression")[1:] == [*"dense_$x$ tiny MRR 0.8750 0.7300 -0.1450".split(), *figures]
    assert page.row("= no clear change")[1] == "BM25"
    assert page.row("= no clear change")[-2:] == ["–", "12"]
    assert page.row("big") == ["big", "tiny", "MRR", "A paper | its table", "0.396"]
    assert page.row("other") == ["other", "no data� here"]


def test_changed_queries_show_what_is_first_now(text: str) -> None:
    page = Page(text)
    lost = page.row(EVIL)
    assert lost[1:3] == ["1", "▼ not found"]
    assert "if a < b:" in lost[3]
    assert "line 19" in lost[3]
    assert lost[3].endswith("… 10 more lines")
    assert page.row("words", "1") == ["words", "1", "▼ 4", "unknown"]
    assert page.row("words", "not found") == ["words", "not found", "▲ 100", "nothing"]
    assert "1 better, 2 worse" in page.text


def test_examples_stand_side_by_side(text: str) -> None:
    for shown in ("why 1?", "because", "gold & 1", "retrieved & 1", "none & 1", "Retrieved by BM25, rougeL 0.75"):
        assert shown in Page(text).text
    assert "No answer: late" in text


def test_a_page_without_baseline_answers_or_anything() -> None:
    plain = Page(html(replace(REPORT, generation=[], published=[], skipped={})))
    assert plain.tags["svg"] == 4
    assert "Generation" not in plain.text
    assert "no baseline" in plain.text
    nothing = Report(suite="empty", date="", machine="", versions={})
    assert Page(html(nothing)).tags["table"] == 0
    assert markdown(nothing).startswith("## Code retrieval: empty\n")
    assert ElementTree.fromstring(junit(nothing)).get("tests") == "0"


def test_a_system_that_finds_nothing_can_be_drawn() -> None:
    none: list[int | None] = [None] * 12
    blind = replace(retrieval("blind", none, 0.0), languages={}, milliseconds={}, protocol="pools of 10 (seed 0)")
    page = Page(
        html(replace(REPORT, retrieval=[blind]), baseline=replace(REPORT, retrieval=[retrieval("blind", WAS, 1)]))
    )
    assert page.tags["svg"] == 3
    assert page.row("blind", "tiny")[2:] == [
        "0.0000",
        "0.0000",
        "0.9870",
        "1,200 in pools of 10 (seed 0)",
        "12",
        "–",
        "–",
    ]


def test_markdown_tables_are_whole() -> None:
    lines = markdown(REPORT, [KEPT, LOST]).splitlines()
    assert lines[0] == "## Code retrieval: tiny \\| suite"
    assert lines[2] == "**▼ 1 regression in 2 comparisons**"
    assert lines[4] == "2026-01-01, one machine"
    rows = [line for line in lines if line.startswith("|")]
    # Six tables of a head and a rule, with 2 comparisons, 2 systems, 3 conditions, 1 published, 1 skipped, 1 version.
    assert len(rows) == 6 * 2 + 2 + 2 + 3 + 1 + 1 + 1
    widths = [len(re.split(r"(?<!\\)\|", row)) for row in rows]
    assert Counter(widths) == {13: 4, 11: 4, 9: 5, 7: 3, 4: 6}
    assert rows[2].startswith("| ▼ regression | dense_$x$ | tiny | MRR | 0.8750 | 0.7300 | -0.1450 |")
    assert "| big | tiny | MRR | A paper \\| its table | 0.396 |" in rows
    assert "were not measured here" in "\n".join(lines)
    assert "| write | gold | – | extractive | 0.6250 | 2 | 1 |" in rows
    assert "**✓ no regression in 1 comparison**" in markdown(REPORT, [KEPT])
    assert "regression" not in markdown(REPORT)


def test_junit_fails_the_regressions() -> None:
    root = ElementTree.fromstring(junit(REPORT, [LOST, KEPT]).encode())
    suite = root.find("testsuite")
    assert suite is not None
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "1", "0", "1"]
    lost, kept, skipped = suite
    assert (lost.get("classname"), lost.get("name")) == ("dense_$x$ / tiny", "MRR")
    (failure,) = lost
    assert failure.tag == "failure"
    message, text = failure.get("message", ""), failure.text or ""
    for shown in ("0.8750 to 0.7300", "-0.1450", "-0.2000 to -0.0500", "0.0123"):
        assert shown in message
    assert EVIL in text
    assert "rank 1 -> not found; first is now code of q0" in text
    assert "q11" not in text  # it got better
    assert kept.findtext("system-out") == "0.8750 -> 0.8750"
    assert skipped.find("skipped") is not None
    assert [case.get("classname") for case in suite] == ["dense_$x$ / tiny", "BM25 / tiny", "tiny | suite"]


def test_a_drop_on_too_few_queries_is_named_as_inconclusive() -> None:
    text = markdown(REPORT, [KEPT, UNSURE])
    assert "**✓ no regression in 2 comparisons, 1 inconclusive (too few queries)**" in text
    assert "Detectable drop: the smallest one that the gate detects with 80 % power" in text
    assert "| ? inconclusive drop | dense_$x$ | tiny | R@10 | 0.8750 | 0.7300 | -0.1450 |" in text
    page = Page(html(REPORT, [KEPT, UNSURE]))
    assert page.row("? inconclusive drop")[-2:] == ["0.3000", "12"]
    assert "1 inconclusive (too few queries)" in page.text
    root = ElementTree.fromstring(junit(REPORT, [KEPT, UNSURE]))
    assert root.get("failures") == "0"
    (shown,) = [case.findtext("system-out") or "" for case in root.iter("testcase") if case.get("name") == "R@10"]
    assert "12 queries are too few to tell a drop of 0.1450 from chance" in shown
    assert "the smallest drop that is detected with 80 % power is about 0.3000" in shown


def test_junit_without_a_baseline_lists_the_means() -> None:
    root = ElementTree.fromstring(junit(REPORT))
    values = {(case.get("classname"), case.get("name")): case.findtext("system-out") for case in root.iter("testcase")}
    assert root.get("failures") == "0"
    assert len(values) == 2 * 2 + 3 + 1
    assert values["BM25 / tiny", "MRR"] == "0.8750"
    assert values["BM25 / write (retrieved)", "rougeL"] == "0.5000"
    assert values["write (gold)", "rougeL"] == "0.6250"


def test_without_matplotlib_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'llamaindex-code-retrieval\[eval\]'"):
        html(REPORT)


def test_questions_are_shown_by_category() -> None:
    by_turns = {f"q{i}": "symbol" if i % 2 else "architecture | <b>" for i in range(12)}
    asked = replace(retrieval("asked", WAS, 1.0), task="questions", collapsed={}, categories=by_turns)
    whole = replace(REPORT, retrieval=[*REPORT.retrieval, asked])
    text = markdown(whole)
    assert "### Questions by category" in text
    assert "| asked | questions | architecture \\| &lt;b> | 0.9167 | 1.0000 | 6 |" in text  # MRR (5 + 1/2) / 6
    assert "| asked | questions | symbol | 0.8333 | 0.8333 | 6 |" in text  # 5 of 6 at rank 1, one not found
    shown = Page(html(whole))
    assert ["asked", "questions", "symbol", "0.8333 (0.5000 to 1.0000)", "0.8333 (0.5000 to 1.0000)", "6"] in shown.rows
    assert "MRR by category" in shown.text
    assert "Questions by category" not in markdown(REPORT)
    assert "MRR by category" not in Page(html(REPORT)).text


def test_equal_codes_are_a_matter_of_benchmarks_only() -> None:
    asked = replace(retrieval("asked", WAS, 1.0), collapsed={})
    assert "Equal codes once" not in html(replace(REPORT, retrieval=[asked]))
    assert "Equal codes once" in html(REPORT)
