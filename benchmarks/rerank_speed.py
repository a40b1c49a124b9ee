"""Reranking speed: CodeReranker against the rerankers of sentence-transformers and of LlamaIndex.

The peers are `CrossEncoder` and `SentenceTransformerRerank`. All score the same pairs with the same weights: those of
``--model``, a sequence-classification checkpoint, or else the embedded model with a randomly initialised head, whose
ranking has no value but must be the same for all. Each query of CoSQA dev is ranked against its answer and random other
codes. The systems take turns query by query and each is first equally often, because the next one finds the texts in
the processor's caches; medians are reported. The effect of the precision on MRR is measured with the default reranker
behind fused retrieval, on all of dev. It takes about 20 minutes on two cores:

    CODE_RETRIEVAL_DATA=… python benchmarks/rerank_speed.py [--queries 20] [--throughput 100] [--shipped 500]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from report import add_result_option, report

from llamaindex_code_retrieval.eval import Benchmark, benchmark_index, data_folder, evaluate_run, load_beir
from llamaindex_code_retrieval.models.device import resolve_precision
from llamaindex_code_retrieval.models.reranker_config import RerankPrecision

DEPTHS = (10, 50)
_NATIVE = resolve_precision("auto", torch.device("cpu"))
PRECISIONS: tuple[RerankPrecision, ...] = ("fp32", "bf16", "int8") if _NATIVE == "bf16" else ("fp32", "int8")
"""Those that this processor computes natively."""

Question = tuple[str, str, list[NodeWithScore]]
"""A query, the id of its answer, and the hits to rerank."""

System = Callable[[str, list[NodeWithScore]], list[NodeWithScore]]


def random_head(folder: Path) -> Path:
    """Write the embedded model as a cross-encoder with a random head."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    from llamaindex_code_retrieval.models.locate import locate

    torch.manual_seed(0)
    base = locate("embedded")
    BertForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def variants() -> dict[str, dict[str, Any]]:
    """Return the options of ``CodeReranker`` by name: each precision in its default runtime and in torch."""
    by_default: dict[str, dict[str, Any]] = {precision: {"precision": precision} for precision in PRECISIONS}
    by_torch = {f"{precision}, torch": {"precision": precision, "runtime": "torch"} for precision in PRECISIONS[:-1]}
    return by_default | by_torch  # int8 is always torch's


def systems(model: str) -> dict[str, System]:
    """Return the rerankers by name, all with the same top_n and token limit."""
    from llama_index.core.postprocessor import SentenceTransformerRerank
    from sentence_transformers import CrossEncoder

    from llamaindex_code_retrieval import CodeReranker

    peer = CrossEncoder(model, device="cpu", max_length=512)

    def predict(query: str, hits: list[NodeWithScore]) -> list[NodeWithScore]:
        scores = peer.predict([(query, hit.get_content()) for hit in hits], show_progress_bar=False)
        scored = [NodeWithScore(node=hit.node, score=float(s)) for hit, s in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: (-hit.get_score(), hit.node_id))

    rerankers: dict[str, System] = {}
    for name, options in variants().items():
        ours = CodeReranker(model, top_n=100, device="cpu", **options)
        rerankers[f"CodeReranker, {name}"] = lambda query, hits, ours=ours: ours.postprocess_nodes(  # type: ignore[misc]
            hits, query_bundle=QueryBundle(query)
        )
    rerankers["sentence-transformers CrossEncoder"] = predict
    llamaindex = SentenceTransformerRerank(model=model, top_n=100, device="cpu")
    rerankers["LlamaIndex SentenceTransformerRerank"] = lambda query, hits: llamaindex.postprocess_nodes(
        [NodeWithScore(node=hit.node, score=hit.score) for hit in hits], query_bundle=QueryBundle(query)
    )
    return rerankers


def rotate(systems: dict[str, System], turn: int) -> list[tuple[str, System]]:
    """Return the systems in the order of this turn: each is first, and last, equally often."""
    items = list(systems.items())
    return items[turn % len(items) :] + items[: turn % len(items)]


def measure_default_reranker(dev: Benchmark, queries: int, cache: str | None) -> dict[str, dict[str, float]]:
    """Return MRR and milliseconds per query of the default reranker on the first ten hits, by precision."""
    from llamaindex_code_retrieval import CodeEmbedding, CodeReranker, CodeRetriever

    dev = dev.sample(queries) if queries < len(dev.queries) else dev
    embedding = CodeEmbedding("embedded", precision="fp32", cache_folder=cache)
    retriever = CodeRetriever(benchmark_index(dev, embedding), top_k=10)
    rerankers = {name: CodeReranker(device="cpu", **options) for name, options in variants().items()}
    for precision in PRECISIONS[:-1]:  # int8 and OpenVINO always merge
        rerankers[f"{precision}, torch, merged"] = CodeReranker(
            precision=precision, device="cpu", runtime="torch", merge_adapter=True
        )
    runs: dict[str, dict[str, list[str]]] = {name: {} for name in ("first stage", *rerankers)}
    seconds: dict[str, list[float]] = {name: [] for name in rerankers}
    for key, query in dev.queries.items():
        ids = [id_ for id_, _ in retriever.rank(query, retriever.embed_query(query))]
        hits = [NodeWithScore(node=TextNode(id_=id_, text=dev.corpus[id_])) for id_ in ids]
        runs["first stage"][key] = ids
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


def questions(dev: Benchmark, count: int) -> list[Question]:
    """Return queries with their answer and random other codes, the answer first."""
    rng = random.Random(0)
    ids = sorted(dev.corpus)
    chosen: list[Question] = []
    for id_, judged in list(dev.qrels.items())[:count]:
        answer = next(code for code, score in judged.items() if score > 0)
        others = [code for code in rng.sample(ids, max(DEPTHS)) if code != answer][: max(DEPTHS) - 1]
        nodes = [TextNode(id_=code, text=dev.corpus[code]) for code in [answer, *others]]
        chosen.append((dev.queries[id_], answer, [NodeWithScore(node=node, score=1.0) for node in nodes]))
    return chosen


def latencies(
    systems: dict[str, System], questions: list[Question]
) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """Return the median seconds of a query by system and number of hits, and the MRR over the most hits by system."""
    seconds: dict[str, dict[int, list[float]]] = {name: {depth: [] for depth in DEPTHS} for name in systems}
    reciprocal_ranks: dict[str, list[float]] = {name: [] for name in systems}
    for turn, (query, answer, hits) in enumerate(questions):
        for depth in DEPTHS:
            for name, system in rotate(systems, turn):
                if turn == 0:
                    system(query, hits[:depth])  # warm-up
                start = time.perf_counter()
                best = system(query, hits[:depth])
                seconds[name][depth].append(time.perf_counter() - start)
                if depth == max(DEPTHS):
                    reciprocal_ranks[name].append(1 / (1 + [hit.node_id for hit in best].index(answer)))
    medians = {
        name: {depth: statistics.median(values) for depth, values in by_depth.items()}
        for name, by_depth in seconds.items()
    }
    return medians, {name: round(statistics.fmean(ranks), 4) for name, ranks in reciprocal_ranks.items()}


def total_seconds(systems: dict[str, System], questions: list[Question]) -> dict[str, float]:
    """Return the seconds of all queries with ten hits each, one after the other, by system."""
    total = dict.fromkeys(systems, 0.0)
    for turn, (query, _, hits) in enumerate(questions):
        for name, system in rotate(systems, turn):
            start = time.perf_counter()
            system(query, hits[:10])
            total[name] += time.perf_counter() - start
    return total


def compare_systems(systems: dict[str, System], dev: Benchmark, *, queries: int, throughput: int) -> dict[str, Any]:
    """Return latency, throughput and MRR of each system, and how many times as fast ours are as the peers."""
    chosen = questions(dev, max(queries, throughput))
    median, mrr = latencies(systems, chosen[:queries])
    total = total_seconds(systems, chosen[:throughput])
    rows: dict[str, dict[str, Any]] = {}
    peers = [name for name in systems if not name.startswith("CodeReranker")]
    for name in systems:
        rows[name] = {f"ms at K={depth}": round(1000 * value, 1) for depth, value in median[name].items()}
        rows[name]["queries/s at K=10"] = round(throughput / total[name], 2)
        rows[name]["MRR"] = mrr[name]
        if name not in peers:
            for depth in DEPTHS:
                rows[name][f"times as fast at K={depth}"] = {
                    peer: round(median[peer][depth] / median[name][depth], 2) for peer in peers
                }
            rows[name]["times the throughput"] = {peer: round(total[peer] / total[name], 2) for peer in peers}
    return rows


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FOLDER", help="checkpoint with one label or two (default: a random head)")
    parser.add_argument("--queries", type=int, default=20, help="queries for the latency (default: %(default)s)")
    parser.add_argument(
        "--throughput", type=int, default=100, help="queries for the throughput at K=10 (default: %(default)s)"
    )
    parser.add_argument(
        "--shipped", type=int, default=500, help="queries for the MRR of the default reranker (default: all 500)"
    )
    parser.add_argument("--cache", metavar="FOLDER", help="embedding cache (default: none)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    folder = data_folder("cosqa")
    if folder is None:
        raise SystemExit("set CODE_RETRIEVAL_DATA to the folder that holds cosqa/")
    dev = load_beir(folder, split="dev")
    with tempfile.TemporaryDirectory() as scratch:
        compared = systems(options.model or str(random_head(Path(scratch))))
    report(
        options.result,
        {
            "queries": options.queries,
            "throughput_queries": options.throughput,
            "systems": compare_systems(compared, dev, queries=options.queries, throughput=options.throughput),
            "shipped": measure_default_reranker(dev, options.shipped, options.cache),
        },
    )


if __name__ == "__main__":
    main()
