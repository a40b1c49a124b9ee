"""Query encoders: the time of a query, and the scores alone, fused with BM25 and reranked, against their teacher.

The students are folders that `code-retrieval distil` wrote, or names of query encoders that come with the package;
``NAME=FOLDER`` gives one a name in the table. All have the same teacher, which is the first row. The queries are those
of CoSQA dev and of MBXP dev (Python); the vectors of the codes are the teacher's. ``alone`` ranks by cosine, ``fused``
adds BM25 as ``CodeRetriever`` does, and ``reranked`` has the default reranker score the first ten fused hits. Times are
of 100 queries one by one on one thread, tokenization included; the systems take turns for three rounds. It takes about
15 minutes for the codes and the teacher, and 5 more for each student:

    CODE_RETRIEVAL_DATA=… python benchmarks/query_encoders.py [NAME=]FOLDER … [--times-only]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from report import add_result_option, environment, write_figures

from llamaindex_code_retrieval import CodeEmbedding, CodeRetriever
from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.eval import Benchmark, benchmark_index, data_folder, evaluate_run, load_beir
from llamaindex_code_retrieval.eval.retrieval import percentiles
from llamaindex_code_retrieval.models.catalog import DEFAULT_RERANKER
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.files import TRAIN_CONFIG
from llamaindex_code_retrieval.models.locate import locate_query_encoder
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.models.scoring import score_pairs

SETS = (("cosqa", "dev"), ("mbxp_nl", "dev-python"))
DEPTH = 10
ROUNDS = 3
METRICS = ("MRR", "R@1", "R@5")

Encode = Callable[[list[str]], Any]


def measure(systems: dict[str, Encode], benchmark: Benchmark, embedding: CodeEmbedding) -> dict[str, Any]:
    """Return for each system its scores alone, fused and reranked, by stage."""
    index = benchmark_index(benchmark, embedding)
    dense, fused = (CodeRetriever(index, top_k=100, mode=mode) for mode in ("dense", "fused"))
    reranker = CrossEncoder.load(DEFAULT_RERANKER, encoder=embedding.torch_encoder, precision="fp32")
    log_odds: dict[tuple[str, str], float] = {}  # by (query, code); they do not depend on the query encoder

    def reranked(query: str, ids: list[str]) -> list[str]:
        first, texts = ids[:DEPTH], [benchmark.corpus[each] for each in ids[:DEPTH]]
        new = [text for text in dict.fromkeys(texts) if (query, text) not in log_odds]
        scores = score_pairs(reranker, query, new, max_tokens=reranker.max_tokens)
        log_odds.update({(query, text): score for text, score in zip(new, scores, strict=True)})
        odds = [
            reranker.calibration.hit_log_odds(log_odds[query, text], rank) for rank, text in enumerate(texts, start=1)
        ]
        order = sorted(range(len(first)), key=lambda i: (-odds[i], i))
        return [*(first[i] for i in order), *ids[DEPTH:]]

    results: dict[str, Any] = {}
    for name, encode in systems.items():
        runs: dict[str, dict[str, list[str]]] = {"alone": {}, "fused": {}, "reranked": {}}
        for key, query in benchmark.queries.items():
            vector = [encode([query])[0].tolist()]
            runs["alone"][key] = [each for each, _ in dense.rank(query, vector)]
            runs["fused"][key] = [each for each, _ in fused.rank(query, vector)]
            runs["reranked"][key] = reranked(query, runs["fused"][key])
        results[name] = {stage: evaluate_run(run, benchmark.qrels, metrics=METRICS) for stage, run in runs.items()}
        shown = {stage: round(scores["MRR"], 4) for stage, scores in results[name].items()}
        print(benchmark.name, name, shown, file=sys.stderr, flush=True)
    return results


def measure_times(systems: dict[str, Encode], queries: list[str]) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a query (p50, p95) and of all queries one by one, by system."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for encode in systems.values():  # warm-up
        for query in queries[:5]:
            encode([query])
    for _ in range(ROUNDS):
        for name, encode in systems.items():
            for query in queries:
                start = time.perf_counter()
                encode([query])
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {**percentiles(values), "all": round(1000 * sum(values) / ROUNDS, 1)} for name, values in seconds.items()
    }


def table(result: dict[str, Any]) -> str:
    """Return a table in Markdown: times, MRR, R@1, R@5, and the share of the first row's MRR in parentheses."""
    sets = [each for each, by_name in result["scores"].items() if result["times"].keys() <= by_name.keys()]
    lines = ["| | ms p50 / p95 | 100 queries |" + "".join(f" {each}: alone | fused | reranked |" for each in sets)]
    lines.append("|---|---|---|" + "---|" * 3 * len(sets))
    first = next(iter(result["times"]))
    for name, times in result["times"].items():
        cells = []
        for each in sets:
            for stage, scores in result["scores"][each][name].items():
                share = scores["MRR"] / result["scores"][each][first][stage]["MRR"]
                cells.append(", ".join(f"{scores[metric]:.3f}" for metric in METRICS) + f" ({share:.1%})")
        head = f"| {name} | {times['p50']:.2f} / {times['p95']:.2f} | {times['all']:.0f} ms | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", metavar="[NAME=]FOLDER", help="query encoders of the same teacher")
    parser.add_argument(
        "--teacher", metavar="ADAPTER", help="adapter of the embedded base (default: the one that comes with it)"
    )
    parser.add_argument("--cache", metavar="FOLDER", help="embedding cache (default: none)")
    parser.add_argument("--times-only", action="store_true", help="measure the times and keep the scores of --result")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    folders = {name: data_folder(name) for name, _ in SETS}
    if folders["cosqa"] is None:
        raise SystemExit("set CODE_RETRIEVAL_DATA to the folder that holds cosqa/")
    benchmarks = [load_beir(folder, split=split) for name, split in SETS if (folder := folders[name]) is not None]
    result: dict[str, Any] = {"scores": {}}
    if options.times_only and options.result.is_file():
        result = read_json(options.result, remedy="name another --result", keys=["scores"])
    torch.set_num_threads(1)
    embedding = CodeEmbedding("embedded", adapter=options.teacher, precision="fp32", cache_folder=options.cache)
    systems: dict[str, Encode] = {"teacher": embedding.encoder.encode_queries}
    students: dict[str, Any] = {}
    for student in options.students:
        name, _, folder = student.rpartition("=")
        systems[name or folder] = QueryEncoder.load(folder, teacher=embedding.torch_encoder).encode_queries
        record = read_json(locate_query_encoder(folder) / TRAIN_CONFIG, remedy="distil the query encoder again")
        students[name or folder] = {key: record[key] for key in ("student", "taught_by", "seconds", "steps", "kept")}
    measured = {"times": environment(), "scores": result.get("measured", {}).get("scores")}
    if not options.times_only:
        measured["scores"] = environment()
        result["scores"] = {benchmark.name: measure(systems, benchmark, embedding) for benchmark in benchmarks}
    times = measure_times(systems, list(benchmarks[0].queries.values())[:100])
    result = {"measured": measured, "scores": result["scores"], "students": students, "times": times}
    write_figures(options.result, result)
    print(table(result))


if __name__ == "__main__":
    main()
