"""Benchmarks: BEIR folders, documented functions of source code, and pairs. Imports no torch."""

from __future__ import annotations

from llamaindex_code_retrieval.eval.datasets.beir import Split, data_folder, load_beir, read_split, save_beir
from llamaindex_code_retrieval.eval.datasets.benchmark import Benchmark, benchmark_of
from llamaindex_code_retrieval.eval.datasets.documented import documented_functions

__all__ = [
    "Benchmark",
    "Split",
    "benchmark_of",
    "data_folder",
    "documented_functions",
    "load_beir",
    "read_split",
    "save_beir",
]
