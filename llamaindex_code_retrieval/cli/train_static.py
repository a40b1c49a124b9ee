"""The command ``train-static``."""

from __future__ import annotations

import argparse

from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import json_option
from llamaindex_code_retrieval.cli.training_options import (
    add_data_options,
    check_push,
    push_and_describe,
    training_rows,
)
from llamaindex_code_retrieval.models.catalog import EMBEDDED


def add_train_static(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``train-static``."""
    parser = commands.add_parser(
        "train-static", help="train a static embedding model, a table that needs no transformer, on pairs"
    )
    add_data_options(parser, model="model")
    for name, kind, help_text in (
        ("base", str, f"model whose vectors of single tokens the table starts from (default: {EMBEDDED})"),
        ("dim", int, "length of a vector (default: 256)"),
        ("max-tokens", int, "tokens of a text, in training and by default in use (default: 128)"),
        ("held-out", float, "share of the pairs, by repository, that is held out without --validate (default: 0.05)"),
        ("epochs", float, "passes over the pairs (default: 4)"),
        ("batch-size", int, "pairs per step, at least 2 (default: 1024)"),
        ("learning-rate", float, "largest learning rate (default: 0.003)"),
        ("temperature", float, "cosines are divided by it in the loss (default: 0.05)"),
        ("seed", int, "seed of held-out pairs and batches (default: 0)"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar="MODEL" if kind is str else "N", help=help_text)
    json_option(parser)
    parser.set_defaults(run=run_train_static)


def run_train_static(options: argparse.Namespace) -> int:
    """Train a static model and print its record."""
    from llamaindex_code_retrieval.training import load_pairs
    from llamaindex_code_retrieval.training.config import StaticConfig
    from llamaindex_code_retrieval.training.model_card import validation_note
    from llamaindex_code_retrieval.training.static_model import train_static_model

    check_push(options)
    if options.validate and options.held_out is not None:
        raise ValueError("--held-out has no effect with --validate, whose pairs are held out; leave one out")
    settings = {name: getattr(options, name, None) for name in StaticConfig.model_fields}
    config = StaticConfig(**{name: value for name, value in settings.items() if value is not None})
    with progress_bars() as progress:
        run = train_static_model(
            load_pairs(*options.pairs),
            options.out,
            config=config,
            validation_pairs=load_pairs(*options.validate),
            resume=options.resume,
            sources=options.pairs,
            on_progress=progress,
        )
    record = push_and_describe(run, options)
    if options.json:
        print_json(record)
        return 0
    before, after = record["validation_before"], record["validation_best"]
    rows = training_rows(record)
    rows += [(f"held-out {name}", f"{value:.4f} -> {after[name]:.4f}") for name, value in before.items()]
    rows += [("validation", validation_note(record)), ("fingerprint", run.fingerprint)]
    print_table(f"Static model {run.folder}", rows)
    return 0
