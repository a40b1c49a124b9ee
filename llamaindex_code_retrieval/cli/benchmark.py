"""The command ``benchmark``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from llamaindex_code_retrieval.cli.console import print_json, print_text
from llamaindex_code_retrieval.cli.options import json_option, positive


def add_benchmark(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``benchmark``."""
    parser = commands.add_parser("benchmark", help="write a retrieval benchmark of the documented functions in folders")
    parser.add_argument("sources", nargs="+", metavar="PATH", help="folder with source code")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder, written in BEIR's layout")
    parser.add_argument("--split", default="test", metavar="NAME", help="of the queries (default: %(default)s)")
    parser.add_argument("--queries", type=positive, metavar="N", help="sample size of the queries (default: all)")
    json_option(parser)
    parser.set_defaults(run=run_benchmark)


def run_benchmark(options: argparse.Namespace) -> int:
    """Write a benchmark: each function is a code, the summary of its docstring a query."""
    from llamaindex_code_retrieval.eval.datasets import documented_functions, save_beir
    from llamaindex_code_retrieval.index.sources import read_sources

    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; name a new folder")
    if not re.fullmatch(r"[\w.-]+", options.split):
        raise ValueError(f"--split {options.split!r} must be of letters, digits, '.', '_' and '-': it names a file")
    benchmark = documented_functions(read_sources(map(Path, options.sources)), name=out.name)
    if options.queries is not None:
        benchmark = benchmark.sample(options.queries)
    save_beir(benchmark, out, split=options.split)
    codes, queries = len(benchmark.corpus), len(benchmark.queries)
    if options.json:
        print_json({"folder": str(out), "codes": codes, "queries": queries, "fingerprint": benchmark.fingerprint})
    else:
        print_text(f"{codes:,} codes and {queries:,} queries in {out}, fingerprint {benchmark.fingerprint}")
    return 0
