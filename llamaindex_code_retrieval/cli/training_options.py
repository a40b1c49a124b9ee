"""Options, settings and publishing that ``train``, ``train-reranker``, ``distil`` and ``adapt`` share."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.options import common_options, refuse_without_effect
from llamaindex_code_retrieval.models.catalog import EMBEDDED

if TYPE_CHECKING:
    from llamaindex_code_retrieval.training import TrainingRun
    from llamaindex_code_retrieval.training.recipes import Recipe

_SETTINGS = ("base", "languages", "epochs", "batch_size", "learning_rate", "seed")
"""Settings of a recipe that have an option of their own in every command."""


def add_method_option(
    parser: argparse.ArgumentParser, *, methods: Sequence[str] = ("lora", "adalora", "ia3", "prompt", "full")
) -> None:
    """Add ``--method``; ``methods`` are those that the command takes, ``full`` last."""
    *adapters, last_adapter, _ = methods
    names = f"{', '.join(adapters)} or {last_adapter} train" if adapters else f"{last_adapter} trains"
    parser.add_argument(
        "--method",
        choices=tuple(methods),
        help=f"what is trained: {names} an adapter, full trains all weights; each has its own default settings and "
        "learning rate (default: the recipe's method, else lora)",
    )


def add_data_options(parser: argparse.ArgumentParser, *, model: str, pairs_required: bool = True) -> None:
    """Add where pairs are read, where the model is written, and where it is published."""
    parser.add_argument(
        "--pairs",
        nargs="+",
        required=pairs_required,
        default=[],
        metavar="SOURCE",
        help="pairs to train on: a .jsonl or .jsonl.gz file of `mine` or CodeSearchNet, a folder in BEIR's layout, the "
        "name of one in $CODE_RETRIEVAL_DATA, or hf:org/name",
    )
    parser.add_argument(
        "--validate",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="pairs for validation, as --pairs (default: hold out the share `held_out` of --pairs, by repository)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help=f"new folder for the {model}")
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run in --out")
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="upload the result to a private repository on the Hugging Face hub"
    )
    parser.add_argument("--public", action="store_true", help="make the repository of --push public")


def add_training_options(
    parser: argparse.ArgumentParser, *, recipe_default: str, examples: str = "pairs or queries"
) -> None:
    """Add the recipe, and options for its settings.

    ``recipe_default`` says which recipe is used by default, ``examples`` what a batch holds.
    """
    parser.add_argument(
        "--recipe",
        metavar="NAME|TOML",
        help="settings to start from: a name from `code-retrieval recipes`, or a TOML file (default: "
        f"{recipe_default})",
    )
    parser.add_argument(
        "--base", metavar="MODEL", help=f"base model: a known name, hub name or folder (default: {EMBEDDED})"
    )
    parser.add_argument(
        "--language",
        nargs="+",
        dest="languages",
        metavar="L",
        help=f"use only {examples.partition(' ')[0]} of these languages (default: all)",
    )
    parser.add_argument(
        "--epochs",
        type=float,
        metavar="N",
        help="passes over the training data, 0.5 is half a pass (default: the recipe's)",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help=f"{examples} per step, at least 2 (default: the recipe's)"
    )
    parser.add_argument(
        "--learning-rate", type=float, metavar="RATE", help="largest learning rate (default: the recipe's)"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of everything random (default: the recipe's, else 0)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change any other setting of the recipe; `code-retrieval recipes --json` lists them with their values; "
        "may be repeated",
    )
    common_options(parser, embeds=False)


def read_settings(options: argparse.Namespace, **values: Any) -> dict[str, Any]:
    """Return the settings that ``--set`` and other options change.

    ``values`` are the settings that only this command has an option for; ``None`` where the option is absent.

    Raises:
        ValueError: a value of ``--set`` without a name, a setting that is set twice or has no effect.
    """
    settings: dict[str, Any] = {}
    for assignment in options.set:
        name, equals, value = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {assignment!r}")
        if name in settings:
            raise ValueError(f"--set sets {name} twice; leave one out")
        try:
            settings[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name] = value  # a bare word
    for name, value in {**{name: getattr(options, name) for name in _SETTINGS}, **values}.items():
        if value is not None and name in settings:
            option = "language" if name == "languages" else name.replace("_", "-")
            raise ValueError(f"--set {name}=... and --{option} change the same setting; leave one out")
        if value is not None:
            settings[name] = value
    if getattr(options, "validate", None) and "held_out" in settings:
        raise ValueError("--set held_out=... has no effect with --validate, whose pairs are held out; leave one out")
    return settings


def read_adapter_recipe(options: argparse.Namespace, settings: dict[str, Any]) -> Recipe:
    """Return the recipe of ``--recipe`` and ``--method`` with ``settings`` changed.

    Raises:
        ValueError: an unknown name, a wrong value, or two methods.
    """
    from llamaindex_code_retrieval.training import load_recipe

    method, settings = split_method(options, settings)
    return load_recipe(options.recipe, method=method).with_settings(settings)


def split_method(options: argparse.Namespace, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the method of ``--method`` or ``--set``, ``None`` without either, and the other settings.

    Raises:
        ValueError: the two differ.
    """
    settings = dict(settings)
    method = settings.pop("method", options.method)
    if options.method not in (None, method):
        raise ValueError(f"--method {options.method} and --set method={method} differ; leave one out")
    return method, settings


def check_push(options: argparse.Namespace) -> None:
    """Check ``--push`` and ``--public`` before the work.

    Raises:
        ValueError: ``--public`` without ``--push``, or a name that the hub does not take.
    """
    if options.push is None:
        refuse_without_effect(options, ["public"], "without --push")
        return
    from llamaindex_code_retrieval.training.push import check_repository_name

    check_repository_name(options.push)


def push_and_describe(run: TrainingRun[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of a run with its folder; with ``--push``, upload it first and add the address."""
    record = {**run.record, "folder": str(run.folder)}
    if options.push is not None and run.folder is not None:
        from llamaindex_code_retrieval.training import push_run

        record["pushed"] = push_run(run.folder, options.push, public=options.public)
    return record


def training_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the printed table that adapters and rerankers share."""
    share = record["trained_parameters"] / record["base_parameters"]
    what = "pairs" if "pairs" in record["data"] else "texts"
    return [
        ("base", f"{record['base']['name']}, fingerprint {record['base']['fingerprint']}"),
        ("trained", f"{record['trained_parameters']:,} parameters ({share:.2%} of the base's)"),
        (what, f"{record['data'][what]:,}"),
        ("steps", f"{record['steps']:,}, best {record['best_step']:,}, in {record['seconds']:.0f} s"),
        ("peak memory", f"{record['peak_bytes'] / 2**20:,.0f} MiB"),
    ]
