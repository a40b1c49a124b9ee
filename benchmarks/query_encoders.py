"""The README's tables of query encoders: time of a query, and what it finds alone, fused with BM25 and reranked.

Name the folders that `code-retrieval distil` wrote (``NAME=FOLDER`` gives one a name of its own). All are students of
one teacher, which is the first row. Each asks CoSQA dev and MBXP dev (its Python part); the codes' vectors are the
teacher's. ``alone`` ranks by cosine, ``fused`` with BM25 as ``CodeRetriever`` does, ``reranked`` has the shipped
reranker read the first ten of those. Times are of 100 queries one by one on one thread, tokenizing included; systems
take turns, three rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamaindex_code_retrieval import CodeEmbedding, CodeRetriever
from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.eval import Benchmark, data_folder, evaluate_run, load_beir
from llamaindex_code_retrieval.eval.retrieval import benchmark_index
from llamaindex_code_retrieval.models.catalog import DEFAULT_RERANKER
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.files import TRAIN_CONFIG
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.models.scoring import score_pairs

RESULT = Path(__file__).with_suffix(".json")
SETS = (("cosqa", "dev"), ("mbxp_nl", "dev-python"))
DEPTH = 10
ROUNDS = 3
METRICS = ("MRR", "R@1", "R@5")

Encode = Callable[[list[str]], Any]


def measured(systems: dict[str, Encode], benchmark: Benchmark, embedding: CodeEmbedding) -> dict[str, Any]:
    """Return for each system its scores alone, fused and reranked."""
    index = benchmark_index(benchmark, embedding)
    dense, fused = (CodeRetriever(index, top_k=100, mode=mode) for mode in ("dense", "fused"))
    reranker = CrossEncoder.load(DEFAULT_RERANKER, encoder=embedding.encoder, precision="fp32")
    known: dict[tuple[str, str], float] = {}  # (query, code) -> log-odds, which no system changes

    def reranked(query: str, ids: list[str]) -> list[str]:
        first, texts = ids[:DEPTH], [benchmark.corpus[each] for each in ids[:DEPTH]]
        new = [text for text in dict.fromkeys(texts) if (query, text) not in known]
        scores = score_pairs(reranker, query, new, max_tokens=reranker.max_tokens)
        known.update({(query, text): score for text, score in zip(new, scores, strict=True)})
        odds = [reranker.calibration.hit_log_odds(known[query, text], rank) for rank, text in enumerate(texts, start=1)]
        order = sorted(range(len(first)), key=lambda i: (-odds[i], i))
        return [*(first[i] for i in order), *ids[DEPTH:]]

    found: dict[str, Any] = {}
    for name, encode in systems.items():
        runs: dict[str, dict[str, list[str]]] = {"alone": {}, "fused": {}, "reranked": {}}
        for key, query in benchmark.queries.items():
            vector = [encode([query])[0].tolist()]
            runs["alone"][key] = [each for each, _ in dense.rank(query, vector)]
            runs["fused"][key] = [each for each, _ in fused.rank(query, vector)]
            runs["reranked"][key] = reranked(query, runs["fused"][key])
        found[name] = {what: evaluate_run(run, benchmark.qrels, metrics=METRICS) for what, run in runs.items()}
        print(benchmark.name, name, {what: round(scores["MRR"], 4) for what, scores in found[name].items()}, flush=True)
    return found


def timed(systems: dict[str, Encode], queries: list[str]) -> dict[str, dict[str, float]]:
    """Return p50 and p95 of a query, and the time of all of them one by one, in milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for encode in systems.values():  # to warm up
        for query in queries[:5]:
            encode([query])
    for _ in range(ROUNDS):
        for name, encode in systems.items():
            for query in queries:
                began = time.perf_counter()
                encode([query])
                taken[name].append(1000 * (time.perf_counter() - began))
    return {
        name: {
            "p50": round(float(np.percentile(times, 50)), 3),
            "p95": round(float(np.percentile(times, 95)), 3),
            "all": round(sum(times) / ROUNDS, 1),
        }
        for name, times in taken.items()
    }


def table(result: dict[str, Any]) -> str:
    """Return the table in Markdown: MRR, R@1, R@5 and the share of the first row's MRR."""
    sets = list(result["scores"])
    lines = ["| | ms p50 / p95 | 100 queries |" + "".join(f" {each}: alone | fused | reranked |" for each in sets)]
    lines.append("|---|---|---|" + "---|" * 3 * len(sets))
    first = next(iter(result["times"]))
    for name, times in result["times"].items():
        cells = []
        for each in sets:
            for what, scores in result["scores"][each][name].items():
                share = scores["MRR"] / result["scores"][each][first][what]["MRR"]
                cells.append(", ".join(f"{scores[metric]:.3f}" for metric in METRICS) + f" ({share:.1%})")
        head = f"| {name} | {times['p50']:.2f} / {times['p95']:.2f} | {times['all']:.0f} ms | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the students that are named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="+", metavar="[NAME=]FOLDER")
    parser.add_argument("--teacher", metavar="ADAPTER", help="of the embedded base (default: ours)")
    parser.add_argument("--cache", help="folder of an embedding cache")
    parser.add_argument("--times-only", action="store_true", help="measure times anew and keep the scores there are")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    embedding = CodeEmbedding("embedded", adapter=options.teacher, precision="fp32", cache_folder=options.cache)
    systems: dict[str, Encode] = {"teacher": embedding.encoder.encode_queries}
    made: dict[str, Any] = {}
    for each in options.students:
        name, _, folder = each.rpartition("=")
        student = QueryEncoder.load(folder, teacher=embedding.encoder)
        systems[name or folder] = student.encode_queries
        facts = json.loads((Path(folder) / TRAIN_CONFIG).read_text())
        made[name or folder] = {key: facts[key] for key in ("student", "taught_by", "seconds", "steps", "kept")}
    result: dict[str, Any] = json.loads(options.result.read_text()) if options.times_only else {"scores": {}}
    result["students"] = made
    for name, split in SETS:
        folder_of_set = data_folder(name)
        if folder_of_set is not None and not options.times_only:
            benchmark = load_beir(folder_of_set, split=split)
            result["scores"][benchmark.name] = measured(systems, benchmark, embedding)
            queries = list(benchmark.queries.values())
    if options.times_only:
        queries = list(load_beir(data_folder("cosqa") or "cosqa", split="dev").queries.values())
    result["times"] = timed(systems, queries[:100])
    write_atomically(options.result, json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
