"""MRR, Recall@1 and Recall@10 on CoSQA for BM25, dense and fused retrieval, over the first 1,000 hits.

The number of functions that differ in more than white space and docstring is reported too: of equal functions only one
is marked as relevant, which would lower the scores. The official pool contains none. The result file keeps the figures
of other adapters and models. It takes about 4 minutes on two cores:

    CODE_RETRIEVAL_DATA=… python benchmarks/cosqa.py [--model embedded] [--adapter none] [--dimensions 128]
"""

from __future__ import annotations

import argparse
import json
from typing import get_args

from report import add_result_option, environment, write_figures

from llamaindex_code_retrieval import CodeEmbedding, CodeRetriever
from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.eval import benchmark_index, data_folder, evaluate_run, load_beir, rank_queries
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.models.catalog import EMBEDDED, NO_ADAPTER
from llamaindex_code_retrieval.retriever import Mode


def normalized(code: str) -> str:
    """Return a function without its docstring and with single spaces, which is the same for equal functions."""
    functions = definitions(code, "python")
    return " ".join((functions[0].code_without_docstring if len(functions) == 1 else code).split())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="name or folder of the base (default: %(default)s)")
    parser.add_argument(
        "--adapter", help="name or folder; none: the base alone (default: the one that comes with the package)"
    )
    parser.add_argument("--dimensions", type=int, help="numbers of a vector to keep (default: all)")
    parser.add_argument("--split", default="dev", help="split of CoSQA (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    folder = data_folder("cosqa")
    if folder is None:
        raise SystemExit("set CODE_RETRIEVAL_DATA to the folder that holds cosqa/")
    results = read_json(options.result, remedy="name another --result") if options.result.is_file() else {}
    benchmark = load_beir(folder, split=options.split)
    embedding = CodeEmbedding(options.model, adapter=options.adapter, dimensions=options.dimensions)
    index = benchmark_index(benchmark, embedding)
    vectors = embedding.embed_queries(list(benchmark.queries.values())).tolist()
    query_vectors = dict(zip(benchmark.queries, vectors, strict=True))
    metrics: dict[str, dict[str, float]] = {}
    for mode in get_args(Mode):
        run = rank_queries(CodeRetriever(index, mode=mode, top_k=1000), benchmark, query_vectors=query_vectors).run
        metrics[mode] = {name: round(value, 4) for name, value in evaluate_run(run, benchmark.qrels).items()}
    result = {
        **environment(),
        "benchmark": benchmark.name,
        "model": options.model,
        "adapter": embedding.adapter,
        "dimensions": embedding.dim,
        "fingerprint": embedding.fingerprint,
        "precision": embedding.precision,
        "codes": len(benchmark.corpus),
        "distinct_functions": len(set(map(normalized, benchmark.corpus.values()))),
        "queries": len(benchmark.queries),
        "metrics": metrics,
    }
    is_bare = embedding.adapter == NO_ADAPTER and options.model != EMBEDDED
    name = options.model if is_bare else embedding.adapter
    name = name if options.dimensions is None else f"{name}, {options.dimensions} numbers"
    write_figures(options.result, {**results, name: result})
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
