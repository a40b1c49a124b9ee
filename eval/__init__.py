"""Evaluation: benchmarks in, metrics out."""

from llamaindex_code_retrieval.beir import data_folder
from llamaindex_code_retrieval.eval.datasets import (
    Benchmark,
    benchmark_of,
    documented_functions,
    load_beir,
)
from llamaindex_code_retrieval.eval.metrics import Qrels, Run, evaluate_run, per_query_metrics

__all__ = [
    "Benchmark",
    "Qrels",
    "Run",
    "benchmark_of",
    "data_folder",
    "documented_functions",
    "evaluate_run",
    "load_beir",
    "per_query_metrics",
]
