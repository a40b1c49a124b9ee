"""Evaluation of retrieval and generation: benchmarks, metrics, suites, reports, and comparison with a baseline.

The public names are imported on first use, so that the parts that do not need torch do not import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "Benchmark": "eval.datasets",
    "GateRules": "eval.gate",
    "IncomparableError": "eval.gate",
    "Qrels": "eval.metrics",
    "Report": "eval.results",
    "Run": "eval.metrics",
    "benchmark_index": "eval.retrieval",
    "benchmark_of": "eval.datasets",
    "compare": "eval.gate",
    "data_folder": "eval.datasets",
    "documented_functions": "eval.datasets",
    "evaluate_retrieval": "eval.retrieval",
    "evaluate_run": "eval.metrics",
    "generate": "eval.generation",
    "load_beir": "eval.datasets",
    "load_suite": "eval.suite",
    "per_query_metrics": "eval.metrics",
    "rank_queries": "eval.retrieval",
    "rerank_curve": "eval.rerank_curve",
    "run_curves": "eval.curve_runner",
    "run_suite": "eval.runner",
    "save_beir": "eval.datasets",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"llamaindex_code_retrieval.{_HOMES[name]}"), name)
