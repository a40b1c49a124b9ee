"""The command ``mine``."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval._io import check_writable
from llamaindex_code_retrieval.cli.checkout import GIT_URL, checkout
from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import json_option, positive
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

if TYPE_CHECKING:
    from llamaindex_code_retrieval.training.mining import MineReport

SHOWN = 20
"""Lines of a cell of the table; the rest is counted."""


def add_mine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``mine``."""
    parser = commands.add_parser("mine", help="write training pairs of the documented functions in source code")
    parser.add_argument(
        "sources", nargs="+", metavar="PATH|GIT-URL", help="folder with source code, or repository to clone"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="file for the pairs, *.jsonl or *.jsonl.gz; it is replaced"
    )
    parser.add_argument(
        "--language",
        action="append",
        default=[],
        choices=CODE_LANGUAGES,
        metavar="L",
        help="mine only functions in this language; may be repeated (default: all)",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="REPOSITORY",
        help="name of a repository to leave out, such as one that a benchmark uses; may be repeated (default: none)",
    )
    parser.add_argument(
        "--max-per-repository",
        type=positive,
        metavar="N",
        help="largest number of pairs of one repository (default: all)",
    )
    parser.add_argument(
        "--permissive-only",
        action="store_true",
        help="leave out files that are not known to be under a permissive licence",
    )
    json_option(parser)
    parser.set_defaults(run=run_mine)


def run_mine(options: argparse.Namespace) -> int:
    """Mine the sources and write the pairs to ``--out``."""
    from llamaindex_code_retrieval.training.mining import check_folders, mine
    from llamaindex_code_retrieval.training.pairs import write_pairs

    out = _check_out(Path(options.out))
    check_folders([source for source in options.sources if not GIT_URL.fullmatch(source)])  # before anything is cloned
    with tempfile.TemporaryDirectory() as clones, progress_bars() as progress:
        roots = [
            checkout(source, Path(clones, str(place))) if GIT_URL.fullmatch(source) else Path(source).expanduser()
            for place, source in enumerate(options.sources)
        ]
        report = mine(
            roots,
            languages=options.language,
            permissive_only=options.permissive_only,
            exclude=options.exclude,
            max_per_repository=options.max_per_repository,
            on_progress=progress,
        )
    if not report.pairs:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in {**report.dropped, **report.skipped}.items())
        raise ValueError(
            f"no pair in {', '.join(options.sources)}: {report.files:,} files read, {report.functions:,} functions "
            f"with a doc comment ({reasons or 'no source file'}); name a folder with documented functions"
        )
    write_pairs(out, report.pairs)
    _print_report(report, out, as_json=options.json)
    return 0


def _check_out(out: Path) -> Path:
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"--out is {out}; its name must end in .jsonl or .jsonl.gz")
    if not out.parent.is_dir():
        raise ValueError(f"--out is {out}, but there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file")
    check_writable(out.parent)
    return out


def _print_report(report: MineReport, out: Path, *, as_json: bool) -> None:
    counts: dict[str, dict[str, int]] = {
        name: dict(Counter(getattr(pair, name) or "unknown" for pair in report.pairs).most_common())
        for name in ("language", "repository", "license")
    }
    counts |= {"dropped": report.dropped, "skipped": report.skipped}
    if as_json:
        totals: dict[str, Any] = {
            "pairs": len(report.pairs),
            "files": report.files,
            "functions": report.functions,
        }
        print_json({**totals, **counts, "out": str(out)})
        return
    rows = [("files", f"{report.files:,}"), ("documented functions", f"{report.functions:,}")]
    for name, by_value in counts.items():
        lines = [f"{count:,} {value}" for value, count in by_value.items()]
        rest = [f"and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
        if lines:
            rows.append((name, "\n".join(lines[:SHOWN] + rest)))
    print_table(f"{len(report.pairs):,} pairs in {out}", rows)
