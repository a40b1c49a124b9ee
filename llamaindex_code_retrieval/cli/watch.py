"""The command ``watch``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.cli.console import print_message, print_text
from llamaindex_code_retrieval.cli.options import (
    cache_folder_of,
    common_options,
    default_index,
    index_option,
)

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.update import IndexReport


def add_watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``watch``."""
    parser = commands.add_parser("watch", help="update an index after each edit in its folders, until Ctrl-C")
    index_option(parser)
    parser.add_argument(
        "--polling",
        action="store_true",
        help="look at all files each second: for network file systems and shared folders, which do not report edits",
    )
    common_options(parser, runtime=True)
    parser.set_defaults(run=run_watch)


def run_watch(options: argparse.Namespace) -> int:
    """Update an index once, and after each edit; print a line for each update that changed it."""
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.folder import read_settings
    from llamaindex_code_retrieval.index.watch import watch

    folder = Path(options.index or default_index())
    settings = read_settings(folder)
    if not settings["roots"]:
        raise ValueError(f"the index in {folder} was not made from folders; build one with `code-retrieval index PATH`")
    cache = cache_folder_of(options, settings["embedding"]["model_name"])
    with CodeIndex.open(folder, cache_folder=cache, device=options.device, runtime=options.runtime) as index:
        roots = [Path(root) for root in index.roots]
        print_message(f"watching {', '.join(map(str, roots))}; stop with Ctrl-C")
        edits = watch(roots, index.sources, ignored=[index.folder], polling=options.polling or None)
        for _ in edits:
            try:
                report = index.update()
            except ValueError as error:  # such as settings that are being edited
                print_message(f"error: {error}; the index stays as it was")
                continue
            if report.added or report.removed:
                _print_update(report, as_json=options.json)
    return 0


def _print_update(report: IndexReport, *, as_json: bool) -> None:
    counts = {name: getattr(report, name) for name in ("files", "nodes", "added", "removed", "embedded", "seconds")}
    if as_json:  # one line for each update, so that a reader need not wait for the end
        print_text(json.dumps(counts))
        return
    print_text(
        f"{report.added:,} nodes added, {report.removed:,} removed in {report.seconds:.2f} s; "
        f"{report.nodes:,} nodes of {report.files:,} files"
    )
