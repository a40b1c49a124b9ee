"""What several commands share: options, progress, checkouts, the report of an index."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.cli.console import print_json, print_message, print_table
from llamaindex_code_retrieval.models.catalog import EMBEDDED, NO_ADAPTER
from llamaindex_code_retrieval.models.locate import shipped_adapters

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex, IndexReport

DEFAULT_INDEX = ".code-retrieval"


def common_options(parser: argparse.ArgumentParser, *, embeds: bool = True, writes: bool = False) -> None:
    """Add what several commands have."""
    parser.add_argument("--device", help="torch device (default: CUDA if there is one)")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    if embeds:
        parser.add_argument(
            "--cache", metavar="DIR", help="embedding cache (default: CODE_RETRIEVAL_CACHE or the user's cache)"
        )
    if writes:
        parser.add_argument(
            "--wait", type=float, default=60, metavar="SECONDS", help="for another update (default: %(default)s)"
        )


def cache_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the embedding cache."""
    from llamaindex_code_retrieval.cache import default_cache_folder

    return Path(options.cache) if options.cache else default_cache_folder()


def absolute(name_or_path: str) -> str:
    """Return a folder by its full path, since the index is searched from elsewhere; a name as it is."""
    folder = Path(name_or_path).expanduser()
    named = name_or_path in (EMBEDDED, NO_ADAPTER, *shipped_adapters())
    return str(folder.resolve()) if not named and folder.is_dir() else name_or_path


def say_waiting(who: str) -> None:
    """Say who holds the index."""
    print_message(f"the index is being updated by {who}; waiting")


def print_report(report: IndexReport, index: CodeIndex, out: Path, *, as_json: bool) -> int:
    """Print what an update of an index did."""
    if as_json:
        facts = {
            **asdict(report),
            "index": str(out),
            "fingerprint": index.embedding.fingerprint,
            "languages": index.languages,
        }
        print_json(facts)
        return 0
    rows: list[tuple[str, str]] = [
        ("files", f"{report.files:,}"),
        ("nodes", f"{report.nodes:,} ({', '.join(f'{name} {count:,}' for name, count in index.languages.items())})"),
        ("added / removed", f"{report.added:,} / {report.removed:,}"),
        ("embedded", f"{report.embedded:,} in {report.seconds:.1f} s"),
    ]
    if report.truncated:
        limit = index.embedding.max_code_tokens
        rows.append(("truncated", f"{report.truncated:,} nodes longer than {limit} tokens: their end is for BM25 only"))
    if report.unparsed_files:
        rows.append(("not parsed", f"{report.unparsed_files:,} files, indexed by line windows"))
    if report.replaced_files:
        rows.append(("not UTF-8", f"{report.replaced_files:,} files, read with replacement characters"))
    rows += [("skipped", f"{count:,} {reason}") for reason, count in report.skipped.items()]
    rows.append(("model", f"{index.embedding.model_name}, fingerprint {index.embedding.fingerprint}"))
    print_table(f"Index {out}", rows)
    return 0
