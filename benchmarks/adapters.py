"""The README's table of methods: one base, five methods, some seeds; scores before and after, with intervals.

Each run is a process of its own and is kept in the result file as soon as it is done; a second call does what is
missing. Pools are whole only with --whole-pools: otherwise CoSQA's is the codes of its dev queries and --others
more, and MBXP's the solutions of its dev tasks.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.eval import Benchmark, benchmark_of, data_folder, load_beir
from llamaindex_code_retrieval.models.encoder import Encoder

METHODS = ("lora", "adalora", "ia3", "prompt", "full")
RESULT = Path(__file__).with_suffix(".json")
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by number of seeds


def benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """Return CoSQA dev, MBXP dev in each language, and the pairs of the held-out repositories, as far as wanted."""
    found = []
    held_out, whole_pools = options.held_out, options.whole_pools
    cosqa, mbxp = (data_folder(name) if name in options.sets else None for name in ("cosqa", "mbxp_nl"))
    if cosqa is not None:
        found.append(load_beir(cosqa, split="dev"))
        if not whole_pools:
            found[-1] = _reduced(found[-1], others=options.others)
    if mbxp is not None:
        for split in sorted(path.stem for path in (mbxp / "qrels").glob("dev-*.tsv")):
            part = load_beir(mbxp, split=split)
            language = split.removeprefix("dev-")
            own = {code: text for code, text in part.corpus.items() if part.languages.get(code) == language}
            part = replace(part, name=f"mbxp {split}", corpus=own, languages={})
            found.append(part if whole_pools else _reduced(part, others=0))
    if held_out is not None:
        from llamaindex_code_retrieval.training.pairs import read_pairs

        pairs = [(pair.query, pair.code) for pair in read_pairs(held_out)]
        found.append(benchmark_of("held-out repositories", pairs))
    return found


def _reduced(benchmark: Benchmark, *, others: int) -> Benchmark:
    relevant = {code for judged in benchmark.qrels.values() for code, score in judged.items() if score > 0}
    rest = sorted(benchmark.corpus.keys() - relevant)
    kept = relevant | set(random.Random(0).sample(rest, min(others, len(rest))))
    corpus = {code: text for code, text in benchmark.corpus.items() if code in kept}
    qrels = {query: {c: s for c, s in judged.items() if c in kept} for query, judged in benchmark.qrels.items()}
    return replace(benchmark, corpus=corpus, qrels=qrels, languages={})


def scores(encoder: Encoder, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return metric by benchmark; MBXP's languages are averaged as ``mbxp dev`` too."""
    from llamaindex_code_retrieval.training.adapt import score

    results: dict[str, dict[str, float]] = {}
    for benchmark in benchmarks(options):
        results[benchmark.name] = score(encoder, benchmark)
        print(benchmark.name, results[benchmark.name], file=sys.stderr, flush=True)
    mbxp = [values for name, values in results.items() if name.startswith("mbxp")]
    if mbxp:
        results["mbxp dev"] = {metric: statistics.fmean(values[metric] for values in mbxp) for metric in mbxp[0]}
    return results


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Train once and score."""
    base = Encoder.from_pretrained("embedded", precision="fp32")
    if options.method == "none":
        return {"scores": scores(base, options)}
    if options.method == "adapter":
        return {"scores": scores(base.with_adapter(options.adapter), options)}
    from llamaindex_code_retrieval.training.adapters import attach_adapter
    from llamaindex_code_retrieval.training.contrastive import fit_adapter
    from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
    from llamaindex_code_retrieval.training.pair_sources import load_pairs
    from llamaindex_code_retrieval.training.recipes import load_recipe

    pairs = load_pairs(*options.pairs)
    recipe = load_recipe("general", method=options.method)
    config = recipe.train.replace(seed=options.seed)
    pairs = random.Random(options.seed).sample(pairs, options.steps * config.batch_size)
    encoder = Encoder.from_pretrained("embedded", precision="fp32", max_query_tokens=64, max_code_tokens=128)
    clusters = near_duplicate_clusters([pair.code for pair in pairs])
    config = config.replace(epochs=options.epochs)
    model = attach_adapter(encoder, recipe.adapter, total_steps=config.total_steps(len(pairs)), seed=config.seed)
    result = fit_adapter(model, pairs, recipe.adapter, config, clusters=clusters)
    return {
        "share": result.trained_parameters / result.base_parameters,
        "minutes": result.seconds / 60,
        "peak_mib": result.peak_bytes / 2**20,
        "steps": result.steps,
        "scores": scores(
            base.with_backbone(lambda _: result.model.backbone), options
        ),  # under the base's own token limits
    }


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Return the table in Markdown: means over seeds, and the half width of the 95 % interval of the mean."""
    before = runs["none-0"]["scores"]
    names = [name for name in ("cosqa/dev", "mbxp dev", "held-out repositories") if name in before]
    lines = [
        "| method | trained | minutes | peak MiB | " + " | ".join(f"{name}: MRR, R@1, R@10" for name in names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
        "| none | | | | " + " | ".join(_cell([before[name]]) for name in names) + " |",
    ]
    for method in METHODS:
        own = [run for key, run in runs.items() if key.rpartition("-")[0] == method]
        if own:
            seeds = "1 seed" if len(own) == 1 else f"{len(own)} seeds"
            lines.append(
                f"| {method} ({seeds}) | {own[0]['share']:.2%} | {_mean(own, 'minutes'):.1f} | "
                f"{_mean(own, 'peak_mib'):.0f} | "
                + " | ".join(_cell([run["scores"][name] for run in own]) for name in names)
                + " |"
            )
    return "\n".join(lines)


def by_language(runs: dict[str, dict[str, Any]]) -> str:
    """Return a table of the MRR in each language of MBXP, means over seeds; empty where MBXP was not scored."""
    languages = [name for name in runs["none-0"]["scores"] if name.startswith("mbxp dev-")]
    if not languages:
        return ""
    lines = [
        "| method | " + " | ".join(name.removeprefix("mbxp dev-") for name in languages) + " |",
        "|---|" + "---|" * len(languages),
    ]
    for method in ("none", *METHODS):
        own = [run["scores"] for key, run in runs.items() if key.rpartition("-")[0] == method]
        if own:
            means = (statistics.fmean(scores[name]["mrr"] for scores in own) for name in languages)
            lines.append(f"| {method} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.fmean(run[key] for run in runs)


def _cell(seeds: list[dict[str, float]]) -> str:
    mrr = [each["mrr"] for each in seeds]
    text = f"{statistics.fmean(mrr):.3f}"
    if len(mrr) in T_95:
        text += f" ± {T_95[len(mrr)] * statistics.stdev(mrr) / len(mrr) ** 0.5:.3f}"
    return ", ".join([text, *(f"{statistics.fmean(each[name] for each in seeds):.3f}" for name in ("r@1", "r@10"))])


def main() -> None:
    """Do the runs that the result file lacks, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="+", default=["cosqa"], help="what to train on (default: cosqa)")
    parser.add_argument("--held-out", metavar="JSONL", help="mined pairs of repositories that --pairs lacks")
    parser.add_argument("--steps", type=int, default=30, help="batches of distinct pairs (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0, help="over these pairs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--sets", nargs="+", default=["cosqa", "mbxp_nl"], help="to score on (default: both)")
    parser.add_argument(
        "--others", type=int, default=500, help="CoSQA codes that answer no query (default: %(default)s)"
    )
    parser.add_argument("--whole-pools", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--adapter", help="only score this adapter")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.adapter and not options.method:
        options.method = "adapter"
    if options.method:
        print(json.dumps(one(options)))
        return
    runs = json.loads(options.result.read_text()) if options.result.is_file() else {}
    wanted = [("none", 0), *((method, seed) for seed in range(options.seeds) for method in options.methods)]
    for method, seed in wanted:
        if f"{method}-{seed}" not in runs:
            print(f"{method}, seed {seed}", file=sys.stderr)
            command = [sys.executable, __file__, *sys.argv[1:], "--method", method, "--seed", str(seed)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[f"{method}-{seed}"] = json.loads(done.stdout.splitlines()[-1])
            write_atomically(options.result, json.dumps(runs, indent=1) + "\n")
    print(table(runs), by_language(runs), sep="\n\n")


if __name__ == "__main__":
    main()
