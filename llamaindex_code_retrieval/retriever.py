"""``CodeRetriever``: rank the nodes of a ``CodeIndex`` by vectors, by words, or by both."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, TypedDict

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from llamaindex_code_retrieval._settings import check_is_list
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.snapshot import AdapterGroup, Snapshot
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.ranking import (
    BM25_WEIGHT,
    CANDIDATES,
    DENSE_WEIGHT,
    RANK_CONSTANT,
    reciprocal_rank_fusion,
)

Mode = Literal["dense", "bm25", "fused"]


class RetrieverOptions(TypedDict, total=False):
    """The options of :class:`CodeRetriever`."""

    top_k: int
    mode: Mode
    dense_weight: float
    bm25_weight: float
    candidates: int
    rank_constant: int
    languages: Collection[str] | None
    callback_manager: CallbackManager | None


class CodeRetriever(BaseRetriever):
    """Retrieves the ``top_k`` nodes of an index for a query.

    ``mode`` is "dense" (cosine), "bm25" (BM25 over the words inside identifiers) or "fused" (weighted reciprocal rank
    fusion of the first ``candidates`` of both). Ties are broken by node id, so that two runs agree. With ``languages``
    only nodes of these languages are retrieved; ``""`` stands for nodes without one.

    Where the index uses several adapters, the query is embedded by each and compared with the vectors that the same
    adapter made. Cosines of two adapters cannot be compared, so the rankings, which share no node, are fused by rank:
    in mode "dense" the first hits of all adapters come before the second ones, in mode "fused" BM25 decides between
    nodes of one rank; then the cosine, then the id. A score is the cosine in mode "dense" with one adapter, BM25's in
    mode "bm25", else the weighted sum of reciprocal ranks, divided by the largest possible sum.

    An ``embedding`` in the ``QueryBundle`` replaces the model's if the index uses one adapter. With several it is
    ignored, because it can be compared with the vectors of one of them only.

    The default weights and rank constant were chosen on CoSQA dev and on the documented functions of the standard
    library, for the embedded model. BM25 ranks much worse than the vectors on both, and the usual rank constant of 60,
    made for rankings of similar quality, costs 0.04 MRR on CoSQA.

    Raises:
        ValueError: an option out of range, one that has no effect in this mode, or a language that neither the index
            nor the table of languages knows.
    """

    def __init__(
        self,
        index: CodeIndex[Any],
        *,
        top_k: int = 10,
        mode: Mode = "fused",
        dense_weight: float | None = None,
        bm25_weight: float | None = None,
        candidates: int | None = None,
        rank_constant: int | None = None,
        languages: Collection[str] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if mode not in ("dense", "bm25", "fused"):
            raise ValueError(f"mode must be 'dense', 'bm25' or 'fused', got {mode!r}")
        fusion = {"dense_weight": dense_weight, "bm25_weight": bm25_weight, "candidates": candidates}
        if mode == "bm25":
            fusion["rank_constant"] = rank_constant  # mode "dense" fuses the rankings of several adapters
        without_effect = [name for name, value in fusion.items() if value is not None and mode != "fused"]
        if without_effect:
            raise ValueError(
                f"mode {mode!r} does not use {' and '.join(without_effect)}; leave that out, or use mode 'fused'"
            )
        dense_weight = DENSE_WEIGHT if dense_weight is None else dense_weight
        bm25_weight = BM25_WEIGHT if bm25_weight is None else bm25_weight
        candidates = CANDIDATES if candidates is None else candidates
        rank_constant = RANK_CONSTANT if rank_constant is None else rank_constant
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}")
        weights = (dense_weight, bm25_weight)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
            raise ValueError(f"weights must be >= 0 and not both 0, got {dense_weight} and {bm25_weight}")
        if not rank_constant >= 0:  # NaN is refused too
            raise ValueError(f"rank_constant must be >= 0, got {rank_constant}")
        super().__init__(callback_manager=callback_manager)
        self.index = index
        self.top_k = top_k
        self.mode: Mode = mode
        self.dense_weight = dense_weight
        self.bm25_weight = bm25_weight
        self.candidates = candidates
        self.rank_constant = rank_constant
        self.languages = None if languages is None else _known_languages(languages, index)

    def embed_query(self, query: str) -> list[list[float]]:
        """Return the query's vector by each adapter in use, for :meth:`rank`; none in mode "bm25"."""
        return [embedder.get_query_embedding(query) for embedder, _ in self._adapter_groups(self.index.snapshot)]

    def rank(self, query: str, vectors: Sequence[list[float]]) -> list[tuple[str, float]]:
        """Return ids and scores of the ``top_k`` best nodes, without building the nodes.

        Raises:
            ValueError: not one vector for each adapter in use, as when the index was updated after the embedding.
        """
        snapshot = self.index.snapshot
        groups = self._adapter_groups(snapshot)
        if len(vectors) != len(groups):
            raise ValueError(f"rank needs the query's vector by {len(groups)} adapters in use, got {len(vectors)}")
        return self._rank(snapshot, groups, query, vectors)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        snapshot = self.index.snapshot
        groups = self._adapter_groups(snapshot)
        query = query_bundle.query_str
        vectors = _query_vectors(query_bundle, groups)
        if vectors is None:
            vectors = [embedder.get_query_embedding(query) for embedder, _ in groups]
        return self._hits(snapshot, groups, query, vectors)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        snapshot = self.index.snapshot
        groups = self._adapter_groups(snapshot)
        query = query_bundle.query_str
        vectors = _query_vectors(query_bundle, groups)
        if vectors is None:
            vectors = await asyncio.gather(*[embedder.aget_query_embedding(query) for embedder, _ in groups])
        return await asyncio.to_thread(self._hits, snapshot, groups, query, vectors)

    def _adapter_groups(self, snapshot: Snapshot) -> list[AdapterGroup]:
        return [] if self.mode == "bm25" else self.index.adapter_groups(self.languages, snapshot=snapshot)

    def _hits(
        self, snapshot: Snapshot, groups: Sequence[AdapterGroup], query: str, vectors: Sequence[list[float]]
    ) -> list[NodeWithScore]:
        ranking = self._rank(snapshot, groups, query, vectors)
        return [NodeWithScore(node=snapshot.node(node_id), score=score) for node_id, score in ranking]

    def _rank(
        self, snapshot: Snapshot, groups: Sequence[AdapterGroup], query: str, vectors: Sequence[list[float]]
    ) -> list[tuple[str, float]]:
        depth = max(self.top_k, self.candidates) if self.mode == "fused" else self.top_k
        dense = [
            snapshot.search_vectors(vector, top_k=depth, languages=group.languages)
            for vector, group in zip(vectors, groups, strict=True)
        ]
        bm25 = snapshot.search_words(query, top_k=depth, languages=self.languages) if self.mode != "dense" else []
        if self.mode == "bm25":
            return bm25
        if self.mode == "dense" and len(dense) <= 1:
            return dense[0] if dense else []
        return self._fuse(dense, bm25)[: self.top_k]

    def _fuse(
        self, dense: Sequence[Sequence[tuple[str, float]]], bm25: Sequence[tuple[str, float]]
    ) -> list[tuple[str, float]]:
        dense_weight, bm25_weight = (self.dense_weight, self.bm25_weight) if self.mode == "fused" else (1.0, 0.0)
        weights = [*[dense_weight] * len(dense), bm25_weight]
        rankings = [[node_id for node_id, _ in ranking] for ranking in (*dense, bm25)]
        hits = reciprocal_rank_fusion(rankings, weights=weights, rank_constant=self.rank_constant)
        if len(dense) <= 1:
            return hits
        # A node is in one dense ranking at most, so the largest possible sum is that of one dense ranking and BM25.
        scale = sum(weights) / (dense_weight + bm25_weight)
        cosines = {node_id: cosine for ranking in dense for node_id, cosine in ranking}
        scaled = [(node_id, score * scale) for node_id, score in hits]
        return sorted(scaled, key=lambda hit: (-hit[1], -cosines.get(hit[0], -1.0), hit[0]))


def _query_vectors(query_bundle: QueryBundle, groups: Sequence[AdapterGroup]) -> list[list[float]] | None:
    """Return the vector that the caller gave with the query, if it can be compared with all vectors of the index."""
    vector = query_bundle.embedding
    return [vector] if vector is not None and len(groups) == 1 else None


def _known_languages(languages: Collection[str], index: CodeIndex[Any]) -> frozenset[str]:
    check_is_list(languages, "languages")
    unknown = sorted(set(languages) - {"", *LANGUAGES, *index.languages})
    if unknown:
        indexed = ", ".join(filter(None, index.languages)) or "none"
        raise ValueError(
            f"unknown language {', '.join(map(repr, unknown))}; the index has {indexed}; "
            f"known are {', '.join(LANGUAGES)}"
        )
    return frozenset(languages)
