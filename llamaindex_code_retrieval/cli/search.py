"""The commands index, update, search, info, models and demo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.checkout import GIT_URL, check_sources, checkout, ignore_by_git, update_clone
from llamaindex_code_retrieval.cli.console import (
    print_code,
    print_json,
    print_message,
    print_parts,
    print_table,
    print_text,
    progress_bars,
)
from llamaindex_code_retrieval.cli.options import (
    DEFAULT_INDEX,
    absolute,
    cache_folder,
    common_options,
    print_report,
    say_waiting,
)
from llamaindex_code_retrieval.models.catalog import BASES, DEFAULT_ADAPTERS, DEFAULT_RERANKER, EMBEDDED, NO_ADAPTER
from llamaindex_code_retrieval.models.locate import shipped_adapters, shipped_query_encoders, shipped_rerankers
from llamaindex_code_retrieval.models.query_encoder import AUTO

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from llamaindex_code_retrieval.index.code_index import CodeIndex

_LONGEST_LINE = 200
"""Characters of a line of code that are shown."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    index = commands.add_parser("index", help="build an index of folders or git repositories")
    index.add_argument("sources", nargs="+", metavar="PATH|GIT-URL")
    index.add_argument("--out", default=DEFAULT_INDEX, metavar="DIR", help="the index (default: %(default)s)")
    index.add_argument("--model", default=EMBEDDED, help="known name, hub name or folder (default: %(default)s)")
    index.add_argument(
        "--adapter",
        metavar="ADAPTER",
        help=f"folder, hub name or one of ours (`code-retrieval models`); {NO_ADAPTER}: the bare base (default: ours)",
    )
    index.add_argument(
        "--language-adapter",
        action="append",
        default=[],
        metavar="LANGUAGE=ADAPTER",
        help="for the nodes of this language; repeat for more",
    )
    index.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    index.add_argument("--max-code-tokens", type=int, metavar="N", help="default: what suits the model")
    index.add_argument(
        "--max-lines", type=int, default=60, metavar="N", help="lines of the longest node (default: %(default)s)"
    )
    index.add_argument(
        "--overlap-lines",
        type=int,
        metavar="N",
        help="lines that the parts of a split node share (default: a quarter of --max-lines, at most 6)",
    )
    common_options(index, writes=True)
    index.set_defaults(run=_index)

    update = commands.add_parser("update", help="bring an index in line with its folders; embeds only what changed")
    _index_option(update)
    common_options(update, writes=True)
    update.set_defaults(run=_update)

    search = commands.add_parser("search", help="ask an index")
    search.add_argument("question")
    _index_option(search)
    search.add_argument("--top-n", type=int, default=10, metavar="N", help="hits to show (default: %(default)s)")
    search.add_argument("--mode", choices=("fused", "dense", "bm25"), default="fused")
    search.add_argument(
        "--fast-query",
        nargs="?",
        const=AUTO,
        metavar="STUDENT",
        help="embed the question by a small student of the index's model (default: ours for it)",
    )
    search.add_argument(
        "--rerank",
        nargs="?",
        const=DEFAULT_RERANKER,
        metavar="MODEL",
        help="read the first hits together with the question, by this cross-encoder (default: %(const)s)",
    )
    search.add_argument(
        "--candidates", type=int, default=50, metavar="N", help="hits that --rerank reads (default: %(default)s)"
    )
    search.add_argument(
        "--early-exit",
        type=float,
        metavar="CONFIDENCE",
        help="let --rerank stop when, at this confidence (0.8, 0.9, 0.95, 0.99), the rest cannot enter the top n",
    )
    search.add_argument(
        "--rerank-precision",
        choices=("auto", "fp32", "bf16", "int8"),
        default="auto",
        help="int8 is faster on a CPU (default: %(default)s)",
    )
    search.add_argument(
        "--lines", type=int, default=8, metavar="N", help="lines of each excerpt (default: %(default)s)"
    )
    common_options(search, embeds=False)
    search.set_defaults(run=_search)

    info = commands.add_parser("info", help="what an index holds")
    _index_option(info)
    info.add_argument("--json", action="store_true", help="machine-readable")
    info.set_defaults(run=_info)

    models = commands.add_parser("models", help="the bases known by name")
    models.add_argument("--json", action="store_true", help="machine-readable")
    models.set_defaults(run=_models)


def _index_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", default=DEFAULT_INDEX, metavar="DIR", help="the index (default: %(default)s)")


def _index(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.chunking import CodeNodeParser
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.storage import update_lock

    check_sources(options.sources)
    out = Path(options.out)
    parser = CodeNodeParser(max_lines=options.max_lines, overlap_lines=options.overlap_lines)
    existed = out.exists()
    try:
        with update_lock(out, seconds=options.wait, on_wait=say_waiting):
            ignore_by_git(out)
            roots = [checkout(source, out) if GIT_URL.fullmatch(source) else Path(source) for source in options.sources]
            embedding = CodeEmbedding(
                absolute(options.model),
                adapter=absolute(options.adapter) if options.adapter else None,
                adapters=_language_adapters(options.language_adapter),
                precision=options.precision,
                max_code_tokens=options.max_code_tokens,
                device=options.device,
                cache_folder=cache_folder(options),
            )
            index = CodeIndex(embedding, parser=parser)
            with progress_bars() as progress:
                report = index.update(roots, on_progress=progress)
            index.save(out)
    finally:
        if not existed:
            _remove_if_unused(out)
    return print_report(report, index, out, as_json=options.json)


def _update(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.storage import read_manifest, update_lock

    target = Path(options.index)
    read_manifest(target)  # fails before the lock makes a folder
    with update_lock(target, seconds=options.wait, on_wait=say_waiting):
        index = CodeIndex.load(target, cache_folder=cache_folder(options), device=options.device)
        for root in index.roots:
            if Path(root).is_relative_to((target / "sources").resolve()) and Path(root).is_dir():
                update_clone(Path(root))
        with progress_bars() as progress:
            report = index.update(on_progress=progress)
        index.save(target)
    return print_report(report, index, target, as_json=options.json)


def _language_adapters(given: Sequence[str]) -> dict[str, str]:
    adapters: dict[str, str] = {}
    for each in given:
        language, equals, adapter = each.partition("=")
        if not (language and equals and adapter):
            raise ValueError(f"--language-adapter takes LANGUAGE=ADAPTER, got {each!r}")
        adapters[language] = absolute(adapter)
    return adapters


def _remove_if_unused(out: Path) -> None:
    """Remove a folder in which no index came to be."""
    own = {".gitignore", ".lock"}
    clones = out / "sources"
    if clones.is_dir() and not any(clones.iterdir()):
        clones.rmdir()
    if out.is_dir() and {path.name for path in out.iterdir()} <= own:
        for name in own:
            (out / name).unlink(missing_ok=True)
        out.rmdir()


# --- search ----------------------------------------------------------------------------------------------------------


def _search(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.storage import read_manifest
    from llamaindex_code_retrieval.retriever import CodeRetriever

    for name in ("top_n", "candidates", "lines"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not options.question.strip():
        raise ValueError("the question is empty; say in words what the code should do")
    target = Path(options.index)
    read_manifest(target)
    index = CodeIndex.load(target, query_encoder=options.fast_query, device=options.device)
    top_k = max(options.candidates, options.top_n) if options.rerank else options.top_n
    hits = CodeRetriever(index, top_k=top_k, mode=options.mode).retrieve(options.question)
    if options.rerank:
        from llamaindex_code_retrieval.models.scoring import shares_base
        from llamaindex_code_retrieval.reranker import CodeReranker

        reranker = CodeReranker(
            options.rerank,
            embedding=index.embedding if shares_base(options.rerank, index.embedding.encoder) else None,
            top_n=options.top_n,
            early_exit=options.early_exit,
            precision=options.rerank_precision,
            device=options.device,
        )
        hits = reranker.postprocess_nodes(hits, query_str=options.question)
    if options.json:
        print_json([_hit_facts(rank, hit, index) for rank, hit in enumerate(hits, start=1)])
    elif hits:
        _print_hits(hits, options.question, index, lines=options.lines)
    else:
        print_message("no hit")
    return 0 if hits else 1


def _hit_facts(rank: int, hit: NodeWithScore, index: CodeIndex) -> dict[str, Any]:
    facts = hit.node.metadata
    file = str(index.file_of(facts["path"]))
    return {"rank": rank, "score": hit.score, "file": file, **facts, "text": hit.node.get_content()}


def _print_hits(hits: Sequence[NodeWithScore], question: str, index: CodeIndex, *, lines: int) -> None:
    from llamaindex_code_retrieval.index.words import code_words

    words = {word for word in code_words(question) if len(word) > 2}
    for rank, hit in enumerate(hits, start=1):
        metadata = hit.node.metadata
        file = index.file_of(metadata["path"])
        path = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else metadata["path"]
        first = metadata["start_line"]
        print_parts(
            (f"{rank:>2}. ", "bold"),
            (f"{path}:{first}", "cyan"),
            (f"  {hit.get_score():.3f}", "dim"),
            (f"  {metadata['scope'] or '(' + metadata['kind'] + ')'}", "bold green"),
        )
        shown = [line[:_LONGEST_LINE] for line in hit.node.get_content().split("\n")[:lines]]
        print_code(
            "\n".join(shown),
            language=metadata["language"] or "text",
            first_line=first,
            marked={first + i for i, line in enumerate(shown) if words & set(code_words(line))},
        )


# --- info, models, demo ----------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.index.storage import read_manifest

    manifest = read_manifest(options.index)
    size = sum(path.stat().st_size for path in Path(options.index).rglob("*") if path.is_file())
    facts = {key: value for key, value in manifest.items() if key != "contents"} | {"bytes": size}
    if options.json:
        print_json(facts)
        return 0
    rows = []
    for key, value in facts.items():
        text = ", ".join(f"{name}={each}" for name, each in value.items()) if isinstance(value, dict) else value
        rows.append((key, "\n".join(text) if isinstance(text, list) else str(text)))
    print_table(f"Index {options.index}", rows)
    return 0


def _models(options: argparse.Namespace) -> int:
    if options.json:
        print_json([asdict(base) for base in BASES.values()])
        return 0
    rows = []
    for base in BASES.values():
        tokens = f"{base.max_query_tokens}/{base.max_code_tokens}"  # query/code
        rows.append((base.name, base.architecture, base.pooling, str(base.dim), tokens, f"{base.millions} M"))
    print_table(
        "Base models known by name; folders and hub names of these architectures work too",
        rows,
        headings=("name", "architecture", "pooling", "dim", "tokens", "size"),
        numeric=("dim", "tokens", "size"),
    )
    default = ", ".join(f"{adapter} for {base}" for base, adapter in DEFAULT_ADAPTERS.items())
    print_text(f"Adapters in the package: {', '.join(shipped_adapters())} (default: {default})")
    print_text(f"Rerankers in the package: {', '.join(shipped_rerankers())}")
    print_text(f"Query encoders in the package: {', '.join(shipped_query_encoders())}")
    return 0
