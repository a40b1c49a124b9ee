"""Turn a cross-encoder's log-odds into probabilities, and decide when reranking may stop early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How log-odds become probabilities, found on held-out queries; as it stands here it changes nothing.

    Alone, a code answers with probability sigmoid(log-odds / temperature + shift). As the hit of rank r of a first
    stage, its log-odds / fused_temperature - rank_weight * ln(r) + fused_shift decide; ``rank_weight`` 0 leaves the
    first stage out.
    """

    temperature: float = 1.0
    shift: float = 0.0
    fused_temperature: float = 1.0
    rank_weight: float = 0.0
    fused_shift: float = 0.0
    depth: int = 0
    """How many hits of each query were looked at."""
    error: float | None = None
    """Expected calibration error of the fused probabilities, on queries that had no part in finding them."""
    ceilings: dict[str, list[float]] = field(default_factory=dict)
    """Confidence -> for r = 0, 1, ...: the fused log-odds that no hit behind the first r exceeds for such a share of
    the queries."""

    def alone(self, log_odds: float) -> float:
        """Return the calibrated log-odds of a code by itself."""
        return log_odds / self.temperature + self.shift

    def fused(self, log_odds: float, rank: int, *, rank_weight: float | None = None) -> float:
        """Return the calibrated log-odds of the hit of ``rank``, from 1."""
        weight = self.rank_weight if rank_weight is None else rank_weight
        return log_odds / self.fused_temperature - weight * math.log(rank) + self.fused_shift


EXIT_CHUNK = 10
"""Hits that early exit scores between two looks at whether to stop."""


def settled(fused: Sequence[float], ceiling: Sequence[float], *, top_n: int) -> bool:
    """Return whether no hit behind those scored is expected among the ``top_n``: early exit's rule.

    >>> settled([2.0, -1.0, 0.5], [3.0, 2.5, 1.0, 0.5], top_n=2), settled([2.0, -1.0], [3.0, 2.5, 1.0, 0.5], top_n=2)
    (True, False)
    """
    if len(fused) < top_n:
        return False
    # Behind what was calibrated the last ceiling holds: first stages put ever worse hits there.
    return sorted(fused)[-top_n] >= ceiling[min(len(fused), len(ceiling) - 1)]


def scored_until_settled(
    fused: Sequence[float], ceiling: Sequence[float], *, top_n: int, chunk: int = EXIT_CHUNK
) -> int:
    """Return how many hits early exit scores of those whose ``fused`` log-odds, in first-stage order, are all known.

    >>> scored_until_settled([2.0, -1.0, 0.5, 0.0, 0.0], [3.0, 2.5, 1.0, 0.5], top_n=1, chunk=2)
    2
    """
    scored = 0
    while scored < len(fused):
        scored = min(scored + chunk, len(fused))
        if settled(fused[:scored], ceiling, top_n=top_n):
            break
    return scored


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """Return the expected calibration error over bins of equal width (Guo et al. 2017, equation 3).

    >>> calibration_error([0.8, 0.8, 0.8, 0.8, 0.8], [True, True, True, True, False])
    0.0
    """
    said, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    place = np.minimum((said * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=said - truth, minlength=bins)  # of each bin: its share times its error
    return round(float(np.abs(gaps).sum()) / len(said), 12)


def probability(log_odds: float) -> float:
    """Return the logistic function, also where its exponential would overflow.

    >>> probability(0.0), probability(1000.0)
    (0.5, 1.0)
    """
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    odds = math.exp(max(log_odds, -700.0))
    return odds / (1 + odds)
