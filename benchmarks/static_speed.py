"""Speed of the static model against the transformer: embedding, queries, and whole ``index`` and ``search`` processes.

Both embed the same nodes of Python's standard library, in turn for several rounds; reported are medians. The processes
index each folder given, by default the standard library's package ``email``, without an embedding cache, and search it
once. Seconds of a processor core are reported beside the time that passed, which other work on the machine makes
longer. It takes about 5 minutes on two cores:

    python benchmarks/static_speed.py [FOLDER …] [--nodes 400] [--queries 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from llama_index.core.schema import Document, TextNode
from report import add_result_option, report

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeNodeParser, CodeRetriever
from llamaindex_code_retrieval.cli.demo import MODULES, library_sources
from llamaindex_code_retrieval.cli.options import positive
from llamaindex_code_retrieval.eval import documented_functions
from llamaindex_code_retrieval.eval.retrieval import percentiles
from llamaindex_code_retrieval.models.catalog import EMBEDDED, EMBEDDED_STATIC

MODELS = (EMBEDDED_STATIC, EMBEDDED)
QUESTION = "decode a header"


def embedding_speed(nodes: list[TextNode], queries: list[str], *, rounds: int) -> dict[str, Any]:
    """Return functions per second, their ratio, and the latencies of a query, of the models in turn."""
    codes, languages = [node.text for node in nodes], ["python"] * len(nodes)
    embeddings = {model: CodeEmbedding(model) for model in MODELS}
    retrievers = {}
    for model, embedding in embeddings.items():
        index = CodeIndex(embedding)
        index.update_nodes(nodes)
        retrievers[model] = CodeRetriever(index)
        embedding.get_query_embedding(QUESTION)
    seconds: dict[str, list[float]] = {model: [] for model in MODELS}
    core_seconds: dict[str, list[float]] = {model: [] for model in MODELS}
    latencies: dict[str, list[float]] = {name: [] for model in MODELS for name in (model, f"{model}, fused retrieval")}
    for _ in range(rounds):
        for model, embedding in embeddings.items():
            started = time.process_time()
            seconds[model].append(_seconds(embedding.embed_codes, codes, languages))
            core_seconds[model].append(time.process_time() - started)
            latencies[model] += [_seconds(embedding.get_query_embedding, query) for query in queries]
            latencies[f"{model}, fused retrieval"] += [_seconds(retrievers[model].retrieve, query) for query in queries]
    ratios = [slow / fast for fast, slow in zip(seconds[EMBEDDED_STATIC], seconds[EMBEDDED], strict=True)]
    rates = {
        name: {model: round(len(nodes) / statistics.median(values), 1) for model, values in times.items()}
        for name, times in (("functions_per_second", seconds), ("functions_per_core_second", core_seconds))
    }
    return {
        **rates,
        "ratio_median_of_pairs": round(statistics.median(ratios), 1),
        "query_latency_ms": {name: percentiles(values) for name, values in latencies.items()},
    }


def _seconds(work: Any, *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def command_speed(folder: Path, model: str) -> dict[str, float]:
    """Index a folder in one process and search it in another; return seconds, rates and peak memory of both."""
    with tempfile.TemporaryDirectory() as temporary:
        index = ["--index", f"{temporary}/index"]
        build = ["index", str(folder), "--out", f"{temporary}/index", "--model", model, "--json"]
        cache = [] if model == EMBEDDED_STATIC else ["--cache", f"{temporary}/cache"]
        built, index_figures = _run([*build, *cache])
        _, search_figures = _run(["search", QUESTION, *index, "--json", "--no-refresh"])
    figures = {"files": built["files"], "nodes": built["nodes"]}
    for command, each in (("index", index_figures), ("search", search_figures)):
        figures |= {f"{command}_{name}": value for name, value in each.items()}
    return figures


def _run(arguments: list[str]) -> tuple[Any, dict[str, float]]:
    """Return the JSON that a command prints, and the seconds, core seconds and peak memory of its process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "llamaindex_code_retrieval.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return json.loads(printed), {
        "seconds": round(time.perf_counter() - start, 2),
        "core_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_mib": round(usage.ru_maxrss / 1024),
    }


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folder to index")
    parser.add_argument("--nodes", type=positive, default=400, help="nodes that are embedded (default: %(default)s)")
    parser.add_argument("--queries", type=positive, default=100, help="queries of each round (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each model (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    """Measure both models."""
    options = make_parser().parse_args()
    folders = options.folders or [Path(sysconfig.get_path("stdlib")) / "email"]
    commands = {folder.name: {model: command_speed(folder, model) for model in MODELS} for folder in folders}
    texts = library_sources(MODULES)
    documents = [Document(text=text, id_=path, metadata={"path": path}) for path, text in texts.items()]
    nodes = [node for node in CodeNodeParser().get_nodes_from_documents(documents) if isinstance(node, TextNode)]
    nodes = nodes[:: max(1, len(nodes) // options.nodes)][: options.nodes]
    queries = list(documented_functions(texts.items()).queries.values())[: options.queries]
    figures = embedding_speed(nodes, queries, rounds=options.rounds)
    characters = round(statistics.fmean(len(node.text) for node in nodes))
    sizes = {"nodes": len(nodes), "mean_characters": characters, "rounds": options.rounds}
    report(options.result, {**sizes, **figures, "commands": commands})


if __name__ == "__main__":
    main()
