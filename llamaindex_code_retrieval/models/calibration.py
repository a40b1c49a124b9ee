"""Turn a reranker's log-odds into probabilities, and decide when reranking may stop early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A reranker's calibration, fitted on held-out queries; the default values change nothing.

    A code by itself has the probability sigmoid(log-odds / temperature + shift). A hit of rank r of a first stage has
    the calibrated log-odds log-odds / fused_temperature - rank_weight * ln(r) + fused_shift; with ``rank_weight`` 0 the
    first stage has no influence.
    """

    temperature: float = 1.0
    shift: float = 0.0
    fused_temperature: float = 1.0
    rank_weight: float = 0.0
    fused_shift: float = 0.0
    depth: int = 0
    """Hits of each query that the calibration was fitted on."""
    error: float | None = None
    """Expected calibration error of the hits' probabilities, on queries that were not used to fit them."""
    ceilings: dict[str, list[float]] = field(default_factory=dict)
    """Confidence -> for r = 0, 1, ...: the log-odds that the hits behind the first r do not exceed, for that share of
    the queries."""
    repository_weight: float | None = None
    """Weight of the log-odds for hits that are parts of files of a repository; 0 keeps the order of the first stage,
    ``None`` ranks them as any other hits. It is not fitted: set it in ``reranker.json`` after measuring."""

    def __post_init__(self) -> None:
        weight = self.repository_weight
        if weight is not None and not 0 <= weight < math.inf:
            raise ValueError(f"repository_weight must be a finite number of at least 0, got {weight}")

    def code_log_odds(self, log_odds: float) -> float:
        """Return the calibrated log-odds of a code without a rank."""
        return log_odds / self.temperature + self.shift

    def hit_log_odds(self, log_odds: float, rank: int, *, rank_weight: float | None = None) -> float:
        """Return the calibrated log-odds of the first stage's hit at ``rank``, counted from 1."""
        weight = self.rank_weight if rank_weight is None else rank_weight
        return log_odds / self.fused_temperature - weight * math.log(rank) + self.fused_shift

    def repository_log_odds(
        self, log_odds: Sequence[float], scores: Sequence[float | None], *, weight: float, rank_weight: float | None
    ) -> list[float]:
        """Return by what hits that are parts of files are ordered, where the log-odds have ``weight``.

        ``scores`` are those of the first stage, best first. It is ln(score) + weight * calibrated log-odds if all
        scores are over 0 and at most 1, else :meth:`hit_log_odds` with ``weight`` times the log-odds.
        """
        usable = [score for score in scores if score is not None and 0 < score <= 1]
        if len(usable) < len(scores):
            return [
                self.hit_log_odds(weight * value, rank, rank_weight=rank_weight)
                for rank, value in enumerate(log_odds, start=1)
            ]
        return [
            math.log(score) + weight * self.code_log_odds(value) for score, value in zip(usable, log_odds, strict=True)
        ]

    def ceiling(self, confidence: float) -> list[float]:
        """Return the ceilings for early exit at ``confidence``.

        Raises:
            ValueError: the reranker was not calibrated at this confidence.
        """
        for name, ceiling in self.ceilings.items():
            if math.isclose(float(name), confidence):
                return ceiling
        known = f"it was calibrated at {', '.join(self.ceilings)}" if self.ceilings else "it was never calibrated"
        raise ValueError(f"the reranker cannot stop at confidence {confidence}: {known}; leave early_exit out")


EXIT_CHUNK = 10
"""Hits that early exit scores before it checks again whether to stop."""


def settled(log_odds: Sequence[float], ceiling: Sequence[float], *, top_n: int) -> bool:
    """Return whether no further hit is expected among the ``top_n``: the rule of early exit.

    >>> settled([2.0, -1.0, 0.5], [3.0, 2.5, 1.0, 0.5], top_n=2), settled([2.0, -1.0], [3.0, 2.5, 1.0, 0.5], top_n=2)
    (True, False)
    """
    if len(log_odds) < top_n:
        return False
    # The last ceiling holds for all ranks beyond the calibrated ones: their hits are worse.
    return sorted(log_odds)[-top_n] >= ceiling[min(len(log_odds), len(ceiling) - 1)]


def scored_until_settled(
    log_odds: Sequence[float], ceiling: Sequence[float], *, top_n: int, chunk: int = EXIT_CHUNK
) -> int:
    """Return how many hits early exit would score, given the log-odds of all of them in the order of the first stage.

    >>> scored_until_settled([2.0, -1.0, 0.5, 0.0, 0.0], [3.0, 2.5, 1.0, 0.5], top_n=1, chunk=2)
    2
    """
    scored = 0
    while scored < len(log_odds):
        scored = min(scored + chunk, len(log_odds))
        if settled(log_odds[:scored], ceiling, top_n=top_n):
            break
    return scored


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """Return the expected calibration error over bins of equal width (Guo et al. 2017, equation 3).

    >>> calibration_error([0.8, 0.8, 0.8, 0.8, 0.8], [True, True, True, True, False])
    0.0
    """
    predicted, actual = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    bin_of = np.minimum((predicted * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=predicted - actual, minlength=bins)  # per bin: its count times its error
    return round(float(np.abs(gaps).sum()) / len(predicted), 12)


def probability(log_odds: float) -> float:
    """Return the logistic function of ``log_odds``, without overflow.

    >>> probability(0.0), probability(1000.0)
    (0.5, 1.0)
    """
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    odds = math.exp(max(log_odds, -700.0))
    return odds / (1 + odds)


def probabilities(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the :func:`probability` of each element.

    >>> probabilities(np.array([[0.0, 1000.0]]))
    array([[0.5, 1. ]])
    """
    values: NDArray[np.float64] = np.vectorize(probability, otypes=[np.float64])(log_odds)
    return values
