"""The command ``mine``."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval._io import check_writable
from llamaindex_code_retrieval.cli.checkout import GIT_URL, checkout
from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import json_option, positive, refuse_without_effect
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from llamaindex_code_retrieval.training.mining import MineReport

QUESTIONS = 100
"""Questions about one repository that a language model writes."""
SHOWN = 20
"""Lines of a cell of the table; the rest is counted."""
_MORE_KINDS: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "history": (("commit",), "messages of commits and the functions that these changed"),
        "sections": (("section",), "sections of documents and the definitions that these describe"),
        "names": (("symbol", "path"), "questions that name a definition or a file"),
        "tests": (("test",), "names of tests and the functions that these test"),
    }
)
"""The kinds of pairs beside doc comments, by their options."""


def add_mine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``mine``."""
    parser = commands.add_parser("mine", help="write training pairs of the code and the history of repositories")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="PATH|GIT-URL|PAIRS",
        help="folder with source code, repository to clone, or .jsonl or .jsonl.gz file of mined pairs to join",
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
    for option, (_, what) in _MORE_KINDS.items():
        parser.add_argument(f"--{option}", action="store_true", help=f"also make pairs of {what}")
    parser.add_argument(
        "--llm",
        metavar="LLM",
        help="also let a language model write questions about the mined code, and keep those that find it: "
        "ollama:MODEL[@URL], openai-like:MODEL@URL, llama-cpp:FILE.gguf or huggingface:FOLDER (default: none)",
    )
    parser.add_argument(
        "--questions",
        type=positive,
        metavar="N",
        help=f"largest number of questions that --llm writes about one repository (default: {QUESTIONS})",
    )
    _add_filters(parser)
    json_option(parser)
    parser.set_defaults(run=run_mine)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="REPOSITORY",
        help="name of a repository to leave out, such as one that a benchmark uses; may be repeated (default: none)",
    )
    parser.add_argument(
        "--exclude-repositories",
        metavar="FILE",
        help="file of repositories to leave out wherever they occur, with their copies: an owner/name a line "
        "(default: none)",
    )
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="SOURCE",
        help="evaluation set that training must not see, as in `train --pairs`, or folder with code: its queries "
        "and near-duplicates of its codes are left out; may be repeated (default: none)",
    )
    parser.add_argument(
        "--max-per-repository",
        type=positive,
        metavar="N",
        help="largest number of pairs of one repository and kind (default: all)",
    )
    parser.add_argument(
        "--permissive-only",
        action="store_true",
        help="leave out files that are not known to be under a permissive licence",
    )


def run_mine(options: argparse.Namespace) -> int:
    """Mine the sources and write the pairs to ``--out``."""
    from llamaindex_code_retrieval.training.mining import mine, read_held_out
    from llamaindex_code_retrieval.training.pairs import write_pairs

    out = _check_out(Path(options.out))
    llm = _load_llm(options)
    held_out = read_held_out(Path(options.exclude_repositories)) if options.exclude_repositories else []
    _check_sources(options.sources)
    with tempfile.TemporaryDirectory() as clones, progress_bars() as progress:
        roots = [
            checkout(source, Path(clones, str(place)), history=options.history)
            if GIT_URL.fullmatch(source)
            else Path(source).expanduser()
            for place, source in enumerate(options.sources)
        ]
        report = mine(
            roots,
            kinds=_kinds(options),
            languages=options.language,
            permissive_only=options.permissive_only,
            exclude=options.exclude,
            held_out=held_out,
            benchmarks=options.benchmark,
            max_per_repository=options.max_per_repository,
            on_progress=progress,
        )
    if not report.pairs:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in {**report.dropped, **report.skipped}.items())
        raise ValueError(
            f"no pair in {', '.join(options.sources)}: {report.files:,} files read, {report.functions:,} functions "
            f"with a doc comment ({reasons or 'no source file'}); name a folder with documented functions"
        )
    if llm is not None:
        report = _with_questions(report, llm, options)
    write_pairs(out, report.pairs)
    _print_report(report, out, as_json=options.json)
    return 0


def _check_sources(sources: Sequence[str]) -> None:
    """Check files and folders before anything is cloned."""
    from llamaindex_code_retrieval.training.pairs import check_file
    from llamaindex_code_retrieval.training.repositories.folders import check_folders

    local = [source for source in sources if not GIT_URL.fullmatch(source)]
    for source in local:
        if source.endswith((".jsonl", ".jsonl.gz")):
            check_file(Path(source).expanduser())
    check_folders([source for source in local if not source.endswith((".jsonl", ".jsonl.gz"))])


def _kinds(options: argparse.Namespace) -> list[str]:
    more = [kinds for option, (kinds, _) in _MORE_KINDS.items() if getattr(options, option)]
    return ["doc", *(kind for kinds in more for kind in kinds)]


def _load_llm(options: argparse.Namespace) -> LLM | None:
    """Return the language model of ``--llm``, which must answer before anything is mined."""
    if options.llm is None:
        refuse_without_effect(options, ["questions"], "without --llm")
        return None
    from llamaindex_code_retrieval.chat.llms import EXTRACTIVE, LLMSpec, check_server, load_llm

    spec = LLMSpec.parse(options.llm)
    if spec.kind == EXTRACTIVE:
        raise ValueError(f"--llm {EXTRACTIVE} writes no questions; name a language model, or leave --llm out")
    check_server(spec)
    return load_llm(options.llm, max_tokens=64)


def _with_questions(report: MineReport, llm: LLM, options: argparse.Namespace) -> MineReport:
    from llamaindex_code_retrieval.chat.llms import LLMSpec, describe_failure
    from llamaindex_code_retrieval.training.mining.written import written_pairs

    dropped = Counter(report.dropped)
    try:
        with progress_bars() as progress:
            most = options.questions or QUESTIONS
            written = written_pairs(report.pairs, llm, most=most, dropped=dropped, on_progress=progress)
    except Exception as error:  # each kind of model has errors of its own
        raise OSError(describe_failure(error, LLMSpec.parse(options.llm))) from error
    return replace(report, pairs=[*report.pairs, *written], dropped=dict(dropped.most_common()))


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
        for name in ("kind", "language", "repository", "license")
    }
    counts |= {"dropped": report.dropped, "skipped": report.skipped}
    if as_json:
        totals: dict[str, Any] = {
            "pairs": len(report.pairs),
            "files": report.files,
            "functions": report.functions,
            "commits": report.commits,
        }
        print_json({**totals, **counts, "out": str(out)})
        return
    rows = [("files", f"{report.files:,}"), ("documented functions", f"{report.functions:,}")]
    rows += [("commits", f"{report.commits:,}")] if report.commits else []
    for name, by_value in counts.items():
        lines = [f"{count:,} {value}" for value, count in by_value.items()]
        rest = [f"and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
        if lines:
            rows.append((name, "\n".join(lines[:SHOWN] + rest)))
    print_table(f"{len(report.pairs):,} pairs in {out}", rows)
