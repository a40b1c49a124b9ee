"""Reranking speed: ours against sentence-transformers' CrossEncoder and LlamaIndex's SentenceTransformerRerank.

All score the same pairs by the same weights: ``--model``, a sequence-classification checkpoint, or else the embedded
model with a random head, whose ranking is worth nothing but has to be the same for all. Each query of CoSQA dev is
asked against its answer and codes drawn by chance; systems take turns query by query, each as often the first as the
last, since the next one finds the query's memory warm; medians are quoted. What int8 costs in MRR is measured on
trained weights: the shipped reranker behind the fused first stage, over the whole of dev.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llamaindex_code_retrieval.eval import Benchmark, data_folder, evaluate_run, load_beir
from llamaindex_code_retrieval.eval.retrieval import benchmark_index
from llamaindex_code_retrieval.models.device import resolve_device, resolve_precision

RESULT = Path(__file__).with_suffix(".json")

PRECISIONS = ("fp32", *(["bf16"] if resolve_precision("auto", resolve_device("cpu")) == "bf16" else []), "int8")
"""Those that this processor computes natively."""

System = Callable[[str, list[NodeWithScore]], list[NodeWithScore]]


def random_head(folder: Path) -> Path:
    """Write the embedded model as a cross-encoder with a random head."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    from llamaindex_code_retrieval.models.locate import locate

    torch.manual_seed(0)
    base = locate("embedded")
    BertForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def systems(model: str) -> dict[str, System]:
    """Return all by name, each with the same top_n and token limit."""
    from llama_index.core.postprocessor import SentenceTransformerRerank
    from sentence_transformers import CrossEncoder

    from llamaindex_code_retrieval import CodeReranker

    peer = CrossEncoder(model, device="cpu", max_length=512)

    def predict(query: str, hits: list[NodeWithScore]) -> list[NodeWithScore]:
        scores = peer.predict([(query, hit.get_content()) for hit in hits], show_progress_bar=False)
        scored = [NodeWithScore(node=hit.node, score=float(s)) for hit, s in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: (-hit.get_score(), hit.node_id))

    found: dict[str, System] = {}
    for precision in PRECISIONS:
        ours = CodeReranker(model, top_n=100, precision=precision, device="cpu")  # type: ignore[arg-type]
        found[f"CodeReranker, {precision}"] = lambda query, hits, ours=ours: ours.postprocess_nodes(  # type: ignore[misc]
            hits, query_bundle=QueryBundle(query)
        )
    found["sentence-transformers CrossEncoder"] = predict
    theirs = SentenceTransformerRerank(model=model, top_n=100, device="cpu")
    found["LlamaIndex SentenceTransformerRerank"] = lambda query, hits: theirs.postprocess_nodes(
        [NodeWithScore(node=hit.node, score=hit.score) for hit in hits], query_bundle=QueryBundle(query)
    )
    return found


def rotated(made: dict[str, System], turn: int) -> list[tuple[str, System]]:
    """Return the systems in the order of this turn."""
    items = list(made.items())
    return items[turn % len(items) :] + items[: turn % len(items)]


def shipped(dev: Benchmark, queries: int, cache: str | None) -> dict[str, dict[str, float]]:
    """Return MRR and the time of the shipped reranker on the first ten hits, by precision."""
    from llamaindex_code_retrieval import CodeEmbedding, CodeReranker, CodeRetriever

    dev = dev.sample(queries) if queries < len(dev.queries) else dev
    embedding = CodeEmbedding("embedded", precision="fp32", cache_folder=cache)
    retriever = CodeRetriever(benchmark_index(dev, embedding), top_k=10)
    rerankers = {name: CodeReranker(precision=name, device="cpu") for name in PRECISIONS}  # type: ignore[arg-type]
    for name in PRECISIONS[:-1]:  # int8 is merged in any case
        rerankers[f"{name}, merged"] = CodeReranker(precision=name, device="cpu", merge_adapter=True)  # type: ignore[arg-type]
    runs: dict[str, dict[str, list[str]]] = {name: {} for name in ("first stage", *rerankers)}
    seconds: dict[str, list[float]] = {name: [] for name in rerankers}
    for key, query in dev.queries.items():
        found = [id_ for id_, _ in retriever.rank(query, retriever.embed_query(query))]
        hits = [NodeWithScore(node=TextNode(id_=id_, text=dev.corpus[id_])) for id_ in found]
        runs["first stage"][key] = found
        for name, reranker in rerankers.items():
            start = time.perf_counter()
            best = reranker.rerank(query, hits).hits
            seconds[name].append(time.perf_counter() - start)
            runs[name][key] = [hit.node_id for hit in best]
    rows = {
        name: {"MRR": round(evaluate_run(run, dev.qrels, metrics=("MRR",))["MRR"], 4)} for name, run in runs.items()
    }
    for name, times in seconds.items():
        rows[name]["ms"] = round(1000 * statistics.median(times), 1)
    return rows


def main() -> int:
    """Measure and print; the result lies beside this script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder of a checkpoint with one label or two")
    parser.add_argument("--queries", type=int, default=20, help="for latency (default: %(default)s)")
    parser.add_argument("--throughput", type=int, default=100, help="queries at K=10 one by one (default: %(default)s)")
    parser.add_argument("--shipped", type=int, default=500, help="queries for the shipped reranker (default: all)")
    parser.add_argument("--cache", help="folder of an embedding cache")
    options = parser.parse_args()
    folder = data_folder("cosqa")
    if folder is None:
        print("set CODE_RETRIEVAL_DATA to a folder that holds cosqa/", file=sys.stderr)
        return 2
    dev = load_beir(folder, split="dev")
    rng = random.Random(0)
    ids = sorted(dev.corpus)
    asked: list[tuple[str, str, list[NodeWithScore]]] = []
    for id_, judged in list(dev.qrels.items())[: max(options.queries, options.throughput)]:
        answer = next(code for code, score in judged.items() if score > 0)
        others = [code for code in rng.sample(ids, 100) if code != answer][:99]
        nodes = [TextNode(id_=code, text=dev.corpus[code]) for code in [answer, *others]]
        asked.append((dev.queries[id_], answer, [NodeWithScore(node=node, score=1.0) for node in nodes]))
    with tempfile.TemporaryDirectory() as scratch:
        made = systems(options.model or str(random_head(Path(scratch))))
    seconds: dict[str, dict[int, list[float]]] = {name: {10: [], 100: []} for name in made}
    ranks: dict[str, list[float]] = {name: [] for name in made}
    for turn, (query, answer, hits) in enumerate(asked[: options.queries]):
        for k in (10, 100):
            for name, system in rotated(made, turn):
                if turn == 0:
                    system(query, hits[:k])  # warm
                start = time.perf_counter()
                best = system(query, hits[:k])
                seconds[name][k].append(time.perf_counter() - start)
                if k == 100:
                    ranks[name].append(1 / (1 + [hit.node_id for hit in best].index(answer)))
    total = dict.fromkeys(made, 0.0)
    for turn, (query, _, hits) in enumerate(asked[: options.throughput]):
        for name, system in rotated(made, turn):
            start = time.perf_counter()
            system(query, hits[:10])
            total[name] += time.perf_counter() - start
    rows: dict[str, dict[str, Any]] = {}
    peers = [name for name in made if not name.startswith("CodeReranker")]
    for name in made:
        latency = {k: statistics.median(values) for k, values in seconds[name].items()}
        rows[name] = {f"ms at K={k}": round(1000 * value, 1) for k, value in latency.items()}
        rows[name]["queries/s at K=10"] = round(options.throughput / total[name], 2)
        rows[name]["MRR"] = round(statistics.fmean(ranks[name]), 4)
        if name not in peers:
            for k in (10, 100):
                rows[name][f"times as fast at K={k}"] = {
                    peer: round(statistics.median(seconds[peer][k]) / latency[k], 2) for peer in peers
                }
            rows[name]["times the throughput"] = {peer: round(total[peer] / total[name], 2) for peer in peers}
    result = {
        "queries": options.queries,
        "throughput_queries": options.throughput,
        "systems": rows,
        "shipped": shipped(dev, options.shipped, options.cache),
    }
    text = json.dumps(result, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
