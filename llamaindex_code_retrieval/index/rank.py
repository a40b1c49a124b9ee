"""Rank the nodes of one state of an index by vectors, by words, or by both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.tables import NodeRow
from llamaindex_code_retrieval.index.view import Hit, View
from llamaindex_code_retrieval.ranking.fusion import (
    BM25_WEIGHT,
    CANDIDATES,
    DENSE_WEIGHT,
    RANK_CONSTANT,
    reciprocal_rank_fusion,
)

Mode = Literal["dense", "bm25", "fused"]


class QueryVector(NamedTuple):
    """The vector of a query by one model."""

    model: str | None
    """Fingerprint of the model, where the index has vectors of several; ``None`` compares with all vectors."""
    values: Sequence[float]


class RankedHit(NamedTuple):
    """A node in a ranking."""

    number: int
    id: str
    score: float
    others: tuple[int, ...] = ()
    """Numbers of further parts of the same definition that were found, which this hit stands for."""

    def metadata(self, rows: Mapping[int, NodeRow]) -> dict[str, Any]:
        """Return the node's metadata; ``also_lines`` names the lines of the other parts."""
        metadata = dict(rows[self.number].metadata)
        lines = sorted(
            (row.metadata.get("start_line", 0), row.metadata.get("end_line", 0))
            for row in map(rows.__getitem__, self.others)
        )
        if lines:
            metadata["also_lines"] = ", ".join(f"{first}-{last}" for first, last in lines)
        return metadata


class Nearest(Protocol):
    """A search for the nodes of highest cosine; :meth:`.View.nearest` is one."""

    def __call__(
        self, query: Sequence[float], *, top_k: int, condition: Condition | None = None, model: str | None = None
    ) -> list[Hit]:
        """Return the best hits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How nodes are ranked; see :class:`.CodeRetriever`.

    Raises:
        ValueError: a value out of range.
    """

    top_k: int = 10
    mode: Mode = "fused"
    dense_weight: float = DENSE_WEIGHT
    bm25_weight: float = BM25_WEIGHT
    candidates: int = CANDIDATES
    rank_constant: int = RANK_CONSTANT

    def __post_init__(self) -> None:
        if self.mode not in ("dense", "bm25", "fused"):
            raise ValueError(f"mode must be 'dense', 'bm25' or 'fused', got {self.mode!r}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")
        weights = (self.dense_weight, self.bm25_weight)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
            raise ValueError(f"weights must be >= 0 and not both 0, got {self.dense_weight} and {self.bm25_weight}")
        if not self.rank_constant >= 0:  # NaN is refused too
            raise ValueError(f"rank_constant must be >= 0, got {self.rank_constant}")

    def rank(
        self,
        view: View,
        query: str,
        vectors: Sequence[QueryVector],
        *,
        condition: Condition | None = None,
        nearest: Nearest | None = None,
    ) -> list[RankedHit]:
        """Return the ``top_k`` best definitions of ``view``.

        ``vectors`` are those of the query by each model in use; none in mode "bm25". Of the parts of a long definition
        that are found, the best one is returned for all.
        """
        nearest = nearest or view.nearest
        depth = max(self.top_k, self.candidates) if self.mode == "fused" else self.top_k
        while True:
            dense = [nearest(vector.values, top_k=depth, condition=condition, model=vector.model) for vector in vectors]
            bm25 = view.matching(query, top_k=depth, condition=condition) if self.mode != "dense" else []
            found = {hit.id: hit for hits in (*dense, bm25) for hit in hits}
            merged = _merge_parts(self._fuse(dense, bm25), found)
            if len(merged) >= self.top_k or all(len(hits) < depth for hits in (*dense, bm25)):
                return merged[: self.top_k]
            depth *= 4

    def _fuse(self, dense: Sequence[Sequence[Hit]], bm25: Sequence[Hit]) -> list[tuple[str, float]]:
        if self.mode == "bm25" or (self.mode == "dense" and len(dense) <= 1):
            only = bm25 if self.mode == "bm25" else next(iter(dense), [])
            return [(hit.id, hit.score) for hit in only]
        dense_weight, bm25_weight = (self.dense_weight, self.bm25_weight) if self.mode == "fused" else (1.0, 0.0)
        weights = [*[dense_weight] * len(dense), bm25_weight]
        rankings = [[hit.id for hit in ranking] for ranking in (*dense, bm25)]
        hits = reciprocal_rank_fusion(rankings, weights=weights, rank_constant=self.rank_constant)
        if len(dense) <= 1:
            return hits
        # A node is in one dense ranking at most, so the largest possible sum is that of one dense ranking and BM25.
        scale = sum(weights) / (dense_weight + bm25_weight)
        cosines = {hit.id: hit.score for ranking in dense for hit in ranking}
        scaled = [(node_id, score * scale) for node_id, score in hits]
        return sorted(scaled, key=lambda hit: (-hit[1], -cosines.get(hit[0], -1.0), hit[0]))


def _merge_parts(ranking: Sequence[tuple[str, float]], found: dict[str, Hit]) -> list[RankedHit]:
    merged: dict[tuple[int, int], RankedHit] = {}
    for node_id, score in ranking:
        hit = found[node_id]
        first = merged.setdefault(hit.definition, RankedHit(hit.number, node_id, score))
        if first.number != hit.number:
            merged[hit.definition] = first._replace(others=(*first.others, hit.number))
    return list(merged.values())
