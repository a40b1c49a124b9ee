"""Variants of CasCode's cascade: the encoder alone, then each variant of a reranker behind it, on K = 10 and 100 hits.

Each variant is trained with several seeds on the same pairs in the same order, each run in a process of its own that is
saved in the result file as soon as it is done; a second call does the runs that are missing. ``fused`` also weights the
rank of the first stage; the weight for one half of the queries is chosen on the other half. With --steps 60
--queries 80 it takes about 3 hours on two cores:

    CODE_RETRIEVAL_DATA=… python benchmarks/reranker_variants.py [--steps 100] [--queries 200] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import add_result_option, mean_with_interval
from runs import Runs, complete_runs, runs_of, seeds

from llamaindex_code_retrieval import CodeEmbedding
from llamaindex_code_retrieval.eval import Benchmark, data_folder, load_beir
from llamaindex_code_retrieval.eval.metrics import mean_reciprocal_rank, pessimistic_rank
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.reranker_config import VARIANTS
from llamaindex_code_retrieval.models.scoring import score_pairs

SETS = (("cosqa", "dev"), ("mbxp_nl", "dev-python"))
SETTINGS = ("pairs", "adapter", "unmerged", "steps", "max_tokens", "queries")
"""Options that all runs of one result file have in common."""
DEPTHS = (10, 100)


def train_and_measure(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a variant on random pairs and measure it."""
    from llamaindex_code_retrieval.training import load_pairs, load_reranker_recipe
    from llamaindex_code_retrieval.training.candidates import CandidateSampler
    from llamaindex_code_retrieval.training.matching import fit_cross_encoder, new_cross_encoder
    from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters

    settings = {"seed": options.seed, "max_tokens": options.max_tokens, "epochs": 1.0}
    recipe = load_reranker_recipe(variant).with_settings(settings)
    pairs = load_pairs(*options.pairs)
    pairs = random.Random(options.seed).sample(pairs, options.steps * recipe.train.batch_size)
    retriever = CodeEmbedding(
        "embedded",
        adapter=options.adapter,
        merge_adapter=not options.unmerged,
        precision="fp32",
        cache_folder=options.cache,
    )
    clusters = near_duplicate_clusters([pair.code for pair in pairs])
    run = fit_cross_encoder(
        new_cross_encoder(retriever.torch_encoder.without_adapter(), recipe.adapter, recipe.train),
        CandidateSampler(pairs, recipe.train, clusters=clusters),
        recipe.train,
        retriever=retriever,
    )
    model = run.model.eval()
    first_stage = model.encoder if variant == "shared" else retriever.torch_encoder
    weights = (*first_stage.base.parameters(), *first_stage.backbone.parameters(), *model.parameters())
    size_of = {weight.data_ptr(): weight.numel() * weight.element_size() for weight in weights}  # shared ones once
    scores: dict[str, Any] = {}
    for name, split in SETS:
        folder = data_folder(name)
        if folder is not None:
            benchmark = load_beir(folder, split=split)
            if options.queries < len(benchmark.queries):
                benchmark = benchmark.sample(options.queries)
            scores[benchmark.name] = measure(model, None if variant == "shared" else retriever, benchmark)
            print(variant, options.seed, json.dumps(scores), file=sys.stderr, flush=True)
    return {
        "trained": run.trained_parameters,
        "minutes": round(run.seconds / 60, 1),
        "peak_mib": round(run.peak_bytes / 2**20),
        "both_in_memory_mib": round(sum(size_of.values()) / 2**20, 1),
        "scores": scores,
    }


def measure(model: CrossEncoder, embedding: CodeEmbedding | None, benchmark: Benchmark) -> dict[str, Any]:
    """Return MRR and R@1 of the first stage and of both cascades, and the seconds per query at the largest K.

    Without an ``embedding`` the encoder of ``model`` is the first stage.
    """
    from llamaindex_code_retrieval.training.calibration import cross_fitted

    ids, queries = list(benchmark.corpus), list(benchmark.queries.values())
    codes = list(benchmark.corpus.values())
    if embedding is None:
        code_vectors, query_vectors = model.encoder.encode_codes(codes), model.encoder.encode_queries(queries)
    else:
        code_vectors = np.asarray(embedding.embed_codes(codes, [""] * len(codes)))
        query_vectors = np.asarray(embedding.embed_queries(queries))
    order = np.argsort(-(query_vectors @ code_vectors.T), axis=1, kind="stable")[:, : max(DEPTHS)]
    relevant = np.array(
        [
            [benchmark.qrels[query].get(ids[j], 0) > 0 for j in row]
            for query, row in zip(benchmark.queries, order, strict=True)
        ]
    )
    start = time.perf_counter()
    scores = np.array(
        [
            score_pairs(model, query, [codes[j] for j in row], max_tokens=model.max_tokens)
            for query, row in zip(queries, order, strict=True)
        ]
    )
    seconds = time.perf_counter() - start
    first_stage = -np.arange(relevant.shape[1], dtype=np.float64) * np.ones((len(queries), 1))
    results: dict[str, Any] = {
        "queries": len(queries),
        "encoder": metrics(first_stage, relevant),
        "seconds": round(seconds / len(queries), 3),
    }
    for depth in DEPTHS:
        log_odds, labels = scores[:, :depth], relevant[:, :depth]
        for name, reranked in (("reranked", log_odds), ("fused", cross_fitted(log_odds, labels))):
            rest = reranked.min() - 1 + first_stage[:, depth:]  # the hits after the first K keep their order
            results[f"{name}, K={depth}"] = metrics(np.hstack([reranked, rest]), relevant)
    return results


def metrics(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> dict[str, float]:
    """Return MRR and R@1 of hits by their scores, both ``(queries, hits)``."""
    ranks = [pessimistic_rank(row, np.flatnonzero(hits).tolist()) for row, hits in zip(scores, relevant, strict=True)]
    return {"mrr": mean_reciprocal_rank(ranks), "r@1": statistics.fmean(rank == 1 for rank in ranks)}


def table(runs: Runs) -> str:
    """Return a table in Markdown: the mean MRR over seeds, and half the 95 % interval of the mean."""
    names = sorted({name for run in runs.values() for name in run["scores"]})
    columns = ["encoder", *(f"{kind}, K={depth}" for depth in DEPTHS for kind in ("reranked", "fused"))]
    lines = [
        "| set | variant | MiB of both | minutes | " + " | ".join(columns) + " |",
        "|---|---|---|---|" + "---|" * len(columns),
    ]
    for name in names:
        for variant in VARIANTS:
            repeated = [run for run in runs_of(runs, variant) if name in run["scores"]]
            if repeated:
                cells = [
                    mean_with_interval([run["scores"][name][column]["mrr"] for run in repeated]) for column in columns
                ]
                mib, minutes = (
                    statistics.fmean(run[key] for run in repeated) for key in ("both_in_memory_mib", "minutes")
                )
                first = f"| {name} | {variant} ({seeds(len(repeated))}) | {mib:.0f} | {minutes:.0f} | "
                lines.append(first + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=["cosqa"], help="training pairs (default: cosqa)")
    parser.add_argument("--adapter", default="embedded-general", help="of the embedding (default: %(default)s)")
    parser.add_argument("--unmerged", action="store_true", help="do not merge that adapter into the base's weights")
    parser.add_argument("--steps", type=int, default=100, help="batches of 16 queries (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, help="of a pair (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=200, help="of each set, at most (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="variants (default: all)")
    parser.add_argument("--cache", metavar="FOLDER", help="embedding cache (default: none)")
    parser.add_argument("--run", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.run:
        print(json.dumps(train_and_measure(options.run, options)))
        return
    runs = complete_runs(
        __file__,
        options.result,
        [(variant, seed) for seed in range(options.seeds) for variant in options.variants],
        arguments=sys.argv[1:],
        settings={name: getattr(options, name) for name in SETTINGS},
    )
    print(table(runs))


if __name__ == "__main__":
    main()
