"""The command ``code-retrieval``: parse, call, print, exit code.

Exit codes: 0 done, 1 nothing found, 2 wrong input or a state that needs the user, 130 interrupted.
Results go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from llamaindex_code_retrieval.models import BASES, DEFAULT_RERANKER, EMBEDDED

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from llamaindex_code_retrieval.index import CodeIndex, IndexReport

DEFAULT_INDEX = ".code-retrieval"
_GIT_URL = re.compile(r"(https?|ssh|git|file)://.+|[\w.-]+@[\w.-]+:.+")
_STAGES = {"parse": "parsing files", "embed": "embedding nodes", "evaluate": "asking"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError, ImportError, TimeoutError) as error:
        if options.debug:
            raise
        print(f"code-retrieval: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ncode-retrieval: interrupted; an index on disk is as it was, and the same command goes on from the cache",
            file=sys.stderr,
        )
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="code-retrieval", description="Find the right code for a question.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    index = commands.add_parser("index", help="build an index of folders or git repositories")
    index.add_argument("sources", nargs="+", metavar="PATH|GIT-URL")
    index.add_argument("--out", default=DEFAULT_INDEX, metavar="DIR", help="the index (default: %(default)s)")
    index.add_argument("--model", default=EMBEDDED, help="known name, hub name or folder (default: %(default)s)")
    index.add_argument("--adapter", help="PEFT adapter: hub name or folder")
    index.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    index.add_argument("--max-code-tokens", type=int, metavar="N", help="default: what suits the model")
    index.add_argument("--max-lines", type=int, default=60, metavar="N", help="longest node (default: %(default)s)")
    index.add_argument(
        "--overlap-lines", type=int, default=6, metavar="N", help="of split nodes (default: %(default)s)"
    )
    _common(index, writes=True)
    index.set_defaults(run=_index)

    update = commands.add_parser("update", help="bring an index in line with its folders; embeds only what changed")
    _index_option(update)
    _common(update, writes=True)
    update.set_defaults(run=_update)

    search = commands.add_parser("search", help="ask an index")
    search.add_argument("question")
    _index_option(search)
    search.add_argument("--top-n", type=int, default=10, metavar="N", help="hits to show (default: %(default)s)")
    search.add_argument("--mode", choices=("fused", "dense", "bm25"), default="fused")
    search.add_argument(
        "--rerank", nargs="?", const=DEFAULT_RERANKER, metavar="MODEL", help="cross-encoder (default: %(const)s)"
    )
    search.add_argument(
        "--candidates", type=int, default=50, metavar="N", help="hits that --rerank reads (default: %(default)s)"
    )
    search.add_argument(
        "--lines", type=int, default=8, metavar="N", help="lines of each excerpt (default: %(default)s)"
    )
    _common(search, embeds=False)
    search.set_defaults(run=_search)

    info = commands.add_parser("info", help="what an index holds")
    _index_option(info)
    info.add_argument("--json", action="store_true", help="machine-readable")
    info.set_defaults(run=_info)

    models = commands.add_parser("models", help="the bases known by name")
    models.add_argument("--json", action="store_true", help="machine-readable")
    models.set_defaults(run=_models)

    demo = commands.add_parser("demo", help="index part of Python's standard library, ask it and measure it")
    _common(demo)
    demo.set_defaults(run=_demo)
    return parser


def _index_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", default=DEFAULT_INDEX, metavar="DIR", help="the index (default: %(default)s)")


def _common(parser: argparse.ArgumentParser, *, embeds: bool = True, writes: bool = False) -> None:
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


def _cache_folder(options: argparse.Namespace) -> Path:
    from platformdirs import user_cache_path

    return Path(options.cache or os.environ.get("CODE_RETRIEVAL_CACHE") or user_cache_path("code-retrieval"))


# --- index and update ------------------------------------------------------------------------------------------------


def _index(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.chunking import CodeNodeParser
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index import CodeIndex, update_lock

    for source in options.sources:
        if not _GIT_URL.fullmatch(source) and not Path(source).expanduser().is_dir():
            kind = "a file" if Path(source).expanduser().exists() else "missing"
            raise ValueError(f"{source} is not a folder ({kind}); name a folder with source code, or a git URL")
    out = Path(options.out)
    parser = CodeNodeParser(max_lines=options.max_lines, overlap_lines=options.overlap_lines)
    existed = out.exists()
    try:
        with update_lock(out, seconds=options.wait, on_wait=_say_waiting):
            _ignore_by_git(out)
            roots = [
                _checkout(source, out) if _GIT_URL.fullmatch(source) else Path(source) for source in options.sources
            ]
            embedding = CodeEmbedding(
                _absolute(options.model),
                adapter=_absolute(options.adapter) if options.adapter else None,
                precision=options.precision,
                max_code_tokens=options.max_code_tokens,
                device=options.device,
                cache_folder=_cache_folder(options),
            )
            index = CodeIndex(embedding, parser=parser)
            with _progress() as progress:
                report = index.update(roots, on_progress=progress)
            index.save(out)
    finally:
        if not existed:
            _remove_if_unused(out)
    return _print_report(report, index, out, as_json=options.json)


def _update(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.index import CodeIndex, read_manifest, update_lock

    target = Path(options.index)
    read_manifest(target)  # fails before the lock makes a folder
    with update_lock(target, seconds=options.wait, on_wait=_say_waiting):
        index = CodeIndex.load(target, cache_folder=_cache_folder(options), device=options.device)
        for root in index.roots:
            if Path(root).is_relative_to((target / "sources").resolve()) and Path(root).is_dir():
                _refresh(Path(root))
        with _progress() as progress:
            report = index.update(on_progress=progress)
        index.save(target)
    return _print_report(report, index, target, as_json=options.json)


def _absolute(name_or_path: str) -> str:
    """Return a folder by its full path, since the index is searched from elsewhere; a name as it is."""
    folder = Path(name_or_path).expanduser()
    return str(folder.resolve()) if name_or_path != EMBEDDED and folder.is_dir() else name_or_path


def _say_waiting(who: str) -> None:
    print(f"code-retrieval: the index is being updated by {who}; waiting", file=sys.stderr)


def _ignore_by_git(out: Path) -> None:
    """Keep an index that lies inside a checkout out of that checkout's git status, and out of the index itself."""
    ignore = out / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")


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


def _checkout(url: str, out: Path) -> Path:
    """Clone the newest commit of ``url`` into the index's folder, or refresh the clone that is there."""
    name = re.sub(r"\.git$", "", url.rstrip("/")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    folder = out / "sources" / (re.sub(r"[^\w.-]", "-", name) or "repository")
    if folder.is_dir():
        if _git("remote", "get-url", "origin", folder=folder).strip() == url:
            _refresh(folder)
            return folder
        raise ValueError(f"{folder} is a clone of another repository than {url}; choose another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _git("clone", "--quiet", "--depth", "1", "--", url, str(partial))
    partial.rename(folder)
    return folder


def _refresh(clone: Path) -> None:
    _git("fetch", "--quiet", "--depth", "1", "origin", "HEAD", folder=clone)
    _git("reset", "--quiet", "--hard", "FETCH_HEAD", folder=clone)


def _git(*arguments: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
    except FileNotFoundError as error:
        raise OSError(
            "git is not installed; install it, or clone the repository yourself and name the folder"
        ) from error
    except subprocess.CalledProcessError as error:
        raise OSError(f"git {arguments[0]} failed: {error.stderr.strip()}") from error
    return done.stdout


def _print_report(report: IndexReport, index: CodeIndex, out: Path, *, as_json: bool) -> int:
    if as_json:
        facts = {
            **asdict(report),
            "index": str(out),
            "fingerprint": index.embedding.fingerprint,
            "languages": index.languages,
        }
        print(json.dumps(facts, indent=2))
        return 0
    table = Table(title=f"Index {out}", show_header=False, title_justify="left")
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
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
    return 0


@contextmanager
def _progress() -> Iterator[Any]:
    """Yield a callback (stage, done, total) that draws a bar a stage on stderr, if that is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(_STAGES.get(stage, stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


# --- search ----------------------------------------------------------------------------------------------------------


def _search(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.index import CodeIndex, read_manifest
    from llamaindex_code_retrieval.retriever import CodeRetriever

    for name in ("top_n", "candidates", "lines"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not options.question.strip():
        raise ValueError("the question is empty; say in words what the code should do")
    target = Path(options.index)
    read_manifest(target)
    index = CodeIndex.load(target, device=options.device)
    top_k = max(options.candidates, options.top_n) if options.rerank else options.top_n
    hits = CodeRetriever(index, top_k=top_k, mode=options.mode).retrieve(options.question)
    if options.rerank:
        from llamaindex_code_retrieval.reranker import CodeReranker

        reranker = CodeReranker(model=options.rerank, top_n=options.top_n, device=options.device)
        hits = reranker.postprocess_nodes(hits, query_str=options.question)
    if options.json:
        print(json.dumps([_hit_facts(rank, hit, index) for rank, hit in enumerate(hits, start=1)], indent=2))
    elif hits:
        _print_hits(hits, options.question, index, lines=options.lines)
    else:
        print("no hit", file=sys.stderr)
    return 0 if hits else 1


def _hit_facts(rank: int, hit: NodeWithScore, index: CodeIndex) -> dict[str, Any]:
    facts = hit.node.metadata
    file = str(index.file_of(facts["path"]))
    return {"rank": rank, "score": hit.score, "file": file, **facts, "text": hit.node.get_content()}


def _print_hits(hits: Sequence[NodeWithScore], question: str, index: CodeIndex, *, lines: int) -> None:
    from llamaindex_code_retrieval.lexical import code_words

    console = Console()
    asked = {word for word in code_words(question) if len(word) > 2}
    for rank, hit in enumerate(hits, start=1):
        facts = hit.node.metadata
        line = Text(f"{rank:>2}. ", style="bold")
        file = index.file_of(facts["path"])
        shown_path = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else facts["path"]
        line.append(f"{shown_path}:{facts['start_line']}", style="cyan")
        line.append(f"  {facts['scope'] or '(' + facts['kind'] + ')'}", style="bold green")
        line.append(f"  {hit.get_score():.3f}", style="dim")
        console.print(line, soft_wrap=True)
        shown = hit.node.get_content().split("\n")[:lines]
        first = facts["start_line"]
        matching = {first + i for i, text in enumerate(shown) if asked & set(code_words(text))}
        console.print(
            Syntax(
                "\n".join(text[:200] for text in shown),
                facts["language"] or "text",
                line_numbers=True,
                start_line=first,
                highlight_lines=matching,
                theme="ansi_dark",
                background_color="default",
            )
        )


# --- info, models, demo ----------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.index import read_manifest

    manifest = read_manifest(options.index)
    size = sum(path.stat().st_size for path in Path(options.index).rglob("*") if path.is_file())
    facts = {key: value for key, value in manifest.items() if key != "contents"} | {"bytes": size}
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    table = Table(title=f"Index {options.index}", show_header=False, title_justify="left")
    for key, value in facts.items():
        text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
        table.add_row(Text(key), Text("\n".join(text) if isinstance(text, list) else str(text)))
    Console().print(table)
    return 0


def _models(options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps([asdict(base) for base in BASES.values()], indent=2))
        return 0
    table = Table(title="Bases known by name; folders and hub names of these architectures work too")
    for heading in ("name", "architecture", "pooling", "dim", "tokens", "size"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "tokens", "size"))
    for base in BASES.values():
        tokens = f"{base.max_query_tokens}/{base.max_code_tokens}"  # query/code
        row = (base.name, base.architecture, base.pooling, str(base.dim), tokens, f"{base.millions} M")
        table.add_row(*map(Text, row))
    Console().print(table)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.demo import run_demo

    with _progress() as progress:
        demo = run_demo(cache_folder=_cache_folder(options), device=options.device, on_progress=progress)
    if options.json:
        print(json.dumps(demo.facts(), indent=2))
    else:
        demo.print(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
