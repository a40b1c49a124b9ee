"""Targets of questions: what covers them, and NDCG with values worked out by hand."""

from __future__ import annotations

import math
import random

import pytest

from llamaindex_code_retrieval.eval.metrics import per_query_metrics
from llamaindex_code_retrieval.eval.targets import Place, Target, ndcg, rank_targets


@pytest.mark.parametrize(
    ("target", "place", "covered"),
    [
        (Target("src/a.py"), Place("src/a.py", 1, 3), True),
        (Target("a.py"), Place("src/a.py", 1, 3), True),
        (Target("src/a.py"), Place("a.py", 1, 3), True),
        (Target("a.py"), Place("src/aa.py", 1, 3), False),
        (Target("src/a.py"), Place("lib/a.py", 1, 3), False),
        (Target("a.py", 10, 20), Place("a.py", 1, 9), False),
        (Target("a.py", 10, 20), Place("a.py", 1, 10), True),
        (Target("a.py", 10, 20), Place("a.py", 12, 13), True),
        (Target("a.py", 10, 20), Place("a.py", 20, 40), True),
        (Target("a.py", 10, 20), Place("a.py", 21, 40), False),
        (Target("a.py", 10, 20), Place("b.py", 10, 20), False),
    ],
)
def test_a_hit_covers_a_target_that_it_touches(target: Target, place: Place, covered: bool) -> None:
    assert target.is_covered_by(place) is covered


def test_ndcg_by_hand() -> None:
    """Targets at the ranks 2 and 4 of two: (1/log2(3) + 1/log2(5)) / (1/log2(2) + 1/log2(3))."""
    hits = [Place(f"{name}.py", 1, 5) for name in "wxyz"]
    targets = [Target("z.py", 5, 6), Target("x.py")]
    assert ndcg(hits, targets) == pytest.approx((0.6309298 + 0.4306766) / (1 + 0.6309298), abs=1e-6)
    assert ndcg(hits, targets, k=3) == pytest.approx(0.6309298 / (1 + 0.6309298), abs=1e-6)
    assert ndcg(hits, [Target("w.py")]) == 1.0
    assert ndcg(hits, [Target("v.py")]) == ndcg([], [Target("v.py")]) == 0.0


def test_further_hits_of_a_target_count_nothing_and_take_a_place() -> None:
    hits = [Place("a.py", 1, 5), Place("a.py", 6, 9), Place("b.py", 1, 5)]
    assert rank_targets(hits, [Target("a.py"), Target("b.py")])[0] == ["target 1", "hit 2", "target 2"]
    assert ndcg(hits, [Target("a.py"), Target("b.py")]) == pytest.approx((1 + 0.5) / (1 + 0.6309298), abs=1e-6)


def test_two_targets_that_one_hit_covers_first_count_once() -> None:
    hits = [Place("a.py", 1, 50), Place("a.py", 10, 20)]
    targets = [Target("a.py", 10, 12), Target("a.py", 15, 20)]
    assert rank_targets(hits, targets)[0] == ["target 1", "hit 2"]
    assert ndcg(hits, targets) == pytest.approx(1 / (1 + 0.6309298), abs=1e-6)


def by_the_formula(hits: list[Place], targets: list[Target], k: int) -> float:
    """The measure as semble's benchmark states it."""
    gains = [0.0] * k
    for target in targets:
        rank = next((rank for rank, hit in enumerate(hits) if target.is_covered_by(hit)), None)
        if rank is not None and rank < k:
            gains[rank] = 1 / math.log2(rank + 2)
    return sum(gains) / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(targets))))


def test_ndcg_is_that_of_the_formula_on_random_hits() -> None:
    rng = random.Random(0)
    paths = ["a.py", "src/a.py", "src/b.py", "lib/c.py", "c.py"]

    def lines() -> tuple[int, int]:
        first = rng.randint(1, 30)
        return first, first + rng.randint(0, 12)

    for _ in range(300):
        hits = [Place(rng.choice(paths), *lines()) for _ in range(rng.randint(0, 14))]
        targets = [
            Target(rng.choice(paths), *(lines() if rng.random() < 0.5 else ())) for _ in range(rng.randint(1, 12))
        ]
        for k in (3, 10):
            assert ndcg(hits, targets, k=k) == pytest.approx(by_the_formula(hits, targets, k), abs=1e-9)


def test_the_other_metrics_count_targets() -> None:
    """Three targets, found at the ranks 2 and 3: MRR is 1/2, R@2 a third and R@3 two thirds."""
    hits = [Place(f"{name}.py", 1, 5) for name in "wxy"]
    ranking, judgements = rank_targets(hits, [Target("y.py"), Target("x.py"), Target("v.py")])
    values = per_query_metrics({"q": ranking}, {"q": judgements}, metrics=["MRR", "R@2", "R@3"])
    assert {metric: value["q"] for metric, value in values.items()} == pytest.approx(
        {"MRR": 1 / 2, "R@2": 1 / 3, "R@3": 2 / 3}
    )


@pytest.mark.parametrize(
    ("path", "lines", "message"),
    [
        ("", (), "path must be relative to the repository, with forward slashes, as in src/app.py, got ''"),
        ("/etc/a.py", (), "path must be relative .* got '/etc/a.py'"),
        ("./a.py", (), "path must be relative"),
        ("src/../a.py", (), "path must be relative"),
        ("src\\a.py", (), "path must be relative"),
        ("src/", (), "path must be relative"),
        ("a.py", (3, None), "start_line and end_line need each other"),
        ("a.py", (None, 3), "start_line and end_line need each other"),
        ("a.py", (0, 3), "start_line must be at least 1 and end_line not before it, got 0 and 3"),
        ("a.py", (4, 3), "start_line must be at least 1 and end_line not before it, got 4 and 3"),
    ],
)
def test_a_target_refuses_nonsense(path: str, lines: tuple[int | None, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target(path, *lines)
