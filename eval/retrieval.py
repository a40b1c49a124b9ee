"""Run the queries of a benchmark through a retriever and measure the rankings."""

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
    METRICS,
    Qrels,
    Run,
    evaluate_run,
    first_relevant,
    per_query_metrics,
)
from llamaindex_code_retrieval.eval.results import TOP, RetrievalResult, protocol_name
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.models.text_encoder import TextEncoder
from llamaindex_code_retrieval.retriever import CodeRetriever

Hit = str | tuple[str, float] | NodeWithScore
"""A corpus id, a corpus id with its score, or a node."""

Search = Callable[[str], Iterable[Hit]]
"""A function that returns the hits of a query, best first."""

System = BaseRetriever | Search


@dataclass(slots=True)
class RankedQueries:
    """The rankings of all queries of a benchmark, and the time that each query took in each stage."""

    run: dict[str, list[str]] = field(default_factory=dict)
    """Query id -> corpus ids, best first."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Stage -> one value per query. The stages are ``embed`` and ``search`` of a ``CodeRetriever``, or ``retrieve`` of
    another system; then the class name of each postprocessor; and ``total``."""

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """Return stage -> ``p50`` and ``p95``."""
        return {stage: percentiles(values) for stage, values in self.seconds.items()}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th percentile in milliseconds.

    >>> percentiles([0.001, 0.002, 0.003])
    {'p50': 2.0, 'p95': 2.9}
    """
    return {f"p{part}": round(1000 * float(np.percentile(seconds, part)), 3) for part in (50, 95)}


def benchmark_index(
    benchmark: Benchmark, embedding: CodeEmbedding, *, on_progress: Progress | None = None
) -> CodeIndex:
    """Index the codes of a benchmark, each as one node whose id is the corpus id.

    The nodes have no path: words of an id, which may name the answer, must not be found.
    """
    index = CodeIndex(embedding)
    nodes = []
    for id_, code in benchmark.corpus.items():
        metadata = {"language": benchmark.languages[id_]} if id_ in benchmark.languages else {}
        nodes.append(TextNode(id_=id_, text=code, metadata=metadata, excluded_embed_metadata_keys=list(metadata)))
    index.update_nodes(nodes, on_progress=on_progress)
    return index


def index_once(embedding: CodeEmbedding, *, on_progress: Progress | None = None) -> Callable[[Benchmark], CodeIndex]:
    """Return a function that returns the index of a benchmark, which is built when it is first asked for by name.

    The index does not cache the vectors of queries, so that their time can be measured.
    """
    indexes: dict[str, CodeIndex] = {}

    def index_of(benchmark: Benchmark) -> CodeIndex:
        if benchmark.name not in indexes:
            index = benchmark_index(benchmark, embedding, on_progress=on_progress)
            index.embedding = embedding.uncached()
            indexes[benchmark.name] = index
        return indexes[benchmark.name]

    return index_of


def rank_queries(
    system: System,
    benchmark: Benchmark,
    *,
    postprocessors: Sequence[BaseNodePostprocessor] = (),
    query_vectors: Mapping[str, list[float]] | None = None,
    id_of: Callable[[NodeWithScore], str] = lambda hit: hit.node_id,
    on_progress: Callable[[int, int], object] | None = None,
) -> RankedQueries:
    """Search with each query of a benchmark and return the corpus ids that ``system`` finds, best first.

    ``id_of`` returns the corpus id of a node; of several nodes with one id the best one counts. Adjacent hits of equal
    score are sorted by id, so that their order does not depend on how the system breaks ties. ``query_vectors`` (query
    id -> vector) saves a ``CodeRetriever`` the embedding, for instance to compare its modes.

    Raises:
        ValueError: a score is NaN, an id is not in the corpus, or ``query_vectors`` lack a query or are given with
            another system than a ``CodeRetriever``.
    """
    if query_vectors is not None:
        if not isinstance(system, CodeRetriever):
            raise ValueError("query_vectors have an effect with a CodeRetriever only; leave them out")
        if missing := sorted(benchmark.queries.keys() - query_vectors.keys()):
            raise ValueError(f"query_vectors lack the query {missing[0]!r}; give a vector for every query")
    ranked = RankedQueries()
    for done, (query_id, query) in enumerate(benchmark.queries.items(), start=1):
        vector = None if query_vectors is None else query_vectors[query_id]
        hits = timed_search(system, query, ranked.seconds, vector=vector, postprocessors=postprocessors)
        ranked.run[query_id] = _ranking(hits, query_id, benchmark, id_of)
        if on_progress is not None:
            on_progress(done, len(benchmark.queries))
    return ranked


def timed_search(
    system: System,
    query: str,
    seconds: dict[str, list[float]],
    *,
    vector: list[float] | None = None,
    postprocessors: Sequence[BaseNodePostprocessor] = (),
) -> list[Hit]:
    """Return the hits of a query, and append the time of each stage to ``seconds``; see :class:`RankedQueries`.

    A ``CodeRetriever`` without postprocessors returns ids and scores, because building the nodes is part of no stage.

    Raises:
        ValueError: there are postprocessors, and the system returns ids.
    """
    clock = _Clock(seconds)
    hits = _search(system, query, vector, clock, postprocessors)
    bundle = QueryBundle(query)
    for postprocessor in postprocessors:
        nodes = [hit for hit in hits if isinstance(hit, NodeWithScore)]
        if len(nodes) < len(hits):
            raise ValueError("postprocessors need nodes, but this system returns ids; leave the postprocessors out")
        hits = list(postprocessor.postprocess_nodes(nodes, query_bundle=bundle))
        clock.lap(type(postprocessor).__name__)
    clock.stop()
    return hits


class _Clock:
    """Appends the time since the last lap to the list of a stage."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.seconds = seconds
        self.start = self.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds.setdefault(stage, []).append(now - self.last)
        self.last = now

    def stop(self) -> None:
        self.seconds.setdefault("total", []).append(time.perf_counter() - self.start)


def _search(
    system: System,
    query: str,
    vector: list[float] | None,
    clock: _Clock,
    postprocessors: Sequence[BaseNodePostprocessor],
) -> list[Hit]:
    if isinstance(system, CodeRetriever):
        vectors = system.embed_query(query) if vector is None or system.mode == "bm25" else [vector]
        clock.lap("embed")
        ranked = system.rank(query, vectors)
        # Building a node takes 0.1 ms, and only a postprocessor needs it.
        hits: list[Hit] = list(ranked)
        if postprocessors:
            hits = [NodeWithScore(node=system.index.node(node_id), score=score) for node_id, score in ranked]
        clock.lap("search")
        return hits
    hits = list(system.retrieve(QueryBundle(query)) if isinstance(system, BaseRetriever) else system(query))
    clock.lap("retrieve")
    return hits


def _ranking(hits: Sequence[Hit], query: str, benchmark: Benchmark, id_of: Callable[[NodeWithScore], str]) -> list[str]:
    scored: list[tuple[str, float | None]] = []
    for hit in hits:
        if isinstance(hit, NodeWithScore):
            scored.append((id_of(hit), hit.score))
        else:
            scored.append((hit, None) if isinstance(hit, str) else hit)
    for id_, score in scored:
        if score is not None and math.isnan(score):
            raise ValueError(f"the score of {id_!r} for query {query!r} is NaN, so the hits cannot be ranked")
        if id_ not in benchmark.corpus:
            raise ValueError(
                f"query {query!r} found {id_!r}, which the corpus of {benchmark.name!r} lacks; index that corpus, "
                "or pass id_of, which returns the corpus id of a node"
            )
    ranking: list[str] = []
    for score, tied in groupby(scored, key=lambda hit: hit[1]):
        ids = [id_ for id_, _ in tied]
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
    """Build a system for a benchmark and measure it; pass ``lambda _: retriever`` to measure an existing one.

    With a ``pool_size`` the codes are divided into pools of that size (:meth:`Benchmark.pools`), and a system is built
    for each; without one all codes are one pool, as in CasCode. ``depth`` is only recorded: the number of hits that the
    system was asked for. A query whose relevant codes are not among its hits counts as 0.
    """
    ranked = _rank_pools(build, benchmark, pool_size, seed, postprocessors, on_progress)
    values = per_query_metrics(ranked.run, benchmark.qrels, metrics=metrics)
    collapsed = {metric: fmean(by_query.values()) for metric, by_query in values.items()}
    representatives = benchmark.representatives()
    duplicates = len(representatives) - len(set(representatives.values()))
    if duplicates:
        collapsed = evaluate_run(*collapse(ranked.run, benchmark.qrels, representatives), metrics=metrics)
    return RetrievalResult(
        system=system,
        task=task or benchmark.name,
        benchmark=benchmark.name,
        benchmark_fingerprint=benchmark.fingerprint,
        protocol=protocol_name(pool_size, seed),
        depth=depth,
        codes=len(benchmark.corpus),
        duplicates=duplicates,
        values=values,
        collapsed=collapsed,
        ranks=first_relevant(ranked.run, benchmark.qrels),
        top={query: ranked.run[query][:TOP] for query in benchmark.queries},
        queries=dict(benchmark.queries),
        languages=benchmark.query_languages,
        milliseconds=ranked.milliseconds(),
        fingerprint=fingerprint,
    )


def _rank_pools(
    build: Callable[[Benchmark], System],
    benchmark: Benchmark,
    pool_size: int,
    seed: int,
    postprocessors: Sequence[BaseNodePostprocessor],
    on_progress: Callable[[int, int], object] | None,
) -> RankedQueries:
    ranked = RankedQueries()

    def show(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(len(ranked.run) + done, len(benchmark.queries))

    for pool in benchmark.pools(pool_size, seed=seed) if pool_size else [benchmark]:
        part = rank_queries(build(pool), pool, postprocessors=postprocessors, on_progress=show)
        ranked.run.update(part.run)
        for stage, seconds in part.seconds.items():
            ranked.seconds.setdefault(stage, []).extend(seconds)
    return ranked


def collapse(
    run: Run, qrels: Qrels, representatives: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """Return run and qrels with each id replaced by its representative; the best rank and judgement of each count."""
    collapsed = {query: list(dict.fromkeys(representatives[id_] for id_ in ranking)) for query, ranking in run.items()}
    judgements: dict[str, dict[str, int]] = {}
    for query, scores in qrels.items():
        by_id = judgements.setdefault(query, {})
        for id_, score in scores.items():
            first = representatives[id_]
            by_id[first] = max(score, by_id.get(first, score))
    return collapsed, judgements


def rank_by_cosine(encoder: TextEncoder, benchmark: Benchmark) -> dict[str, list[str]]:
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
