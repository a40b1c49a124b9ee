"""Intervals and tests by hand, by law, and on data whose truth is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llamaindex_code_retrieval.eval import significance
from llamaindex_code_retrieval.eval.significance import detectable_drop, holm, interval, paired_difference


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_few_queries_are_tested_exactly(n: int, seed: int) -> None:
    """Of all 2^n exchanges, p is the share whose sum is as low as the one seen."""
    before, after = np.random.default_rng(seed).random((2, n))
    changes = after - before
    sums = [float(np.dot(signs, np.abs(changes))) for signs in product((-1, 1), repeat=n)]
    expected = np.mean([total <= changes.sum() + 1e-12 for total in sums])
    assert paired_difference(before.tolist(), after.tolist()).p_worse == pytest.approx(expected, abs=1e-9)


def test_three_losses_of_three_by_hand() -> None:
    """All three got worse: one of eight exchanges is as bad."""
    found = paired_difference([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
    assert (found.mean, found.low, found.high) == (-0.5, -0.5, -0.5)
    assert (found.p_worse, found.p) == (1 / 8, 2 / 8)


def test_a_single_query_that_changed_is_half_a_chance() -> None:
    assert paired_difference([1.0, 0.5, 0.2], [1.0, 0.1, 0.2]).p_worse == 0.5
    assert paired_difference([1.0, 0.1, 0.2], [1.0, 0.5, 0.2]).p_worse == 1.0


def test_equal_runs_differ_by_nothing() -> None:
    found = paired_difference([0.2, 1.0, 0.5], [0.2, 1.0, 0.5])
    assert (found.mean, found.low, found.high, found.p_worse, found.p) == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_worse_and_better_mirror_each_other() -> None:
    before, after = np.random.default_rng(3).random((2, 200))
    there = paired_difference(before.tolist(), after.tolist())
    back = paired_difference(after.tolist(), before.tolist())
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=2e-3)
    assert there.p_worse + back.p_worse == pytest.approx(1.0, abs=0.02)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        low, high = interval(rng.beta(2, 2, 100).tolist(), seed=1)
        covered += low <= 0.5 <= high
    assert 89 <= covered <= 99


@pytest.mark.usefixtures("few_resamples")
def test_chance_alone_raises_few_alarms() -> None:
    """Under no difference p is uniform: 100 tests at 0.05 raise 5 on the mean, and over 12 once in a thousand."""
    rng = np.random.default_rng(0)
    alarms = sum(paired_difference(*rng.random((2, 30)).tolist()).p_worse < 0.05 for _ in range(100))
    assert alarms <= 12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in order] == sorted(corrected)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the resamples: enough to tell p values from 0.05, for tests that simulate many runs."""
    monkeypatch.setattr(significance, "RESAMPLES", 1000)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("kind", ["many small changes", "few large changes"])
def test_a_detectable_drop_is_detected_four_times_in_five(kind: str) -> None:
    rng, n, alpha = np.random.default_rng(0), 100, 0.05

    def noise() -> NDArray[np.float64]:
        if kind == "many small changes":
            return rng.normal(0, 0.2, n)
        return (rng.random(n) < 0.2) * rng.choice([-0.5, 0.5, -0.9, 0.9], n)

    zeros = [0.0] * n
    drops = [detectable_drop(zeros, noise().tolist(), alpha=alpha) or 0.0 for _ in range(50)]
    drop = float(np.median(drops))
    change = float(np.abs(noise()[noise() != 0]).mean()) or 0.2
    detected = sum(
        paired_difference(zeros, (noise() - change * (rng.random(n) < drop / change)).tolist()).p_worse < alpha
        for _ in range(40)
    )
    assert 26 <= detected <= 39  # 32 expected


def test_the_detectable_drop_by_hand() -> None:
    """Half of 40 queries fall and half rise by 0.5: z = 1.6449 + 0.8416, and D² = z² (0.25 + 0.5 D) / 40."""
    drop = detectable_drop([1.0, 0.5] * 20, [0.5, 1.0] * 20, alpha=0.05)
    assert drop is not None
    assert drop**2 == pytest.approx((1.6448536 + 0.8416212) ** 2 * (0.25 + 0.5 * drop) / 40)
    assert detectable_drop([1.0] * 9, [1.0] * 9, alpha=0.05) is None
    assert detectable_drop([1.0] * 4, [0.0] * 4, alpha=0.05) is None  # p is at least 1/16
    assert detectable_drop([1.0] * 5, [0.0] * 5, alpha=0.05) is not None
    larger = detectable_drop([1.0, 0.5] * 20, [0.5, 1.0] * 20, alpha=0.05, power=0.95)
    assert larger is not None
    assert larger > drop


def test_refuses_runs_of_other_queries() -> None:
    with pytest.raises(ValueError, match="must have the same queries, at least one; got 2 and 1"):
        paired_difference([1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="at least one value"):
        interval([])
