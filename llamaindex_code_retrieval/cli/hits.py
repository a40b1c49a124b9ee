"""Print nodes that were found."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llamaindex_code_retrieval.cli.console import print_code, print_parts
from llamaindex_code_retrieval.cli.options import positive
from llamaindex_code_retrieval.index.source_roots import file_of

_LINES = 8
_LONGEST_LINE = 200
"""Characters of a line of code that are printed."""


class Hit(NamedTuple):
    """What is printed of a node."""

    id: str
    score: float
    metadata: dict[str, Any]
    text: str
    note: str = ""
    """Printed after its place; ``--json`` prints only what the metadata says."""


def lines_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--lines``, which is for :func:`print_hits`."""
    parser.add_argument("--lines", type=positive, metavar="N", help=f"lines of code per hit (default: {_LINES})")


def json_records(hits: Sequence[Hit], roots: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the records that ``--json`` prints."""
    return [_record(rank, hit, roots) for rank, hit in enumerate(hits, start=1)]


def _record(rank: int, hit: Hit, roots: Sequence[Path]) -> dict[str, Any]:
    file = str(file_of(hit.metadata["path"], roots)) if "path" in hit.metadata else None
    return {"rank": rank, "score": hit.score, "file": file, **hit.metadata, "text": hit.text}


def print_hits(
    hits: Sequence[Hit], roots: Sequence[Path], *, lines: int | None, is_marked: Callable[[str], bool]
) -> None:
    """Print for each hit ``path:line  score  scope`` and its first lines, with a mark where ``is_marked``."""
    for rank, hit in enumerate(hits, start=1):
        metadata = hit.metadata
        place, first = _place(hit, roots)
        print_parts(
            (f"{rank:>2}. ", "bold"),
            (f"{place}:{first}", "cyan"),
            (f"  {hit.score:.3f}", "dim"),
            (f"  {metadata.get('scope') or '(' + metadata.get('kind', 'node') + ')'}", "bold green"),
            (f"  also lines {metadata['also_lines']}" if "also_lines" in metadata else "", "dim"),
            (f"  {hit.note}" if hit.note else "", "yellow"),
        )
        shown = [line[:_LONGEST_LINE] for line in hit.text.split("\n")[: lines or _LINES]]
        print_code(
            "\n".join(shown),
            language=metadata.get("language") or "text",
            first_line=first,
            marked={first + i for i, line in enumerate(shown) if is_marked(line)},
        )


def _place(hit: Hit, roots: Sequence[Path]) -> tuple[str, int]:
    """Return the file of a hit and its first line; of a node of a notebook, the cell too and the line in the cell.

    The path is that from here if the file lies below, or if this folder lies in an indexed one, else as indexed. A node
    without a path has its id.
    """
    metadata = hit.metadata
    first = metadata.get("start_line", 1)
    if "path" not in metadata:
        return hit.id, first
    file = file_of(metadata["path"], roots)
    here = Path.cwd()
    is_near = any(here.is_relative_to(folder) for folder in roots)
    path = os.path.relpath(file) if is_near or file.is_relative_to(here) else metadata["path"]
    if metadata.keys() >= {"cell", "cell_start_line"}:
        return f"{path}#cell {metadata['cell']}", metadata["cell_start_line"]
    return path, first
