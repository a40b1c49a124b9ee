"""The command ``search``."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.console import print_json, print_message, progress_bars
from llamaindex_code_retrieval.cli.filter_options import filter_options, parse_filter
from llamaindex_code_retrieval.cli.hits import Hit, json_records, lines_option, print_hits
from llamaindex_code_retrieval.cli.options import (
    common_options,
    default_index,
    index_option,
    positive,
    refuse_without_effect,
)
from llamaindex_code_retrieval.index.locate import restore_root
from llamaindex_code_retrieval.models.catalog import DEFAULT_RERANKER
from llamaindex_code_retrieval.models.locate import is_static_model
from llamaindex_code_retrieval.models.query_encoder_config import AUTO, QueryEncoderConfig, find_query_encoder

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from llamaindex_code_retrieval.index.changes import ChangeCounts
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.storage import Storage
    from llamaindex_code_retrieval.models.catalog import Runtime
    from llamaindex_code_retrieval.models.reranker_config import RerankPrecision
    from llamaindex_code_retrieval.ranking.model import RankingModel

_CANDIDATES = 50
_REASONS = 6
"""Features that are printed of a hit."""
_LOOK_SECONDS = 0.3
"""How long changed files are looked for."""
_QUICK_FILES = 20
"""Up to so many changed files are read before the search."""


def add_search(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``search``."""
    parser = commands.add_parser("search", help="search an index")
    parser.add_argument("question", nargs="?", help="what the code should do, in natural language (required)")
    index_option(parser)
    parser.add_argument("--top-n", type=positive, default=10, metavar="N", help="hits to print (default: %(default)s)")
    parser.add_argument(
        "--mode",
        choices=("fused", "dense", "bm25"),
        default="fused",
        help="rank by vectors (dense), words (bm25) or both (default: %(default)s)",
    )
    parser.add_argument(
        "--fast-query",
        nargs="?",
        const=AUTO,
        metavar="ENCODER",
        help="embed the question with a small query encoder: a name from `code-retrieval models`, hub name or folder "
        "(default: the package's static one for the index's model)",
    )
    parser.add_argument(
        "--rerank",
        nargs="?",
        const=DEFAULT_RERANKER,
        metavar="MODEL",
        help="rerank the first hits with a cross-encoder: a name, hub name or folder (default: %(const)s)",
    )
    parser.add_argument(
        "--rerank-weight",
        type=float,
        metavar="WEIGHT",
        help="weight of the reranker beside the index's ranking, over 0 (default: in reranker.json; 0 for the shipped)",
    )
    parser.add_argument("--candidates", type=positive, metavar="N", help=f"hits to rerank (default: {_CANDIDATES})")
    parser.add_argument(
        "--early-exit",
        type=float,
        metavar="CONFIDENCE",
        help="stop reranking when at this confidence (0.8, 0.9, 0.95 or 0.99) no other hit enters the first --top-n "
        "(default: rerank all candidates)",
    )
    parser.add_argument(
        "--rerank-precision",
        choices=("auto", "fp32", "bf16", "int8"),
        help="of the reranker; int8 is for CPUs (default: auto)",
    )
    parser.add_argument(
        "--ranking", type=Path, metavar="FILE", help="rank by the weights in this file, which train-ranking wrote"
    )
    parser.add_argument("--explain", action="store_true", help="print for each hit what raises and what lowers it")
    lines_option(parser)
    parser.add_argument(
        "--refresh",
        action=argparse.BooleanOptionalAction,
        help=f"update the index first, or do not look for changed files (default: update it if the model is loaded and "
        f"at most {_QUICK_FILES} files have changed, else say how many have)",
    )
    filter_options(parser)
    common_options(parser, embeds=False, runtime=True)
    parser.set_defaults(run=run_search)


def run_search(options: argparse.Namespace) -> int:
    """Print the hits for a question; the exit code is 1 if there are none."""
    folder = Path(options.index or default_index())
    settings = _check(options, folder)
    if settings.get("unembedded") is not None and options.mode != "bm25" and not options.refresh:
        _print_missing_vectors(folder)
    if _needs_llama_index(options, settings):
        hits, roots = _search_with_llama_index(options, folder, settings)
    else:
        hits, roots = _search_without_llama_index(options, folder, settings)
    if options.json:
        print_json(json_records(hits, roots))
    elif hits:
        print_hits(hits, roots, lines=options.lines, is_marked=_has_word_of(options.question))
    else:
        print_message("no hit")
    return 0 if hits else 1


def _print_missing_vectors(folder: Path) -> None:
    """Say how many nodes the first update of the index has not embedded yet."""
    from llamaindex_code_retrieval.index.folder import open_storage

    storage = open_storage(folder)
    try:
        with storage.reading() as reading:
            missing, nodes = len(reading.unembedded()), reading.count("nodes")
    finally:
        storage.close()
    if missing:
        print_message(
            f"the vectors of {missing:,} of {nodes:,} nodes are not made yet, which are found by words alone; if no "
            f"update of the index is running, go on with: code-retrieval update --index {folder}"
        )


def _has_word_of(question: str) -> Callable[[str], bool]:
    """Return whether a line of code has a word of the question of at least three letters."""
    from llamaindex_code_retrieval._code_words import code_words

    words = {word for word in code_words(question) if len(word) > 2}
    return lambda line: not words.isdisjoint(code_words(line))


def _needs_llama_index(options: argparse.Namespace, settings: Mapping[str, Any]) -> bool:
    """Return whether a search needs more than the index and one encoder; LlamaIndex takes long to import."""
    if options.rerank is not None or options.refresh or settings["vector_store"] is not None:
        return True
    if options.mode == "bm25":
        return False
    if settings["adapters"] or settings["embedding"].get("class_name") != "CodeEmbedding":
        return True
    return options.fast_query is not None and not _is_static(options, settings)


def _is_static(options: argparse.Namespace, settings: Mapping[str, Any]) -> bool:
    if settings["embedding"].get("dimensions"):
        return False
    folder = find_query_encoder(options.fast_query, teacher=settings["fingerprint"])
    return QueryEncoderConfig.read(folder).kind == "static"


def _search_without_llama_index(
    options: argparse.Namespace, folder: Path, settings: Mapping[str, Any]
) -> tuple[list[Hit], list[Path]]:
    from llamaindex_code_retrieval.index.folder import open_storage
    from llamaindex_code_retrieval.index.rank import Ranking
    from llamaindex_code_retrieval.index.search import QuestionModel, search
    from llamaindex_code_retrieval.index.view import IndexReader

    node_filter = parse_filter(options)
    ranking = Ranking(top_k=options.top_n, mode=options.mode, model=_ranking_model(options), explain=options.explain)
    reader = IndexReader(open_storage(folder))
    try:
        roots = [restore_root(root, folder) for root in settings["roots"]]
        has_model = options.mode != "bm25" and options.fast_query is None
        if options.refresh is not False:
            changes = _changes(reader.storage, roots)
            is_complete = settings.get("unembedded") is None
            if has_model and is_complete and _is_quick(changes) and os.access(folder, os.W_OK):
                return _search_with_llama_index(options, folder, settings)  # which updates the index first
            _print_changes(changes, folder)
        model: QuestionModel | None = None
        if options.mode != "bm25":
            runtime: Runtime = options.runtime or "auto"
            model = QuestionModel.load(settings, fast_query=options.fast_query, device=options.device, runtime=runtime)
            model.check(settings, folder)
        with reader.view(words=options.mode != "dense") as view:
            found = search(view, options.question, model, ranking=ranking, node_filter=node_filter)
        return [_explained(Hit(*node)) for node in found], roots
    finally:
        reader.close()


def _ranking_model(options: argparse.Namespace) -> RankingModel | None:
    from llamaindex_code_retrieval.ranking.model import RankingModel, default_model

    if options.mode != "fused":
        return None
    return default_model() if options.ranking is None else RankingModel.load(options.ranking)


def _explained(hit: Hit) -> Hit:
    """Return a hit whose note says what raises and what lowers it most, if that is in its metadata."""
    reasons = list(hit.metadata.get("why", {}).items())[:_REASONS]
    return hit._replace(note="  ".join(f"{name} {value:+.2f}" for name, value in reasons)) if reasons else hit


def _changes(storage: Storage, folders: Sequence[Path]) -> ChangeCounts:
    """Count the files that have changed since the last update; none if a folder is gone."""
    from llamaindex_code_retrieval.index.changes import ChangeCounts, changes_since_update

    if not folders or not all(root.is_dir() for root in folders):
        return ChangeCounts()
    return changes_since_update(storage, limit_seconds=_LOOK_SECONDS)


def _is_quick(changes: ChangeCounts) -> bool:
    """Return whether the changed files are few enough to read them before the search."""
    return 0 < changes.total <= _QUICK_FILES and changes.is_complete


def _print_changes(changes: ChangeCounts, folder: Path) -> None:
    if changes.total:
        more = "" if changes.is_complete else "at least "
        files = "1 file has" if changes.total == 1 else f"{changes.total:,} files have"
        print_message(
            f"{more}{files} changed since the last update; bring the index up to date with: code-retrieval update "
            f"--index {folder}"
        )


def _has_static_model(settings: Mapping[str, Any]) -> bool:
    """Return whether a static model made the vectors of an index."""
    embedding = settings["embedding"]
    return embedding.get("class_name") == "CodeEmbedding" and is_static_model(embedding["model_name"])


def _search_with_llama_index(
    options: argparse.Namespace, folder: Path, settings: Mapping[str, Any]
) -> tuple[list[Hit], list[Path]]:
    from llamaindex_code_retrieval.index.code_index import CodeIndex

    device = None if _has_static_model(settings) else options.device  # then it is the reranker's alone
    words_only = options.mode == "bm25" and not options.refresh
    index: CodeIndex = (
        CodeIndex.open(folder, words_only=True)
        if words_only
        else CodeIndex.open(folder, query_encoder=options.fast_query, device=device, runtime=options.runtime)
    )
    with index:
        _refresh(index, options, words_only=words_only)
        top_k = options.top_n if options.rerank is None else options.candidates or max(_CANDIDATES, options.top_n)
        found = index.search(
            options.question,
            top_k=top_k,
            mode=options.mode,
            filters=parse_filter(options),
            ranking_model=options.ranking,
            explain=options.explain,
        )
        if options.rerank is not None:
            found = _rerank(found, index, options)
        hits = [
            _explained(Hit(hit.node_id, hit.get_score(), hit.node.metadata, hit.node.get_content())) for hit in found
        ]
        return hits, [Path(root) for root in index.roots]


def _refresh(index: CodeIndex, options: argparse.Namespace, *, words_only: bool) -> None:
    """Update the index where that is asked for or takes a moment; else say what has changed."""
    if options.refresh is False or not index.roots or not all(Path(root).is_dir() for root in index.roots):
        return
    changes = index.changes(limit_seconds=_LOOK_SECONDS)
    may_update = not words_only and not index.missing_vectors and os.access(index.folder, os.W_OK)
    if options.refresh or (_is_quick(changes) and may_update):
        with progress_bars() as progress:
            index.update(on_progress=progress)
    else:
        _print_changes(changes, index.folder)


def _check(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Raise what is wrong with the arguments before a model is loaded; return the settings of the index."""
    from llamaindex_code_retrieval.index.folder import read_settings  # imports NumPy

    if options.question is None:
        raise ValueError(_missing_question(options))
    if not options.question.strip():
        raise ValueError("the question is empty; say in words what the code should do")
    if options.rerank is None:
        refuse_without_effect(
            options, ("rerank_weight", "candidates", "early_exit", "rerank_precision"), "without --rerank"
        )
    elif options.candidates is not None and options.candidates < options.top_n:
        raise ValueError(f"--candidates {options.candidates} is less than --top-n {options.top_n}; raise it")
    elif options.rerank_weight is not None:
        if not 0 < options.rerank_weight < math.inf:
            raise ValueError(f"--rerank-weight must be a number over 0, got {options.rerank_weight}; try 0.1")
        refuse_without_effect(options, ("early_exit",), "with --rerank-weight")
    if options.mode == "bm25":
        loads = options.rerank is not None or options.refresh
        names = ("fast_query",) if loads else ("fast_query", "device", "runtime")
        refuse_without_effect(options, names, "with --mode bm25, which loads no embedding model")
    if options.mode != "fused":
        reason = f"with --mode {options.mode}, which ranks by one score"
        refuse_without_effect(options, ("ranking", "explain"), reason)
    _ranking_model(options)
    if options.json:
        refuse_without_effect(options, ("lines",), "with --json, which prints whole nodes")
    parse_filter(options)
    settings = read_settings(folder)
    if _has_static_model(settings):
        without_effect = ["fast_query", "runtime", *(["device"] if options.rerank is None else [])]
        model = settings["embedding"]["model_name"]
        refuse_without_effect(options, without_effect, f"on an index of the static model {model}")
    # the fingerprint of short vectors is not that of the teacher, which is compared when it is loaded
    if options.fast_query is not None and not settings["embedding"].get("dimensions"):
        find_query_encoder(options.fast_query, teacher=settings["fingerprint"])
    if options.rerank is not None:
        from llamaindex_code_retrieval.models.scoring import calibration_of

        calibration = calibration_of(options.rerank)
        if options.early_exit is not None:
            calibration.ceiling(options.early_exit)
    return settings


def _missing_question(options: argparse.Namespace) -> str:
    """Return what to do without a question, which an option with an optional value may have taken as its value."""
    for name, value, default in (
        ("--rerank", options.rerank, DEFAULT_RERANKER),
        ("--fast-query", options.fast_query, AUTO),
    ):
        if value not in (None, default):
            return f"the question is missing: {value!r} was read as the value of {name}; put the question before {name}"
    return 'the question is missing; say in words what the code should do, as in: code-retrieval search "parse a date"'


def _rerank(hits: list[NodeWithScore], index: CodeIndex, options: argparse.Namespace) -> list[NodeWithScore]:
    from llamaindex_code_retrieval.models.scoring import calibration_of, shares_base
    from llamaindex_code_retrieval.reranker import CodeReranker, are_parts_of_files, warn_of_kept_order

    if (
        options.rerank_weight is None
        and calibration_of(options.rerank).repository_weight == 0
        and are_parts_of_files(hits)
    ):  # the reranker would be loaded for nothing
        warn_of_kept_order(options.rerank)
        return hits[: options.top_n]
    precision: RerankPrecision = options.rerank_precision or "auto"
    loads_base = options.mode != "bm25" and options.fast_query is None  # else the base would be loaded to compare it
    shared = loads_base and shares_base(options.rerank, index.embedding.encoder, precision=precision)
    reranker = CodeReranker(
        options.rerank,
        embedding=index.embedding if shared else None,
        top_n=options.top_n,
        repository_weight=options.rerank_weight,
        early_exit=options.early_exit,
        precision=precision,
        device=options.device,
    )
    return reranker.postprocess_nodes(hits, query_str=options.question)
