"""The matching and the distillation loss by hand; test_contrastive.py has the contrastive one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llamaindex_code_retrieval.training.losses import distillation_loss, matching_loss


def test_matching_by_hand() -> None:
    log_odds = torch.tensor([2.0, 0.0, 1.0, -1.0, 3.0])
    lists, rejected = [[0, 1], [2, 3]], [4]
    answers = (-math.log(1 / (1 + math.exp(-2))) - math.log(1 / (1 + math.exp(-1)))) / 2
    others = (math.log(2) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 3
    apart = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    assert float(matching_loss(log_odds, lists, rejected, kind="bce")) == pytest.approx((answers + others) / 2)
    assert float(matching_loss(log_odds, lists, rejected, kind="listwise")) == pytest.approx(apart)
    both = matching_loss(log_odds, lists, rejected, kind="both")
    assert float(both) == pytest.approx((answers + others) / 2 + apart)


def test_matching_without_negatives() -> None:
    log_odds = torch.tensor([2.0, 1.0])
    answers = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert float(matching_loss(log_odds, [[0], [1]], [], kind="bce")) == pytest.approx(answers / 2)
    assert float(matching_loss(log_odds, [[0], [1]], [], kind="listwise")) == 0.0


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def _distillation(student: Tensor, answers: list[int] | None = None, **weights: float) -> float:
    teacher, codes = _rows([1, 0], [0, 1]), _rows([0.6, 0.8], [1, 0])
    settings = {"single": 0.0, "dual": 0.0, "contrastive": 0.0, "temperature": 0.05, **weights}
    return float(distillation_loss(student, teacher, codes, answers or [], **settings))


def test_distillation_by_hand() -> None:
    student = _rows([0.8, 0.6], [0, 1])
    # cos(student, teacher): 0.8 and 1. cos(code, teacher): 0.6 and 0; cos(code, student): 0.48 + 0.48 and 0.
    assert _distillation(student, single=1.0) == pytest.approx((0.2 + 0) / 2)
    assert _distillation(student, dual=1.0) == pytest.approx((0.36 + 0) / 2)
    assert _distillation(student, single=2.0, dual=0.5) == pytest.approx(2 * 0.1 + 0.5 * 0.18)
    same = _rows([1, 0], [0, 1])
    assert _distillation(same, single=1.0, dual=1.0) == pytest.approx(0)
    assert _distillation(-same, single=1.0) == pytest.approx(2)
    assert _distillation(-same, dual=1.0) == pytest.approx((1.2 + 0) / 2)  # its sign does not matter


def test_distillation_from_answers_by_hand() -> None:
    # Cosines of the two queries to the two codes, at temperature 1: (0.96, 0.8) and (0.8, 0).
    student = _rows([0.8, 0.6], [0, 1])

    def cross_entropy(right: float, wrong: float) -> float:
        return math.log(1 + math.exp(wrong - right))

    to_code = (cross_entropy(0.96, 0.8) + cross_entropy(0, 0.8)) / 2
    to_query = (cross_entropy(0.96, 0.8) + cross_entropy(0, 0.8)) / 2  # code 0: 0.96, 0.8; code 1: 0.8, 0
    found = _distillation(student, [0, 1], contrastive=3.0, temperature=1.0)
    assert found == pytest.approx(3 * (to_code + to_query) / 2, abs=1e-6)
    for answers in ([], [1]):  # a single answer has no negative
        assert _distillation(student, answers, contrastive=1.0, single=1.0) == _distillation(student, single=1.0)


def test_a_code_that_answers_two_queries_is_no_negative_of_either() -> None:
    student, codes = _rows([0.8, 0.6], [0, 1]), _rows([0.6, 0.8], [0.6, 0.8])
    weights = {"single": 0.0, "dual": 0.0, "contrastive": 1.0, "temperature": 0.05}
    assert float(distillation_loss(student, student, codes, [0, 1], **weights)) == pytest.approx(0, abs=1e-6)
