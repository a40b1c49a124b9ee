"""Quality and time of a cascade by K, the number of first-stage hits that its reranker reads (CasCode, section 4.2).

Each pair of a query and a hit is scored once, at the largest K; the rankings of all smaller K follow from these scores.
The time is measured on some of the queries, which are reranked at each K.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index.core.schema import MetadataMode, NodeWithScore

from llamaindex_code_retrieval._io import Progress, no_progress, write_atomically
from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.metrics import evaluate_run
from llamaindex_code_retrieval.eval.results import CURVE_METRICS, Curve, CurvePoint, protocol_name
from llamaindex_code_retrieval.eval.retrieval import percentiles, rank_queries
from llamaindex_code_retrieval.models.calibration import calibration_error, probability, scored_until_settled
from llamaindex_code_retrieval.reranker import CodeReranker
from llamaindex_code_retrieval.retriever import CodeRetriever

_EXIT_TOP_N = (10, 1)  # a list of hits, and a single answer
_SAVE_EVERY = 25  # queries between two writes of the log-odds


def parse_ks(text: str) -> tuple[int, ...]:
    """Read comma-separated values of K and return them in increasing order.

    Raises:
        ValueError: a value is not a whole number, see also :func:`check_ks`.

    >>> parse_ks("10, 1,100")
    (1, 10, 100)
    """
    try:
        ks = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"K must be whole numbers separated by commas, got {text!r}; try 1,5,10,20,50,100") from error
    return check_ks(ks)


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Return the values of K in increasing order.

    Raises:
        ValueError: a value is negative or given twice, or none is over 0.
    """
    negative = next((k for k in ks if k < 0), None)
    if negative is not None:
        raise ValueError(f"K is a number of hits, got {negative}; use values from 1, such as 1,5,10,20,50,100")
    if not any(ks):
        raise ValueError(
            f"a curve needs a K over 0, got {list(ks)}; the first stage alone (0) is always measured, "
            "so add values such as 1,5,10,20,50,100"
        )
    repeated = next((k for k in ks if ks.count(k) > 1), None)
    if repeated is not None:
        raise ValueError(f"K={repeated} is given twice; give each K once")
    return tuple(sorted(ks))


def rerank_curve(
    build: Callable[[Benchmark], CodeRetriever],
    reranker: CodeReranker,
    benchmark: Benchmark,
    ks: Sequence[int],
    *,
    system: str,
    task: str | None = None,
    pool_size: int = 0,
    seed: int = 0,
    latency_queries: int = 20,
    log_odds_file: Path | None = None,
    on_progress: Progress = no_progress,
) -> Curve:
    """Measure a retriever and a reranker at K = 0 and each of ``ks``; pass ``lambda _: retriever`` for an existing one.

    The retriever's ``top_k`` is the depth, and at least the largest K. ``top_n``, ``threshold`` and ``early_exit`` of
    the reranker are not used: all hits are ranked, and each confidence that its calibration knows is measured at the
    largest K. Codes are divided into pools as by :func:`evaluate_retrieval`.

    Log-odds are kept in ``log_odds_file``, and a run that finds the file goes on from it. The file must belong to this
    reranker, its settings and this benchmark; the caller removes it.

    Raises:
        ValueError: see :func:`check_ks`; the largest K exceeds the retriever's ``top_k``; ``latency_queries`` is under
            1; the reranker has a ``repository_weight`` for the hits, because they are parts of files.
    """
    settings = _settings(check_ks(ks), reranker)
    if latency_queries < 1:
        raise ValueError(f"latency_queries must be at least 1, got {latency_queries}")
    timed = set(random.Random(seed).sample(sorted(benchmark.queries), min(latency_queries, len(benchmark.queries))))
    measurement = _Measurement(reranker, benchmark, settings, timed, log_odds_file, on_progress)
    for pool in benchmark.pools(pool_size, seed=seed) if pool_size else [benchmark]:
        measurement.add(pool, build(pool))
    return Curve(
        system=system,
        task=task or benchmark.name,
        benchmark=benchmark.name,
        benchmark_fingerprint=benchmark.fingerprint,
        protocol=protocol_name(pool_size, seed),
        depth=measurement.depth,
        codes=len(benchmark.corpus),
        queries=len(benchmark.queries),
        fingerprint=measurement.fingerprint,
        reranker=reranker.model,
        reranker_fingerprint=reranker.fingerprint,
        precision=reranker.precision,
        max_tokens=reranker.max_tokens,
        rank_weight=reranker.calibration.rank_weight if reranker.rank_weight is None else reranker.rank_weight,
        first_stage=percentiles(measurement.first_stage_seconds),
        timed=len(timed),
        calibration_error=reranker.calibration.error,
        error=_calibration_error(measurement.rankings, benchmark),
        points=measurement.points(),
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """A K, and the rule by which early exit scores fewer hits."""

    k: int
    early_exit: float | None = None
    top_n: int | None = None
    ceiling: tuple[float, ...] = ()

    def count(self, log_odds: Sequence[float]) -> int:
        """Return how many of a query's hits are scored, of which ``log_odds`` are those of the largest K."""
        if self.top_n is None:
            return min(self.k, len(log_odds))
        return scored_until_settled(log_odds[: self.k], self.ceiling, top_n=self.top_n)


def _settings(ks: Sequence[int], reranker: CodeReranker) -> list[_Setting]:
    calibration = reranker.calibration
    settings = [_Setting(k) for k in sorted({0, *ks})]
    if reranker.rank_weight in (None, calibration.rank_weight):  # the ceilings were calibrated with this weight
        settings += [
            _Setting(max(ks), float(confidence), top_n, tuple(ceiling))
            for confidence, ceiling in calibration.ceilings.items()
            for top_n in _EXIT_TOP_N
        ]
    return settings


@dataclass(frozen=True, slots=True)
class _Ranking:
    """One query's hits in the order of the first stage."""

    ids: list[str]
    log_odds: list[float]
    """Of the first hits, combined with the rank."""

    def reranked(self, count: int) -> list[str]:
        """Return the ids with the first ``count`` as :meth:`CodeReranker.rerank` orders them."""
        first = sorted(range(min(count, len(self.log_odds))), key=lambda i: (-self.log_odds[i], self.ids[i]))
        return [*(self.ids[i] for i in first), *self.ids[len(first) :]]


class _Measurement:
    """Rankings and times of all queries, collected pool by pool."""

    def __init__(
        self,
        reranker: CodeReranker,
        benchmark: Benchmark,
        settings: Sequence[_Setting],
        timed: set[str],
        log_odds_file: Path | None,
        on_progress: Progress,
    ) -> None:
        self.benchmark = benchmark
        self.settings = settings
        self.largest = max(setting.k for setting in settings)
        self.timed = timed
        self.on_progress = on_progress
        self.scores = _LogOdds(reranker, log_odds_file)
        self.stopwatch = _Stopwatch(reranker, settings)
        self.rankings: dict[str, _Ranking] = {}
        self.first_stage_seconds: list[float] = []
        self.depth = 0
        self.fingerprint = ""

    def add(self, pool: Benchmark, retriever: CodeRetriever) -> None:
        """Rank, score and time the queries of a pool."""
        if retriever.top_k < self.largest:
            raise ValueError(
                f"the retriever returns top_k={retriever.top_k} hits, so the first {self.largest} cannot be reranked; "
                "raise its top_k, or leave out the larger K"
            )
        self.depth, self.fingerprint = retriever.top_k, retriever.index.embedding.fingerprint
        total = len(self.benchmark.queries)
        ranked = rank_queries(
            _search_ids(retriever),
            pool,
            on_progress=lambda done, _: self.on_progress("evaluate", len(self.rankings) + done, total),
        )
        self.first_stage_seconds += ranked.seconds["total"]

        def first_hits(query: str) -> list[NodeWithScore]:
            return [NodeWithScore(node=retriever.index.node(id_)) for id_ in ranked.run[query][: self.largest]]

        try:
            for query, ids in ranked.run.items():
                log_odds = self.scores.of_hits(query, pool.queries[query], first_hits(query))
                self.rankings[query] = _Ranking(ids, log_odds)
                self.on_progress("rerank", len(self.rankings), total)
        finally:
            self.scores.save()
        for query in sorted(self.timed & ranked.run.keys()):
            self.stopwatch.measure(pool.queries[query], first_hits(query))
            self.on_progress("time", self.stopwatch.queries, len(self.timed))

    def points(self) -> list[CurvePoint]:
        """Return the point of each setting."""
        points = []
        for setting in self.settings:
            counts = {query: setting.count(ranking.log_odds) for query, ranking in self.rankings.items()}
            run = {query: ranking.reranked(counts[query]) for query, ranking in self.rankings.items()}
            point = CurvePoint(
                k=setting.k,
                early_exit=setting.early_exit,
                top_n=setting.top_n,
                metrics=evaluate_run(run, self.benchmark.qrels, metrics=CURVE_METRICS),
                pairs=sum(counts.values()) / len(counts),
                milliseconds=percentiles(self.stopwatch.seconds[setting] or [0.0]),
            )
            points.append(point)
        return points


def _search_ids(retriever: CodeRetriever) -> Callable[[str], list[str]]:
    """Return a search for ids alone, in the order in which a reranker gets the hits."""
    return lambda query: [id_ for id_, _ in retriever.rank(query, retriever.embed_query(query))]


class _LogOdds:
    """Scores hits and keeps the log-odds in a file."""

    def __init__(self, reranker: CodeReranker, file: Path | None) -> None:
        self.reranker = reranker
        self.file = file
        self.by_query = _read_log_odds(file)
        self.unsaved = 0

    def of_hits(self, query_id: str, query: str, hits: Sequence[NodeWithScore]) -> list[float]:
        """Return the log-odds of ``hits``, combined with their ranks in the first stage."""
        if self.reranker.weight_of(hits) is not None:
            raise ValueError(
                "the hits are parts of files, for which the reranker has a repository_weight, and a curve shows how "
                "hits are ranked without one; index the codes as nodes without a path, as benchmark_index does"
            )
        by_node = self.by_query.get(query_id, {})
        if any(hit.node_id not in by_node for hit in hits):
            texts = [hit.get_content(MetadataMode.EMBED) for hit in hits]
            values = self.reranker.log_odds(query, texts)
            by_node = {hit.node_id: value for hit, value in zip(hits, values, strict=True)}
            self.by_query[query_id] = by_node
            self.unsaved += 1
            if self.unsaved == _SAVE_EVERY:
                self.save()
        calibration, weight = self.reranker.calibration, self.reranker.rank_weight
        return [
            calibration.hit_log_odds(by_node[hit.node_id], rank, rank_weight=weight)
            for rank, hit in enumerate(hits, start=1)
        ]

    def save(self) -> None:
        if self.file is not None and self.unsaved:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(self.by_query))
        self.unsaved = 0


def _read_log_odds(file: Path | None) -> dict[str, dict[str, float]]:
    """Return query id -> node id -> log-odds; empty if there is no file or it is damaged."""
    try:
        content = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
        return {query: {id_: float(value) for id_, value in values.items()} for query, values in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class _Stopwatch:
    """Measures the time of reranking at each setting in turn, so that a slow phase of the machine affects all alike."""

    def __init__(self, reranker: CodeReranker, settings: Sequence[_Setting]) -> None:
        self.seconds: dict[_Setting, list[float]] = {setting: [] for setting in settings}
        self.queries = 0
        self.rerankers = {
            setting: reranker.model_copy(
                update={"early_exit": setting.early_exit, "top_n": setting.top_n or reranker.top_n}
            )
            for setting in settings
            if setting.k
        }

    def measure(self, query: str, hits: Sequence[NodeWithScore]) -> None:
        if not self.queries:  # the very first call is slower than all others
            next(iter(self.rerankers.values())).rerank(query, hits)
        for setting, reranker in self.rerankers.items():
            start = time.perf_counter()
            reranker.rerank(query, hits[: setting.k])
            self.seconds[setting].append(time.perf_counter() - start)
        self.queries += 1


def _calibration_error(rankings: Mapping[str, _Ranking], benchmark: Benchmark) -> float | None:
    probabilities, labels = [], []
    for query, ranking in rankings.items():
        judgements = benchmark.qrels[query]
        for id_, value in zip(ranking.ids, ranking.log_odds, strict=False):
            probabilities.append(probability(value))
            labels.append(judgements.get(id_, 0) > 0)
    return calibration_error(probabilities, labels) if labels else None
