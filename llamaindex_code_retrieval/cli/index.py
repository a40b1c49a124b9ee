"""The commands ``index``, ``update`` and ``info``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.cli.checkout import GIT_URL, check_sources, checkout, update_clone
from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import (
    DEFAULT_INDEX,
    absolute,
    cache_folder_of,
    common_options,
    default_index,
    index_option,
    json_option,
    natural,
    parse_source_options,
    positive,
    print_waiting,
    source_options,
)
from llamaindex_code_retrieval.languages.table import known_language
from llamaindex_code_retrieval.models.catalog import EMBEDDED, NO_ADAPTER
from llamaindex_code_retrieval.models.locate import locate_adapter, locate_model

if TYPE_CHECKING:
    from llamaindex_code_retrieval.chunking import CodeNodeParser
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.update import IndexReport


def add_index(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``index``."""
    parser = commands.add_parser("index", help="build an index of folders or git repositories")
    parser.add_argument(
        "sources", nargs="+", metavar="PATH|GIT-URL", help="folder with source code, or repository to clone"
    )
    parser.add_argument(
        "--out", default=DEFAULT_INDEX, metavar="DIR", help="folder of the index (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default=EMBEDDED, help="base model: a known name, hub name or folder (default: %(default)s)"
    )
    parser.add_argument(
        "--adapter",
        metavar="ADAPTER",
        help=f"adapter of the base model: a name from `code-retrieval models`, hub name or folder, or {NO_ADAPTER} "
        "(default: the one that the package has for the base model)",
    )
    parser.add_argument(
        "--language-adapter",
        action="append",
        default=[],
        metavar="LANGUAGE=ADAPTER",
        help="adapter for code in this language, instead of --adapter; may be repeated",
    )
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--max-code-tokens",
        type=positive,
        metavar="N",
        help="tokens of a node that are embedded (default: the model's)",
    )
    parser.add_argument(
        "--dimensions",
        type=positive,
        metavar="N",
        help="cut vectors to their first N numbers, for a smaller index (default: all of them)",
    )
    parser.add_argument(
        "--max-lines",
        type=positive,
        metavar="N",
        help="lines of a node; what has more, or more tokens than the model reads, is split (default: 60)",
    )
    parser.add_argument(
        "--overlap-lines",
        type=natural,
        metavar="N",
        help="lines that the parts of a split node share (default: a quarter of --max-lines, at most 6)",
    )
    source_options(parser)
    common_options(parser, writes=True, runtime=True)
    parser.set_defaults(run=run_index)


def run_index(options: argparse.Namespace) -> int:
    """Build or update the index in ``--out``."""
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.folder import ignore_by_git, remove_old_format
    from llamaindex_code_retrieval.index.lock import update_lock
    from llamaindex_code_retrieval.index.source_options import options_of

    check_sources(options.sources)
    sources = parse_source_options(options)
    for source in options.sources:
        if not GIT_URL.fullmatch(source):
            options_of(Path(source).expanduser(), sources)
    adapters = _language_adapters(options.language_adapter)
    for adapter in (options.adapter, *adapters.values()):
        if adapter not in (None, NO_ADAPTER):
            locate_adapter(adapter)
    locate_model(options.model)
    cache = cache_folder_of(options, options.model)
    parser = _parser(options)
    out = Path(options.out)
    existed = out.exists()
    try:
        with update_lock(out, seconds=options.wait, on_wait=print_waiting):
            ignore_by_git(out)
            roots = [checkout(source, out) if GIT_URL.fullmatch(source) else Path(source) for source in options.sources]
            embedding = CodeEmbedding(
                absolute(options.model),
                adapter=absolute(options.adapter) if options.adapter else None,
                adapters=adapters,
                precision=options.precision,
                max_code_tokens=options.max_code_tokens,
                dimensions=options.dimensions,
                device=options.device,
                runtime=options.runtime or "auto",
                cache_folder=cache,
            )
            index = CodeIndex(embedding, out, parser=parser)
            with progress_bars() as progress:
                report = index.update(roots, sources=sources, on_progress=progress)
            remove_old_format(out)
    finally:
        if not existed:
            _remove_if_unused(out)
    return print_report(report, index, out, as_json=options.json)


def _parser(options: argparse.Namespace) -> CodeNodeParser:
    from llamaindex_code_retrieval.chunking import CodeNodeParser

    settings = {name: getattr(options, name) for name in ("max_lines", "overlap_lines")}
    return CodeNodeParser(**{name: value for name, value in settings.items() if value is not None})


def _language_adapters(assignments: Sequence[str]) -> dict[str, str]:
    adapters: dict[str, str] = {}
    for assignment in assignments:
        language, equals, adapter = assignment.partition("=")
        if not (language and equals and adapter):
            raise ValueError(f"--language-adapter takes LANGUAGE=ADAPTER, got {assignment!r}")
        if language in adapters:
            raise ValueError(f"--language-adapter names {language} twice; name one adapter for each language")
        adapters[known_language(language)] = absolute(adapter)
    return adapters


def _remove_if_unused(out: Path) -> None:
    """Remove the folder of an index that was not built."""
    from llamaindex_code_retrieval.index.folder import remove_if_empty

    clones = out / "sources"
    if clones.is_dir() and not any(clones.iterdir()):
        clones.rmdir()
    remove_if_empty(out)


def add_update(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``update``."""
    parser = commands.add_parser("update", help="update an index from its folders; only what changed is embedded")
    index_option(parser)
    common_options(parser, writes=True, runtime=True)
    parser.set_defaults(run=run_update)


def run_update(options: argparse.Namespace) -> int:
    """Update an index, after its clones."""
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.folder import read_settings
    from llamaindex_code_retrieval.index.lock import update_lock

    target = Path(options.index or default_index())
    settings = read_settings(target)  # fails before the lock makes a folder
    cache = cache_folder_of(options, settings["embedding"]["model_name"])
    with update_lock(target, seconds=options.wait, on_wait=print_waiting):
        index = CodeIndex.open(target, cache_folder=cache, device=options.device, runtime=options.runtime)
        for root in map(Path, index.roots):
            if root.is_relative_to((target / "sources").resolve()) and root.is_dir():
                update_clone(root)
        with progress_bars() as progress:
            report = index.update(on_progress=progress)
    return print_report(report, index, target, as_json=options.json)


def print_report(report: IndexReport, index: CodeIndex, out: Path, *, as_json: bool) -> int:
    """Print the result of building or updating an index."""
    if as_json:
        more = {"index": str(out), "fingerprint": index.embedding.fingerprint, "languages": index.languages}
        print_json({**asdict(report), **more})
        return 0
    languages = ", ".join(f"{name} {count:,}" for name, count in index.languages.items())
    rows = [
        ("files", f"{report.files:,}"),
        ("nodes", f"{report.nodes:,} ({languages})"),
        ("added / removed", f"{report.added:,} / {report.removed:,}"),
        ("embedded", f"{report.embedded:,} in {report.seconds:.1f} s"),
    ]
    if report.truncated:
        limit = index.embedding.max_code_tokens
        rows.append(("truncated", f"{report.truncated:,} nodes over {limit} tokens: only BM25 sees the rest of them"))
    if report.unparsed_files:
        rows.append(("not parsed", f"{report.unparsed_files:,} files, split into windows of lines"))
    rows += _rows_of_sources(report)
    rows.append(("model", f"{index.embedding.model_name}, fingerprint {index.embedding.fingerprint}"))
    print_table(f"Index {out}", rows)
    return 0


def _rows_of_sources(report: IndexReport) -> list[tuple[str, str]]:
    """Return one line each about files left out, files of no known kind and files that are not UTF-8."""
    from llamaindex_code_retrieval.index.leave_out import RULES, describe_left_out

    rows = []
    if report.left_out:
        ways = ["--include GLOB"] if report.left_out.keys() & RULES.keys() else []
        ways += ["--max-file-size SIZE"] if "too large" in report.left_out else []
        advice = f"; take in with {' or '.join(ways)}" if ways else ""
        rows.append(("left out", describe_left_out(report.left_out) + advice))
    if report.unknown:
        kinds = describe_left_out({"files of no known kind": report.unknown})
        rows.append(("read as text", f"{kinds}; name their language with --ext .EXTENSION=LANGUAGE"))
    if report.encodings:
        rows.append(("not UTF-8", describe_left_out(report.encodings)))
    return rows


def add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``info``."""
    parser = commands.add_parser("info", help="show the contents, model and size of an index")
    index_option(parser)
    json_option(parser)
    parser.set_defaults(run=run_info)


def run_info(options: argparse.Namespace) -> int:
    """Print the settings of an index, its counts and its size in bytes."""
    from llamaindex_code_retrieval.index.folder import describe

    folder = Path(options.index or default_index())
    info = describe(folder)
    if options.json:
        print_json(info)
        return 0
    rows = []
    for key, value in info.items():
        text = ", ".join(f"{name}={each}" for name, each in value.items()) if isinstance(value, dict) else value
        rows.append((key, "\n".join(text) if isinstance(text, list) else str(text)))
    print_table(f"Index {folder}", rows)
    return 0
