"""Speed of indexing and of queries on Python's standard library: CodeEmbedding against HuggingFaceEmbedding.

Both embed the same nodes (those of CodeNodeParser) and the same queries with the same weights. They take turns for
several rounds; reported are medians and the median of the ratio within a round. Peak memory is that of a whole
``code-retrieval index`` process. It takes about 5 minutes on two cores:

    python benchmarks/index_speed.py [--nodes 400] [--queries 100] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llama_index.core.schema import Document, TextNode
from report import add_result_option, report

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeNodeParser, CodeRetriever
from llamaindex_code_retrieval.cli.demo import MODULES, library_sources
from llamaindex_code_retrieval.eval import documented_functions
from llamaindex_code_retrieval.eval.retrieval import percentiles
from llamaindex_code_retrieval.models.locate import locate

PEER = "HuggingFaceEmbedding"


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def index_in_process(root: Path) -> dict[str, float]:
    """Run ``code-retrieval index`` on ``root`` without a cache and return its figures and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "llamaindex_code_retrieval.cli", "index", str(root), "--json"]
        command += ["--out", f"{folder}/index", "--cache", f"{folder}/cache", "--adapter", "none"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        report = json.loads(process.communicate()[0])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "files": report["files"],
        "nodes": report["nodes"],
        "truncated": report["truncated"],
        "seconds_whole_process": round(time.perf_counter() - start, 1),
        "nodes_per_second": round(report["nodes"] / report["seconds"], 1),
        "peak_memory_mib": round(peak),
    }


def measure(
    nodes: list[TextNode], queries: list[str], *, rounds: int
) -> tuple[CodeEmbedding, dict[str, list[float]], dict[str, list[float]]]:
    """Return the embedding, the seconds of each round over ``nodes``, and the seconds of each query, by system."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    codes = [node.text for node in nodes]
    ours = CodeEmbedding(adapter="none")  # the weights of the peer; an adapter is merged, so it takes no time
    peer = HuggingFaceEmbedding(str(locate("embedded")), max_length=ours.max_code_tokens, device=ours.device)
    index = CodeIndex(ours)
    index.update_nodes(nodes)
    embed: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.get_text_embedding_batch(codes),
        PEER: lambda: peer.get_text_embedding_batch(codes),
    }
    search: dict[str, Callable[[str], object]] = {
        "ours": ours.get_query_embedding,
        PEER: peer.get_query_embedding,
        "ours, whole fused retrieval": CodeRetriever(index).retrieve,
    }
    for work in embed.values():  # warm-up
        work()
    rounds_of: dict[str, list[float]] = {name: [] for name in embed}
    latencies: dict[str, list[float]] = {name: [] for name in search}
    for _ in range(rounds):
        for name, work in embed.items():
            rounds_of[name].append(_seconds(work))
        for name, answer in search.items():
            latencies[name] += [_seconds(partial(answer, query)) for query in queries]
    return ours, rounds_of, latencies


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=400, help="nodes drawn at random (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=100, help="queries of each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each system (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    index_command = index_in_process(Path(sysconfig.get_path("stdlib")) / "email")
    texts = library_sources(MODULES)
    documents = [Document(text=text, id_=path, metadata={"path": path}) for path, text in texts.items()]
    nodes = [node for node in CodeNodeParser().get_nodes_from_documents(documents) if isinstance(node, TextNode)]
    random.Random(0).shuffle(nodes)
    nodes = nodes[: options.nodes]
    queries = list(documented_functions(texts.items()).queries.values())[: options.queries]
    embedding, seconds, latencies = measure(nodes, queries, rounds=options.rounds)
    tokens = embedding.encoder.count_tokens([node.text for node in nodes], side="code")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [peer / ours for peer, ours in zip(seconds[PEER], seconds["ours"], strict=True)]
    report(
        options.result,
        {
            "precision": embedding.precision,
            "nodes": len(nodes),
            "tokens": tokens,
            "rounds": options.rounds,
            "functions_per_second": {name: round(len(nodes) / value, 1) for name, value in medians.items()},
            "tokens_per_second": {name: round(tokens / value) for name, value in medians.items()},
            "ratio_median_of_pairs": round(statistics.median(ratios), 2),
            "query_latency_ms": {name: percentiles(values) for name, values in latencies.items()},
            "index_command_on_email_package": index_command,
        },
    )


if __name__ == "__main__":
    main()
