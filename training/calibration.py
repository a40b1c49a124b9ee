"""Calibration of a reranker on held-out queries: probabilities, the first stage's weight, when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llamaindex_code_retrieval.models.calibration import Calibration, calibration_error

CONFIDENCES = (0.8, 0.9, 0.95, 0.99)
_WEIGHTS = (0.0, *(round(0.1 * 1.25**i, 4) for i in range(20)))  # of ln(rank), in log-odds as the model gives them


def calibrate(log_odds: Sequence[Sequence[float]], relevant: Sequence[Sequence[bool]]) -> Calibration:
    """Return what makes probabilities of log-odds, and says when a hit further down has no chance.

    Both have one row a query: its hits in the order of the first stage, best first, all rows of one length.
    The weight of the rank is the one with the best MRR, the least of equals; temperature and shift have the least
    log loss (temperature scaling: Guo et al. 2017, with a shift, because most hits are wrong). The error is measured
    on each half of the queries with what was found on the other.

    Raises:
        ValueError: fewer than 10 queries; no query with, or none without, a relevant hit at some place.
    """
    scores = np.array(log_odds, dtype=np.float64)  # (queries, hits)
    labels = np.array(relevant, dtype=bool)
    if len(scores) < 10 or scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"calibration needs at least 10 queries with equally many hits each, got {len(scores)}")
    if not labels.any() or labels.all():
        raise ValueError("calibration needs hits that are relevant and hits that are not, and got one kind only")
    found = _fit(scores, labels)
    halves = [np.arange(len(scores)) % 2 == i for i in (0, 1)]
    errors = []
    for one, other in (halves, halves[::-1]):
        if labels[one].any():
            expected = _probabilities(fused(_fit(scores[one], labels[one]), scores[other]))
            errors.append(calibration_error(expected.ravel(), labels[other].ravel()))
    return replace(
        found,
        depth=scores.shape[1],
        error=round(float(np.mean(errors)), 5) if errors else None,
        ceilings=_ceilings(fused(found, scores)),
    )


def fused(calibration: Calibration, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fused log-odds of ``(queries, hits)`` in the order of the first stage."""
    ranks = np.log(np.arange(1, scores.shape[1] + 1))
    weighed: NDArray[np.float64] = scores / calibration.fused_temperature - calibration.rank_weight * ranks
    return weighed + calibration.fused_shift


def _fit(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    ranks = np.log(np.arange(1, scores.shape[1] + 1))
    weight = max(_WEIGHTS, key=lambda w: (round(_mrr(scores - w * ranks, labels), 9), -w))
    temperature, shift = _logistic(scores, labels)
    fused_temperature, fused_shift = _logistic(scores - weight * ranks, labels)
    return Calibration(
        temperature=temperature,
        shift=shift,
        fused_temperature=fused_temperature,
        rank_weight=weight / fused_temperature,
        fused_shift=fused_shift,
    )


def _mrr(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(labels, order, axis=1)
    return float(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0).mean())


def _logistic(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the temperature and shift of least log loss."""
    x, y = torch.from_numpy(scores.ravel()), torch.from_numpy(labels.ravel()).double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature, shift], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # Held loosely to 1, lest perfect separation should drive the temperature to 0.
        value = F.binary_cross_entropy_with_logits(x / log_temperature.exp() + shift, y) + 1e-4 * log_temperature**2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return math.exp(float(log_temperature.detach())), float(shift.detach())


def _probabilities(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
    return probabilities


def _ceilings(scores: NDArray[np.float64]) -> dict[str, list[float]]:
    """Return by confidence, for each number of hits already seen, what the best of the rest stays under.

    The quantile is that of conformal prediction: of n queries the ceil((n + 1) * confidence)-th smallest, so that it
    holds for a new query of the same kind (Vovk et al. 2005).
    """
    best_of_rest = np.sort(np.maximum.accumulate(scores[:, ::-1], axis=1)[:, ::-1], axis=0)  # (queries, seen)
    n = len(scores)
    return {
        str(confidence): [round(float(value), 4) for value in best_of_rest[min(math.ceil((n + 1) * confidence), n) - 1]]
        for confidence in CONFIDENCES
    }
