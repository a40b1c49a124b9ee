"""The command ``languages``."""

from __future__ import annotations

import argparse
from typing import Any

from llamaindex_code_retrieval.cli.console import print_json, print_table, print_text
from llamaindex_code_retrieval.cli.options import json_option
from llamaindex_code_retrieval.languages.table import LANGUAGES


def add_languages(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``languages``."""
    parser = commands.add_parser("languages", help="list the languages and text formats, and how files are recognised")
    json_option(parser)
    parser.set_defaults(run=run_languages)


def run_languages(options: argparse.Namespace) -> int:
    """Print each language with the file names that belong to it and what its files are divided at."""
    rows = [_row(name) for name in LANGUAGES]
    if options.json:
        print_json(rows)
        return 0
    print_table(
        "Languages and text formats",
        [(row["name"], row["divided_by"], *(" ".join(row[key]) for key in _COLUMNS)) for row in rows],
        headings=("name", "divided by", "extensions", "file names", "programs in #!"),
    )
    print_text("Other text files are read as plain text; name their language with --ext .EXTENSION=LANGUAGE")
    return 0


_COLUMNS = ("extensions", "file_names", "shebangs")


def _row(name: str) -> dict[str, Any]:
    language = LANGUAGES[name]
    return {
        "name": name,
        "divided_by": language.divided_by,
        "extensions": [f".{extension}" for extension in language.extensions],
        "file_names": list(language.file_names),
        "shebangs": list(language.shebangs),
    }
