from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval.eval.metrics import (
    evaluate_run,
    first_relevant,
    mean_reciprocal_rank,
    per_query_metrics,
    pessimistic_rank,
    reciprocal_rank,
)

ALL = ("MRR", "MRR@2", "R@1", "R@10", "nDCG", "nDCG@10", "MAP", "MAP@1")


def test_numbers_worked_out_by_hand() -> None:
    qrels = {"q": {"b": 1, "d": 1, "x": 0}}
    values = {
        name: value["q"] for name, value in per_query_metrics({"q": ["a", "b", "x", "d"]}, qrels, metrics=ALL).items()
    }
    dcg = 1 / math.log2(3) + 1 / math.log2(5)  # ranks 2 and 4
    ideal = 1 + 1 / math.log2(3)
    assert values == pytest.approx(
        {
            "MRR": 1 / 2,
            "MRR@2": 1 / 2,
            "R@1": 0,
            "R@10": 1,
            "nDCG": dcg / ideal,
            "nDCG@10": dcg / ideal,
            "MAP": (1 / 2 + 2 / 4) / 2,
            "MAP@1": 0,
        }
    )


def test_recall_at_1_with_two_relevant_codes_is_one_half() -> None:
    assert evaluate_run({"q": ["a", "b"]}, {"q": {"a": 1, "b": 1}}, metrics=["R@1", "R@2"]) == {"R@1": 0.5, "R@2": 1.0}


def test_a_cutoff_ends_the_reciprocal_rank() -> None:
    run = {"q": [f"c{i}" for i in range(20)]}
    assert evaluate_run(run, {"q": {"c10": 1}}, metrics=["MRR", "MRR@10", "MRR@11"]) == pytest.approx(
        {"MRR": 1 / 11, "MRR@10": 0, "MRR@11": 1 / 11}
    )


def test_graded_judgements_weigh_in_ndcg() -> None:
    value = evaluate_run({"q": ["a", "b"]}, {"q": {"a": 1, "b": 3}}, metrics=["nDCG@10"])["nDCG@10"]
    assert value == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


@pytest.mark.parametrize("ranking", [["a", "z"], ["z", "a"]])
def test_the_order_of_the_run_decides_and_not_the_ids(ranking: list[str]) -> None:
    for relevant in ranking:
        assert evaluate_run({"q": ranking}, {"q": {relevant: 1}}, metrics=["MRR"]) == {
            "MRR": 1 / (ranking.index(relevant) + 1)
        }


def test_long_rankings_are_read_to_their_end_in_order() -> None:
    ids = [f"c{i}" for i in range(50_000)]
    random.Random(0).shuffle(ids)
    for rank in (1_001, 20_000, 50_000):
        run, qrels = {"q": ids}, {"q": {ids[rank - 1]: 1}}
        metrics = [f"R@{rank - 1}", f"R@{rank}", "MRR", f"MRR@{rank}", "MAP"]
        assert list(evaluate_run(run, qrels, metrics=metrics).values()) == pytest.approx([0, 1, *[1 / rank] * 3])


def test_queries_without_hits_count_as_zero() -> None:
    qrels = {"q3": {"a": 1}, "q1": {"a": 1}, "q2": {"a": 1}}
    values = per_query_metrics({"q1": ["a"], "q2": []}, qrels, metrics=ALL)
    for name, by_query in values.items():
        assert list(by_query.items()) == [("q3", 0.0), ("q1", 1.0), ("q2", 0.0)], name
    assert evaluate_run({}, qrels, metrics=ALL) == dict.fromkeys(ALL, 0.0)


def test_reciprocal_rank_agrees_with_its_definition() -> None:
    rng = random.Random(1)
    ids = [f"c{i}" for i in range(30)]
    run = {f"q{i}": rng.sample(ids, rng.randint(0, 30)) for i in range(50)}
    qrels = {query: {code: rng.randint(0, 1) for code in ids[:5]} | {"c0": 1} for query in run}
    expected = {
        query: next((1 / rank for rank, code in enumerate(ranking, start=1) if qrels[query].get(code, 0) > 0), 0.0)
        for query, ranking in run.items()
    }
    values = per_query_metrics(run, qrels, metrics=["MRR", "MRR@30"])
    assert values["MRR"] == pytest.approx(expected)
    assert values["MRR@30"] == pytest.approx(expected)


def test_metrics_come_in_the_order_asked_for_and_the_arguments_stay() -> None:
    run, qrels = {"q": ["a", "b"]}, {"q": {"b": 2, "a": 0}}
    assert list(evaluate_run(run, qrels, metrics=["nDCG@10", "MRR", "R@1"])) == ["nDCG@10", "MRR", "R@1"]
    assert list(evaluate_run(run, qrels)) == ["MRR", "R@1", "R@10"]
    assert run == {"q": ["a", "b"]}
    assert qrels == {"q": {"b": 2, "a": 0}}


@pytest.mark.parametrize("name", ["R", "P@1", "MRR@0", "R@-1", "ndcg@10", "MRR @10", ""])
def test_unknown_metrics_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown metric '.*'; use MRR, MRR@k, R@k, nDCG"):
        evaluate_run({"q": ["a"]}, {"q": {"a": 1}}, metrics=[name])
    with pytest.raises(ValueError, match="metrics is empty"):
        evaluate_run({"q": ["a"]}, {"q": {"a": 1}}, metrics=[])


@pytest.mark.parametrize(
    ("run", "qrels", "message"),
    [
        ({"q": ["a", "b", "a"]}, {"q": {"a": 1}}, "query 'q' ranks 'a' twice"),
        ({"q": ["a"]}, {"q": {"a": 0}}, "query 'q' has no relevant id"),
        ({}, {"q": {}}, "query 'q' has no relevant id"),
        ({"other": ["a"]}, {"q": {"a": 1}}, "query 'other', which the qrels lack"),
        ({}, {}, "the qrels hold no query"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    run: dict[str, list[str]], qrels: dict[str, dict[str, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_run(run, qrels)


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("module", ["metrics", "datasets"])
def test_imports_no_torch(module: str) -> None:
    done = _python(f"import llamaindex_code_retrieval.eval.{module}, sys; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_scoring_imports_no_torch() -> None:
    done = _python(
        "import sys; from llamaindex_code_retrieval.eval.metrics import evaluate_run;"
        "evaluate_run({'q': ['a']}, {'q': {'a': 1}}, metrics=['MRR@10', 'nDCG@10']); sys.exit('torch' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_ir_measures_names_the_extra() -> None:
    done = _python(
        "import sys; sys.modules['ir_measures'] = None;"  # Python's own way to make an import fail
        "from llamaindex_code_retrieval.eval.metrics import evaluate_run; evaluate_run({}, {'q': {'a': 1}})"
    )
    assert done.returncode == 1
    assert "ImportError: computing metrics needs ir_measures" in done.stderr
    assert "pip install 'llamaindex-code-retrieval[eval]'" in done.stderr


def test_first_relevant_ranks() -> None:
    run = {"q1": ["a", "b"], "q2": ["a"]}
    assert first_relevant(run, {"q1": {"b": 2, "a": 0}, "q2": {"b": 1}, "q3": {"a": 1}}) == {
        "q1": 2,
        "q2": None,
        "q3": None,
    }


@given(st.permutations(list("abcdefgh")), st.sets(st.sampled_from("abcdefgh"), min_size=1))
def test_what_follows_the_last_relevant_code_changes_no_metric(ranking: list[str], relevant: set[str]) -> None:
    """So it is left out; here against ir_measures on the whole ranking."""
    import ir_measures

    qrels = {"q": dict.fromkeys(relevant, 1)}
    names = {"MRR": "RR", "MAP": "AP", "nDCG@3": "nDCG@3", "R@5": "R@5", "nDCG": "nDCG"}
    whole = {"q": {code: float(-rank) for rank, code in enumerate(ranking)}}
    expected = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in names.values()], qrels, whole)
    found = evaluate_run({"q": ranking}, qrels, metrics=list(names))
    for name, measure in names.items():
        assert found[name] == pytest.approx(expected[ir_measures.parse_measure(measure)])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_a_pessimistic_rank_is_the_worst_of_all_orders_of_ties(scores: list[int], data: st.DataObject) -> None:
    relevant = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i in relevant))
    expected = next(rank for rank, i in enumerate(order, start=1) if i in relevant)
    assert pessimistic_rank(scores, sorted(relevant)) == expected


def test_pessimistic_ranks_by_hand() -> None:
    assert pessimistic_rank([0.1, 0.9], [1]) == 1
    assert pessimistic_rank([0.9, 0.9, 0.9], [0]) == 3
    assert pessimistic_rank([0.9, 0.9, 0.9], [0, 0, 2]) == 2  # another relevant item does not stand before the best
    assert pessimistic_rank([0.9, 0.9 - 1e-7, 0.2], [0], tolerance=1e-6) == 2
    assert pessimistic_rank([0.9, 0.9 - 1e-7, 0.2], [0]) == 1
    assert pessimistic_rank([0.9], []) is None
    with pytest.raises(ValueError, match="the scores contain NaN"):
        pessimistic_rank([0.5, math.nan], [0])


def test_mean_reciprocal_ranks_are_what_mrr_is() -> None:
    run, qrels = {"q1": ["b", "a"], "q2": ["c"]}, {"q1": {"a": 1}, "q2": {"c": 1}, "q3": {"a": 1}}
    ranks = first_relevant(run, qrels)
    assert mean_reciprocal_rank(ranks.values()) == evaluate_run(run, qrels, metrics=["MRR"])["MRR"] == 0.5
    assert per_query_metrics(run, qrels, metrics=["MRR"])["MRR"] == {q: reciprocal_rank(r) for q, r in ranks.items()}
    with pytest.raises(ValueError, match="no ranks to average"):
        mean_reciprocal_rank([])
