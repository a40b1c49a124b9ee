"""``pytest --code-retrieval-suite SUITE --code-retrieval-baseline FILE``: each metric of the baseline is a test.

The suite is run once, when the first of these tests is. They carry the marker ``code_retrieval``, so that
``-m code_retrieval`` runs them alone. Nothing heavy is imported before that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
    """Register the marker, and refuse half of the options."""
    config.addinivalue_line("markers", "code_retrieval: a metric of a suite, compared with its baseline")
    suite, baseline = config.getoption("code_retrieval_suite"), config.getoption("code_retrieval_baseline")
    if bool(suite) != bool(baseline):
        raise pytest.UsageError("--code-retrieval-suite and --code-retrieval-baseline are given together")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each system, task and metric of the baseline."""
    suite = config.getoption("code_retrieval_suite")
    if not suite:
        return
    try:
        run = _SuiteRun(suite, Path(config.getoption("code_retrieval_baseline")))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[_RUN] = run
    items.extend(
        MetricItem.from_parent(session, name=" / ".join(key), key=key)
        for key in run.keys()  # noqa: SIM118 - no dictionary
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
    """Suite and baseline, read at once; run when it is first asked for."""

    def __init__(self, suite: str, baseline: Path) -> None:
        from llamaindex_code_retrieval.eval.results import Report
        from llamaindex_code_retrieval.eval.suite import load_suite

        self.name = suite
        self.suite = load_suite(suite)
        self.baseline = Report.load(baseline)
        self._compared: dict[tuple[str, str, str], Any] | None = None
        self._error: ValueError | None = None

    def keys(self) -> Iterator[tuple[str, str, str]]:
        """Yield (system, task, metric) of all that the gate compares."""
        rules = self.suite.gate
        retrieved = [each for each in self.baseline.generation if each.condition == "retrieved"]
        for results, metrics in ((self.baseline.retrieval, rules.metrics), (retrieved, rules.generation_metrics)):
            for result in results:
                if not rules.systems or result.system in rules.systems:
                    for metric in metrics:
                        yield result.system, result.task, metric

    def comparison(self, key: tuple[str, str, str]) -> Any:
        """Return the comparison; an error of the run is raised by each of its tests."""
        from llamaindex_code_retrieval.cache import default_cache_folder
        from llamaindex_code_retrieval.eval.gate import compare
        from llamaindex_code_retrieval.eval.runner import run_suite

        if self._compared is None and self._error is None:
            try:
                report = run_suite(self.suite, baseline=self.baseline, cache_folder=default_cache_folder()).report
                found = compare(report, self.baseline, self.suite.gate)
                self._compared = {(each.system, each.task, each.metric): each for each in found}
            except ValueError as error:
                self._error = error
        if self._compared is None:
            raise pytest.fail.Exception(f"the comparison is invalid: {self._error}", pytrace=False)
        return self._compared[key]


class MetricItem(pytest.Item):
    """One metric of one system on one task."""

    def __init__(self, *, key: tuple[str, str, str], **rest: Any) -> None:
        super().__init__(**rest)
        self.key = key
        self.add_marker("code_retrieval")

    def runtest(self) -> None:
        """Fail if the metric fell by more than the tolerance, and by more than chance."""
        from llamaindex_code_retrieval.eval.gate import describe

        comparison = self.config.stash[_RUN].comparison(self.key)
        if comparison.regression:
            raise pytest.fail.Exception(describe(comparison), pytrace=False)
        if comparison.inconclusive:
            self.user_properties.append((_INCONCLUSIVE, describe(comparison)))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where the test comes from and its name."""
        return Path(self.config.stash[_RUN].name), None, self.name
