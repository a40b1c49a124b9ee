"""MRR, Recall@1 and Recall@10 on CoSQA dev for BM25, dense and fused retrieval, over the first 1,000 hits.

How many functions differ in more than white space and docstring is printed as well: equal ones, of which one is marked
relevant, would push the figures down. In the official pool there are none.

    CODE_RETRIEVAL_DATA=… python benchmarks/cosqa.py [--model embedded] [--adapter none]
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import get_args

from llamaindex_code_retrieval import CodeEmbedding, CodeRetriever
from llamaindex_code_retrieval.eval.datasets import data_folder, load_beir
from llamaindex_code_retrieval.eval.metrics import evaluate_run
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, rank_queries
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.retriever import Mode


def _bare(code: str) -> str:
    """Return a function's words without its docstring: what equal functions have in common."""
    found = definitions(code, "python")
    return " ".join((found[0].code_without_docstring if len(found) == 1 else code).split())


def main() -> None:
    """Run and write the result beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--adapter", help="default: the one that comes with the package; none: the bare base")
    parser.add_argument("--split", default="dev")
    options = parser.parse_args()
    folder = data_folder("cosqa")
    if folder is None:
        raise SystemExit("set CODE_RETRIEVAL_DATA to the folder that holds cosqa/")

    benchmark = load_beir(folder, split=options.split)
    embedding = CodeEmbedding(options.model, adapter=options.adapter)
    index = benchmark_index(benchmark, embedding)
    vectors = embedding.encoder.encode_queries(list(benchmark.queries.values())).tolist()
    query_vectors = dict(zip(benchmark.queries, vectors, strict=True))
    metrics: dict[str, dict[str, float]] = {}
    for mode in get_args(Mode):
        retriever = CodeRetriever(index, mode=mode, top_k=1000)
        run = rank_queries(retriever, benchmark, query_vectors=query_vectors).run
        metrics[mode] = evaluate_run(run, benchmark.qrels)
    result = {
        "date": date.today().isoformat(),
        "benchmark": benchmark.name,
        "model": options.model,
        "adapter": embedding.adapter,
        "fingerprint": embedding.fingerprint,
        "precision": embedding.precision,
        "codes": len(benchmark.corpus),
        "distinct_functions": len(set(map(_bare, benchmark.corpus.values()))),
        "queries": len(benchmark.queries),
        "metrics": {
            mode: {name: round(value, 4) for name, value in values.items()} for mode, values in metrics.items()
        },
    }
    file = Path(__file__).with_suffix(".json")
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results[embedding.adapter] = result  # the other adapters' results stay
    file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
