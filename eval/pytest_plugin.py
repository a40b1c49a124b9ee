"""A pytest plugin that makes each metric of a baseline a test.

``pytest --code-retrieval-suite SUITE --code-retrieval-baseline FILE`` runs the suite once, in the first of these tests.
They have the marker ``code_retrieval``, so that ``-m code_retrieval`` selects them. Torch is imported by the first one.
Names and texts of the suite are escaped, because they may hold terminal escape sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llamaindex_code_retrieval._io import printable

if TYPE_CHECKING:
    from llamaindex_code_retrieval.eval.results import Comparison

_INCONCLUSIVE = "code-retrieval-inconclusive"
_RUN = pytest.StashKey["_SuiteRun"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("code-retrieval", "retrieval quality against a baseline")
    group.addoption(
        "--code-retrieval-suite", metavar="SUITE", help="suite (TOML file, or one that comes with the package) to test"
    )
    group.addoption(
        "--code-retrieval-baseline",
        metavar="FILE",
        help="report to compare with, as `code-retrieval eval --update-baseline` writes it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse one option without the other."""
    config.addinivalue_line("markers", "code_retrieval: a metric of a suite, compared with its baseline")
    suite, baseline = config.getoption("code_retrieval_suite"), config.getoption("code_retrieval_baseline")
    if bool(suite) != bool(baseline):
        raise pytest.UsageError("--code-retrieval-suite and --code-retrieval-baseline need each other; give both")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each system, task and metric of the baseline."""
    suite = config.getoption("code_retrieval_suite")
    if not suite:
        return
    try:
        run = _SuiteRun(suite, Path(config.getoption("code_retrieval_baseline")))
    except ValueError as error:
        raise pytest.UsageError(printable(str(error), multiline=True)) from error
    config.stash[_RUN] = run
    items.extend(
        MetricItem.from_parent(session, name=printable(" / ".join(key)), key=key)
        for key in run.keys()  # noqa: SIM118  # not a dictionary
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the drops that passed because there are too few queries to tell them from chance."""
    texts = [
        text
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == _INCONCLUSIVE
    ]
    if texts:
        terminalreporter.section("code-retrieval: inconclusive drops")
        terminalreporter.write_line("\n".join(map(str, texts)))


class _SuiteRun:
    """A suite and its baseline, which are read at once; the suite is run when a comparison is first needed."""

    def __init__(self, suite: str, baseline: Path) -> None:
        from llamaindex_code_retrieval.eval.results import Report
        from llamaindex_code_retrieval.eval.suite import load_suite

        self.name = suite
        self.suite = load_suite(suite)
        self.baseline = Report.load(baseline)
        self._comparisons: dict[tuple[str, str, str], Comparison] | None = None
        self._error: Exception | None = None

    def keys(self) -> Iterator[tuple[str, str, str]]:
        """Yield (system, task, metric) of each comparison of the gate."""
        rules = self.suite.gate
        retrieved = [each for each in self.baseline.generation if each.condition == "retrieved"]
        for results, metrics in (
            (rules.compared(self.baseline.retrieval), rules.metrics),
            (retrieved, rules.generation_metrics),
        ):
            for result in results:
                if not rules.systems or result.system in rules.systems:
                    for metric in metrics:
                        yield result.system, result.task, metric
        for chat in self.baseline.chat:
            if chat.condition == "retrieved" and (not rules.systems or chat.system in rules.systems):
                for metric in rules.chat_metrics:
                    if metric in chat.values:
                        yield chat.system, chat.task, metric

    def comparison(self, key: tuple[str, str, str]) -> Comparison:
        """Return a comparison; if the run fails, every test fails with its error."""
        from llamaindex_code_retrieval._io import default_cache_folder
        from llamaindex_code_retrieval.eval.gate import compare
        from llamaindex_code_retrieval.eval.runner import run_suite

        if self._comparisons is None and self._error is None:
            try:
                report = run_suite(self.suite, baseline=self.baseline, cache_folder=default_cache_folder()).report
                comparisons = compare(report, self.baseline, self.suite.gate)
                self._comparisons = {(each.system, each.task, each.metric): each for each in comparisons}
            except (ValueError, OSError, ImportError) as error:
                self._error = error
        if self._comparisons is None:
            text = printable(f"the suite cannot be compared: {self._error}", multiline=True)
            raise pytest.fail.Exception(text, pytrace=False)
        return self._comparisons[key]


class MetricItem(pytest.Item):
    """One metric of one system on one task."""

    def __init__(self, *, key: tuple[str, str, str], **rest: Any) -> None:
        super().__init__(**rest)
        self.key = key
        self.add_marker("code_retrieval")

    def runtest(self) -> None:
        """Fail if the metric fell by more than the tolerance and by more than chance."""
        from llamaindex_code_retrieval.eval.gate import describe

        comparison = self.config.stash[_RUN].comparison(self.key)
        text = printable(describe(comparison), multiline=True)
        if comparison.regression:
            raise pytest.fail.Exception(text, pytrace=False)
        if comparison.inconclusive:
            self.user_properties.append((_INCONCLUSIVE, text))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the suite and the name of the test."""
        return Path(self.config.stash[_RUN].name), None, self.name
