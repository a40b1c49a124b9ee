"""Ask any retriever all queries of a benchmark, and measure what comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.metrics import (
    COSINE_TOLERANCE,
    Qrels,
    Run,
    evaluate_run,
    first_relevant,
    per_query_metrics,
)
from llamaindex_code_retrieval.eval.results import RetrievalResult
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.retriever import CodeRetriever

Search = Callable[[str], Iterable[str | tuple[str, float] | NodeWithScore]]
"""A query's hits, best first: corpus ids, (corpus id, score) or nodes."""

System = BaseRetriever | Search

METRICS = ("MRR", "MRR@10", "R@1", "R@5", "R@10", "R@100", "nDCG@10", "MAP")


@dataclass(slots=True)
class Asked:
    """Rankings, and how long each query took in each stage."""

    run: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Stage -> one value a query: ``embed`` and ``search`` for a ``CodeRetriever``, else ``retrieve``; then each
    postprocessor's class name; ``total``."""

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """Return the 50th and 95th percentile of each stage."""
        return {
            stage: {f"p{part}": round(1000 * float(np.percentile(values, part)), 3) for part in (50, 95)}
            for stage, values in self.seconds.items()
        }


def benchmark_index(
    benchmark: Benchmark, embedding: CodeEmbedding, *, on_progress: Progress | None = None
) -> CodeIndex:
    """Index the codes of a benchmark, each as one node whose id is the corpus id."""
    index = CodeIndex(embedding)
    nodes = []
    for id_, code in benchmark.corpus.items():
        metadata = {"path": id_}
        if id_ in benchmark.languages:
            metadata["language"] = benchmark.languages[id_]
        nodes.append(TextNode(id_=id_, text=code, metadata=metadata, excluded_embed_metadata_keys=list(metadata)))
    index.update_nodes(nodes, on_progress=on_progress)
    return index


def rank_queries(
    system: System,
    benchmark: Benchmark,
    *,
    postprocessors: Sequence[BaseNodePostprocessor] = (),
    query_vectors: Mapping[str, list[float]] | None = None,
    id_of: Callable[[NodeWithScore], str] = lambda hit: hit.node_id,
    on_progress: Callable[[int, int], object] | None = None,
) -> Asked:
    """Ask ``system`` each query and return the corpus ids that come back, best first.

    ``id_of`` says which corpus id a node stands for; of several nodes of one id the best counts. Hits of equal score
    are put in the order of their ids, so that no run is lucky. ``query_vectors`` spares a ``CodeRetriever`` the
    embedding, for instance to compare its modes at one go.

    Raises:
        ValueError: a score that is no number; an id that the corpus lacks.
    """
    asked = Asked()
    for done, (query_id, query) in enumerate(benchmark.queries.items(), start=1):
        clock = _Clock(asked.seconds)
        hits = _hits(system, query, None if query_vectors is None else query_vectors[query_id], clock, postprocessors)
        bundle = QueryBundle(query)
        for postprocessor in postprocessors:
            nodes = [hit for hit in hits if isinstance(hit, NodeWithScore)]
            if len(nodes) < len(hits):
                raise ValueError("postprocessors work on nodes, and this system returns ids; leave them out")
            hits = list(postprocessor.postprocess_nodes(nodes, query_bundle=bundle))
            clock.lap(type(postprocessor).__name__)
        clock.stop()
        asked.run[query_id] = _ranking(hits, query_id, benchmark, id_of)
        if on_progress is not None:
            on_progress(done, len(benchmark.queries))
    return asked


class _Clock:
    """Adds the time since the last lap to a stage's list."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.seconds = seconds
        self.start = self.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds.setdefault(stage, []).append(now - self.last)
        self.last = now

    def stop(self) -> None:
        self.seconds.setdefault("total", []).append(time.perf_counter() - self.start)


def _hits(
    system: System,
    query: str,
    vector: list[float] | None,
    clock: _Clock,
    postprocessors: Sequence[BaseNodePostprocessor],
) -> list[str | tuple[str, float] | NodeWithScore]:
    if isinstance(system, CodeRetriever):
        vectors = system.embed_query(query) if vector is None or system.mode == "bm25" else [vector]
        clock.lap("embed")
        ranked = system.rank(query, vectors)
        # A node costs 0.1 ms to build, and only a postprocessor reads it.
        hits: list[str | tuple[str, float] | NodeWithScore] = list(ranked)
        if postprocessors:
            hits = [NodeWithScore(node=system.index.node(node_id), score=score) for node_id, score in ranked]
        clock.lap("search")
        return hits
    hits = list(system.retrieve(QueryBundle(query)) if isinstance(system, BaseRetriever) else system(query))
    clock.lap("retrieve")
    return hits


def _ranking(
    hits: Sequence[str | tuple[str, float] | NodeWithScore],
    query: str,
    benchmark: Benchmark,
    id_of: Callable[[NodeWithScore], str],
) -> list[str]:
    scored: list[tuple[str, float | None]] = []
    for hit in hits:
        if isinstance(hit, NodeWithScore):
            scored.append((id_of(hit), hit.score))
        else:
            scored.append((hit, None) if isinstance(hit, str) else hit)
    for id_, score in scored:
        if score is not None and math.isnan(score):
            raise ValueError(
                f"the score of {id_!r} for query {query!r} is no number (NaN); such a ranking means nothing"
            )
        if id_ not in benchmark.corpus:
            raise ValueError(
                f"query {query!r} got {id_!r}, which the corpus of {benchmark.name!r} lacks; index that corpus, "
                "or say with id_of which corpus id a node stands for"
            )
    ranking: list[str] = []
    for score, equal in groupby(scored, key=lambda hit: hit[1]):
        ids = [id_ for id_, _ in equal]
        ranking.extend(ids if score is None else sorted(ids))
    return list(dict.fromkeys(ranking))


def evaluate_retrieval(
    build: Callable[[Benchmark], System],
    benchmark: Benchmark,
    *,
    system: str,
    task: str | None = None,
    depth: int = 100,
    pool_size: int = 0,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
    postprocessors: Sequence[BaseNodePostprocessor] = (),
    fingerprint: str = "",
    on_progress: Callable[[int, int], object] | None = None,
) -> RetrievalResult:
    """Build a system for a benchmark, ask it and measure it; ``lambda _: retriever`` serves one that is built.

    With a ``pool_size`` the codes are dealt into pools of that many (:meth:`Benchmark.pools`), each with a system of
    its own; without, all codes are one pool (CasCode's protocol). ``depth`` only records how many hits the system
    was asked for. A query without an answer among its hits counts as 0.
    """
    pools = benchmark.pools(pool_size, seed=seed) if pool_size else [benchmark]
    asked = Asked()
    for pool in pools:
        part = rank_queries(
            build(pool),
            pool,
            postprocessors=postprocessors,
            on_progress=None
            if on_progress is None
            else lambda done, total: on_progress(len(asked.run) + done, len(benchmark.queries)),
        )
        asked.run.update(part.run)
        for stage, seconds in part.seconds.items():
            asked.seconds.setdefault(stage, []).extend(seconds)
    first = benchmark.representatives()
    duplicates = len(first) - len(set(first.values()))
    values = per_query_metrics(asked.run, benchmark.qrels, metrics=metrics)
    collapsed = {metric: fmean(by_query.values()) for metric, by_query in values.items()}
    if duplicates:
        once, judged_once = collapse(asked.run, benchmark.qrels, first)
        collapsed = evaluate_run(once, judged_once, metrics=metrics)
    return RetrievalResult(
        system=system,
        task=task or benchmark.name,
        benchmark=benchmark.name,
        benchmark_fingerprint=benchmark.fingerprint,
        protocol=f"pools of {pool_size} (seed {seed})" if pool_size else "whole",
        depth=depth,
        codes=len(benchmark.corpus),
        duplicates=duplicates,
        values=values,
        collapsed=collapsed,
        ranks=first_relevant(asked.run, benchmark.qrels),
        top={query: asked.run[query][:10] for query in benchmark.queries},
        queries=dict(benchmark.queries),
        languages=benchmark.query_languages,
        milliseconds=asked.milliseconds(),
        fingerprint=fingerprint,
    )


def collapse(
    run: Run, qrels: Qrels, first: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """Return run and qrels with each id in the place of its first equal: best rank and best judgement count."""
    once = {query: list(dict.fromkeys(first[id_] for id_ in ranking)) for query, ranking in run.items()}
    judged: dict[str, dict[str, int]] = {}
    for query, scores in qrels.items():
        own = judged.setdefault(query, {})
        for id_, score in scores.items():
            own[first[id_]] = max(score, own.get(first[id_], score))
    return once, judged


def rank_by_cosine(encoder: Encoder, benchmark: Benchmark) -> dict[str, list[str]]:
    """Return for each query id all corpus ids by cosine, best first.

    Of equal cosines (see ``COSINE_TOLERANCE``) the codes that do not answer the query come first, in the order of the
    corpus: an encoder that maps every text to one vector ranks its answers last.

    Raises:
        ValueError: the encoder returns NaN.
    """
    ids = list(benchmark.corpus)
    position = {code: i for i, code in enumerate(ids)}
    codes = encoder.encode_codes(list(benchmark.corpus.values()))
    queries = encoder.encode_queries(list(benchmark.queries.values()))
    similarities = queries @ codes.T  # (queries, codes)
    if np.isnan(similarities).any():
        raise ValueError("the encoder returns vectors that contain NaN, so nothing can be ranked; check its weights")
    run = {}
    for query, cosines in zip(benchmark.queries, similarities, strict=True):
        relevant = np.zeros(len(ids), dtype=bool)
        relevant[[position[code] for code, score in benchmark.qrels[query].items() if score > 0]] = True
        lowered = cosines.astype(np.float64) - COSINE_TOLERANCE * relevant
        run[query] = [ids[i] for i in np.lexsort((relevant, -lowered))]
    return run
