"""Confidence intervals and significance tests of differences between two runs, paired by query. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from llamaindex_code_retrieval._optional import require

RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 2_000_000  # 16 MB; all resamples of 10,000 queries would take 800 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean of after minus before over the same queries."""

    mean: float
    low: float
    high: float
    """95 % interval by paired bootstrap (percentiles)."""
    p_worse: float
    """One-sided p value of a paired randomisation test: how likely a mean this low is if ``after`` is not worse."""
    p: float
    """Two-sided p value."""


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean; for equal values, that value twice.

    Raises:
        ValueError: there are no values.

    >>> interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        raise ValueError("an interval needs at least one value")
    if len(sample) == 1 or np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    between = (
        _scipy()
        .bootstrap(
            (sample,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=max(1, _NUMBERS_AT_ONCE // len(sample)),
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        .confidence_interval
    )
    return float(between.low), float(between.high)


def paired_difference(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Difference:
    """Compare the values of two runs on the same queries, in the same order.

    The randomisation test swaps before and after of each query at random (Smucker, Allan, Carterette 2007); it is
    exact if few queries differ. The seed is fixed, so that the same runs give the same result.

    Raises:
        ValueError: the runs have different lengths, or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"the two runs must have the same queries, at least one; got {len(before)} and {len(after)}")
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    low, high = interval(difference.tolist(), seed=seed)
    changed = difference[difference != 0]  # swapping equal values changes nothing
    if not len(changed):
        return Difference(mean=0.0, low=0.0, high=0.0, p_worse=1.0, p=1.0)
    if len(changed) == 1:
        changed = np.append(changed, 0.0)  # scipy requires two
    below, above = (
        float(
            _scipy()
            .permutation_test(
                (changed,),
                np.sum,
                permutation_type="samples",
                alternative=alternative,
                n_resamples=RESAMPLES - 1,
                batch=max(1, _NUMBERS_AT_ONCE // len(changed)),
                vectorized=True,
                rng=np.random.default_rng(seed),
            )
            .pvalue
        )
        for alternative in ("less", "greater")
    )
    return Difference(
        mean=fmean(difference.tolist()), low=low, high=high, p_worse=below, p=min(1.0, 2 * min(below, above))
    )


def detectable_drop(
    before: Sequence[float], after: Sequence[float], *, alpha: float, power: float = 0.8
) -> float | None:
    """Return the smallest drop of the mean that :func:`paired_difference` detects with probability ``power``.

    That is the drop D with D = z * sqrt(variance(D) / queries), where z is the sum of the normal quantiles of
    1 - ``alpha`` (one-sided) and ``power``. The variance is that of the paired differences. It grows with the drop,
    because a larger drop means that more queries fall, each by the mean absolute change: variance(D) = variance +
    (D - observed drop) * mean absolute change.

    ``None`` if no query changed, so that nothing is known about the spread, or if there are so few queries that no
    drop can be significant: the p value of the test is at least 2^-queries.

    >>> round(detectable_drop([1.0, 0.5] * 20, [0.5, 1.0] * 20, alpha=0.05), 3)
    0.239
    """
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    queries = len(difference)
    changes = np.abs(difference[difference != 0])
    if not len(changes) or 0.5**queries > alpha:
        return None
    change = float(changes.mean())
    observed = max(0.0, -float(difference.mean()))
    variance = max(0.0, float(difference.var()) - observed * change)  # without the part that is due to the drop
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)
    half = z * z * change / queries / 2
    return half + math.sqrt(half * half + z * z * variance / queries)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for multiple tests (Holm 1979), in the order given.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    worst = 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = worst
    return corrected


def _scipy() -> Any:
    return require("scipy.stats", extra="eval", purpose="computing intervals and tests")
