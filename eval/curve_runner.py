"""Run a suite's rerankers at several K, see :func:`rerank_curve`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llamaindex_code_retrieval._io import Progress, json_hash, make_folder, no_progress
from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.environment import current_environment
from llamaindex_code_retrieval.eval.loading import LoadedSystem, LoadedTask, load_parts
from llamaindex_code_retrieval.eval.rerank_curve import check_ks, rerank_curve
from llamaindex_code_retrieval.eval.results import Curve, CurveReport
from llamaindex_code_retrieval.eval.retrieval import index_once
from llamaindex_code_retrieval.eval.suite import Suite
from llamaindex_code_retrieval.eval.unfinished import Unfinished
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.reranker import CodeReranker

_UNFINISHED = "unfinished-curves"


def run_curves(
    suite: Suite,
    ks: Sequence[int],
    *,
    latency_queries: int = 20,
    out: str | Path | None = None,
    cache_folder: Path | None = None,
    device: str | None = None,
    on_progress: Progress = no_progress,
) -> CurveReport:
    """Measure every system with a reranker on every retrieval task at each K, see :func:`rerank_curve`.

    The retriever returns as many hits as the suite's depth, and at least the largest K; ``rerank_top_n``, ``rerank_k``
    and ``early_exit`` of a system are not used. With ``out`` the log-odds of all pairs are kept in that folder until
    the run is finished, and an interrupted run goes on from them.

    Tasks of questions about repositories have no curves and are left out.

    Raises:
        ValueError: ``ks`` are refused, see :func:`parse_ks`; there is no task, or no system with a reranker; what
            :func:`run_suite` raises.
    """
    started = time.perf_counter()
    ks = check_ks(ks)
    cascades = tuple(system for system in suite.system if system.rerank is not None)
    tasks = tuple(task for task in suite.task if task.questions is None)
    if not cascades or not tasks:
        lacks = "[[task]] with codes to measure on" if cascades else "system with a reranker, so there is no K to vary"
        raise ValueError(
            f'the suite {suite.name!r} has no {lacks}; add a [[task]] and, to a [[system]], rerank = "..."'
        )
    unfinished = Unfinished(None if out is None else make_folder(out) / _UNFINISHED)
    part = suite.model_copy(update={"system": cascades, "task": tasks, "generation": (), "chat": ()})
    loaded = load_parts(part, cache_folder=cache_folder, device=device)
    curves = []
    for task in loaded.tasks:
        for systems in loaded.systems_by_vectors(task.spec):
            index_of = index_once(systems[0].embedding, on_progress=on_progress)
            for system in systems:
                for reranker in system.postprocessors:
                    curves.append(
                        _curve(suite, task, system, reranker, index_of, ks, latency_queries, unfinished, on_progress)
                    )
    unfinished.delete()
    environment = current_environment()
    return CurveReport(
        suite=suite.name,
        date=environment.date,
        machine=environment.machine,
        versions=environment.versions,
        curves=curves,
        skipped=loaded.skipped,
        seconds=round(time.perf_counter() - started, 1),
    )


def _curve(
    suite: Suite,
    task: LoadedTask,
    system: LoadedSystem,
    reranker: CodeReranker,
    index_of: Callable[[Benchmark], CodeIndex],
    ks: Sequence[int],
    latency_queries: int,
    unfinished: Unfinished,
    on_progress: Progress,
) -> Curve:
    depth = max(suite.depth, *ks)
    models = (reranker.fingerprint, system.embedding.query_fingerprint, task.benchmark.fingerprint)
    limits = (reranker.max_tokens, reranker.precision, depth)
    key = json_hash(["curve", system.spec.name, task.spec.name, *models, *limits])
    return rerank_curve(
        lambda pool: system.retriever(index_of(pool), depth=depth),
        reranker,
        task.benchmark,
        ks,
        system=system.spec.name,
        task=task.spec.name,
        pool_size=task.spec.pool_size,
        seed=suite.seed,
        latency_queries=latency_queries,
        log_odds_file=unfinished.path(key),
        on_progress=on_progress,
    )
