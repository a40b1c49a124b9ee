"""A report in JUnit's XML, for CI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from llamaindex_code_retrieval.eval.gate import describe
from llamaindex_code_retrieval.eval.report.text import xml_text
from llamaindex_code_retrieval.eval.results import ChatResult, Comparison, GenerationResult, Report, RetrievalResult


@dataclass(frozen=True, slots=True)
class _Case:
    """A test case."""

    classname: str
    name: str
    outcome: Literal["system-out", "failure", "skipped"]
    """The element that the case holds; ``system-out`` is a passed test."""
    text: str


def junit(report: Report, comparisons: Sequence[Comparison] = ()) -> str:
    """Return one test case per comparison, or per mean if there are none; what was skipped is a skipped test."""
    cases = [*(_comparisons(comparisons) if comparisons else _means(report)), *_skipped(report)]
    outcomes = Counter(case.outcome for case in cases)
    attributes = {
        "tests": str(len(cases)),
        "failures": str(outcomes["failure"]),
        "errors": "0",
        "skipped": str(outcomes["skipped"]),
        "time": f"{report.seconds:.1f}",
    }
    root = ElementTree.Element("testsuites", attributes)
    named = {"name": xml_text(report.suite), "timestamp": report.date, **attributes}
    suite = ElementTree.SubElement(root, "testsuite", named)
    for case in cases:
        element = ElementTree.SubElement(
            suite, "testcase", classname=xml_text(case.classname), name=xml_text(case.name)
        )
        text = xml_text(case.text)
        message = {} if case.outcome == "system-out" else {"message": text.partition("\n")[0]}
        ElementTree.SubElement(element, case.outcome, message).text = text
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _comparisons(comparisons: Sequence[Comparison]) -> Iterator[_Case]:
    for each in comparisons:
        text = describe(each) if each.regression or each.inconclusive else f"{each.before:.4f} -> {each.after:.4f}"
        outcome: Literal["failure", "system-out"] = "failure" if each.regression else "system-out"
        yield _Case(f"{each.system} / {each.task}", each.metric, outcome, text)


def _means(report: Report) -> Iterator[_Case]:
    results: list[RetrievalResult | GenerationResult | ChatResult] = [
        *report.retrieval,
        *report.generation,
        *report.chat,
    ]
    for result in results:
        condition = "" if isinstance(result, RetrievalResult) else f" ({result.condition})"
        classname = f"{result.system} / {result.task}{condition}".removeprefix(" / ")
        for metric, value in result.means.items():
            yield _Case(classname, metric, "system-out", f"{value:.4f}")


def _skipped(report: Report) -> Iterator[_Case]:
    for name, reason in report.skipped.items():
        yield _Case(report.suite, name, "skipped", reason)
