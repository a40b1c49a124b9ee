"""Rank the nodes of one state of an index by vectors, by words, or by both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.tables import NodeRow
from llamaindex_code_retrieval.index.view import Hit, View
from llamaindex_code_retrieval.ranking.features import FEATURES, Candidate, Scores, Words, feature_matrix
from llamaindex_code_retrieval.ranking.fusion import (
    BM25_WEIGHT,
    CANDIDATES,
    DENSE_WEIGHT,
    RANK_CONSTANT,
    reciprocal_rank_fusion,
)
from llamaindex_code_retrieval.ranking.model import RankingModel, kind_of
from llamaindex_code_retrieval.ranking.question import Question

_LONGEST_QUERY = 20_000  # characters whose words are searched: a pasted log may have millions
_MAX_PLACES = 16  # of a stack trace
_LEAST_REASON = 0.05
_AT_PLACE = 20  # nodes of the files with the name of one place

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
    reasons: Mapping[str, float] = MappingProxyType({})
    """By how much each feature raises or lowers the score, compared with the mean of all candidates, if asked for."""

    def metadata(self, rows: Mapping[int, NodeRow]) -> dict[str, Any]:
        """Return the node's metadata; ``also_lines`` names the lines of the other parts.

        Of an explained hit, ``why`` has the reasons that matter, by feature, the largest first.
        """
        metadata = dict(rows[self.number].metadata)
        lines = sorted(
            (row.metadata.get("start_line", 0), row.metadata.get("end_line", 0))
            for row in map(rows.__getitem__, self.others)
        )
        if lines:
            metadata["also_lines"] = ", ".join(f"{first}-{last}" for first, last in lines)
        if self.reasons:
            reasons = sorted(self.reasons.items(), key=lambda reason: (-abs(reason[1]), reason[0]))
            metadata["why"] = {name: round(value, 2) for name, value in reasons if abs(value) >= _LEAST_REASON}
        return metadata


class Nearest(Protocol):
    """A search for the nodes of highest cosine; :meth:`.View.nearest` is one."""

    def __call__(
        self, query: Sequence[float], *, top_k: int, condition: Condition | None = None, model: str | None = None
    ) -> list[Hit]:
        """Return the best hits."""


class Found(NamedTuple):
    """What the searches for a question found, each best first."""

    dense: Sequence[Sequence[Hit]]
    """By each model."""
    bm25: Sequence[Hit]
    named: Sequence[int] = ()
    """Numbers of nodes at the places that the question names."""

    @property
    def hits(self) -> dict[str, Hit]:
        """All hits by id."""
        return {hit.id: hit for hits in (*self.dense, self.bm25) for hit in hits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How nodes are ranked; see :class:`.CodeRetriever`.

    In mode "fused" a ``model`` ranks what has a path or a symbol. All else, and everything without ``model``, is ranked
    by weighted reciprocal ranks.

    Raises:
        ValueError: a value out of range.
    """

    top_k: int = 10
    mode: Mode = "fused"
    model: RankingModel | None = None
    dense_weight: float = DENSE_WEIGHT
    bm25_weight: float = BM25_WEIGHT
    candidates: int = CANDIDATES
    rank_constant: int = RANK_CONSTANT
    explain: bool = False
    """Whether hits have ``reasons``, where the model ranks them."""

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
        if self.model is not None and self.mode != "fused":
            raise ValueError(f"mode {self.mode!r} uses no ranking model; leave it out, or use mode 'fused'")
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
        question = Question.of(query) if self.model is not None else Question(query)
        depth = self.depth
        while True:
            found = self.search(view, question, vectors, depth=depth, condition=condition, nearest=nearest)
            ranked = None if self.model is None else self._rank_by_model(view, question, found)
            if ranked is None:
                ranked = _merge_parts(self._fuse(found.dense, found.bm25), found.hits)
            if len(ranked) >= self.top_k or all(len(hits) < depth for hits in (*found.dense, found.bm25)):
                return ranked[: self.top_k]
            depth *= 4

    @property
    def depth(self) -> int:
        """Number of hits that are taken from each search."""
        return max(self.top_k, self.candidates) if self.mode == "fused" else self.top_k

    def search(
        self,
        view: View,
        question: Question,
        vectors: Sequence[QueryVector],
        *,
        depth: int,
        condition: Condition | None = None,
        nearest: Nearest | None = None,
    ) -> Found:
        """Return the best ``depth`` hits by each model and by words, and nodes at the places in the question.

        The words are those of the question's first 20,000 characters.
        """
        nearest, words = nearest or view.nearest, question.text[:_LONGEST_QUERY]
        return Found(
            [nearest(vector.values, top_k=depth, condition=condition, model=vector.model) for vector in vectors],
            view.matching(words, top_k=depth, condition=condition) if self.mode != "dense" else [],
            [
                number
                for place in question.places[:_MAX_PLACES]
                for number in view.nodes_at(place.path, place.line, top_k=_AT_PLACE, condition=condition)
            ],
        )

    def _rank_by_model(self, view: View, question: Question, found: Found) -> list[RankedHit] | None:
        """Return the ranking of the model; ``None`` if nothing that was found has a path or symbol."""
        candidates, features = candidate_features(view, question, found)
        if self.model is None or not any(candidate.path or candidate.symbol for candidate in candidates):
            return None
        weights, mean = self.model.vector(kind_of(question)), features.mean(axis=0)
        hits = []
        for choice in self.model.choose(question, candidates, features, top_k=self.top_k):
            chosen = candidates[choice.place]
            hit = RankedHit(
                chosen.number, chosen.id, choice.score, tuple(candidates[place].number for place in choice.others)
            )
            if self.explain:
                shares = (features[choice.place] - mean) * weights
                hit = hit._replace(reasons=dict(zip(FEATURES, shares.tolist(), strict=True)))
            hits.append(hit)
        return hits

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


def candidate_features(view: View, question: Question, found: Found) -> tuple[list[Candidate], NDArray[np.float64]]:
    """Return the nodes that were found, by number, and their features, shape ``(candidates, len(FEATURES))``."""
    numbers = {hit.number for hits in (*found.dense, found.bm25) for hit in hits}.union(found.named)
    candidates = view.candidates(numbers)
    quoted = view.reading.containing(numbers, question.quoted) if question.quoted else set()
    return candidates, feature_matrix(
        question,
        Words.of(question.text, view.rarity),
        candidates,
        vectors=[_scores(hits) for hits in found.dense],
        bm25=_scores(found.bm25),
        quoted=quoted,
    )


def _scores(hits: Sequence[Hit]) -> Scores:
    return Scores([hit.number for hit in hits], [hit.score for hit in hits])


def _merge_parts(ranking: Sequence[tuple[str, float]], found: dict[str, Hit]) -> list[RankedHit]:
    merged: dict[tuple[int, int], RankedHit] = {}
    for node_id, score in ranking:
        hit = found[node_id]
        first = merged.setdefault(hit.definition, RankedHit(hit.number, node_id, score))
        if first.number != hit.number:
            merged[hit.definition] = first._replace(others=(*first.others, hit.number))
    return list(merged.values())
