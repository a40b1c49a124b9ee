"""The command ``pretrain``."""

from __future__ import annotations

import argparse

from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.training_options import (
    add_method_option,
    add_training_options,
    read_settings,
    split_method,
    training_rows,
)


def add_pretrain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``pretrain``."""
    parser = commands.add_parser(
        "pretrain", help="pretrain a base on source code alone, by masked tokens and names; the first of two stages"
    )
    parser.add_argument("sources", nargs="+", metavar="PATH", help="folder with source code")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the pretrained adapter or base")
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run in --out")
    add_method_option(parser, methods=("lora", "full"))
    parser.add_argument(
        "--start",
        metavar="ADAPTER",
        help="adapter whose weights the pretraining starts from: a name from `code-retrieval models`, hub name or "
        "folder (default: none, a new adapter)",
    )
    add_training_options(parser, recipe_default="none, the defaults of --method", examples="texts")
    parser.set_defaults(run=run_pretrain)


def run_pretrain(options: argparse.Namespace) -> int:
    """Pretrain a base and print its record."""
    from llamaindex_code_retrieval.training import pretrain
    from llamaindex_code_retrieval.training.model_card import validation_note
    from llamaindex_code_retrieval.training.recipes import load_pretrain_recipe

    method, settings = split_method(options, read_settings(options))
    recipe = load_pretrain_recipe(options.recipe, method=method).with_settings(settings)
    with progress_bars() as progress:
        run = pretrain(
            options.sources,
            options.out,
            recipe=recipe,
            start=options.start,
            device=options.device,
            resume=options.resume,
            on_progress=progress,
        )
    record = {**run.record, "folder": str(run.folder)}
    if options.json:
        print_json(record)
        return 0
    rows = [("method", record["adapter"]["method"]), *training_rows(record)]
    if run.before is not None and run.after is not None:
        scores = run.before.items()
        rows += [
            (f"held-out {name.replace('_', ' ')}", f"{value:.4f} -> {run.after[name]:.4f}") for name, value in scores
        ]
        rows.append(("validation", validation_note(record)))
    option = "--base" if record["adapter"]["method"] == "full" else f"--base {recipe.base} --start"
    rows.append(("next", f"code-retrieval train {option} {run.folder} --pairs FILE --out DIR"))
    print_table(f"Pretrained {run.folder}", rows)
    return 0
