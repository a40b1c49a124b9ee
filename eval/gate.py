"""Compare a report with its baseline: which metrics fell by more than the tolerance and by more than chance.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from llamaindex_code_retrieval._settings import Settings, check_distinct
from llamaindex_code_retrieval.eval.metrics import GatedChatMetric, GenerationMetric, check_metric
from llamaindex_code_retrieval.eval.results import (
    Change,
    ChatResult,
    Comparison,
    GenerationResult,
    PlannedResult,
    Report,
    RetrievalResult,
    largest_losses,
)
from llamaindex_code_retrieval.eval.significance import detectable_drop, holm, paired_difference

_Result = RetrievalResult | GenerationResult | ChatResult
_Answers = TypeVar("_Answers", GenerationResult, ChatResult)
N = TypeVar("N", bound=RetrievalResult | GenerationResult | ChatResult | PlannedResult)
B = TypeVar("B", bound=RetrievalResult | GenerationResult | ChatResult)
_RETRIEVAL_IDENTITY = ("protocol", "depth", "benchmark_fingerprint")
_GENERATION_IDENTITY = ("writer", "benchmark_fingerprint")
_CHAT_IDENTITY = ("llm", "benchmark_fingerprint")


class IncomparableError(ValueError):
    """Report and baseline do not measure the same thing, so they cannot be compared."""


class GateRules(Settings):
    """What is compared, and what counts as a regression."""

    metrics: Annotated[
        tuple[Annotated[str, AfterValidator(check_metric)], ...], Field(min_length=1), AfterValidator(check_distinct)
    ] = ("MRR", "R@10")
    """Metrics of retrieval that are compared; the suite must measure them."""
    generation_metrics: Annotated[tuple[GenerationMetric, ...], AfterValidator(check_distinct)] = ("rougeL",)
    """Metrics of answers from retrieved passages that are compared."""
    chat_metrics: Annotated[tuple[GatedChatMetric, ...], AfterValidator(check_distinct)] = (
        "hit@5",
        "citation_precision",
        "rougeL",
    )
    """Metrics of a chat with retrieved passages that are compared, as far as the baseline has them."""
    tolerance: float = Field(default=0.005, ge=0, lt=1)
    """Largest drop of a mean that passes, significant or not."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Significance level: the probability of a false alarm of the whole gate, over all comparisons."""
    systems: Annotated[tuple[str, ...], AfterValidator(check_distinct)] = ()
    """The systems that are compared; by default all."""
    categories: bool = False
    """Compare the questions of each category as well, as a task of their own. Each further comparison makes the gate
    less sensitive, so it needs many questions in each category."""

    def compared(self, results: Sequence[RetrievalResult]) -> list[RetrievalResult]:
        """Return the results, with those of each category of questions if they are compared as well."""
        parts = [part for result in results for part in result.by_category().values()] if self.categories else []
        return [*results, *parts]


def check_comparable(
    retrieval: Iterable[PlannedResult],
    generation: Iterable[PlannedResult],
    chat: Iterable[PlannedResult],
    baseline: Report,
    rules: GateRules,
    *,
    skipped: Mapping[str, str],
) -> None:
    """Refuse a baseline before the measurement if :func:`compare` would refuse it afterwards.

    ``skipped`` maps the parts of the suite that are left out to the reason.

    Raises:
        IncomparableError: see :func:`compare`.
    """
    pairs: list[tuple[PlannedResult, _Result, str]] = [
        *_pairs(retrieval, baseline.retrieval, rules, rules.metrics, _RETRIEVAL_IDENTITY, skipped),
        *_pairs(
            generation,
            _retrieved(baseline.generation),
            rules,
            rules.generation_metrics,
            _GENERATION_IDENTITY,
            skipped,
        ),
        *_pairs(chat, _retrieved(baseline.chat), rules, rules.chat_metrics, _CHAT_IDENTITY, skipped),
    ]
    _check_not_empty(pairs)
    for now, before, metric in pairs:
        _check_metric(now, metric)
        _check_metric(before, metric)


def compare(report: Report, baseline: Report, rules: GateRules | None = None) -> list[Comparison]:
    """Compare all that the rules name; results that only the report has are new and are left out.

    The results are paired query by query. A regression is a drop over the tolerance whose p value, corrected by Holm
    over all comparisons, is under alpha.

    Raises:
        IncomparableError: the baseline has a system or task that the report lacks, or measured it on another
            benchmark, by another protocol or depth, or without one of the metrics; or they have nothing in common.
    """
    rules = rules or GateRules()
    _check_systems(rules, report, baseline)
    pairs = _compared_pairs(report, baseline, rules)
    _check_not_empty(pairs)
    values = [_paired_values(*pair) for pair in pairs]
    differences = [paired_difference(before, after) for before, after in values]
    p_values = holm([difference.p_worse for difference in differences])
    strictest = rules.alpha / len(pairs)  # the threshold of Holm's correction for the smallest p value
    drops = [detectable_drop(before, after, alpha=strictest) for before, after in values]
    return [
        Comparison(
            system=now.system,
            task=now.task,
            metric=metric,
            before=fmean(old),
            after=fmean(new),
            low=difference.low,
            high=difference.high,
            p_worse=p,
            queries=len(new),
            detectable=None if drop is None else max(drop, rules.tolerance),
            regression=-difference.mean > rules.tolerance and p < rules.alpha,
            inconclusive=-difference.mean > rules.tolerance and p >= rules.alpha,
            changed=_changes(now, before),
        )
        for (now, before, metric), (old, new), difference, p, drop in zip(
            pairs, values, differences, p_values, drops, strict=True
        )
    ]


def _compared_pairs(report: Report, baseline: Report, rules: GateRules) -> list[tuple[_Result, _Result, str]]:
    """Return (result of this run, result of the baseline, metric) of all that is compared."""
    return [
        *_pairs(
            rules.compared(report.retrieval),
            rules.compared(baseline.retrieval),
            rules,
            rules.metrics,
            _RETRIEVAL_IDENTITY,
            report.skipped,
        ),
        *_pairs(
            _retrieved(report.generation),
            _retrieved(baseline.generation),
            rules,
            rules.generation_metrics,
            _GENERATION_IDENTITY,
            report.skipped,
        ),
        *_pairs(
            _retrieved(report.chat),
            _retrieved(baseline.chat),
            rules,
            rules.chat_metrics,
            _CHAT_IDENTITY,
            report.skipped,
        ),
    ]


def _check_systems(rules: GateRules, *sides: Report) -> None:
    systems = {result.system for side in sides for result in side.retrieval}
    systems |= {result.system for side in sides for result in side.generation if result.system}
    systems |= {result.system for side in sides for result in side.chat if result.system}
    for name in rules.systems:
        if name not in systems:
            raise IncomparableError(
                f"the gate names the system {name!r}, which neither report nor baseline has; "
                f"they have {', '.join(sorted(systems))}"
            )


def _retrieved(results: Iterable[_Answers]) -> list[_Answers]:
    return [result for result in results if result.condition == "retrieved"]


def _pairs(
    now: Iterable[N],
    before: Iterable[B],
    rules: GateRules,
    metrics: Sequence[str],
    identity: Sequence[str],
    skipped: Mapping[str, str],
) -> list[tuple[N, B, str]]:
    """Return (result of this run, result of the baseline, metric) for all that the rules compare."""
    results = {(each.system, each.task): each for each in now}
    pairs: list[tuple[N, B, str]] = []
    for old in before:
        if rules.systems and old.system not in rules.systems:
            continue
        if (old.system, old.task) not in results:
            reason = next((f": {why}" for what, why in skipped.items() if what in (old.system, old.task)), "")
            raise IncomparableError(
                f"the baseline has {_name(old)}, which this run lacks{reason}; "
                "run it, or write a new baseline with --update-baseline"
            )
        new = results[old.system, old.task]
        _check_same(new, old, identity)
        # Whether a chat has a metric depends on its questions; a baseline says which.
        pairs.extend(
            (new, old, metric) for metric in metrics if not isinstance(old, ChatResult) or metric in old.values
        )
    return pairs


def _check_not_empty(pairs: Sequence[object]) -> None:
    if not pairs:
        raise IncomparableError(
            "report and baseline have no system and task in common, so nothing is compared; "
            "write a new baseline with --update-baseline"
        )


def _check_same(now: _Result | PlannedResult, before: _Result, identity: Sequence[str]) -> None:
    for name in identity:
        new, old = getattr(now, name), getattr(before, name)
        if new != old:
            if name == "benchmark_fingerprint":
                name = f"benchmark ({now.benchmark}; codes, queries or judgements differ), fingerprint"
            raise IncomparableError(
                f"{_name(now)} was measured by another {name} than its baseline: {new!r} and {old!r}; "
                "measure the same, or write a new baseline with --update-baseline"
            )


def _check_metric(result: _Result | PlannedResult, metric: str) -> None:
    metrics = result.metrics if isinstance(result, PlannedResult) else tuple(result.values)
    if metric not in metrics:
        raise IncomparableError(
            f"{_name(result)} has no metric {metric!r}, only {', '.join(metrics)}; name one of these in [gate]"
        )


def _paired_values(now: _Result, before: _Result, metric: str) -> tuple[list[float], list[float]]:
    """Return the values of the baseline and of this run, of the same queries in the same order."""
    for result in (now, before):
        _check_metric(result, metric)
    new, old = now.values[metric], before.values[metric]
    if isinstance(now, ChatResult):  # an answer without citations has no precision
        new = {query: value for query, value in new.items() if query in old}
        old = {query: old[query] for query in new}
    if new.keys() != old.keys() or not new:
        raise IncomparableError(
            f"{_name(now)} answered other queries than its baseline; write a new one with --update-baseline"
        )
    return [old[query] for query in new], list(new.values())


def _changes(now: _Result, before: _Result) -> list[Change]:
    if not isinstance(now, RetrievalResult) or not isinstance(before, RetrievalResult):
        return []
    changes = [
        Change(
            query=query,
            text=text,
            before=before.ranks[query],
            after=now.ranks[query],
            first=next(iter(now.top[query]), None),
        )
        for query, text in now.queries.items()
        if now.ranks[query] != before.ranks[query]
    ]
    return sorted(changes, key=lambda change: (-abs(change.gain), change.query))


def _name(result: _Result | PlannedResult) -> str:
    return f"{result.system!r} on {result.task!r}"


def describe(comparison: Comparison, *, limit: int = 10) -> str:
    """Return a comparison as text: the means, the interval, and the ``limit`` queries that lost most.

    For an inconclusive drop it says that there are too few queries, and names the smallest drop that they can show.
    """
    verb = "fell" if comparison.difference < 0 else "rose" if comparison.difference > 0 else "stayed"
    lines = [
        f"{comparison.metric} of {comparison.system!r} on {comparison.task!r} {verb} from {comparison.before:.4f} to "
        f"{comparison.after:.4f}: {comparison.difference:+.4f}, 95 % interval {comparison.low:+.4f} to "
        f"{comparison.high:+.4f}, p = {comparison.p_worse:.4f} (corrected)"
    ]
    if comparison.inconclusive:
        lines.append(
            f"  {comparison.queries:,} queries are too few to tell a drop of {-comparison.difference:.4f} "
            f"from chance; {_smallest_detectable_drop(comparison)}"
        )
    for change in largest_losses(comparison.changed, limit=limit):
        before, after = ("not found" if rank is None else f"rank {rank}" for rank in (change.before, change.after))
        first = "nothing" if change.first is None else change.first
        lines.append(f"  {change.query}: {change.text!r}: {before} -> {after}; first is now {first}")
    return "\n".join(lines)


def _smallest_detectable_drop(comparison: Comparison) -> str:
    drop = comparison.detectable
    if drop is None or drop > comparison.before:
        return "no drop is detected with 80 % power; measure more queries"
    return f"the smallest drop that is detected with 80 % power is about {drop:.4f}"
