"""The README's table of cascades: encoder alone, then each variant of a reranker behind it, at K = 10 and 100.

Each run is a process of its own and is kept in the result file as soon as it is done; a second call does what is
missing. All variants see the same pairs in the same order. ``fused`` also weights the rank of the first stage; the
weight for one half of the queries is chosen on the other half.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.eval import Benchmark, data_folder, load_beir
from llamaindex_code_retrieval.eval.metrics import mean_reciprocal_rank, pessimistic_rank
from llamaindex_code_retrieval.models.reranker_config import VARIANTS
from llamaindex_code_retrieval.models.scoring import score_pairs
from llamaindex_code_retrieval.training.calibration import cross_fitted

RESULT = Path(__file__).with_suffix(".json")
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by number of seeds
DEPTHS = (10, 100)


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Train a variant once and measure it."""
    from llamaindex_code_retrieval import CodeEmbedding
    from llamaindex_code_retrieval.training.candidates import CandidateSampler
    from llamaindex_code_retrieval.training.matching import fit_cross_encoder, new_cross_encoder
    from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
    from llamaindex_code_retrieval.training.pair_sources import load_pairs
    from llamaindex_code_retrieval.training.recipes import load_reranker_recipe

    settings = {"seed": options.seed, "max_tokens": options.max_tokens, "epochs": 1.0}
    recipe = load_reranker_recipe(options.variant).with_settings(settings)
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
    result = fit_cross_encoder(
        new_cross_encoder(retriever.encoder.without_adapter(), recipe.adapter, recipe.train),
        CandidateSampler(pairs, recipe.train, clusters=clusters),
        recipe.train,
        retriever=retriever,
    )
    model = result.model.eval()
    first_stage = model.encoder if options.variant == "shared" else retriever.encoder
    weights = (*first_stage.base.parameters(), *first_stage.backbone.parameters(), *model.parameters())
    held = {p.data_ptr(): p.numel() * p.element_size() for p in weights}
    facts: dict[str, Any] = {
        "trained": result.trained_parameters,
        "minutes": round(result.seconds / 60, 1),
        "peak_mib": round(result.peak_bytes / 2**20),
        "both_in_memory_mib": round(sum(held.values()) / 2**20, 1),
        "scores": {},
    }
    for name, split, queries in (("cosqa", "dev", options.queries), ("mbxp_nl", "dev-python", options.queries)):
        folder = data_folder(name)
        if folder is not None:
            benchmark = load_beir(folder, split=split)
            benchmark = benchmark.sample(queries) if queries < len(benchmark.queries) else benchmark
            embedding = None if options.variant == "shared" else retriever
            facts["scores"][benchmark.name] = measure(model, embedding, benchmark)
            print(options.variant, options.seed, json.dumps(facts["scores"]), file=sys.stderr, flush=True)
    return facts


def measure(model: Any, embedding: Any, benchmark: Benchmark) -> dict[str, Any]:
    """Return MRR and R@1 of the first stage and of both cascades, and seconds a query at the largest K."""
    ids, queries = list(benchmark.corpus), list(benchmark.queries.values())
    codes = list(benchmark.corpus.values())
    if embedding is None:
        vectors, asked = model.encoder.encode_codes(codes), model.encoder.encode_queries(queries)
    else:
        vectors, asked = embedding.embed_codes(codes, [""] * len(codes)), embedding.embed_queries(queries)
    order = np.argsort(-(asked @ vectors.T), axis=1, kind="stable")[:, : max(DEPTHS)]
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
    measured: dict[str, Any] = {
        "queries": len(queries),
        "encoder": metrics(first_stage, relevant),
        "seconds": round(seconds / len(queries), 3),
    }
    for depth in DEPTHS:
        log_odds, labels = scores[:, :depth], relevant[:, :depth]
        for name, reranked in (("reranked", log_odds), ("fused", cross_fitted(log_odds, labels))):
            below = reranked.min() - 1 + first_stage[:, depth:]  # hits behind those reranked keep their order
            measured[f"{name}, K={depth}"] = metrics(np.hstack([reranked, below]), relevant)
    return measured


def metrics(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> dict[str, float]:
    """Return MRR and R@1 of hits by their scores, both ``(queries, hits)``."""
    ranks = [pessimistic_rank(row, np.flatnonzero(hits).tolist()) for row, hits in zip(scores, relevant, strict=True)]
    return {"mrr": mean_reciprocal_rank(ranks), "r@1": statistics.fmean(rank == 1 for rank in ranks)}


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Return the table in Markdown: mean MRR over seeds, and the half width of the 95 % interval of the mean."""
    names = sorted({name for run in runs.values() for name in run["scores"]})
    columns = ["encoder", *(f"{what}, K={depth}" for depth in DEPTHS for what in ("reranked", "fused"))]
    lines = [
        "| set | variant | MiB of both | minutes | " + " | ".join(columns) + " |",
        "|---|---|---|---|" + "---|" * 5,
    ]
    for name in names:
        for variant in VARIANTS:
            own = [run for key, run in runs.items() if key.rpartition("-")[0] == variant and name in run["scores"]]
            if own:
                cells = [_cell([run["scores"][name][column]["mrr"] for run in own]) for column in columns]
                mib, minutes = (statistics.fmean(run[key] for run in own) for key in ("both_in_memory_mib", "minutes"))
                seeds = "1 seed" if len(own) == 1 else f"{len(own)} seeds"
                lines.append(
                    f"| {name} | {variant} ({seeds}) | {mib:.0f} | {minutes:.0f} | " + " | ".join(cells) + " |"
                )
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    text = f"{statistics.fmean(values):.3f}"
    return text + (
        f" ± {T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) in T_95 else ""
    )


def main() -> None:
    """Do the runs that the result file lacks, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="+", default=["cosqa"], help="what to train on (default: cosqa)")
    parser.add_argument("--adapter", default="embedded-general", help="of the embedding (default: %(default)s)")
    parser.add_argument("--unmerged", action="store_true", help="compute that adapter beside the base's weights")
    parser.add_argument("--steps", type=int, default=100, help="of 16 queries each (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, help="of a pair (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=200, help="of each set, at most (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--cache", help="folder of an embedding cache")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(one(options)))
        return
    runs = json.loads(options.result.read_text()) if options.result.is_file() else {}
    for variant, seed in ((variant, seed) for seed in range(options.seeds) for variant in options.variants):
        if f"{variant}-{seed}" not in runs:
            print(f"{variant}, seed {seed}", file=sys.stderr)
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant, "--seed", str(seed)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[f"{variant}-{seed}"] = json.loads(done.stdout.splitlines()[-1])
            write_atomically(options.result, json.dumps(runs, indent=1) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
