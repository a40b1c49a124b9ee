"""Speed of a query, and of the command line from a cold process, against LlamaIndex's HuggingFaceEmbedding.

Queries of CoSQA dev (docstrings of the standard library without ``$CODE_RETRIEVAL_DATA``) are embedded one by one, in
turn by the full model, its static query encoder and the peer with the same weights, bare; ``search`` is the whole fused
retrieval in an index of Python's ``email`` package. Reported are p50 and p95 over all rounds.

The cold start is that of whole processes with a warm disk: each command runs once unmeasured, then the commands take
turns, each in a new process, and the median wall time and the largest peak memory (VmHWM) are reported. The peer is a
program that imports HuggingFaceEmbedding, loads the model and embeds one query. It takes about 3 minutes on two cores:

    python benchmarks/query_speed.py [--queries 100] [--rounds 3] [--processes 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from report import add_result_option, report
from runs import Command, run_command

from llamaindex_code_retrieval.models.locate import locate

PEER = "HuggingFaceEmbedding"
QUESTION = "parse the headers of a message"
_PEER_PROGRAM = (
    "from llama_index.embeddings.huggingface import HuggingFaceEmbedding\n"
    f"HuggingFaceEmbedding({{model!r}}, device='cpu').get_query_embedding({QUESTION!r})\n"
)


def questions(count: int) -> list[str]:
    """Return queries of CoSQA dev, or without it docstrings of the standard library."""
    from llamaindex_code_retrieval.cli.demo import MODULES, library_sources
    from llamaindex_code_retrieval.eval import data_folder, documented_functions, load_beir

    folder = data_folder("cosqa")
    if folder is not None:
        return list(load_beir(folder, split="dev").queries.values())[:count]
    return list(documented_functions(library_sources(MODULES).items()).queries.values())[:count]


def embedders() -> dict[str, Callable[[str], object]]:
    """Return what embeds or answers a query, by name."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever

    full = CodeEmbedding(adapter="none")
    index = CodeIndex(full)
    index.update([Path(sysconfig.get_path("stdlib")) / "email"])
    return {
        "full model": full.get_query_embedding,
        "static query encoder": CodeEmbedding(adapter="none", query_encoder="auto").get_query_embedding,
        PEER: HuggingFaceEmbedding(str(locate("embedded")), device="cpu").get_query_embedding,
        "search with the full model": CodeRetriever(index).retrieve,
    }


def latencies(
    systems: Mapping[str, Callable[[str], object]], queries: Sequence[str], *, rounds: int
) -> dict[str, dict[str, float]]:
    """Return the percentiles of each system in milliseconds, and how many times as fast as the peer the median is.

    The systems take turns, all queries at a time.
    """
    from llamaindex_code_retrieval.eval.retrieval import percentiles

    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for answer in systems.values():  # warm-up
        for query in queries[:5]:
            answer(query)
    for _ in range(rounds):
        for name, answer in systems.items():
            seconds[name] += [_seconds(partial(answer, query)) for query in queries]
    figures = {name: percentiles(values) for name, values in seconds.items()}
    return {
        name: {**each, "times_as_fast": round(figures[PEER]["p50"] / each["p50"], 2)} for name, each in figures.items()
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cold_starts(processes: int) -> dict[str, dict[str, float]]:
    """Return the median seconds, the slowest and the peak memory of each command in new processes."""
    cli = [sys.executable, "-m", "llamaindex_code_retrieval.cli"]
    with tempfile.TemporaryDirectory() as folder:
        root, index = Path(sysconfig.get_path("stdlib")) / "email", str(Path(folder, "index"))
        _log("indexing the package email")
        run_command([*cli, "index", str(root), "--out", index, "--cache", str(Path(folder, "cache"))])
        search = [*cli, "search", QUESTION, "--index", index, "--top-n", "3"]
        commands = {
            "--help": [*cli, "--help"],
            "search": search,
            "search --fast-query": [*search, "--fast-query"],
            "search --mode bm25": [*search, "--mode", "bm25"],
            PEER: [sys.executable, "-c", _PEER_PROGRAM.format(model=str(locate("embedded")))],
        }
        runs: dict[str, list[Command]] = {name: [] for name in commands}
        for command in commands.values():
            run_command(command)  # warms the disk
        for turn in range(processes):
            for name, command in commands.items():
                runs[name].append(run_command(command))
            _log(f"process {turn + 1}: {', '.join(f'{name} {each[-1].seconds:.2f} s' for name, each in runs.items())}")
    return {name: summary(each, runs[PEER]) for name, each in runs.items()}


def summary(runs: Sequence[Command], peer: Sequence[Command]) -> dict[str, float]:
    """Return the median seconds, the slowest, the peak memory, and the median ratio to the peer's in the same turn."""
    ratios = [theirs.seconds / ours.seconds for ours, theirs in zip(runs, peer, strict=True)]
    return {
        "seconds": round(statistics.median(run.seconds for run in runs), 3),
        "slowest": round(max(run.seconds for run in runs), 3),
        "peak_memory_mib": max(run.peak_mib for run in runs),
        "times_as_fast": round(statistics.median(ratios), 2),
    }


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100, help="queries of each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=5, help="of each command (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    started = cold_starts(options.processes)
    queries = questions(options.queries)
    figures: dict[str, Any] = {"queries": len(queries), "rounds": options.rounds, "processes": options.processes}
    figures["query_latency_ms"] = latencies(embedders(), queries, rounds=options.rounds)
    figures["cold_start"] = started
    report(options.result, figures)


if __name__ == "__main__":
    main()
