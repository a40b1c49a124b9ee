"""Fit the weights of the ranking to questions about repositories, and check them on repositories that they do not know.

The loss is a softmax over the candidates of a question, in which all candidates of a target count as one: the negative
logarithm of their share (ListNet's top-one loss, Cao et al. 2007, equation 6, with the targets as the distribution).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamaindex_code_retrieval.ranking.features import FEATURES
from llamaindex_code_retrieval.ranking.model import Kind, RankingModel, kind_of
from llamaindex_code_retrieval.training.judging import JudgedQuestion

UNSIGNED = frozenset({"code", "class", "module", "test", "documented", "index_file"})
"""Features whose weight may be negative; more of any other never lowers a score."""
_ASSUMED = {"language": 1.0}
"""Weights from which a fit starts where questions about repositories of one language say nothing; all others from 0."""
_STEPS = 80
_IMPOSSIBLE = -1e9
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingConfig:
    """Settings of a fit.

    Raises:
        ValueError: a value out of range.
    """

    l2: float = 0.02
    """Weight of the squared weights of the standardised features in the loss."""
    name_l2: float = 0.08
    """The same for the differences between the weights for names and those for sentences."""
    file_penalty: float = 2.0
    """It is not fitted: more finds more files in the first hits, less finds more of the functions of one file."""
    category_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of the questions of a category in the loss; 1 for those that are not named."""

    def __post_init__(self) -> None:
        for name in ("l2", "name_l2"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{name} must be a finite number > 0, or weights could grow without bound, got {value}"
                )
        if not 0 <= self.file_penalty < math.inf:
            raise ValueError(f"file_penalty must be a finite number >= 0, got {self.file_penalty}")
        for category, weight in self.category_weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of category {category!r} must be a finite number >= 0, got {weight}")


DEFAULT_CONFIG = RankingConfig()


def fit_ranking(
    questions: Sequence[JudgedQuestion],
    config: RankingConfig = DEFAULT_CONFIG,
    *,
    prior: RankingModel | None = None,
    without: Collection[str] = (),
) -> RankingModel:
    """Fit the weights of both kinds to the questions at least one of whose targets is among the candidates.

    Args:
        questions: what is fitted.
        config: how.
        prior: weights that are kept where the questions say nothing; ``None``: 0, but 1 for ``language``.
        without: features whose weights are 0.

    Raises:
        ValueError: no question has a target among its candidates.
    """
    data = _Data.of([question for question in questions if question.covers.any()], config)
    start = _prior(prior) * data.deviations
    used = torch.tensor([float(name not in without) for name in FEATURES])
    changes = torch.zeros((2, len(FEATURES)), requires_grad=True)
    optimiser = torch.optim.LBFGS([changes], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def closure() -> float:
        optimiser.zero_grad()
        common, of_names = _signed(start + changes) * used
        size = config.l2 * changes[0].square().sum() + config.name_l2 * changes[1].square().sum()
        loss: Tensor = data.loss(common, of_names) + size
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    common, of_names = (_signed(start + changes).detach() * used / data.deviations).numpy().astype(np.float64)
    by_kind: dict[Kind, NDArray[np.float64]] = {"sentence": common, "name": common + of_names}
    weights: dict[Kind, dict[str, float]] = {
        kind: {name: round(float(weight), 4) + 0.0 for name, weight in zip(FEATURES, values, strict=True)}
        for kind, values in by_kind.items()
    }
    return RankingModel(weights=weights, file_penalty=config.file_penalty)


def _prior(model: RankingModel | None) -> Tensor:
    """Return the weights for sentences, and the differences of those for names."""
    if model is None:
        return torch.tensor([[_ASSUMED.get(name, 0.0) for name in FEATURES], [0.0] * len(FEATURES)])
    sentence, name = model.vector("sentence"), model.vector("name")
    return torch.from_numpy(np.stack([sentence, name - sentence]).astype(np.float32))


def _signed(weights: Tensor) -> Tensor:
    """Return common weights and differences, so that the signed features have weights of at least 0 in both kinds."""
    unsigned = torch.tensor([name in UNSIGNED for name in FEATURES])
    common = torch.where(unsigned, weights[0], weights[0].clamp_min(0))
    of_names = torch.where(unsigned, weights[1], torch.maximum(weights[1], -common))
    return torch.stack([common, of_names])


def cross_validate(
    questions: Sequence[JudgedQuestion],
    config: RankingConfig = DEFAULT_CONFIG,
    *,
    extra: Sequence[JudgedQuestion] = (),
    prior: RankingModel | None = None,
    without: Collection[str] = (),
    folds: int = 7,
    seed: int = 0,
) -> list[float]:
    """Return the NDCG@10 of each question by a model that was fitted without the questions about its repository.

    ``extra`` questions are in every fit, except those about a repository of the same name.

    Raises:
        ValueError: the questions are about fewer than two repositories.
    """
    names = sorted({question.repository for question in questions})
    if len(names) < 2:
        raise ValueError(
            f"cross-validation by repository needs questions about two repositories, got {len(names)}; leave it out, "
            "or give questions about another repository"
        )
    random.Random(seed).shuffle(names)
    folds = min(folds, len(names))
    values = [0.0] * len(questions)
    for fold in range(folds):
        held_out = set(names[fold::folds])
        known = [each for each in (*questions, *extra) if each.repository not in held_out]
        model = fit_ranking(known, config, prior=prior, without=without)
        for place, question in enumerate(questions):
            if question.repository in held_out:
                values[place] = question.ndcg(model)
    return values


def mean_by_category(questions: Sequence[JudgedQuestion], values: Sequence[float]) -> dict[str, float]:
    """Return the mean of all values as ``all``, and that of each category."""
    groups: dict[str, list[float]] = {"all": list(values)}
    for question, value in zip(questions, values, strict=True):
        groups.setdefault(question.category, []).append(value)
    return {name: fmean(group) for name, group in groups.items()}


@dataclass(frozen=True, slots=True)
class _Data:
    """The candidates of questions as padded tensors, and a row for each of their targets."""

    features: Tensor  # (questions, candidates, features), standardised
    is_name: Tensor  # (questions,)
    question: Tensor  # (targets,)
    covers: Tensor  # (targets, candidates)
    others: Tensor  # (targets, candidates): the candidates that compete, without those of other targets alone
    weight: Tensor  # (targets,)
    deviations: Tensor  # (features,)

    @classmethod
    def of(cls, questions: Sequence[JudgedQuestion], config: RankingConfig) -> _Data:
        if not questions:
            raise ValueError("no question has a target among its candidates; check paths and root of the repositories")
        every = torch.from_numpy(np.concatenate([question.features for question in questions]))
        mean, deviations = every.mean(0), every.std(0).clamp_min(_LEAST_DEVIATION)
        longest = max(len(question.candidates) for question in questions)
        features = torch.zeros((len(questions), longest, len(FEATURES)))
        rows: list[int] = []
        covers, others, weights = [], [], []
        for row, question in enumerate(questions):
            count = len(question.candidates)
            features[row, :count] = (torch.from_numpy(question.features) - mean) / deviations
            found = [column for column in question.covers.T if column.any()]
            weight = config.category_weights.get(question.category, 1.0) / len(found)
            for column in found:
                elsewhere = question.covers.any(axis=1) & ~column
                rows.append(row)
                covers.append(_padded(column, longest))
                others.append(_padded(~elsewhere, longest))
                weights.append(weight)
        weight_of_target = torch.tensor(weights)
        return cls(
            features,
            torch.tensor([float(kind_of(question.question) == "name") for question in questions]),
            torch.tensor(rows),
            torch.stack(covers),
            torch.stack(others),
            weight_of_target / weight_of_target.sum(),
            deviations,
        )

    def loss(self, common: Tensor, of_names: Tensor) -> Tensor:
        sums = self.features @ common + self.is_name[:, None] * (self.features @ of_names)  # (questions, candidates)
        sums = sums[self.question]
        share = torch.logsumexp(torch.where(self.covers, sums, _IMPOSSIBLE), 1)
        total = torch.logsumexp(torch.where(self.others, sums, _IMPOSSIBLE), 1)
        return (self.weight * (total - share)).sum()


def _padded(values: NDArray[np.bool_], length: int) -> Tensor:
    return torch.from_numpy(np.pad(values, (0, length - len(values))))
