"""The command ``related``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.cli.console import print_json, print_message
from llamaindex_code_retrieval.cli.hits import Hit, json_records, lines_option, print_hits
from llamaindex_code_retrieval.cli.options import (
    default_index,
    index_option,
    json_option,
    positive,
    refuse_without_effect,
)

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.related import RelatedHit
    from llamaindex_code_retrieval.index.tables import NodeRow, Reading


def add_related(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``related``."""
    parser = commands.add_parser(
        "related",
        help="find code that is related to a place",
        description="Find code that is similar to a place, belongs to the same class, calls it, or is called by it.",
    )
    parser.add_argument(
        "place", metavar="PLACE", help="PATH:LINE, PATH:FIRST-LAST or PATH; from this folder, or as in the index"
    )
    index_option(parser)
    parser.add_argument("--top-k", type=positive, default=10, metavar="K", help="hits to print (default: %(default)s)")
    lines_option(parser)
    json_option(parser)
    parser.set_defaults(run=run_related)


def run_related(options: argparse.Namespace) -> int:
    """Print what is related to a place, and why; the exit code is 1 if there is nothing."""
    from llamaindex_code_retrieval.index.folder import open_storage
    from llamaindex_code_retrieval.index.locate import restore_root
    from llamaindex_code_retrieval.index.places import Place, rows_at
    from llamaindex_code_retrieval.index.related import find_related, has_name, names_of
    from llamaindex_code_retrieval.index.view import IndexReader

    if options.json:
        refuse_without_effect(options, ("lines",), "with --json, which prints whole nodes")
    place = Place.parse(options.place)
    folder = Path(options.index or default_index())
    reader = IndexReader(open_storage(folder))
    try:
        with reader.view() as view:
            roots = [restore_root(root, folder) for root in view.settings["roots"]]
            at_place = rows_at(view.reading, place, roots)
            _report_change(view.reading, at_place[0].path, roots, folder)
            found = find_related(view, at_place, top_k=options.top_k)
            rows = view.rows(number for hit, _ in found for number in (hit.number, *hit.others))
    finally:
        reader.close()
    hits = [_hit(related, rows) for related in found]
    if options.json:
        print_json(json_records(hits, roots))
    elif hits:
        names = {name for row in at_place for name in names_of(row.metadata.get("symbol") or "")}
        print_hits(hits, roots, lines=options.lines, is_marked=lambda line: any(has_name(line, name) for name in names))
    else:
        print_message("nothing is related")
    return 0 if hits else 1


def _hit(related: RelatedHit, rows: Mapping[int, NodeRow]) -> Hit:
    metadata = related.metadata(rows)
    return Hit(related.hit.id, related.hit.score, metadata, rows[related.hit.number].text, note=metadata["related"])


def _report_change(reading: Reading, path: str, roots: Sequence[Path], folder: Path) -> None:
    """Say if the file of the place has been written since the last update, so that its lines may have moved."""
    from llamaindex_code_retrieval.index.file_state import FileStatus
    from llamaindex_code_retrieval.index.source_roots import file_of

    state = reading.file(path)
    if not roots or state is None:
        return
    try:
        status = FileStatus.of(file_of(path, roots))
    except OSError:
        status = None
    if not state.matches(status):
        print_message(
            f"{path} has changed since the last update, and its lines may have moved; bring the index up to date with: "
            f"code-retrieval update --index {folder}"
        )
