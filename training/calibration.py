"""Calibrate a reranker on held-out queries: probabilities, the weight of the first stage, ceilings for early exit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llamaindex_code_retrieval.eval.metrics import mean_reciprocal_rank, pessimistic_rank
from llamaindex_code_retrieval.models.calibration import Calibration, calibration_error, probabilities

MIN_QUERIES = 10
"""Fewer queries than this cannot be calibrated on."""
CONFIDENCES = (0.8, 0.9, 0.95, 0.99)
_RANK_WEIGHTS = (0.0, *(round(0.1 * 1.25**i, 4) for i in range(20)))
"""Candidates for the weight of ln(rank), in the units of the reranker's log-odds."""


def calibrate(log_odds: Sequence[Sequence[float]], relevant: Sequence[Sequence[bool]]) -> Calibration:
    """Return the calibration of a reranker from its log-odds of first-stage hits and which of them are relevant.

    Both have the shape ``(queries, hits)``, a row's hits in the order of the first stage, best first. The weight of the
    first stage is the one with the best MRR, the least of equal ones. Temperature and shift minimise the log loss
    (temperature scaling: Guo et al. 2017; the shift is there because most hits are irrelevant). The calibration error
    is measured on each half of the queries with the calibration of the other half.

    Raises:
        ValueError: fewer than 10 queries, or hits of one kind only, all relevant or all irrelevant.
    """
    scores = np.array(log_odds, dtype=np.float64)  # (queries, hits)
    labels = np.array(relevant, dtype=bool)
    check_labels(labels)
    if scores.shape != labels.shape:
        raise ValueError(f"log_odds have the shape {scores.shape} and relevant {labels.shape}; they must be equal")
    calibration = _fit(scores, labels)
    held_out = cross_fitted(scores, labels)
    errors = [
        calibration_error(probabilities(held_out[measured]).ravel(), labels[measured].ravel())
        for fitting, measured in _halves(len(scores))
        if labels[fitting].any()
    ]
    return replace(
        calibration,
        depth=scores.shape[1],
        error=round(float(np.mean(errors)), 5) if errors else None,
        ceilings=_ceilings(fused(calibration, scores)),
    )


def check_labels(relevant: Sequence[Sequence[bool]] | NDArray[np.bool_]) -> None:
    """Refuse relevance labels, ``(queries, hits)``, that :func:`calibrate` cannot use, before the hits are scored.

    Raises:
        ValueError: as :func:`calibrate`.
    """
    if len(relevant) < MIN_QUERIES or len({len(row) for row in relevant}) > 1:
        raise ValueError(
            f"calibration needs at least {MIN_QUERIES} queries with equally many hits each, got {len(relevant)}"
        )
    kinds = {bool(label) for row in relevant for label in row}
    if len(kinds) < 2:
        raise ValueError("calibration needs hits that are relevant and hits that are not, and got one kind only")


def fused(calibration: Calibration, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-odds ``(queries, hits)`` fused with the rank that the first stage gave each hit."""
    ranks = np.log(np.arange(1, scores.shape[1] + 1))
    weighted: NDArray[np.float64] = scores / calibration.fused_temperature - calibration.rank_weight * ranks
    return weighted + calibration.fused_shift


def cross_fitted(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the fused log-odds ``(queries, hits)`` of each half of the queries by the calibration of the other half.

    They measure what fusion achieves on queries that had no part in choosing its weight.
    """
    held_out = np.empty_like(scores)
    for fitting, measured in _halves(len(scores)):
        held_out[measured] = fused(_fit(scores[fitting], labels[fitting]), scores[measured])
    return held_out


def _halves(queries: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield (fitting, measured): masks of the even and the odd queries, then the other way round."""
    even = np.arange(queries) % 2 == 0
    yield even, ~even
    yield ~even, even


def _fit(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    log_ranks = np.log(np.arange(1, scores.shape[1] + 1))
    weight = max(_RANK_WEIGHTS, key=lambda w: (round(_mrr(scores - w * log_ranks, labels), 9), -w))
    temperature, shift = _fit_logistic(scores, labels)
    fused_temperature, fused_shift = _fit_logistic(scores - weight * log_ranks, labels)
    return Calibration(
        temperature=temperature,
        shift=shift,
        fused_temperature=fused_temperature,
        rank_weight=weight / fused_temperature,
        fused_shift=fused_shift,
    )


def _mrr(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    rows = zip(scores, labels, strict=True)
    return mean_reciprocal_rank(pessimistic_rank(row, np.flatnonzero(relevant).tolist()) for row, relevant in rows)


def _fit_logistic(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the temperature and the shift with the least log loss."""
    x, y = torch.from_numpy(scores.ravel()), torch.from_numpy(labels.ravel()).double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature, shift], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # The penalty keeps the temperature above 0 where scores separate the labels perfectly.
        value = F.binary_cross_entropy_with_logits(x / log_temperature.exp() + shift, y) + 1e-4 * log_temperature**2
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return math.exp(float(log_temperature.detach())), float(shift.detach())


def _ceilings(scores: NDArray[np.float64]) -> dict[str, list[float]]:
    """Return for each confidence a bound on the best unseen hit, one for each number of hits already seen.

    The bound is the quantile of conformal prediction (Vovk et al. 2005): of n queries the
    ceil((n + 1) * confidence)-th smallest value, so that it holds for a new query of the same distribution.
    """
    best_of_rest = np.sort(np.maximum.accumulate(scores[:, ::-1], axis=1)[:, ::-1], axis=0)  # (queries, seen)
    n = len(scores)
    return {
        str(confidence): [round(float(value), 4) for value in best_of_rest[min(math.ceil((n + 1) * confidence), n) - 1]]
        for confidence in CONFIDENCES
    }
