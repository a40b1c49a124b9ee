"""The command ``average``."""

from __future__ import annotations

import argparse

from llamaindex_code_retrieval.cli.console import print_json, print_table
from llamaindex_code_retrieval.cli.options import json_option, positive


def add_average(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``average``."""
    parser = commands.add_parser("average", help="average the weights of LoRA adapters of one base")
    parser.add_argument(
        "adapters",
        nargs="+",
        metavar="ADAPTER",
        help="adapter of the same modules as the others: a name from `code-retrieval models`, hub name or folder; one "
        "alone is reduced to --rank",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the adapter")
    parser.add_argument(
        "--rank", type=positive, metavar="N", help="rank of the result (default: the largest rank of the adapters)"
    )
    json_option(parser)
    parser.set_defaults(run=run_average)


def run_average(options: argparse.Namespace) -> int:
    """Average the adapters and print the record."""
    from llamaindex_code_retrieval.training import average_adapters

    record = average_adapters(options.adapters, options.out, rank=options.rank)
    if options.json:
        print_json({**record, "folder": options.out})
        return 0
    rows = [
        ("base", record["base"]["name"]),
        ("mean of", ", ".join(adapter["name"] for adapter in record["averaged"])),
        ("rank", str(record["rank"])),
        ("kept", f"{record['kept']:.2%} of the squared change of the weights"),
    ]
    print_table(f"Adapter {options.out}", rows)
    return 0
