"""The commands ``train`` and ``recipes``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import json_option
from llamaindex_code_retrieval.cli.training_options import (
    add_data_options,
    add_method_option,
    add_training_options,
    check_push,
    push_and_describe,
    read_adapter_recipe,
    read_settings,
    training_rows,
)

if TYPE_CHECKING:
    from llamaindex_code_retrieval.training import TrainingRun


def add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``train``."""
    parser = commands.add_parser("train", help="train an adapter, or all weights, of a base model on pairs")
    add_data_options(parser, model="adapter")
    add_method_option(parser)
    parser.add_argument(
        "--start",
        metavar="ADAPTER",
        help="adapter whose weights the training starts from: a name from `code-retrieval models`, hub name or folder "
        "(default: none, a new adapter)",
    )
    add_training_options(parser, recipe_default="none, the defaults of --method")
    parser.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> int:
    """Train an adapter and print its record."""
    from llamaindex_code_retrieval.training import load_pairs, train_adapter
    from llamaindex_code_retrieval.training.processes import is_main_process

    check_push(options)
    recipe = read_adapter_recipe(options, read_settings(options))
    with progress_bars() as progress:
        run = train_adapter(
            load_pairs(*options.pairs),
            options.out,
            recipe=recipe,
            validation_pairs=load_pairs(*options.validate),
            start=options.start,
            device=options.device,
            resume=options.resume,
            sources=options.pairs,
            on_progress=progress,
        )
    if is_main_process():
        record = push_and_describe(run, options)
        if options.json:
            print_json(record)
        else:
            print_adapter(run, record)
    return 0


def print_adapter(run: TrainingRun[Any], record: dict[str, Any]) -> None:
    """Print the table of a trained adapter, with its scores before and after."""
    from llamaindex_code_retrieval.training.model_card import validation_note

    rows = [("method", record["adapter"]["method"]), *training_rows(record)]
    if run.before is not None and run.after is not None:
        rows += [(f"held-out {name}", f"{value:.4f} -> {run.after[name]:.4f}") for name, value in run.before.items()]
        rows.append(("validation", validation_note(record)))
    rows.append(("fingerprint", run.fingerprint))
    print_table(f"Adapter {run.folder}", rows)


def add_recipes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``recipes``."""
    parser = commands.add_parser("recipes", help="list the training recipes that come with the package")
    add_method_option(parser)
    json_option(parser)
    parser.set_defaults(run=run_recipes)


def run_recipes(options: argparse.Namespace) -> int:
    """Print the recipes, those of adapters for ``--method``."""
    from llamaindex_code_retrieval.training.recipes import all_recipes

    recipes = {name: recipe.model_dump() for name, recipe in all_recipes(options.method).items()}
    if options.json:
        print_json(recipes)
        return 0
    rows = []
    for name, recipe in recipes.items():
        train, languages = recipe["train"], ", ".join(recipe["languages"]) or "all"
        cells = (recipe["adapter"]["method"], languages, train["epochs"], train["batch_size"], train["learning_rate"])
        rows.append((name, *map(str, cells)))
    numeric = ("epochs", "batch", "learning rate")
    headings = ("name", "method", "languages", *numeric)
    print_table("Recipes; `code-retrieval recipes --json` shows all settings", rows, headings=headings, numeric=numeric)
    return 0
