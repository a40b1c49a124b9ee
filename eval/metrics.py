"""Retrieval metrics of ranked ids, computed by ``ir_measures``. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from llamaindex_code_retrieval._optional import require

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> corpus id -> judgement; a score over 0 means relevant."""

Run = Mapping[str, Sequence[str]]
"""Query id -> corpus ids, best first."""

COSINE_TOLERANCE = 1e-6
"""Cosines of float32 vectors that differ by less are tied: a matrix product rounds equal vectors to 1e-7."""

METRICS = ("MRR", "MRR@10", "R@1", "R@5", "R@10", "R@100", "nDCG@10", "MAP")
"""What an evaluation of retrieval measures by default."""

GenerationMetric = Literal["rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "exact"]
"""What an evaluation of answers measures, see :func:`~llamaindex_code_retrieval.eval.generation.score_answers`."""

GatedChatMetric = Literal[
    "rougeL",
    "rouge1",
    "rouge2",
    "hit@1",
    "hit@5",
    "hit@10",
    "MRR",
    "file_hit@1",
    "file_hit@5",
    "file_hit@10",
    "file_MRR",
    "valid_citations",
    "citation_precision",
    "citation_recall",
    "answered",
    "grade",
]
"""What an evaluation of a chat measures where more is better; see :mod:`~llamaindex_code_retrieval.eval.chat`."""

ChatMetric = Literal[GatedChatMetric, "context_tokens", "first_token_seconds", "seconds"]
"""What an evaluation of a chat measures."""

CHAT_METRICS: tuple[ChatMetric, ...] = get_args(ChatMetric)

_METRIC = re.compile(r"(MRR|nDCG|MAP)(@[1-9]\d*)?|R@[1-9]\d*")
_IR_MEASURES_NAMES = {"MRR": "RR", "R": "R", "nDCG": "nDCG", "MAP": "AP"}


def evaluate_run(run: Run, qrels: Qrels, *, metrics: Sequence[str] = ("MRR", "R@1", "R@10")) -> dict[str, float]:
    """Return the mean of each metric over the queries of ``qrels``; see :func:`per_query_metrics`.

    >>> evaluate_run({"q1": ["b", "a"], "q2": ["c"]}, {"q1": {"a": 1}, "q2": {"c": 1}}, metrics=["MRR", "R@1"])
    {'MRR': 0.75, 'R@1': 0.5}
    """
    return {name: fmean(values.values()) for name, values in per_query_metrics(run, qrels, metrics=metrics).items()}


def per_query_metrics(
    run: Run, qrels: Qrels, *, metrics: Sequence[str] = ("MRR", "R@1", "R@10")
) -> dict[str, dict[str, float]]:
    """Return metric -> query id -> value between 0 and 1, with the queries in the order of ``qrels``.

    The metrics are ``MRR``, ``MAP`` and ``nDCG``, each over the whole ranking or over its first k hits as in
    ``nDCG@10``, and ``R@k``, the share of a query's relevant codes among the first k hits. A query that ``run`` lacks
    counts as 0.

    Raises:
        ValueError: there is no metric or an unknown one, there are no queries, a query has no relevant id, a query is
            only in ``run``, or a ranking has an id twice.
        ImportError: ``ir_measures`` is not installed.

    >>> per_query_metrics({"q1": ["a", "b", "c"]}, {"q1": {"c": 1, "d": 1}, "q2": {"a": 1}}, metrics=["R@3"])
    {'R@3': {'q1': 0.5, 'q2': 0.0}}
    """
    if not metrics:
        raise ValueError("metrics is empty; name at least one, such as MRR")
    measures = {name: _measure(name) for name in metrics}
    _check_run(run, qrels)
    ir_measures = _ir_measures()
    # The scores decrease strictly, because ir_measures orders equal ones by id; small integers are exact in float32.
    # No metric depends on what follows a query's last relevant code, which is most of a long ranking.
    scored = {
        query: {code: float(-rank) for rank, code in enumerate(_up_to_last_relevant(ranking, qrels[query]))}
        for query, ranking in run.items()
    }
    values = {
        (str(result.measure), result.query_id): float(result.value)
        for result in ir_measures.iter_calc(
            list(measures.values()), {query: dict(judgements) for query, judgements in qrels.items()}, scored
        )
    }
    return {name: {query: values[str(measure), query] for query in qrels} for name, measure in measures.items()}


def first_relevant(run: Run, qrels: Qrels) -> dict[str, int | None]:
    """Return query id -> rank of its first relevant code, from 1, or ``None`` if there is none.

    >>> first_relevant({"q1": ["b", "a"]}, {"q1": {"a": 1, "b": 0}, "q2": {"a": 1}})
    {'q1': 2, 'q2': None}
    """
    return {
        query: next(
            (rank for rank, code in enumerate(run.get(query, ()), start=1) if judgements.get(code, 0) > 0), None
        )
        for query, judgements in qrels.items()
    }


def pessimistic_rank(scores: ArrayLike, relevant: Sequence[int], *, tolerance: float = 0.0) -> int | None:
    """Return the rank, from 1, of the best relevant item when every tied item that is not relevant stands before it.

    ``scores`` has the shape ``(items,)`` and ``relevant`` holds positions in it; without any the rank is ``None``.
    Scores that differ by at most ``tolerance`` are tied. A model that gives every item the same score thus has the
    worst rank, not the first.

    Raises:
        ValueError: a score is NaN.

    >>> pessimistic_rank([0.9, 0.5, 0.5, 0.1], relevant=[1])
    3
    >>> pessimistic_rank([0.5, 0.5, 0.5], relevant=[0, 1])
    2
    """
    values = np.asarray(scores, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("the scores contain NaN, so they cannot be ranked; check the model's output")
    if not len(relevant):
        return None
    positions = list(relevant)
    others = np.delete(values, positions)
    return 1 + int(np.count_nonzero(others >= values[positions].max() - tolerance))


def reciprocal_rank(rank: int | None) -> float:
    """Return 1/rank, or 0.0 for ``None`` (not found).

    >>> reciprocal_rank(4), reciprocal_rank(None)
    (0.25, 0.0)
    """
    return 0.0 if rank is None else 1 / rank


def mean_reciprocal_rank(ranks: Iterable[int | None]) -> float:
    """Return the mean of the reciprocal ranks (MRR).

    Raises:
        ValueError: there are no ranks.

    >>> mean_reciprocal_rank([1, 2, None])
    0.5
    """
    values = [reciprocal_rank(rank) for rank in ranks]
    if not values:
        raise ValueError("there are no ranks to average; name at least one query")
    return fmean(values)


def _up_to_last_relevant(ranking: Sequence[str], judgements: Mapping[str, int]) -> Sequence[str]:
    relevant = {code for code, score in judgements.items() if score > 0}
    return ranking[: max((rank for rank, code in enumerate(ranking, start=1) if code in relevant), default=0)]


def _ir_measures() -> Any:
    return require("ir_measures", extra="eval", purpose="computing metrics")


def check_metric(name: str) -> str:
    """Return ``name`` if it is a metric of retrieval.

    Raises:
        ValueError: it is not; the message lists the known ones.
    """
    if _METRIC.fullmatch(name) is None:
        raise ValueError(f"unknown metric {name!r}; use MRR, MRR@k, R@k, nDCG, nDCG@k, MAP or MAP@k with k at least 1")
    return name


def _measure(name: str) -> Any:
    kind, at, depth = check_metric(name).partition("@")
    return _ir_measures().parse_measure(_IR_MEASURES_NAMES[kind] + at + depth)


def _check_run(run: Run, qrels: Qrels) -> None:
    if not qrels:
        raise ValueError("the qrels hold no query, so there is nothing to average; check the split")
    for query, judgements in qrels.items():
        if not any(score > 0 for score in judgements.values()):
            raise ValueError(f"query {query!r} has no relevant id (score over 0) in the qrels; leave it out")
    for query, ranking in run.items():
        if query not in qrels:
            raise ValueError(f"the run answers query {query!r}, which the qrels lack; score it against its own split")
        if len(set(ranking)) < len(ranking):
            twice = next(code for rank, code in enumerate(ranking) if code in ranking[:rank])
            raise ValueError(f"query {query!r} ranks {twice!r} twice; keep each id once, at its best rank")
