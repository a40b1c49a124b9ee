"""Calibration: known temperatures and weights are found again, ceilings hold, errors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llamaindex_code_retrieval.models.calibration import Calibration, calibration_error, probability
from llamaindex_code_retrieval.training.calibration import calibrate, cross_fitted, fused


def _world(
    queries: int, *, temperature: float, rank_weight: float, seed: int = 0, hits: int = 12
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-odds that are ``temperature`` times too sure, of hits whose relevance depends on their rank as well."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 4, (queries, hits))
    logits = scores / temperature - rank_weight * np.log(np.arange(1, hits + 1)) - 1.0
    return scores, rng.random((queries, hits)) < 1 / (1 + np.exp(-logits))


def test_finds_what_made_the_labels() -> None:
    scores, labels = _world(1500, temperature=2.0, rank_weight=1.0)
    found = calibrate(scores.tolist(), labels.tolist())
    assert found.rank_weight == pytest.approx(1.0, rel=0.35)
    assert found.fused_temperature == pytest.approx(2.0, rel=0.1)
    assert found.fused_shift == pytest.approx(-1.0, abs=0.6)
    assert found.depth == 12
    assert found.error is not None
    assert found.error < 0.02
    probabilities = 1 / (1 + np.exp(-fused(found, scores)))
    raw = 1 / (1 + np.exp(-scores))
    assert calibration_error(probabilities.ravel(), labels.ravel()) < calibration_error(raw.ravel(), labels.ravel()) / 5


def test_a_first_stage_that_says_nothing_has_no_weight() -> None:
    scores, _ = _world(500, temperature=1.0, rank_weight=0.0)
    labels = scores == scores.max(axis=1, keepdims=True)
    found = calibrate(scores.tolist(), labels.tolist())
    assert found.rank_weight == 0.0


def test_fused_agrees_with_the_reranker() -> None:
    scores, labels = _world(100, temperature=2.0, rank_weight=1.0)
    found = calibrate(scores.tolist(), labels.tolist())
    expected = [[found.hit_log_odds(value, rank) for rank, value in enumerate(row, start=1)] for row in scores.tolist()]
    np.testing.assert_allclose(fused(found, scores), expected, atol=1e-12)


def test_ceilings_hold_for_new_queries() -> None:
    scores, labels = _world(400, temperature=2.0, rank_weight=1.0)
    found = calibrate(scores.tolist(), labels.tolist())
    assert list(found.ceilings) == ["0.8", "0.9", "0.95", "0.99"]
    fresh = fused(found, _world(4000, temperature=2.0, rank_weight=1.0, seed=1)[0])
    for confidence, ceiling in found.ceilings.items():
        assert ceiling == sorted(ceiling, reverse=True)
        for seen in (0, 3, 8):
            under = (fresh[:, seen:].max(axis=1) <= ceiling[seen]).mean()
            assert under == pytest.approx(float(confidence), abs=0.05)


def test_ceilings_by_hand() -> None:
    scores = [[float(-hit) + query / 100 for hit in range(3)] for query in range(10)]
    labels = [[hit == 0 for hit in range(3)] for _ in range(10)]
    found = calibrate(scores, labels)
    ninth = Calibration(
        fused_temperature=found.fused_temperature, rank_weight=found.rank_weight, fused_shift=found.fused_shift
    )
    # ceil(11 * 0.8) = 9: the ninth smallest of ten; the best of the rest is the next hit here
    expected = [ninth.hit_log_odds(-hit + 8 / 100, hit + 1) for hit in range(3)]
    assert found.ceilings["0.8"] == pytest.approx(expected, abs=1e-4)


def test_the_error_by_hand() -> None:
    # bins of 1/15: 0.05 -> bin 0, 0.5 and 0.52 -> bin 7
    error = calibration_error([0.05, 0.05, 0.5, 0.52], [False, True, True, False])
    assert error == pytest.approx(0.5 * abs(0.05 - 0.5) + 0.5 * abs(0.51 - 0.5))
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[1.0, 0.0]] * 9, [[True, False]] * 9, "at least 10 queries with equally many hits each, got 9"),
        ([[1.0, 0.0]] * 10, [[True, True]] * 10, "and got one kind only"),
        ([[1.0, 0.0]] * 10, [[False, False]] * 10, "and got one kind only"),
    ],
)
def test_too_little_to_calibrate(scores: list[list[float]], labels: list[list[bool]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(scores, labels)


def test_perfect_separation_does_not_run_away() -> None:
    scores = [[5.0, -5.0, -6.0]] * 20
    found = calibrate(scores, [[True, False, False]] * 20)
    assert 0.01 < found.temperature < 100
    assert math.isfinite(found.fused_shift)


def test_logistic_is_what_torch_says() -> None:
    for value in (-800.0, -3.0, 0.0, 2.5, 800.0):
        expected = float(torch.sigmoid(torch.tensor(value, dtype=torch.float64)))
        assert probability(value) == pytest.approx(expected, abs=1e-12)
    assert float(F.logsigmoid(torch.tensor(0.0))) == pytest.approx(math.log(probability(0.0)))


def test_each_half_is_fused_by_the_calibration_of_the_other() -> None:
    scores, labels = _world(40, temperature=2.0, rank_weight=1.0)
    held_out = cross_fitted(scores, labels)
    for half, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        fitted = calibrate(scores[other].tolist(), labels[other].tolist())
        np.testing.assert_allclose(held_out[half], fused(fitted, scores[half]))


def test_relevant_hits_in_one_half_only() -> None:
    scores, labels = _world(40, temperature=2.0, rank_weight=1.0)
    labels[1::2] = False
    assert np.isfinite(cross_fitted(scores, labels)).all()
    calibration = calibrate(scores.tolist(), labels.tolist())
    assert calibration.error is not None  # of the odd queries, by the even ones
    assert 0 <= calibration.error <= 1
