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
    from llamaindex_code_retrieval.eval.rerank_curve import rerank_curve
    from llamaindex_code_retrieval.eval.results import Report
    from llamaindex_code_retrieval.eval.retrieval import benchmark_index, evaluate_retrieval, rank_queries
    from llamaindex_code_retrieval.eval.runner import run_suite
    from llamaindex_code_retrieval.eval.suite import load_suite

_MODULES = {
    "Benchmark": "datasets",
    "GateRules": "gate",
    "IncomparableError": "gate",
    "Qrels": "metrics",
    "Report": "results",
    "Run": "metrics",
    "benchmark_index": "retrieval",
    "benchmark_of": "datasets",
    "compare": "gate",
    "data_folder": "datasets",
    "documented_functions": "datasets",
    "evaluate_retrieval": "retrieval",
    "evaluate_run": "metrics",
    "generate": "generation",
    "load_beir": "datasets",
    "load_suite": "suite",
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
    "Run",
    "benchmark_index",
    "benchmark_of",
    "compare",
    "data_folder",
    "documented_functions",
    "evaluate_retrieval",
    "evaluate_run",
    "generate",
    "load_beir",
    "load_suite",
    "per_query_metrics",
    "rank_queries",
    "rerank_curve",
    "run_curves",
    "run_suite",
    "save_beir",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
