"""Merge rankings: weighted reciprocal rank fusion and its default weights."""

from __future__ import annotations

from collections.abc import Sequence

DENSE_WEIGHT, BM25_WEIGHT, CANDIDATES, RANK_CONSTANT = 0.75, 0.25, 100, 5
"""The defaults of ``CodeRetriever``."""


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], *, weights: Sequence[float], rank_constant: int = 60
) -> list[tuple[str, float]]:
    """Merge rankings by the weighted sum of 1 / (rank_constant + rank) (Cormack et al. 2009), best first.

    Scores are divided by the largest possible sum, so that first place in every ranking is 1.0. Ties go by id.

    >>> reciprocal_rank_fusion([["a", "b"], ["b"]], weights=[1.0, 1.0], rank_constant=1)
    [('b', 0.8333333333333333), ('a', 0.5)]
    """
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, node_id in enumerate(ranking, start=1):
            scores[node_id] = scores.get(node_id, 0.0) + weight / (rank_constant + rank)
    best = sum(weights) / (rank_constant + 1)
    return sorted(((node_id, score / best) for node_id, score in scores.items()), key=lambda hit: (-hit[1], hit[0]))
