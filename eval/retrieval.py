"""Ask a retriever all queries of a benchmark."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import QueryBundle, TextNode

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.encoder import Encoder
from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.index import CodeIndex, Progress


def benchmark_index(
    benchmark: Benchmark, embedding: CodeEmbedding, *, on_progress: Progress | None = None
) -> CodeIndex:
    """Index the codes of a benchmark, each as one node whose id is the corpus id."""
    index = CodeIndex(embedding)
    nodes = [TextNode(id_=code_id, text=code, metadata={"path": code_id}) for code_id, code in benchmark.corpus.items()]
    index.update_nodes(nodes, on_progress=on_progress)
    return index


def rank_queries(
    retriever: BaseRetriever,
    benchmark: Benchmark,
    *,
    query_vectors: dict[str, list[float]] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> dict[str, list[str]]:
    """Return for each query id the node ids that ``retriever`` returns for it, best first.

    ``query_vectors`` spares a dense retriever the embedding, for instance to compare its modes at one go.
    """
    run: dict[str, list[str]] = {}
    for done, (query_id, query) in enumerate(benchmark.queries.items(), start=1):
        vector = query_vectors[query_id] if query_vectors is not None else None
        run[query_id] = [hit.node_id for hit in retriever.retrieve(QueryBundle(query, embedding=vector))]
        if on_progress is not None:
            on_progress(done, len(benchmark.queries))
    return run


def rank_by_cosine(encoder: Encoder, benchmark: Benchmark) -> dict[str, list[str]]:
    """Return for each query id all corpus ids by cosine, best first, ties in the order of the corpus."""
    ids = list(benchmark.corpus)
    codes = encoder.encode_codes(list(benchmark.corpus.values()))
    queries = encoder.encode_queries(list(benchmark.queries.values()))
    order = np.argsort(-(queries @ codes.T), axis=1, kind="stable")
    return {query: [ids[i] for i in row] for query, row in zip(benchmark.queries, order, strict=True)}
