"""Held-out queries of a training: what chooses the best step, and what measures the result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llamaindex_code_retrieval.eval import Benchmark, benchmark_of, evaluate_run
from llamaindex_code_retrieval.eval.retrieval import rank_by_cosine
from llamaindex_code_retrieval.models.text_encoder import TextEncoder
from llamaindex_code_retrieval.training.pairs import Pair

SELECTION_QUERIES = 300
"""Largest number of held-out queries that choose the best step."""
REPORT_QUERIES = 300
"""Largest number of other held-out queries that measure the result."""
FEWEST_REPORT_QUERIES = 20
"""If either half would have fewer queries, all held-out queries both choose the step and measure the result."""
OTHER_CODES = 500
"""Largest number of training codes that are ranked along with the held-out ones."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out queries with the codes to rank; ``selection`` chooses the best step, ``report`` measures the result.

    They are the same object if the held-out queries are too few for two parts.
    """

    selection: Benchmark
    report: Benchmark

    @property
    def is_shared(self) -> bool:
        """Whether the queries that measure the result also choose the step."""
        return self.selection is self.report


def split_held_out(held_out: Sequence[Pair], train: Sequence[Pair], *, seed: int) -> Validation:
    """Divide held-out queries into those that choose the best step and those that measure the result.

    Each part is ranked against its own codes and up to 500 codes of the training.
    """
    rng = random.Random(seed)
    by_query: dict[str, list[str]] = {}
    for pair in held_out:
        by_query.setdefault(pair.query, []).append(pair.code)
    queries = rng.sample(list(by_query), len(by_query))
    codes = sorted({pair.code for pair in train})
    others = rng.sample(codes, min(OTHER_CODES, len(codes)))
    half = min(SELECTION_QUERIES, len(queries) // 2)
    parts = [queries[:half], queries[half:][:REPORT_QUERIES]]
    if half < FEWEST_REPORT_QUERIES:
        parts = [queries[:SELECTION_QUERIES]]
    benchmarks = [
        benchmark_of("held out", [(query, code) for query in part for code in by_query[query]], others=others)
        for part in parts
    ]
    return Validation(selection=benchmarks[0], report=benchmarks[-1])


def score(encoder: TextEncoder, benchmark: Benchmark) -> dict[str, float]:
    """Return ``mrr``, ``r@1`` and ``r@10`` of the encoder alone, over the whole corpus of ``benchmark``."""
    metrics = evaluate_run(rank_by_cosine(encoder, benchmark), benchmark.qrels)
    return {name.lower(): value for name, value in metrics.items()}
