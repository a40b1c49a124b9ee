"""Indexing and query speed on Python's standard library, beside LlamaIndex's HuggingFaceEmbedding of equal weights.

Both arms embed the same nodes (those of CodeNodeParser) and the same queries, in turn, several times; medians are
reported, and the ratio within the same run. Peak memory is that of a whole ``code-retrieval index`` process.

    python benchmarks/index_speed.py [--nodes 400] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from llama_index.core.schema import Document, TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeNodeParser, CodeRetriever
from llamaindex_code_retrieval.cli.demo import MODULES
from llamaindex_code_retrieval.eval.datasets import documented_functions
from llamaindex_code_retrieval.index.sources import Skips, walk
from llamaindex_code_retrieval.models.locate import locate


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_ms": round(1000 * statistics.median(ordered), 1),
        "p95_ms": round(1000 * ordered[int(0.95 * (len(ordered) - 1))], 1),
    }


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _index_process(root: Path) -> dict[str, float]:
    """Index ``root`` by the command line, without a cache, and return its figures with its peak memory."""
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


def main() -> None:
    """Run and write the result beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=400)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    library = Path(sysconfig.get_path("stdlib"))
    whole = _index_process(library / "email")
    texts = {f.path: f.text for f in walk(library, Skips()) if f.path.split("/")[0].removesuffix(".py") in MODULES}
    documents = [Document(text=text, id_=path, metadata={"path": path}) for path, text in texts.items()]
    nodes = [node for node in CodeNodeParser().get_nodes_from_documents(documents) if isinstance(node, TextNode)]
    random.Random(0).shuffle(nodes)
    codes = [node.text for node in nodes[: options.nodes]]
    queries = list(documented_functions(texts.items()).queries.values())[: options.queries]

    ours = CodeEmbedding(adapter="none")  # the peer's weights; an adapter is merged, so it costs no time
    peer = HuggingFaceEmbedding(str(locate("embedded")), max_length=ours.max_code_tokens, device=ours.device)
    tokens = ours.encoder.count_tokens(codes, side="code")
    index = CodeIndex(ours)
    index.update_nodes(nodes[: options.nodes])
    retriever = CodeRetriever(index)

    arms: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.get_text_embedding_batch(codes),
        "HuggingFaceEmbedding": lambda: peer.get_text_embedding_batch(codes),
    }
    query_arms: dict[str, Callable[[str], object]] = {
        "ours": ours.get_query_embedding,
        "HuggingFaceEmbedding": peer.get_query_embedding,
        "ours, whole fused retrieval": retriever.retrieve,
    }
    for work in arms.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    latencies: dict[str, list[float]] = {name: [] for name in query_arms}
    for _ in range(options.rounds):
        for name, work in arms.items():
            seconds[name].append(_seconds(work))
        for name, ask in query_arms.items():
            latencies[name] += [_seconds(lambda query=query, ask=ask: ask(query)) for query in queries]  # type: ignore[misc]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = zip(seconds["HuggingFaceEmbedding"], seconds["ours"], strict=True)
    result = {
        "date": date.today().isoformat(),
        "machine": _machine(),
        "torch": torch.__version__,
        "precision": ours.precision,
        "nodes": len(codes),
        "tokens": tokens,
        "rounds": options.rounds,
        "functions_per_second": {name: round(len(codes) / value, 1) for name, value in medians.items()},
        "tokens_per_second": {name: round(tokens / value) for name, value in medians.items()},
        "ratio_median_of_pairs": round(statistics.median(peer / ours for peer, ours in pairs), 2),
        "query_latency": {name: _percentiles(values) for name, values in latencies.items()},
        "index_command_on_email_package": whole,
    }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
