"""How a cascade's ranking depends on K, the number of first-stage hits that its reranker reads (CasCode, section 4.2).

Each pair of a query and a hit is scored once, at the largest K, and the rankings of all smaller ones follow from that.
Time has no such shortcut: it is taken of some queries, by reranking them at each K.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from llama_index.core.schema import MetadataMode, NodeWithScore

from llamaindex_code_retrieval._io import Progress, write_atomically
from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.metrics import evaluate_run
from llamaindex_code_retrieval.eval.results import FORMAT
from llamaindex_code_retrieval.eval.retrieval import rank_queries
from llamaindex_code_retrieval.models.calibration import calibration_error, probability, scored_until_settled
from llamaindex_code_retrieval.reranker import CodeReranker
from llamaindex_code_retrieval.retriever import CodeRetriever

METRICS = ("MRR", "R@1", "R@5", "R@10")
_EXIT_TOP_N = (10, 1)  # what a list of hits and what a single answer need
_KEPT_EVERY = 25  # queries between two writes of what is scored


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The cascade at one K: the first K hits as the reranker orders them, then the rest as the first stage does."""

    k: int
    """0 is the first stage alone."""
    early_exit: float | None = None
    """The confidence at which scoring stops; what is not scored stays in the first stage's order."""
    top_n: int | None = None
    """For how many hits, where it stops."""
    metrics: dict[str, float]
    """``MRR``, ``R@1``, ``R@5`` and ``R@10`` over the whole ranking."""
    pairs: float
    """Scored for a query, on average."""
    milliseconds: dict[str, float]
    """``p50`` and ``p95`` of reranking one query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One system on one benchmark, by rising K; with early exit, at the largest K, last."""

    system: str
    task: str
    benchmark: str
    benchmark_fingerprint: str
    protocol: str
    """``whole``, or ``pools of 1000 (seed 0)``."""
    depth: int
    """Hits that the first stage was asked for; what is not among them counts as not found."""
    codes: int
    queries: int
    fingerprint: str
    """Of the model that made the vectors."""
    reranker: str
    reranker_fingerprint: str
    precision: str
    """As it was asked for."""
    max_tokens: int
    rank_weight: float
    first_stage: dict[str, float]
    """Milliseconds: ``p50`` and ``p95`` of one query, its embedding included."""
    timed: int
    """Queries that were reranked for the time alone."""
    calibration_error: float | None
    """Expected calibration error as the calibration says, on held-out queries of its own."""
    error: float | None
    """Expected calibration error of all pairs scored here; None where the first stage found nothing."""
    points: list[CurvePoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveReport:
    """All curves of one run of a suite."""

    suite: str
    date: str
    machine: str
    versions: dict[str, str]
    curves: list[Curve]
    skipped: dict[str, str] = field(default_factory=dict)
    """What of the suite was left out, and why."""
    seconds: float = 0.0

    def json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def parse_ks(text: str) -> tuple[int, ...]:
    """Read K's with commas between them, in rising order.

    Raises:
        ValueError: a K that is no whole number from 0 on; none over 0; one of them twice.

    >>> parse_ks("10, 1,100")
    (1, 10, 100)
    """
    try:
        ks = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"K's are whole numbers between commas, got {text!r}; write 1,5,10,20,50,100") from error
    return checked_ks(ks)


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Return K's in rising order; raises as :func:`parse_ks`."""
    negative = next((k for k in ks if k < 0), None)
    if negative is not None:
        raise ValueError(f"K is a number of hits, got {negative}; name K's from 1 on, such as 1,5,10,20,50,100")
    if not any(ks):
        raise ValueError(
            f"a curve needs a K over 0, got {list(ks)}; the first stage alone (0) is always measured, "
            "so name K's such as 1,5,10,20,50,100"
        )
    twice = next((k for k in ks if ks.count(k) > 1), None)
    if twice is not None:
        raise ValueError(f"K={twice} is named twice; name each K once")
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
    kept: Path | None = None,
    on_progress: Progress | None = None,
) -> Curve:
    """Measure a retriever and a reranker at K = 0 and each of ``ks``; ``lambda _: retriever`` serves one that is built.

    The retriever's ``top_k`` is the depth, and at least the largest K. ``top_n``, ``threshold`` and ``early_exit`` of
    the reranker have no part in it: all hits are ranked, and each confidence that its calibration knows is measured at
    the largest K. Codes are dealt into pools as by :func:`evaluate_retrieval`.

    What is scored is kept in the file ``kept``, and a run that finds it goes on from there: it must belong to this
    reranker, its settings and this benchmark. The caller removes it.

    Raises:
        ValueError: see :func:`parse_ks`; a largest K over the retriever's ``top_k``; ``latency_queries`` under 1.
    """
    settings = _settings(checked_ks(ks), reranker)
    largest = max(setting.k for setting in settings)
    if latency_queries < 1:
        raise ValueError(f"latency_queries must be at least 1, got {latency_queries}")
    progress = on_progress or (lambda stage, done, total: None)
    timed = set(random.Random(seed).sample(sorted(benchmark.queries), min(latency_queries, len(benchmark.queries))))
    scores = _Scores(reranker, kept)
    scored: dict[str, _Scored] = {}
    first_stage: list[float] = []
    clock = _Stopwatch(reranker, settings)
    depth = 0
    fingerprint = ""
    for pool in benchmark.pools(pool_size, seed=seed) if pool_size else [benchmark]:
        retriever = build(pool)
        if retriever.top_k < largest:
            raise ValueError(
                f"the retriever returns top_k={retriever.top_k} hits, of which the first {largest} cannot be reranked; "
                "raise its top_k, or leave out the larger K's"
            )
        depth, fingerprint = retriever.top_k, retriever.index.embedding.fingerprint
        asked = rank_queries(
            _ids(retriever),
            pool,
            on_progress=lambda done, _: progress("evaluate", len(scored) + done, len(benchmark.queries)),
        )
        first_stage += asked.seconds["total"]
        try:
            for query, ids in asked.run.items():
                hits = [NodeWithScore(node=retriever.index.node(id_)) for id_ in ids[:largest]]
                scored[query] = _Scored(ids, scores.fused(query, pool.queries[query], hits))
                progress("rerank", len(scored), len(benchmark.queries))
        finally:
            scores.keep()
        for query in sorted(timed & asked.run.keys()):
            hits = [NodeWithScore(node=retriever.index.node(id_)) for id_ in asked.run[query][:largest]]
            clock.take(pool.queries[query], hits)
            progress("time", clock.queries, len(timed))
    return Curve(
        system=system,
        task=task or benchmark.name,
        benchmark=benchmark.name,
        benchmark_fingerprint=benchmark.fingerprint,
        protocol=f"pools of {pool_size} (seed {seed})" if pool_size else "whole",
        depth=depth,
        codes=len(benchmark.corpus),
        queries=len(benchmark.queries),
        fingerprint=fingerprint,
        reranker=reranker.model,
        reranker_fingerprint=reranker.fingerprint,
        precision=reranker.precision,
        max_tokens=reranker.max_tokens,
        rank_weight=reranker.calibration.rank_weight if reranker.rank_weight is None else reranker.rank_weight,
        first_stage=_percentiles(first_stage),
        timed=len(timed),
        calibration_error=reranker.calibration.error,
        error=_error(scored, benchmark),
        points=[_point(setting, scored, benchmark, clock.seconds[setting]) for setting in settings],
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """A K, and the rule by which fewer hits are scored."""

    k: int
    early_exit: float | None = None
    top_n: int | None = None
    ceiling: tuple[float, ...] = ()

    def scored(self, fused: Sequence[float]) -> int:
        """Return how many of a query's hits are scored; ``fused`` are those of the largest K."""
        if self.top_n is None:
            return min(self.k, len(fused))
        return scored_until_settled(fused[: self.k], self.ceiling, top_n=self.top_n)


def _settings(ks: Sequence[int], reranker: CodeReranker) -> list[_Setting]:
    calibrated = reranker.calibration
    found = [_Setting(k) for k in sorted({0, *ks})]
    if reranker.rank_weight in (None, calibrated.rank_weight):  # the ceilings hold for no other
        found += [
            _Setting(max(ks), float(confidence), top_n, tuple(ceiling))
            for confidence, ceiling in calibrated.ceilings.items()
            for top_n in _EXIT_TOP_N
        ]
    return found


def _ids(retriever: CodeRetriever) -> Callable[[str], list[str]]:
    """Return what asks the retriever for ids, in the order in which a reranker would get the hits."""
    return lambda query: [id_ for id_, _ in retriever.rank(query, retriever.embed_query(query))]


@dataclass(frozen=True, slots=True)
class _Scored:
    """The ids of one query's hits in the order of the first stage, and the fused log-odds of the first of them."""

    ids: list[str]
    fused: list[float]

    def ranking(self, scored: int) -> list[str]:
        """Return the ids with the first ``scored`` as :meth:`CodeReranker.rerank` orders them."""
        first = sorted(range(min(scored, len(self.fused))), key=lambda i: (-self.fused[i], self.ids[i]))
        return [*(self.ids[i] for i in first), *self.ids[len(first) :]]


class _Scores:
    """Scores hits, and keeps the log-odds in a file."""

    def __init__(self, reranker: CodeReranker, file: Path | None) -> None:
        self.reranker = reranker
        self.file = file
        self.log_odds = _read(file)  # query id -> node id -> value
        self.unwritten = 0

    def fused(self, query_id: str, query: str, hits: Sequence[NodeWithScore]) -> list[float]:
        known = self.log_odds.get(query_id, {})
        if any(hit.node_id not in known for hit in hits):
            texts = [hit.get_content(MetadataMode.EMBED) for hit in hits]
            values = self.reranker.log_odds(query, texts)
            known = {hit.node_id: value for hit, value in zip(hits, values, strict=True)}
            self.log_odds[query_id] = known
            self.unwritten += 1
            if self.unwritten == _KEPT_EVERY:
                self.keep()
        calibration, weight = self.reranker.calibration, self.reranker.rank_weight
        return [
            calibration.fused(known[hit.node_id], rank, rank_weight=weight) for rank, hit in enumerate(hits, start=1)
        ]

    def keep(self) -> None:
        if self.file is not None and self.unwritten:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(self.log_odds))
        self.unwritten = 0


def _read(file: Path | None) -> dict[str, dict[str, float]]:
    try:
        kept = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
        return {query: {id_: float(value) for id_, value in values.items()} for query, values in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class _Stopwatch:
    """Takes the time of reranking at each setting in turn, so that whatever slows the machine slows all of them."""

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

    def take(self, query: str, hits: Sequence[NodeWithScore]) -> None:
        if not self.queries:  # the first call of all pays for what later ones find ready
            next(iter(self.rerankers.values())).rerank(query, hits)
        for setting, reranker in self.rerankers.items():
            start = time.perf_counter()
            reranker.rerank(query, hits[: setting.k])
            self.seconds[setting].append(time.perf_counter() - start)
        self.queries += 1


def _point(
    setting: _Setting, scored: Mapping[str, _Scored], benchmark: Benchmark, seconds: Sequence[float]
) -> CurvePoint:
    counts = {query: setting.scored(each.fused) for query, each in scored.items()}
    run = {query: each.ranking(counts[query]) for query, each in scored.items()}
    return CurvePoint(
        k=setting.k,
        early_exit=setting.early_exit,
        top_n=setting.top_n,
        metrics=evaluate_run(run, benchmark.qrels, metrics=METRICS),
        pairs=sum(counts.values()) / len(counts),
        milliseconds=_percentiles(seconds or [0.0]),
    )


def _error(scored: Mapping[str, _Scored], benchmark: Benchmark) -> float | None:
    probabilities, labels = [], []
    for query, each in scored.items():
        judged = benchmark.qrels[query]
        for id_, value in zip(each.ids, each.fused, strict=False):
            probabilities.append(probability(value))
            labels.append(judged.get(id_, 0) > 0)
    return calibration_error(probabilities, labels) if labels else None


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{part}": round(1000 * float(np.percentile(seconds, part)), 3) for part in (50, 95)}
