"""Retrieve candidates for held-out queries by the first stage, as a reranker gets them in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.metrics import mean_reciprocal_rank, pessimistic_rank
from llamaindex_code_retrieval.index.words import WordDocument, WordIndex
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.ranking.fusion import (
    BM25_WEIGHT,
    CANDIDATES,
    DENSE_WEIGHT,
    RANK_CONSTANT,
    reciprocal_rank_fusion,
)
from llamaindex_code_retrieval.training.calibration import MIN_QUERIES
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.sampling import sample_pool

VALIDATION_QUERIES = 100
"""Largest number of held-out queries that choose the best step; they are a quarter of all where these are few."""
VALIDATION_DEPTH = 10
"""Candidates of each of them that are scored."""
CALIBRATION_QUERIES = 300
"""Largest number of other held-out queries, which calibrate."""
POOL = 10_000
"""Largest number of codes that the held-out queries search."""


@dataclass(frozen=True, slots=True)
class HeldOutQueries:
    """Queries that no model is trained on, with their answers and the codes that they search."""

    answers: dict[str, set[str]]
    pool: list[str]
    languages: dict[str, str]
    """The language of each code in the pool."""


@dataclass(frozen=True, slots=True)
class RetrievedCandidates:
    """The codes that the first stage retrieves for each query, best first, and whether each answers the query."""

    queries: list[str]
    codes: list[list[str]]
    relevant: list[list[bool]]

    def split(self, *, depth: int) -> tuple[RetrievedCandidates, RetrievedCandidates]:
        """Return the candidates that choose the best step, and ``depth`` of each other query, which calibrate."""
        choosing = min(VALIDATION_QUERIES, len(self.queries) // 4)
        validation = RetrievedCandidates(
            self.queries[:choosing],
            [row[:VALIDATION_DEPTH] for row in self.codes[:choosing]],
            [row[:VALIDATION_DEPTH] for row in self.relevant[:choosing]],
        )
        calibration = RetrievedCandidates(
            self.queries[choosing:],
            [row[:depth] for row in self.codes[choosing:]],
            [row[:depth] for row in self.relevant[choosing:]],
        )
        return validation, calibration

    def metrics(self, scores: Sequence[Sequence[float]] | None = None) -> dict[str, float]:
        """Return MRR and R@1 in the order of ``scores``, ``(queries, candidates)``, or in that of the first stage."""
        if scores is None:
            scores = [[-float(place) for place in range(len(row))] for row in self.codes]
        ranks = [
            pessimistic_rank(row, np.flatnonzero(relevant).tolist())
            for row, relevant in zip(scores, self.relevant, strict=True)
        ]
        return {"mrr": mean_reciprocal_rank(ranks), "r@1": fmean(rank == 1 for rank in ranks)}


def hold_out(
    held_out: Sequence[Pair], train: Sequence[Pair], distractors: Mapping[str, str], *, seed: int
) -> HeldOutQueries:
    """Return held-out queries that search held-out codes, those that are trained on and ``distractors``.

    Raises:
        ValueError: too few queries to choose a step and to calibrate, or fewer than two codes.
    """
    languages = {**distractors, **{pair.code: pair.language for pair in (*train, *held_out)}}
    queries = VALIDATION_QUERIES + CALIBRATION_QUERIES
    answers, pool = sample_pool(held_out, languages, queries=queries, codes=POOL, seed=seed)
    if len(pool) < 2 or len(answers) - len(answers) // 4 < MIN_QUERIES:
        raise ValueError(
            f"{len(answers)} held-out queries and {len(pool)} codes are too few to choose the best step and to "
            "calibrate a reranker; give more pairs, a larger held_out, or other pairs with --validate"
        )
    return HeldOutQueries(answers, pool, {code: languages[code] for code in pool})


def retrieve(held_out: HeldOutQueries, first_stage: CodeEmbedding | Encoder, *, depth: int) -> RetrievedCandidates:
    """Return the best codes for each query by vectors and words, fused as ``CodeRetriever`` fuses them.

    There are ``depth`` of them, and no fewer than the choice of the best step needs.
    """
    depth = max(depth, VALIDATION_DEPTH)
    queries, pool = list(held_out.answers), held_out.pool
    if isinstance(first_stage, Encoder):
        query_vectors, code_vectors = first_stage.encode_queries(queries), first_stage.encode_codes(pool)
    else:
        query_vectors = first_stage.embed_queries(queries)
        code_vectors = first_stage.embed_codes(pool, [held_out.languages[code] for code in pool])
    kept = code_vectors.astype(np.float16).astype(np.float32)  # as an index keeps them
    cosines = query_vectors @ kept.T  # (queries, codes)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : max(depth, CANDIDATES)]
    words = WordIndex.in_memory()
    with words.writer() as writer:
        writer.add(
            WordDocument(row, symbol="", scope="", path="", docstring="", body=code) for row, code in enumerate(pool)
        )
        writer.commit()
    searcher = words.searcher()
    retrieved = []
    for query, rows in zip(queries, nearest, strict=True):
        by_vectors = [pool[row] for row in rows]
        by_words = [pool[row] for row, _ in searcher.search(query, top_k=len(rows))]
        hits = reciprocal_rank_fusion(
            [by_vectors, by_words], weights=(DENSE_WEIGHT, BM25_WEIGHT), rank_constant=RANK_CONSTANT
        )
        retrieved.append([code for code, _ in hits[:depth]])
    relevant = [
        [code in held_out.answers[query] for code in codes] for query, codes in zip(queries, retrieved, strict=True)
    ]
    return RetrievedCandidates(queries, retrieved, relevant)
