"""The command ``train-reranker``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import cache_folder, cache_option
from llamaindex_code_retrieval.cli.training_options import (
    add_data_options,
    add_training_options,
    check_push,
    push_and_describe,
    read_settings,
    training_rows,
)

if TYPE_CHECKING:
    from llamaindex_code_retrieval.training.recipes import RerankerRecipe


def add_train_reranker(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``train-reranker``."""
    parser = commands.add_parser("train-reranker", help="train a reranker (a cross-encoder) on pairs and calibrate it")
    add_data_options(parser, model="reranker")
    parser.add_argument(
        "--variant",
        choices=("adapters", "separate", "shared"),
        help="adapters: an adapter and a head on the frozen base of the embedding model; separate: a base of its own; "
        "shared: one base trained to embed and to rerank (default: the recipe's variant, else adapters)",
    )
    parser.add_argument(
        "--retriever",
        metavar="ADAPTER",
        help="adapter of the first stage, whose hits are the negatives: a name, hub name or folder, or none for the "
        "bare base (default: the package's adapter for the base)",
    )
    parser.add_argument(
        "--start",
        metavar="RERANKER",
        help="reranker whose weights the training starts from, such as embedded-reranker (default: none, a new one)",
    )
    parser.add_argument(
        "--among",
        nargs="+",
        default=[],
        metavar="PATH",
        help="folders with source code whose imports, constants and class headers become negatives (default: none)",
    )
    add_training_options(parser, recipe_default="the one of --variant")
    cache_option(parser)
    parser.set_defaults(run=run_train_reranker)


def run_train_reranker(options: argparse.Namespace) -> int:
    """Train a reranker and print its record."""
    from llamaindex_code_retrieval.training import load_pairs, train_reranker

    check_push(options)
    recipe = _recipe(options)
    with progress_bars() as progress:
        run = train_reranker(
            load_pairs(*options.pairs),
            options.out,
            recipe=recipe,
            validation_pairs=load_pairs(*options.validate),
            start=options.start,
            distractor_folders=options.among,
            device=options.device,
            cache_folder=cache_folder(options),
            resume=options.resume,
            sources=options.pairs,
            on_progress=progress,
        )
    record = push_and_describe(run, options)
    if options.json:
        print_json(record)
    else:
        _print_reranker(record)
    return 0


def _recipe(options: argparse.Namespace) -> RerankerRecipe:
    from llamaindex_code_retrieval.training import load_reranker_recipe

    recipe = load_reranker_recipe(options.recipe or options.variant or "adapters")
    if options.variant is not None and options.variant != recipe.train.variant:
        raise ValueError(
            f"the recipe {options.recipe} is for the variant {recipe.train.variant!r}; leave out --variant"
        )
    return recipe.with_settings(read_settings(options, retriever=options.retriever))


def _print_reranker(record: dict[str, Any]) -> None:
    rows = [("variant", f"{record['train']['variant']}, {record['adapter']['method']}"), *training_rows(record)]
    for name, scores in record["calibration_scores"].items():
        rows.append((name, f"MRR {scores['mrr']:.4f}, R@1 {scores['r@1']:.4f}"))
    rows.append(("calibration error", f"{record['calibration']['error']}"))
    rows.append(("fingerprint", record["fingerprint"]))
    print_table(f"Reranker {record['folder']}", rows)
