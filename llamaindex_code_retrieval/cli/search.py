"""The command ``search``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.console import print_code, print_json, print_message, print_parts
from llamaindex_code_retrieval.cli.options import common_options, index_option, positive, refuse_without_effect
from llamaindex_code_retrieval.models.catalog import DEFAULT_RERANKER
from llamaindex_code_retrieval.models.query_encoder_config import AUTO, find_query_encoder

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.models.reranker_config import RerankPrecision

_CANDIDATES = 50
_LINES = 8
_LONGEST_LINE = 200
"""Characters of a line of code that are printed."""


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
    parser.add_argument("--lines", type=positive, metavar="N", help=f"lines of code per hit (default: {_LINES})")
    common_options(parser, embeds=False)
    parser.set_defaults(run=run_search)


def run_search(options: argparse.Namespace) -> int:
    """Print the hits for a question; the exit code is 1 if there are none."""
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.retriever import CodeRetriever

    _check(options)
    if options.mode == "bm25":
        index: CodeIndex = CodeIndex.load(options.index, words_only=True)
    else:
        index = CodeIndex.load(options.index, query_encoder=options.fast_query, device=options.device)
    top_k = options.top_n if options.rerank is None else options.candidates or max(_CANDIDATES, options.top_n)
    hits = CodeRetriever(index, top_k=top_k, mode=options.mode).retrieve(options.question)
    if options.rerank is not None:
        hits = _rerank(hits, index, options)
    if options.json:
        print_json([_record(rank, hit, index) for rank, hit in enumerate(hits, start=1)])
    elif hits:
        _print_hits(hits, options.question, index, lines=options.lines or _LINES)
    else:
        print_message("no hit")
    return 0 if hits else 1


def _check(options: argparse.Namespace) -> None:
    """Raise what is wrong with the arguments before a model is loaded."""
    from llamaindex_code_retrieval.index.manifest import read_manifest

    if options.question is None:
        raise ValueError(_missing_question(options))
    if not options.question.strip():
        raise ValueError("the question is empty; say in words what the code should do")
    if options.rerank is None:
        refuse_without_effect(options, ("candidates", "early_exit", "rerank_precision"), "without --rerank")
    elif options.candidates is not None and options.candidates < options.top_n:
        raise ValueError(f"--candidates {options.candidates} is less than --top-n {options.top_n}; raise it")
    if options.mode == "bm25":
        names = ("fast_query",) if options.rerank is not None else ("fast_query", "device")
        refuse_without_effect(options, names, "with --mode bm25, which loads no embedding model")
    if options.json:
        refuse_without_effect(options, ("lines",), "with --json, which prints whole nodes")
    manifest = read_manifest(options.index)
    if options.fast_query is not None:
        find_query_encoder(options.fast_query, teacher=manifest["fingerprint"])
    if options.rerank is not None:
        from llamaindex_code_retrieval.models.scoring import calibration_of

        calibration = calibration_of(options.rerank)
        if options.early_exit is not None:
            calibration.ceiling(options.early_exit)


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
    from llamaindex_code_retrieval.models.scoring import shares_base
    from llamaindex_code_retrieval.reranker import CodeReranker

    precision: RerankPrecision = options.rerank_precision or "auto"
    has_model = options.mode != "bm25"
    shared = has_model and shares_base(options.rerank, index.embedding.encoder, precision=precision)
    reranker = CodeReranker(
        options.rerank,
        embedding=index.embedding if shared else None,
        top_n=options.top_n,
        early_exit=options.early_exit,
        precision=precision,
        device=options.device,
    )
    return reranker.postprocess_nodes(hits, query_str=options.question)


def _record(rank: int, hit: NodeWithScore, index: CodeIndex) -> dict[str, Any]:
    metadata = hit.node.metadata
    file = str(index.file_of(metadata["path"])) if "path" in metadata else None
    return {"rank": rank, "score": hit.score, "file": file, **metadata, "text": hit.node.get_content()}


def _print_hits(hits: Sequence[NodeWithScore], question: str, index: CodeIndex, *, lines: int) -> None:
    """Print for each hit ``path:line  score  scope`` and its first lines, those with a word of the question marked."""
    from llamaindex_code_retrieval.index.code_words import code_words

    words = {word for word in code_words(question) if len(word) > 2}
    for rank, hit in enumerate(hits, start=1):
        metadata = hit.node.metadata
        place, first = _place(hit, index)
        print_parts(
            (f"{rank:>2}. ", "bold"),
            (f"{place}:{first}", "cyan"),
            (f"  {hit.get_score():.3f}", "dim"),
            (f"  {metadata.get('scope') or '(' + metadata.get('kind', 'node') + ')'}", "bold green"),
        )
        shown = [line[:_LONGEST_LINE] for line in hit.node.get_content().split("\n")[:lines]]
        print_code(
            "\n".join(shown),
            language=metadata.get("language") or "text",
            first_line=first,
            marked={first + i for i, line in enumerate(shown) if words & set(code_words(line))},
        )


def _place(hit: NodeWithScore, index: CodeIndex) -> tuple[str, int]:
    """Return the file of a hit and its first line; of a node of a notebook, the cell too and the line in the cell.

    The path is that from here if the file lies below, else as indexed. A node without a path has its id.
    """
    metadata = hit.node.metadata
    first = metadata.get("start_line", 1)
    if "path" not in metadata:
        return hit.node_id, first
    file = index.file_of(metadata["path"])
    path = str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else metadata["path"])
    if metadata.keys() >= {"cell", "cell_start_line"}:
        return f"{path}#cell {metadata['cell']}", metadata["cell_start_line"]
    return path, first
