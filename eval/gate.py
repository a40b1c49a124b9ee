"""The gate: is a report worse than its baseline, beyond tolerance and beyond chance? No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from llamaindex_code_retrieval.eval.results import Change, Comparison, GenerationResult, Report, RetrievalResult, worst
from llamaindex_code_retrieval.eval.significance import detectable_drop, holm, paired_difference

_Result = RetrievalResult | GenerationResult
R = TypeVar("R", RetrievalResult, GenerationResult)


class IncomparableError(ValueError):
    """Report and baseline do not measure the same thing, so that no comparison of them means anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What is compared, and what counts as a regression."""

    metrics: tuple[str, ...] = ("MRR", "R@10")
    """Of retrieval."""
    generation_metrics: tuple[str, ...] = ("rougeL",)
    """Of answers with retrieved passages."""
    tolerance: float = 0.005
    """Drops of the mean up to this are let pass, significant or not."""
    alpha: float = 0.05
    """Chance of a false alarm of the whole gate, over all that it compares."""
    systems: tuple[str, ...] = ()
    """Only these; none named is all."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is a drop of a mean, from 0 to under 1, got {self.tolerance}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is a probability, over 0 and under 1, got {self.alpha}")
        if not self.metrics:
            raise ValueError("the gate needs a metric at least, such as MRR")


def compare(report: Report, baseline: Report, rules: GateRules | None = None) -> list[Comparison]:
    """Compare all that the rules name; what only the report has is new and is left out.

    Both sides are paired query by query. A regression is a drop over the tolerance whose p value, corrected by Holm
    over all comparisons, is under alpha.

    Raises:
        IncomparableError: the baseline has a system or task that the report lacks, or measured it on another
            benchmark, by another protocol or depth, or without one of the metrics; or there is nothing to compare.
    """
    rules = rules or GateRules()
    pairs: list[tuple[_Result, _Result, str]] = []
    for ranked, was in _matched(report.retrieval, baseline.retrieval, rules, report.skipped):
        _check_same(ranked, was, "protocol", "depth", "benchmark_fingerprint")
        pairs.extend((ranked, was, metric) for metric in rules.metrics)
    answered, were = (
        [each for each in side.generation if each.condition == "retrieved"] for side in (report, baseline)
    )
    for written, once in _matched(answered, were, rules, report.skipped):
        _check_same(written, once, "writer", "benchmark_fingerprint")
        pairs.extend((written, once, metric) for metric in rules.generation_metrics)
    if not pairs:
        raise IncomparableError(
            "report and baseline have no system and task in common, so nothing is compared; "
            "write a new baseline with --update-baseline"
        )
    found, detectable = [], []
    alpha = rules.alpha / len(pairs)  # the threshold of Holm's correction for the smallest p value
    for now, before, metric in pairs:
        values, old = (_values(side, metric) for side in (now, before))
        if values.keys() != old.keys():
            raise IncomparableError(
                f"{_name(now)} answered other queries than its baseline; write a new one with --update-baseline"
            )
        paired = [old[query] for query in values], list(values.values())
        found.append(paired_difference(*paired))
        drop = detectable_drop(*paired, alpha=alpha)
        detectable.append(None if drop is None else max(drop, rules.tolerance))
    corrected = holm([difference.p_worse for difference in found])
    return [
        Comparison(
            system=now.system,
            task=now.task,
            metric=metric,
            before=before.means[metric],
            after=now.means[metric],
            low=difference.low,
            high=difference.high,
            p_worse=p,
            queries=len(now.values[metric]),
            detectable=drop,
            regression=-difference.mean > rules.tolerance and p < rules.alpha,
            inconclusive=-difference.mean > rules.tolerance and p >= rules.alpha,
            changed=_changes(now, before),
        )
        for (now, before, metric), difference, drop, p in zip(pairs, found, detectable, corrected, strict=True)
    ]


def _matched(now: Iterable[R], before: Iterable[R], rules: GateRules, skipped: dict[str, str]) -> list[tuple[R, R]]:
    """Return pairs of one system and task; what the baseline has and the report lacks is an error."""
    here = {(each.system, each.task): each for each in now}
    pairs = []
    for was in before:
        if rules.systems and was.system not in rules.systems:
            continue
        if (was.system, was.task) not in here:
            why = next((f": {why}" for what, why in skipped.items() if what in (was.system, was.task)), "")
            raise IncomparableError(
                f"the baseline has {_name(was)}, which this run lacks{why}; "
                "run it, or write a new baseline with --update-baseline"
            )
        pairs.append((here[was.system, was.task], was))
    return pairs


def _check_same(now: _Result, before: _Result, *facts: str) -> None:
    for fact in facts:
        value, was = (getattr(side, fact) for side in (now, before))
        if value != was:
            if fact == "benchmark_fingerprint":
                fact = f"benchmark ({now.benchmark}; codes, queries or judgements differ), fingerprint"
            raise IncomparableError(
                f"{_name(now)} was measured by another {fact} than its baseline: {value!r} and {was!r}; "
                "measure the same, or write a new baseline with --update-baseline"
            )


def _values(result: _Result, metric: str) -> dict[str, float]:
    if metric not in result.values:
        raise IncomparableError(
            f"{_name(result)} has no metric {metric!r}, only {', '.join(result.values)}; name one of these in [gate]"
        )
    return result.values[metric]


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


def _name(result: _Result) -> str:
    return f"{result.system!r} on {result.task!r}"


def describe(comparison: Comparison, *, most: int = 10) -> str:
    """Return a comparison as text: the means, the interval, and the ``most`` queries that lost most.

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
            f"from chance; {_smallest(comparison)}"
        )
    for change in worst(comparison.changed, most=most):
        was, now = ("not found" if rank is None else f"rank {rank}" for rank in (change.before, change.after))
        first = "nothing" if change.first is None else change.first
        lines.append(f"  {change.query}: {change.text!r}: {was} -> {now}; first is now {first}")
    return "\n".join(lines)


def _smallest(comparison: Comparison) -> str:
    drop = comparison.detectable
    if drop is None or drop > comparison.before:
        return "no drop is detected with 80 % power; measure more queries"
    return f"the smallest drop that is detected with 80 % power is about {drop:.4f}"
