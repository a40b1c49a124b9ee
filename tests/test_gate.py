"""What the gate lets pass, what it stops, and what it refuses to compare."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamaindex_code_retrieval.eval import significance
from llamaindex_code_retrieval.eval.gate import GateRules, IncomparableError, compare, describe
from llamaindex_code_retrieval.eval.results import Answer, GenerationResult, Report, RetrievalResult, largest_losses


def retrieval(ranks: list[int | None], **changes: Any) -> RetrievalResult:
    """A result whose query i has its one relevant code at ``ranks[i]``."""
    by_query = {f"q{i}": rank for i, rank in enumerate(ranks)}
    settings: dict[str, Any] = {
        "system": "dense",
        "task": "tiny",
        "benchmark": "tiny",
        "benchmark_fingerprint": "abc",
        "protocol": "whole",
        "depth": 100,
        "codes": 200,
        "duplicates": 0,
        "values": {
            "MRR": {query: 1 / rank if rank else 0.0 for query, rank in by_query.items()},
            "R@10": {query: float(bool(rank) and rank <= 10) for query, rank in by_query.items()},
        },
        "collapsed": {},
        "ranks": by_query,
        "top": {query: [f"first of {query}"] for query in by_query},
        "queries": {query: f"text of {query}" for query in by_query},
    }
    return RetrievalResult(**{**settings, **changes})


def answers(values: list[float], **changes: Any) -> GenerationResult:
    settings: dict[str, Any] = {
        "system": "dense",
        "task": "write",
        "benchmark": "write",
        "benchmark_fingerprint": "def",
        "condition": "retrieved",
        "writer": "extractive",
        "values": {"rougeL": {f"q{i}": value for i, value in enumerate(values)}},
        "answers": {f"q{i}": Answer(question="?", reference="r", answer="a", passages=[]) for i in range(len(values))},
    }
    return GenerationResult(**{**settings, **changes})


def report(*results: RetrievalResult | GenerationResult, **changes: Any) -> Report:
    return Report(
        suite="tiny",
        date="2026-01-01",
        machine="none",
        versions={},
        retrieval=[each for each in results if isinstance(each, RetrievalResult)],
        generation=[each for each in results if isinstance(each, GenerationResult)],
        **changes,
    )


GOOD = [1] * 40 + [2] * 10


def test_the_same_system_passes() -> None:
    found = compare(report(retrieval(GOOD)), report(retrieval(GOOD)))
    assert [(each.metric, each.difference, each.regression) for each in found] == [
        ("MRR", 0, False),
        ("R@10", 0, False),
    ]
    assert found[0].changed == []


def test_a_real_drop_is_a_regression_with_its_queries() -> None:
    """Ten queries fall from first to second place: MRR from 0.9 to 0.8."""
    worse = [2] * 10 + [1] * 30 + [2] * 10
    mrr, recall = compare(report(retrieval(worse)), report(retrieval(GOOD)))
    assert (mrr.before, mrr.after, mrr.regression) == (pytest.approx(0.9), pytest.approx(0.8), True)
    assert mrr.p_worse == pytest.approx(2 / 2**10)  # all ten fell: one exchange of 1,024, and two comparisons
    assert not recall.regression
    assert [change.query for change in largest_losses(mrr.changed)] == sorted(f"q{i}" for i in range(10))
    text = describe(mrr, limit=1)
    assert text.startswith("MRR of 'dense' on 'tiny' fell from 0.9000 to 0.8000: -0.1000, 95 % interval -0.1")
    assert text.endswith("q0: 'text of q0': rank 1 -> rank 2; first is now first of q0")


def test_a_drop_within_the_tolerance_passes() -> None:
    worse = [2] * 10 + [1] * 30 + [2] * 10
    rules = GateRules(tolerance=0.11)
    assert not any(each.regression for each in compare(report(retrieval(worse)), report(retrieval(GOOD)), rules))


def test_a_drop_by_chance_passes() -> None:
    """Three of fifty fall and two rise by as much: a drop of 0.01 that means nothing."""
    worse = [2, 2, 2, *GOOD[3:40], 1, 1, *GOOD[42:]]
    mrr = compare(report(retrieval(worse)), report(retrieval(GOOD)))[0]
    assert mrr.difference == pytest.approx(-0.01)
    assert not mrr.regression


def test_a_drop_that_too_few_queries_show_is_inconclusive() -> None:
    """Of 40 queries eight fall from rank 1 to 2 and two to nowhere, three rise from 2 to 1: MRR falls by 0.1125."""
    before = [1] * 10 + [2] * 3 + [1] * 27
    now = [2] * 6 + [None] * 2 + [1] * 2 + [1] * 3 + [1] * 27
    rules = GateRules(metrics=("MRR",), alpha=0.01)
    (found,) = compare(report(retrieval(now)), report(retrieval(before)), rules)
    assert found.difference == pytest.approx((6 * -0.5 + 2 * -1 + 3 * 0.5) / 40)
    assert (found.queries, found.regression, found.inconclusive) == (40, False, True)
    assert found.detectable is not None
    assert -found.difference < found.detectable < 0.3
    text = describe(found, limit=0)
    assert "40 queries are too few to tell a drop of 0.0875 from chance" in text
    assert text.endswith(f"the smallest drop that is detected with 80 % power is about {found.detectable:.4f}")

    (larger,) = compare(report(retrieval(now * 5)), report(retrieval(before * 5)), rules)
    assert (larger.regression, larger.inconclusive) == (True, False)  # five times the queries tell
    assert "too few" not in describe(larger)
    (same,) = compare(report(retrieval(before)), report(retrieval(before)), rules)
    assert (same.detectable, same.inconclusive) == (None, False)


def test_a_handful_of_queries_shows_no_drop_at_all() -> None:
    """Three queries of three fall, but the p value of three is at least 1/8."""
    (found,) = compare(report(retrieval([None] * 3)), report(retrieval([1] * 3)), GateRules(metrics=("MRR",)))
    assert (found.regression, found.inconclusive, found.detectable) == (False, True, None)
    assert "no drop is detected with 80 % power; measure more queries" in describe(found)


def test_the_detectable_drop_allows_for_the_correction_and_the_tolerance() -> None:
    now = report(retrieval([2, 1] * 100))
    (alone,) = compare(now, report(retrieval([1, 2] * 100)), GateRules(metrics=("MRR",)))
    corrected, _ = compare(now, report(retrieval([1, 2] * 100)), GateRules(metrics=("MRR", "R@10")))
    (tolerant,) = compare(now, report(retrieval([1, 2] * 100)), GateRules(metrics=("MRR",), tolerance=0.4))
    assert alone.detectable is not None
    assert corrected.detectable is not None
    assert alone.detectable < corrected.detectable
    assert tolerant.detectable == 0.4


def test_many_metrics_are_corrected_for() -> None:
    """A drop at p = 0.03 alone is none among four comparisons."""
    fell = [None] * 5 + [1] * 45
    one = compare(report(retrieval(fell)), report(retrieval([1] * 50)), GateRules(metrics=("MRR",)))
    assert one[0].p_worse == pytest.approx(1 / 32)
    assert one[0].regression
    other = retrieval(GOOD, system="other")
    four = compare(report(retrieval(fell), other), report(retrieval([1] * 50), other))
    assert [each.regression for each in four] == [False] * 4


def test_answers_are_gated_too_with_retrieved_passages_only() -> None:
    before = report(answers([0.9] * 12), answers([0.9] * 12, condition="gold", system=""))
    now = report(answers([0.5] * 12), answers([0.1] * 12, condition="gold", system=""))
    found = compare(now, before)
    assert [(each.task, each.metric, each.regression) for each in found] == [("write", "rougeL", True)]
    with pytest.raises(IncomparableError, match="another writer than its baseline: 'big' and 'extractive'"):
        compare(report(answers([0.5] * 12, writer="big")), report(answers([0.9] * 12)))


def test_only_the_systems_named_are_gated_and_new_ones_are_let_in() -> None:
    base = report(retrieval(GOOD), retrieval(GOOD, system="other"))
    now = report(retrieval(GOOD), retrieval([None] * 50, system="other"), retrieval([None] * 50, system="new"))
    assert {each.system for each in compare(now, base)} == {"dense", "other"}
    assert not any(each.regression for each in compare(now, base, GateRules(systems=("dense",))))
    with pytest.raises(IncomparableError, match=r"names the system 'dens', which neither .* they have dense, new, oth"):
        compare(now, base, GateRules(systems=("dense", "dens")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"benchmark_fingerprint": "xyz"},
            "another benchmark .tiny; codes, queries or judgements differ., fingerprint",
        ),
        ({"protocol": "pools of 1000 (seed 0)"}, "another protocol than its baseline: 'pools of 1000"),
        ({"depth": 10}, "another depth than its baseline: 10 and 100"),
        ({"system": "renamed"}, "the baseline has 'dense' on 'tiny', which this run lacks"),
        ({"values": {"MRR": {"q0": 1.0}}}, "answered other queries"),
        ({"values": {"MAP": {}}}, "has no metric 'MRR', only MAP"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IncomparableError, match=message):
        compare(report(replace(retrieval(GOOD), **changes)), report(retrieval(GOOD)))


def test_a_task_left_out_is_named_with_its_reason() -> None:
    with pytest.raises(IncomparableError, match="which this run lacks: there is no cosqa/; run it"):
        compare(report(skipped={"tiny": "there is no cosqa/"}), report(retrieval(GOOD)))
    with pytest.raises(IncomparableError, match="no system and task in common"):
        compare(report(retrieval(GOOD)), report())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"tolerance": 1.0}, "tolerance must be less than 1, got 1.0"),
        ({"tolerance": math.nan}, "tolerance must be"),
        ({"alpha": 0.0}, "alpha must be greater than 0, got 0.0"),
        ({"metrics": ()}, "metrics must .* at least 1 item"),
        ({"metrics": ("P@1",)}, "unknown metric 'P@1'; use MRR"),
        ({"speed": 1}, "there is no setting 'speed'"),
    ],
)
def test_rules_refuse_nonsense(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateRules(**rules)


def test_chance_raises_few_alarms_and_harm_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's error rates on simulated runs: 40 that differ by chance alone, and 20 that lose a quarter."""
    monkeypatch.setattr(significance, "RESAMPLES", 1000)  # enough to tell p values from 0.05
    rng = np.random.default_rng(0)

    def run(lost: float) -> RetrievalResult:
        ranks = rng.choice([1, 1, 1, 2, 3, 8, 40], 200)
        return retrieval([None if rng.random() < lost else int(rank) for rank in ranks])

    false_alarms = sum(any(each.regression for each in compare(report(run(0)), report(run(0)))) for _ in range(40))
    assert false_alarms <= 5
    seen = sum(any(each.regression for each in compare(report(run(0.25)), report(run(0)))) for _ in range(20))
    assert seen == 20


def test_a_report_is_what_was_saved(tmp_path: Path) -> None:
    whole = report(retrieval([1, None, 3]), answers([0.5]), skipped={"a": "b"})
    whole.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a report of this version"),
        ("[]", "is not a report"),
        ('{"format": 99}', "its format is not 1"),
        ('{"format": 1, "retrieval": [{}], "generation": []}', "has missing or unknown fields: "),
    ],
)
def test_what_is_no_report_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Report.load(tmp_path / "r.json")
    with pytest.raises(ValueError, match=r"cannot be read .*--update-baseline"):
        Report.load(tmp_path / "none.json")


def asked(*found: int | None) -> RetrievalResult:
    """Questions of two categories by turns."""
    return retrieval(list(found), categories={f"q{i}": "symbol" if i % 2 else "semantic" for i in range(len(found))})


def test_categories_are_compared_as_tasks_of_their_own() -> None:
    """Symbols fall from rank 1 to 2 and the others rise from 2 to 1, which the whole does not show."""
    before, after = report(asked(*[2, 1] * 20)), report(asked(*[1, 2] * 20))
    assert [(each.task, each.regression) for each in compare(after, before, GateRules(metrics=("MRR",)))] == [
        ("tiny", False)
    ]
    compared = compare(after, before, GateRules(metrics=("MRR",), categories=True))
    assert [(each.task, each.queries, each.before, each.after, each.regression) for each in compared] == [
        ("tiny", 40, 0.75, 0.75, False),
        ("tiny (semantic)", 20, 0.5, 1.0, False),
        ("tiny (symbol)", 20, 1.0, 0.5, True),
    ]
    assert {change.query for change in compared[2].changed} == {f"q{i}" for i in range(1, 40, 2)}


def test_a_report_from_before_a_field_with_a_default_is_read(tmp_path: Path) -> None:
    whole = report(retrieval([1, None, 3]))
    whole.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    del content["retrieval"][0]["categories"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert Report.load(tmp_path / "report.json") == whole
    content["retrieval"][0]["extra"] = 1
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="RetrievalResult has missing or unknown fields: extra"):
        Report.load(tmp_path / "report.json")
