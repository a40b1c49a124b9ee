"""The command ``adapt``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval._io import check_writable
from llamaindex_code_retrieval.cli.console import print_json, print_message, progress_bars
from llamaindex_code_retrieval.cli.index import print_report
from llamaindex_code_retrieval.cli.options import (
    DEFAULT_INDEX,
    absolute,
    cache_folder,
    cache_option,
    print_waiting,
    seconds,
)
from llamaindex_code_retrieval.cli.train import print_adapter
from llamaindex_code_retrieval.cli.training_options import (
    add_method_option,
    add_training_options,
    read_adapter_recipe,
    read_settings,
)

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.update import IndexReport
    from llamaindex_code_retrieval.training.recipes import Recipe

MINUTES = 15.0
"""The time budget by default."""
EPOCHS = 10.0
"""Epochs where no recipe says how many; the time budget usually ends the training earlier."""


def add_adapt(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``adapt``."""
    parser = commands.add_parser("adapt", help="train an adapter on a code base and index it with that adapter")
    parser.add_argument("sources", nargs="+", metavar="PATH", help="folder with source code")
    parser.add_argument(
        "--out", default=DEFAULT_INDEX, metavar="DIR", help="folder of the index (default: %(default)s)"
    )
    parser.add_argument(
        "--adapter-out",
        default=f"{DEFAULT_INDEX}-adapter",
        metavar="DIR",
        help="new folder for the adapter (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help=f"time budget in minutes for mining, training and measuring together, without indexing (default: "
        f"{MINUTES:g}; adalora takes none)",
    )
    add_method_option(parser)
    parser.add_argument(
        "--start",
        metavar="ADAPTER",
        help="adapter whose weights the training starts from, or none for a new one (default: with lora the package's "
        "adapter for the base, else none)",
    )
    parser.add_argument(
        "--pretrain",
        action="store_true",
        help="first predict masked tokens and names in all source code, for half of the time; with lora or full",
    )
    add_training_options(parser, recipe_default=f"none, the defaults of --method and {EPOCHS:g} epochs")
    parser.add_argument(
        "--wait",
        type=seconds,
        default=60.0,
        metavar="N",
        help="seconds to wait for another process that updates the index (default: 60)",
    )
    cache_option(parser)
    parser.set_defaults(run=run_adapt)


def run_adapt(options: argparse.Namespace) -> int:
    """Train an adapter on the sources, index them with the better of new and old adapter, and print both records."""
    from llamaindex_code_retrieval.training import PretrainConfig, adapt_to_repository

    for source in options.sources:
        if not Path(source).expanduser().is_dir():
            raise ValueError(f"{source} is not a folder; name a checkout with source code")
    cache_folder(options)  # refuses a file
    _check_index_folder(Path(options.out), Path(options.adapter_out))
    recipe = _recipe(options)
    minutes = options.minutes
    if minutes is None and recipe.adapter.method != "adalora":  # its schedule cannot be cut
        minutes = MINUTES
    with progress_bars() as progress:
        run = adapt_to_repository(
            options.sources,
            options.adapter_out,
            recipe=recipe,
            minutes=minutes,
            start=options.start,
            pretraining=PretrainConfig(epochs=EPOCHS) if options.pretrain else None,
            device=options.device,
            on_progress=progress,
        )
    if run.folder is None or run.before is None or run.after is None:
        raise ValueError("`adapt` runs in one process; start it without `accelerate launch`")
    is_better = run.after["mrr"] > run.before["mrr"]
    base, adapter = recipe.base, options.start
    if is_better:
        trained = str(run.folder.resolve())
        base, adapter = (trained, None) if recipe.adapter.method == "full" else (base, trained)
    index, report = _index(options, base, adapter)
    record = {**run.record, "folder": str(run.folder), "index": options.out, "indexed_with_adapter": is_better}
    if options.json:
        print_json(record)
    else:
        print_adapter(run, record)
        print_report(report, index, Path(options.out), as_json=False)
    if not is_better:
        print_message("the adapter does not improve the held-out functions; the index does not use it")
    return 0


def _check_index_folder(out: Path, adapter_out: Path) -> None:
    """Refuse, before minutes of training, a folder that cannot hold the index afterwards."""
    from llamaindex_code_retrieval.index.folder import check_folder

    check_folder(out)
    check_writable(out)
    if out.resolve() == adapter_out.resolve():
        raise ValueError(f"--out and --adapter-out are both {out}; name two folders")


def _recipe(options: argparse.Namespace) -> Recipe:
    settings = read_settings(options)
    for name, reason in (
        ("held_out", "`adapt` holds out a fifth of the files"),
        ("max_seconds", "--minutes is the budget"),
    ):
        if name in settings:
            raise ValueError(f"--set {name}=... has no effect here: {reason}; leave it out")
    if options.recipe is None:
        settings.setdefault("epochs", EPOCHS)
    return read_adapter_recipe(options, settings)


def _index(options: argparse.Namespace, base: str, adapter: str | None) -> tuple[CodeIndex, IndexReport]:
    """Build and save the index; ``None`` is the base's own adapter."""
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.folder import ignore_by_git
    from llamaindex_code_retrieval.index.lock import update_lock

    out = Path(options.out)
    with update_lock(out, seconds=options.wait, on_wait=print_waiting):
        ignore_by_git(out)
        embedding = CodeEmbedding(
            absolute(base), adapter=adapter, device=options.device, cache_folder=cache_folder(options)
        )
        index = CodeIndex(embedding, out)
        with progress_bars() as progress:
            report = index.update([Path(source) for source in options.sources], on_progress=progress)
    return index, report
