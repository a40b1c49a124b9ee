"""Is a difference between two runs more than chance? Paired over the queries; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from llamaindex_code_retrieval._optional import require

RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 2_000_000  # 16 MB: all resamples over 10,000 queries would be 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean of after minus before over the same queries."""

    mean: float
    low: float
    high: float
    """95 % interval by paired bootstrap (percentiles)."""
    p_worse: float
    """Chance of a mean as low as this, or lower, were after no worse: paired randomisation test."""
    p: float
    """Two-sided."""


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean by bootstrap; of equal values, that value twice.

    >>> interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        raise ValueError("there are no values to take an interval of")
    if len(sample) == 1 or np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = (
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
    return float(found.low), float(found.high)


def paired_difference(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Difference:
    """Compare two runs' values of the same queries, in the same order.

    The randomisation test exchanges before and after of each query by chance (Smucker, Allan, Carterette 2007); it is
    exact where there are few queries that differ. The seed is fixed, so that the same runs give the same answer.

    Raises:
        ValueError: the two are of unlike length, or empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"the two runs must have the same queries, one at least; got {len(before)} and {len(after)}")
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    low, high = interval(difference.tolist(), seed=seed)
    changed = difference[difference != 0]  # exchanging equal values changes nothing
    if not len(changed):
        return Difference(mean=0.0, low=0.0, high=0.0, p_worse=1.0, p=1.0)
    if len(changed) == 1:
        changed = np.append(changed, 0.0)  # scipy wants two
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


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values that hold when all are looked at together (Holm 1979), in the order given.

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
