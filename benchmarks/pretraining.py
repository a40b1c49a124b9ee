"""CodeSage's two stages at equal compute: contrastive alone, or after masked tokens, masked names, or both.

Each variant trains a LoRA adapter on the embedded base for --seconds: with a first stage half of them for each stage.
It is trained with and without hard positives and weighted negatives ("+hard"). Runs are saved in the result file as
soon as they are done, each from a process of its own; a second call does the runs that are missing. The scores:

- MRR on CoSQA dev (with 500 more codes), on MBXP dev and on the pairs of held-out repositories, as adapters.py has it;
- code to code: MRR of the solutions of the same MBXP dev task in another language, over all pairs of languages;
- two probes with the body frozen, by logistic regression on vectors of MBXP, trained on its training tasks and tested
  on its dev tasks: accuracy of the language of a solution, and of whether two solutions are of one task.

With the defaults it takes about an hour on two cores:

    CODE_RETRIEVAL_DATA=… python benchmarks/pretraining.py CODE… --pairs FILE… [--held-out FILE] [--seconds 100]

CODE are folders with source code for the first stage, without the repositories that are held out. With --case FOLDER, a
checkout with Python code, `adapt` learns from it with nine tenths of its doc comments removed, with and without a first
stage, and is asked with the removed ones:

    python benchmarks/pretraining.py --case FOLDER [--minutes 5]
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapters import scores
from numpy.typing import NDArray
from report import add_result_option, environment, mean_with_interval, write_figures
from runs import Runs, complete_runs, runs_of, seeds

from llamaindex_code_retrieval import Encoder
from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.eval import data_folder, load_beir
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.training.config import AdapterConfig, PretrainConfig, TrainConfig

FIRST_STAGES = {"none": None, "tokens": 0.0, "names": 1.0, "both": 0.5}
"""First stage -> share of its batches that mask names."""
HARD = "+hard"
VARIANTS = [f"{first}{hard}" for hard in ("", HARD) for first in FIRST_STAGES]
SETTINGS = ("pairs", "code", "held_out", "seconds", "texts")
"""Options that all runs of one result file have in common, by the last part of a path."""
ADAPTER = AdapterConfig(rank=16)
RATE = 7e-4
COLUMNS = ("cosqa/dev", "mbxp dev", "held-out repositories", "code to code", "language", "same task")
_PROBE_TASKS = 150  # training tasks of the probes
_CASE_COLUMNS = ("start", "adapt", "adapt --pretrain")
_CASE_KEPT = 10  # one doc comment in so many stays


def train_and_score(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a variant and score it; ``base`` is the base alone."""
    base = Encoder.from_pretrained("embedded", precision="fp32")
    if variant == "base":
        return {"scores": all_scores(base, options)}
    from llamaindex_code_retrieval.training import load_pairs
    from llamaindex_code_retrieval.training.adapters import attach_adapter
    from llamaindex_code_retrieval.training.contrastive import fit_adapter
    from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
    from llamaindex_code_retrieval.training.pretraining import pretrain_in_place, read_texts

    first = variant.removesuffix(HARD)
    encoder = Encoder.from_pretrained("embedded", precision="fp32", max_query_tokens=64, max_code_tokens=128)
    model = attach_adapter(encoder, ADAPTER, seed=options.seed)
    figures: dict[str, Any] = {}
    seconds = options.seconds
    if (names := FIRST_STAGES[first]) is not None:
        texts = read_texts(options.code, encoder)
        texts = random.Random(options.seed).sample(texts, min(options.texts, len(texts)))
        seconds /= 2
        config = PretrainConfig(
            epochs=50, name_batches=names, max_seconds=seconds, seed=options.seed, validate_steps=10**6
        )
        record = pretrain_in_place(model, texts, ADAPTER, config)
        figures["pretraining"] = {name: record[name] for name in ("texts", "steps", "seconds", "accuracy")}
    train = TrainConfig(epochs=50, learning_rate=RATE, max_seconds=seconds, seed=options.seed)
    if variant.endswith(HARD):
        train = train.replace(hard_positives=0.5, hardness=1 / train.temperature)
    pairs = [pair for pair in load_pairs(*options.pairs) if pair.kind in ("doc", "other")]
    pairs = random.Random(options.seed).sample(pairs, min(options.texts, len(pairs)))
    clusters = near_duplicate_clusters([pair.code for pair in pairs])
    run = fit_adapter(model, pairs, ADAPTER, train, clusters=clusters)
    trained = base.with_backbone(lambda _: run.model.backbone)  # with the token limits of the base
    return {**figures, "steps": run.steps, "seconds": round(run.seconds, 1), "scores": all_scores(trained, options)}


def all_scores(encoder: Encoder, options: argparse.Namespace) -> dict[str, float]:
    """Return the score of each column that can be measured."""
    retrieval = scores(encoder, options)
    found = {name: retrieval[name]["mrr"] for name in COLUMNS if name in retrieval}
    if (folder := data_folder("mbxp_nl")) is not None:
        dev, train = (solutions(folder, split) for split in ("dev", "train"))
        found["code to code"] = code_to_code(encoder, dev)
        tasks = sorted(train)[:_PROBE_TASKS]
        found |= probes(encoder, {task: train[task] for task in tasks}, dev)
    return {name: round(value, 4) for name, value in found.items()}


def solutions(folder: Path, split: str) -> dict[str, dict[str, str]]:
    """Return the solutions of each task of MBXP: task -> language -> code."""
    benchmark = load_beir(folder, split=split)
    return {
        query: {
            benchmark.languages[code]: benchmark.corpus[code] for code, relevance in judged.items() if relevance > 0
        }
        for query, judged in benchmark.qrels.items()
    }


def code_to_code(encoder: Encoder, tasks: Mapping[str, Mapping[str, str]]) -> float:
    """Return the mean MRR over all ordered pairs of languages; the corpus are the solutions in the second language."""
    vectors = _vectors(encoder, tasks)
    languages = sorted({language for _, language in vectors})
    means = []
    for first in languages:
        for second in languages:
            both = [task for task in tasks if (task, first) in vectors and (task, second) in vectors]
            if first == second or len(both) < 2:
                continue
            corpus = [task for task in tasks if (task, second) in vectors]
            cosines = (
                np.stack([vectors[task, first] for task in both])
                @ np.stack([vectors[task, second] for task in corpus]).T
            )  # (queries, corpus)
            answers = cosines[np.arange(len(both)), [corpus.index(task) for task in both]]
            ranks = (cosines > answers[:, None]).sum(1) + 1
            means.append(float((1 / ranks).mean()))
    return statistics.fmean(means)


def probes(
    encoder: Encoder, train: Mapping[str, Mapping[str, str]], test: Mapping[str, Mapping[str, str]]
) -> dict[str, float]:
    """Return the accuracy of two linear probes on vectors: the language, and whether two solutions are of one task."""
    known, unknown = _vectors(encoder, train), _vectors(encoder, test)
    languages = sorted({language for _, language in known})
    labels = [[languages.index(language) for _, language in each] for each in (known, unknown)]
    features = [np.stack(list(each.values())) for each in (known, unknown)]
    language = _probe(features[0], labels[0], features[1], labels[1])
    first, second = _same_task(known), _same_task(unknown)
    return {"language": language, "same task": _probe(*first, *second)}


def _same_task(vectors: Mapping[tuple[str, str], NDArray[np.float32]]) -> tuple[NDArray[np.float32], list[int]]:
    """Return features of pairs of solutions in two languages, half of them of one task."""
    rng = random.Random(0)
    by_task: dict[str, list[NDArray[np.float32]]] = {}
    for (task, _), vector in vectors.items():
        by_task.setdefault(task, []).append(vector)
    tasks = [task for task, found in by_task.items() if len(found) > 1]
    features, labels = [], []
    for task in tasks:
        first, second = rng.sample(by_task[task], 2)
        other = rng.choice(by_task[rng.choice([each for each in tasks if each != task])])
        features += [np.concatenate([abs(first - each), first * each]) for each in (second, other)]
        labels += [1, 0]
    return np.stack(features), labels


def _vectors(encoder: Encoder, tasks: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], NDArray[np.float32]]:
    keys = [(task, language) for task, found in tasks.items() for language in found]
    vectors = encoder.encode_codes([tasks[task][language] for task, language in keys])
    return dict(zip(keys, vectors, strict=True))


def _probe(
    train: NDArray[np.float32], train_labels: Sequence[int], test: NDArray[np.float32], test_labels: Sequence[int]
) -> float:
    """Return the accuracy on ``test`` of logistic regression with a small weight decay."""
    torch.manual_seed(0)
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    x, y = torch.from_numpy((train - mean) / deviation), torch.tensor(train_labels)
    layer = torch.nn.Linear(x.shape[1], max(train_labels) + 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(x), y) + 1e-2 * layer.weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted = layer(torch.from_numpy((test - mean) / deviation)).argmax(1)
    return float((predicted == torch.tensor(test_labels)).float().mean())


# --- one real case ----------------------------------------------------------------------------------------------------


def case(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Adapt to a checkout without nine tenths of its doc comments, and return the MRR of asking with these."""
    from llamaindex_code_retrieval.eval import benchmark_of
    from llamaindex_code_retrieval.training import adapt_to_repository
    from llamaindex_code_retrieval.training.recipes import Recipe
    from llamaindex_code_retrieval.training.validation import score

    results: dict[str, Any] = {"minutes": minutes}
    with tempfile.TemporaryDirectory() as name:
        stripped = Path(name) / folder.resolve().name
        shutil.copytree(folder, stripped, ignore=shutil.ignore_patterns(".git"))
        removed = strip_comments(stripped, seed=seed)
        benchmark = benchmark_of(folder.resolve().name, removed)
        results |= {"queries": len(benchmark.queries), "codes": len(benchmark.corpus)}
        recipe = Recipe().with_settings({"epochs": 10, "seed": seed})
        start = Encoder.from_pretrained("embedded", adapter="embedded-general", precision="fp32")
        results["start"] = score(start, benchmark)
        for variant in ("adapt", "adapt --pretrain"):
            began = time.perf_counter()
            pretraining = PretrainConfig(epochs=10) if "pretrain" in variant else None
            out = Path(name) / variant.replace(" ", "")
            run = adapt_to_repository([stripped], out, recipe=recipe, minutes=minutes, pretraining=pretraining)
            adapted = Encoder.from_pretrained("embedded", adapter=str(out), precision="fp32")
            results[variant] = {
                **score(adapted, benchmark),
                "pairs": run.record["data"]["pairs"],
                "steps": run.steps,
                "best_step": run.best_step,
                "seconds": round(time.perf_counter() - began, 1),
                "pretraining": run.record.get("pretraining"),
            }
    return results


def strip_comments(folder: Path, *, seed: int) -> list[tuple[str, str]]:
    """Remove nine tenths of the docstrings of functions under ``folder``; return them with the code of each function.

    Functions of files with a syntax error, and docstrings that share a line with code, stay as they are.
    """
    rng = random.Random(seed)
    removed: list[tuple[str, str]] = []
    for path in sorted(folder.rglob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        found = {each.name_line: each for each in definitions(source, "python") if each.kind != "class"}
        try:
            nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        except SyntaxError:
            continue
        lines = source.split("\n")
        for node in nodes:
            docstring, first = ast.get_docstring(node), node.body[0]
            definition = found.get(node.lineno)
            if not docstring or definition is None or len(docstring.split()) < 3 or rng.randrange(_CASE_KEPT) == 0:
                continue
            if len(node.body) == 1 or first.lineno == node.lineno or first.end_lineno is None:
                continue
            for row in range(first.lineno - 1, first.end_lineno):
                lines[row] = ""
            query = docstring.split("\n\n")[0].replace("\n", " ")
            removed.append((query, definition.code_without_docstring))
        path.write_text("\n".join(lines), encoding="utf-8")
    return removed


# --- tables -----------------------------------------------------------------------------------------------------------


def table(runs: Runs) -> str:
    """Return a table in Markdown: means over seeds, with half the 95 % interval of the mean."""
    names = [name for name in COLUMNS if name in runs["base-0"]["scores"]]
    lines = ["| trained | steps | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for variant in ("base", *VARIANTS):
        if repeated := runs_of(runs, variant):
            cells = [mean_with_interval([run["scores"][name] for run in repeated]) for name in names]
            count = "" if variant == "base" else f" ({seeds(len(repeated))})"
            lines.append(f"| {_label(variant)}{count} | {_steps(repeated)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def case_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the real cases: MRR of the removed comments by the start, and after each `adapt`."""
    lines = [
        "| repository | comments asked, functions | pairs left | minutes each | start | `adapt` | `adapt --pretrain` |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, each in runs.items():
        if key.startswith("case-"):
            cells = [key.removeprefix("case-"), f"{each['queries']:,}, {each['codes']:,}"]
            cells += [
                f"{each['adapt']['pairs']:,}",
                f"{each['minutes']:g}",
                *(f"{each[name]['mrr']:.3f}" for name in _CASE_COLUMNS),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _label(variant: str) -> str:
    first, hard = variant.removesuffix(HARD), ", hard" if variant.endswith(HARD) else ""
    stages = {"base": "nothing", "none": "pairs", "both": "tokens and names, then pairs"}
    return stages.get(first, f"{first}, then pairs") + hard


def _steps(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean numbers of steps of the stages."""
    if "steps" not in runs[0]:
        return ""
    second = round(statistics.fmean(run["steps"] for run in runs))
    if "pretraining" not in runs[0]:
        return str(second)
    return f"{round(statistics.fmean(run['pretraining']['steps'] for run in runs))} + {second}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", nargs="*", metavar="CODE", help="folders with source code for the first stage")
    parser.add_argument("--pairs", nargs="+", default=["cosqa"], help="training pairs (default: cosqa)")
    parser.add_argument("--held-out", metavar="FILE", help="mined pairs of repositories that are not in --pairs")
    parser.add_argument("--seconds", type=float, default=100.0, help="of training in a run (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=8000, help="most texts, and most pairs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--case", type=Path, metavar="FOLDER", help="only measure `adapt` on this checkout")
    parser.add_argument("--minutes", type=float, default=5.0, help="budget of each `adapt` (default: %(default)s)")
    parser.add_argument("--run", choices=("base", *VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.set_defaults(sets=("cosqa", "mbxp_nl"), others=500, whole_pools=False)  # for adapters.py
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.run:
        print(json.dumps(train_and_score(options.run, options)))
        return
    if options.case is not None:
        results = read_json(options.result, remedy="name another --result") if options.result.is_file() else {}
        found = {**environment(), **case(options.case, options.minutes, options.seed)}
        write_figures(options.result, {**results, f"case-{options.case.resolve().name}": found})
        print(json.dumps(found, indent=1))
        return
    if not options.code:
        raise SystemExit("name folders with source code for the first stage")
    names = {name: getattr(options, name) for name in SETTINGS}
    names |= {name: [Path(each).name for each in names[name]] for name in ("pairs", "code")}
    names["held_out"] = names["held_out"] and Path(names["held_out"]).name
    runs = complete_runs(
        __file__,
        options.result,
        [("base", 0), *((variant, seed) for seed in range(options.seeds) for variant in VARIANTS)],
        arguments=sys.argv[1:],
        settings=names,
    )
    print(table(runs))


if __name__ == "__main__":
    main()
