"""Adapter methods at one small training budget: scores of the base, and of five methods after training, with intervals.

Each method is trained with several seeds, each run in a process of its own that is saved in the result file as soon as
it is done; a second call does the runs that are missing. The scores are MRR, Recall@1 and Recall@10 on CoSQA dev, on
MBXP dev in each language, and on the pairs of held-out repositories. The pools are smaller than the data sets unless
--whole-pools is given: CoSQA's are the codes of its dev queries and --others more, MBXP's are the solutions of its dev
tasks. With the defaults it takes about 2 hours on two cores:

    CODE_RETRIEVAL_DATA=… python benchmarks/adapters.py [--pairs cosqa FILE …] [--held-out FILE] [--steps 30]
    CODE_RETRIEVAL_DATA=… python benchmarks/adapters.py --adapter NAME [--model embedded]    # only score an adapter
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from dataclasses import replace
from typing import Any, get_args

from report import add_result_option, environment, mean_with_interval
from runs import Runs, complete_runs, runs_of, seeds

from llamaindex_code_retrieval import Encoder
from llamaindex_code_retrieval.eval import Benchmark, benchmark_of, data_folder, load_beir
from llamaindex_code_retrieval.models.catalog import EMBEDDED, NO_ADAPTER
from llamaindex_code_retrieval.training.config import Method

METHODS: tuple[Method, ...] = get_args(Method)
SETS = ("cosqa", "mbxp_nl")
METRICS = ("mrr", "r@1", "r@10")
SETTINGS = ("pairs", "held_out", "steps", "epochs", "sets", "others", "whole_pools")
"""Options that all runs of one result file have in common."""


def benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """Return the benchmarks that the options name: CoSQA dev, MBXP dev by language, the held-out repositories."""
    chosen: list[Benchmark] = []
    cosqa, mbxp = (data_folder(name) if name in options.sets else None for name in SETS)
    if cosqa is not None:
        dev = load_beir(cosqa, split="dev")
        chosen.append(dev if options.whole_pools else _with_smaller_pool(dev, others=options.others))
    if mbxp is not None:
        for split in sorted(path.stem for path in (mbxp / "qrels").glob("dev-*.tsv")):
            part = load_beir(mbxp, split=split)
            language = split.removeprefix("dev-")
            codes = {code: text for code, text in part.corpus.items() if part.languages.get(code) == language}
            part = replace(part, name=f"mbxp {split}", corpus=codes, languages={})
            chosen.append(part if options.whole_pools else _with_smaller_pool(part, others=0))
    if options.held_out is not None:
        from llamaindex_code_retrieval.training.pairs import read_pairs

        pairs = [(pair.query, pair.code) for pair in read_pairs(options.held_out)]
        chosen.append(benchmark_of("held-out repositories", pairs))
    if not chosen:
        raise SystemExit(
            "there is nothing to score on; set CODE_RETRIEVAL_DATA to the folder of the sets, or --held-out"
        )
    return chosen


def _with_smaller_pool(benchmark: Benchmark, *, others: int) -> Benchmark:
    """Return the benchmark with the relevant codes and ``others`` more, drawn at random."""
    relevant = {code for judged in benchmark.qrels.values() for code, score in judged.items() if score > 0}
    rest = sorted(benchmark.corpus.keys() - relevant)
    kept = relevant | set(random.Random(0).sample(rest, min(others, len(rest))))
    corpus = {code: text for code, text in benchmark.corpus.items() if code in kept}
    qrels = {query: {c: s for c, s in judged.items() if c in kept} for query, judged in benchmark.qrels.items()}
    return replace(benchmark, corpus=corpus, qrels=qrels, languages={})


def scores(encoder: Encoder, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return metrics by benchmark; ``mbxp dev`` is the mean over the languages of MBXP."""
    from llamaindex_code_retrieval.training.validation import score

    results: dict[str, dict[str, float]] = {}
    for benchmark in benchmarks(options):
        results[benchmark.name] = score(encoder, benchmark)
        print(benchmark.name, results[benchmark.name], file=sys.stderr, flush=True)
    mbxp = [values for name, values in results.items() if name.startswith("mbxp")]
    if mbxp:
        results["mbxp dev"] = {metric: statistics.fmean(values[metric] for values in mbxp) for metric in mbxp[0]}
    return results


def train_and_score(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train an adapter on random pairs and score it; the method ``none`` is the base alone."""
    base = Encoder.from_pretrained("embedded", precision="fp32")
    if method == "none":
        return {"scores": scores(base, options)}
    from llamaindex_code_retrieval.training import load_pairs, load_recipe
    from llamaindex_code_retrieval.training.adapters import attach_adapter
    from llamaindex_code_retrieval.training.contrastive import fit_adapter
    from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters

    recipe = load_recipe("general", method=method)  # type: ignore[arg-type]
    config = recipe.train.replace(seed=options.seed, epochs=options.epochs)
    pairs = random.Random(options.seed).sample(load_pairs(*options.pairs), options.steps * config.batch_size)
    encoder = Encoder.from_pretrained("embedded", precision="fp32", max_query_tokens=64, max_code_tokens=128)
    clusters = near_duplicate_clusters([pair.code for pair in pairs])
    model = attach_adapter(encoder, recipe.adapter, total_steps=config.total_steps(len(pairs)), seed=config.seed)
    run = fit_adapter(model, pairs, recipe.adapter, config, clusters=clusters)
    trained = base.with_backbone(lambda _: run.model.backbone)  # with the token limits of the base
    return {
        "share": run.trained_parameters / run.base_parameters,
        "minutes": run.seconds / 60,
        "peak_mib": run.peak_bytes / 2**20,
        "steps": run.steps,
        "scores": scores(trained, options),
    }


def table(runs: Runs) -> str:
    """Return a table in Markdown: means over seeds, and half the 95 % interval of the mean MRR."""
    before = runs["none-0"]["scores"]
    names = [name for name in ("cosqa/dev", "mbxp dev", "held-out repositories") if name in before]
    lines = [
        "| method | trained | minutes | peak MiB | " + " | ".join(f"{name}: MRR, R@1, R@10" for name in names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
        "| none | | | | " + " | ".join(_cell([before[name]]) for name in names) + " |",
    ]
    for method in METHODS:
        if repeated := runs_of(runs, method):
            minutes, mib = (statistics.fmean(run[key] for run in repeated) for key in ("minutes", "peak_mib"))
            cells = [_cell([run["scores"][name] for run in repeated]) for name in names]
            first = f"| {method} ({seeds(len(repeated))}) | {repeated[0]['share']:.2%} | {minutes:.1f} | {mib:.0f} | "
            lines.append(first + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_language(runs: Runs) -> str:
    """Return a table of the MRR in each language of MBXP, means over seeds; empty where MBXP was not scored."""
    languages = [name for name in runs["none-0"]["scores"] if name.startswith("mbxp dev-")]
    if not languages:
        return ""
    lines = [
        "| method | " + " | ".join(name.removeprefix("mbxp dev-") for name in languages) + " |",
        "|---|" + "---|" * len(languages),
    ]
    for method in ("none", *METHODS):
        if repeated := runs_of(runs, method):
            means = (statistics.fmean(run["scores"][name]["mrr"] for run in repeated) for name in languages)
            lines.append(f"| {method} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)


def _cell(by_seed: list[dict[str, float]]) -> str:
    means = (f"{statistics.fmean(scores[name] for scores in by_seed):.3f}" for name in METRICS[1:])
    return ", ".join([mean_with_interval([scores[METRICS[0]] for scores in by_seed]), *means])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=["cosqa"], help="training pairs (default: cosqa)")
    parser.add_argument("--held-out", metavar="FILE", help="mined pairs of repositories that are not in --pairs")
    parser.add_argument("--steps", type=int, default=30, help="batches of distinct pairs (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over these pairs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="methods (default: all)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="sets to score on (default: both)")
    parser.add_argument(
        "--others", type=int, default=500, help="CoSQA codes that answer no query (default: %(default)s)"
    )
    parser.add_argument("--whole-pools", action="store_true", help="rank all codes of a set; --others has no effect")
    parser.add_argument("--adapter", help="only score this adapter, or none; print its scores and write no file")
    parser.add_argument("--model", default=EMBEDDED, help="base of --adapter (default: %(default)s)")
    parser.add_argument("--run", choices=("none", *METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.run:
        print(json.dumps(train_and_score(options.run, options)))
        return
    if options.adapter:
        adapter = None if options.adapter == NO_ADAPTER else options.adapter
        encoder = Encoder.from_pretrained(options.model, precision="auto", adapter=adapter)
        named = {"model": options.model, "adapter": options.adapter, "precision": encoder.precision}
        print(json.dumps({**environment(), **named, "scores": scores(encoder, options)}, indent=1))
        return
    runs = complete_runs(
        __file__,
        options.result,
        [("none", 0), *((method, seed) for seed in range(options.seeds) for method in options.methods)],
        arguments=sys.argv[1:],
        settings=json.loads(json.dumps({name: getattr(options, name) for name in SETTINGS})),
    )
    print(table(runs), by_language(runs), sep="\n\n")


if __name__ == "__main__":
    main()
