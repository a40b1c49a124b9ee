"""Evaluation of retrieval and generation: benchmarks, metrics, suites, reports, and comparison with a baseline.

The public names are imported on first use, so that the parts that do not need torch do not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import lazy_attributes

if TYPE_CHECKING:
    from llamaindex_code_retrieval.eval.curve_runner import run_curves
    from llamaindex_code_retrieval.eval.datasets import (
        Benchmark,
        benchmark_of,
        data_folder,
        documented_functions,
        load_beir,
        save_beir,
    )
    from llamaindex_code_retrieval.eval.gate import GateRules, IncomparableError, compare
    from llamaindex_code_retrieval.eval.generation import generate
    from llamaindex_code_retrieval.eval.metrics import Qrels, Run, evaluate_run, per_query_metrics
    from llamaindex_code_retrieval.eval.repository_questions import (
        RepositoryQuestion,
        RepositoryQuestions,
        load_questions,
    )
    from llamaindex_code_retrieval.eval.repository_retrieval import evaluate_questions
    from llamaindex_code_retrieval.eval.rerank_curve import rerank_curve
    from llamaindex_code_retrieval.eval.results import Report
    from llamaindex_code_retrieval.eval.retrieval import benchmark_index, evaluate_retrieval, rank_queries
    from llamaindex_code_retrieval.eval.runner import run_suite
    from llamaindex_code_retrieval.eval.suite import load_suite
    from llamaindex_code_retrieval.eval.targets import Target, ndcg

_MODULES = {
    "Benchmark": "datasets",
    "GateRules": "gate",
    "IncomparableError": "gate",
    "Qrels": "metrics",
    "Report": "results",
    "RepositoryQuestion": "repository_questions",
    "RepositoryQuestions": "repository_questions",
    "Run": "metrics",
    "Target": "targets",
    "benchmark_index": "retrieval",
    "benchmark_of": "datasets",
    "compare": "gate",
    "data_folder": "datasets",
    "documented_functions": "datasets",
    "evaluate_questions": "repository_retrieval",
    "evaluate_retrieval": "retrieval",
    "evaluate_run": "metrics",
    "generate": "generation",
    "load_beir": "datasets",
    "load_questions": "repository_questions",
    "load_suite": "suite",
    "ndcg": "targets",
    "per_query_metrics": "metrics",
    "rank_queries": "retrieval",
    "rerank_curve": "rerank_curve",
    "run_curves": "curve_runner",
    "run_suite": "runner",
    "save_beir": "datasets",
}

__all__ = [
    "Benchmark",
    "GateRules",
    "IncomparableError",
    "Qrels",
    "Report",
    "RepositoryQuestion",
    "RepositoryQuestions",
    "Run",
    "Target",
    "benchmark_index",
    "benchmark_of",
    "compare",
    "data_folder",
    "documented_functions",
    "evaluate_questions",
    "evaluate_retrieval",
    "evaluate_run",
    "generate",
    "load_beir",
    "load_questions",
    "load_suite",
    "ndcg",
    "per_query_metrics",
    "rank_queries",
    "rerank_curve",
    "run_curves",
    "run_suite",
    "save_beir",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
