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
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from llamaindex_code_retrieval.checkpoints import shipped_adapters
from llamaindex_code_retrieval.models import BASES, DEFAULT_ADAPTERS, DEFAULT_RERANKER, EMBEDDED, NO_ADAPTER

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from llamaindex_code_retrieval.adapt import Trained
    from llamaindex_code_retrieval.index import CodeIndex, IndexReport
    from llamaindex_code_retrieval.training.recipes import Recipe

DEFAULT_INDEX = ".code-retrieval"
_GIT_URL = re.compile(r"(https?|ssh|git|file)://.+|[\w.-]+@[\w.-]+:.+")
_QUIET_SECONDS = 60
_STAGES = {
    "parse": "parsing files",
    "embed": "embedding nodes",
    "evaluate": "asking",
    "generate": "answering",
    "rerank": "reranking",
    "time": "taking the time",
    "mine": "mining files",
    "compare": "comparing codes",
    "score": "scoring the base",
    "train": "training",
    "calibrate": "calibrating",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError, ImportError, TimeoutError, FloatingPointError) as error:
        if options.debug:
            raise
        print(f"code-retrieval: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ncode-retrieval: interrupted; what is on disk is whole, and the same command goes on from there "
            "(`train` with --resume)",
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

    mine = commands.add_parser("mine", help="make training pairs of the documented functions in source code")
    mine.add_argument("sources", nargs="+", metavar="PATH|GIT-URL")
    mine.add_argument("--out", required=True, metavar="FILE", help="pairs.jsonl or pairs.jsonl.gz")
    mine.add_argument("--language", action="append", metavar="L", help="only this one; may be repeated")
    mine.add_argument(
        "--exclude", action="append", default=[], metavar="REPOSITORY", help="to measure on; repeat for more"
    )
    mine.add_argument("--most-of-a-repository", type=int, metavar="N", help="keep at most so many pairs of each")
    mine.add_argument("--permissive-only", action="store_true", help="leave out what is not under a permissive licence")
    mine.add_argument("--json", action="store_true", help="machine-readable")
    mine.set_defaults(run=_mine)

    train = commands.add_parser("train", help="train an adapter (or all weights) of a base on pairs of query and code")
    train.add_argument(
        "--pairs",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="JSON lines of `mine` or CodeSearchNet, a folder in BEIR's layout, a set's name, or hf:org/name",
    )
    train.add_argument("--out", required=True, metavar="DIR", help="a new folder for the adapter")
    train.add_argument("--method", choices=("lora", "adalora", "ia3", "prompt", "full"), help="default: lora")
    train.add_argument("--recipe", metavar="NAME|TOML", help="settings to begin with; see `code-retrieval recipes`")
    train.add_argument(
        "--validate", nargs="+", default=[], metavar="SOURCE", help="pairs that validate (default: hold some out)"
    )
    train.add_argument("--resume", action="store_true", help="go on with the unfinished run in --out")
    train.add_argument("--start", metavar="ADAPTER", help="go on from this adapter")
    train.add_argument("--push", metavar="ORG/NAME", help="upload the result to the hub")
    _training(train)
    train.set_defaults(run=_train)

    reranker = commands.add_parser("train-reranker", help="train and calibrate a cross-encoder behind a first stage")
    reranker.add_argument("--pairs", nargs="+", required=True, metavar="SOURCE", help="as for `train`")
    reranker.add_argument("--out", required=True, metavar="DIR", help="a new folder for the reranker")
    reranker.add_argument(
        "--variant",
        choices=("adapters", "separate", "shared"),
        help="an adapter on the embedding's base, a base of its own, or one trained for both (default: adapters)",
    )
    reranker.add_argument("--recipe", metavar="NAME|TOML", help="settings to begin with; see `code-retrieval recipes`")
    reranker.add_argument(
        "--retriever", metavar="ADAPTER", help="of the first stage, whose hits it learns from (default: the base's)"
    )
    reranker.add_argument(
        "--validate", nargs="+", default=[], metavar="SOURCE", help="pairs that calibrate (default: hold some out)"
    )
    reranker.add_argument("--resume", action="store_true", help="go on with the unfinished run in --out")
    reranker.add_argument("--push", metavar="ORG/NAME", help="upload the result to the hub")
    _training(reranker)
    reranker.add_argument(
        "--cache", metavar="DIR", help="embedding cache (default: CODE_RETRIEVAL_CACHE or the user's cache)"
    )
    reranker.set_defaults(run=_train_reranker)

    adapt = commands.add_parser("adapt", help="mine a code base, train an adapter on it, and index it with that")
    adapt.add_argument("sources", nargs="+", metavar="PATH")
    adapt.add_argument("--out", default=DEFAULT_INDEX, metavar="DIR", help="the index (default: %(default)s)")
    adapt.add_argument(
        "--adapter-out", default=f"{DEFAULT_INDEX}-adapter", metavar="DIR", help="the adapter (default: %(default)s)"
    )
    adapt.add_argument(
        "--minutes", type=float, default=15, help="time for mining, training and scoring (default: %(default)s)"
    )
    adapt.add_argument(
        "--recipe", default="lora", metavar="NAME|TOML", help="settings to begin with (default: %(default)s)"
    )
    adapt.add_argument("--start", metavar="ADAPTER", help="go on from this adapter")
    _training(adapt)
    adapt.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS", help="for another update (default: %(default)s)"
    )
    adapt.add_argument(
        "--cache", metavar="DIR", help="embedding cache (default: CODE_RETRIEVAL_CACHE or the user's cache)"
    )
    adapt.set_defaults(run=_adapt, epochs=10.0)

    recipes = commands.add_parser("recipes", help="the training recipes that come with the package")
    recipes.add_argument("--json", action="store_true", help="machine-readable")
    recipes.set_defaults(run=_recipes)

    evaluate = commands.add_parser("eval", help="measure retrieval and answers, and compare them with a baseline")
    evaluate.add_argument(
        "suite", nargs="?", default=EMBEDDED, metavar="SUITE", help="TOML file, or one of ours (default: %(default)s)"
    )
    evaluate.add_argument("--out", default="code-retrieval-report", metavar="DIR", help="default: %(default)s")
    evaluate.add_argument(
        "--rerank-k", metavar="K,K,...", help="instead, measure systems with a reranker by the number of hits it reads"
    )
    evaluate.add_argument("--baseline", metavar="FILE", help="an earlier report.json to compare with")
    evaluate.add_argument("--gate", action="store_true", help="exit with 1 if something got significantly worse")
    evaluate.add_argument("--update-baseline", action="store_true", help="write the result to --baseline, for review")
    _common(evaluate)
    evaluate.set_defaults(run=_eval)

    benchmark = commands.add_parser("benchmark", help="make a fixed benchmark of the documented functions in folders")
    benchmark.add_argument("sources", nargs="+", metavar="PATH")
    benchmark.add_argument("--out", required=True, metavar="DIR", help="a new folder, in BEIR's layout")
    benchmark.add_argument("--split", default="test", help="default: %(default)s")
    benchmark.add_argument("--queries", type=int, metavar="N", help="so many of them, drawn by chance (default: all)")
    benchmark.add_argument("--json", action="store_true", help="machine-readable")
    benchmark.set_defaults(run=_benchmark)

    models = commands.add_parser("models", help="the bases known by name")
    models.add_argument("--json", action="store_true", help="machine-readable")
    models.set_defaults(run=_models)

    demo = commands.add_parser("demo", help="index part of Python's standard library, ask it and measure it")
    _common(demo)
    demo.set_defaults(run=_demo)
    return parser


def _training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", metavar="MODEL", help=f"known name, hub name or folder (default: {EMBEDDED})")
    parser.add_argument("--language", nargs="+", metavar="L", help="only pairs of these")
    parser.add_argument("--epochs", type=float, metavar="N")
    parser.add_argument("--batch-size", type=int, metavar="PAIRS")
    parser.add_argument("--learning-rate", type=float, metavar="RATE")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of a recipe; repeat for more",
    )
    _common(parser, embeds=False)


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
    from llamaindex_code_retrieval.cache import default_cache_folder

    return Path(options.cache) if options.cache else default_cache_folder()


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
                adapters=_language_adapters(options.language_adapter),
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


def _language_adapters(given: Sequence[str]) -> dict[str, str]:
    adapters: dict[str, str] = {}
    for each in given:
        language, equals, adapter = each.partition("=")
        if not (language and equals and adapter):
            raise ValueError(f"--language-adapter takes LANGUAGE=ADAPTER, got {each!r}")
        adapters[language] = _absolute(adapter)
    return adapters


def _absolute(name_or_path: str) -> str:
    """Return a folder by its full path, since the index is searched from elsewhere; a name as it is."""
    folder = Path(name_or_path).expanduser()
    named = name_or_path in (EMBEDDED, NO_ADAPTER, *shipped_adapters())
    return str(folder.resolve()) if not named and folder.is_dir() else name_or_path


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
    """Yield a callback (stage, done, total) that draws a bar a stage on stderr, or a line a minute into a file."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}
        said = time.monotonic()

        def show(stage: str, done: int, total: int) -> None:
            nonlocal said
            if not bars.console.is_terminal and time.monotonic() - said > _QUIET_SECONDS:
                said = time.monotonic()
                print(f"{_STAGES.get(stage, stage)}: {done:,} of {total:,}", file=sys.stderr, flush=True)
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


# --- train and adapt -------------------------------------------------------------------------------------------------


def _mine(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.training.pairs import mine, write_pairs

    out = Path(options.out)
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"--out is {out}; its name must end in .jsonl or .jsonl.gz")
    if not out.parent.is_dir():
        raise ValueError(f"--out is {out}, but there is no folder {out.parent}; make it first")
    with tempfile.TemporaryDirectory() as clones, _progress() as progress:
        roots = [
            _checkout(source, Path(clones, str(place))) if _GIT_URL.fullmatch(source) else Path(source).expanduser()
            for place, source in enumerate(options.sources)
        ]
        report = mine(
            roots,
            languages=options.language,
            permissive_only=options.permissive_only,
            exclude=options.exclude,
            most_of_a_repository=options.most_of_a_repository,
            on_progress=progress,
        )
    if not report.pairs:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in {**report.dropped, **report.skipped}.items())
        raise ValueError(
            f"no pair in {', '.join(options.sources)}: {report.files:,} files read, {report.functions:,} functions "
            f"with a doc comment ({reasons or 'no source file'}); name a folder with documented functions"
        )
    write_pairs(out, report.pairs)
    facts: dict[str, Any] = {"pairs": len(report.pairs), "files": report.files, "functions": report.functions}
    for name in ("language", "repository", "license"):
        facts[name] = dict(Counter(getattr(pair, name) or "unknown" for pair in report.pairs).most_common())
    facts |= {"dropped": report.dropped, "skipped": report.skipped, "out": str(out)}
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    table = Table(title=f"{len(report.pairs):,} pairs in {out}", show_header=False, title_justify="left")
    table.add_row("files", f"{report.files:,}")
    table.add_row("documented functions", f"{report.functions:,}")
    for name in ("language", "repository", "license", "dropped", "skipped"):
        rows = list(facts[name].items())
        shown = [f"{count:,} {what}" for what, count in rows[:20]]
        shown += [f"and {len(rows) - 20:,} more"] if len(rows) > 20 else []
        if shown:
            table.add_row(name, Text("\n".join(shown)))
    Console().print(table)
    return 0


def _train(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.adapt import is_main_process, train_from_pairs

    recipe = _recipe(options, options.recipe or options.method or "lora")
    with _progress() as progress:
        trained = train_from_pairs(
            options.pairs,
            options.out,
            recipe,
            start=options.start,
            validate_on=options.validate,
            device=options.device,
            resume=options.resume,
            on_progress=progress,
        )
    if not is_main_process():
        return 0
    facts = {**trained.facts, "folder": str(trained.folder)}
    if options.push:
        from llamaindex_code_retrieval.training.records import push_run

        facts["pushed"] = push_run(trained.folder, options.push)
    _print_training(trained, facts, as_json=options.json)
    return 0


def _adapt(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.adapt import adapt_to_repository
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index import CodeIndex, update_lock

    for source in options.sources:
        if not Path(source).expanduser().is_dir():
            raise ValueError(f"{source} is not a folder; name a checkout with source code")
    recipe = _recipe(options, options.recipe)
    with _progress() as progress:
        trained = adapt_to_repository(
            options.sources,
            options.adapter_out,
            recipe,
            minutes=options.minutes,
            start=options.start,
            device=options.device,
            on_progress=progress,
        )
    if trained.before is None or trained.after is None:
        raise ValueError("no function was held out, so there is nothing to compare; name a larger code base")
    better = trained.after["mrr"] > trained.before["mrr"]
    adapter = str(trained.folder.resolve()) if better else options.start  # None: the base's default one
    out = Path(options.out)
    with update_lock(out, seconds=options.wait, on_wait=_say_waiting):
        _ignore_by_git(out)
        embedding = CodeEmbedding(
            _absolute(recipe.base), adapter=adapter, device=options.device, cache_folder=_cache_folder(options)
        )
        index = CodeIndex(embedding)
        with _progress() as progress:
            report = index.update([Path(source) for source in options.sources], on_progress=progress)
        index.save(out)
    facts = {**trained.facts, "folder": str(trained.folder), "index": str(out), "indexed_with_adapter": better}
    _print_training(trained, facts, as_json=options.json)
    if not options.json:
        _print_report(report, index, out, as_json=False)
    if not better:
        print("code-retrieval: the adapter does not help on held-out functions; indexed without it", file=sys.stderr)
    return 0


def _train_reranker(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.adapt import is_main_process
    from llamaindex_code_retrieval.cascade import train_reranker_from_pairs
    from llamaindex_code_retrieval.training.recipes import load_reranker_recipe

    recipe = load_reranker_recipe(options.recipe or options.variant or "adapters")
    if options.variant is not None and options.variant != recipe.train.variant:
        raise ValueError(
            f"the recipe {options.recipe} is for the variant {recipe.train.variant!r}; leave out --variant"
        )
    settings = _settings(options)
    if options.retriever is not None:
        settings["retriever"] = options.retriever
    with _progress() as progress:
        trained = train_reranker_from_pairs(
            options.pairs,
            options.out,
            recipe.with_settings(settings),
            validate_on=options.validate,
            device=options.device,
            cache_folder=_cache_folder(options),
            resume=options.resume,
            on_progress=progress,
        )
    if not is_main_process():
        return 0
    facts = {**trained.facts, "folder": str(trained.folder)}
    if options.push:
        from llamaindex_code_retrieval.training.records import push_run

        facts["pushed"] = push_run(trained.folder, options.push)
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    calibration = facts["calibration"]
    rows = [
        ("base", f"{facts['base']['name']}, fingerprint {facts['base']['fingerprint']}"),
        ("variant", f"{facts['train']['variant']}, {facts['adapter']['method']}"),
        ("trained", f"{facts['trained_parameters']:,} parameters; the base has {facts['base_parameters']:,}"),
        ("pairs", f"{facts['data']['pairs']:,}"),
        ("steps", f"{facts['steps']:,}, best {facts['best_step']:,}, in {facts['seconds']:.0f} s"),
        ("peak memory", f"{facts['peak_bytes'] / 2**20:,.0f} MiB"),
    ]
    for name, scores in facts["calibration_scores"].items():
        rows.append((name, f"MRR {scores['mrr']:.4f}, R@1 {scores['r@1']:.4f}"))
    rows.append(("calibration error", f"{calibration['error']}"))
    rows.append(("fingerprint", facts["fingerprint"]))
    table = Table(title=f"Reranker {trained.folder}", show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
    return 0


def _recipe(options: argparse.Namespace, name: str) -> Recipe:
    from llamaindex_code_retrieval.training.adapters import AdapterConfig
    from llamaindex_code_retrieval.training.recipes import load_recipe

    recipe = load_recipe(name)
    method = getattr(options, "method", None)
    if method is not None and method != recipe.adapter.method:
        recipe = replace(recipe, adapter=AdapterConfig.preset(method))
    return recipe.with_settings(_settings(options))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was said of a recipe's settings on the command line."""
    settings: dict[str, Any] = {}
    for given in options.set:
        key, equals, value = given.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {given!r}")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = value  # a bare word
    for key in ("base", "epochs", "batch_size", "learning_rate", "seed"):
        if getattr(options, key) is not None:
            settings[key] = getattr(options, key)
    if options.language:
        settings["languages"] = tuple(options.language)
    return settings


def _print_training(trained: Trained, facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    share = facts["trained_parameters"] / facts["base_parameters"]
    rows = [
        ("base", f"{facts['base']['name']}, fingerprint {facts['base']['fingerprint']}"),
        ("method", facts["adapter"]["method"]),
        ("trained", f"{facts['trained_parameters']:,} of {facts['base_parameters']:,} parameters ({share:.2%})"),
        ("pairs", f"{facts['data']['pairs']:,}"),
        ("steps", f"{facts['steps']:,}, best {facts['best_step']:,}, in {facts['seconds']:.0f} s"),
        ("peak memory", f"{facts['peak_bytes'] / 2**20:,.0f} MiB"),
    ]
    for name, value in (trained.before or {}).items():
        after = "" if trained.after is None else f" -> {trained.after[name]:.4f}"
        rows.append((f"held-out {name}", f"{value:.4f}{after}"))
    rows.append(("fingerprint", facts["fingerprint"]))
    table = Table(title=f"Adapter {trained.folder}", show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _recipes(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.training.recipes import load_recipe, recipe_names

    recipes = {name: asdict(load_recipe(name)) for name in recipe_names()}
    if options.json:
        print(json.dumps(recipes, indent=2))
        return 0
    table = Table(title="Recipes; `code-retrieval recipes --json` shows all settings")
    for heading in ("name", "method", "languages", "epochs", "batch", "learning rate"):
        table.add_column(heading)
    for name, recipe in recipes.items():
        train = recipe["train"]
        languages = ", ".join(recipe["languages"]) or "all"
        row = (
            name,
            recipe["adapter"]["method"],
            languages,
            train["epochs"],
            train["batch_size"],
            train["learning_rate"],
        )
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)
    return 0


# --- eval ------------------------------------------------------------------------------------------------------------


def _eval(options: argparse.Namespace) -> int:
    if options.rerank_k is not None:
        return _eval_curves(options)
    from llamaindex_code_retrieval.eval.gate import compare, describe
    from llamaindex_code_retrieval.eval.report import html, junit, markdown
    from llamaindex_code_retrieval.eval.results import Report
    from llamaindex_code_retrieval.eval.suite import load_suite, run_suite
    from llamaindex_code_retrieval.files import write_atomically

    if (options.gate or options.update_baseline) and not options.baseline:
        raise ValueError("--gate and --update-baseline need to know the file: name it with --baseline")
    if options.gate and options.update_baseline:
        raise ValueError("--gate compares with the baseline and --update-baseline replaces it; give one of them")
    suite = load_suite(options.suite)
    baseline = Report.load(options.baseline) if options.baseline and not options.update_baseline else None
    out = Path(options.out)
    with _progress() as progress:
        outcome = run_suite(
            suite, out=out, cache_folder=_cache_folder(options), device=options.device, on_progress=progress
        )
    report = outcome.report
    out.mkdir(parents=True, exist_ok=True)
    report.save(out / "report.json")  # before the comparison, which may be refused
    compared = [] if baseline is None else compare(report, baseline, suite.rules)
    write_atomically(out / "report.html", html(report, compared, codes=outcome.codes, baseline=baseline))
    write_atomically(out / "report.md", markdown(report, compared))
    write_atomically(out / "junit.xml", junit(report, compared))
    if options.update_baseline:
        report.slim().save(options.baseline)
    regressions = [each for each in compared if each.regression]
    if options.json:
        facts = asdict(report)
        facts["comparisons"] = [asdict(each) | {"changed": len(each.changed)} for each in compared]
        print(json.dumps(facts, indent=1))
    else:
        print(markdown(report, compared))
    print(f"code-retrieval: report in {out / 'report.html'}", file=sys.stderr)
    for each in regressions:
        print(f"code-retrieval: regression: {describe(each)}", file=sys.stderr)
    return 1 if regressions and options.gate else 0


def _eval_curves(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.eval.cascade import parse_ks
    from llamaindex_code_retrieval.eval.report import curve_html, curve_markdown
    from llamaindex_code_retrieval.eval.suite import load_suite, run_curves
    from llamaindex_code_retrieval.files import write_atomically

    if options.baseline or options.gate or options.update_baseline:
        raise ValueError(
            "--rerank-k measures curves, which are compared with no baseline; leave it out, or --baseline, --gate and "
            "--update-baseline"
        )
    ks, out = parse_ks(options.rerank_k), Path(options.out)
    with _progress() as progress:
        report = run_curves(
            load_suite(options.suite),
            ks,
            out=out,
            cache_folder=_cache_folder(options),
            device=options.device,
            on_progress=progress,
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "curve.json", report.json())  # before the page, for which matplotlib may be missing
    write_atomically(out / "curve.md", curve_markdown(report))
    write_atomically(out / "curve.html", curve_html(report))
    print(report.json() if options.json else curve_markdown(report))
    print(f"code-retrieval: curves in {out / 'curve.html'}", file=sys.stderr)
    return 0


def _benchmark(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.eval.datasets import documented_functions, save_beir
    from llamaindex_code_retrieval.sources import read_sources

    out = Path(options.out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists already; name a new folder")
    benchmark = documented_functions(read_sources(map(Path, options.sources)), name=out.name)
    if options.queries:
        benchmark = benchmark.sample(options.queries)
    save_beir(benchmark, out, split=options.split)
    facts = {
        "folder": str(out),
        "codes": len(benchmark.corpus),
        "queries": len(benchmark.queries),
        "fingerprint": benchmark.fingerprint,
    }
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        print(f"{facts['codes']:,} codes and {facts['queries']:,} queries in {out}, fingerprint {facts['fingerprint']}")
    return 0


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
    default = ", ".join(f"{adapter} for {base}" for base, adapter in DEFAULT_ADAPTERS.items())
    Console().print(f"Adapters that come with the package: {', '.join(shipped_adapters())} (default: {default})")
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
